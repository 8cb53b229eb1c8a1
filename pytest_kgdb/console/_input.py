"""What is typed on the console: it waits on this side until the guest can read it."""

from __future__ import annotations

import array
import contextlib
import fcntl
import socket
import termios
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from ..errors import MachineDied

__all__ = ["ConsoleInput"]

# Seconds between two looks at whether the guest can read: mostly it is about to run.
_FIRST_LOOK: Final = 0.0005
_LONGEST_LOOK: Final = 0.02
_PIECE: Final = 65536  # bytes that are sent at once


class ConsoleInput:
    """Sends to the guest, as soon as it can read.

    :param log: the console's, for messages.
    :param is_alive: whether there is a machine at the other end.
    """

    def __init__(self, log: Path, is_alive: Callable[[], bool]) -> None:
        self._log = log
        self._is_alive = is_alive
        self._lock = threading.RLock()
        self._connection: socket.socket | None = None
        self._is_open: Callable[[], bool] = lambda: True
        self._is_running: Callable[[], bool] = lambda: True
        self._seen_open = False
        self._unsent = bytearray()  # until both are so, and there is room for it
        self._sender_of: socket.socket | None = None  # the connection that a thread sends it on
        self._sent = 0

    @property
    def sent(self) -> int:
        """Bytes sent on the present connection."""
        with self._lock:  # a thread may have sent some, and not have counted them
            return self._sent

    def connect(self, connection: socket.socket) -> None:
        """Send on a connection from now on."""
        with self._lock:
            self._connection = connection
            self._seen_open = False
            self._sent = 0

    def disconnect(self) -> None:
        """Send on none, and forget what waits."""
        with self._lock:
            self._connection = None
            self._unsent.clear()

    def hold_until(self, is_open: Callable[[], bool], is_running: Callable[[], bool]) -> None:
        """Have what is sent wait until the guest can read it: QEMU takes as much as it likes.

        :param is_open: whether the guest has opened the console; what comes before is dropped. Once
            it has, it is not asked again on this connection.
        :param is_running: whether the kernel runs. Both are called in several threads; the former
            ones are in none any more.
        """
        with self._lock:
            self._is_open, self._is_running = is_open, is_running

    def send(self, data: bytes) -> None:
        """Send bytes, or have them wait.

        :raises MachineDied: there is no connection.
        """
        with self._lock:
            sent = 0
            if not self._is_alive() or not (self._unsent or self._waits_for_guest()):
                sent = self.send_at_once(data)
            self.keep(data[sent:])

    def send_at_once(self, data: bytes) -> int:
        """Send bytes that do not wait, whatever the guest does; return how many there was room for.

        :raises MachineDied: there is no connection.
        """
        with self._lock:
            try:
                return self._send(data)
            except OSError as error:
                raise MachineDied(
                    f"the console does not take input: {error}", log=self._log
                ) from error

    def keep(self, data: bytes) -> None:
        """Have bytes wait, too."""
        with self._lock:
            self._unsent += data
            connection = self._connection
            if self._unsent and connection is not None and self._sender_of is not connection:
                self._sender_of = connection
                threading.Thread(target=self._send_later, args=(connection,), daemon=True).start()

    @property
    def kept(self) -> bytes:
        """What waits."""
        with self._lock:
            return bytes(self._unsent)

    def release(self) -> None:
        """Send what waits for a kernel that is about to run."""
        with self._lock:
            if self._unsent and self._opened():
                self._send_kept()

    def unread(self) -> int:
        """Return how many bytes QEMU has not read yet (unix(7), SIOCOUTQ), or wait here."""
        count = array.array("i", [0])
        with self._lock:
            if self._connection is not None:
                with contextlib.suppress(OSError):
                    fcntl.ioctl(self._connection.fileno(), termios.TIOCOUTQ, count)
            return count[0] + len(self._unsent)

    def _send(self, data: bytes) -> int:
        if self._connection is None:
            raise OSError("it is not connected")
        sent = 0
        # A guest that is stopped, or about to be, reads no more: whoever waited for room here would
        # keep it stopped.
        with contextlib.suppress(BlockingIOError):
            while sent < len(data):
                sent += self._connection.send(data[sent : sent + _PIECE], socket.MSG_DONTWAIT)
        self._sent += sent
        return sent

    def _waits_for_guest(self) -> bool:
        return not (self._is_running() and self._opened())

    def _opened(self) -> bool:
        self._seen_open = self._seen_open or self._is_open()
        return self._seen_open

    def _send_later(self, connection: socket.socket) -> None:
        look = _FIRST_LOOK
        while True:
            with self._lock:
                if self._connection is not connection:
                    return
                if not self._unsent:
                    self._sender_of = None
                    return
                if not self._waits_for_guest():
                    self._send_kept()
            time.sleep(look)
            look = min(2 * look, _LONGEST_LOOK)

    def _send_kept(self) -> None:
        try:
            del self._unsent[: self._send(bytes(self._unsent))]
        except OSError:  # whoever sends next is told
            self._unsent.clear()
