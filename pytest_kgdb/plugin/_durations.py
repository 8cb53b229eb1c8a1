"""How long each test takes by itself, kept for `--shard`."""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import statistics
import time
from collections.abc import Generator, Iterator, Mapping
from pathlib import Path
from typing import Final

import pytest

from ..errors import ConfigError
from ..process import FileLock
from ._matrix import Matrix, test_id
from ._record import id_without_repeat, repetition
from ._status import MISS, SKIP
from ._terminal import is_worker

__all__ = ["Durations", "ids_of", "load", "merge", "shared_work", "store"]

_SCHEMA: Final = "pytest-kgdb durations 1"
_NAME: Final = "kgdb-durations"
_LOCK_SECONDS: Final = 10.0
_KEEP: Final = 50  # files of as many directories of tests
_DIGITS: Final = 3  # behind the point: milliseconds


def store(cache_dir: Path, rootdir: Path) -> Path:
    """Return the file of the cache for the tests of one directory."""
    digest = hashlib.sha256(os.fsencode(rootdir)).hexdigest()[:8]
    return cache_dir / "durations" / f"{rootdir.name or 'root'}-{digest}.json"


def load(path: Path) -> dict[str, float]:
    """Return the seconds of each test, by its id.

    :raises ConfigError: the file cannot be read, or is not one of these.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ConfigError(f"cannot read the durations in {path}: {reason}") from None
    tests = content.get("tests") if isinstance(content, dict) else None
    if not isinstance(tests, dict) or content.get("schema") != _SCHEMA:
        raise ConfigError(f'{path} has no durations of tests: it must have "schema": "{_SCHEMA}"')
    for test, seconds in tests.items():
        if not isinstance(seconds, (int, float)) or not 0 <= seconds < math.inf:
            raise ConfigError(f"{path}: {test}: {seconds!r} is not a number of seconds")
    return {test: float(seconds) for test, seconds in tests.items()}


def merge(path: Path, measured: Mapping[str, float]) -> None:
    """Put durations into a file, beside those that are there; runs do so one after another.

    :raises OSError: it cannot be written, or another run does not let go of it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    from ..cache import write_atomically  # needed at the end only

    lock = FileLock.exclusive(path.parent / ".lock", _LOCK_SECONDS, create=True)
    try:
        tests: dict[str, float] = {}
        with contextlib.suppress(ConfigError):  # the first run, or a file that is damaged
            tests = load(path)
        tests.update(measured)
        text = json.dumps({"schema": _SCHEMA, "tests": dict(sorted(tests.items()))}, indent=1)
        write_atomically(path, f"{text}\n".encode(), sync=True)
        files = sorted(path.parent.glob("*.json"), key=lambda file: -file.stat().st_mtime)
        for file in files[_KEEP:]:
            file.unlink(missing_ok=True)
    finally:
        lock.release()


class Durations:
    """Measures the tests of a run; a pytest plugin.

    What several tests share is not a test's own: fixtures of a module, a class or the session, in
    which kernels are built, and the first start of a machine. The first test would otherwise have
    minutes.
    """

    def __init__(self, config: pytest.Config, matrix: Matrix, path: Path) -> None:
        self._config = config
        self._matrix = matrix
        self._path = path
        self._shared = 0.0
        self._depth = 0
        self._own: dict[str, float] = {}
        # The tests of each id that is kept: without repetitions, and without the matrix's too.
        self._of_id: dict[str, set[str]] = {}
        self._left_out: set[str] = set()
        self._any_kernel = False
        self._unwritten = ""

    @classmethod
    def register(cls, config: pytest.Config, matrix: Matrix, path: Path) -> None:
        """Watch this run."""
        config.pluginmanager.register(cls(config, matrix, path), _NAME)

    @contextlib.contextmanager
    def shared(self) -> Iterator[None]:
        """Do work that is for several tests."""
        begun = time.perf_counter()
        self._depth += 1
        try:
            yield
        finally:
            self._depth -= 1
            if self._depth == 0:
                self._shared += time.perf_counter() - begun

    @pytest.hookimpl(wrapper=True)
    def pytest_fixture_setup(
        self, fixturedef: pytest.FixtureDef[object]
    ) -> Generator[None, object, object]:
        """Do not count a fixture that several tests share."""
        if fixturedef.scope == "function":
            return (yield)
        with self.shared():
            return (yield)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(
        self, item: pytest.Item
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        """Note on a report what of it is the test's own; pytest-xdist hands it on."""
        report = yield
        shared, self._shared = self._shared, 0.0
        own = max(0.0, report.duration - shared)
        report.kgdb_own = [test_id(item), ids_of(item, self._matrix), own]  # type: ignore[attr-defined]
        return report

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Add up the phases of a test."""
        if not hasattr(report, "kgdb_own"):
            return  # of a worker that crashed
        test, ids, seconds = report.kgdb_own
        for one in ids:
            self._of_id.setdefault(one, set()).add(test)
        self._own[test] = self._own.get(test, 0.0) + seconds
        self._any_kernel |= getattr(report, "kgdb_uses_kernel", False)
        status = getattr(report, "kgdb_status", None)
        if status in (MISS, SKIP) or (report.skipped and not hasattr(report, "wasxfail")):
            self._left_out.add(test)  # it did not take what it takes

    def pytest_sessionfinish(self) -> None:
        """Keep what was measured, if any test was on a kernel."""
        ran = {test: own for test, own in self._own.items() if test not in self._left_out}
        measured = {}
        for test, several in self._of_id.items():
            if seconds := [ran[one] for one in several if one in ran]:
                measured[test] = round(statistics.mean(seconds), _DIGITS)
        if is_worker(self._config) or not self._any_kernel or not measured:
            return
        try:
            merge(self._path, measured)
        except OSError as error:
            self._unwritten = f"the tests' durations are not kept: {self._path}: {error.strerror}"

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Say what could not be kept."""
        if self._unwritten:
            terminalreporter.write_line(f"kgdb: {self._unwritten}")


def ids_of(item: pytest.Item, matrix: Matrix) -> tuple[str, str]:
    """Return the ids by which a test's duration is kept, the more precise one first.

    Neither says which repetition it is. The second is for runs with other kernels, or with one.
    """
    number = repetition(item)
    ids = (test_id(item), matrix.test_of(item))
    if number is not None:
        ids = (id_without_repeat(ids[0], number)[0], id_without_repeat(ids[1], number)[0])
    return ids


def shared_work(config: pytest.Config) -> contextlib.AbstractContextManager[None]:
    """Return a context for work that is for several tests."""
    durations: Durations | None = config.pluginmanager.get_plugin(_NAME)
    return contextlib.nullcontext() if durations is None else durations.shared()
