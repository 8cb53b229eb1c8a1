"""A series step by step: each commit against its parent, each patch on top of those before it."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ..change import Change, from_patches, from_revisions, git, resolved, subject_of, tree_of
from ..errors import ConfigError
from ..kernel import Patch, read_patches
from ..settings import Settings
from ._run import Outcome, untested
from ._verdicts import INCONCLUSIVE, NOT_PROVEN, PROVEN, Result, Verdict, is_good

__all__ = ["Series", "Step", "Tested", "each_patch", "each_revision", "run_each"]

_LONGEST_NAME: Final = 60  # characters


@dataclass(frozen=True)
class Step:
    """One commit or patch of a series."""

    title: str
    """The commit with its subject, or the patch's name."""
    change: Change


@dataclass(frozen=True)
class Tested:
    """What a gate on one step came to."""

    title: str
    outcome: Outcome
    awaited: frozenset[str]
    """The tests that a later step is proven by: they may fail on both of its sides."""

    def is_good(self, result: Result) -> bool:
        """Whether a test may have its verdict on this step."""
        awaited = result.verdict is Verdict.FAILS_BOTH and result.test in self.awaited
        expected = self.outcome.expected
        return is_good(result.verdict, expected) or (awaited and expected is None)


@dataclass(frozen=True)
class Series:
    """What the gates on all steps came to."""

    steps: tuple[Tested, ...]

    @property
    def status(self) -> int:
        """0: proven; 1: not proven; 6: inconclusive."""
        results = [(step, result) for step in self.steps for result in step.outcome.results]
        bad = {result.verdict for step, result in results if not step.is_good(result)}
        # Those that were not tested at all.
        statuses = {step.outcome.status for step in self.steps if not step.outcome.results}
        if bad & {Verdict.BROKEN, Verdict.FAILS_BOTH} or NOT_PROVEN in statuses:
            return NOT_PROVEN
        if bad & {Verdict.FLAKY, Verdict.CANNOT_TELL} or INCONCLUSIVE in statuses:
            return INCONCLUSIVE
        if bad:
            return NOT_PROVEN
        if any(step.outcome.expected is not None for step in self.steps):
            return PROVEN
        proves = any(result.verdict is Verdict.PROVES for _, result in results)
        return PROVEN if proves else NOT_PROVEN


def each_revision(settings: Settings, before: str, after: str) -> list[Step]:
    """Return the commits between two revisions, each against the one before it.

    Of a merge, the first parent is followed.

    :raises ConfigError: the kernel is no git tree, has no such revisions, or none between them.
    """
    tree = tree_of(settings.kernel[0])
    first, last = (resolved(tree, revision) for revision in (before or "HEAD", after or "HEAD"))
    argv = ["rev-list", "--reverse", "--first-parent", f"{first}..{last}"]
    commits = git(tree, *argv).split()
    if not commits:
        raise ConfigError(f"there are no commits in {before or 'HEAD'}..{after or 'HEAD'}")
    steps = []
    for commit in commits:
        change = from_revisions(settings, f"{commit}^", commit)
        steps.append(Step(f'{commit[:12]} ("{subject_of(tree, commit)}")', change))
    return steps


def each_patch(settings: Settings, patches: Sequence[Path], scratch: Path) -> list[Step]:
    """Return the patches of mailboxes and series, each on top of those before it.

    :param scratch: a directory for the single patches.
    :raises ConfigError: a patch cannot be read.
    """
    # The base that the first one names is that of all.
    base = from_patches(settings, patches).base.settings
    steps = []
    for number, patch in enumerate(_patches_of(patches), 1):
        path = _alone(patch, f"{number:04}-{_file_name(patch.name)}", scratch)
        change = from_patches(base, [path])
        steps.append(Step(patch.name, change))
        base = change.patched.settings
    return steps


def run_each(steps: Sequence[Step], gate: Callable[[int, Step], Outcome]) -> Series:
    """Run a gate on each step; one that cannot be built does not end the series.

    :param gate: runs one; is given the step's number, too.
    """
    outcomes = []
    for number, step in enumerate(steps, 1):
        try:
            outcomes.append(gate(number, step))
        except ConfigError as error:  # the commit breaks Kconfig, for one
            outcomes.append(untested(step.change, error, INCONCLUSIVE))
    tested: list[Tested] = []
    awaited: set[str] = set()
    for step, outcome in zip(reversed(steps), reversed(outcomes), strict=True):
        tested.insert(0, Tested(step.title, outcome, frozenset(awaited)))
        awaited |= {one.test for one in outcome.results if one.verdict is Verdict.PROVES}
    return Series(tuple(tested))


def _patches_of(patches: Sequence[Path]) -> Iterator[Patch]:
    for path in patches:
        yield from read_patches(path)


def _alone(patch: Patch, name: str, scratch: Path) -> Path:
    """Write one patch to a file; as a quilt series if it is not applied as a file would be."""
    path = scratch / f"{name}.patch"
    path.write_bytes(patch.data)
    if patch.strip == 1 and not patch.reverse:
        return path
    series = scratch / name
    series.mkdir()
    words = f"{shlex.quote(f'../{path.name}')} -p{patch.strip}{' -R' if patch.reverse else ''}"
    (series / "series").write_text(f"{words}\n")
    return series


def _file_name(title: str) -> str:
    subject = title.partition(": ")[2] or title.removesuffix(".patch").removesuffix(".diff")
    subject = re.sub(r"^\[[^\]]*\]\s*", "", subject)
    return re.sub(r"[^\w.]+", "-", subject).strip("-.")[:_LONGEST_NAME] or "patch"
