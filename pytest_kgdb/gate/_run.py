"""Runs the tests on both kernels, side by side."""

from __future__ import annotations

import contextlib
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

from ..errors import BuildError, KgdbError
from ..kernel import Kernel, not_compiled
from ..process import Child
from ..progress import Progress
from ._change import Change, Side
from ._verdicts import Result, Run, Verdict, exit_status, judge

__all__ = ["Gate", "GateFailed", "Outcome"]

_SECONDS: Final = 24 * 3600.0  # for all the runs of a side; each wait in a test has its own bound
_POLL_SECONDS: Final = 0.1

# pytest's exit statuses (pytest.ExitCode): these two mean that the tests ran.
_RAN: Final = (0, 1)
_NO_TESTS: Final = 5
_USAGE: Final = 4


class Kernels(Protocol):
    """Builds kernels, or finds them in the cache."""

    def build(self, side: Side) -> Kernel:
        """Return a side's kernel."""

    def same(self, one: Kernel, other: Kernel) -> bool:
        """Whether two kernels, their modules included, do not differ."""


class GateFailed(KgdbError):
    """The tests could not be run on one of the kernels."""

    status = 2


@dataclass(frozen=True)
class Outcome:
    """What a gate came to."""

    change: Change
    results: tuple[Result, ...]
    status: int
    """0: proven; 1: not proven; 6: inconclusive."""
    notes: tuple[str, ...]
    """What is to be known of the change itself: files that are not compiled, a kernel that does
    not build."""
    releases: tuple[str, str]
    build_ids: tuple[str, str]


class Gate:
    """The tests, on a kernel without and with a change.

    :param arguments: pytest's command line: the tests, and options for both sides.
    :param options: the options of ours that both sides have.
    :param repeat: how often each test is run on each side.
    :param directory: for the logs and the records.
    """

    def __init__(
        self,
        change: Change,
        kernels: Kernels,
        *,
        arguments: Sequence[str],
        options: Sequence[str],
        repeat: int,
        directory: Path,
        progress: Progress,
    ) -> None:
        self._change = change
        self._kernels = kernels
        self._arguments = [*arguments]
        self._options = [*options]
        self._repeat = repeat
        self._directory = directory
        self._progress = progress

    def run(self, expected: Sequence[Verdict] | None = None) -> Outcome:
        """Build both kernels, run the tests on them, and judge.

        :param expected: the verdicts that are good ones.
        :raises GateFailed: pytest itself did not run.
        :raises ConfigError: a patch cannot be read, and the like.
        """
        change, notes = self._change, []
        try:
            base = self._kernels.build(change.base)
        except BuildError as error:
            return self._unbuilt(change.base, error, 6)
        try:
            patched = self._kernels.build(change.patched)
        except BuildError as error:
            return self._unbuilt(change.patched, error, 1)
        for file in not_compiled(patched, change.files):
            notes.append(f"{file.file} is not compiled: {_sentence(file.why)}")
        unchanged = ""
        if self._kernels.same(base, patched):
            unchanged = "the change makes no difference to this kernel"
            notes.insert(0, f"{unchanged}: both have the same vmlinux and modules")
        runs = self._run_tests()
        tests = dict.fromkeys([*runs[0], *runs[1]])
        results = tuple(
            judge(test, runs[0].get(test, ()), runs[1].get(test, ()), unchanged=unchanged)
            for test in tests
        )
        return Outcome(
            change,
            results,
            exit_status(results, expected),
            tuple(notes),
            (base.release, patched.release),
            (base.build_id, patched.build_id),
        )

    def _unbuilt(self, side: Side, error: BuildError, status: int) -> Outcome:
        note = f"the {side.name} kernel ({side.label}) cannot be built: {error.message}"
        if error.hint:
            note += f"\nhint: {error.hint}"
        return Outcome(self._change, (), status, (note,), ("", ""), ("", ""))

    # The runs

    def _run_tests(self) -> tuple[dict[str, list[Run]], dict[str, list[Run]]]:
        with contextlib.ExitStack() as stack:
            title = " and on ".join(side.label for side in self._change.sides)
            stage = stack.enter_context(self._progress.stage(f"testing on {title}"))
            children = [
                (side, stack.enter_context(self._start(side))) for side in self._change.sides
            ]
            deadline = time.monotonic() + _SECONDS
            while any(child.poll() is None for _, child in children):
                if time.monotonic() > deadline:
                    raise GateFailed(f"the tests were not done in {_SECONDS / 3600:g} hours")
                stage.update(text=", ".join(self._progressed(side) for side, _ in children))
                time.sleep(_POLL_SECONDS)
            for side, child in children:
                self._check(side, child)
        base, patched = (_read(self._record(side)) for side in self._change.sides)
        return base, patched

    def _start(self, side: Side) -> Child:
        settings = side.settings
        argv = [sys.executable, "-m", "pytest", *self._arguments, *self._options]
        argv += [f"--kgdb-kernel={spec}" for spec in settings.kernel]
        argv += [f"--kgdb-patch={path}" for path in settings.patch]
        argv += [f"--kgdb-repeat={self._repeat}", f"--kgdb-record={self._record(side)}"]
        argv += ["-p", "no:cacheprovider"]
        return Child.spawn(argv, name=f"pytest on the {side.name} kernel", log=self._log(side))

    def _check(self, side: Side, child: Child) -> None:
        status = child.poll()
        if status in _RAN:
            return
        tail = "\n".join(f"  {line}" for line in child.tail(15).splitlines())
        if status == _NO_TESTS:
            error = GateFailed("no test was found", hint="name the tests as for pytest")
        else:
            error = GateFailed(
                f"pytest did not run on the {side.name} kernel (status {status}):\n{tail}",
                log=self._log(side),
            )
        error.status = status if status in (_NO_TESTS, _USAGE) else 2
        raise error

    def _progressed(self, side: Side) -> str:
        try:
            done = self._record(side).read_bytes().count(b"\n")
        except OSError:
            done = 0
        return f"{side.name} {done}"

    def _record(self, side: Side) -> Path:
        return self._directory / f"{side.name}.jsonl"

    def _log(self, side: Side) -> Path:
        return self._directory / f"{side.name}.log"


def _read(path: Path) -> dict[str, list[Run]]:
    runs: dict[str, list[Run]] = {}
    for line in path.read_text().splitlines():
        record = json.loads(line)
        runs.setdefault(record["test"], []).append(
            Run(record["status"], record["message"], record["seconds"], record["kernel"])
        )
    return runs


def _sentence(why: str) -> str:
    return f"--kgdb-set={why.split(', ')[0]}=y would" if why.startswith("CONFIG_") else why
