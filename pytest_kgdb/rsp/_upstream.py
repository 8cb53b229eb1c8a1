"""The relay's connection to kgdb."""

from __future__ import annotations

import contextlib
import select
import socket
import time
from collections.abc import Callable
from typing import Final

from ..errors import KgdbError, MachineDied, TimeoutError
from ._packets import ACK, Decoder, encode

__all__ = ["KGDB_BYTES", "Upstream"]

# kgdb answers a packet within milliseconds, or the machine is gone.
_ANSWER: Final = 20.0

_RESENDS: Final = 5  # of one packet

# Memory in one packet: kgdb's buffer is 1024 bytes (arch/x86/include/asm/kgdb.h, BUFMAX), two for
# each of ours.
KGDB_BYTES: Final = 0x180


class Upstream:
    """Speaks with kgdb, one request at a time.

    :param connect: returns a socket connected to kgdb's port.
    :param wake: has the machine run, so that kgdb can hear.
    :param beside: another socket that must be heard while kgdb is, at the moment.
    :param on_beside: called when there is something on it.
    """

    def __init__(
        self,
        connect: Callable[[], socket.socket],
        *,
        wake: Callable[[], None],
        beside: Callable[[], socket.socket | None],
        on_beside: Callable[[], None],
    ) -> None:
        self._connect = connect
        self._wake = wake
        self._beside = beside
        self._on_beside = on_beside
        self.socket = connect()
        self._begin()

    def _begin(self) -> None:
        self.shut = False
        """Whether the machine is about to be replaced: there is nobody to be asked."""
        self.queue: list[bytes] = []
        """What kgdb has said and nobody has taken."""
        self._decoder = Decoder()
        self._sent = b""  # the last packet
        self._resends = 0

    def shut_down(self) -> None:
        """Hear nothing more: what is under way belongs to the old state."""
        self.shut = True
        _shut(self.socket)

    def reopen(self) -> None:
        """Connect to a machine that was put back."""
        _shut(self.socket)
        self.socket = self._connect()
        self._begin()

    def close(self) -> None:
        """End the connection."""
        self.socket.close()

    def receive(self) -> bool:
        """Take what kgdb says by itself; False when its port was closed."""
        try:
            data = self.socket.recv(65536, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return True  # whoever had the lock asked kgdb, and has taken the answer
        if not data:
            return False
        self._take(data)
        return True

    def _take(self, data: bytes) -> None:
        for kind, payload in self._decoder.feed(data):
            if kind == "packet":
                self.socket.sendall(ACK)
                self.queue.append(payload)
            elif kind == "bad":
                self.socket.sendall(b"-")
            elif kind == "nak" and self._resends < _RESENDS:
                # A kernel that was saved in wait for an acknowledgement takes what comes instead
                # for a new debugger's, and asks for it again (kernel/debug/gdbstub.c, put_packet).
                self._resends += 1
                self.socket.sendall(self._sent)

    def send(self, payload: bytes) -> None:
        """Send kgdb what has no answer."""
        self._sent = encode(payload)
        self._resends = 0
        self.socket.sendall(self._sent)

    def ask(self, payload: bytes) -> bytes:
        """Send kgdb a request and return its answer."""
        self._wake()
        self.send(payload)
        deadline = time.monotonic() + _ANSWER
        while not self.queue:
            left = deadline - time.monotonic()
            beside = self._beside()
            sources = [self.socket] if beside is None else [self.socket, beside]
            ready, _, _ = select.select(sources, [], [], max(0.0, left))
            if not ready:
                raise TimeoutError(f"kgdb did not answer {payload!r} in {_ANSWER:g} s")
            if beside in ready:
                self._on_beside()
            if self.socket not in ready:
                continue
            data = self.socket.recv(65536)
            if not data:
                raise MachineDied("QEMU closed kgdb's port")
            self._take(data)
        return self.queue.pop(0)

    def read(self, address: int, size: int) -> bytes:
        """Read virtual memory; raises KgdbError where kgdb cannot."""
        parts = []
        for start in range(address, address + size, KGDB_BYTES):
            part = self.ask(b"m%x,%x" % (start, min(KGDB_BYTES, address + size - start)))
            if part[:1] == b"E":
                raise KgdbError(f"kgdb cannot read {size} bytes at {address:#x}")
            parts.append(bytes.fromhex(part.decode()))
        return b"".join(parts)

    def write(self, address: int, data: bytes) -> None:
        """Write a few bytes of virtual memory; raises KgdbError where kgdb cannot."""
        if self.ask(b"M%x,%x:%b" % (address, len(data), data.hex().encode())) != b"OK":
            raise KgdbError(f"kgdb cannot write {len(data)} bytes at {address:#x}")


def _shut(connection: socket.socket) -> None:
    """Close a connection at once, even while the thread waits on it: select(2) keeps it open."""
    with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)
    connection.close()
