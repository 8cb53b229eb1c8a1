"""A gate's findings as SARIF 2.1.0 (OASIS), for code scanning."""

from __future__ import annotations

from typing import Any, Final
from urllib.parse import quote

from .. import __version__
from ..change import ChangedLines
from ._findings import RULES, Finding, findings
from ._run import Outcome
from ._series import Series
from ._texts import plain
from ._verdicts import summary

__all__ = ["as_sarif"]

_SCHEMA: Final = "https://json.schemastore.org/sarif-2.1.0.json"
_MOST_RELATED: Final = 100  # GitHub reads no more locations of one result


def as_sarif(report: Outcome | Series) -> dict[str, Any]:
    """Return one run with a result for each finding, on the first lines of the change.

    Files are relative to the kernel's source tree, `%SRCROOT%`.
    """
    rules = list(RULES)
    return {
        "$schema": _SCHEMA,
        "version": "2.1.0",
        "runs": [
            {
                "tool": {
                    "driver": {
                        "name": "pytest-kgdb gate",
                        "version": __version__,
                        "rules": [
                            {
                                "id": rule,
                                "shortDescription": {"text": text},
                                "defaultConfiguration": {"level": level},
                            }
                            for rule, (level, text) in RULES.items()
                        ],
                    }
                },
                "columnKind": "unicodeCodePoints",
                "results": [_result(rules, finding) for finding in findings(report)],
                "invocations": [
                    {
                        "executionSuccessful": _ran(report),
                        "exitCode": report.status,
                        "exitCodeDescription": summary(report.status),
                    }
                ],
            }
        ],
    }


def _ran(report: Outcome | Series) -> bool:
    outcomes = [report] if isinstance(report, Outcome) else [one.outcome for one in report.steps]
    return all(outcome.results for outcome in outcomes)


def _result(rules: list[str], finding: Finding) -> dict[str, Any]:
    first, *others = finding.lines
    result: dict[str, Any] = {
        "ruleId": finding.rule,
        "ruleIndex": rules.index(finding.rule),
        "level": finding.level,
        "message": {"text": finding.message},
        "locations": [_location(first)],
        "partialFingerprints": {"pytestKgdbGate/v1": finding.fingerprint},
    }
    if others:
        result["relatedLocations"] = [
            {"id": number, **_location(lines)}
            for number, lines in enumerate(others[:_MOST_RELATED], 1)
        ]
    return result


def _location(lines: ChangedLines) -> dict[str, Any]:
    uri = quote(plain(lines.file).encode(errors="surrogateescape"), safe="/+,=@~!$&'()*;")
    return {
        "physicalLocation": {
            "artifactLocation": {"uri": uri, "uriBaseId": "%SRCROOT%"},
            "region": {"startLine": lines.first, "endLine": lines.last},
        }
    }
