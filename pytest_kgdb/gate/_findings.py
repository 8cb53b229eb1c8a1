"""What a gate has against a change: one list for all reports that point to its lines."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from typing import Final, Literal

from ..change import ChangedLines
from ._run import Outcome
from ._series import Series, Tested
from ._texts import plain, shortened
from ._verdicts import PROVEN, Result, Verdict

__all__ = ["RULES", "Finding", "findings"]

Level = Literal["error", "warning"]

RULES: Final[dict[str, tuple[Level, str]]] = {
    "broken": ("error", "A test passes without the change and fails with it."),
    "fails-both": ("error", "A test fails with the change, as it does without it."),
    "not-built": ("error", "The kernel with the change, or without it, cannot be built."),
    "not-proven": ("warning", "No test fails without the change and passes with it."),
    "flaky": ("warning", "A test does not come to the same each time on one kernel."),
    "cannot-tell": ("warning", "A test is at fault, or could not be run."),
    "unexpected": ("warning", "A test has a verdict that --expect does not name."),
}
"""The kinds of findings: how bad each is, and what it means."""

_RULE_OF: Final = {
    Verdict.BROKEN: "broken",
    Verdict.FAILS_BOTH: "fails-both",
    Verdict.FLAKY: "flaky",
    Verdict.CANNOT_TELL: "cannot-tell",
}


@dataclass(frozen=True)
class Finding:
    """One thing that speaks against a change."""

    rule: str
    """A key of :data:`RULES`."""
    test: str
    """The test that shows it; "" where it is of all of them."""
    message: str
    lines: tuple[ChangedLines, ...]
    """The lines of the change; where none can be named, the test's file. At least one."""

    @property
    def level(self) -> Level:
        """How bad it is."""
        return RULES[self.rule][0]

    @property
    def fingerprint(self) -> str:
        """The same for the same finding of the next gate, whatever its message is."""
        parts = (self.rule, self.test, *sorted({lines.file for lines in self.lines}))
        return hashlib.sha256("\0".join(parts).encode(errors="surrogateescape")).hexdigest()


def findings(report: Outcome | Series) -> list[Finding]:
    """Return what a gate has against a change, or against a series: nothing if it is proven."""
    if isinstance(report, Outcome):
        listed = _bad(Tested("", report, frozenset()))
        if not listed and report.status != PROVEN:
            listed.append(_not_proven([report]))
        return listed
    listed = []
    for step in report.steps:
        its = (replace(one, message=f"{plain(step.title)}: {one.message}") for one in _bad(step))
        listed += its
    if not listed and report.status != PROVEN:
        listed.append(_not_proven([step.outcome for step in report.steps]))
    return listed


def _bad(step: Tested) -> list[Finding]:
    outcome = step.outcome
    if not outcome.results and outcome.notes:
        note = shortened(outcome.notes[-1])
        return [Finding("not-built", "", note, _lines(outcome, ""))]
    return [
        Finding(
            _RULE_OF.get(result.verdict, "unexpected"),
            plain(result.test),
            _message(result),
            _lines(outcome, result.test),
        )
        for result in outcome.results
        if not step.is_good(result)
    ]


def _not_proven(outcomes: list[Outcome]) -> Finding:
    tests = list(dict.fromkeys(one.test for outcome in outcomes for one in outcome.results))
    message = f"no test proves this change: {len(tests)} do not fail without it"
    return Finding("not-proven", "", message, _lines(outcomes[-1], *tests))


def _message(result: Result) -> str:
    reason = f": {result.reason}" if result.reason else ""
    return shortened(f"{result.test}: {result.verdict.value}{reason}")


def _lines(outcome: Outcome, *tests: str) -> tuple[ChangedLines, ...]:
    if outcome.change.lines:
        return outcome.change.lines
    files = outcome.change.files or [test.partition("::")[0] for test in tests if test]
    return tuple(ChangedLines(plain(file), 1, 1) for file in files) or (
        ChangedLines("Makefile", 1, 1),  # that of the kernel: a report without a place is refused
    )
