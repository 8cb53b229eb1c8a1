"""One failure after the other: a scenario with the 1st, 2nd, 3rd… call of a function failing."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final, Literal, overload

from ..errors import DebuggerDied, KernelPanic, KgdbError, MachineDied, TimeoutError
from ..klog import Splat
from ._leaks import LeakBaseline, find_leaks, why_not
from ._override import Override
from ._spy import Call

if TYPE_CHECKING:
    from ._handle import Kgdb

__all__ = ["FailEach", "Outcome", "Scenario", "Verdict", "fail_each"]

Scenario = str | Callable[["Kgdb"], object]
Verdict = Literal["handled", "failed", "oops", "panic", "splat", "hang", "leak"]

# More calls than any scenario makes: such an override only counts.
_NEVER: Final = 1 << 62
_PATH: Final = 12  # frames that are kept of where the call came from


@dataclass
class Outcome:
    """What came of one failure."""

    number: int
    """Which call failed, from 1."""
    verdict: Verdict
    message: str
    """What the kernel said, or the scenario."""
    call: Call | None
    """The call that failed."""
    path: tuple[str, ...]
    """Where it was called from: its callers with file and line, innermost first."""
    result: object
    """What the scenario returned."""
    error: BaseException | None
    """What it raised."""
    console: str = field(repr=False)
    """What the console showed meanwhile."""
    leaks: tuple[Splat, ...] | None = None
    """The memory that was lost by it, as splats; None where it was not looked for."""

    @property
    def ok(self) -> bool:
        """Whether the kernel got over it, and the scenario had nothing against it."""
        return self.verdict == "handled"

    def __str__(self) -> str:
        came = "\n".join(f"        {frame}" for frame in self.path)
        said = f": {self.message}" if self.message else ""
        return f"    call {self.number}: {self.verdict}{said}" + (f"\n{came}" if came else "")


class FailEach(Sequence[Outcome]):
    """The outcomes, in the order of the calls; its text tells those that were not handled."""

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
        return tuple(each for each in self._outcomes if not each.ok)

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


def fail_each(
    kgdb: Kgdb,
    kept: Sequence[str],
    function: str,
    scenario: Scenario,
    fail: Callable[[int, int | None], Override],
    *,
    limit: int,
) -> FailEach:
    """Run a scenario again and again, with another call of a function failing each time.

    :param kept: the names of the test's snapshots.
    :param fail: makes the override that lets so many calls through, and fails so many.
    """
    if limit < 1:
        raise KgdbError(f"fail_each() tries at least one call, not {limit}")
    names = (f"fail_each-{number}" for number in range(len(kept) + 1))
    name = next(each for each in names if each not in kept)
    kgdb.snapshot(name)
    outcomes: list[Outcome] = []
    complete = False
    unsought = why_not(kgdb)
    try:
        with fail(_NEVER, None) as counted:
            usual = _try(kgdb, scenario, 0, counted)
        _refuse(function, usual, counted)
        calls = counted.calls
        known = LeakBaseline(_usual_leaks(kgdb) if unsought is None else ())
        for number in range(1, limit + 1):
            kgdb.restore(name)
            with fail(number - 1, 1) as failing:
                outcome = _try(kgdb, scenario, number, failing)
            if complete := failing.forced == 0:
                break
            outcomes.append(_look(kgdb, outcome, known) if unsought is None else outcome)
    finally:
        kgdb.restore(name)
    complete = complete or calls <= limit
    return FailEach(function, outcomes, calls=calls, complete=complete, unsought=unsought)


def _usual_leaks(kgdb: Kgdb) -> list[Splat]:
    """Return what is lost before the scenario, or whenever it runs: no failure leads to it.

    :raises KgdbError: the kernel reported something else meanwhile.
    """
    leaks = find_leaks(kgdb)
    # The log counts them, which is taken note of here.
    verdict, message = _judge(kgdb, None, leaks_apart=True)
    if verdict != "handled":
        raise KgdbError(f"the kernel had trouble before any call failed: {verdict}: {message}")
    return leaks


def _look(kgdb: Kgdb, outcome: Outcome, known: LeakBaseline) -> Outcome:
    """Return an outcome with the leaks that a kernel has which goes on."""
    if outcome.verdict not in ("handled", "failed"):
        return outcome
    leaks: list[Splat] = []
    error: KgdbError | None = None
    try:
        leaks = known.beyond(find_leaks(kgdb))
    except (MachineDied, DebuggerDied):
        raise
    except KgdbError as caught:
        error = caught
    # The kernel has run on for it, and may have found more to say.
    verdict, message = _judge(kgdb, error, leaks_apart=True)
    if verdict != "handled":
        return replace(outcome, verdict=verdict, message=message)
    if error is not None:
        raise error
    if leaks and outcome.ok:
        said = "; ".join(each.message for each in leaks)
        outcome = replace(outcome, verdict="leak", message=said)
    return replace(outcome, leaks=tuple(leaks))


def _refuse(function: str, baseline: Outcome, counted: Override) -> None:
    """:raises KgdbError: there is nothing to be learned from the scenario."""
    if not baseline.ok or baseline.error is not None:
        said = baseline.message or baseline.error
        raise KgdbError(
            f"the scenario does not even pass when no call of {function} fails: "
            f"{baseline.verdict}: {said}",
            hint="fail_each() is for a scenario that works",
        ) from baseline.error
    if counted.calls == 0:
        raise KgdbError(
            f"the scenario never called {function}",
            hint="what runs before fail_each() does not count; a function may be inlined: "
            "spy() has `inlined_in`",
        )


def _try(kgdb: Kgdb, scenario: Scenario, number: int, failing: Override) -> Outcome:
    mark = kgdb.console.mark()
    result: object = None
    error: BaseException | None = None
    try:
        result = kgdb.run(scenario) if isinstance(scenario, str) else scenario(kgdb)
    except (MachineDied, DebuggerDied):
        raise
    except Exception as caught:
        error = caught
    verdict, message = _judge(kgdb, error)
    said = kgdb.console.since(mark)
    call = failing.last
    return Outcome(
        number, verdict, message, call, failing.path[:_PATH], result, error,
        said.decode("utf-8", "replace"),
    )  # fmt: skip


def _judge(
    kgdb: Kgdb, error: BaseException | None, *, leaks_apart: bool = False
) -> tuple[Verdict, str]:
    # Taken note of here, so that they are not the test's own as well.
    splats = [
        each.title
        for each in kgdb.watch.unexpected()
        if not (leaks_apart and each.kind == "memory leak")
    ]
    stop = kgdb.stop
    if stop is not None and stop.reason in ("oops", "panic"):
        return ("oops" if stop.reason == "oops" else "panic"), stop.message or "".join(splats[:1])
    if isinstance(error, KernelPanic):
        return "panic", error.message.splitlines()[0]
    if splats:
        return "splat", splats[0]
    if isinstance(error, TimeoutError):
        return "hang", f"{error.message.splitlines()[0]}\n{kgdb.on_cpus()}"
    if error is not None and not isinstance(error, KgdbError):
        return "failed", f"{type(error).__name__}: {error}"
    # What the scenario could not do is what was to be expected of it.
    return "handled", error.message.splitlines()[0] if isinstance(error, KgdbError) else ""
