"""Watchpoints and hardware breakpoints through QEMU's gdb stub.

kgdb accepts them and they never fire (perf leaves its pre-allocated events off). QEMU watches any
number of addresses itself. At a hit it stops the machine under the kernel's feet; an int3 put at
the instruction that comes next then leads the kernel into kgdb, as if kgdb had watched.
"""

from __future__ import annotations

import contextlib
import itertools
import select
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from ..arch import X86_64
from ..deadline import Deadline, WaitLimit
from ..errors import KgdbError, MachineDied
from ._connection import Connection
from ._other_hits import STEP_SECONDS, OtherHits
from ._packets import ACK, INTERRUPT, IO_ERROR, PAUSED, stopped_thread
from ._recorded_code import RecordedCode
from ._registers import PacketRegisters
from ._stack_watches import StackWatches

__all__ = ["HARDWARE_HIT", "Hit", "QemuStub"]

HARDWARE_HIT: Final = b"hwbreak:;"
"""What a stop reply says of a hardware breakpoint (gdb manual, "Stop Reply Packets")."""

_KERNEL: Final = 1 << 63
_INT3: Final = b"\xcc"

# Where the interrupted stack pointer is on the exception's stack: behind the instruction pointer,
# the code segment and the flags (Intel SDM, volume 3, 6.14.2). #DB has no error code.
_SAVED_SP: Final = 24

# Requests that have no effect, and the first two bytes of what they are answered by: a thread, and
# an empty packet (gdb manual, "General Query Packets" and "Packets"). The second one's reply cannot
# be taken for one to the first.
_BARRIERS: Final = ((b"qC", b"QC"), (b"vMustReplyEmpty", b""))


@dataclass(frozen=True)
class Hit:
    """A hit whose kernel is on its way into kgdb."""

    address: int
    """Where the int3 is."""

    saved: bytes | None
    """The byte under it; None if none was put there: the kernel comes into kgdb by itself."""

    reason: bytes
    """What the stop reply says of it (gdb manual, "Stop Reply Packets"), with its semicolon.

    Nothing where it is no hit of gdb's, but the end of one on a stack.
    """

    stepped: bool = False
    """Whether it comes there by the end of a single step, and not by an int3."""


class QemuStub:
    """QEMU's gdb stub beside kgdb, attached when the first hardware breakpoint is inserted.

    :param connect: returns a socket connected to the stub.
    :param misses_atomics: see :class:`WatchedPages`.
    """

    def __init__(
        self,
        connect: Callable[[], socket.socket],
        *,
        waits: WaitLimit,
        misses_atomics: bool = False,
    ) -> None:
        self._connect = connect
        self.misses_atomics = misses_atomics
        self._waits = waits
        self._connection: Connection | None = None
        self._inserted: set[bytes] = set()
        self._withdrawn: set[bytes] = set()  # removed at a hit; gdb does not know
        self._led: dict[int, bytes] = {}  # what is under the int3s of hits
        self._running = False
        self.debug_exception: int | None = None
        """The kernel's `asm_exc_debug`, where single steps end; None where that is not known."""
        self.int3_exception: int | None = None
        """The kernel's `asm_exc_int3`, where int3s lead; None where that is not known."""
        self.code: RecordedCode | None = None
        """Whose int3s give way to the one at a hit."""
        self._failed = False  # QEMU has stopped the machine itself
        self._thread = b""  # the CPU of the last stop that was one of its own
        self.other_hits = OtherHits(self._request, self._step_cpu)
        """Asks for the hits of CPUs that QEMU does not report."""
        self.stack_watches: StackWatches | None = None
        """Which know what a hit ends."""

    @property
    def socket(self) -> socket.socket | None:
        """To be selected on, while the stub is attached."""
        return self._connection.socket if self._connection is not None else None

    @property
    def hardware(self) -> set[bytes]:
        """What is inserted, or will be when the kernel goes on, as `Z` has it."""
        return self._inserted | self._withdrawn

    @property
    def watching(self) -> bool:
        """Whether there are watchpoints."""
        return bool(self.watched)

    @property
    def watched(self) -> list[range]:
        """The addresses that have watchpoints."""
        areas = []
        for key in self.hardware:
            kind, address, size = key.split(b",")
            if kind != b"1":
                areas.append(range(int(address, 16), int(address, 16) + int(size, 16)))
        return areas

    # Breakpoints and watchpoints

    def insert_or_remove(self, payload: bytes) -> bytes:
        """Do what gdb asks (`Z1` to `Z4`, `z1` to `z4`), and return the reply."""
        key = payload[1:]
        removes = payload[:1] == b"z"
        if removes and key in self._withdrawn:
            self._withdrawn.discard(key)
            return b"OK"
        if removes and key not in self._inserted:
            return b"OK"  # removed since, with the machine
        self.stop()
        try:
            if removes:
                self._take_other_hits()  # of what nobody watches any more
            reply = self._request(payload)
        finally:
            self._resume()
        if reply == b"OK":
            (self._inserted.discard if removes else self._inserted.add)(key)
        return reply

    def reinsert(self) -> None:
        """Insert again what a hit removed: the kernel is about to leave that instruction."""
        for key in sorted(self._withdrawn):
            self.insert_or_remove(b"Z" + key)
        self._withdrawn.clear()

    def remove_all(self) -> None:
        """Remove everything, and leave the machine stopped: another state is about to be loaded.

        If an error of a disk's file has stopped it, going on would meet that again, and the machine
        would be stopped for it behind the state that is loaded.
        """
        if self._inserted:
            with contextlib.suppress(KgdbError):
                self.stop()
                self._take_other_hits()  # QEMU would keep them over another state
                for key in sorted(self._inserted):
                    self._request(b"z" + key)
        self._inserted.clear()
        self._withdrawn.clear()
        self._led.clear()

    # The machine

    def stop(self) -> bytes:
        """Stop the machine, attaching the stub if it is not.

        :returns: the stop reply, which may be a hit's; empty where it was stopped already.
        """
        if self._connection is None:
            self._connection = Connection(
                self._connect, waits=self._waits, target="QEMU's gdb stub", port="its gdb stub"
            )
            self.other_hits.connected()
            self._connection.socket.sendall(ACK)
            # QEMU stops the machine for a new debugger, and may or may not say so by itself.
            self._stop_reply(b"?")
            self._running = False
        if self._running:
            self._connection.socket.sendall(INTERRUPT)
            reply = self._await(b"interrupt", stop=True)
            self._running, self._failed = False, reply[:3] == IO_ERROR
            return reply
        return b""

    def cont(self) -> None:
        """Let a stopped machine run."""
        if not self._running:
            self._resume()

    def _resume(self) -> None:
        assert self._connection is not None
        self._connection.send(b"c")
        self._running, self._failed = True, False

    # Hits

    def take_hits(self, *, kernel_runs: bool) -> list[Hit]:
        """Take what the stub has sent by itself; at a hit, lead the kernel into kgdb.

        :param kernel_runs: whether the kernel runs. What the debugger of a stopped kernel touches
            is no hit.
        """
        connection = self._connection
        assert connection is not None
        if not connection.receive():
            raise MachineDied("QEMU closed its gdb stub")
        hits = []
        while connection.packets:
            reply = connection.packets.popleft()
            if reply[:1] == b"T":
                hits += self.go_on(reply, kernel_runs=kernel_runs)
        return hits

    def go_on(self, stop_reply: bytes, *, kernel_runs: bool) -> list[Hit]:
        """Let the machine run on from a stop; lead each CPU that has a hit into kgdb.

        What an error of a disk's file has stopped stays so; :meth:`.Machine.check_storage` reports
        it.
        """
        self._running = False
        self._failed = stop_reply[:3] == IO_ERROR
        if self._failed:
            return []
        replies = [stop_reply]
        if stop_reply[:3] == PAUSED:
            # Perhaps not by us, and who it was (QMP) may have let it run again, or not.
            self._request(b"vMustReplyEmpty")
            replies = []
        else:
            self._thread = stopped_thread(stop_reply)
        replies += self._take_other_hits(stop_reply)
        hits = [self._lead_into_kgdb(reply) for reply in replies] if kernel_runs else []
        self._select(self._thread)
        if not self._failed:
            self._resume()
        return [hit for hit in hits if hit is not None]

    def _take_other_hits(self, stop_reply: bytes = b"") -> list[bytes]:
        if not self.watching or self._failed:  # by a CPU's step, QEMU would try again
            return []
        replies = self.other_hits.take(stop_reply)
        self._failed = self.other_hits.io_error
        self._select(self._thread)
        return replies

    def _select(self, thread: bytes) -> None:
        """Have memory and registers be as a CPU has them; a user program's has no kernel's."""
        if thread:
            self._request(b"Hg" + thread)

    def _lead_into_kgdb(self, stop_reply: bytes) -> Hit | None:
        self._select(stopped_thread(stop_reply))
        registers = PacketRegisters(self._request, "QEMU's gdb stub")
        address = registers[X86_64.registers.pc]
        if address < _KERNEL:
            return None  # a program's access; the kernel has nothing to show for it
        watches = self.stack_watches
        slot = watches.guard_read(stop_reply) if watches is not None else None
        if watches is not None and slot is not None:
            if not watches.has_returned(slot, self._stack_pointer(registers)):
                return None
            for key in sorted(watches.returned(slot)):
                self._request(b"z" + key)
                self._inserted.discard(key)
            return self._lead_from(registers, b"")
        reason, breakpoint_hit = HARDWARE_HIT, False
        for field in stop_reply[3:].split(b";"):
            if field.partition(b":")[0] in (b"watch", b"rwatch", b"awatch"):
                reason = field + b";"
        # QEMU checks a breakpoint before the instruction, and would stop here for ever.
        for key in [key for key in self._inserted if key.startswith(b"1,%x," % address)]:
            self._request(b"z" + key)
            self._inserted.discard(key)
            self._withdrawn.add(key)
            breakpoint_hit = True
        if not breakpoint_hit and reason == HARDWARE_HIT:
            return None  # stopped for another reason
        if breakpoint_hit:
            return self._insert_int3(address, reason)
        return self._lead_from(registers, reason)

    def _stack_pointer(self, registers: PacketRegisters) -> int:
        """Return the stack pointer; at a debug exception, that of what it has interrupted."""
        pointer = registers[X86_64.registers.sp]
        if registers[X86_64.registers.pc] not in (self.debug_exception, self.int3_exception):
            return pointer
        return self._read_word(pointer + _SAVED_SP)

    def _read_word(self, address: int) -> int:
        reply = self._request(b"m%x,8" % address)
        return int.from_bytes(bytes.fromhex(reply.decode()), "little")

    def _lead_from(self, registers: PacketRegisters, reason: bytes) -> Hit:
        address = registers[X86_64.registers.pc]
        if address == self.int3_exception:
            # Behind the access is the int3 of another CPU's hit, or a breakpoint: it is on its way.
            at = self._read_word(registers[X86_64.registers.sp]) - len(_INT3)
            return Hit(at, self._led.get(at), reason)
        if address == self.debug_exception:
            # The access was a single step's: the CPU has taken the end of that first, and reports
            # it. An int3 here would be hit in the handler.
            return Hit(address, None, reason, stepped=True)
        return self._insert_int3(address, reason)

    def _insert_int3(self, address: int, reason: bytes) -> Hit:
        if address in self._led:  # another CPU's, which has not come into kgdb yet
            return Hit(address, self._led[address], reason)
        saved = self.code.give(address) if self.code is not None else None
        if saved is None:
            saved = bytes.fromhex(self._request(b"m%x,1" % address).decode())
        if saved == _INT3:
            return Hit(address, None, reason)  # kgdb's, which takes it away by itself
        self._request(b"M%x,1:cc" % address)
        self._led[address] = saved
        return Hit(address, saved, reason)

    def restore_instruction(self, hit: Hit) -> None:
        """Put back the instruction under a hit's int3: the kernel is in kgdb."""
        if hit.saved is None or self._led.pop(hit.address, None) is None:
            return
        if self.code is not None:
            self.code.take_back(hit.address)  # the int3 was executed, and that is recorded
        self.stop()
        try:
            self._request(b"M%x,1:%b" % (hit.address, hit.saved.hex().encode()))
        finally:
            self._resume()

    def run_to(self, address: int, patience: Callable[[float], bool]) -> None:
        """Let the machine run until it comes to an instruction; detach, with the machine stopped.

        :param patience: is called with the seconds that have passed, a few times in each of them;
            the wait ends when it returns False.
        """
        key = b"1,%x,1" % address
        self.stop()
        connection = self._connection
        assert connection is not None
        self._request(b"Z" + key)
        self._resume()
        began = time.monotonic()
        while not any(packet[:1] == b"T" for packet in connection.packets):
            if not patience(time.monotonic() - began):
                self.stop()
                break
            ready, _, _ = select.select([connection.socket], [], [], 0.1)
            if ready and not connection.receive():
                raise MachineDied("QEMU closed its gdb stub")
        self._running = False
        connection.packets.clear()
        self._request(b"z" + key)
        self.close()

    def close(self) -> None:
        """Detach the stub; the machine stays as it is."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None
            self._running = False

    # The conversation

    def _request(self, payload: bytes) -> bytes:
        """Send a request to the stopped machine, once more if it was not stopped.

        A running machine is stopped by whatever comes, and says so; the packet itself is lost
        (gdbstub/gdbstub.c, gdb_read_byte). But a stop reply may also be older than the request. By
        what a barrier behind it is answered, they are told apart.
        """
        connection = self._connection
        assert connection is not None
        deadline = connection.deadline()
        connection.send(payload)
        barriers = itertools.cycle(_BARRIERS)
        replies: list[bytes] = []
        awaited: bytes | None = None
        while True:
            reply = connection.next_packet(payload, deadline)
            if _is_stop_reply(reply):
                barrier, awaited = next(barriers)
                connection.send(barrier)
            elif awaited is None:
                return reply
            elif reply[:2] != awaited:
                replies.append(reply)
            elif replies:
                return replies[0]
            else:
                awaited = None
                connection.send(payload)

    def _stop_reply(self, payload: bytes, seconds: float | None = None) -> bytes:
        assert self._connection is not None
        self._connection.send(payload)
        return self._await(payload, stop=True, seconds=seconds)

    def _step_cpu(self, payload: bytes) -> bytes:
        return self._stop_reply(payload, STEP_SECONDS)

    def _await(self, request: bytes, *, stop: bool, seconds: float | None = None) -> bytes:
        """Return the next packet that is a stop reply, or the next that is none."""
        assert self._connection is not None
        deadline = self._connection.deadline() if seconds is None else Deadline(seconds)
        while True:
            reply = self._connection.next_packet(request, deadline)
            if _is_stop_reply(reply) == stop:  # a stop reply comes also unasked
                return reply


def _is_stop_reply(reply: bytes) -> bool:
    return reply[:1] in (b"T", b"S")
