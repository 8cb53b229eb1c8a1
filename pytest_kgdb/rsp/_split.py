"""What on a serial line is kgdb's, and what the console's; and whether the kernel is stopped."""

from __future__ import annotations

import re
from typing import Final, NamedTuple

from ._packets import Decoder, encode

__all__ = ["LineSplitter", "Split"]

# kernel/debug/gdbstub.c: packets go to the console's side if they cannot be kgdb's.
_LONGEST: Final = 4096
_STOP_REPLY: Final = re.compile(rb"\$[TS][0-9a-f]{2}(thread:[0-9a-f]+;)?")
# How the packets begin that kgdb sends by itself; nothing has followed the `$` yet.
_START: Final = (b"T", b"S", b"O", b"")
_RESUMES: Final = (b"c", b"s", b"C", b"D", b"k")

# A stop reply of which the `$` was lost; kgdb repeats it until it is acknowledged.
_HEADLESS: Final = re.compile(rb"[0-9a-f]{2}thread:[0-9a-f]+;#[0-9a-f]{2}")

_REMEMBERED: Final = 64  # bytes

_DAMAGED: Final = b"$damaged#00"
"""A packet with a wrong checksum: whoever gets it asks for it again."""


class Split(NamedTuple):
    """Bytes that have come on a line."""

    kgdb: bytes
    console: bytes


class LineSplitter:
    """Follows the packets between a debugger and kgdb.

    On a line of kgdb's own everything is kgdb's. On one that is the console's, too, text comes
    between the packets, as agent-proxy's users know it: a packet is what has a packet's form, at a
    time when there may be one.

    :param shared: whether the line is the console's, too.
    """

    def __init__(self, *, shared: bool) -> None:
        self._shared = shared
        self.reset()

    def reset(self) -> None:
        """Take the kernel for one that runs."""
        self.stopped = False
        """Whether the kernel is stopped, as far as the packets say."""
        self.holds_input = False
        """Whether what is typed would be lost: kgdb passes over it, or one step is executed."""
        self.reconnect()

    def reconnect(self) -> None:
        """Forget what was asked: another debugger asks now."""
        self._to_kgdb = Decoder()
        self._from_kgdb = Decoder()
        self._last = b""  # the packet that was sent last
        self._awaits_ack = self._awaits_reply = False
        self._candidate = bytearray()
        self._text_end = b""

    # What is sent

    def sent(self, data: bytes) -> None:
        """Take note of what kgdb is about to be sent."""
        for kind, payload in self._to_kgdb.feed(data):
            if kind == "packet":
                self._last, self._awaits_ack = payload, True
                self._awaits_reply = payload[:1] not in _RESUMES

    # What comes

    def received(self, data: bytes) -> Split:
        """Return whose bytes those are that have come."""
        if not self._shared:
            for kind, payload in self._from_kgdb.feed(data):
                self._note(kind, payload)
            return Split(data, b"")
        kgdb, console = bytearray(), bytearray()
        for byte in data:
            self._take(byte, kgdb, console)
        if self._candidate and not self._expecting and bytes(self._candidate[1:2]) not in _START:
            console += self._flush()
        if self._lost_beginning(bytes(console)):
            kgdb += _DAMAGED  # which has it sent again
        return Split(bytes(kgdb), bytes(console))

    def flush(self) -> bytes:
        """Return what looked like the beginning of a packet and was none: nothing followed."""
        return b"" if self._expecting else self._flush()

    @property
    def _expecting(self) -> bool:
        return self.stopped or self._awaits_ack or self._awaits_reply

    def _note(self, kind: str, payload: bytes) -> None:
        if kind == "ack":
            self._acknowledged()
        elif kind == "packet":
            self._awaits_reply = False
            if _STOP_REPLY.match(b"$" + payload):
                self.stopped = self.holds_input = True

    def _acknowledged(self) -> None:
        self._awaits_ack = False
        if self._last[:1] in _RESUMES:
            self.stopped = False
            # While one instruction is executed, and the kernel is stopped again.
            self.holds_input = self._last[:1] == b"s"

    def _flush(self) -> bytes:
        text, self._candidate = bytes(self._candidate), bytearray()
        return text

    def _take(self, byte: int, kgdb: bytearray, console: bytearray) -> None:
        char = bytes([byte])
        candidate = self._candidate
        if char == b"$":
            (kgdb if self._expecting else console).extend(self._flush())
            self._candidate = bytearray(char)
        elif not candidate:
            if char in b"+-" and self._expecting:
                kgdb += char
                if char == b"+":
                    self._acknowledged()
            else:
                console += char
        else:
            candidate += char
            if candidate[-3:-2] == b"#":
                self._end_candidate(kgdb, console)
            elif not self._may_be_packet(candidate):
                console += self._flush()

    def _may_be_packet(self, candidate: bytearray) -> bool:
        if len(candidate) > _LONGEST or candidate[-1] in b"\r\n":
            return False
        if self._expecting:
            return True  # a bit may have been damaged
        return bytes(candidate[1:2]) in _START and 0x20 <= candidate[-1] < 0x7F

    def _end_candidate(self, kgdb: bytearray, console: bytearray) -> None:
        packet = self._flush()
        payload = packet[1:-3]
        good = encode(payload)[-2:] == packet[-2:].lower()
        if good and payload == self._last and self._awaits_ack:
            console += packet  # a tty's echo: no kgdb is there
        elif good:
            kgdb += packet
            self._note("packet", payload)
        elif self._expecting or _STOP_REPLY.match(packet) or b"thread:" in packet:
            kgdb += packet
        else:
            console += packet

    def _lost_beginning(self, text: bytes) -> bool:
        """Return whether text ends a stop reply of which the beginning was lost."""
        self._text_end = (self._text_end + text)[-_REMEMBERED:]
        lost = _HEADLESS.search(self._text_end) is not None
        if lost:
            self._text_end = b""
        return lost
