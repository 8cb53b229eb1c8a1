"""What the runs of a test on both sides say of a change."""

from __future__ import annotations

import enum
import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

__all__ = [
    "INCONCLUSIVE",
    "NOT_PROVEN",
    "POLICIES",
    "PROVEN",
    "Result",
    "Run",
    "Verdict",
    "exit_status",
    "is_good",
    "judge",
    "reason_of",
    "repeats_for",
    "skipped_at_times",
    "summary",
    "too_few",
]

PROVEN: Final = 0
NOT_PROVEN: Final = 1
INCONCLUSIVE: Final = 6

# What differs from one run of the same failure to the next: addresses, times, pids.
_NUMBER: Final = re.compile(
    # The kernel prints pointers without 0x (Documentation/core-api/printk-formats.rst).
    r"0x[0-9a-f]+|\b(?=[a-f]*\d)[0-9a-f]{8,}\b|\d+(?:\.\d+)?",
    re.IGNORECASE,
)

# A kernel that is late may be so because the host is busy.
_NO_BOOT: Final = ("panicked", "hung")

# A test that fails more rarely than that is seen failing too rarely to be called flaky.
_RARE: Final = 0.1


class Verdict(enum.Enum):
    """What a test says of a change; the value is how it is shown."""

    PROVES = "proves the fix"
    """It fails before, and passes after."""
    PASSES_BOTH = "passes both"
    """It does not test the change: nothing is proven."""
    FAILS_BOTH = "fails both"
    BROKEN = "broken by the change"
    """It passes before, and fails after."""
    FLAKY = "flaky"
    """It does not come to the same each time."""
    NOT_TESTED = "not tested"
    """Nothing of the change is compiled; or the test was skipped, or has no kernel."""
    CANNOT_TELL = "cannot tell"
    """The test is at fault, or could not be run: a build, a boot, the machine failed."""


_GOOD: Final = (Verdict.PROVES, Verdict.PASSES_BOTH, Verdict.NOT_TESTED)

POLICIES: Final = {
    "proves": Verdict.PROVES,
    "passes": Verdict.PASSES_BOTH,
    "fails": Verdict.FAILS_BOTH,
    "broken": Verdict.BROKEN,
    "flaky": Verdict.FLAKY,
    "not-tested": Verdict.NOT_TESTED,
    "cannot-tell": Verdict.CANNOT_TELL,
}
"""The names of verdicts on the command line."""


@dataclass(frozen=True)
class Run:
    """What one run of a test came to."""

    status: str
    """PASS, FAIL, ERROR, MISS or SKIP."""
    message: str = ""
    seconds: float = 0.0
    kernel: bool = True
    """Whether the test uses a kernel."""
    observed: Mapping[str, int] = field(default_factory=dict, hash=False)
    """What its spies and the kernel's log saw, and how often, where that was asked for."""
    boot: str = ""
    """Of a kernel that did not boot: `panicked`, `late`, or `hung` if it is late every time."""
    repeated: bool = True
    """Whether pytest runs the test as often as it is asked to; see :func:`too_few`."""
    subtests: Mapping[str, str] = field(default_factory=dict, hash=False)
    """The status of each of its subtests, by name."""
    shared: bool = False
    """Whether its machine is as other tests left it."""
    reason: str = ""
    """The message without what differs from run to run, if it has that: where the kernel hung."""


@dataclass(frozen=True)
class Result:
    """A test, its runs on both sides, and the verdict."""

    test: str
    verdict: Verdict
    reason: str
    """Why the verdict is none for or against the change; a rate, a message."""
    base: tuple[Run, ...]
    patched: tuple[Run, ...]
    differences: tuple[str, ...] = ()
    """Of a test that passes on both sides: what its spies saw that differs."""


def repeats_for(confidence: float) -> int:
    """Return how often a test is run on each kernel.

    A test that fails in one run of ten is then seen both passing and failing on one kernel with
    that confidence; one that does so more often, with more. Of one kernel alone: a race that the
    change fixes makes the test vary on the base only.

    :raises ValueError: it is not between 0 and 1.
    """
    if not 0 < confidence < 1:
        raise ValueError(f"{confidence:g} is no confidence: it is between 0 and 1, as 0.99")
    return max(1, math.ceil(math.log(1 - confidence) / math.log(1 - _RARE)))


def judge(
    test: str, base: Sequence[Run], patched: Sequence[Run], *, unchanged: str = "", asked: int = 1
) -> Result:
    """Return the verdict on the runs of one test.

    :param unchanged: why both kernels are the same, where they are.
    :param asked: how many runs of a kernel test there are to be on each kernel.
    """
    verdict, reason = _judge(base, patched, unchanged, asked)
    return Result(test, verdict, reason, tuple(base), tuple(patched))


def _judge(
    base: Sequence[Run], patched: Sequence[Run], unchanged: str, asked: int
) -> tuple[Verdict, str]:
    if (
        not unchanged
        and patched
        and any(run.status in ("PASS", "FAIL") for run in base)
        and all(run.status == "MISS" and run.boot in _NO_BOOT for run in patched)
    ):
        alone = " (nor when it is tried again, alone)" if patched[0].boot == "hung" else ""
        return Verdict.BROKEN, f"the patched kernel does not boot{alone}: {patched[0].message}"
    failed = [_failures(side) for side in (base, patched)]
    rates = (
        f"it failed in {failed[0]} of {len(base)} runs on the base, in {failed[1]} of "
        f"{len(patched)} on the patched kernel"
    )
    # Before all others: it stays true whatever further runs come to, so that they can be left out.
    if _varies(base) or _varies(patched):
        return Verdict.FLAKY, rates
    for side, runs in (("base", base), ("patched kernel", patched)):
        if not runs:
            return Verdict.CANNOT_TELL, f"it was not run on the {side}"
        for run in runs:
            if run.status in ("MISS", "ERROR"):
                return Verdict.CANNOT_TELL, f"on the {side}: {run.message or run.status}"
    runs = (*base, *patched)
    for side, its in (("base", base), ("patched kernel", patched)):
        if any(run.kernel for run in runs) and (missing := too_few(its, asked)):
            return Verdict.CANNOT_TELL, f"{missing} on the {side}"
    if all(run.status == "SKIP" for run in runs):
        return Verdict.NOT_TESTED, f"skipped: {runs[0].message}"
    if any(run.status == "SKIP" for run in runs):
        return Verdict.CANNOT_TELL, "it was skipped in some of its runs"
    if name := skipped_at_times(runs):
        return Verdict.CANNOT_TELL, f"its subtest {name} was skipped in some of its runs"
    if not all(run.kernel for run in runs):
        if bool(failed[0]) != bool(failed[1]):
            failure = next(run.message for run in runs if run.status == "FAIL")
            side = "base" if failed[0] else "patched kernel"
            return Verdict.CANNOT_TELL, f"it uses no kernel, and fails on the {side}: {failure}"
        return Verdict.NOT_TESTED, "it uses no kernel"
    if unchanged and bool(failed[0]) != bool(failed[1]):
        return Verdict.FLAKY, rates
    if unchanged:
        return Verdict.NOT_TESTED, unchanged
    if failed[0] and (reasons := _reasons(base)):
        return Verdict.CANNOT_TELL, f"on the base it fails for different reasons: {reasons}"
    if failed[0] and failed[1]:
        return Verdict.FAILS_BOTH, base[0].message
    if failed[0]:
        return Verdict.PROVES, base[0].message
    if failed[1]:
        return Verdict.BROKEN, patched[0].message
    return Verdict.PASSES_BOTH, ""


def too_few(runs: Sequence[Run], asked: int) -> str:
    """Return how many of the runs that were asked for took place, and why; "" if all did."""
    if len(runs) >= asked:
        return ""
    why = (
        "what ends pytest early, as -x and --maxfail do, left the others out"
        if all(run.repeated for run in runs)
        else "only functions that name kgdb or kgdb_session as an argument are repeated"
    )
    return f"it has {len(runs)} of {asked} runs ({why})"


def skipped_at_times(runs: Iterable[Run]) -> str:
    """Return a subtest that was skipped in some of a test's runs, and not in others; "" if none.

    One that has failed on one kernel, and does not apply to the other, proves nothing.
    """
    statuses: dict[str, set[str]] = {}
    for run in runs:
        for name, status in run.subtests.items():
            statuses.setdefault(name, set()).add(status)
    return next((name for name, its in statuses.items() if "SKIP" in its and len(its) > 1), "")


def _varies(runs: Iterable[Run]) -> bool:
    return {run.status for run in runs} >= {"PASS", "FAIL"}


def _failures(runs: Iterable[Run]) -> int:
    return sum(run.status == "FAIL" for run in runs)


def reason_of(run: Run) -> str:
    """Return why a run failed, the same for the same reason from run to run."""
    return _NUMBER.sub("N", run.reason or run.message)


def _reasons(runs: Iterable[Run]) -> str:
    """Return the reasons for which a test fails, if there are several."""
    reasons = {reason_of(run): run.message for run in runs}
    return "; ".join(reasons.values()) if len(reasons) > 1 else ""


def is_good(verdict: Verdict, expected: Sequence[Verdict] | None) -> bool:
    """Whether a test may have this verdict.

    :param expected: the verdicts that are good ones; by default a test proves the fix, passes on
        both sides, or tests nothing.
    """
    return verdict in (_GOOD if expected is None else expected)


def exit_status(results: Sequence[Result], expected: Sequence[Verdict] | None) -> int:
    """Return the command's exit status: 0 proven, 1 not proven, 6 inconclusive.

    :param expected: the verdicts that are good ones; by default at least one test must prove the
        fix, too.
    """
    verdicts = Counter(result.verdict for result in results)
    bad = [verdict for verdict in verdicts if not is_good(verdict, expected)]
    if any(verdict in (Verdict.BROKEN, Verdict.FAILS_BOTH) for verdict in bad):
        return NOT_PROVEN
    if any(verdict in (Verdict.FLAKY, Verdict.CANNOT_TELL) for verdict in bad):
        return INCONCLUSIVE
    if bad or (expected is None and not verdicts[Verdict.PROVES]):
        return NOT_PROVEN
    return PROVEN


def summary(status: int) -> str:
    """Return an exit status in words."""
    return {PROVEN: "proven", INCONCLUSIVE: "inconclusive"}.get(status, "not proven")
