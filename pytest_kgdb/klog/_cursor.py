"""Positions in the kernel's log."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Protocol, TypeVar

from ._log import LogSource

__all__ = ["ConsoleCursor", "LogCursor", "LogEntry", "RingCursor"]


class LogEntry(Protocol):
    """What has a place in the log: a line, a splat, or the key of a splat."""

    @property
    def source(self) -> LogSource:
        """Where it was read."""

    @property
    def seq(self) -> int:
        """Its place there."""


@dataclass(frozen=True)
class RingCursor:
    """A position in the ring buffer in the guest's memory."""

    seq: int
    """The sequence number of the record that comes next."""

    def precedes(self, entry: LogEntry) -> bool:
        """Return whether an entry of the ring is at this position or after it.

        :raises ValueError: the entry was read on the console.
        """
        _require(entry, "ring")
        return entry.seq >= self.seq


@dataclass(frozen=True)
class ConsoleCursor:
    """A position on the serial console."""

    offset: int
    """The offset of the byte that comes next (:meth:`Console.mark`)."""

    def precedes(self, entry: LogEntry) -> bool:
        """Return whether an entry of the console is at this position or after it.

        :raises ValueError: the entry was read in the ring.
        """
        _require(entry, "console")
        return entry.seq >= self.offset


def _require(entry: LogEntry, source: LogSource) -> None:
    if entry.source != source:
        raise ValueError(f"{entry!r} was not read from the {source}")


_Entry = TypeVar("_Entry", bound=LogEntry)


@dataclass(frozen=True)
class LogCursor:
    """A position in the log, in both of its sources: either may be the one that can be read later.

    An entry is compared with the position in its own source. When the machine is restored, the
    ring goes back with its memory, and the console does not.
    """

    console: ConsoleCursor
    ring: RingCursor | None = None
    """None where the ring could not be read."""

    def precedes(self, entry: LogEntry) -> bool:
        """Return whether an entry is at this position or after it.

        No position in the ring precedes no entry of the ring.
        """
        if entry.source == "console":
            return self.console.precedes(entry)
        return self.ring is not None and self.ring.precedes(entry)

    def following(self, entries: Iterable[_Entry]) -> list[_Entry]:
        """Return the entries at this position and after it.

        From the ring all of them, where there is no position in the ring.
        """
        if self.ring is None:
            return [entry for entry in entries if entry.source == "ring" or self.precedes(entry)]
        return [entry for entry in entries if self.precedes(entry)]

    def survives(self, end: LogCursor) -> bool:
        """Return whether this position still exists in a ring that was set back to its `end`."""
        return _seq(self) <= _seq(end)

    def keeps(self, entry: LogEntry) -> bool:
        """Return whether an entry is still in the log when its ring was set back to this end.

        Entries of the console always are.
        """
        return entry.source == "console" or entry.seq < _seq(self)

    def rewound(self, end: LogCursor) -> LogCursor:
        """Return this position in a log whose ring was set back to its `end`."""
        if self.ring is None or end.ring is None:
            return self
        return replace(self, ring=RingCursor(min(self.ring.seq, end.ring.seq)))


def _seq(cursor: LogCursor) -> int:
    return 0 if cursor.ring is None else cursor.ring.seq
