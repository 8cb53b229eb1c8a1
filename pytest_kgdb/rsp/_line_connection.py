"""A connection to kgdb over a serial line that may damage and lose bytes."""

from __future__ import annotations

import re
import socket
from collections.abc import Callable
from typing import Final

from ..deadline import Deadline, WaitLimit
from ..errors import KgdbError, MachineDied, TimeoutError
from ._connection import KgdbConnection
from ._packets import ACK, NAK, encode

__all__ = ["LineConnection"]

# Seconds of silence after which a packet, or its reply, is taken for lost.
_SILENCE: Final = 1.0

# Seconds in which a kernel that did not get our acknowledgement says so, when it gets a packet
# instead (kernel/debug/gdbstub.c, put_packet): a NAK right behind the reply that it repeats.
_NAK_FOLLOWS: Final = 0.3

# kernel/debug/gdbstub.c, error_packet: a number in decimal digits. A breakpoint was inserted, or
# removed, by the first of two tries (kernel/debug/debug_core.c, dbg_set_sw_break and
# dbg_remove_sw_break).
_DONE_ALREADY: Final = {b"Z": b"E17", b"z": b"E02"}  # EEXIST, ENOENT


_HEX: Final = re.compile(rb"(?:[0-9a-f]{2})*")
_ERROR: Final = re.compile(rb"E\d\d")
_DONE: Final = (b"M", b"P", b"Z", b"z", b"D")  # whose reply is OK, an error, or nothing


def _is_reply(request: bytes, reply: bytes) -> bool:
    """Return whether a packet has the form of the reply to a request.

    A checksum of eight bits does not notice every damage of two bytes.
    """
    kind = request[:1]
    if _ERROR.fullmatch(reply):
        return True
    if kind == b"m":
        size = int(request.partition(b",")[2], 16)
        return len(reply) == 2 * size and _HEX.fullmatch(reply) is not None
    if kind == b"g":
        return _HEX.fullmatch(reply) is not None
    return kind not in _DONE or reply in (b"OK", b"")


class LineConnection(KgdbConnection):
    """Exchanges packets with kgdb over a line that is not perfect.

    The protocol has checksums and acknowledgements, but no numbers. What is sent again may have
    been executed, and what comes may be a repetition of what came before, so only what comes after
    the acknowledgement of a packet is its reply (as in gdb/remote.c, putpkt_binary).

    :param check: raises what is behind it if kgdb does not answer; is called once in a second.
    """

    def __init__(
        self,
        connect: Callable[[], socket.socket],
        *,
        waits: WaitLimit,
        check: Callable[[], None],
    ) -> None:
        self._check = check
        self._acked = True
        self._bytes = 0  # that have come
        self._early: bytes | None = None  # a packet that came before the acknowledgement
        self._nak_seen = False
        self._retried = False
        super().__init__(
            connect, waits=waits, cont=lambda: None, stub_socket=lambda: None, on_stub=lambda: None
        )

    # What comes

    def _take(self, data: bytes) -> bool:
        self._bytes += len(data)
        for kind, payload in self._decoder.feed(data):
            if kind == "packet":
                self.socket.sendall(ACK)
                if self._acked:
                    self.packets.append(payload)
                else:
                    self._early = payload
            elif kind == "bad":
                self.socket.sendall(NAK)
            elif kind == "ack":
                self._acked = True
            elif kind == "nak":
                self._nak_seen = True
        if self._decoder.take_headless():
            self.socket.sendall(NAK)
        return bool(data)

    def _read(self) -> None:
        if not self._take(self.socket.recv(65536)):
            raise MachineDied("kgdb's line is closed")

    def receive(self) -> bool:
        """See :meth:`Connection.receive`; asks for a stop reply again whose end was lost."""
        before = self._bytes if self._decoder.incomplete else None
        alive = super().receive()
        if alive and before == self._bytes:
            # The relay looks in every few seconds where nothing comes.
            self._decoder.reset()
            self.socket.sendall(NAK)
        return alive

    # What is sent

    def _transmit(self, payload: bytes) -> None:
        self.packets.clear()  # repetitions
        self._early, self._nak_seen, self._acked = None, False, False
        self.socket.sendall(encode(payload))

    def _transmit_again(self, payload: bytes) -> None:
        self._retried = True
        if self._decoder.incomplete and self._acked and not self._nak_seen:
            self._decoder.reset()
            self.socket.sendall(NAK)  # the reply was cut
        else:
            self._transmit(payload)

    def _await_progress(self, deadline: Deadline) -> bool:
        """Wait for data for a second, or until the deadline; False if there was silence."""
        return self._await(min(_SILENCE, deadline.left))

    def request(self, payload: bytes) -> bytes:
        """Send a packet and return its reply; both are sent again where they got lost.

        :raises TimeoutError: none came in 20 s, or in the limit of the test if that is less.
        :raises MachineDied: the board has reset, or the line is lost.
        """
        deadline = self.deadline()
        self._retried = False
        self._transmit(payload)
        while not self.packets:
            progress = self._await_progress(deadline)
            if self.packets and not _is_reply(payload, self.packets[0]):
                self.packets.clear()
                self._nak_seen = True
            if self.packets:
                break
            if self._nak_seen or not progress:
                if not progress:
                    self._check()
                if deadline.expired:
                    raise self._no_answer(payload, deadline)
                self._transmit_again(payload)
        reply = self.packets.popleft()
        if self._retried and reply == _DONE_ALREADY.get(payload[:1]):
            return b"OK"
        return reply

    def _no_answer(self, payload: bytes, deadline: Deadline) -> KgdbError:
        return TimeoutError(
            f"kgdb did not answer {payload!r} in {deadline.seconds:g} s",
            hint="is the cable plugged in, and does the board still run?",
        )

    def send(self, payload: bytes) -> None:
        """Send a packet by which the kernel goes on, and wait until kgdb has it.

        It is sent again at most once where nobody says that it was damaged: if the acknowledgement
        was lost, the kernel runs, and reads the repetition at its next stop. There it takes the
        `$` for a debugger that connects anew (put_packet), and skips the rest; a second one it
        would execute.

        :raises MachineDied: the board has reset, or the line is lost.
        """
        deadline = self.deadline()
        self._transmit(payload)
        repeated = False
        while not self._acked:
            progress = self._await_progress(deadline)
            if self._acked:
                return
            if self._early is not None and not self._nak_seen:
                self._await(_NAK_FOLLOWS)
                if not self._nak_seen and not self._acked:
                    # No repetition: it has stopped again, and the acknowledgement was lost.
                    self._acked = True
                    self.packets.append(self._early)
                    return
            if self._nak_seen and not deadline.expired:
                self._transmit(payload)
            elif not progress:
                self._check()
                if repeated:
                    self._acked = True  # it runs
                    return
                repeated = True
                self._transmit(payload)
                # On a line that is the console's, too, it is typed there: the tty's kill
                # character has it forgotten. kgdb passes over it.
                self.socket.sendall(b"\x15")
