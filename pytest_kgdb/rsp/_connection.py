"""Connections to a target: to a gdb stub of QEMU's, and to kgdb."""

from __future__ import annotations

import contextlib
import select
import socket
from collections import deque
from collections.abc import Callable
from typing import Final

from ..deadline import Deadline, WaitLimit
from ..errors import KgdbError, MachineDied, TimeoutError
from ._packets import ACK, NAK, Decoder, encode
from ._split import LineSplitter

__all__ = ["KGDB_BYTES", "Connection", "KgdbConnection"]

# Seconds: a target replies to a packet within milliseconds, or it is gone.
_REPLY: Final = 20.0

_RESENDS: Final = 5  # of one packet

# Memory in one packet: kgdb's buffer is 1024 bytes (arch/x86/include/asm/kgdb.h, BUFMAX), two for
# each of ours.
KGDB_BYTES: Final = 0x180


class Connection:
    """Exchanges packets with a target, one request at a time.

    :param connect: returns a connected socket.
    :param target: the target's name, for messages.
    :param port: what is connected to, for messages.
    """

    def __init__(
        self, connect: Callable[[], socket.socket], *, waits: WaitLimit, target: str, port: str
    ) -> None:
        self._connect = connect
        self._waits = waits
        self._target = target
        self._port = port
        self.socket = connect()
        self._begin()

    def _begin(self) -> None:
        self.packets: deque[bytes] = deque()
        """What the target has sent and nobody has taken yet."""
        self._decoder = Decoder()
        self._last = b""  # the last packet sent
        self._resends = 0

    def reopen(self) -> None:
        """Connect anew; what is under way on the old connection is lost."""
        self.shut_down()
        self.socket = self._connect()
        self._begin()

    def shut_down(self) -> None:
        """Close at once, even while a thread waits in select(2), which keeps a socket open."""
        with contextlib.suppress(OSError):
            self.socket.shutdown(socket.SHUT_RDWR)
        self.socket.close()

    def close(self) -> None:
        """End the connection."""
        self.socket.close()

    def send(self, payload: bytes) -> None:
        """Send a packet that has no reply."""
        self._last = encode(payload)
        self._resends = 0
        self.socket.sendall(self._last)

    def request(self, payload: bytes) -> bytes:
        """Send a packet and return the reply.

        :raises TimeoutError: none came in 20 s, or in the limit of the test if that is less.
        :raises MachineDied: the connection was closed.
        """
        self.send(payload)
        return self.next_packet(payload, self.deadline())

    def deadline(self) -> Deadline:
        """Return the end of a wait for a reply that begins now."""
        return Deadline(min(_REPLY, self._waits.seconds))

    def next_packet(self, request: bytes, deadline: Deadline) -> bytes:
        """Return the next packet, waiting for it if need be.

        :param request: what it is the reply to, for messages.
        """
        while not self.packets:
            if not self._await(deadline.left):
                raise TimeoutError(
                    f"{self._target} did not answer {request!r} in {deadline.seconds:g} s"
                )
        return self.packets.popleft()

    def _await(self, seconds: float) -> bool:
        """Wait for data and take it; False if none came."""
        if not select.select([self.socket], [], [], seconds)[0]:
            return False
        self._read()
        return True

    def _read(self) -> None:
        if not self._take(self.socket.recv(65536)):
            raise MachineDied(f"QEMU closed {self._port}")

    def receive(self) -> bool:
        """Take what has come, without waiting; False when the connection was closed."""
        try:
            data = self.socket.recv(65536, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return True  # whoever had the lock sent a request, and has taken the reply
        return self._take(data)

    def _take(self, data: bytes) -> bool:
        for kind, payload in self._decoder.feed(data):
            if kind == "packet":
                self.socket.sendall(ACK)
                self.packets.append(payload)
            elif kind == "bad":
                self.socket.sendall(NAK)
            elif kind == "nak" and self._resends < _RESENDS:
                # A kernel that was saved while it waited for an acknowledgement takes what comes
                # instead for that of a new debugger, and asks for it again
                # (kernel/debug/gdbstub.c, put_packet).
                self._resends += 1
                self.socket.sendall(self._last)
        return bool(data)


class KgdbConnection(Connection):
    """A connection to kgdb, which hears only while the machine runs.

    :param cont: lets the machine run.
    :param stub_socket: returns the socket of QEMU's gdb stub, if that is attached: a hit there
        stops the machine, and kgdb with it.
    :param on_stub: is called when something has come on it.
    :param splitter: takes away what the kernel prints, if that comes on the same port.
    """

    def __init__(
        self,
        connect: Callable[[], socket.socket],
        *,
        waits: WaitLimit,
        cont: Callable[[], None],
        stub_socket: Callable[[], socket.socket | None],
        on_stub: Callable[[], None],
        splitter: LineSplitter | None = None,
    ) -> None:
        self._cont = cont
        self._splitter = splitter
        self._stub_socket = stub_socket
        self._on_stub = on_stub
        super().__init__(connect, waits=waits, target="kgdb", port="kgdb's port")

    def _begin(self) -> None:
        super()._begin()
        if self._splitter is not None:
            self._splitter.reset()

    def send(self, payload: bytes) -> None:
        """See :meth:`Connection.send`."""
        if self._splitter is not None:
            self._splitter.sent(encode(payload))
        super().send(payload)

    def _take(self, data: bytes) -> bool:
        if self._splitter is None or not data:
            return super()._take(data)
        super()._take(self._splitter.received(data).kgdb)
        return True

    def request(self, payload: bytes) -> bytes:
        """Send a packet and return the reply; the machine runs for it, and is left so."""
        self._cont()
        return super().request(payload)

    def _await(self, seconds: float) -> bool:
        stub = self._stub_socket()
        sources = [self.socket] if stub is None else [self.socket, stub]
        ready, _, _ = select.select(sources, [], [], seconds)
        if stub in ready:
            self._on_stub()
        if self.socket in ready:
            self._read()
        return bool(ready)

    def read(self, address: int, size: int) -> bytes:
        """Read virtual memory.

        :raises KgdbError: kgdb cannot read all of it.
        """
        parts = []
        for start in range(address, address + size, KGDB_BYTES):
            reply = self.request(b"m%x,%x" % (start, min(KGDB_BYTES, address + size - start)))
            if reply[:1] == b"E":
                raise KgdbError(f"kgdb cannot read {size} bytes at {address:#x}")
            parts.append(bytes.fromhex(reply.decode()))
        return b"".join(parts)

    def write(self, address: int, data: bytes) -> None:
        """Write a few bytes of virtual memory.

        :raises KgdbError: kgdb cannot.
        """
        if self.request(b"M%x,%x:%b" % (address, len(data), data.hex().encode())) != b"OK":
            raise KgdbError(f"kgdb cannot write {len(data)} bytes at {address:#x}")
