"""Watchpoints and hardware breakpoints through QEMU's own gdb stub.

kgdb accepts them and they never fire (perf leaves its pre-allocated events off). QEMU watches any
number of addresses itself. At a hit it halts the machine under the kernel's feet; an int3 put at
the very instruction that comes next then leads the kernel into kgdb, as if it had watched.
"""

from __future__ import annotations

import contextlib
import select
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from ..errors import KgdbError, MachineDied, TimeoutError
from ._packets import ACK, INTERRUPT, Decoder, encode

__all__ = ["Hit", "Stub"]

_ANSWER: Final = 20.0
_RIP: Final = slice(16 * 16, 17 * 16)  # of QEMU's `g`: 16 registers of 8 bytes come first
_KERNEL: Final = 1 << 63


@dataclass(frozen=True)
class Hit:
    """A hit that waits for the kernel to arrive in kgdb."""

    address: int
    """Where the int3 is."""

    saved: bytes
    """The byte under it."""

    words: bytes
    """What gdb is told of it (gdb manual, "Stop Reply Packets")."""


class Stub:
    """A connection to QEMU's gdb stub, made when the first hardware breakpoint is wanted.

    :param connect: returns a socket connected to the stub.
    """

    def __init__(self, connect: Callable[[], socket.socket]) -> None:
        self._connect = connect
        self._socket: socket.socket | None = None
        self._decoder = Decoder()
        self._queue: list[bytes] = []
        self._planted: set[bytes] = set()
        self._led: set[bytes] = set()  # taken out at a hit; gdb does not know
        self._running = False

    @property
    def socket(self) -> socket.socket | None:
        """To be selected on, if there is a connection."""
        return self._socket

    @property
    def watching(self) -> bool:
        """Whether anything is planted."""
        return bool(self._planted or self._led)

    def plant(self, payload: bytes) -> bytes:
        """Insert or remove (`Z1`…`Z4`, `z1`…`z4`), and return the answer for gdb."""
        key = payload[1:]
        if payload[:1] == b"z" and key in self._led:
            self._led.discard(key)
            return b"OK"
        if payload[:1] == b"z" and key not in self._planted:
            return b"OK"  # cleared since, with the machine
        self._halt()
        try:
            answer = self._ask(payload)
        finally:
            self._go()
        if answer == b"OK":
            if payload[:1] == b"Z":
                self._planted.add(key)
            else:
                self._planted.discard(key)
        return answer

    def replant(self) -> None:
        """Put back what was taken out at a hit: the kernel is past it."""
        for key in sorted(self._led):
            self.plant(b"Z" + key)
        self._led.clear()

    def clear(self) -> None:
        """Remove everything."""
        for key in sorted(self._planted):
            with contextlib.suppress(KgdbError):
                self.plant(b"z" + key)
        self._planted.clear()
        self._led.clear()

    def pause(self) -> None:
        """Halt the machine while its kernel stands still in kgdb."""
        self._halt()

    def resume(self) -> None:
        """Let a machine go that was paused."""
        if not self._running:
            self._go()

    def take(self, *, expected: bool) -> Hit | None:
        """Take what the stub says by itself; a hit is led on into kgdb.

        :param expected: whether the kernel runs; what a stopped kernel's debugger touches is no
            hit.
        """
        self._receive(0.0)
        hit = None
        while self._queue:
            event = self._queue.pop(0)
            if event[:1] != b"T":
                continue
            self._running = False
            if expected:
                hit = self._lead_on(event)
            self._go()
        return hit

    def _lead_on(self, event: bytes) -> Hit | None:
        address = int.from_bytes(bytes.fromhex(self._ask(b"g")[_RIP].decode()), "little")
        if address < _KERNEL:
            return None  # a program's access; the kernel has nothing to show for it
        words, breakpoint_hit = b"hwbreak:;", False
        for word in event[3:].split(b";"):
            if word.partition(b":")[0] in (b"watch", b"rwatch", b"awatch"):
                words = word + b";"
        # QEMU checks a breakpoint before the instruction: it would stop here for ever.
        for key in [key for key in self._planted if key.startswith(b"1,%x," % address)]:
            self._ask(b"z" + key)
            self._planted.discard(key)
            self._led.add(key)
            breakpoint_hit = True
        if not breakpoint_hit and words == b"hwbreak:;":
            return None  # halted for another reason
        saved = bytes.fromhex(self._ask(b"m%x,1" % address).decode())
        self._ask(b"M%x,1:cc" % address)
        return Hit(address, saved, words)

    def arrived(self, hit: Hit) -> None:
        """The kernel is in kgdb: put the instruction back."""
        self._halt()
        try:
            self._ask(b"M%x,1:%b" % (hit.address, hit.saved.hex().encode()))
        finally:
            self._go()

    def run_to(self, address: int, patience: Callable[[float], bool]) -> None:
        """Let the machine go until it executes an instruction, and let go of it there, halted.

        :param patience: called with the time that it has taken, in seconds, a few times in each
            of them; the wait ends when it returns False.
        """
        key = b"1,%x,1" % address
        self._halt()
        self._ask(b"Z" + key)
        self._go()
        began = time.monotonic()
        while not any(event[:1] == b"T" for event in self._queue):
            if not patience(time.monotonic() - began):
                self._halt()
                break
            self._receive(0.1)
        self._running = False
        self._queue.clear()
        self._ask(b"z" + key)
        self.close()

    def close(self) -> None:
        """Let go of the stub; QEMU takes its breakpoints out."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None
            self._running = False
            self._decoder = Decoder()
            self._queue.clear()

    # The conversation

    def _halt(self) -> None:
        if self._socket is None:
            self._socket = self._connect()
            self._socket.sendall(ACK)
            # QEMU halts the machine for a new debugger, and may or may not say so by itself.
            self._ask(b"?")
            self._running = False
        if self._running:
            self._socket.sendall(INTERRUPT)
            self._answer(b"interrupt")
            self._running = False

    def _go(self) -> None:
        assert self._socket is not None
        self._socket.sendall(encode(b"c"))
        self._running = True

    def _ask(self, payload: bytes) -> bytes:
        assert self._socket is not None
        self._socket.sendall(encode(payload))
        return self._answer(payload)

    def _answer(self, asked: bytes) -> bytes:
        deadline = time.monotonic() + _ANSWER
        stop = asked in (b"interrupt", b"?")
        while True:
            while self._queue:
                answer = self._queue.pop(0)
                if (answer[:1] in (b"T", b"S")) == stop:  # a stop comes also unasked
                    return answer
            left = deadline - time.monotonic()
            if left <= 0:
                raise TimeoutError(f"QEMU's gdb stub did not answer {asked!r} in {_ANSWER:g} s")
            self._receive(left)

    def _receive(self, timeout: float) -> None:
        assert self._socket is not None
        ready, _, _ = select.select([self._socket], [], [], timeout)
        if not ready:
            return
        data = self._socket.recv(65536)
        if not data:
            raise MachineDied("QEMU closed its gdb stub")
        for kind, payload in self._decoder.feed(data):
            if kind == "packet":
                self._socket.sendall(ACK)
                self._queue.append(payload)
