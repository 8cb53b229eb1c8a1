"""Packets of gdb's remote serial protocol (gdb manual, "Remote Protocol", "Overview")."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

__all__ = [
    "ACK",
    "INTERRUPT",
    "IO_ERROR",
    "NAK",
    "PAUSED",
    "Decoder",
    "cpu_of",
    "encode",
    "stopped_thread",
]

ACK: Final = b"+"
NAK: Final = b"-"
_END_BYTES: Final = 3  # of a packet: `#` and its checksum
INTERRUPT: Final = b"\x03"

# kgdb's packets have 2 KiB (kernel/debug/gdbstub.c, BUFMAX), QEMU's 4 KiB (gdbstub.c,
# MAX_PACKET_LENGTH), gdb's 16 KiB at most. Without a bound, a guest that never ends a packet would
# have us keep, and search again and again, all that it sends.
_LONGEST: Final = 1 << 20

PAUSED: Final = b"T02"
"""How QEMU's stop reply begins after an interrupt or a `stop` of QMP's (gdbstub.c)."""
IO_ERROR: Final = b"T17"
"""How it begins where QEMU has stopped the machine itself, for an error of a disk's file."""


def encode(payload: bytes) -> bytes:
    """Return a payload as a packet, with its checksum."""
    return b"$%b#%02x" % (payload, sum(payload) & 0xFF)


def stopped_thread(stop_reply: bytes) -> bytes:
    """Return the thread in a stop reply (gdb manual, "Stop Reply Packets"); empty without one."""
    _, _, rest = stop_reply.partition(b"thread:")
    return rest.partition(b";")[0]


def cpu_of(thread: bytes) -> int:
    """Return the number in a thread id, of which QEMU writes `p01.02` and gdb `p1.2`."""
    try:
        return int(thread.rpartition(b".")[2], 16)
    except ValueError:
        return 0


class Decoder:
    """Cuts a byte stream into packets and single bytes.

    A packet has no `$` but its first, so one that comes before the end begins another: the end of
    the first was lost.
    """

    def __init__(self) -> None:
        self._pending = bytearray()
        self._skipped = b""

    @property
    def incomplete(self) -> bool:
        """Whether the end of a packet is awaited."""
        return bool(self._pending)

    def take_headless(self) -> bool:
        """Return, once, whether the end of a packet has come whose `$` was lost."""
        headless = len(self._skipped) == _END_BYTES and self._skipped[:1] == b"#"
        if headless:
            self._skipped = b""
        return headless

    def reset(self) -> None:
        """Give up the packet whose end is awaited."""
        self._pending.clear()

    def feed(self, data: bytes) -> Iterator[tuple[str, bytes]]:
        """Yield (`packet`, payload), (`ack`, b""), (`nak`, b"") and (`interrupt`, b"").

        A packet with a wrong checksum is yielded as (`bad`, payload).
        """
        pending = self._pending
        pending += data
        while pending:
            first = pending[:1]
            if first == b"$":
                end = pending.find(b"#")
                if end < 0 or len(pending) < end + 3:
                    if len(pending) > _LONGEST:
                        pending.clear()
                    return
                begin = pending.rfind(b"$", 0, end)
                payload = bytes(pending[begin + 1 : end])
                good = b"%02x" % (sum(payload) & 0xFF) == pending[end + 1 : end + 3].lower()
                del pending[: end + 3]
                yield ("packet" if good else "bad", _expand(payload))
                continue
            del pending[:1]
            self._skipped = (self._skipped + first)[-_END_BYTES:]
            if first == ACK:
                yield "ack", b""
            elif first == NAK:
                yield "nak", b""
            elif first == INTERRUPT:
                yield "interrupt", b""
            # Anything else is noise between packets, which the protocol says to skip.


def _expand(payload: bytes) -> bytes:
    """Undo run-length encoding (gdb manual, "Overview": `*` and a repeat count plus 29)."""
    if b"*" not in payload:
        return payload
    out = bytearray()
    index = 0
    while index < len(payload):
        if payload[index] == 0x2A and out and index + 1 < len(payload):
            out += out[-1:] * (payload[index + 1] - 29)
            index += 2
        else:
            out.append(payload[index])
            index += 1
    return bytes(out)
