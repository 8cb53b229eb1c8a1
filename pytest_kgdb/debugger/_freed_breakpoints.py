"""Breakpoints and watchpoints in memory that the kernel frees, or that name something there."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from ._breakpoint_rows import BreakpointRows
from ._breakpoints import BreakpointRow, Watchpoint
from ._debugger import Debugger

__all__ = ["FreedBreakpoints"]


class ConditionSetter(Protocol):
    """Gives a breakpoint a condition as gdb takes it."""

    def __call__(self, row: BreakpointRow, text: str) -> None: ...


class FreedBreakpoints:
    """Ends, or has stop with the reason, what would be of memory that is another's next.

    gdb has the kernel stopped meanwhile.

    :param delete: deletes breakpoints in gdb, and their rows.
    """

    def __init__(
        self,
        debugger: Debugger,
        rows: BreakpointRows,
        *,
        delete: Callable[[list[BreakpointRow]], None],
        set_condition: ConditionSetter,
    ) -> None:
        self._debugger = debugger
        self._rows = rows
        self._delete = delete
        self._set_condition = set_condition
        self._ended: list[str] = []

    def addresses(self) -> list[int]:
        """Return where there are breakpoints and watchpoints, internal ones and gdb's included."""
        places = [place.address for row in self._rows.refresh() for place in row.locations]
        return places + [address for _, address, _ in self._watched()]

    def _watched(self) -> list[tuple[int, int, bool]]:
        """Return each watchpoint's number and address, and whether it is an address to gdb."""
        if not any(row.watchpoint for row in self._rows):
            return []
        places = self._debugger.request("watchpoint_places")["places"]
        return [(int(number), int(address), bool(fixed)) for number, address, fixed in places]

    def forget(self, holds: Callable[[int], bool], why: str) -> None:
        """Do without memory that is being freed, or is gone.

        A test's watchpoint there is deleted. A breakpoint whose condition names something there
        stops the kernel at the next hit, with the reason; but one that is there itself waits for
        its module.

        :param holds: whether an address is in it.
        :param why: what is gone, for messages.
        """
        for row in self._rows:
            if not any(map(holds, row.reads)):
                continue
            if isinstance(self._rows.object_of(row), Watchpoint):
                self._end([row.number], why)
            elif not all(holds(place.address) for place in row.locations) and row.condition:
                text = f'$_gone("{why}")'
                row.written, row.reads = (text, row.condition), ()
                self._set_condition(row, text)

    def end_watchpoints(self, holds: Callable[[int], bool], why: str) -> None:
        """Delete watchpoints in memory that is freed, those made at gdb's prompt included.

        Those at the prompt that are an expression follow what it names.
        """
        watched = self._watched()
        self._end([number for number, at, fixed in watched if fixed and holds(at)], why)

    def end_breakpoints(self, holds: Callable[[int], bool], why: str) -> None:
        """Delete breakpoints at addresses in code that is freed, of which gdb has no symbols more.

        Those at its symbols wait by now.
        """
        rows = self._rows.refresh()
        self._end([r.number for r in rows if any(holds(at.address) for at in r.locations)], why)

    def _end(self, numbers: list[int], why: str) -> None:
        rows = [self._rows[number] for number in numbers if number in self._rows]
        if rows:
            for row in rows:
                kind = "watchpoint" if row.watchpoint else "breakpoint"
                row.gone = why
                self._ended.append(f"{kind} {row.number} at {row.text} is deleted: {why}")
            self._delete(rows)

    def ended(self) -> list[str]:
        """Return which have been deleted, and why: for messages."""
        return list(self._ended)

    def clear(self) -> None:
        """Forget which have been deleted."""
        self._ended.clear()
