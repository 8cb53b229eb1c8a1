"""What gdb is answered while the kernel is stopped, from guest memory where that will do."""

from __future__ import annotations

from typing import Final

from ..errors import KgdbError
from ._halt import Halt
from ._power import PowerSwitch
from ._serve import HookServer
from ._stub import Hit, Stub
from ._upstream import KGDB_BYTES, Upstream

__all__ = ["Answers"]

# What gdb may put into one packet to us. Longer reads of memory that is not ours are cut for kgdb.
_PACKET: Final = 0x4000

# gdb asks these once when it connects; kgdb knows none of them (kernel/debug/gdbstub.c).
_UNKNOWN: Final = (
    b"vMustReplyEmpty", b"vCont?", b"qTStatus", b"qTfV", b"qTfP", b"qTsV", b"qTsP", b"qSymbol",
    b"qOffsets", b"qXfer", b"qAttached", b"Qbtrace", b"QProgramSignals", b"QPassSignals", b"X",
)  # fmt: skip


class Answers:
    """Answers gdb's requests, all but those that let the kernel go on."""

    def __init__(
        self, upstream: Upstream, halt: Halt, stub: Stub | None, switch: PowerSwitch
    ) -> None:
        self._up = upstream
        self._halt = halt
        self._stub = stub
        self._switch = switch
        self.all_threads = False
        """Whether gdb is told of every task, which takes kgdb long."""
        self.hit: Hit | None = None
        """A hit on its way into kgdb."""

    def begin(self, hooks: HookServer) -> None:
        """Take up a machine; nothing has been asked of it yet."""
        self._hooks = hooks
        self.stopped()

    def stopped(self) -> None:
        """The kernel has stopped anew: the thread that stopped is the one that is meant."""
        self._upstream_thread = b""  # kgdb's Hg; empty for the thread that stopped
        self._wanted_thread = b""  # gdb's Hg

    def answer(self, payload: bytes) -> bytes:
        """Return the answer to a request."""
        kind = payload[:1]
        answer = self._local(kind, payload)
        if answer is None:
            answer = b"" if self._up.shut else self._forward(kind, payload)
        return answer

    def _forward(self, kind: bytes, payload: bytes) -> bytes:
        if kind in (b"g", b"G", b"p", b"P") and self._upstream_thread != self._wanted_thread:
            self._up.ask(b"Hg" + (self._wanted_thread or self._halt.thread or b"0"))
            self._upstream_thread = self._wanted_thread
        return self._up.ask(payload)

    def _local(self, kind: bytes, payload: bytes) -> bytes | None:  # a table of answers
        """Return our own answer; None where kgdb must be asked."""
        if payload.startswith(b"qSupported"):
            return b"PacketSize=%x;QStartNoAckMode+;swbreak+;hwbreak+" % _PACKET
        if payload == b"QStartNoAckMode":
            return b"OK"
        if payload.startswith(_UNKNOWN):
            return b""
        if kind == b"H":
            return self._select(payload)
        if kind in (b"Z", b"z"):
            return self._plant(payload)
        if kind == b"m":
            return self._read(payload)
        if kind == b"M":
            return self._write(payload)
        if (
            kind in (b"g", b"P", b"G")
            and self._halt.registers is not None
            and not self._wanted_thread
        ):
            return self._access_registers(kind, payload)
        thread = self._halt.thread
        if not self.all_threads and thread:
            if payload == b"qfThreadInfo":
                return b"m" + thread
            if payload == b"qsThreadInfo":
                return b"l"
            if payload == b"qC":
                return b"QC" + thread
        if kind == b"T" and payload[1:] == thread:
            return b"OK"
        if payload == b"?":
            return self._why(thread)
        return None

    def _why(self, thread: bytes) -> bytes:
        """Answer gdb's first question; kgdb's own answer leaves out the thread."""
        if not thread:
            answer = b"" if self._up.shut else self._up.ask(b"?")  # clears its breakpoints, too
            current = self._up.ask(b"qC") if answer[:1] == b"S" else b""
            if current.startswith(b"QC"):
                answer = b"T%bthread:%b;" % (answer[1:3], current[2:])
            self._halt.reply = answer
        return self.stop_words()

    def stop_words(self) -> bytes:
        """Return the stop reply as gdb gets it: a breakpoint of ours is told as one."""
        payload, registers = self._halt.reply, self._halt.registers
        if registers is not None and self.hit is not None and self._stub is not None:
            hit, self.hit = self.hit, None
            self._stub.arrived(hit)
            if registers["ip"] - 1 == hit.address:
                registers["ip"] = hit.address
                return b"T05" + hit.words + payload[3:]
        if payload[:3] == b"T05":
            before = self._hooks.passed  # the program counter has been put back
            if before is None and registers is not None:
                before = self._hooks.at(registers)
                if before is not None:
                    registers["ip"] = before
            # Told so without a breakpoint of its own there, gdb would silently go on.
            if before in self._hooks.plants.wanted:
                return b"T05swbreak:;" + payload[3:]
        return payload

    def _select(self, payload: bytes) -> bytes | None:
        thread = payload[2:]
        own = thread in (b"0", b"-1", b"") or _same(thread, self._halt.thread)
        if payload[1:2] == b"c":
            return b"OK" if own else None
        if own:
            self._wanted_thread = b""
            return b"OK"
        answer = b"" if self._up.shut else self._up.ask(payload)
        if answer == b"OK":
            self._wanted_thread = self._upstream_thread = thread
        return answer

    def _plant(self, payload: bytes) -> bytes | None:
        if self._up.shut:
            return b"OK"
        if payload[1:2] != b"0":
            if self._stub is None:
                return None
            self._switch.paused = False  # the stub halts the machine itself, and lets it go
            return self._stub.plant(payload)
        address = int(payload.split(b",")[1], 16)
        plants = self._hooks.plants
        if payload[:1] == b"Z":
            return plants.insert(address)
        plants.wanted.discard(address)  # kgdb has it until the kernel goes on without
        return b"OK"

    def _read(self, payload: bytes) -> bytes | None:
        address, size = (int(word, 16) for word in payload[1:].split(b","))
        memory = self._halt.memory
        if memory is not None:
            try:
                return memory.read(address, size).hex().encode()
            except KgdbError:
                pass  # not RAM: a device, or nothing; kgdb knows how to fail
        if self._up.shut:
            return b"E14"
        if size <= KGDB_BYTES:
            return None
        parts: list[bytes] = []
        for start in range(address, address + size, KGDB_BYTES):
            part = self._up.ask(b"m%x,%x" % (start, min(KGDB_BYTES, address + size - start)))
            if part[:1] == b"E":
                return b"".join(parts) or part
            parts.append(part)
        return b"".join(parts)

    def _write(self, payload: bytes) -> bytes | None:
        """Cut a long write for kgdb."""
        if self._up.shut:
            return b"OK"
        place, _, digits = payload[1:].partition(b":")
        address, size = (int(word, 16) for word in place.split(b","))
        for start in range(0, size, KGDB_BYTES):
            piece = digits[2 * start : 2 * (start + KGDB_BYTES)]
            answer = self._up.ask(b"M%x,%x:%b" % (address + start, len(piece) // 2, piece))
            if answer != b"OK":
                return answer
        return b"OK"

    def _access_registers(self, kind: bytes, payload: bytes) -> bytes | None:
        registers = self._halt.registers
        assert registers is not None
        if kind == b"g":
            return registers.for_gdb()
        if kind == b"P":
            number, _, value = payload[1:].partition(b"=")
            registers.set_from_gdb(int(number, 16), bytes.fromhex(value.decode()))
            return b"OK"  # orig_ax too: outside of a system call's exit nobody looks at it
        return None


def _same(one: bytes, other: bytes) -> bool:
    """Compare thread ids, which are hexadecimal and may have leading zeros."""
    try:
        return int(one, 16) == int(other, 16)
    except ValueError:
        return False
