"""Fail each: a scenario with the 1st, 2nd, 3rd… call of a function failing."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Final, NamedTuple, Protocol

from ..debugger import RunControl
from ..errors import (
    BootError,
    BuildError,
    CacheError,
    ConfigError,
    DebuggerDied,
    KernelPanic,
    KgdbError,
    MachineDied,
    StaleError,
    TimeoutError,
)
from ..guest import Shell
from ..klog import Splat
from ..splats import SplatWatch
from ..trace import Override
from ._leaks import LeakBaseline, LeakDetector
from ._outcomes import (
    PATH_FRAMES,
    FailEach,
    Outcome,
    Verdict,
    last_line,
    place_in,
    place_of_splat,
    place_of_stop,
    words_of_splat,
)
from ._references import surplus

__all__ = ["NEVER", "FailEach", "FailEachRunner", "Outcome", "Snapshots", "Verdict"]


# More calls than any scenario makes: such an override only counts.
NEVER: Final = 1 << 62
_LATER: Final = 1  # seconds that a reference may take to be given back
_SLEEP_SECONDS: Final = 30.0  # in which a guest has slept for as long, whatever its speed
_AGAIN: Final = "run again, without a failure: "
# What the host has failed at, or the test itself.
_NO_VERDICTS: Final = (BootError, BuildError, CacheError, ConfigError, DebuggerDied, StaleError)


class GuestModule(Protocol):
    """The part of a module that is used here."""

    @property
    def name(self) -> str:
        """The kernel's name for it."""

    def unload(self) -> None:
        """Unload it; raises GuestCommandError."""


class GuestModules(Protocol):
    """The guest's modules, the latest first; the kernel must be stopped."""

    def __iter__(self) -> Iterator[GuestModule]: ...


class Snapshots(Protocol):
    """The snapshots of a test."""

    @property
    def names(self) -> list[str]:
        """The names of those that there are."""

    def take(self, name: str) -> None:
        """Save the machine under a name."""

    def restore(self, name: str) -> None:
        """Restore the machine to what was saved."""


class FailEachRunner:
    """Runs a scenario again and again, with another call of a function failing each time.

    :param modules: the guest's modules; None where there are none.
    :param references: returns how many references there are to each of them, by name.
    """

    def __init__(
        self,
        run_control: RunControl,
        shell: Shell,
        splats: SplatWatch,
        leaks: LeakDetector,
        snapshots: Snapshots,
        modules: GuestModules | None,
        references: Callable[[], Mapping[str, int]],
    ) -> None:
        self._references = references
        self._run_control = run_control
        self._shell = shell
        self._splats = splats
        self._leaks = leaks
        self._snapshots = snapshots
        self._modules = modules

    def run(
        self,
        function: str,
        scenario: Callable[[], object],
        fail: Callable[[int, int | None], Override],
        *,
        limit: int,
        again: bool = True,
    ) -> FailEach:
        """Fail each call once; see :meth:`Kgdb.fail_each`.

        :param fail: makes the override that lets so many calls through, and fails so many.
        """
        if limit < 1:
            raise KgdbError(f"fail_each() tries at least one call, not {limit}")
        taken = self._snapshots.names
        names = (f"fail_each-{number}" for number in range(len(taken) + 1))
        name = next(candidate for candidate in names if candidate not in taken)
        self._snapshots.take(name)
        before = _Before(self._module_names(), [self._references()])
        outcomes: list[Outcome] = []
        complete = ended = False
        unsought = self._leaks.why_not()
        try:
            with fail(NEVER, None) as counted:
                usual = self._try(scenario, 0, counted)
            _refuse(function, usual, counted)
            calls = counted.calls
            baseline = LeakBaseline(self._usual_leaks() if unsought is None else ())
            unrepeated: str | None = "again=False"
            if again:
                unrepeated = self._why_not_again(scenario, usual, before)
            for number in range(1, limit + 1):
                self._snapshots.restore(name)
                failing = fail(number - 1, 1)
                with _naming(function, number, failing):
                    with failing:
                        outcome = self._try(scenario, number, failing)
                    if complete := failing.forced == 0:
                        _check_ended(outcome)
                        break
                    if unsought is None:
                        outcome = self._with_leaks(outcome, baseline)
                    if unrepeated is None and outcome.ok:
                        outcome = self._repeated(scenario, outcome, usual, before)
                outcomes.append(outcome)
                if ended := not self._run_control.alive:
                    break
        finally:
            if self._run_control.alive:
                self._snapshots.restore(name)
        complete = complete or (calls <= limit and not ended)
        return FailEach(
            function,
            outcomes,
            calls=max(calls, len(outcomes)),
            complete=complete,
            ended=ended,
            unsought=unsought,
            unrepeated=unrepeated,
        )

    def _usual_leaks(self) -> list[Splat]:
        """Return the leaks before the scenario, or of its every run: no failure leads to them.

        :raises KgdbError: the kernel reported something else meanwhile.
        """
        leaks = self._leaks.find()
        # The log counts them, which is taken note of here.
        verdict, message, _ = self._judge(None, leaks_apart=True)
        if verdict != "handled":
            raise KgdbError(f"the kernel had trouble before any call failed: {verdict}: {message}")
        return leaks

    def _with_leaks(self, outcome: Outcome, baseline: LeakBaseline) -> Outcome:
        """Return an outcome with its leaks, where the kernel goes on."""
        if outcome.verdict not in ("handled", "failed"):
            return outcome
        leaks: list[Splat] = []
        error: KgdbError | None = None
        try:
            leaks = baseline.beyond(self._leaks.find())
        except KgdbError as caught:
            if _is_no_verdict(caught):
                raise
            error = caught
        # The kernel has run on for it, and may have had more to report.
        verdict, message, place = self._judge(error, leaks_apart=True)
        if verdict != "handled":
            return replace(outcome, verdict=verdict, message=message, place=place)
        if error is not None:
            raise error
        if leaks and outcome.ok:
            message = "; ".join(leak.message for leak in leaks)
            outcome = replace(outcome, verdict="leak", message=message)
        return replace(outcome, leaks=tuple(leaks))

    def _try(self, scenario: Callable[[], object], number: int, failing: Override) -> Outcome:
        console = self._shell.console
        mark = console.mark()
        result, error = _outcome_of(scenario)
        verdict, message, place = self._judge(error)
        return Outcome(
            number,
            verdict,
            message,
            failing.last,
            failing.path[:PATH_FRAMES],
            result,
            error,
            console.shown(mark),
            place=place,
        )

    # The run after a failure

    def _module_names(self) -> set[str]:
        return {module.name for module in self._modules or ()}

    def _why_not_again(
        self, scenario: Callable[[], object], usual: Outcome, before: _Before
    ) -> str | None:
        """Return why a scenario is not to be run again after a failure; None if it is.

        One that does not pass twice in a row without any failure would tell nothing.
        """
        again = self._repeated(scenario, usual, usual, before)
        _check_ended(again)
        if again.ok:
            return None
        return f"the scenario does not pass twice: {again.message.splitlines()[0]}"

    def _repeated(
        self, scenario: Callable[[], object], outcome: Outcome, usual: Outcome, before: _Before
    ) -> Outcome:
        """Return an outcome, corrected by a run without a failure: whether something stayed behind.

        The modules that the scenario has loaded, and had no occasion to unload, are unloaded first;
        then the references to the others are counted.

        :param usual: how the scenario ends.
        :param before: what there was before it.
        """
        left: list[str] = []
        kept: list[str] = []

        def again() -> object:
            self._run_control.interrupt()
            for module in self._modules or ():
                if module.name not in before.modules:
                    left[:] = [module.name]
                    module.unload()
                    self._run_control.interrupt()
            left.clear()
            if outcome is usual:
                before.references.append(self._references())
            elif what := self._stays(before):
                kept.append(what)
                return usual.result
            return scenario()

        result, error = _outcome_of(again)
        verdict, message, place = self._judge(error)
        if verdict != "handled":
            return replace(
                outcome, verdict=verdict, message=f"{_AGAIN}{message}", place=place, error=error
            )
        status, expected = (getattr(value, "status", None) for value in (result, usual.result))
        if left:
            what = f"module {left[0]} cannot be unloaded: {message}"
        elif kept:
            what = kept[0]
        elif error is not None:
            what = f"{_AGAIN}{message}"
        elif status != expected:
            what = f"{_AGAIN}status {status} instead of {expected}: {last_line(result)}"
        else:
            return outcome
        return replace(outcome, verdict="leftover", message=what, error=error)

    def _stays(self, before: _Before) -> str | None:
        """Return to which module a failure has left references, or has given back too many."""
        what = surplus(self._references(), *before.references)
        if what is not None:
            # One that is given back a little later, by RCU or a worker, is none that stays.
            self._shell.run(f"sleep {_LATER}", _SLEEP_SECONDS, own=True)
            what = surplus(self._references(), *before.references)
        return what

    # Judging

    def _judge(self, error: BaseException | None, *, leaks_apart: bool = False) -> _Judgement:
        if isinstance(error, MachineDied):
            # Nothing can be asked any more.
            return _Judgement("reset", error.message.splitlines()[0], "")
        # Acknowledged, so that they are not the test's own as well.
        pending = self._splats.pending()
        self._splats.acknowledge(pending)
        splats = [splat for splat in pending if not (leaks_apart and splat.kind == "memory leak")]
        control = self._run_control
        stop = control.stop if control.stopped else None
        if stop is not None and stop.reason in ("oops", "panic"):
            verdict: Verdict = "oops" if stop.reason == "oops" else "panic"
            title = splats[0].title if splats else ""
            return _Judgement(verdict, stop.message or title, place_of_stop(stop))
        if isinstance(error, KernelPanic):
            place = place_of_splat(splats[0]) if splats else ""
            return _Judgement("panic", error.message.splitlines()[0], place)
        if splats:
            return _Judgement("splat", words_of_splat(splats[0]), place_of_splat(splats[0]))
        if isinstance(error, TimeoutError):
            return _Judgement("hang", error.message, place_in(error.message))
        if error is not None and not isinstance(error, KgdbError):
            return _Judgement("failed", f"{type(error).__name__}: {error}", "")
        # What the scenario could not do is what was to be expected of it.
        message = error.message.splitlines()[0] if isinstance(error, KgdbError) else ""
        return _Judgement("handled", message, "")


class _Before(NamedTuple):
    """What there was without a failure: before the scenario, and after it."""

    modules: set[str]
    references: list[Mapping[str, int]]


class _Judgement(NamedTuple):
    verdict: Verdict
    message: str
    place: str


def _outcome_of(scenario: Callable[[], object]) -> tuple[object, BaseException | None]:
    """Run a scenario; return what it returned, and what it raised."""
    try:
        return scenario(), None
    except Exception as caught:
        if _is_no_verdict(caught):
            raise
        return None, caught


def _is_no_verdict(error: Exception) -> bool:
    """Whether an error says nothing of the kernel under test.

    A machine that the guest has reset or switched off has ended by what the guest does. What a
    condition of the test's raises is the test's mistake, and so is a module that does not compile
    or a path that is not there.
    """
    if isinstance(error, MachineDied):
        return not error.by_guest
    return isinstance(error, _NO_VERDICTS) or (isinstance(error, KgdbError) and error.by_instrument)


def _check_ended(outcome: Outcome) -> None:
    """:raises MachineDied: the machine has ended in a run in which no call failed."""
    if outcome.verdict == "reset" and outcome.error is not None:
        raise outcome.error


@contextlib.contextmanager
def _naming(function: str, number: int, failing: Override) -> Iterator[None]:
    """Name in the error for the loss of the machine, or of gdb, which call was failing."""
    try:
        yield
    except (MachineDied, DebuggerDied) as error:
        if not failing.forced:
            raise
        first, *rest = error.message.splitlines()
        place = f", in {failing.path[0].partition(' ')[2]}" if failing.path else ""
        first = f"{first} (call {number} of {function} failing{place})"
        named = type(error)("\n".join([first, *rest]), log=error.log, hint=error.hint)
        raise named from error


def _refuse(function: str, baseline: Outcome, counted: Override) -> None:
    """:raises KgdbError: there is nothing to be learned from the scenario."""
    if not baseline.ok or baseline.error is not None:
        verdict = "" if baseline.ok else f"{baseline.verdict}: "
        raise KgdbError(
            f"the scenario does not even pass when no call of {function} fails: "
            f"{verdict}{baseline.message or baseline.error}",
            hint="fail_each() is for a scenario that works",
        ) from baseline.error
    if counted.calls == 0:
        raise KgdbError(
            f"the scenario never called {function}",
            hint="what runs before fail_each() does not count; a function may be inlined: "
            "spy() has `inlined_in`",
        )
