"""What gdb says of its breakpoints: a row for each, those made at its prompt too."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator
from typing import Final, Protocol

from ._breakpoints import Breakpoint, BreakpointRow
from ._debugger import Debugger
from ._mi import Record

__all__ = ["BreakpointRows", "MiRecords"]

# gdb/breakpoint.c, bpstat_check_breakpoint_conditions: the reason is in the next line, and the
# breakpoint's number in some versions.
_UNTESTABLE: Final = re.compile(r"Error in testing [a-z ]*condition\b[a-z ]*([\d.]*):\s*(.*)", re.S)


class MiRecords(Protocol):
    """gdb's asynchronous records."""

    def subscribe(self, listener: Callable[[Record], None]) -> None:
        """Show every record to a function, in gdb's reading thread."""


class BreakpointRows:
    """The rows, the test's objects of them, and the hits since the last resume.

    gdb's reading thread writes them as well: what is gone through is a copy.

    :param debugger: lists gdb's breakpoints.
    :param gdb: its records.
    :param make: makes a test's object of a row.
    """

    def __init__(
        self,
        debugger: Debugger,
        gdb: MiRecords,
        make: Callable[[BreakpointRow], Breakpoint],
    ) -> None:
        self._debugger = debugger
        self._make = make
        self._rows: dict[int, BreakpointRow] = {}
        self._objects: dict[int, Breakpoint] = {}
        self._deleted_by_hit: dict[int, Breakpoint] = {}
        self._forgotten: set[int] = set()  # numbers, which gdb gives once
        self.hit: list[BreakpointRow] = []
        """Those that were hit since the last resume."""
        self.untestable: str | None = None
        """Why a condition was not evaluated at this stop."""
        gdb.subscribe(self._on_record)

    def __iter__(self) -> Iterator[BreakpointRow]:
        return iter(list(self._rows.values()))

    def __contains__(self, number: int) -> bool:
        return number in self._rows

    def __getitem__(self, number: int) -> BreakpointRow:
        return self._rows[number]

    def get(self, number: int) -> BreakpointRow | None:
        """Return the row of a breakpoint; None if gdb has none of that number."""
        return self._rows.get(number)

    def refresh(self) -> list[BreakpointRow]:
        """Read gdb's table anew, internal breakpoints included, and return all rows."""
        for record in self._debugger.command("-break-list")["BreakpointTable"]["body"]:
            self.update(record)
        return list(self)

    def add(self, number: int) -> BreakpointRow:
        """Return the row of a breakpoint that gdb has."""
        return self._rows.setdefault(number, BreakpointRow(number))

    def update(self, record: Record) -> BreakpointRow | None:
        """Take over a `bkpt` of gdb's; None for one that is a location of another (`3.1`).

        Or of one that is forgotten, and was hit before gdb has deleted it.
        """
        number = _number(record.get("number", ""))
        if not number or number in self._forgotten:
            return None
        row = self.add(number)
        row.update(record)
        return row

    def forget(self, rows: Collection[BreakpointRow]) -> None:
        """Drop rows of breakpoints that gdb has no more."""
        for row in rows:
            row.deleted = True
            self._forgotten.add(row.number)
            self._rows.pop(row.number, None)
            self._objects.pop(row.number, None)

    def forget_hits(self) -> None:
        """Drop the hits: the kernel goes on."""
        self.hit.clear()
        self.untestable = None

    def clear(self) -> None:
        """Drop everything: gdb is gone, or has deleted them."""
        self._deleted_by_hit.clear()
        self.hit.clear()
        self.forget(list(self))
        self._forgotten.clear()  # another gdb counts from 1

    @property
    def objects(self) -> int:
        """How many of them tests hold."""
        return len(self._objects)

    def keep(self, breakpoint: Breakpoint) -> None:
        """Have a row stand for an object."""
        self._objects[breakpoint.number] = breakpoint

    def object_of(self, row: BreakpointRow) -> Breakpoint:
        """Return the test's object of a row, the same each time."""
        return self._objects.setdefault(row.number, self._make(row))

    def take_deleted(self, number: int) -> Breakpoint | None:
        """Return, once, a breakpoint that gdb has deleted: a temporary one, by its hit."""
        return self._deleted_by_hit.pop(number, None)

    def forget_deleted(self) -> None:
        """Drop those that gdb has deleted."""
        self._deleted_by_hit.clear()

    # In gdb's reading thread

    def _on_record(self, record: Record) -> None:
        payload = record["payload"] or {}
        if record["type"] == "log":
            self._on_log(str(payload))
        elif record["message"] == "running":
            self.forget_hits()  # a script may resume several times
        elif record["message"] in ("breakpoint-created", "breakpoint-modified"):
            changed = payload.get("bkpt", {})
            before = self._rows.get(_number(changed.get("number", "")))
            hits, ignored = (before.hits, before.ignore_count) if before is not None else (0, 0)
            row = self.update(changed)
            if row is None or row.internal:
                return
            # Hits that gdb ignores are counted, too.
            if row.hits > hits and row.ignore_count >= ignored:
                self.hit.append(row)
        elif record["message"] == "breakpoint-deleted":
            deleted = self._rows.get(_number(payload.get("id", "")))
            if deleted is None:
                return
            if not deleted.internal:
                # gdb tells the stop of a temporary breakpoint after its end.
                kept = self._objects.get(deleted.number) or self._make(deleted)
                self._deleted_by_hit[deleted.number] = kept
            self.forget([deleted])

    def _on_log(self, line: str) -> None:
        match = _UNTESTABLE.match(line)
        if match is not None:
            self.untestable = match[2]
        elif self.untestable == "":
            self.untestable = line


def _number(text: object) -> int:
    """Return a breakpoint's number; 0 for one of its locations (`3.1`)."""
    return int(text) if isinstance(text, str) and text.isdigit() else 0
