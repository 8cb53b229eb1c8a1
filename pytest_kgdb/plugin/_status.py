"""What a test came to, in KCIDB's words."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any, Final

import pytest

from ..errors import (
    BootError,
    BuildError,
    CacheError,
    ConfigError,
    DebuggerDied,
    KernelPanic,
    KgdbError,
    MachineDied,
    SplatError,
    StaleError,
)

__all__ = [
    "ERROR",
    "FAIL",
    "MISS",
    "PASS",
    "SKIP",
    "decisive",
    "is_subtest",
    "missed_step",
    "status_of",
    "status_of_phase",
    "statuses_of_subtests",
    "tested_nothing",
    "without_skipped",
]

# https://github.com/kernelci/kcidb-io, schema v5, tests[].status.
PASS: Final = "PASS"  # noqa: S105 # no word to enter
"""The kernel did what the test expects."""
FAIL: Final = "FAIL"
"""It did not."""
ERROR: Final = "ERROR"
"""The test itself is at fault."""
MISS: Final = "MISS"
"""The test could not be run: build, boot, cache, machine or debugger failed."""
SKIP: Final = "SKIP"
"""The test was not to be run."""

_OF_OUTCOME: Final = {"passed": PASS, "failed": FAIL, "skipped": SKIP}

_ORDER: Final = (MISS, ERROR, FAIL, SKIP, PASS)

_STEPS: Final[dict[type[KgdbError], str]] = {BuildError: "build", BootError: "boot"}
_INFRASTRUCTURE: Final = (BootError, BuildError, CacheError, DebuggerDied, MachineDied)


def status_of(error: BaseException, *, ours: bool) -> str:
    """Return the status of a test of which a phase ended with this.

    :param ours: whether no code of the user's led to it: a fixture of ours failed, or an `assert`
        in our code did not hold.
    """
    if isinstance(error, pytest.skip.Exception):
        return SKIP
    if isinstance(error, pytest.xfail.Exception):  # which is a pytest.fail.Exception
        # _pytest.skipping raises it for xfail(run=False).
        return SKIP if str(error).startswith("[NOTRUN]") else FAIL
    if isinstance(error, _INFRASTRUCTURE):
        return MISS
    if isinstance(error, KgdbError):
        by_test = error.by_test and not ours
        if error.unmade or by_test or isinstance(error, (ConfigError, StaleError)):
            return ERROR
        return MISS if ours and not isinstance(error, (KernelPanic, SplatError)) else FAIL
    if isinstance(error, pytest.fail.Exception):
        if not ours:
            return FAIL
        # _pytest.unittest raises it for an expected failure that is none. pytest-timeout raises it
        # wherever it finds us.
        return PASS if str(error).startswith("Unexpected success") else MISS
    if isinstance(error, AssertionError):
        return MISS if ours else FAIL
    return ERROR


def missed_step(error: BaseException) -> str | None:
    """Return what failed on the way to a test: `build` or `boot`; None if it is something else."""
    return next((step for kind, step in _STEPS.items() if isinstance(error, kind)), None)


def tested_nothing(error: BaseException, *, ours: bool) -> bool:
    """Whether an error says that nothing about the kernel under test was learnt.

    Such a test is an error, not a failure, and never an expected failure.
    """
    if status_of(error, ours=ours) == MISS:
        return True
    return isinstance(error, KgdbError) and (error.unmade or error.by_test)


def status_of_phase(report: pytest.TestReport) -> str:
    """Return the status of a test after one of its phases."""
    if report.when not in ("setup", "call", "teardown"):
        return MISS  # pytest-xdist and pytest-forked say so that its process died
    if (status := getattr(report, "kgdb_status", None)) is not None:
        return str(status)
    return _OF_OUTCOME.get(report.outcome, FAIL)  # pytest-rerunfailures has "rerun"


def is_subtest(report: pytest.TestReport) -> bool:
    """Whether a report is of a subtest: pytest's own, or pytest-subtests'."""
    return getattr(report, "context", None) is not None


def without_skipped(reports: Sequence[pytest.TestReport]) -> list[pytest.TestReport]:
    """Return a test's reports without its skipped subtests, if another subtest has passed.

    KUnit's suites have cases that need what a kernel does not have.
    """
    passed = any(is_subtest(report) and status_of_phase(report) == PASS for report in reports)
    return [
        report
        for report in reports
        if not (passed and is_subtest(report) and status_of_phase(report) == SKIP)
    ]


def statuses_of_subtests(reports: Sequence[pytest.TestReport]) -> dict[str, str]:
    """Return the status of each subtest by its name, and by how many of that name were before."""
    statuses: dict[str, str] = {}
    seen: Counter[str] = Counter()
    for report in reports:
        if is_subtest(report):
            context: Any = vars(report)["context"]
            words = [f"{key}={value}" for key, value in context.kwargs.items()]
            name = " ".join([*([context.msg] if context.msg else []), *words])
            seen[name] += 1
            statuses[f"{name} ({seen[name]})"] = status_of_phase(report)
    return statuses


def decisive(reports: Sequence[pytest.TestReport]) -> tuple[str, pytest.TestReport]:
    """Return the status of a test, and the first report that has it.

    :param reports: of its phases and subtests; at least one.
    """
    counted = without_skipped(reports)
    worst = min(counted, key=lambda report: _ORDER.index(status_of_phase(report)))
    return status_of_phase(worst), worst
