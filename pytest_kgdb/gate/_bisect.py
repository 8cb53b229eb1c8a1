"""Which commit broke a test: git's own bisection, with verdicts that can be trusted."""

from __future__ import annotations

import enum
import json
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, Protocol

from ..cache import write_atomically
from ..change import git, resolved, run_git
from ..errors import BuildError
from ..progress import Progress
from ..settings import Settings
from ._runner import Runner
from ._verdicts import Run, reason_of

__all__ = ["Bisection", "Commit", "Conclusion", "State", "judge_commit"]

_COMMITS: Final = "commits.json"  # what was found out
_NAME: Final = "bisected"  # of the kernel, in the names of logs

# git-bisect(1)
_CULPRIT: Final = re.compile(r"^([0-9a-f]{40}) is the first bad commit$", re.MULTILINE)
_ONLY_SKIPPED: Final = "only 'skip'ped commits left to test"
_SUSPECT: Final = re.compile(r"^([0-9a-f]{40})$", re.MULTILINE)


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


@dataclass(frozen=True)
class Conclusion:
    """What a search came to."""

    culprit: str | None
    """The first bad commit; None where it is not reasons."""
    why: str
    """Why it is not reasons."""
    suspects: tuple[str, ...]
    """The commits of which one is the first bad one, where it is not reasons."""
    commits: tuple[Commit, ...]
    """Those that were tested, in that order."""
    log: str
    """`git bisect log`, for `git bisect replay`."""


class Builder(Protocol):
    """Builds kernels, or finds them in the cache."""

    def build(self, settings: Settings) -> object:
        """Return the kernel of these settings; raises BuildError."""


def judge_commit(runs: Mapping[str, Sequence[Run]], reasons: Sequence[str] = ()) -> Commit:
    """Return what the runs of the tests say of a commit; its revision is empty.

    :param reasons: why the tests fail on the bad end; a failure for another reason is another bug.
    """
    failures: dict[str, str] = {}
    ran = False
    for test, its in runs.items():
        statuses = {run.status for run in its}
        if odd := [run for run in its if run.status in ("MISS", "ERROR")]:
            return Commit("", State.SKIP, f"{test}: {odd[0].message or odd[0].status}")
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


class Bisection:
    """A search between a good and a bad revision, which can be resumed.

    :param tree: the user's git tree, which is only read.
    :param directory: for a repository that uses the tree's objects, and for what was found out.
        If a search is there, it is gone on with.
    :param options: git-bisect's own: `--first-parent`; and paths behind `--`.
    """

    def __init__(
        self,
        tree: Path,
        good: str,
        bad: str,
        *,
        settings: Settings,
        directory: Path,
        runner: Runner,
        builder: Builder,
        progress: Progress,
        options: Sequence[str] = (),
        paths: Sequence[str] = (),
    ) -> None:
        self._tree = tree
        self._good, self._bad = resolved(tree, good), resolved(tree, bad)
        self._settings = settings
        self._directory = directory
        self._repository = directory / "repository"
        self._runner = runner
        self._builder = builder
        self._progress = progress
        self._options, self._paths = [*options], [*paths]
        self._commits: list[Commit] = []

    def run(self) -> Conclusion:
        """Search; both ends are tested first."""
        self._open()
        bad = self._test(self._bad)
        if bad.state is not State.BAD:
            what = "the tests pass there" if bad.state is State.GOOD else bad.reason
            return self._conclude(None, f"the bad end, {self._bad[:12]}, is not bad: {what}")
        good = self._test(self._good, bad.failures)
        if good.state is not State.GOOD:
            return self._conclude(None, f"the good end, {self._good[:12]}, is not: {good.reason}")
        output = ""
        while True:
            match = _CULPRIT.search(output)
            if match is not None:
                conclusion = self._conclude(match[1], "")
                self._forget()
                return conclusion
            if _ONLY_SKIPPED in output:
                suspects = tuple(_SUSPECT.findall(output))
                return self._conclude(None, "the commits between cannot be tested", suspects)
            revision = git(self._repository, "rev-parse", "BISECT_HEAD").strip()
            commit = self._test(revision, bad.failures)
            result = run_git(self._repository, "bisect", commit.state.value, revision)
            output = result.output
            if result.status != 0 and _ONLY_SKIPPED not in output:
                return self._conclude(None, f"git says: {' '.join(output.split())}")

    def _conclude(
        self, culprit: str | None, why: str, suspects: tuple[str, ...] = ()
    ) -> Conclusion:
        log = run_git(self._repository, "bisect", "log").output
        return Conclusion(culprit, why, suspects, tuple(self._commits), log)

    def _open(self) -> None:
        """Go on with the search that is there, or begin one."""
        note = self._directory / _COMMITS
        if (self._repository / ".git/BISECT_LOG").exists() and note.exists():
            self._commits = [
                Commit(one["revision"], State(one["state"]), one["reason"], tuple(one["failures"]))
                for one in json.loads(note.read_text())
            ]
            self._progress.say(f"going on with a search of which {len(self._commits)} are tested")
            return
        shutil.rmtree(self._repository, ignore_errors=True)
        git(
            self._directory, "clone", "--quiet", "--shared", "--no-checkout",
            str(self._tree.resolve()), str(self._repository),
        )  # fmt: skip
        words = ["bisect", "start", "--no-checkout", *self._options, self._bad, self._good]
        git(self._repository, *words, "--", *self._paths)
        self._note()

    def _forget(self) -> None:
        (self._directory / _COMMITS).unlink()
        shutil.rmtree(self._repository)

    def _note(self) -> None:
        values = [
            {
                "revision": commit.revision,
                "state": commit.state.value,
                "reason": commit.reason,
                "failures": list(commit.failures),
            }
            for commit in self._commits
        ]
        write_atomically(self._directory / _COMMITS, json.dumps(values).encode())

    def _test(self, revision: str, reasons: Sequence[str] = ()) -> Commit:
        """Test a commit, unless that was done before."""
        for commit in self._commits:
            if commit.revision == revision:
                return commit
        commit = replace(self._run(revision, reasons), revision=revision)
        self._commits.append(commit)
        self._note()
        subject = git(self._tree, "log", "-1", "--format=%s", revision).strip()
        reason = f": {commit.reason}" if commit.reason else ""
        self._progress.say(f'{commit.state.value}: {revision[:12]} ("{subject}"){reason}')
        return commit

    def _run(self, revision: str, reasons: Sequence[str]) -> Commit:
        settings = replace(self._settings, kernel=(f"{self._tree}@{revision}",))
        try:
            self._builder.build(settings)
        except BuildError as error:
            return Commit("", State.SKIP, error.message.partition("\n")[0])
        with (
            self._progress.stage(f"testing {revision[:12]}") as stage,
            self._runner.start(_NAME, settings) as child,
        ):
            self._runner.wait({_NAME: child}, lambda text: stage.update(text=text))
            return judge_commit(self._runner.result(_NAME, child), reasons)
