"""Timers whose functions run, and CPUs that wait for one to return."""

from __future__ import annotations

import contextlib
import struct
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Final, NamedTuple

from ._locks import lock_name

if TYPE_CHECKING:
    import drgn

    from ._stack import StackFrame

__all__ = ["TIMER_WAITS", "RunningTimer", "awaited_timer"]

# kernel/time/timer.c, kernel/time/hrtimer.c: what waits for a timer's function to return, up to
# 6.1 (del_timer_sync) and since 6.2; in a loop, except with PREEMPT_RT, where it takes a lock.
_TIMER: Final = frozenset(
    {
        *("del_timer_sync", "timer_delete_sync", "__timer_delete_sync"),
        "timer_shutdown_sync",
    }
)
_HRTIMER: Final = frozenset({"hrtimer_cancel"})
TIMER_WAITS: Final = _TIMER | _HRTIMER
"""What waits in a loop for a timer's function to return."""
# Bytes of a stack in which a timer's address is looked for: of the frame of such a function, and
# below it, where what it calls saves registers, and an interrupt does (struct pt_regs).
_MAX_FRAME: Final = 256
_CALLED: Final = 512


class RunningTimer(NamedTuple):
    """A timer whose function has been called, and has not returned."""

    name: str
    """In words: `the timer device.timer`."""
    cpu: int
    function: str
    """Of the timer; it can have another one by now."""

    def words(self, frames: Sequence[StackFrame]) -> str:
        """Return it with its function, where that is on a CPU's stack.

        :param frames: the stack of its CPU.
        """
        runs = bool(self.function) and any(frame.name == self.function for frame in frames)
        function = f" {self.function}" if runs else ""
        return f"{self.name}, whose function{function} has not returned on CPU {self.cpu}"


def awaited_timer(
    program: drgn.Program, trace: drgn.StackTrace, registers: Mapping[str, int]
) -> RunningTimer | None:
    """Return the timer that a CPU waits for; None where it waits for none, or it is not certain.

    :param trace: the CPU's stack.
    :param registers: the CPU's, by QEMU's names.
    """
    import drgn

    for index, frame in enumerate(trace):
        name = frame.name or ""
        if name not in TIMER_WAITS:
            continue
        with contextlib.suppress(AttributeError, LookupError, ValueError, drgn.FaultError):
            running = _running_timers if name in _TIMER else _running_hrtimers
            timers = dict(running(program))
            address = _argument(program, trace, index, timers, registers)
            return timers[address] if address is not None else None
    return None


def _argument(
    program: drgn.Program,
    trace: drgn.StackTrace,
    index: int,
    timers: Mapping[int, RunningTimer],
    registers: Mapping[str, int],
) -> int | None:
    """Return the address of the timer with which a function was called, if it is one that runs.

    Where the debug information does not have the argument, it is the only timer that runs whose
    address is in a register, or on the stack where the function and what it calls have theirs.
    """
    frame = trace[index]
    with contextlib.suppress(LookupError, ValueError):
        timer = frame["timer"]
        if not timer.absent_:
            address = int(timer.value_())
            return address if address in timers else None
    sp = frame.sp
    end = next((outer.sp for outer in trace[index:] if outer.sp > sp), sp)
    first = sp - _CALLED
    data = program.read(first, min(end, sp + _MAX_FRAME) - first)
    words = {*registers.values(), *struct.unpack(f"<{len(data) // 8}Q", data[: len(data) & ~7])}
    matches = words.intersection(timers)
    return matches.pop() if len(matches) == 1 else None


def _running_timers(program: drgn.Program) -> Iterator[tuple[int, RunningTimer]]:
    """Yield the timers whose functions run (kernel/time/timer.c, timer_bases)."""
    from drgn.helpers.linux.cpumask import for_each_possible_cpu
    from drgn.helpers.linux.percpu import per_cpu

    for cpu in for_each_possible_cpu(program):
        bases = per_cpu(program["timer_bases"], cpu)
        for index in range(len(bases)):
            if timer := bases[index].running_timer:
                yield _running(program, "timer", "timer_list", timer, cpu)


def _running_hrtimers(program: drgn.Program) -> Iterator[tuple[int, RunningTimer]]:
    """Yield the hrtimers whose functions run (kernel/time/hrtimer.c, hrtimer_bases)."""
    from drgn.helpers.linux.cpumask import for_each_possible_cpu
    from drgn.helpers.linux.percpu import per_cpu

    for cpu in for_each_possible_cpu(program):
        bases = per_cpu(program["hrtimer_bases"], cpu).clock_base
        for index in range(len(bases)):
            if timer := bases[index].running:
                yield _running(program, "hrtimer", "hrtimer", timer, cpu)


def _running(
    program: drgn.Program, words: str, kind: str, timer: drgn.Object, cpu: int
) -> tuple[int, RunningTimer]:
    import drgn

    address = timer.value_()
    function = ""
    with contextlib.suppress(AttributeError, LookupError, drgn.FaultError):
        function = program.symbol(timer.function.value_()).name
    return address, RunningTimer(f"the {words} {lock_name(program, address, kind)}", cpu, function)
