"""Fail each: a scenario with the 1st, 2nd, 3rd… call of a function failing."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Final, Literal, Protocol, overload

from ..debugger import RunControl
from ..errors import DebuggerDied, KernelPanic, KgdbError, MachineDied, TimeoutError
from ..guest import Shell
from ..klog import Splat
from ..splats import SplatWatch
from ..trace import Call, Override
from ._leaks import LeakBaseline, LeakDetector

__all__ = ["FailEach", "FailEachRunner", "Outcome", "Snapshots", "Verdict"]

Verdict = Literal["handled", "failed", "oops", "panic", "splat", "hang", "leak"]

# More calls than any scenario makes: such an override only counts.
_NEVER: Final = 1 << 62
_PATH: Final = 12  # frames that are kept of where the call came from


@dataclass
class Outcome:
    """The outcome of one failed call."""

    number: int
    """Which call failed, from 1."""
    verdict: Verdict
    message: str
    """The kernel's words, or the scenario's."""
    call: Call | None
    """The call that failed."""
    path: tuple[str, ...]
    """Where it was called from: its callers with file and line, innermost first."""
    result: object
    """What the scenario returned."""
    error: BaseException | None
    """The exception that it raised."""
    console: str = field(repr=False)
    """What the console showed meanwhile."""
    leaks: tuple[Splat, ...] | None = None
    """The memory that was lost by it, as splats; None where it was not looked for."""

    @property
    def ok(self) -> bool:
        """Whether the kernel got over it, and the scenario had nothing against it."""
        return self.verdict == "handled"

    def __str__(self) -> str:
        path = "\n".join(f"        {frame}" for frame in self.path)
        message = f": {self.message}" if self.message else ""
        return f"    call {self.number}: {self.verdict}{message}" + (f"\n{path}" if path else "")


class FailEach(Sequence[Outcome]):
    """The outcomes, in the order of the calls; its text shows those that were not handled."""

    def __init__(
        self,
        function: str,
        outcomes: Sequence[Outcome],
        *,
        calls: int,
        complete: bool,
        unsought: str | None = None,
    ) -> None:
        self.function = function
        self._outcomes = tuple(outcomes)
        self.calls = calls
        """Calls that the scenario makes when none fails."""
        self.complete = complete
        """Whether there is no further call that could fail; there is where `limit` was reached."""
        self.unsought = unsought
        """Why leaks were not looked for; None where they were."""

    @property
    def bad(self) -> tuple[Outcome, ...]:
        """The outcomes that were not handled."""
        return tuple(outcome for outcome in self._outcomes if not outcome.ok)

    @property
    def ok(self) -> bool:
        """Whether all were handled."""
        return not self.bad

    @overload
    def __getitem__(self, index: int) -> Outcome: ...

    @overload
    def __getitem__(self, index: slice) -> Sequence[Outcome]: ...

    def __getitem__(self, index: int | slice) -> Outcome | Sequence[Outcome]:
        return self._outcomes[index]

    def __len__(self) -> int:
        return len(self._outcomes)

    def __iter__(self) -> Iterator[Outcome]:
        return iter(self._outcomes)

    def __str__(self) -> str:
        more = "" if self.complete else "; there are more calls, limit= was reached"
        leaks = "leaks were looked for"
        if self.unsought is not None:
            leaks = f"leaks were not looked for: {self.unsought}"
        lines = [
            f"{self.function} failed in {len(self)} calls, one after the other: "
            f"{len(self.bad)} not handled ({leaks}){more}"
        ]
        return "\n".join([*lines, *map(str, self.bad)])

    __repr__ = __str__


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

    :param cpu_stacks: returns what each CPU does, for a hang.
    """

    def __init__(
        self,
        run_control: RunControl,
        shell: Shell,
        splats: SplatWatch,
        leaks: LeakDetector,
        snapshots: Snapshots,
        *,
        cpu_stacks: Callable[[], str],
    ) -> None:
        self._run_control = run_control
        self._shell = shell
        self._splats = splats
        self._leaks = leaks
        self._snapshots = snapshots
        self._cpu_stacks = cpu_stacks

    def run(
        self,
        function: str,
        scenario: Callable[[], object],
        fail: Callable[[int, int | None], Override],
        *,
        limit: int,
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
        outcomes: list[Outcome] = []
        complete = False
        unsought = self._leaks.why_not()
        try:
            with fail(_NEVER, None) as counted:
                usual = self._try(scenario, 0, counted)
            _refuse(function, usual, counted)
            calls = counted.calls
            baseline = LeakBaseline(self._usual_leaks() if unsought is None else ())
            for number in range(1, limit + 1):
                self._snapshots.restore(name)
                with fail(number - 1, 1) as failing:
                    outcome = self._try(scenario, number, failing)
                if complete := failing.forced == 0:
                    break
                if unsought is None:
                    outcome = self._with_leaks(outcome, baseline)
                outcomes.append(outcome)
        finally:
            self._snapshots.restore(name)
        complete = complete or calls <= limit
        return FailEach(function, outcomes, calls=calls, complete=complete, unsought=unsought)

    def _usual_leaks(self) -> list[Splat]:
        """Return the leaks before the scenario, or of its every run: no failure leads to them.

        :raises KgdbError: the kernel reported something else meanwhile.
        """
        leaks = self._leaks.find()
        # The log counts them, which is taken note of here.
        verdict, message = self._judge(None, leaks_apart=True)
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
        except (MachineDied, DebuggerDied):
            raise
        except KgdbError as caught:
            error = caught
        # The kernel has run on for it, and may have had more to report.
        verdict, message = self._judge(error, leaks_apart=True)
        if verdict != "handled":
            return replace(outcome, verdict=verdict, message=message)
        if error is not None:
            raise error
        if leaks and outcome.ok:
            message = "; ".join(leak.message for leak in leaks)
            outcome = replace(outcome, verdict="leak", message=message)
        return replace(outcome, leaks=tuple(leaks))

    def _try(self, scenario: Callable[[], object], number: int, failing: Override) -> Outcome:
        console = self._shell.console
        mark = console.mark()
        result: object = None
        error: BaseException | None = None
        try:
            result = scenario()
        except (MachineDied, DebuggerDied):
            raise
        except Exception as caught:
            error = caught
        verdict, message = self._judge(error)
        return Outcome(
            number,
            verdict,
            message,
            failing.last,
            failing.path[:_PATH],
            result,
            error,
            console.since(mark).decode("utf-8", "replace"),
        )

    def _judge(
        self, error: BaseException | None, *, leaks_apart: bool = False
    ) -> tuple[Verdict, str]:
        # Acknowledged, so that they are not the test's own as well.
        splats = self._splats.pending()
        self._splats.acknowledge(splats)
        titles = [
            splat.title for splat in splats if not (leaks_apart and splat.kind == "memory leak")
        ]
        control = self._run_control
        stop = control.stop if control.stopped else None
        if stop is not None and stop.reason in ("oops", "panic"):
            verdict: Verdict = "oops" if stop.reason == "oops" else "panic"
            return verdict, stop.message or "".join(titles[:1])
        if isinstance(error, KernelPanic):
            return "panic", error.message.splitlines()[0]
        if titles:
            return "splat", titles[0]
        if isinstance(error, TimeoutError):
            return "hang", f"{error.message.splitlines()[0]}\n{self._cpu_stacks()}"
        if error is not None and not isinstance(error, KgdbError):
            return "failed", f"{type(error).__name__}: {error}"
        # What the scenario could not do is what was to be expected of it.
        return "handled", error.message.splitlines()[0] if isinstance(error, KgdbError) else ""


def _refuse(function: str, baseline: Outcome, counted: Override) -> None:
    """:raises KgdbError: there is nothing to be learned from the scenario."""
    if not baseline.ok or baseline.error is not None:
        raise KgdbError(
            f"the scenario does not even pass when no call of {function} fails: "
            f"{baseline.verdict}: {baseline.message or baseline.error}",
            hint="fail_each() is for a scenario that works",
        ) from baseline.error
    if counted.calls == 0:
        raise KgdbError(
            f"the scenario never called {function}",
            hint="what runs before fail_each() does not count; a function may be inlined: "
            "spy() has `inlined_in`",
        )
