"""What the relay does at a hooked address, in one stop that gdb does not see."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Protocol

from ._follow import Followed
from ._hooks import TELL, Event, Plants, RegisterFile, Return

__all__ = ["Context", "HookServer"]

# The trap flag (Intel SDM volume 1, "EFLAGS Register"): set in what a single step interrupted, and
# clear in what an int3 did, as the step's own instruction has no breakpoint in.
_TRAP: Final = 1 << 8


class Simulate(Protocol):
    """Executes the instruction at the program counter without the CPU, where it can."""

    def __call__(self) -> bool: ...


@dataclass(frozen=True)
class Context:
    """The CPU that has stopped."""

    registers: RegisterFile
    read: Callable[[int, int], bytes]
    thread: bytes
    """kgdb's number of the task."""
    simulate: Simulate


class HookServer:
    """Serves hooks between a stop that kgdb tells and the word that lets the kernel go on.

    :param ask: sends kgdb a packet and returns its answer.
    :param send: sends kgdb the word to resume by, which has no answer.
    """

    def __init__(self, ask: Callable[[bytes], bytes], send: Callable[[bytes], None]) -> None:
        self.plants = Plants(ask)
        self.trouble: BaseException | None = None
        """What a hook raised first."""
        self.followed = Followed()
        self._send = send
        self._passed: int | None = None  # its hooks have run, and the CPU is still there
        self._forced: Return | None = None  # what they decided, to be done when gdb resumes
        # Threads that kgdb steps off an address for us, gdb believing that the kernel runs.
        self._inner: dict[bytes, int] = {}
        self._gone = time.monotonic()

    @property
    def busy(self) -> bool:
        """Whether a stop may be one for us."""
        return bool(self.plants.hooks or self._inner) or self.plants.stale or self.followed.watching

    @property
    def passed(self) -> int | None:
        """Where the CPU stands whose hooks have run, if gdb has been told of that stop."""
        return self._passed

    def at(self, registers: RegisterFile) -> int | None:
        """Return the breakpoint of kgdb's whose int3 has just been executed, if one was."""
        before = registers["ip"] - 1
        if before in self.plants.planted and not registers["flags"] & _TRAP:
            return before
        return None

    def arrive(self, context: Context, now: float) -> bool:
        """Serve a stop at a trap; True if the kernel goes on, and gdb need not know."""
        self._passed = self._forced = None
        registers = context.registers
        address = self.at(registers)
        if address is None:
            if registers["flags"] & _TRAP and (
                self._inner.pop(context.thread, None) is not None
                or not self.followed.trapped(context.thread)
            ):
                self._go(b"c")
                return True
            self.followed.told(context.thread)
            return False
        registers["ip"] = address
        self._passed = address
        event = Event(address, registers, context.read, now - self._gone)
        if self._run(event, context.thread):
            self.followed.told(context.thread)
            return False
        self._leave(context)
        if event.took is not None:
            event.took(time.monotonic() - now)
        return True

    def _run(self, event: Event, thread: bytes) -> bool:
        """Call an address's hooks; True if gdb is to be told."""
        tell = event.address in self.plants.wanted and self.followed.concerns(thread, event.address)
        for hook in list(self.plants.hooks.get(event.address, ())):
            try:
                action = hook(event)
            except Exception as error:  # a test's own function, or one of ours that stumbled
                self.trouble = self.trouble or error
                action = TELL
            if isinstance(action, Return) and self._forced is None:
                self._forced = action
                event.decided = True
            tell = tell or action == TELL or (isinstance(action, Return) and action.tell)
        return tell

    def resume(self, word: bytes, context: Context | None) -> bool:
        """Let the kernel go on, as gdb wants; True if the step that it wants has been done here.

        :param word: kgdb's `c`, `s` or `C09`.
        :param context: None where the registers cannot be had; then nothing is hooked.
        """
        if context is None or not self.plants.hooks:
            if word == b"s" and context is not None:
                if context.simulate():
                    return True
                self.followed.stepped(context.thread)
            self._go(word)
            return False
        registers, stepping = context.registers, word == b"s"
        address = registers["ip"]
        if self._passed != address:
            self._forced = None
            self._passed = None
            if stepping and address in self.plants.hooks:
                # gdb steps over the instruction, and would miss it.
                self._passed = address
                gap = time.monotonic() - self._gone
                self._run(Event(address, registers, context.read, gap), context.thread)
        if self._forced is not None:
            self._return(context)
            if stepping:
                return True
        elif stepping:
            if context.simulate():
                return True
            self._go(word, without=address)
            self.followed.stepped(context.thread)
            return False
        elif self._passed == address and address in self.plants.hooks and word == b"c":
            self._leave(context)
            return False
        self._go(word)
        return False

    def _leave(self, context: Context) -> None:
        """Go on from an address whose hooks have run."""
        address = context.registers["ip"]
        if self._forced is not None:
            self._return(context)
        elif address in self.plants.due and not context.simulate():
            self._inner[context.thread] = address
            self._go(b"s")
            return
        self._go(b"c")

    def _return(self, context: Context) -> None:
        """Leave a function at its first instruction: what `ret` would do."""
        registers, forced = context.registers, self._forced
        assert forced is not None
        stack = registers["sp"]
        target = int.from_bytes(context.read(stack, 8), "little")
        if forced.value is not None:
            registers["ax"] = forced.value
        registers["ip"] = target
        registers["sp"] = stack + 8
        self._forced = self._passed = None

    def _go(self, word: bytes, without: int | None = None) -> None:
        # Another CPU may come before a step has ended: the one that steps is still there.
        self.plants.settle({*self._inner.values(), without})
        self._passed = self._forced = None
        self._gone = time.monotonic()
        self._send(word)
