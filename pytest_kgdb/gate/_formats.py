"""A gate's outcome for a terminal, for a program, and for a pull request."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from ..escape import clean
from ..kernel import patch_files
from ._run import Outcome
from ._series import Series, Tested
from ._texts import code_span, plain, shortened
from ._verdicts import Result, Run, Verdict, summary

__all__ = ["as_json", "as_markdown", "as_table"]

SCHEMA: Final = "pytest-kgdb gate 1"
SERIES_SCHEMA: Final = "pytest-kgdb gate series 1"

_KEYS: Final = {
    "FAIL_TO_PASS": Verdict.PROVES,
    "PASS_TO_PASS": Verdict.PASSES_BOTH,
    "PASS_TO_FAIL": Verdict.BROKEN,
    "FAIL_TO_FAIL": Verdict.FAILS_BOTH,
}


def as_table(report: Outcome | Series) -> list[str]:
    """Return the lines of a table: each test, its verdict, its rates, and why.

    Of a series: each step, and the verdicts of its tests.
    """
    if isinstance(report, Series):
        return _series_table(report)
    outcome = report
    head = ("test", "verdict", "base", "patched")
    rows = [
        (plain(result.test), result.verdict.value, _rate(result.base), _rate(result.patched))
        for result in outcome.results
    ]
    reasons = [
        [
            *map(shortened, clean(result.reason).splitlines()),
            *(f"differs: {one}" for one in _differences(result)),
        ]
        for result in outcome.results
    ]
    lines = _aligned(head, rows, reasons) if rows else []
    lines += [f"note: {clean(note)}" for note in outcome.notes]
    lines.append(f"{summary(outcome.status)}: {_counted(outcome)}")
    lines += trailers(outcome)
    return [line.rstrip() for line in lines]


def _series_table(series: Series) -> list[str]:
    rows, below = [], []
    for step in series.steps:
        rows.append((plain(step.title), _shown(step)))
        lines = [line for note in step.outcome.notes for line in clean(note).splitlines()]
        below.append(lines + [shortened(reason) for reason in _reasons(step)])
    count = "1 step" if len(rows) == 1 else f"{len(rows)} steps"
    return [*_aligned(("commit", "verdict"), rows, below), f"{summary(series.status)}: {count}"]


def _shown(step: Tested) -> str:
    """Return what a step came to, in a cell."""
    return _counted(step.outcome) if step.outcome.results else Verdict.CANNOT_TELL.value


def _aligned(
    head: Sequence[str], rows: Sequence[Sequence[str]], below: Sequence[Sequence[str]]
) -> list[str]:
    """Return the lines of a table; below each row, lines that are not in columns."""
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    lines = []
    for row, texts in zip((head, *rows), ((), *below), strict=True):
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        lines.append("  ".join(cells).rstrip())
        lines += [f"    {text}" for text in texts]
    return lines


def trailers(outcome: Outcome) -> list[str]:
    """Return what a commit message may say: only of what was proven."""
    if outcome.status != 0 or not any(
        result.verdict is Verdict.PROVES for result in outcome.results
    ):
        return []
    return ["suggested trailer: Tested-by: YOUR NAME <YOU@EXAMPLE.ORG> # pytest-kgdb gate"]


def as_json(report: Outcome | Series) -> dict[str, Any]:
    """Return the outcome as JSON values; docs/gate.md describes them."""
    if isinstance(report, Series):
        return {
            "schema": SERIES_SCHEMA,
            "verdict": summary(report.status),
            "status": report.status,
            "commits": [{"title": step.title, **as_json(step.outcome)} for step in report.steps],
        }
    outcome = report
    return {
        "schema": SCHEMA,
        "verdict": summary(outcome.status),
        "status": outcome.status,
        "base": _side(outcome, 0),
        "patched": _side(outcome, 1),
        "git_commit_hash": outcome.change.commit,
        "patchset_hash": patchset_hash(outcome.change.patched.settings.patch),
        "files": list(outcome.change.files),
        "lines": [
            {"file": lines.file, "first": lines.first, "last": lines.last}
            for lines in outcome.change.lines
        ],
        "notes": list(outcome.notes),
        "tests": [
            {
                "test": result.test,
                "verdict": result.verdict.value,
                "reason": result.reason,
                "differences": list(result.differences),
                "base": _runs(result.base),
                "patched": _runs(result.patched),
            }
            for result in outcome.results
        ],
        **{
            key: [result.test for result in outcome.results if result.verdict is verdict]
            for key, verdict in _KEYS.items()
        },
    }


def as_markdown(report: Outcome | Series) -> str:
    """Return the outcome for a pull request, or for GitHub's step summary."""
    if isinstance(report, Series):
        lines = [f"### pytest-kgdb gate: {summary(report.status)}", ""]
        lines += ["| commit | verdict | |", "|---|---|---|"]
        for step in report.steps:
            why = [*step.outcome.notes, *_reasons(step)]
            cells = (step.title, _shown(step), "; ".join(why))
            row = " | ".join(code_span(cell, table=True) for cell in cells)
            lines.append(f"| {row} |")
        return "\n".join(lines) + "\n"
    outcome = report
    base, patched = outcome.change.sides
    lines = [
        f"### pytest-kgdb gate: {summary(outcome.status)}",
        "",
        f"Base: {code_span(base.label)}. Patched: {code_span(patched.label)}.",
        "",
    ]
    if outcome.results:
        lines += ["| test | verdict | base | patched | |", "|---|---|---|---|---|"]
        lines += [_row(result) for result in outcome.results]
        lines.append("")
    lines += [f"- {code_span(note)}" for note in outcome.notes]
    return "\n".join(lines).rstrip() + "\n"


def _reasons(step: Tested) -> list[str]:
    return [
        f"{result.test}: {result.verdict.value}{f': {result.reason}' if result.reason else ''}"
        for result in step.outcome.results
        if result.verdict is not Verdict.PASSES_BOTH
    ]


def _row(result: Result) -> str:
    cells = (
        code_span(result.test, table=True),
        f"**{result.verdict.value}**",
        _rate(result.base),
        _rate(result.patched),
        code_span("; ".join([result.reason, *_differences(result)]).removeprefix("; "), table=True),
    )
    return f"| {' | '.join(cells)} |"


def _differences(result: Result) -> list[str]:
    return [plain(one) for one in result.differences]


def _rate(runs: tuple[Run, ...]) -> str:
    """Return how many of the runs passed: `10/10 passed`."""
    if not runs:
        return "-"
    if all(run.status == "SKIP" for run in runs):
        return "skipped"
    return f"{sum(run.status == 'PASS' for run in runs)}/{len(runs)} passed"


def _counted(outcome: Outcome) -> str:
    verdicts = [result.verdict for result in outcome.results]
    parts = [
        f"{verdicts.count(verdict)} {verdict.value}" for verdict in Verdict if verdict in verdicts
    ]
    return ", ".join(parts) or "no test was run"


def _side(outcome: Outcome, index: int) -> dict[str, Any]:
    side = outcome.change.sides[index]
    return {
        "kernel": side.label,
        "spec": side.spec,
        "patches": [str(path) for path in side.settings.patch],
        "release": outcome.releases[index],
        "build_id": outcome.build_ids[index],
    }


def _runs(runs: tuple[Run, ...]) -> dict[str, Any]:
    return {
        "runs": len(runs),
        "passed": sum(run.status == "PASS" for run in runs),
        "failed": sum(run.status == "FAIL" for run in runs),
        "statuses": [run.status for run in runs],
        "messages": sorted({run.message for run in runs if run.message}),
        "seconds": round(sum(run.seconds for run in runs), 4),
    }


def patchset_hash(patches: Sequence[Path]) -> str:
    """Return KCIDB's hash of a set of patches; "" if there are none.

    `sha256sum *.patch | cut -c-64 | sha256sum | cut -c-64` (kcidb-io, schema v5, checkouts[]).
    """
    files = [file for path in patches for file in patch_files(path)]
    digests = [hashlib.sha256(file.read_bytes()).hexdigest() for file in files]
    if not digests:
        return ""
    return hashlib.sha256("".join(f"{digest}\n" for digest in digests).encode()).hexdigest()
