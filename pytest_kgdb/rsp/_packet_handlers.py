"""gdb's requests while the kernel is stopped in kgdb, answered from guest memory where possible."""

from __future__ import annotations

from typing import Final

from ..arch import X86_64
from ..errors import KgdbError
from ._connection import KGDB_BYTES, KgdbConnection
from ._kgdb_stop import KgdbStop
from ._refusal import Refusal
from ._stop_context import FIRST_KERNEL_ADDRESS

__all__ = ["PacketHandlers"]

# Bytes that gdb may put into one packet. Longer accesses to memory are cut for kgdb.
_PACKET_SIZE: Final = 0x4000

# gdb asks these once when it connects; kgdb supports none of them (kernel/debug/gdbstub.c).
_UNSUPPORTED: Final = (
    b"vMustReplyEmpty", b"vCont?", b"qTStatus", b"qTfV", b"qTfP", b"qTsV", b"qTsP", b"qSymbol",
    b"qOffsets", b"qXfer", b"qAttached", b"Qbtrace", b"QProgramSignals", b"QPassSignals", b"X",
)  # fmt: skip

_FAULT: Final = b"E14"  # EFAULT, as kgdb says it (kernel/debug/gdbstub.c, error_packet)

# Those that kgdb knows: no FPU, no vectors.
_REGISTERS: Final = X86_64.registers.kgdb

_PAGE: Final = 4096  # the smallest that is mapped


class PacketHandlers:
    """Answers the requests of gdb's that neither resume the kernel nor concern breakpoints."""

    def __init__(self, connection: KgdbConnection, stop: KgdbStop) -> None:
        self._connection = connection
        self._stop = stop
        self.detached = False
        """Whether the machine is about to be replaced, and kgdb not to be asked."""
        self.list_all_threads = False
        """Whether gdb is told of every task, which takes kgdb long."""
        self.refusal: Refusal | None = None
        """Why the last write or breakpoint that was refused was; gdb has but a number for it."""
        self.select_stopped_thread()

    def select_stopped_thread(self) -> None:
        """Take note of a new stop: requests are about the thread that stopped."""
        self._kgdb_thread = b""  # the last `Hg` sent to kgdb; empty for the thread that stopped
        self._gdb_thread = b""  # gdb's last one

    def select_stopped_for_gdb(self) -> None:
        """Take note that gdb's requests are about the thread that stopped from now on."""
        self._gdb_thread = b""

    def reply(self, payload: bytes) -> bytes:
        """Return the reply to a request."""
        kind = payload[:1]
        reply = self._reply_here(kind, payload)
        if reply is None:
            reply = b"" if self.detached else self._forward(kind, payload)
        return reply

    def stop_reply(self) -> bytes:
        """Return kgdb's stop reply with the thread, which kgdb leaves out where it was asked."""
        reply = b"" if self.detached else self._connection.request(b"?")  # it drops breakpoints
        current = self._connection.request(b"qC") if reply[:1] == b"S" else b""
        if current.startswith(b"QC"):
            return b"T%bthread:%b;" % (reply[1:3], current[2:])
        return reply

    def _forward(self, kind: bytes, payload: bytes) -> bytes:
        if kind in (b"g", b"G", b"p", b"P") and self._kgdb_thread != self._gdb_thread:
            self._connection.request(b"Hg" + (self._gdb_thread or self._stop.thread or b"0"))
            self._kgdb_thread = self._gdb_thread
        return self._connection.request(payload)

    def _reply_here(self, kind: bytes, payload: bytes) -> bytes | None:
        """Return a reply of our own; None where kgdb must be asked."""
        if kind == b"m":
            return self._read(payload)
        if kind in (b"g", b"P") and self._stop.registers is not None and not self._gdb_thread:
            return self._access_registers(kind, payload)
        if kind == b"M":
            return self._write(payload)
        if kind == b"p" and int(payload[1:], 16) >= _REGISTERS:
            return b"xxxxxxxx"  # unavailable, where an error would be the whole command's
        if kind == b"H":
            return self._select_thread(payload)
        if payload.startswith(b"qSupported"):
            return b"PacketSize=%x;QStartNoAckMode+;swbreak+;hwbreak+" % _PACKET_SIZE
        if payload.startswith(_UNSUPPORTED):
            return b""
        thread = self._stop.thread
        if not self.list_all_threads and thread:
            if payload == b"qfThreadInfo":
                return b"m" + thread
            if payload == b"qsThreadInfo":
                return b"l"
            if payload == b"qC":
                return b"QC" + thread
        if kind == b"T" and payload[1:] == thread:
            return b"OK"
        return None

    def _select_thread(self, payload: bytes) -> bytes | None:
        thread = payload[2:]
        stopped = thread in (b"0", b"-1", b"") or _same(thread, self._stop.thread)
        if payload[1:2] == b"c":
            return b"OK" if stopped else None
        if stopped:
            self._gdb_thread = b""
            return b"OK"
        reply = b"" if self.detached else self._connection.request(payload)
        if reply == b"OK":
            self._gdb_thread = self._kgdb_thread = thread
        return reply

    def _read(self, payload: bytes) -> bytes | None:
        address, size = (int(number, 16) for number in payload[1:].split(b","))
        if self._stop.memory is not None:
            try:
                self._refuse_other_task(address)
                return self._stop.read(address, size).hex().encode()
            except KgdbError:
                # Not RAM: a device, or nothing; kgdb knows how to fail. It reads no user's memory.
                if address < FIRST_KERNEL_ADDRESS:
                    return _FAULT
        if self.detached:
            return _FAULT
        if size <= KGDB_BYTES:
            return None
        parts: list[bytes] = []
        for start in range(address, address + size, KGDB_BYTES):
            length = min(KGDB_BYTES, address + size - start)
            part = self._connection.request(b"m%x,%x" % (start, length))
            if part[:1] == b"E":
                return b"".join(parts) or part
            parts.append(part)
        return b"".join(parts)

    def _write(self, payload: bytes) -> bytes:
        """Write through kgdb, so that QEMU learns of changed instructions."""
        if self.detached:
            return b"OK"
        where, _, digits = payload[1:].partition(b":")
        address, size = (int(number, 16) for number in where.split(b","))
        if address >= FIRST_KERNEL_ADDRESS:
            return self._write_kernel(address, size, digits)
        try:
            self._refuse_other_task(address)
            pieces = self._stop.open_user(address, size)
        except KgdbError as error:
            self.refusal = Refusal.of_memory(error.message)
            return _FAULT
        for start, length in pieces:
            reply = self._write_kernel(start, length, digits[: 2 * length])
            if reply != b"OK":
                return reply
            digits = digits[2 * length :]
        return b"OK"

    def _write_kernel(self, address: int, size: int, digits: bytes) -> bytes:
        if not self.check_mapped(address, size):
            return _FAULT
        for start in range(0, size, KGDB_BYTES):
            part = digits[2 * start : 2 * (start + KGDB_BYTES)]
            reply = self._connection.request(b"M%x,%x:%b" % (address + start, len(part) // 2, part))
            if reply != b"OK":
                self.refusal = Refusal.of_memory(
                    f"kgdb could not write at {address + start:#x}, which is mapped, but not to be "
                    f"written (it replied {reply.decode('ascii', 'replace')})"
                )
                return reply
        return b"OK"

    def _refuse_other_task(self, address: int) -> None:
        if address < FIRST_KERNEL_ADDRESS and self._gdb_thread:
            raise KgdbError(
                f"{address:#x} is a user program's, and gdb has selected another task than the "
                "one that stopped",
                hint="read_user(TASK, ADDRESS, SIZE) reads another task's memory",
            )

    def explain(self, address: int) -> KgdbError | None:
        """Return why gdb could not read an address, or write there; None if that is not known."""
        if self._stop.memory is None or self.detached:
            return None
        try:
            self._refuse_other_task(address)
            self._stop.read(address, 1)
            if address < FIRST_KERNEL_ADDRESS:
                self._stop.open_user(address, 1)
        except KgdbError as error:
            return error
        return None

    def check_mapped(self, address: int, size: int, *, ask: bool = True) -> bool:
        """Return whether kgdb may write there; note why it may not.

        :param ask: ask kgdb where guest memory is not ours. For a breakpoint it reads first by
            itself (arch/x86/kernel/kgdb.c, kgdb_arch_set_breakpoint).

        The kernel's own check comes too late: where a CPU has SMAP, a write to an address of user
        space is an oops within kgdb, whatever fixes up the instruction
        (arch/x86/mm/fault.c, do_user_addr_fault).
        """
        memory = self._stop.memory
        try:
            if address < FIRST_KERNEL_ADDRESS:
                raise KgdbError(f"{address:#x} is not mapped in the kernel's half of memory")
            if memory is not None:
                memory.check_mapped(address, size)
            elif ask:
                self._ask_mapped(address, size)
        except KgdbError as error:
            self.refusal = Refusal.of_memory(error.message)
            return False
        return True

    def _ask_mapped(self, address: int, size: int) -> None:
        """Have kgdb read a byte of each page, which it survives wherever it is."""
        end = address + size
        for at in (address, *range((address | _PAGE - 1) + 1, end, _PAGE)):
            if self._connection.request(b"m%x,1" % at)[:1] == b"E":
                raise KgdbError(f"{at:#x} is not mapped: kgdb cannot read it")

    def _access_registers(self, kind: bytes, payload: bytes) -> bytes:
        registers = self._stop.registers
        assert registers is not None
        if kind == b"g":
            return registers.g_reply()
        number, _, value = payload[1:].partition(b"=")
        registers.set_number(int(number, 16), bytes.fromhex(value.decode()))
        return b"OK"  # orig_ax too, which nobody reads but at the exit of a system call


def _same(one: bytes, other: bytes) -> bool:
    """Compare thread ids, which are hexadecimal and may have leading zeros."""
    try:
        return int(one, 16) == int(other, 16)
    except ValueError:
        return False
