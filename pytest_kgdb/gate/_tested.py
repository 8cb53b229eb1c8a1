"""Commits that were tested in a search, what the tests say of them, and where that is kept."""

from __future__ import annotations

import enum
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, Protocol

from ..cache import write_atomically
from ..errors import BuildError, KgdbError
from ..progress import Progress
from ..settings import Settings
from ._runner import PytestDied, Runner
from ._verdicts import Run, reason_of, too_few

__all__ = ["Builder", "Commit", "CommitTester", "State", "judge_commit"]

_NAME: Final = "bisected"  # of the kernel, in the names of logs


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
    """Why tests failed, as :func:`reason_of` has it."""
    confirmed: bool = False
    """Whether it was tested twice."""


class Builder(Protocol):
    """Builds kernels, or finds them in the cache."""

    def build(self, settings: Settings) -> object:
        """Return the kernel of these settings; raises BuildError."""


def judge_commit(
    runs: Mapping[str, Sequence[Run]], reasons: Sequence[str] = (), *, asked: int = 1
) -> Commit:
    """Return what the runs of the tests say of a commit; its revision is empty.

    :param reasons: why the tests fail on the bad end; a failure for another reason is another bug.
    :param asked: how many runs of a kernel test there are to be.
    """
    failures: dict[str, str] = {}
    ran = False
    for test, its in runs.items():
        statuses = {run.status for run in its}
        if odd := [run for run in its if run.status in ("MISS", "ERROR")]:
            return Commit("", State.SKIP, f"{test}: {odd[0].message or odd[0].status}")
        if any(run.kernel for run in its) and (missing := too_few(its, asked)):
            return Commit("", State.SKIP, f"{test}: {missing}")
        if statuses == {"SKIP"}:
            continue
        ran = True
        if len(statuses) > 1:
            failed = sum(run.status == "FAIL" for run in its)
            return Commit("", State.SKIP, f"{test} is flaky: it failed in {failed} of {len(its)}")
        if statuses == {"FAIL"}:
            failures.update((reason_of(run), f"{test}: {run.message}") for run in its)
    if not ran:
        return Commit("", State.SKIP, "every test was skipped")
    if not failures:
        return Commit("", State.GOOD)
    if reasons and (others := [text for reason, text in failures.items() if reason not in reasons]):
        return Commit("", State.SKIP, f"it fails for another reason: {others[0]}")
    return Commit("", State.BAD, next(iter(failures.values())), tuple(failures))


class CommitTester:
    """Tests each commit of a search once, also if the search is interrupted and gone on with.

    :param path: the file in which the results are kept.
    :param untestable: the errors by which a kernel cannot be tested; others end the search.
    """

    def __init__(
        self,
        path: Path,
        *,
        runner: Runner,
        builder: Builder,
        progress: Progress,
        untestable: tuple[type[KgdbError], ...] = (BuildError,),
    ) -> None:
        self._path = path
        self._runner = runner
        self._builder = builder
        self._progress = progress
        self._untestable = untestable
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
                    one.get("confirmed", False),
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
        self._path.unlink()

    def test(
        self, revision: str, settings: Settings, reasons: Sequence[str], *, name: str, shown: str
    ) -> Commit:
        """Test a commit, unless that was done before.

        :param revision: what tells it from others.
        :param reasons: as for :func:`judge_commit`.
        :param name: a short name, for the progress.
        :param shown: a name that is said with the result.
        """
        for commit in self._commits:
            if commit.revision == revision:
                return commit
        commit = replace(self._run(name, settings, reasons), revision=revision)
        self._commits.append(commit)
        self._note(commit, shown)
        return commit

    def confirm(
        self, revision: str, settings: Settings, reasons: Sequence[str], *, name: str, shown: str
    ) -> bool:
        """Test once more a commit that was tested, unless that was done; False if it varies.

        One that varies counts from now on as one that cannot be tested.
        """
        index = next(n for n, one in enumerate(self._commits) if one.revision == revision)
        first = self._commits[index]
        if first.confirmed or first.state is State.SKIP:
            return True
        again = self._run(name, settings, reasons)
        if again.state is first.state:
            self._commits[index] = replace(first, confirmed=True)
            self._save()
            return True
        what = f": {again.reason}" if again.reason else ""
        reason = f"it varies: {first.state.value} at first, then {again.state.value}{what}"
        self._commits[index] = Commit(revision, State.SKIP, reason)
        self._note(self._commits[index], shown)
        return False

    def _note(self, commit: Commit, shown: str) -> None:
        self._save()
        reason = f": {commit.reason}" if commit.reason else ""
        self._progress.say(f"{commit.state.value}: {shown}{reason}")

    def _run(self, name: str, settings: Settings, reasons: Sequence[str]) -> Commit:
        try:
            self._builder.build(settings)
        except self._untestable as error:
            return Commit("", State.SKIP, error.message.partition("\n")[0])
        with (
            self._progress.stage(f"testing {name}") as stage,
            self._runner.start(_NAME, settings) as child,
        ):
            self._runner.wait({_NAME: child}, lambda text: stage.update(text=text))
            try:
                runs = self._runner.result(_NAME, child)
            except PytestDied as error:
                return Commit("", State.SKIP, error.message.partition("\n")[0])
            return judge_commit(runs, reasons, asked=self._runner.repeat)

    def _save(self) -> None:
        values = [
            {
                "revision": commit.revision,
                "state": commit.state.value,
                "reason": commit.reason,
                "failures": list(commit.failures),
                "confirmed": commit.confirmed,
            }
            for commit in self._commits
        ]
        write_atomically(self._path, json.dumps(values).encode())
