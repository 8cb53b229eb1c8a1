"""Memory at a stop of QEMU's stub, by page tables that the CPU need not have loaded."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Final

from ..errors import KgdbError
from ._refusal import Refusal
from ._registers import Readable
from ._stop_context import FIRST_KERNEL_ADDRESS, GuestMemory

if TYPE_CHECKING:
    from ..kernel import StopLayout

__all__ = ["QemuMemory"]

# Bytes of memory in one packet: QEMU's is of 4096 (gdbstub.c, MAX_PACKET_LENGTH), two for each.
_PIECE: Final = 0x400

_FAULT: Final = b"E14"  # EFAULT, as QEMU and kgdb say it


class QemuMemory:
    """The kernel's memory through its own page tables, and a program's through its task's.

    QEMU uses those of the CPU. With page table isolation they lack the kernel while a program
    runs, and QEMU heeds neither what is read-only nor what the task has only borrowed
    (`active_mm`). So what it is asked for is physical memory (`Qqemu.PhyMemMode`), after a look at
    the page tables; RAM is read without it. It is QEMU that writes: it must learn of changed
    instructions.

    :param request: sends QEMU a packet about the CPU that it has selected, and returns its reply.
    :param registers: returns the registers of that CPU.
    """

    def __init__(
        self, request: Callable[[bytes], bytes], registers: Callable[[], Readable]
    ) -> None:
        self._request = request
        self._registers = registers
        self.memory: GuestMemory | None = None
        self.layout: StopLayout | None = None
        self.refusal: Refusal | None = None
        """Why the last write that was refused was; gdb has but a number for it."""

    def reply(self, payload: bytes) -> bytes | None:
        """Return the reply to `m` and `M`; None where QEMU is to be asked."""
        if self.memory is None and payload[:1] == b"m":
            return None
        where, _, digits = payload[1:].partition(b":")
        address, size = (int(number, 16) for number in where.split(b","))
        try:
            if payload[:1] == b"m":
                return self.read(address, size).hex().encode()
            self._write(address, bytes.fromhex(digits.decode()))
        except KgdbError as error:
            if payload[:1] == b"M":
                self.refusal = Refusal.of_memory(error.message)
            return _FAULT
        return b"OK"

    # Reading

    def read(self, address: int, size: int) -> bytes:
        """Read virtual memory: the kernel's, or the user program's whose task is on the CPU.

        :raises KgdbError: not all of it is mapped; the message names the address.
        """
        memory = self.memory
        if memory is None:
            return self._ask(address, size)
        if address < FIRST_KERNEL_ADDRESS:
            if self.layout is None:
                return self._ask(address, size)
            return memory.read_user(self._task(memory), address, size)
        try:
            return memory.read(address, size)
        except KgdbError:
            return self._read_device(memory, address, size)

    def _read_device(self, memory: GuestMemory, address: int, size: int) -> bytes:
        """Read what is mapped, and not all of it to RAM."""
        parts = []
        while size > 0:
            physical, mapped = memory.translate(address)
            length = min(size, mapped, _PIECE)
            with self._physical():
                parts.append(self._ask(physical, length, shown=address))
            address, size = address + length, size - length
        return b"".join(parts)

    def _ask(self, address: int, size: int, shown: int | None = None) -> bytes:
        parts = []
        for start in range(address, address + size, _PIECE):
            reply = self._request(b"m%x,%x" % (start, min(_PIECE, address + size - start)))
            if reply[:1] == b"E":
                raise KgdbError(
                    f"{start if shown is None else shown:#x} is not mapped: QEMU cannot read "
                    f"{size} bytes there"
                )
            parts.append(bytes.fromhex(reply.decode()))
        return b"".join(parts)

    @property
    def task(self) -> int:
        """The address of the task on the CPU that is selected.

        :raises KgdbError: guest memory is not ours, or the CPU has no task yet.
        """
        if self.memory is None or self.layout is None:
            raise KgdbError("guest memory is not mapped here")
        return self._task(self.memory)

    def _task(self, memory: GuestMemory) -> int:
        """Return the task on the CPU, relative to the base of GS (arch/x86/include/asm/percpu.h).

        While a program runs, the kernel's is in the other of the two (`swapgs`).
        """
        assert self.layout is not None
        registers = self._registers()
        base = registers["gs_base"]
        if base < FIRST_KERNEL_ADDRESS:
            base = registers["k_gs_base"]
        where = (base + self.layout.current_task) & (1 << 64) - 1
        return int.from_bytes(memory.read(where, 8), "little")

    # Writing

    def _write(self, address: int, data: bytes) -> None:
        """Write what is mapped; of a user program what that may write itself."""
        memory = self.memory
        if memory is None:
            self._write_unchecked(address, data)
            return
        with self._physical():
            for start, size in self._open(memory, address, len(data)):
                piece, data = data[:size], data[size:]
                self._write_mapped(memory, start, piece)

    def _write_unchecked(self, address: int, data: bytes) -> None:
        """Write by the page tables of the CPU, in which what a program shares is not told apart."""
        if address < FIRST_KERNEL_ADDRESS:
            raise KgdbError(f"{address:#x} is a user program's: guest memory is not mapped here")
        for start in range(0, len(data), _PIECE):
            piece = data[start : start + _PIECE]
            reply = self._request(
                b"M%x,%x:%b" % (address + start, len(piece), piece.hex().encode())
            )
            if reply != b"OK":
                raise KgdbError(f"{address + start:#x} is not mapped: QEMU cannot write there")

    def _write_mapped(self, memory: GuestMemory, address: int, data: bytes) -> None:
        while data:
            physical, mapped = memory.translate(address)
            piece, data = data[: min(mapped, _PIECE)], data[min(mapped, _PIECE) :]
            reply = self._request(b"M%x,%x:%b" % (physical, len(piece), piece.hex().encode()))
            if reply != b"OK":
                raise KgdbError(
                    f"QEMU could not write at {address:#x}, which is mapped (it replied "
                    f"{reply.decode('ascii', 'replace')})"
                )
            address += len(piece)

    def write_data(self, address: int, data: bytes) -> None:
        """Write the kernel's memory: data only, as where guest memory is ours QEMU is not told.

        :raises KgdbError: not all of it is mapped.
        """
        if self.memory is None:
            self._write_unchecked(address, data)
        else:
            self.memory.write(address, data)

    def write_user(self, address: int, data: bytes) -> None:
        """Write the memory of the user program whose task is on the CPU behind its back: data only.

        :raises KgdbError: not all of it is mapped, or the program itself may not write there.
        """
        memory = self.memory
        if memory is None:
            raise KgdbError(f"{address:#x} is a user program's: guest memory is not mapped here")
        for start, size in self._open_user(memory, address, len(data)):
            memory.write(start, data[:size])
            data = data[size:]

    def _open(self, memory: GuestMemory, address: int, size: int) -> list[tuple[int, int]]:
        """Return where in the kernel's memory to write: addresses and sizes."""
        if address < FIRST_KERNEL_ADDRESS:
            return self._open_user(memory, address, size)
        memory.check_mapped(address, size)
        return [(address, size)]

    def _open_user(self, memory: GuestMemory, address: int, size: int) -> list[tuple[int, int]]:
        if self.layout is None:
            raise KgdbError("where the kernel has the task that stopped is not known")
        return memory.open_user(self._task(memory), address, size)

    @contextlib.contextmanager
    def _physical(self) -> Iterator[None]:
        """Have addresses in packets be physical ones."""
        self._request(b"Qqemu.PhyMemMode:1")
        try:
            yield
        finally:
            self._request(b"Qqemu.PhyMemMode:0")

    def explain(self, address: int) -> KgdbError | None:
        """Return why an address could not be read, or written; None if that is not known."""
        if self.memory is None:
            return None
        try:
            self.read(address, 1)
            self._open(self.memory, address, 1)
        except KgdbError as error:
            return error
        return None
