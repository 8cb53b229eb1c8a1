"""`--kgdb-record`: what each test came to, for a program to read."""

from __future__ import annotations

import contextlib
import json
import os
import re
from collections.abc import Generator
from pathlib import Path
from typing import IO, Final

import pytest

from ..errors import ConfigError
from ..process import FileLock
from ._status import MISS, decisive, statuses_of_subtests

__all__ = [
    "REPEAT",
    "Recorder",
    "Repetitions",
    "id_without_repeat",
    "message_of",
    "repeated",
    "repeats",
    "repetition",
]

REPEAT: Final = "_kgdb_repeat"
"""The fixture of which each repetition of a test is a parameter."""

_REPEAT: Final = "repeat"


def repeats(number: int) -> list[str]:
    """Return the ids of the parameters with which a test is run several times."""
    return [f"{_REPEAT}{index}" for index in range(1, number + 1)]


def repeated(item: pytest.Item) -> tuple[str, int]:
    """Return the id of a test without that of its repetition, and which one it is."""
    number = repetition(item)
    return (item.nodeid, 1) if number is None else (_without(item.nodeid, str(number))[0], number)


def id_without_repeat(nodeid: str, number: int | None = None) -> tuple[str, int | None]:
    """Return the same of an id alone; None as the number if it is of no repetition.

    :param number: which repetition it is. If that is not known, an id of the user's that looks
        like one is taken for it.
    """
    test, match = _without(nodeid, r"\d+" if number is None else str(number))
    return test, int(match) if match else None


def repetition(item: pytest.Item) -> int | None:
    """Return which repetition of a test it is, from 1; None if it is not repeated."""
    callspec = getattr(item, "callspec", None)
    index = None if callspec is None else callspec.params.get(REPEAT)
    return None if index is None else int(index) + 1


def _without(nodeid: str, number: str) -> tuple[str, str]:
    """Return an id without that of a repetition, and its number; "" if there is none."""
    one = rf"{_REPEAT}({number})"
    match = re.search(rf"\[{one}\]|-{one}(?=[\]-])|(?<=\[){one}-", nodeid)
    if match is None:
        return nodeid, ""
    return nodeid[: match.start()] + nodeid[match.end() :], match[1] or match[2] or match[3]


class Repetitions:
    """Notes on a report which repetition it is of; pytest-xdist hands it on. A pytest plugin."""

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(
        self, item: pytest.Item
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        """Note it."""
        report = yield
        report.kgdb_repeat = repetition(item)  # type: ignore[attr-defined]
        return report


class Recorder:
    """Writes a line for each test as it ends, and one when all have; a pytest plugin.

    It locks the file until the end, so that who reads it meanwhile can tell.

    :param repeats: whether tests are repeated.
    """

    def __init__(self, path: Path, *, repeats: bool = False) -> None:
        self._repeats = repeats
        self._reports: dict[str, list[pytest.TestReport]] = {}
        self._lock: FileLock | None = None  # for a pipe, say, there is none
        try:
            if path.exists() and not path.is_file():
                self._file: IO[str] = path.open("w")
            else:
                self._file, self._lock = _locked(path.resolve())
        except OSError as error:
            raise ConfigError(f"--kgdb-record: cannot write {path}: {error.strerror}") from error

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Take note of a phase; after the last one, write the test's line."""
        reports = self._reports.setdefault(report.nodeid, [])
        reports.append(report)
        if report.when in ("setup", "call"):
            return
        del self._reports[report.nodeid]
        if any(getattr(one, "kgdb_enough", False) for one in reports):
            return  # a repetition that was left out
        self._write(report.nodeid, reports)

    # Behind the ends of fixtures of the session, which may be where pytest itself fails.
    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self) -> None:
        """Write what has not ended, and that there is no more to come."""
        for nodeid, reports in self._reports.items():
            self._write(nodeid, reports, ended=False)
        self._reports.clear()
        print(json.dumps({"finished": True}), file=self._file, flush=True)

    def _write(self, nodeid: str, reports: list[pytest.TestReport], *, ended: bool = True) -> None:
        status, report = decisive(reports)
        test, repeat = self._test(nodeid, reports)
        record = {
            "test": test,
            "repeat": repeat or 1,
            "repeated": repeat is not None,
            "status": status if ended else MISS,
            "kernel": any(getattr(report, "kgdb_uses_kernel", False) for report in reports),
            "message": message_of(report) if ended else "pytest ended while it ran",
            "seconds": round(sum(report.duration for report in reports), 4),
        }
        if subtests := statuses_of_subtests(reports):
            record["subtests"] = subtests
        if ended and hasattr(report, "kgdb_reason"):
            record["reason"] = report.kgdb_reason
        for report in reports:
            for name in ("observed", "boot", "shared"):
                if (value := getattr(report, f"kgdb_{name}", None)) is not None:
                    record[name] = value
        print(json.dumps(record), file=self._file, flush=True)

    def _test(self, nodeid: str, reports: list[pytest.TestReport]) -> tuple[str, int | None]:
        if not self._repeats:
            return nodeid, None
        notes = [vars(report)["kgdb_repeat"] for report in reports if "kgdb_repeat" in vars(report)]
        if not notes:  # of a worker that crashed
            return id_without_repeat(nodeid)
        return (nodeid, None) if notes[0] is None else id_without_repeat(nodeid, notes[0])

    def pytest_unconfigure(self) -> None:
        """Close the file."""
        self._file.close()
        if self._lock is not None:
            self._lock.release()


def _locked(path: Path) -> tuple[IO[str], FileLock]:
    """Return a new file, and a lock on it, without which nobody ever sees it."""
    new = path.with_name(f"{path.name}.{os.getpid()}")
    with contextlib.ExitStack() as stack:
        lock = FileLock.exclusive(new, create=True)
        stack.callback(lock.release)
        stack.callback(new.unlink, missing_ok=True)
        file = stack.enter_context(new.open("w"))
        new.replace(path)
        stack.pop_all()
    return file, lock


def message_of(report: pytest.TestReport) -> str:
    """Return the first line of what a test failed or was skipped with."""
    if report.passed:
        return ""
    if isinstance(report.longrepr, tuple):
        return str(report.longrepr[2]).removeprefix("Skipped: ")
    crash = getattr(report.longrepr, "reprcrash", None)
    text = str(crash.message if crash is not None else report.longrepr or "")
    return text.partition("\n")[0]
