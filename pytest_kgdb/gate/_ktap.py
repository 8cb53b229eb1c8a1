"""A gate's outcome as KTAP version 1 (Documentation/dev-tools/ktap.rst)."""

from __future__ import annotations

from ._run import Outcome
from ._texts import plain, shortened
from ._verdicts import Result, Verdict, is_good

__all__ = ["as_ktap"]


def as_ktap(outcome: Outcome) -> str:
    """Return a line of result for each test, with its rates and its reason in lines before it.

    A kernel that cannot be built is one result, which is not ok.
    """
    lines = ["KTAP version 1"]
    if not outcome.results:
        lines += ["1..1", *(f"# note: {shortened(note)}" for note in outcome.notes)]
        return "\n".join([*lines, "not ok 1 build # ERROR", ""])
    lines.append(f"1..{len(outcome.results)}")
    lines += [f"# note: {shortened(note)}" for note in outcome.notes]
    for number, result in enumerate(outcome.results, 1):
        lines += _result(outcome, number, result)
    return "\n".join([*lines, ""])


def _result(outcome: Outcome, number: int, result: Result) -> list[str]:
    # A description is any text without "#" and line breaks.
    name = plain(result.test).replace("#", "_")
    reason = shortened(result.reason)
    # With a word of its own before it, no text of a test is "Subtest:" or a result.
    lines = [f"# verdict: {result.verdict.value}"]
    for side, runs in zip(outcome.change.sides, (result.base, result.patched), strict=True):
        passed = sum(run.status == "PASS" for run in runs)
        lines.append(f"# {side.name}: {passed} of {len(runs)} runs passed")
    if reason:
        lines.append(f"# reason: {reason}")
    if result.verdict is Verdict.NOT_TESTED:
        return [*lines, f"ok {number} {name} # SKIP {reason}".rstrip()]
    if is_good(result.verdict, outcome.expected):
        return [*lines, f"ok {number} {name}"]
    directive = f" # ERROR {reason}" if result.verdict is Verdict.CANNOT_TELL else ""
    return [*lines, f"not ok {number} {name}{directive}".rstrip()]
