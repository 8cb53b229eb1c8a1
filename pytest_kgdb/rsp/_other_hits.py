"""Hits of watchpoints that QEMU does not report, of CPUs other than the one that stopped."""

from __future__ import annotations

import contextlib
import re
from collections import deque
from collections.abc import Callable, Iterable
from typing import Final

from ..arch import X86_64
from ..errors import KgdbError
from ._displaced import has_accessed
from ._packets import IO_ERROR, cpu_of, stopped_thread
from ._registers import PacketRegisters

__all__ = ["STEP_SECONDS", "HitReports", "OtherHits"]

STEP_SECONDS: Final = 5.0
"""For a step of one CPU, which takes less than a millisecond, or none at all: a machine that the
guest has switched off does not run."""

_PC: Final = X86_64.registers.pc
_FLAGS: Final = X86_64.registers.flags
_TRAP: Final = 1 << 8  # the trap flag (Intel SDM volume 1, "EFLAGS Register")
_USER: Final = 3  # in CS: the privilege level of a program

_HLT: Final = b"\xf4"
_BEHIND_HLT: Final = (b"\xfb\xf4", b"\xfa\xf4")  # sti, or cli, and hlt
_HLT_FOR_EVER: Final = b"\xf4\xeb\xfd"  # hlt, and a jump to it

_WATCHED: Final = re.compile(rb"watch:([0-9a-f]+);")
_TRIES: Final = 3


class OtherHits:
    """Asks QEMU for the hit of each CPU.

    QEMU keeps a CPU's hit until it reports a stop of that CPU (gdbstub.c, gdb_vm_state_change). Of
    CPUs that have hits at once it reports one. The next access of another one to the page would
    then be a hit, wherever it goes (softmmu/physmem.c, cpu_check_watchpoint), and of a watchpoint
    that may have been removed. So each of them jumps to where it is here, whose end is reported,
    with the hit, if it has one.

    :param request: sends a packet to the stopped machine, and returns the reply.
    :param step: sends one that has it run until the next stop reply, and returns that.
    """

    def __init__(self, request: Callable[[bytes], bytes], step: Callable[[bytes], bytes]) -> None:
        self._request = request
        self._step = step
        self._threads: list[bytes] = []
        self.self_jump = 0
        """Where the kernel's code has a jump to itself; QEMU is asked nothing without one."""
        self.io_error = False
        """Whether QEMU has stopped the machine itself when it was last asked."""

    def connected(self) -> None:
        """Take note that this is another connection to QEMU."""
        self._threads.clear()

    def take(self, stop_reply: bytes = b"") -> list[bytes]:
        """Return stop replies for the hits that QEMU keeps; it does not any more.

        An atomic instruction is begun anew, and so may be its hit: there is none for an access that
        is not known to have been made. Another CPU may be selected behind that.

        :param stop_reply: what QEMU has reported of the stop; empty if nobody is told of that.
        """
        self.io_error = False
        if not self.self_jump:
            return []
        reported = cpu_of(stopped_thread(stop_reply)) if stop_reply[:3] == b"T05" else None
        replies = []
        for thread in self._list_threads():
            if self.io_error:
                break  # by a CPU's step, QEMU would try again
            if cpu_of(thread) != reported and (reply := self._take(thread)):
                replies.append(reply)
        return replies

    def _list_threads(self) -> list[bytes]:
        if not self._threads:
            # By asking for a description of the target a debugger shows that it may set single
            # registers (gdbstub.c, handle_set_reg).
            self._request(b"qXfer:features:read:target.xml:0,1")
            reply = self._request(b"qfThreadInfo")
            while reply[:1] == b"m":
                self._threads += reply[1:].split(b",")
                reply = self._request(b"qsThreadInfo")
        return self._threads

    def _take(self, thread: bytes) -> bytes:
        """Return the stop reply for a CPU's hit; empty if it has none."""
        if self._request(b"Hg" + thread) != b"OK":
            return b""
        try:
            registers = self._registers()
            pc, flags = registers[_PC], registers[_FLAGS]
            if registers["cs"] & _USER or self._is_at_hlt(pc):
                return b""
            if self._read(self.self_jump, len(X86_64.self_jump)) != X86_64.self_jump:
                return b""
            try:
                reply = self._jump(thread, flags)
            finally:
                self._request(b"Hg" + thread)
                registers = self._registers()
                registers[_PC], registers[_FLAGS] = pc, flags
            hit = _WATCHED.search(reply)
            if hit is not None and has_accessed(registers, self._read, int(hit[1], 16)):
                return reply
        except KgdbError:
            pass  # a CPU that does not run the kernel yet, say
        return b""

    def _jump(self, thread: bytes, flags: int) -> bytes:
        """Have a CPU execute the jump to itself, once or twice; return the stop reply.

        One that comes to a stop while QEMU stops the others for another makes it stop once more
        when it goes on (softmmu/runstate.c, qemu_system_debug_request), and report the other one.

        At a stop that is no hit, QEMU reports, and no longer single-steps, the CPU that `Hc` chose
        (gdbstub.c, gdb_vm_state_change): another one would stop again at its next instruction.
        """
        reply = b""
        for _ in range(_TRIES):
            self._request(b"Hg" + thread)
            registers = self._registers()
            registers[_PC] = self.self_jump
            registers[_FLAGS] = flags & ~_TRAP  # kgdb may step the task that is on it
            self._request(b"Hc" + thread)
            reply = self._step(b"vCont;s:" + thread)
            self.io_error = reply[:3] == IO_ERROR
            if self.io_error or cpu_of(stopped_thread(reply)) == cpu_of(thread):
                break
        return reply

    def _registers(self) -> PacketRegisters:
        return PacketRegisters(self._request, "QEMU's gdb stub")

    def _is_at_hlt(self, pc: int) -> bool:
        """Whether a CPU is about to execute `hlt`, or may wait in one: it has made no access there.

        One that waits comes to the end of no instruction. The kernel enables or disables
        interrupts before, or goes back to it (arch/x86/include/asm/irqflags.h).
        """
        if self._read(pc, 1) == _HLT:
            return True
        with contextlib.suppress(KgdbError):
            return self._read(pc - 2, 2) in _BEHIND_HLT or self._read(pc - 1, 3) == _HLT_FOR_EVER
        return False

    def _read(self, address: int, size: int) -> bytes:
        """Read what the selected CPU has there.

        :raises KgdbError: it is not mapped.
        """
        reply = self._request(b"m%x,%x" % (address, size))
        try:
            return bytes.fromhex(reply.decode())
        except ValueError:
            raise KgdbError(f"{address:#x} is not mapped") from None


class HitReports:
    """Stop replies for other CPUs' hits, of which gdb is told when it has the kernel go on."""

    def __init__(self) -> None:
        self.replies: deque[bytes] = deque()
        self.asked = b""
        """What would have resumed the machine, had there been none."""
        self._is_next = False

    def put_off(self, packet: bytes, inserted: Iterable[bytes]) -> bool:
        """Whether there is a report instead of what a packet resumes; it is the next event then.

        :param inserted: watchpoints, as `Z` has them; hits of others are dropped.
        """
        watched = {int(key.split(b",")[1], 16) for key in inserted if key[:1] != b"1"}
        while self.replies:
            match = _WATCHED.search(self.replies[0])
            self._is_next = match is not None and int(match[1], 16) in watched
            if self._is_next:
                break
            self.replies.popleft()
        self.asked = packet if self._is_next else b""
        return self._is_next

    def next_event(self) -> bytes:
        """Return the stop reply that is to be reported now; empty for none."""
        if not self._is_next:
            return b""
        self._is_next = False
        return self.replies.popleft()
