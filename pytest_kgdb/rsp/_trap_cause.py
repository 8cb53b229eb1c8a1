"""Tells the int3 of a breakpoint from the end of a single step: kgdb reports both alike."""

from __future__ import annotations

from typing import Final

from ..arch import X86_64
from ._registers import Readable

__all__ = ["TrapCauses"]

_PC: Final = X86_64.registers.pc
_FLAGS: Final = X86_64.registers.flags
# The trap flag (Intel SDM volume 1, "EFLAGS Register"), by which kgdb has a CPU single-step.
_TRAP_FLAG: Final = 1 << 8
_INT3_BYTES: Final = 1


class TrapCauses:
    """Knows the breakpoints that kgdb has, and the single steps that have not ended.

    The trap flag is set in what a single step has interrupted. In what an int3 has interrupted it
    is clear, as an instruction that is single-stepped has no breakpoint in it, with one exception:
    an interrupt or a page fault may come instead of the instruction, and the kernel may stop in its
    handler. The step is still to be executed then, and once the handler returns, the instruction
    may have its breakpoint again.
    """

    def __init__(self) -> None:
        self._inserted: set[int] = set()
        self._steps: dict[bytes, list[int]] = {}  # where each thread was stepped, the newest last

    def record_request(self, payload: bytes, reply: bytes) -> None:
        """Take note of kgdb's reply to `Z0` or `z0`."""
        if reply == b"OK":
            address = int(payload.split(b",")[1], 16)
            (self._inserted.add if payload[:1] == b"Z" else self._inserted.discard)(address)

    def step_begins(self, thread: bytes, address: int) -> None:
        """Take note that a thread is to execute the instruction at an address."""
        self._steps.setdefault(thread, []).append(address)

    def steps(self, thread: bytes) -> bool:
        """Whether a single step of the thread may not have ended."""
        return thread in self._steps

    def int3(self, thread: bytes, registers: Readable) -> int | None:
        """Return where the int3 is that a thread may have executed; None after a single step."""
        if _in_step(registers) and not self.interrupted_step(thread, registers):
            return None
        return registers[_PC] - _INT3_BYTES

    def interrupted_step(self, thread: bytes, registers: Readable) -> bool:
        """Whether a thread is at the breakpoint of an instruction that it was to step."""
        address = registers[_PC] - _INT3_BYTES
        return (
            _in_step(registers)
            and address in self._inserted
            and address in self._steps.get(thread, ())
        )

    def resumes(self, thread: bytes, registers: Readable) -> None:
        """Take note that a thread goes on from a stop that may have ended its newest step."""
        steps = self._steps.get(thread, [])
        if steps and _in_step(registers):
            steps.pop()
        if not steps:
            self._steps.pop(thread, None)

    def reset(self) -> None:
        """Take note that the machine has been replaced by one without breakpoints."""
        self._inserted.clear()
        self._steps.clear()


def _in_step(registers: Readable) -> bool:
    return bool(registers[_FLAGS] & _TRAP_FLAG)
