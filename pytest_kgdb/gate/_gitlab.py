"""A gate's findings for GitLab: a code quality report (docs.gitlab.com, CI/CD, Code Quality)."""

from __future__ import annotations

from typing import Any, Final

from ._findings import findings
from ._run import Outcome
from ._series import Series
from ._texts import plain

__all__ = ["as_gitlab"]

_SEVERITY: Final = {"error": "major", "warning": "minor"}


def as_gitlab(report: Outcome | Series) -> list[dict[str, Any]]:
    """Return an entry for each finding, on the first lines of the change."""
    return [
        {
            "description": finding.message,
            "check_name": f"pytest-kgdb gate: {finding.rule}",
            "fingerprint": finding.fingerprint,
            "severity": _SEVERITY[finding.level],
            "location": {
                "path": plain(finding.lines[0].file),
                "lines": {"begin": finding.lines[0].first, "end": finding.lines[0].last},
            },
        }
        for finding in findings(report)
    ]
