"""What the relay does at a hooked address, in one stop that gdb does not see."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Final

from ..arch import X86_64
from ..errors import KgdbError
from ._backend import CONT, STEP
from ._breakpoints import InsertedBreakpoints
from ._hooks import STOP, Event, Hook, Return
from ._stepping import SteppingThreadFilter
from ._stop_context import StopContext

__all__ = ["HookServer"]

_PC: Final = X86_64.registers.pc
_SP: Final = X86_64.registers.sp
_RESULT: Final = X86_64.registers.result
_WORD: Final = 8
_INT3: Final = b"\xcc"


@dataclass(frozen=True)
class _Step:
    """A single step off an address, while gdb takes the kernel for running."""

    address: int
    packet: bytes
    """What is due then."""
    displaced: bool
    """Whether the breakpoint stays inserted for it."""


class HookServer:
    """Calls hooks between a stop that the target reports and the packet by which it goes on.

    :param resume: sends the target a packet by which it goes on, which has no reply.
    :param one_at_a_time: whether no other thread may stop while gdb steps one, as where gdb knows
        of one thread only.
    """

    def __init__(
        self,
        breakpoints: InsertedBreakpoints,
        resume: Callable[[bytes], None],
        *,
        one_at_a_time: bool = True,
    ) -> None:
        self._breakpoints = breakpoints
        self._resume = resume
        self._one_at_a_time = one_at_a_time
        self._error: BaseException | None = None  # what a hook raised first
        self._resumed_at = time.monotonic()
        self._begin()

    def _begin(self) -> None:
        self.stepping = SteppingThreadFilter()
        # What was put off, by thread: the address, the stack pointer, whether a hook stops there,
        # and what hooks have decided. They have run, and do not once more at the next stop there.
        self._deferred: dict[bytes, tuple[int, int, bool, Return | None]] = {}
        self._served: int | None = None  # its hooks have run, and the CPU is still there
        self._forced: Return | None = None  # what they decided, to be done when gdb resumes
        self._steps: dict[bytes, _Step] = {}  # by thread
        self._step_packet = b""  # of gdb's last step
        self._displaced: int | None = None  # what gdb steps over, with its breakpoint inserted

    def reset(self) -> None:
        """Take note that the machine has been replaced; hooks stay."""
        self._begin()
        self._error = None

    @property
    def busy(self) -> bool:
        """Whether a stop may be one that gdb is not to see."""
        breakpoints = self._breakpoints
        return bool(breakpoints.hooks or self._steps) or breakpoints.stale or self.stepping.active

    @property
    def hooked(self) -> bool:
        """Whether there are hooks, or a thread still steps off one."""
        return bool(self._breakpoints.hooks or self._steps)

    @property
    def served(self) -> int | None:
        """Where the CPU is, if its hooks have run there and gdb has been told of the stop."""
        return self._served

    def add(self, address: int, hook: Hook) -> bytes:
        """Add a hook, and return the target's reply to inserting its breakpoint."""
        return self._breakpoints.add_hook(address, hook)

    def remove(self, address: int, hook: Hook) -> None:
        """Remove a hook, if it is there."""
        self._breakpoints.remove_hook(address, hook)
        if address not in self._breakpoints.hooks:  # another one there is to see the next call
            self._deferred = {
                thread: stop for thread, stop in self._deferred.items() if stop[0] != address
            }

    def take_error(self) -> BaseException | None:
        """Return, once, what a hook raised first."""
        error, self._error = self._error, None
        return error

    # A stop

    def serve(self, context: StopContext, now: float) -> bool:
        """Serve a stop at a trap; True if the kernel has gone on, and gdb need not know.

        :param now: when the stop was reported, by `time.monotonic()`.
        """
        self._served = self._forced = None
        address, thread = context.breakpoint, context.thread
        if address is None:
            if (step := self._steps.get(thread)) is not None:
                self._end_step(context, step)
                return True
            over = context.registers[_PC]
            if self.stepping.steps_over(thread, over):
                # QEMU takes another CPU's stop for the step's end; and of an instruction that is
                # repeated (`rep stos`), the CPU has executed one iteration.
                self._displaced = over if context.displace() else None
                self._go(self._step_packet, without=over if self._displaced is None else None)
                return True
            if not self.stepping.step_ends(thread):
                self._go(CONT)
                return True
        if context.interrupted_step and address is not None:
            # Its hooks have run and gdb has been told of it, before the interrupt.
            context.registers[_PC] = address
            if self.stepping.awaits(thread):
                self._go(STEP, without=address)
            else:
                self.stepping.step_ends(thread)
                self._leave(context, CONT)
            return True
        registers = context.registers
        if context.late:
            # Its breakpoint may be out just now, for another thread that steps off it.
            address = registers[_PC]
        if context.spurious or (context.late and address not in self._breakpoints.needed):
            self._go(CONT)
            return True
        if address is None or not (context.late or address in self._breakpoints.inserted):
            return self._report(context)
        if address == self._displaced and self.stepping.step_over_by_other(thread) == address:
            return self._report(context)
        registers[_PC] = address
        self._served = address
        event = Event(address, registers, context.read, now - self._resumed_at)
        before = self._deferred.pop(thread, None)
        if before is not None and before[:2] == (address, registers[_SP]):
            stops, self._forced = before[2:]
        else:
            stops = self._call_hooks(event)
            self._note_arrival(address)
        if stops or self._stops_gdb(context, address):
            return self._report(context, hook_stops=stops)
        self._leave(context, CONT)
        if event.took is not None:
            event.took(time.monotonic() - now)
        return True

    def _stops_gdb(self, context: StopContext, address: int) -> bool:
        requested = address in self._breakpoints.requested
        return requested and self.stepping.stops(context.task, address)

    def _report(self, context: StopContext, *, hook_stops: bool = False) -> bool:
        """Have gdb told of a stop; True if that is put off, as gdb steps another thread.

        The other CPUs run during a step, and kgdb keeps them from stopping, but not for long
        (kernel/debug/debug_core.c, kgdb_cpu_enter: 100 `sstep_tries`); and gdb dies of another
        thread's stop while one steps over a breakpoint (gdb 13, infrun.c, finish_step_over). The
        thread is put back instead, and stops again.
        """
        over = self.stepping.step_over_by_other(context.thread)
        if over is None or not self.put_off(context.thread):
            self.stepping.stop_reported(context.thread)
            return False
        address = context.breakpoint
        if self._served in self._breakpoints.hooks:
            sp = context.registers[_SP]
            self._deferred[context.thread] = self._served, sp, hook_stops, self._forced
        if address is not None:
            inserted = address in self._breakpoints.inserted or address == over
            if inserted or _is_int3(context, address):
                context.registers[_PC] = address
        # Where that is the breakpoint which is stepped over, its step is interrupted once more.
        self._go(CONT, also={over} if address == over else ())
        return True

    def put_off(self, thread: bytes) -> bool:
        """Whether gdb is not to be told of a stop, as it steps another thread over a breakpoint."""
        return self._one_at_a_time and self.stepping.step_over_by_other(thread) is not None

    def go_on(self) -> None:
        """Go on from a stop of which gdb is not told."""
        self._go(CONT)

    def end_step_of(self, thread: bytes) -> None:
        """Take note that gdb is told of the stop by which a thread has stepped off an address."""
        self._steps.pop(thread, None)

    def _end_step(self, context: StopContext, step: _Step) -> None:
        """Go on after a step off an address, or step again if the CPU is still there."""
        if context.registers[_PC] == step.address:
            self._step_off(context, step.packet)
            return
        del self._steps[context.thread]
        self._go(step.packet)

    def _step_off(self, context: StopContext, packet: bytes) -> None:
        """Step off an address; what is due then is a packet."""
        address = context.registers[_PC]
        self._steps[context.thread] = _Step(address, packet, context.displace())
        self._go(STEP)

    def _call_hooks(self, event: Event) -> bool:
        """Call an address's hooks; True if one of them stops the kernel there."""
        stop = False
        for hook in list(self._breakpoints.hooks.get(event.address, ())):
            try:
                action = hook(event)
            except Exception as error:  # a test's own function, or a fault of ours
                self._error = self._error or error
                action = STOP
            if isinstance(action, Return) and self._forced is None:
                self._forced = action
                event.decided = True
            stop = stop or action == STOP or (isinstance(action, Return) and action.stop)
        return stop

    def _note_arrival(self, address: int) -> None:
        """Record whether the instruction at a hooked address is executed."""
        if self._forced is None:
            self._breakpoints.reached(address)
        else:
            self._breakpoints.skipped(address)

    # Going on

    def resume(self, packet: bytes, context: StopContext | None, *, step: bool) -> bool:
        """Let the kernel go on as gdb wants; True if the step that it wants was done here.

        :param packet: what the target is to be sent.
        :param context: the stopped CPU; None where hooks and steps have nothing to do with it.
        :param step: whether gdb steps the thread that stopped.
        """
        if context is None or not self._breakpoints.hooks:
            if step and context is not None:
                if context.emulate():
                    return True
                self._step(context, packet)
            else:
                self._go(packet)
            return False
        registers = context.registers
        address = registers[_PC]
        if self._served != address:
            self._served = self._forced = None
            if step and address in self._breakpoints.hooks:
                # gdb steps over the instruction, and would miss the call.
                self._served = address
                gap = time.monotonic() - self._resumed_at
                event = Event(address, registers, context.read, gap)
                self._call_hooks(event)
                self._note_arrival(address)
        if self._forced is not None:
            self._return(context, self._forced)
            if step:
                return True
        elif step:
            if context.emulate():
                return True
            self._step(context, packet, without=address)
            return False
        elif self._served == address and address in self._breakpoints.hooks:
            self._leave(context, packet)
            return False
        self._go(packet)
        return False

    def _step(self, context: StopContext, packet: bytes, without: int | None = None) -> None:
        """Step the thread that stopped, for gdb.

        :param without: the breakpoint that is removed for it, if it must be.
        """
        address, breakpoints = context.registers[_PC], self._breakpoints
        over = address in breakpoints.inserted and address not in breakpoints.requested
        over_hardware = address in breakpoints.hardware_removed
        over = over or over_hardware
        self.stepping.step_begins(context.thread, address if over else None)
        self._step_packet = packet
        self._displaced = address if over and context.displace() else None
        if over_hardware and self._displaced is not None:
            breakpoints.keep_hardware(address)
        self._go(packet, without=None if self._displaced is not None else without)

    def _leave(self, context: StopContext, packet: bytes) -> None:
        """Go on from an address whose hooks have run."""
        address = context.registers[_PC]
        if self._forced is not None:
            self._return(context, self._forced)
        elif address in self._breakpoints.needed and not context.emulate():
            self._step_off(context, packet)
            return
        self._go(packet)

    def _return(self, context: StopContext, forced: Return) -> None:
        """Leave a function at its first instruction, as `ret` would."""
        registers = context.registers
        stack = registers[_SP]
        caller = int.from_bytes(context.read(stack, _WORD), "little")
        if forced.value is not None:
            registers[_RESULT] = forced.value
        registers[_PC] = caller
        registers[_SP] = stack + _WORD
        self._forced = self._served = None

    def _go(self, packet: bytes, without: int | None = None, also: Collection[int] = ()) -> None:
        # Another CPU may stop before a step has ended: the one that steps is still there.
        left_out = {step.address for step in self._steps.values() if not step.displaced}
        kept = {self._displaced} if self._displaced is not None and self.stepping.awaits_any else ()
        self._breakpoints.sync({*left_out, without}, also={*also, *kept})
        self._served = self._forced = None
        self._resumed_at = time.monotonic()
        self._resume(packet)


def _is_int3(context: StopContext, address: int) -> bool:
    """Whether the kernel's code has an int3 there; kgdb removes its own at each stop."""
    try:
        return context.read(address, len(_INT3)) == _INT3
    except KgdbError:
        return False
