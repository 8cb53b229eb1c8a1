"""Runs the tests on one kernel, in a pytest of its own, and reads what they came to."""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ..change import ChangedLines
from ..deadline import Deadline
from ..errors import KgdbError, TimeoutError
from ..process import Child
from ..settings import Settings, of_build, write_given
from ._verdicts import Run

__all__ = ["Covered", "GateFailed", "PytestDied", "Runner", "child_environment"]

_SECONDS: Final = 24 * 3600.0  # for all the runs; each wait in a test has its own bound
_POLL_SECONDS: Final = 0.1

# pytest's exit statuses (pytest.ExitCode).
_RAN: Final = (0, 1)
_USAGE: Final = 4
_NO_TESTS: Final = 5
_FAILED: Final = 2

# plugin._record: how the last line of a record begins. Within a line, its quotes are escaped.
_FINISHED: Final = '{"finished"'

_GITHUB: Final = ("GITHUB_ACTIONS", "GITHUB_STEP_SUMMARY")


class GateFailed(KgdbError):
    """The tests could not be run on a kernel: pytest itself did not.

    :param status: pytest's exit status.
    """

    def __init__(
        self, message: str, *, status: int, log: Path | None = None, hint: str | None = None
    ) -> None:
        super().__init__(message, log=log, hint=hint)
        self.status = status


class PytestDied(GateFailed):
    """Pytest has ended before the tests were over: it was killed, or ended by one of them."""


def child_environment() -> dict[str, str]:
    """Return the environment of a pytest that a command starts."""
    # What GitHub is told, the gate tells it: a failure on the base is none.
    return {key: value for key, value in os.environ.items() if key not in _GITHUB}


@dataclass(frozen=True)
class Covered:
    """Which tests ran none of some lines."""

    lines: int
    """How many of the lines could be observed."""
    without: frozenset[str]
    """The tests that ran none of them. Of one that did not pass, it cannot be told, nor of one that
    shares its machine: only the first that runs a line is seen."""


class Runner:
    """Runs the tests on one kernel after another, or side by side.

    :param arguments: pytest's command line: the tests, and options.
    :param options: the options of ours that hold for every kernel.
    :param repeat: how often each kernel test is run.
    :param sure: how often at least where a search's outcome depends on it.
    :param directory: for the logs and the records.
    """

    def __init__(
        self,
        arguments: Sequence[str],
        options: Sequence[str],
        *,
        repeat: int,
        directory: Path,
        sure: int = 1,
    ) -> None:
        self._arguments = [*arguments]
        self._options = [*options]
        self.repeat = repeat
        """How often each kernel test is run."""
        self.sure = max(sure, repeat)
        """How often where a search's outcome depends on it."""
        self._directory = directory

    def start_in_step(self, sides: Mapping[str, Settings]) -> Iterator[tuple[str, Child]]:
        """Start them on two kernels, in step with each other.

        :param sides: the kernels' settings, by the names of their logs and records.
        """
        first, second = sides
        for name in sides:  # before one begins: the record of an earlier gate is not the other's
            self._record(name).unlink(missing_ok=True)
        for name, peer in ((first, second), (second, first)):
            yield name, self._start(name, sides[name], self.repeat, self._record(peer))

    def start(self, name: str, settings: Settings, *, repeat: int | None = None) -> Child:
        """Start them on a kernel.

        :param name: that of the kernel's log and record.
        :param repeat: how often each kernel test is run; as often as ever by default.
        """
        self._record(name).unlink(missing_ok=True)
        return self._start(name, settings, self.repeat if repeat is None else repeat)

    def start_covered(self, name: str, settings: Settings, lines: Iterable[ChangedLines]) -> Child:
        """Start them once on a kernel, to see which of these lines run."""
        self._coverage(name).unlink(missing_ok=True)
        self._record(name).unlink(missing_ok=True)
        options = [f"--kgdb-cov={one.file}:{one.first}-{one.last}" for one in lines]
        options += [f"--kgdb-cov-json={self._coverage(name)}"]
        options += [one for one in self._options if not one.startswith("--kgdb-cov")]
        options += [f"--kgdb-record={self._record(name)}"]
        return self._spawn(name, settings, options)

    def covered(self, name: str, child: Child) -> Covered | None:
        """Return what ran, once pytest has ended; None if that cannot be told."""
        try:
            runs = self.result(name, child)
            (kernel,) = json.loads(self._coverage(name).read_text())["kernels"]
        except (OSError, ValueError, GateFailed):
            return None
        lines = [line for file in kernel["files"].values() for line in file["lines"].values()]
        ran = {test for line in lines for test in line.get("tests", ())}
        without = frozenset(
            test
            for test, its in runs.items()
            if test not in ran and all(run.status == "PASS" and not run.shared for run in its)
        )
        return Covered(int(kernel["lines"]), without)

    def _start(self, name: str, settings: Settings, repeat: int, peer: Path | None = None) -> Child:
        options = [f"--kgdb-repeat={repeat}", f"--kgdb-record={self._record(name)}"]
        options += [] if peer is None else [f"--kgdb-peer={peer}"]
        return self._spawn(name, settings, [*self._options, *options])

    def _spawn(self, name: str, settings: Settings, options: Sequence[str]) -> Child:
        # Not as options: to a list, pytest adds what addopts says.
        build = self._directory / f"{name}.settings.json"
        write_given(build, of_build(settings))
        argv = [sys.executable, "-m", "pytest", *self._arguments, *options]
        argv += [f"--kgdb-build-settings={build.absolute()}"]
        # One of its own, and empty: each side runs all tests, whatever failed on it before.
        shutil.rmtree(self._cache(name), ignore_errors=True)
        argv += ["-o", f"cache_dir={self._cache(name)}"]
        log = self._log(name)
        env = child_environment()
        return Child.spawn(argv, name=f"pytest on the {name} kernel", log=log, env=env)

    def wait(self, children: Mapping[str, Child], say: Callable[[str], None]) -> None:
        """Wait until the tests are over.

        :param children: what :meth:`start` returned, by name.
        :param say: is told how many runs are over.
        :raises TimeoutError: they were not within a day.
        """
        deadline = Deadline(_SECONDS)
        while any(child.poll() is None for child in children.values()):
            if deadline.expired:
                raise TimeoutError(f"the tests were not done in {_SECONDS / 3600:g} hours")
            say(", ".join(f"{name} {self.done(name)}" for name in children))
            time.sleep(_POLL_SECONDS)

    def done(self, name: str) -> int:
        """Return how many runs are over."""
        try:
            record = self._record(name).read_bytes()
        except OSError:
            return 0
        return record.count(b"\n") - record.count(_FINISHED.encode())

    def result(self, name: str, child: Child) -> dict[str, list[Run]]:
        """Return the runs of each test, once pytest has ended.

        :raises GateFailed: pytest itself did not run.
        :raises PytestDied: it has ended before the tests were over.
        """
        shutil.rmtree(self._cache(name), ignore_errors=True)
        status = child.poll()
        if status not in _RAN:
            raise self._failure(name, child, status)
        try:
            text = self._record(name).read_text()
        except OSError:  # it died before it came so far
            text = ""
        *lines, last = text.splitlines() or [""]
        if not last.startswith(_FINISHED):
            raise self._failure(name, child, status)
        runs: dict[str, list[Run]] = {}
        for line in lines:
            record = json.loads(line)
            runs.setdefault(record["test"], []).append(
                Run(
                    record["status"],
                    record["message"],
                    record["seconds"],
                    record["kernel"],
                    record.get("observed", {}),
                    record.get("boot", ""),
                    record["repeated"],
                    record.get("subtests", {}),
                    record.get("shared", False),
                    record.get("reason", ""),
                )
            )
        return runs

    def _failure(self, name: str, child: Child, status: int | None) -> GateFailed:
        if status == _NO_TESTS:
            return GateFailed(
                "no test was found", status=_NO_TESTS, hint="name the tests as for pytest"
            )
        tail = "\n".join(f"  {line}" for line in child.tail(15).splitlines())
        if status in _RAN or (status is not None and status < 0):
            return PytestDied(
                f"pytest ended on the {name} kernel before the tests were over (status {status}):"
                f"\n{tail}",
                status=_FAILED,
                log=self._log(name),
                hint="pytest-timeout's method `thread` ends pytest itself; `signal` ends one test",
            )
        return GateFailed(
            f"pytest did not run on the {name} kernel (status {status}):\n{tail}",
            status=_USAGE if status == _USAGE else _FAILED,
            log=self._log(name),
        )

    def _coverage(self, name: str) -> Path:
        return self._directory / f"{name}.coverage.json"

    def _cache(self, name: str) -> Path:
        return self._directory.absolute() / f"{name}.cache"

    def _record(self, name: str) -> Path:
        return self._directory / f"{name}.jsonl"

    def _log(self, name: str) -> Path:
        return self._directory / f"{name}.log"
