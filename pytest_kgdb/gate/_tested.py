"""Commits that were tested in a search, what the tests say of them, and where that is kept."""

from __future__ import annotations

import enum
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, Protocol

from ..cache import write_atomically
from ..errors import BuildError, ConfigError
from ..progress import Progress
from ..settings import Settings
from ._runner import PytestDied, Runner
from ._verdicts import Run, reason_of, skipped_at_times, too_few

__all__ = [
    "Builder",
    "Commit",
    "CommitTester",
    "State",
    "judge_commit",
    "why_no_bad_end",
    "why_no_good_end",
]

_NAME: Final = "bisected"  # of the kernel, in the names of logs
_ERROR: Final = re.compile(r"\berror: ", re.IGNORECASE)


_FLAKY: Final = "is flaky:"
_LEAVE_OUT: Final = "--deselect, or -k 'not …'"


class State(enum.Enum):
    """What the tests say of a commit, in git's words."""

    GOOD = "good"
    BAD = "bad"
    SKIP = "skip"
    """It cannot be tested: it does not build or boot, or a test varies or is at fault."""


@dataclass(frozen=True)
class Commit:
    """A commit, and what the tests say of it."""

    revision: str
    state: State
    reason: str = ""
    failures: tuple[str, ...] = ()
    """Which tests failed, and why: of each its name, then as :func:`reason_of` has it."""
    tests: tuple[str, ...] = ()
    """Those that failed."""
    confirmed: bool = False
    """Whether it was tested twice."""
    missed: bool = False
    """Whether a build, a boot or the machine failed: another time, it may be tested."""


class Builder(Protocol):
    """Builds kernels, or finds them in the cache."""

    def build(self, settings: Settings) -> object:
        """Return the kernel of these settings; raises BuildError, ConfigError."""


def judge_commit(
    runs: Mapping[str, Sequence[Run]], bad: Commit | None = None, *, asked: int = 1
) -> Commit:
    """Return what the runs of the tests say of a commit; its revision is empty.

    :param bad: the bad end, if it is known. A failure for another reason than there is another
        bug. A commit is good if the tests that failed there pass; if it is not known which these
        are, it may be any that is skipped.
    :param asked: how many runs of a kernel test there are to be.
    """
    failures: dict[str, str] = {}
    failed: list[str] = []
    skipped: dict[str, str] = {}
    for test, its in runs.items():
        statuses = {run.status for run in its}
        if odd := [run for run in its if run.status in ("MISS", "ERROR")]:
            missed = any(run.status == "MISS" for run in odd)
            reason = f"{test}: {odd[0].message or odd[0].status}"
            return Commit("", State.SKIP, reason, missed=missed)
        if any(run.kernel for run in its) and (missing := too_few(its, asked)):
            return Commit("", State.SKIP, f"{test}: {missing}")
        if statuses == {"SKIP"}:
            skipped[test] = f"{test} was skipped: {its[0].message}"
        elif name := skipped_at_times(its):
            why = f"{test}: its subtest {name} was skipped in some of its runs"
            return Commit("", State.SKIP, why)
        elif len(statuses) > 1:
            failures_of_it = sum(run.status == "FAIL" for run in its)
            reason = f"{test} {_FLAKY} it failed in {failures_of_it} of {len(its)}"
            return Commit("", State.SKIP, reason)
        elif statuses == {"FAIL"}:
            failed.append(test)
            failures.update((f"{test}: {reason_of(run)}", f"{test}: {run.message}") for run in its)
    if failures:
        others = [text for reason, text in failures.items() if bad and reason not in bad.failures]
        if others:
            return Commit("", State.SKIP, f"it fails for another reason: {others[0]}")
        return Commit("", State.BAD, next(iter(failures.values())), tuple(failures), tuple(failed))
    for test in skipped if bad is None else bad.tests:
        if test in skipped:
            return Commit("", State.SKIP, skipped[test])
        if test not in runs:
            return Commit("", State.SKIP, f"{test} is not there")
    return Commit("", State.GOOD) if runs else Commit("", State.SKIP, "no test was run")


def why_no_bad_end(name: str, commit: Commit) -> str:
    """Return why a search cannot begin: its bad end is none.

    :param name: the end's.
    """
    if commit.state is State.GOOD:
        return f"the bad end, {name}, is not bad: the tests pass there"
    return f"the bad end, {name}, cannot be tested: {commit.reason}{_left_out(commit)}"


def why_no_good_end(name: str, commit: Commit) -> str:
    """Return the same of the good end."""
    if commit.state is State.BAD:
        return f"the good end, {name}, is not good: {commit.reason}"
    return f"the good end, {name}, cannot be tested: {commit.reason}{_left_out(commit)}"


def _left_out(commit: Commit) -> str:
    return f"; leave it out ({_LEAVE_OUT})" if _FLAKY in commit.reason else ""


class CommitTester:
    """Tests each commit of a search once, also if the search is interrupted and gone on with.

    What could not be built, booted or run is tested once more by a search that is gone on with.

    :param path: the file in which the results are kept.
    """

    def __init__(
        self,
        path: Path,
        *,
        runner: Runner,
        builder: Builder,
        progress: Progress,
    ) -> None:
        self._path = path
        self._runner = runner
        self._builder = builder
        self._progress = progress
        self._commits: list[Commit] = []

    @property
    def commits(self) -> tuple[Commit, ...]:
        """Those that were tested, in that order."""
        return tuple(self._commits)

    def resume(self) -> None:
        """Take up what an interrupted search has tested, if there is anything."""
        if self._path.exists():
            self._commits = [
                Commit(
                    one["revision"],
                    State(one["state"]),
                    one["reason"],
                    tuple(one["failures"]),
                    tuple(one["tests"]),
                    one["confirmed"],
                )
                for one in json.loads(self._path.read_bytes())
            ]
            self._progress.say(f"going on with a search of which {len(self._commits)} are tested")

    def begin(self) -> None:
        """Begin a search: nothing is tested."""
        self._commits = []
        self._save()

    def forget(self) -> None:
        """Remove the file: the search is over."""
        self._path.unlink(missing_ok=True)

    def test(
        self,
        revision: str,
        settings: Settings,
        bad: Commit | None,
        *,
        name: str,
        shown: str,
        is_end: bool = False,
    ) -> Commit:
        """Test a commit, unless that was done before.

        :param revision: what tells it from others.
        :param bad: as for :func:`judge_commit`.
        :param name: a short name, for the progress.
        :param shown: a name that is said with the result.
        :param is_end: whether it is an end of the search: settings that are wrong there are the
            user's mistake. Of any other commit, they only say that it has no such symbol.
        :raises ConfigError: the settings are wrong at an end.
        """
        for commit in self._commits:
            if commit.revision == revision:
                return commit
        try:
            commit = replace(self._run(name, settings, bad), revision=revision)
        except ConfigError as error:
            if is_end:
                raise
            commit = Commit(revision, State.SKIP, _in_a_line(error), missed=True)
        self._commits.append(commit)
        self._note(commit, shown)
        return commit

    def confirm(
        self, revision: str, settings: Settings, bad: Commit | None, *, name: str, shown: str
    ) -> bool:
        """Test once more a commit that was tested, unless that was done; False if it varies.

        With as many runs as it takes to see that, however few the others have. One that varies
        counts from now on as one that cannot be tested.
        """
        index = next(n for n, one in enumerate(self._commits) if one.revision == revision)
        first = self._commits[index]
        if first.confirmed or first.state is State.SKIP:
            return True
        again = self._run(name, settings, bad, once_more=True)
        if again.state is first.state:
            self._commits[index] = replace(first, confirmed=True)
            self._save()
            return True
        what = f": {again.reason}" if again.reason else ""
        reason = f"it varies: {first.state.value} at first, then {again.state.value}{what}"
        self._commits[index] = Commit(revision, State.SKIP, reason, missed=again.missed)
        self._note(self._commits[index], shown)
        return False

    def _note(self, commit: Commit, shown: str) -> None:
        self._save()
        reason = f": {commit.reason}" if commit.reason else ""
        self._progress.say(f"{commit.state.value}: {shown}{reason}")

    def _run(
        self, name: str, settings: Settings, bad: Commit | None, *, once_more: bool = False
    ) -> Commit:
        repeat = self._runner.sure if once_more else self._runner.repeat
        title = f"testing {name}{f' once more, {repeat} times' if once_more else ''}"
        try:
            self._builder.build(settings)
        except BuildError as error:
            return Commit("", State.SKIP, _in_a_line(error), missed=True)
        with (
            self._progress.stage(title) as stage,
            self._runner.start(_NAME, settings, repeat=repeat) as child,
        ):
            self._runner.wait({_NAME: child}, lambda text: stage.update(text=text))
            try:
                runs = self._runner.result(_NAME, child)
            except PytestDied as error:
                reason = error.message.partition("\n")[0]
                return Commit("", State.SKIP, reason, missed=True)
            return judge_commit(runs, bad, asked=self._runner.repeat)

    def _save(self) -> None:
        values = [
            {
                "revision": commit.revision,
                "state": commit.state.value,
                "reason": commit.reason,
                "failures": list(commit.failures),
                "tests": list(commit.tests),
                "confirmed": commit.confirmed,
            }
            for commit in self._commits
            if not commit.missed
        ]
        write_atomically(self._path, json.dumps(values).encode())


def _in_a_line(error: BuildError | ConfigError) -> str:
    """Return what failed and, of what a program printed, the line that says why."""
    what, _, output = error.message.partition("\n")
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    if not what.endswith(":") or not lines:
        return what
    # Before it, gcc says in which function it is, and what includes the file.
    return f"{what} {next(filter(_ERROR.search, lines), lines[0])}"
