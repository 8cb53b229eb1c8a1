"""Which commit broke a test: git's own bisection, with verdicts that can be trusted."""

from __future__ import annotations

import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from ..change import git, resolved, run_git, subject_of
from ..progress import Progress
from ..settings import Settings
from ._runner import Runner
from ._tested import (
    Builder,
    Commit,
    CommitTester,
    State,
    why_no_bad_end,
    why_no_good_end,
)

__all__ = ["Bisection", "Conclusion"]

_COMMITS: Final = "commits.json"  # what was found out

# git-bisect(1). A name has 40 digits, with SHA-256 64 (git-init(1), --object-format).
_CULPRIT: Final = re.compile(r"^([0-9a-f]{40,64}) is the first bad commit$", re.MULTILINE)
_ONLY_SKIPPED: Final = "only 'skip'ped commits left to test"
_NONE_LEFT: Final = "No testable commit found"
_SUSPECT: Final = re.compile(r"^([0-9a-f]{40,64})$", re.MULTILINE)


@dataclass(frozen=True)
class Conclusion:
    """What a search came to."""

    culprit: str | None
    """The first bad commit; None where that is not clear."""
    why: str
    """Why that is not clear."""
    suspects: tuple[str, ...]
    """The commits of which one is the first bad one, where that is not clear."""
    commits: tuple[Commit, ...]
    """Those that were tested, in that order."""
    log: str
    """`git bisect log`, for `git bisect replay`."""


class Bisection:
    """A search between a good and a bad revision, which can be resumed until it has an outcome.

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
        self._note = directory / _COMMITS
        self._tester = CommitTester(self._note, runner=runner, builder=builder, progress=progress)
        self._options, self._paths = [*options], [*paths]

    def run(self) -> Conclusion:
        """Search; both ends are tested first.

        The commit that is found, or the first bad one where what is before it cannot be tested, and
        the last good ones before it, are tested once more: whichever commit varies and was taken
        for good or bad, it is one of these.
        """
        self._open()
        while True:
            conclusion = self._search()
            first_bad = conclusion.culprit or self._bad_one(conclusion.suspects)
            if first_bad is None or self._is_confirmed(first_bad):
                conclusion = self._without_doubt(conclusion)
                self._forget()
                return replace(conclusion, commits=self._tester.commits)
            self._start()

    def _search(self) -> Conclusion:
        bad = self._test(self._bad, is_end=True)
        if bad.state is not State.BAD:
            return self._conclude(None, why_no_bad_end(self._bad[:12], bad))
        good = self._test(self._good, bad, is_end=True)
        if good.state is not State.GOOD:
            return self._conclude(None, why_no_good_end(self._good[:12], good))
        output = ""
        while True:
            match = _CULPRIT.search(output)
            if match is not None:
                return self._conclude(match[1], "")
            if _ONLY_SKIPPED in output:
                suspects = tuple(_SUSPECT.findall(output))
                return self._conclude(None, "the commits between cannot be tested", suspects)
            revision = git(self._repository, "rev-parse", "BISECT_HEAD").strip()
            commit = self._test(revision, bad)
            result = run_git(self._repository, "bisect", commit.state.value, revision)
            output = result.output
            if self._paths and _NONE_LEFT in output:
                why = "all commits that change it are good: --path leaves out the culprit"
                return self._conclude(None, why)
            if result.status != 0 and _ONLY_SKIPPED not in output:
                return self._conclude(None, f"git says: {' '.join(output.split())}")

    def _conclude(
        self, culprit: str | None, why: str, suspects: tuple[str, ...] = ()
    ) -> Conclusion:
        log = run_git(self._repository, "bisect", "log").output
        return Conclusion(culprit, why, suspects, self._tester.commits, log)

    def _open(self) -> None:
        """Go on with the search that is there, or begin one."""
        if (self._repository / ".git/BISECT_LOG").exists() and self._note.exists():
            self._tester.resume()
            # From the beginning: git has also taken note of commits that could not be tested.
            self._start()
            return
        shutil.rmtree(self._repository, ignore_errors=True)
        git(
            self._directory, "clone", "--quiet", "--shared", "--no-checkout",
            str(self._tree.resolve()), str(self._repository),
        )  # fmt: skip
        self._start()
        self._tester.begin()

    def _start(self) -> None:
        words = ["bisect", "start", "--no-checkout", *self._options, self._bad, self._good]
        git(self._repository, *words, "--", *self._paths)

    def _bad_one(self, suspects: Sequence[str]) -> str | None:
        """Return the one of the suspects that is bad; the others cannot be tested."""
        bad = {one.revision for one in self._tester.commits if one.state is State.BAD}
        return next((revision for revision in suspects if revision in bad), None)

    def _is_confirmed(self, culprit: str) -> bool:
        """Whether a commit is bad, and the last good ones before it are good, a second time."""
        good = [
            one.revision
            for one in self._tester.commits
            if one.state is State.GOOD and self._is_ancestor(one.revision, culprit)
        ]
        last = [
            one
            for one in good
            if not any(one != other and self._is_ancestor(one, other) for other in good)
        ]
        bad = self._test(self._bad)
        return all(
            self._tester.confirm(revision, self._kernel(revision), bad, **self._names(revision))
            for revision in (culprit, *last)
        )

    def _without_doubt(self, conclusion: Conclusion) -> Conclusion:
        """Test what is before the commit that is found: with paths, git does not.

        The commit that broke the tests may be one that changes nothing there.
        """
        if conclusion.culprit is None or not self._paths:
            return conclusion
        words = ["rev-list", "--parents", "-n1", conclusion.culprit]
        _, *parents = git(self._repository, *words).split()
        for parent in parents[:1] if "--first-parent" in self._options else parents:
            if self._is_ancestor(parent, self._good):
                continue
            commit = self._test(parent, bad := self._test(self._bad))
            names = self._names(parent)
            if commit.state is State.GOOD and not self._tester.confirm(
                parent, self._kernel(parent), bad, **names
            ):
                commit = self._test(parent)
            if commit.state is State.GOOD:
                continue
            culprit = conclusion.culprit[:12]
            if commit.state is State.BAD:
                why = f"{parent[:12]}, before {culprit}, is bad, too: --path leaves out the culprit"
                return replace(conclusion, culprit=None, why=why)
            why = f"{parent[:12]}, before {culprit}, cannot be tested: {commit.reason}"
            return replace(conclusion, culprit=None, why=why, suspects=(conclusion.culprit,))
        return conclusion

    def _is_ancestor(self, one: str, other: str) -> bool:
        return run_git(self._repository, "merge-base", "--is-ancestor", one, other).status == 0

    def _forget(self) -> None:
        self._tester.forget()
        shutil.rmtree(self._repository)

    def _test(self, revision: str, bad: Commit | None = None, *, is_end: bool = False) -> Commit:
        """Test a commit, unless that was done before."""
        names = self._names(revision)
        return self._tester.test(revision, self._kernel(revision), bad, **names, is_end=is_end)

    def _kernel(self, revision: str) -> Settings:
        return replace(self._settings, kernel=(f"{self._tree}@{revision}",))

    def _names(self, revision: str) -> dict[str, str]:
        name = revision[:12]
        return {"name": name, "shown": f'{name} ("{subject_of(self._tree, revision)}")'}
