"""The machine's stop in QEMU's gdb stub: the CPU that stopped, its registers, and memory."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Final

from ..arch import X86_64
from ..errors import KgdbError
from ._emulate import emulate
from ._kernel_stops import Fault
from ._packets import cpu_of, stopped_thread
from ._qemu_memory import QemuMemory
from ._registers import PacketRegisters, PtRegs
from ._stop_context import FIRST_KERNEL_ADDRESS

__all__ = ["QemuStop"]

_PC: Final = X86_64.registers.pc

_INSTRUCTION: Final = 15  # bytes, at the most (Intel SDM volume 2, "Instruction Format")

# Of so many steps one is the CPU's, for the others to run meanwhile: it may wait for them.
_EMULATED: Final = 50

# A field of ours in stop replies, which gdb does not see.
_PT_REGS: Final = b"pt_regs:"

_USER_CODE: Final = 3  # the privilege level in the selector of a user program's code


class QemuStop:
    """The CPU that stopped. What has been asked for of it is asked for once.

    :param request: sends QEMU a packet and returns its reply.
    :param target: its name, for messages.
    """

    def __init__(self, request: Callable[[bytes], bytes], target: str) -> None:
        self._request = request
        self._target = target
        self.memory = QemuMemory(request, self._registers_of_selected)
        """The memory as the selected CPU has it."""
        self._reply = b""
        self._emulated = 0
        self.resumes()

    def resumes(self) -> None:
        """Take note that the machine goes on."""
        self._gdb_thread = b""  # of its last `Hg`
        self._selected = b""  # of the last `Hg` sent to QEMU
        self._registers: PacketRegisters | None = None  # if they have been asked for
        self._fault: PtRegs | None = None  # those that gdb sees in their place

    # The stop reply

    @property
    def reply(self) -> bytes:
        """The stop reply; with what is to be known of the stop when the machine is put back to it.

        May be set, for another stop.
        """
        return self._reply

    @reply.setter
    def reply(self, reply: bytes) -> None:
        self.resumes()
        self._reply = reply
        _, faulted, address = reply.partition(_PT_REGS)
        if faulted:
            self.select(self.thread)
            self._fault = PtRegs(self.read, self.write, int(address.rstrip(b";"), 16))

    @property
    def reply_for_gdb(self) -> bytes:
        """The stop reply as gdb is to have it."""
        return self._reply.partition(_PT_REGS)[0]

    @property
    def thread(self) -> bytes:
        """The CPU that stopped, as QEMU numbers it."""
        return stopped_thread(self._reply)

    @property
    def faulted(self) -> bool:
        """Whether gdb sees what an exception has interrupted."""
        return self._fault is not None

    @property
    def faulted_stack_pointer(self) -> int | None:
        """That of what an exception has interrupted; None if gdb sees none."""
        return self._fault[X86_64.registers.sp] if self._fault is not None else None

    def show(self, fault: Fault) -> None:
        """Have gdb see what an exception has interrupted, as kgdb shows it."""
        self._reply = b"T%02xthread:%b;%b%x;" % (
            fault.signal, self.thread, _PT_REGS, fault.registers,
        )  # fmt: skip
        self._fault = PtRegs(self.read, self.write, fault.registers)

    @property
    def task(self) -> bytes:
        """What tells the task on the CPU that stopped from others; empty where it is not known."""
        if not self.thread:
            return b""
        self.select(self.thread)
        with contextlib.suppress(KgdbError):
            return b"%x" % self.memory.task
        return b""

    # Threads

    def select(self, thread: bytes) -> bytes:
        """Have QEMU's requests be about a thread; return its reply.

        Before the first stop reply there is only the one that it has selected itself.
        """
        if not thread or (self._selected and cpu_of(thread) == cpu_of(self._selected)):
            return b"OK"
        reply = self._request(b"Hg" + thread)
        if reply == b"OK":
            self._selected = thread
        return reply

    def select_for_gdb(self, thread: bytes) -> bytes:
        """Do what gdb asks by `Hg`, and return the reply.

        Any thread will do where it asks for `0`, as gdb 16 does to read code: the one that stopped.
        """
        if cpu_of(thread) <= 0 and self.thread:
            self.select_stopped_for_gdb()
            return b"OK"
        reply = self.select(thread)
        if reply == b"OK":
            self._gdb_thread = thread
        return reply

    def select_stopped_for_gdb(self) -> None:
        """Take note that gdb is told of a stop: what it asks then is about the one that stopped."""
        self._gdb_thread = b""

    # Registers

    @property
    def registers(self) -> PacketRegisters:
        """The registers of the CPU that stopped; what is read and written next is its own, too."""
        self.select(self.thread)
        if self._registers is None:
            self._registers = PacketRegisters(self._request, self._target)
        return self._registers

    def _registers_of_selected(self) -> PacketRegisters:
        if self._is_stopped_selected():
            return self.registers
        return PacketRegisters(self._request, self._target)

    def _is_stopped_selected(self) -> bool:
        return bool(self._selected) and cpu_of(self._selected) == cpu_of(self.thread)

    def forget_registers(self) -> None:
        """Take note that they may have been changed."""
        self._registers = None

    def access(self, payload: bytes) -> bytes | None:
        """Have QEMU's next request be about gdb's thread; return a reply if one is known here.

        :param payload: a request for registers or memory.
        """
        kind = payload[:1]
        self.select(self._gdb_thread or self.thread)
        if kind in (b"m", b"M"):
            return self.memory.reply(payload)
        if not self._is_stopped_selected():
            return None
        fault = self._fault
        if kind == b"g":
            return self.registers.g_reply(fault)
        if fault is not None:
            number, _, value = payload[1:].partition(b"=")
            if kind == b"P" and fault.set_number(int(number, 16), bytes.fromhex(value.decode())):
                return b"OK"
            if kind == b"p":
                return fault.number(int(number, 16))
            if kind == b"G":
                return b"E01"  # gdb sends `P`
        if kind != b"p":
            self.forget_registers()
        return None

    # Memory

    def read(self, address: int, size: int) -> bytes:
        """Read virtual memory as the selected CPU has it.

        :raises KgdbError: not all of it is there.
        """
        return self.memory.read(address, size)

    def write(self, address: int, data: bytes) -> None:
        """Write the kernel's memory: data only.

        :raises KgdbError: it is not there.
        """
        self.memory.write_data(address, data)

    def explain(self, address: int) -> KgdbError | None:
        """Return why gdb could not read an address, or write there; None if that is not known."""
        self.select(self._gdb_thread or self.thread)
        return self.memory.explain(address)

    def may_reach(self, address: int) -> bool:
        """Whether a CPU may come to an instruction at an address.

        Where a program's page tables are without the kernel, nothing is known of the kernel's.
        """
        if not self.thread:
            return True
        with contextlib.suppress(KgdbError):
            self.read(address, 1)
            return True
        if self.memory.memory is not None:
            return False
        in_program = self.registers["cs"] & _USER_CODE == _USER_CODE
        return address >= FIRST_KERNEL_ADDRESS and in_program

    # Steps

    def emulate(self) -> bool:
        """Execute an instruction of the kernel's here, if it can be; False otherwise.

        QEMU would have the CPU execute it, stop once more, and for that drop all the code that it
        has translated.
        """
        registers = self.registers
        pc = registers[_PC]
        self._emulated += 1
        if pc < FIRST_KERNEL_ADDRESS or self._emulated % _EMULATED == 0:
            return False
        try:
            code = self.read(pc, _INSTRUCTION)  # in one packet
        except KgdbError:
            code = b""  # at the end of what is mapped

        def read(address: int, size: int) -> bytes:
            here = code[address - pc : address - pc + size] if address >= pc else b""
            return here if len(here) == size else self.read(address, size)

        return emulate(registers, read, self.write, 0)
