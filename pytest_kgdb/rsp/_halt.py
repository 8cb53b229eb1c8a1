"""The stop at which the kernel stands: what kgdb told of it, and its CPU's registers."""

from __future__ import annotations

from typing import Protocol

from ..errors import KgdbError
from ._hooks import AskedRegisters
from ._layout import Layout, Registers
from ._serve import Context
from ._simulate import simulate
from ._stub import Stub
from ._upstream import Upstream

__all__ = ["GuestMemory", "Halt"]


class GuestMemory(Protocol):
    """The guest's memory, when it is ours."""

    def read(self, address: int, size: int) -> bytes:
        """Read virtual memory; raises KgdbError where it is not RAM."""

    def write(self, address: int, data: bytes) -> None:
        """Write virtual memory behind the guest's back; not for instructions."""


class Halt:
    """The stopped CPU, in guest memory where that is ours, and by asking kgdb otherwise.

    :param reply: what kgdb told of the stop; empty where it is to be asked.
    """

    def __init__(self, upstream: Upstream, stub: Stub | None, reply: bytes) -> None:
        self._up = upstream
        self._stub = stub
        self.reply = reply
        self.memory: GuestMemory | None = None
        self.layout: Layout | None = None
        self.registers: Registers | None = None
        """The stopped task's; None where they are not to be found in guest memory."""
        self._floor = 0

    @property
    def thread(self) -> bytes:
        """The thread that stopped, as kgdb numbers it."""
        _, found, rest = self.reply.partition(b"thread:")
        return rest.split(b";")[0] if found else b""

    @property
    def is_trap(self) -> bool:
        """Whether the kernel stopped for a debugger; for an oops otherwise."""
        return self.reply[1:3] in (b"05", b"02", b"00")

    def forget(self) -> None:
        """Another machine: where the registers are is not known."""
        self.registers = None
        self._floor = 0

    def locate(self) -> None:
        """Find the registers of the task that stopped."""
        memory, layout = self.memory, self.layout
        self.registers = None
        if memory is None or layout is None:
            return
        try:
            cpu = int.from_bytes(memory.read(layout.kgdb_active, 4), "little")
            info = layout.kgdb_info + cpu * layout.info_size
            address = int.from_bytes(memory.read(info + layout.debuggerinfo, 8), "little")
            self.registers = Registers(memory.read, memory.write, address)
            self._floor = self.registers["sp"]
        except KgdbError:
            self.registers = None

    def context(self, *, hooked: bool) -> Context | None:
        """Return what hooks may use of the CPU.

        :param hooked: whether there are any: kgdb is not asked for nothing.
        """
        memory, registers = self.memory, self.registers
        if memory is not None and registers is not None:
            return Context(registers, memory.read, self.thread, self._simulate)
        if not hooked:
            return None
        up, asked, thread = self._up, AskedRegisters(self._up.ask), self.thread
        floor = asked["sp"]
        return Context(asked, up.read, thread, lambda: simulate(asked, up.read, up.write, floor))

    def _simulate(self) -> bool:
        """Do the step here, so that neither the breakpoint nor the CPU has to move for it."""
        registers, memory = self.registers, self.memory
        if registers is None or memory is None or self.reply[1:3] != b"05":
            return False
        watched = self._stub is not None and self._stub.watching
        return simulate(registers, memory.read, memory.write, self._floor, operands=not watched)

    def pass_on(self) -> bytes:
        """Return the packet that lets the kernel handle an exception by itself.

        kgdb takes the digits of `C09` for the address to go on at, too (arch/x86/kernel/kgdb.c,
        kgdb_arch_handle_exception), and what the kernel then says of the exception would name
        that. Sixteen digits more, and the 09 is shifted out of the number (kgdb_hex2long).
        """
        try:
            return b"C09%016x" % self.registers["ip"] if self.registers is not None else b"C09"
        except KgdbError:
            return b"C09"
