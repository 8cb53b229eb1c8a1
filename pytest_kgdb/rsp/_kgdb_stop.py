"""The kernel's stop in kgdb: the stop reply, and the registers of the task that stopped."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from ..arch import X86_64
from ..errors import KgdbError
from ._connection import KgdbConnection
from ._displaced import DisplacedSteps
from ._emulate import emulate
from ._packets import stopped_thread
from ._qemu_stub import QemuStub
from ._registers import PacketRegisters, PtRegs, RegisterFile
from ._stop_context import FIRST_KERNEL_ADDRESS, GuestMemory, StopContext
from ._trap_cause import TrapCauses

if TYPE_CHECKING:
    from ..kernel import KgdbLayout, StopLayout

__all__ = ["KgdbStop"]

_PC: Final = X86_64.registers.pc
_SP: Final = X86_64.registers.sp
_STAY: Final = (-1).to_bytes(4, "little", signed=True)  # of `kgdbreboot`


class KgdbStop:
    """The stopped CPU, in guest memory where that is ours, and by requests to kgdb otherwise.

    :param traps: knows kgdb's breakpoints and single steps.
    :param reply: kgdb's stop reply; empty if it is to be asked for.
    """

    def __init__(
        self,
        connection: KgdbConnection,
        stub: QemuStub | None,
        traps: TrapCauses,
        reply: bytes,
    ) -> None:
        self._connection = connection
        self._stub = stub
        self._traps = traps
        self.reply = reply
        self.memory: GuestMemory | None = None
        self.layout: StopLayout | None = None
        self.registers: PtRegs | None = None
        """Those of the task that stopped; None where they are not found in guest memory."""
        self._asked: PacketRegisters | None = None  # the same, where kgdb was asked
        # Instructions are written by kgdb, so that QEMU learns of them.
        self._displaced = DisplacedSteps(connection.write)
        self._floor = 0

    @property
    def thread(self) -> bytes:
        """kgdb's number of the thread that stopped; empty if it is not known."""
        return stopped_thread(self.reply)

    @property
    def is_trap(self) -> bool:
        """Whether the kernel stopped for a debugger, rather than at an oops."""
        return self.reply[1:3] in (b"05", b"02", b"00")

    @property
    def interrupted_step(self) -> bool:
        """Whether the thread is back at an instruction whose single step is still due."""
        if self.reply[:3] != b"T05" or not self._traps.steps(self.thread):
            return False
        registers = self.registers if self.registers is not None else self._ask_registers()
        return self._traps.interrupted_step(self.thread, registers)

    def resumes(self, *, step: bool) -> None:
        """Take note that the kernel goes on.

        :param step: whether the thread that stopped is to execute one instruction.
        """
        registers = self.registers if self.registers is not None else self._asked
        if registers is not None:  # a hooked or stepping relay has asked for them
            self._traps.resumes(self.thread, registers)
            if step:
                self._traps.step_begins(self.thread, registers[_PC])
        self.registers = self._asked = None

    def find_registers(self) -> None:
        """Find the registers of the task that stopped, where guest memory is ours."""
        memory, layout = self.memory, self._kgdb_layout
        self.registers = self._asked = None
        if memory is None or layout is None:
            return
        try:
            info = self._info(memory, layout)
            address = int.from_bytes(memory.read(info + layout.debuggerinfo, 8), "little")
            self.registers = PtRegs(memory.read, memory.write, address)
            self._floor = self.registers[_SP]
            self._displaced.end(self.thread, self.registers, memory.read, layout.unused_code)
        except KgdbError:
            self.registers = None

    def stay_at_reboot(self) -> None:
        """Have kgdb stay when the kernel is about to reboot, unless it is told what else to do.

        By default it takes leave of gdb before the devices are shut down, and reports no stop any
        more (kernel/debug/debug_core.c, dbg_notify_reboot).
        """
        memory, layout = self.memory, self._kgdb_layout
        if memory is None or layout is None or layout.kgdbreboot is None:
            return
        with contextlib.suppress(KgdbError):
            if memory.read(layout.kgdbreboot, len(_STAY)) == bytes(len(_STAY)):
                memory.write(layout.kgdbreboot, _STAY)

    def read(self, address: int, size: int) -> bytes:
        """Read virtual memory: the kernel's, or the user program's whose task stopped.

        :raises KgdbError: not all of it is mapped RAM.
        """
        memory = self.memory
        if memory is None:
            return self._connection.read(address, size)
        if address < FIRST_KERNEL_ADDRESS:
            return memory.read_user(self._task(memory), address, size)
        return memory.read(address, size)

    def open_user(self, address: int, size: int) -> list[tuple[int, int]]:
        """Return where in the kernel's memory to write the user program's: addresses and sizes.

        :raises KgdbError: not all of it is mapped, or the program itself may not write there.
        """
        memory = self.memory
        if memory is None:
            raise KgdbError(f"{address:#x} is a user program's: guest memory is not mapped here")
        return memory.open_user(self._task(memory), address, size)

    def write_user(self, address: int, data: bytes) -> None:
        """Write the user program's memory behind its back: data only.

        :raises KgdbError: not all of it is mapped, or the program itself may not write there.
        """
        pieces = self.open_user(address, len(data))
        memory = self.memory
        assert memory is not None
        for start, size in pieces:
            memory.write(start, data[:size])
            data = data[size:]

    def _task(self, memory: GuestMemory) -> int:
        layout = self._kgdb_layout
        if layout is None:
            raise KgdbError("where the kernel has the task that stopped is not known")
        info = self._info(memory, layout)
        return int.from_bytes(memory.read(info + layout.task, 8), "little")

    @property
    def _kgdb_layout(self) -> KgdbLayout | None:
        return None if self.layout is None else self.layout.kgdb

    @staticmethod
    def _info(memory: GuestMemory, layout: KgdbLayout) -> int:
        """Return where the `struct debuggerinfo_struct` is of the CPU that stopped."""
        cpu = int.from_bytes(memory.read(layout.kgdb_active, 4), "little")
        return layout.kgdb_info + cpu * layout.info_size

    def context(self, *, hooked: bool) -> StopContext | None:
        """Return the stopped CPU for hooks and steps; None where there is nothing to do.

        :param hooked: whether there are hooks. Without them kgdb is not asked for registers.
        """
        memory, registers = self.memory, self.registers
        if memory is not None and registers is not None:
            return self._context(registers, self.read, self._emulate, self._displace)
        if not hooked:
            return None
        connection = self._connection
        asked = self._ask_registers()
        floor = asked[_SP]
        return self._context(
            asked,
            connection.read,
            lambda: emulate(asked, connection.read, connection.write, floor),
        )

    def _context(
        self,
        registers: RegisterFile,
        read: Callable[[int, int], bytes],
        emulate: Callable[[], bool],
        displace: Callable[[], bool] = lambda: False,
    ) -> StopContext:
        return StopContext(
            self.thread,
            registers,
            read,
            emulate,
            lambda: self.thread,
            breakpoint=self._traps.int3(self.thread, registers),
            interrupted_step=self._traps.interrupted_step(self.thread, registers),
            displace=displace,
        )

    def _emulate(self) -> bool:
        """Step here, so that neither the breakpoint nor the CPU has to change for it."""
        registers, memory = self.registers, self.memory
        if registers is None or memory is None or self.reply[1:3] != b"05":
            return False
        watched = self._stub is not None and self._stub.watching
        return emulate(registers, memory.read, memory.write, self._floor, operands=not watched)

    def _displace(self) -> bool:
        """Have the next step execute a copy of the instruction."""
        registers, memory, layout = self.registers, self.memory, self._kgdb_layout
        if registers is None or memory is None or layout is None or self.reply[1:3] != b"05":
            return False
        watched = self._stub.watched if self._stub is not None else []
        area = layout.unused_code
        return self._displaced.begin(self.thread, registers, memory.read, area, watched)

    def reset(self) -> None:
        """Take note that the machine has been replaced by another."""
        self._displaced.reset()

    def _ask_registers(self) -> PacketRegisters:
        # arch/x86/kernel/kgdb.c, dbg_set_reg, passes over the stack pointer.
        self._asked = PacketRegisters(self._connection.request, "kgdb", fixed=(_SP,))
        return self._asked

    def pass_on(self) -> bytes:
        """Return the packet that has the kernel handle an exception by itself.

        It is `C09` (kernel/debug/gdbstub.c, gdb_cmd_exception_pass). kgdb takes its digits for the
        address to go on at, too (arch/x86/kernel/kgdb.c, kgdb_arch_handle_exception), and the
        kernel's words on the exception would name that address. With sixteen digits more, the 09
        is shifted out of the number (kgdb_hex2long).
        """
        return b"C09%016x" % self.registers[_PC] if self.registers is not None else b"C09"
