"""What a test came to, in KCIDB's words."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

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
    "status_of",
    "status_of_phase",
    "tested_nothing",
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

_INFRASTRUCTURE: Final = (BootError, BuildError, CacheError, DebuggerDied, MachineDied)


def status_of(error: BaseException, *, ours: bool) -> str:
    """Return the status of a test of which a phase ended with this.

    :param ours: whether no code of the user's led to it: a fixture of ours failed.
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
        return MISS if ours else FAIL  # pytest-timeout raises it wherever it finds us
    return FAIL if isinstance(error, AssertionError) else ERROR


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


def decisive(reports: Sequence[pytest.TestReport]) -> tuple[str, pytest.TestReport]:
    """Return the status of a test, and the first report that has it.

    :param reports: of its phases; at least one.
    """
    worst = min(reports, key=lambda report: _ORDER.index(status_of_phase(report)))
    return status_of_phase(worst), worst
