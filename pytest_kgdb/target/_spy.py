"""Spies: every call of a function counted and recorded, the kernel never seen to stop."""

from __future__ import annotations

import statistics
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from ..errors import KgdbError
from ..rsp import CONTINUE, Action, Event, Hook, Relay
from ._ending import Deletable
from ._functions import Collected, Function, Place

__all__ = ["Call", "Cost", "Instrument", "Spy", "TaskAtCall"]

# Places that a spied function returns to and that are watched; each is a breakpoint of kgdb's.
_RETURNS_TO: Final = 200
# Of how many calls the time is kept, for a median.
_TIMES: Final = 1000


@dataclass(frozen=True)
class TaskAtCall:
    """The task that was on the CPU."""

    address: int
    """Its `struct task_struct *`."""
    pid: int
    tgid: int
    comm: str


class Call:
    """One call of a function, as it was when it was made."""

    def __init__(self, function: str, number: int, place: Place, event: Event) -> None:
        now = place.read_context(event)
        self._place = place
        self.function = function
        self.number = number
        """Counts the calls from 1."""
        self.args = Collected(f"{function}()", place.read_arguments(event))
        """The arguments by name: numbers, and of a `char *` what it points at, too."""
        self.collected = Collected("the call", place.read_expressions(event))
        """The expressions that were asked for, as they are written."""
        self.task = TaskAtCall(
            _number(now["task"]), _number(now["pid"]), _number(now["tgid"]), str(now["comm"])
        )
        self.cpu = _number(now["cpu"])
        self.time = _number(now["time"]) / 1e9
        """The guest's seconds since it booted, as of its last tick."""
        self._returned: int | bool | None = None
        self._not_returned: str | None = "it has not returned"

    def __getitem__(self, name: str) -> Any:
        """Return an expression that was asked for, or an argument."""
        return self.collected[name] if name in self.collected else self.args[name]

    @property
    def returned(self) -> bool:
        """Whether the return has been seen."""
        return self._not_returned is None

    @property
    def return_value(self) -> int | bool | None:
        """What the call returned; None for a void function.

        :raises KgdbError: it was not asked for, or the call has not returned.
        """
        if self._not_returned is not None:
            raise KgdbError(f"call {self.number} of {self.function}: {self._not_returned}")
        return self._returned

    def note_register(self, register: int | None) -> None:
        """The call returned, or was made to, with that in `%rax` (for instruments)."""
        returns = self._place.returns
        self._returned = register if returns is None else returns.decode(register or 0)
        self._not_returned = None

    def no_return(self, why: str) -> None:
        """The return will not be seen (for the spy)."""
        self._not_returned = why

    def __repr__(self) -> str:
        args = ", ".join(f"{name}={_shown(self.args, name)}" for name in self.args)
        more = "".join(f", {name}: {_shown(self.collected, name)}" for name in self.collected)
        came = f" = {self._returned!r}" if self.returned else ""
        return f"<{self.number}: {self.function}({args}){came} by {self.task.comm}{more}>"


def _shown(values: Collected, name: str) -> str:
    try:
        return repr(values[name])
    except KgdbError:
        return "?"


def _number(value: object) -> int:
    return value if isinstance(value, int) else 0


@dataclass(frozen=True)
class Cost:
    """What a call cost that was spied on; its return, too, where that is recorded."""

    calls: int
    here: float
    """Seconds that one took here: reading, recording, and the word to go on; a median."""
    trap: float
    """Seconds from letting the kernel go on to the next call: its trap and its word to us, and
    what it did in between; the lower quartile, which is a call that follows the one before."""

    @property
    def per_call(self) -> float:
        """Seconds for each call: for many in a row what they cost, for few an upper bound."""
        return self.here + self.trap

    def __str__(self) -> str:
        if not self.calls:
            return "no call yet"
        return (
            f"{1000 * self.per_call:.2f} ms for each of {self.calls} calls: "
            f"{1000 * self.here:.2f} ms here, {1000 * self.trap:.2f} ms in the guest"
        )


class _Times:
    """What the traps at one sort of place took: the latest of them."""

    def __init__(self) -> None:
        self._gaps: deque[float] = deque(maxlen=_TIMES)
        self.took: deque[float] = deque(maxlen=_TIMES)

    def note(self, event: Event) -> None:
        """One has come (in the relay's thread)."""
        self._gaps.append(event.gap)
        event.took = self.took.append

    @property
    def here(self) -> float:
        took = self.took.copy()
        return statistics.median(took) if took else 0.0

    @property
    def trap(self) -> float:
        gaps = sorted(self._gaps.copy())
        return gaps[len(gaps) // 4] if gaps else 0.0


class Instrument(Deletable):
    """What is done at each call of a function; a context manager that ends it."""

    def __init__(self, relay: Relay, function: Function) -> None:
        self._relay = relay
        self._found = function
        self._hooks: list[tuple[int, Hook]] = []
        self._active = True
        self.function = function.name
        self.inlined_in = function.inlined_in
        """Functions into which gcc inlined it; its calls there are not seen."""

    def _plant(self, hook: Callable[[Place], Hook]) -> None:
        try:
            for place in self._found.places:
                made = hook(place)
                self._relay.add_hook(place.address, made)
                self._hooks.append((place.address, made))
        except BaseException:
            self.delete()
            raise

    @property
    def active(self) -> bool:
        """Whether it is still at work: until `delete()`, the test's end, or its module's."""
        return self._active

    def within(self, contains: Callable[[int], bool]) -> bool:
        """Whether it is at an address of those (for the modules)."""
        return any(contains(place.address) for place in self._found.places)

    def delete(self) -> None:
        """End it, whether the kernel is stopped or runs; a second time does nothing.

        What was recorded stays.
        """
        if self._active:
            self._active = False
            for address, hook in self._hooks:
                self._relay.remove_hook(address, hook)


class Spy(Instrument):
    """Counts and records the calls of a function.

    :param returns: whether to wait for what the calls return.
    :param keep: calls that are kept.
    :param barred: address ranges in which no breakpoint may be.
    """

    def __init__(
        self,
        relay: Relay,
        function: Function,
        *,
        returns: bool,
        keep: int,
        barred: Sequence[tuple[int, int]],
    ) -> None:
        super().__init__(relay, function)
        self._returns = returns
        self._barred = barred
        self._calls: deque[Call] = deque(maxlen=keep)
        self._pending: dict[tuple[int, int, int], Call] = {}
        self._watched: set[int] = set()
        # At the calls, and at their returns.
        self._times = _Times(), _Times()
        self.count = 0
        """Calls so far."""
        self._plant(lambda place: lambda event: self._on_call(place, event))

    @property
    def calls(self) -> tuple[Call, ...]:
        """The calls that are kept, oldest first: the newest `keep` of them."""
        return tuple(self._calls.copy())

    @property
    def dropped(self) -> int:
        """Calls that were counted and are not kept any more."""
        return self.count - len(self._calls)

    @property
    def cost(self) -> Cost:
        """What a call costs, measured on those so far; `str()` says it in words."""
        if not self._times[0].took:
            return Cost(0, 0.0, 0.0)
        return Cost(
            self.count,
            sum(each.here for each in self._times),
            sum(each.trap for each in self._times),
        )

    # In the relay's thread

    def _on_call(self, place: Place, event: Event) -> Action:
        self._times[0].note(event)
        call = Call(self.function, self.count + 1, place, event)
        if self._returns:
            self._await(call, event)
        else:
            call.no_return("spy(…, returns=True) would have it")
        self._calls.append(call)
        self.count += 1
        return CONTINUE

    def _await(self, call: Call, event: Event) -> None:
        """Watch where a call returns to."""
        stack = event.registers["sp"]
        target = int.from_bytes(event.read(stack, 8), "little")
        if target not in self._watched:
            if any(low <= target < high for low, high in self._barred):
                call.no_return("it was called from where no breakpoint may be")
                return
            if len(self._watched) >= _RETURNS_TO:
                call.no_return(f"it was called from more than {_RETURNS_TO} places")
                return
            hook: Hook = self._on_return
            if not self._relay.try_add_hook(target, hook):
                call.no_return("no breakpoint can be inserted where it was called from")
                return
            self._watched.add(target)
            self._hooks.append((target, hook))
        # A call that never returned, as that of a task that ended, is forgotten at the next that
        # stands on the same place of the same stack.
        self._pending[target, stack + 8, call.task.address] = call
        if len(self._pending) > (self._calls.maxlen or 0):
            self._pending.pop(next(iter(self._pending)))

    def _on_return(self, event: Event) -> Action:
        self._times[1].note(event)
        task = self._found.places[0].read_task(event)
        found = self._pending.pop((event.address, event.registers["sp"], _number(task)), None)
        if found is not None:
            found.note_register(event.registers["ax"])
        return CONTINUE

    def __repr__(self) -> str:
        dropped = f", {self.dropped} of them dropped" if self.dropped else ""
        ended = "" if self.active else ", ended"
        return f"<Spy on {self.function}: {self.count} calls{dropped}{ended}>"
