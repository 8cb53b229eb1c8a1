"""Spies: every call of a function counted and recorded, the kernel never seen to stop."""

from __future__ import annotations

import statistics
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from ..rsp import CONTINUE, Action, Event, Hook
from ._call import Call, number_of
from ._freed import FreedMemory
from ._functions import Function, FunctionEntry
from ._instrument import HookRelay, Instrument

__all__ = ["Cost", "Spy"]

# Places that a spied function returns to and that are watched; each is a breakpoint of the stub's.
_RETURNS_TO: Final = 200
# Of how many calls the time is kept, for a median.
_TIMES: Final = 1000


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
        """Count one (in the relay's thread)."""
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


class Spy(Instrument):
    """Counts and records the calls of a function.

    :param returns: whether to wait for what the calls return.
    :param keep: calls that are kept.
    :param barred: address ranges in which no breakpoint may be.
    :param guard: has it seen when the memory that an address is in is freed; False if it cannot be.
    """

    def __init__(
        self,
        relay: HookRelay,
        function: Function,
        *,
        returns: bool,
        keep: int,
        barred: Sequence[tuple[int, int]],
        guard: Callable[[int], bool],
    ) -> None:
        super().__init__(relay, function)
        self._guard = guard
        self._returns = returns
        self._barred = barred
        self._calls: deque[Call] = deque(maxlen=keep)
        self._pending: dict[tuple[int, int, int], Call] = {}
        self._watched: set[int] = set()
        # At the calls, and at their returns.
        self._times = _Times(), _Times()
        self.count = 0
        """Calls so far."""
        self._insert(lambda entry: lambda event: self._on_call(entry, event))

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
            sum(times.here for times in self._times),
            sum(times.trap for times in self._times),
        )

    # In the relay's thread

    def _on_call(self, entry: FunctionEntry, event: Event) -> Action:
        self._times[0].note(event)
        call = Call(self.function, self.count + 1, entry, event)
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
            if not self._guard(target):
                call.no_return(
                    "it was called from a module, and this kernel cannot be seen to unload one"
                )
                return
            hook: Hook = self._on_return
            if not self._relay.try_add_hook(target, hook):
                call.no_return("no breakpoint can be inserted where it was called from")
                return
            self._watched.add(target)
            self._hooks.append((target, hook))
        # A call that never returned, as that of a task that ended, is given up at the next that
        # stands on the same place of the same stack. So is one that ended by a jump that led to
        # the next, and returns with it: nothing tells it from one whose return was missed.
        place = target, stack + 8, call.task.address
        if (earlier := self._pending.pop(place, None)) is not None:
            earlier.no_return(_given_up(earlier, call))
        self._pending[place] = call
        if len(self._pending) > (self._calls.maxlen or 0):
            oldest = self._pending.pop(next(iter(self._pending)))
            oldest.no_return("its return was not waited for: more calls than are kept had begun")

    def _on_return(self, event: Event) -> Action:
        self._times[1].note(event)
        task, pid, tgid = map(number_of, self._function.entries[0].read_task(event))
        call = self._pending.pop((event.address, event.registers["sp"], task), None)
        if call is None:
            return CONTINUE
        if call.task.is_still(pid, tgid):
            call.note_return(event)
        else:  # what comes here has called another function, or it is where one begins
            call.no_return(f"its task, {call.task}, has ended")
        return CONTINUE

    # Where the kernel goes another way than to the return

    def forget(self, memory: FreedMemory, offsets: int) -> None:
        """Do without memory that is being freed, to which no call returns (for the instruments)."""
        super().forget(memory, offsets)
        gone = set(filter(memory.holds, self._watched))
        if gone:
            self._unwatch(gone, f"what it returns to is gone: {memory.why}")

    def abandon(self) -> None:
        """Wait for no return of a call from before a restore (for the instruments)."""
        self._unwatch(set(self._watched), "the machine was restored before it returned")

    def _unwatch(self, addresses: set[int], why: str) -> None:
        """Watch some return addresses no more."""
        self._watched -= addresses
        self._remove_hooks([(address, self._on_return) for address in addresses])
        for place in [place for place in self._pending if place[0] in addresses]:
            self._pending.pop(place).no_return(why)

    def __repr__(self) -> str:
        dropped = f", {self.dropped} of them dropped" if self.dropped else ""
        return f"<Spy on {self.function}: {self.count} calls{dropped}{self._state()}>"


def _given_up(earlier: Call, later: Call) -> str:
    """Return why a call's return is waited for no more, by the call that has its place."""
    if not earlier.task.is_still(later.task.pid, later.task.tgid):
        return f"its task, {earlier.task}, has ended: call {later.number} is another one's"
    return (
        f"its return cannot be told from that of call {later.number}, which has the same "
        "return address at the same place of the stack: it ended by a jump (a tail call), "
        "or has returned unseen"
    )
