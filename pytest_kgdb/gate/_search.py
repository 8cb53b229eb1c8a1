"""Which patch of a series, and which configuration symbols, break a test."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from ..cache import write_atomically
from ..errors import ConfigError
from ..kernel import parse_config, render_config
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

__all__ = ["ConfigSearch", "Discovery", "PatchSearch", "reduce", "search"]

_NOTES: Final = "tested.json"


@dataclass(frozen=True)
class Discovery:
    """What a search came to."""

    culprits: tuple[str, ...]
    """The patch, or the symbols, that break the tests; nothing where that is not known."""
    why: str
    """Why it is not known."""
    suspects: tuple[str, ...]
    """Of which one breaks them, where it is not known which."""
    tested: tuple[Commit, ...]
    """What was tested, in that order."""
    wrong_end: bool = False
    """Whether the tests say clearly that an end is not what it was said to be."""
    unsure: tuple[str, ...] = ()
    """The culprits that may be none: without one of them, the kernel cannot be tested."""


def search(count: int, test: Callable[[int], State]) -> tuple[int, ...]:
    """Return the first bad one of numbered steps, or those of which it is one, in order.

    0 is good, and the last one is bad. The last one that is returned is bad, and the one before the
    first is good.

    :param count: the number of the last one.
    :param test: tests one; what cannot be tested is gone round.
    """
    good, bad = 0, count
    skipped: set[int] = set()
    while True:
        middle = (good + bad) / 2
        candidates = [step for step in range(good + 1, bad) if step not in skipped]
        if not candidates:
            break
        step = min(candidates, key=lambda one: abs(one - middle))
        state = test(step)
        if state is State.GOOD:
            good = step
        elif state is State.BAD:
            bad = step
        else:
            skipped.add(step)
    return tuple(range(good + 1, bad + 1))


def reduce(items: Sequence[str], test: Callable[[Sequence[str]], State]) -> list[str]:
    """Return a part of the items that is bad, and good without any one of them.

    All of them are bad, and none is good. Neighbours stay together for as long as may be (A.
    Zeller, R. Hildebrandt: Simplifying and Isolating Failure-Inducing Input, the algorithm ddmin).

    :param test: tests some; what cannot be tested is not taken for bad.
    """
    current, parts = list(items), 2
    while len(current) >= 2:
        size = -(-len(current) // parts)
        chunks = [current[start : start + size] for start in range(0, len(current), size)]
        rests = [[one for one in current if one not in chunk] for chunk in chunks]
        smaller = next((chunk for chunk in chunks if test(chunk) is State.BAD), None)
        if smaller is not None:
            current, parts = smaller, 2
            continue
        if len(chunks) > 2:
            smaller = next((rest for rest in rests if test(rest) is State.BAD), None)
        if smaller is not None:
            current, parts = smaller, max(parts - 1, 2)
        elif size == 1:
            break
        else:
            parts = min(len(current), 2 * parts)
    return current


class _Search:
    """What both searches have in common: a kernel is tested once, also after an interruption.

    :param directory: for what was found out. If a search is there that has no outcome, it is gone
        on with.
    """

    def __init__(
        self, directory: Path, *, runner: Runner, builder: Builder, progress: Progress
    ) -> None:
        self._directory = directory
        self._tester = CommitTester(
            directory / _NOTES,
            runner=runner,
            builder=builder,
            progress=progress,
        )
        self._tester.resume()

    def _test(self, title: str, settings: Settings, bad: Commit | None) -> Commit:
        """Test a kernel, unless that was done before."""
        # A patch of Kconfig may break what the settings ask for, also at the end of the series.
        return self._tester.test(title, settings, bad, name=title, shown=title)

    def _confirm(self, title: str, settings: Settings, bad: Commit) -> bool:
        """Test a kernel once more; False if it varies, and is gone round from now on."""
        self._test(title, settings, bad)  # unless that was done
        return self._tester.confirm(title, settings, bad, name=title, shown=title)

    def _ends(
        self, good: tuple[str, Settings], bad: tuple[str, Settings]
    ) -> tuple[str, bool, Commit]:
        """Test both ends; return why they cannot be, whether they are wrong, and the bad one."""
        last = self._test(*bad, None)
        if last.state is not State.BAD:
            return why_no_bad_end(bad[0], last), last.state is State.GOOD, last
        first = self._test(*good, last)
        if first.state is not State.GOOD:
            return why_no_good_end(good[0], first), first.state is State.BAD, last
        return "", False, last

    def _conclude(
        self,
        culprits: Sequence[str] = (),
        why: str = "",
        suspects: Sequence[str] = (),
        *,
        wrong_end: bool = False,
        unsure: Sequence[str] = (),
    ) -> Discovery:
        self._tester.forget()
        commits = self._tester.commits
        return Discovery(tuple(culprits), why, tuple(suspects), commits, wrong_end, tuple(unsure))


class PatchSearch(_Search):
    """A search for the patch of a series that breaks the tests.

    :param steps: the patches' names, and the settings with each and those before it.
    :param base: the settings without any.
    """

    def __init__(
        self, base: Settings, steps: Sequence[tuple[str, Settings]], directory: Path,
        *, runner: Runner, builder: Builder, progress: Progress,
    ) -> None:  # fmt: skip
        super().__init__(directory, runner=runner, builder=builder, progress=progress)
        self._kernels = [("without patches", base)]
        for number, (name, settings) in enumerate(steps, 1):
            self._kernels.append((f"{number}: {name}", settings))

    def run(self) -> Discovery:
        """Search; both ends are tested first."""
        last = len(self._kernels) - 1
        while True:
            why, wrong, bad = self._ends(self._kernels[0], self._kernels[last])
            if why:
                return self._conclude(why=why, wrong_end=wrong)
            suspects = search(last, functools.partial(self._state, bad))
            # Whichever kernel varies and was taken for good or bad is one of these two.
            edges = (suspects[-1], suspects[0] - 1)
            if not all(self._confirm(*self._kernels[step], bad) for step in edges):
                continue
            names = [self._kernels[step][0] for step in suspects]
            if len(names) == 1:
                return self._conclude(names)
            return self._conclude(why="the kernels between cannot be tested", suspects=names)

    def _state(self, bad: Commit, step: int) -> State:
        return self._test(*self._kernels[step], bad).state


class ConfigSearch(_Search):
    """A search for the symbols in which two configurations differ that break the tests.

    A kernel is the good configuration with some of the bad one's values, as `make olddefconfig`
    leaves it: a symbol without what it depends on is dropped there. Symbols are kept together in
    the order of the bad configuration, in which those that depend on each other are near.
    """

    def __init__(
        self, settings: Settings, good: Path, bad: Path, directory: Path,
        *, runner: Runner, builder: Builder, progress: Progress,
    ) -> None:  # fmt: skip
        super().__init__(directory, runner=runner, builder=builder, progress=progress)
        self._settings = settings
        self._good = _symbols(good)
        values = _symbols(bad)
        names = [*values, *(name for name in self._good if name not in values)]
        self._values: dict[str, str] = {
            name: values.get(name, "n")
            for name in names
            if values.get(name, "n") != self._good.get(name, "n")
        }

    def run(self) -> Discovery:
        """Search; both ends are tested first."""
        if not self._values:
            raise ConfigError("the two configurations do not differ")
        everything = list(self._values)
        ends = [(self._title(part), self._with(part)) for part in ([], everything)]
        while True:
            why, wrong, bad = self._ends(*ends)
            if why:
                return self._conclude(why=why, wrong_end=wrong)
            culprits = reduce(everything, functools.partial(self._state, bad))
            without = [[one for one in culprits if one != name] for name in culprits]
            if all(
                self._confirm(self._title(part), self._with(part), bad)
                for part in (culprits, *without)
            ):
                names = [f"CONFIG_{name}={self._values[name]}" for name in culprits]
                unsure = [
                    name
                    for name, rest in zip(names, without, strict=True)
                    if self._state(bad, rest) is State.SKIP
                ]
                return self._conclude(names, unsure=unsure)

    def _state(self, bad: Commit, part: Sequence[str]) -> State:
        return self._test(self._title(part), self._with(part), bad).state

    def _title(self, names: Sequence[str]) -> str:
        if not names:
            return "the good configuration"
        if len(names) == len(self._values):
            return "the bad configuration"
        shown = ", ".join(f"CONFIG_{name}={self._values[name]}" for name in names[:3])
        if len(names) <= 3:
            return shown
        digest = hashlib.sha256("\n".join(names).encode()).hexdigest()[:8]
        return f"{shown} and {len(names) - 3} more ({digest})"

    def _with(self, names: Sequence[str]) -> Settings:
        symbols: Mapping[str, str] = self._good | {name: self._values[name] for name in names}
        text = render_config(symbols)
        digest = hashlib.sha256(text.encode()).hexdigest()[:16]
        path = self._directory / f"{digest}.config"
        write_atomically(path, text.encode())
        origins = {**self._settings.origins, "config": "--configs"}
        return replace(self._settings, config=str(path), origins=origins)


def _symbols(path: Path) -> dict[str, str]:
    try:
        symbols = parse_config(path.read_text(errors="replace"))
    except OSError as error:
        raise ConfigError(f"--configs: cannot read {path}: {error.strerror}") from error
    if not symbols:
        raise ConfigError(f"--configs: {path} is not a kernel configuration")
    return symbols
