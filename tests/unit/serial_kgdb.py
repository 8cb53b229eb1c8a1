"""kgdb behind a serial line, byte by byte as kernel/debug/gdbstub.c sends and takes them."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable


class SerialKgdb:
    """A kernel in kgdb, at the end of a line that loses and damages bytes.

    :param reply: returns what is replied to a packet; None for one that resumes.
    """

    def __init__(self, reply: Callable[[bytes], bytes | None]) -> None:
        self._reply = reply
        self.executed: list[bytes] = []
        """The packets that were executed, repetitions included."""
        self.lose_out: set[int] = set()
        """Bytes to the host that get lost, by their number."""
        self.damage_out: set[int] = set()
        self.lose_in: set[int] = set()
        self.damage_in: set[int] = set()
        self.replace = b""
        """What is sent instead of the next reply."""
        self._sent = self._taken = 0
        self._ours, self._theirs = socket.socketpair()
        self.stops = threading.Semaphore(0)
        """Released for each stop of the running kernel."""
        threading.Thread(target=self._run, daemon=True).start()

    def connect(self) -> socket.socket:
        return self._theirs

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._ours.shutdown(socket.SHUT_RDWR)
        self.stops.release()
        self._ours.close()
        self._theirs.close()

    # kernel/debug/gdbstub.c

    def _run(self) -> None:
        with contextlib.suppress(OSError, EOFError):
            while True:
                packet = self._get_packet()
                self.executed.append(packet)
                reply = self._reply(packet)
                if reply is None:
                    self.stops.acquire()
                    reply = b"T05thread:01;"
                self._put_packet(reply)

    def _read_char(self) -> bytes:
        while True:
            char = self._ours.recv(1)
            if not char:
                raise EOFError
            number, self._taken = self._taken, self._taken + 1
            if number in self.lose_in:
                continue
            return bytes([char[0] ^ 1]) if number in self.damage_in else char

    def _write(self, data: bytes) -> None:
        for byte in data:
            number, self._sent = self._sent, self._sent + 1
            if number not in self.lose_out:
                self._ours.sendall(bytes([byte ^ (number in self.damage_out)]))

    def _get_packet(self) -> bytes:
        while True:
            while self._read_char() != b"$":
                pass
            payload = b""
            while (char := self._read_char()) != b"#":
                payload += char
            digits = self._read_char() + self._read_char()
            good = digits == b"%02x" % (sum(payload) % 256)
            self._write(b"+" if good else b"-")
            if good:
                return payload

    def _put_packet(self, payload: bytes) -> None:
        while True:
            whole = b"$%b#%02x" % (payload, sum(payload) % 256)
            self._write(self.replace or whole)
            self.replace = b""
            char = self._read_char()
            if char == b"+":
                return
            if char == b"$":
                self._write(b"-")
                return
