"""A gate's outcome as KTAP version 1 (Documentation/dev-tools/ktap.rst)."""

from __future__ import annotations

from ._run import Outcome
from ._series import Series, Tested
from ._texts import plain, shortened
from ._verdicts import Result, Verdict

__all__ = ["as_ktap"]


def as_ktap(report: Outcome | Series) -> str:
    """Return a line of result for each test, with its rates and its reason in lines before it.

    Of a series, each step is a result with those of its tests below it. A kernel that cannot be
    built is one result, which is not ok.
    """
    if isinstance(report, Outcome):
        return "\n".join(["KTAP version 1", *_body(Tested("", report, frozenset())), ""])
    lines = ["KTAP version 1", f"1..{len(report.steps)}"]
    for number, step in enumerate(report.steps, 1):
        title = _name(step.title)
        lines += [f"  {line}" for line in ("KTAP version 1", f"# Subtest: {title}", *_body(step))]
        ok = step.outcome.results and all(step.is_good(one) for one in step.outcome.results)
        lines.append(f"{'ok' if ok else 'not ok'} {number} {title}")
    return "\n".join([*lines, ""])


def _body(step: Tested) -> list[str]:
    outcome = step.outcome
    notes = [f"# note: {shortened(note)}" for note in outcome.notes]
    if not outcome.results:
        return ["1..1", *notes, "not ok 1 build # ERROR"]
    lines = [f"1..{len(outcome.results)}", *notes]
    for number, result in enumerate(outcome.results, 1):
        lines += _result(step, number, result)
    return lines


def _name(text: str) -> str:
    """Return a description: any text without "#" and line breaks."""
    return plain(text).replace("#", "_")


def _result(step: Tested, number: int, result: Result) -> list[str]:
    name = _name(result.test)
    reason = shortened(result.reason)
    # With a word of its own before it, no text of a test is "Subtest:" or a result.
    lines = [f"# verdict: {result.verdict.value}"]
    for side, runs in zip(step.outcome.change.sides, (result.base, result.patched), strict=True):
        passed = sum(run.status == "PASS" for run in runs)
        lines.append(f"# {side.name}: {passed} of {len(runs)} runs passed")
    if reason:
        lines.append(f"# reason: {reason}")
    if result.verdict is Verdict.NOT_TESTED:
        return [*lines, f"ok {number} {name} # SKIP {reason}".rstrip()]
    if step.is_good(result):
        return [*lines, f"ok {number} {name}"]
    directive = f" # ERROR {reason}" if result.verdict is Verdict.CANNOT_TELL else ""
    return [*lines, f"not ok {number} {name}{directive}".rstrip()]
