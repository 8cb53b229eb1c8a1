"""Runs the tests on both kernels, side by side."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, NamedTuple, Protocol

from ..change import Change, Side, built_lines
from ..errors import BuildError, ConfigError, KgdbError
from ..kernel import Kernel, not_compiled
from ..progress import Progress
from ..settings import Settings
from ._compare import differences
from ._runner import Runner
from ._verdicts import INCONCLUSIVE, NOT_PROVEN, Result, Run, Verdict, exit_status, judge

__all__ = ["BuiltSide", "Gate", "Outcome", "untested"]

# Other files have no lines of code.
_SOURCES: Final = (".c", ".h", ".S")


class BuiltSide(NamedTuple):
    """What one side's tests run on."""

    kernel: Kernel
    modules: tuple[Path, ...] = ()
    """The out-of-tree modules."""


class Kernels(Protocol):
    """Builds kernels, or finds them in the cache."""

    def build(self, settings: Settings) -> BuiltSide:
        """Return the kernel of these settings, and its out-of-tree modules."""

    def same(self, one: BuiltSide, other: BuiltSide) -> bool:
        """Whether two kernels, their modules included, do not differ."""


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
    expected: tuple[Verdict, ...] | None = None
    """The verdicts that are good ones, where the user said so."""


class Gate:
    """The tests, on a kernel without and with a change.

    :param runner: runs the tests.
    """

    def __init__(
        self, change: Change, kernels: Kernels, runner: Runner, *, progress: Progress
    ) -> None:
        self._change = change
        self._kernels = kernels
        self._runner = runner
        self._progress = progress

    def run(self, expected: Sequence[Verdict] | None = None) -> Outcome:
        """Build both kernels, run the tests on them, and judge.

        :param expected: the verdicts that are good ones.
        :raises GateFailed: pytest itself did not run.
        :raises ConfigError: the base cannot be as the settings are.
        """
        change, notes = self._change, [*self._change.notes]
        try:
            base = self._kernels.build(change.base.settings)
        except BuildError as error:
            return untested(change, error, INCONCLUSIVE, _which(change.base))
        try:
            patched = self._kernels.build(change.patched.settings)
        except BuildError as error:
            return untested(change, error, NOT_PROVEN, _which(change.patched))
        except ConfigError as error:  # it takes a symbol away that is asked for
            return untested(change, error, INCONCLUSIVE, _which(change.patched))
        for file in not_compiled(patched.kernel, change.files) if change.of_kernel else ():
            notes.append(f"{file.file} is not compiled: {_sentence(file.why)}")
        notes += dict.fromkeys((*base.kernel.inexact, *patched.kernel.inexact))
        if change.of_kernel and (change.base.settings.patch or change.patched.settings.patch):
            lines = built_lines(
                change.files,
                change.lines,
                base.kernel.sources,
                patched.kernel.sources,
                exact=not patched.kernel.inexact,
            )
            change = replace(change, lines=lines)
        unchanged = ""
        if self._kernels.same(base, patched):
            what = "this kernel" if change.of_kernel else "the driver's modules"
            unchanged = f"the change makes no difference to {what}"
            notes.insert(0, f"{unchanged}: both have the same vmlinux, image and modules")
        runs = self._run_tests()
        tests = dict.fromkeys([*runs[0], *runs[1]])
        results = tuple(
            judge(
                test,
                runs[0].get(test, ()),
                runs[1].get(test, ()),
                unchanged=unchanged,
                asked=self._runner.repeat,
            )
            for test in tests
        )
        results = tuple(
            replace(one, differences=differences(one.base, one.patched))
            if one.verdict is Verdict.PASSES_BOTH
            else one
            for one in results
        )
        if not unchanged:
            results = self._say_what_ran(change, results, notes)
        return Outcome(
            change,
            results,
            exit_status(results, expected),
            tuple(notes),
            (base.kernel.release, patched.kernel.release),
            (base.kernel.build_id, patched.kernel.build_id),
            None if expected is None else tuple(expected),
        )

    # The runs

    def _run_tests(self) -> tuple[dict[str, list[Run]], dict[str, list[Run]]]:
        sides = self._change.sides
        title = " and on ".join(side.label for side in sides)
        with contextlib.ExitStack() as stack:
            stage = stack.enter_context(self._progress.stage(f"testing on {title}"))
            settings = {side.name: side.settings for side in sides}
            children = {
                name: stack.enter_context(child)
                for name, child in self._runner.start_in_step(settings)
            }
            self._runner.wait(children, lambda text: stage.update(text=text))
            base, patched = (self._runner.result(name, child) for name, child in children.items())
        if any(run.status in ("PASS", "FAIL") for its in base.values() for run in its):
            patched = self._boot_again(patched)
        return base, patched

    def _boot_again(self, patched: dict[str, list[Run]]) -> dict[str, list[Run]]:
        """Tell a patched kernel that hangs in its boot from one that was late on a busy host.

        It is tried once more, with no other kernel beside it.
        """
        late = {test for test, its in patched.items() if all(run.boot == "late" for run in its)}
        if not late:
            return patched
        with (
            self._progress.stage("booting the patched kernel again, alone") as stage,
            self._runner.start("again", self._change.patched.settings, repeat=1) as child,
        ):
            self._runner.wait({"again": child}, lambda _: stage.update())
            again = self._runner.result("again", child)
        return {
            test: [replace(run, boot="hung") for run in its]
            if test in late and all(run.boot for run in again.get(test, [Run("SKIP")]))
            else its
            for test, its in patched.items()
        }

    def _say_what_ran(
        self, change: Change, results: tuple[Result, ...], notes: list[str]
    ) -> tuple[Result, ...]:
        """Say of tests that pass on both kernels that they ran no line of the change, if so.

        They run once more for that: the runs that the verdicts are of have no int3s in them.
        """
        lines = [one for one in change.lines if one.file.endswith(_SOURCES)]
        passing = [one for one in results if one.verdict is Verdict.PASSES_BOTH]
        if not (change.of_kernel and lines and passing):
            return results
        with self._progress.stage("looking which lines of the change run") as stage:
            child = self._runner.start_covered("covered", change.patched.settings, lines)
            with child:
                self._runner.wait({"covered": child}, lambda _: stage.update())
                covered = self._runner.covered("covered", child)
        if covered is None:
            notes.append("which lines of the change run cannot be told")
            return results
        if not covered.lines:
            return results
        why = (
            "it runs no line of the change"
            if covered.lines == 1
            else f"it runs none of the {covered.lines} lines of the change that can be observed"
        )
        return tuple(
            replace(one, reason=why) if one in passing and one.test in covered.without else one
            for one in results
        )


def _which(side: Side) -> str:
    return f"the {side.name} kernel ({side.label})"


def untested(change: Change, error: KgdbError, status: int, which: str = "a kernel") -> Outcome:
    """Return the outcome where no test can be run.

    :param which: the kernel that cannot be built.
    """
    note = f"{which} cannot be built: {error.message}"
    if error.hint:
        note += f"\nhint: {error.hint}"
    return Outcome(change, (), status, (*change.notes, note), ("", ""), ("", ""))


def _sentence(why: str) -> str:
    return f"--kgdb-set={why.split(', ')[0]}=y would" if why.startswith("CONFIG_") else why
