"""`--kgdb-peer`: two runs of the same tests on two kernels, in step with each other."""

from __future__ import annotations

import json
import time
from collections.abc import Generator
from pathlib import Path
from typing import IO, Final

import pytest

from ..deadline import Deadline
from ..process import FileLock
from ._record import repeated
from ._status import FAIL, PASS

__all__ = ["ENOUGH", "Lockstep"]

ENOUGH: Final = 5
"""A test that varies is run so often on each kernel: for its rates."""

_STARTED_SECONDS: Final = 60.0  # until the other run has opened its record
_TEST_SECONDS: Final = 600.0  # for one test of the other run, a boot included
_POLL_SECONDS: Final = 0.002


def _enough() -> BaseException:
    """Return what skips a repetition that would say nothing more."""
    error = pytest.skip.Exception("it varies: further runs would say nothing more")
    error.kgdb_ran = True  # type: ignore[attr-defined] # for --kgdb-require: the test has been run
    error.kgdb_enough = True  # type: ignore[attr-defined]
    return error


class _Record:
    """The record of a run that goes on, as far as it is written."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: IO[str] | None = None
        self._statuses: dict[str, dict[int, str]] = {}  # by test and repetition
        self._rest = ""

    def has(self, test: str, repeat: int) -> bool:
        """Whether a run of a test is over."""
        self._read()
        return repeat in self._statuses.get(test, {})

    def runs(self) -> set[tuple[str, int]]:
        """Return the tests that are over, with their repetitions."""
        self._read()
        return {(test, one) for test, statuses in self._statuses.items() for one in statuses}

    def varies(self, test: str, before: int) -> bool:
        """Whether a test has both passed and failed before a repetition."""
        self._read()
        statuses = self._statuses.get(test, {})
        return {statuses[one] for one in statuses if one < before} >= {PASS, FAIL}

    @property
    def exists(self) -> bool:
        """Whether the run has begun."""
        return self._path.exists()

    @property
    def has_ended(self) -> bool:
        """Whether nobody writes it any more."""
        try:
            FileLock.shared(self._path).release()
        except BlockingIOError:
            return False
        except OSError:
            return True
        return True

    def _read(self) -> None:
        if self._file is None:
            try:
                self._file = self._path.open()
            except OSError:
                return
        *lines, self._rest = (self._rest + self._file.read()).split("\n")
        for line in lines:
            record = json.loads(line)
            if "test" not in record:
                return  # the last line
            self._statuses.setdefault(record["test"], {})[record["repeat"]] = record["status"]

    def close(self) -> None:
        if self._file is not None:
            self._file.close()


class Lockstep:
    """Keeps a run in step with another one; a pytest plugin.

    No run of a test begins before the other has ended its run before, so that both kernels bear
    the same load. A test that has both passed and failed on one of them is flaky whatever comes:
    behind :data:`ENOUGH` runs it is not repeated on either. Both runs decide by what both have
    ended before, so that they decide the same.

    :param own: the record of this run.
    :param other: that of the other one.
    :param waits: whether the tests come in the same order in both.
    """

    def __init__(self, own: Path, other: Path, *, waits: bool) -> None:
        self._own, self._other = _Record(own), _Record(other)
        self._waits = waits
        self._last: tuple[str, int] | None = None
        self._enough = False  # whether the repetition that comes would say nothing more

    # Around everybody: what bounds a test's time, as pytest-timeout does, begins behind the wait.
    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Generator[None, object, object]:
        """Wait for the other run."""
        test, repeat = repeated(item)
        if self._waits and self._last is not None:
            self._wait(*self._last)
        records = (self._own, self._other)
        varies = any(record.varies(test, before=repeat) for record in records)
        self._enough = repeat > ENOUGH and varies
        self._last = None if self._enough else (test, repeat)
        return (yield)

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_setup(self) -> None:
        """Skip a repetition that would say nothing more."""
        if self._enough:
            raise _enough()

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(
        self, call: pytest.CallInfo[None]
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        """Keep such a repetition out of the record."""
        report = yield
        if call.excinfo is not None and getattr(call.excinfo.value, "kgdb_enough", False):
            setattr(report, "kgdb_enough", True)  # noqa: B010  Recorder reads it
        return report

    def pytest_unconfigure(self) -> None:
        """Close the files."""
        self._own.close()
        self._other.close()

    def _wait(self, test: str, repeat: int) -> None:
        """Wait until the other run has ended a test; no longer if it has ended, or hangs.

        Nor if it has another order of tests: each would wait for the other.
        """
        start, end = Deadline(_STARTED_SECONDS), Deadline(_TEST_SECONDS)
        while not self._other.has(test, repeat):
            ended = self._other.has_ended if self._other.exists else start.expired
            if ended or end.expired or self._other.runs() - self._own.runs():
                # Once more: it may have written that before it ended.
                self._waits = self._other.has(test, repeat)
                return
            time.sleep(_POLL_SECONDS)
