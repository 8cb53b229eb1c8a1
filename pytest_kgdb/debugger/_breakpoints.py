"""Breakpoints and watchpoints, as a test holds them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from ..errors import KgdbError
from ._deletable import Deletable

__all__ = ["Access", "Breakpoint", "BreakpointLocation", "BreakpointRow", "Watchpoint"]

Access = Literal["write", "read", "access"]
"""What a watchpoint stops at: writes, reads, or either."""


@dataclass(frozen=True)
class BreakpointLocation:
    """One address of a breakpoint."""

    number: str
    """gdb's number of it: `3.1`."""
    address: int
    enabled: bool


@dataclass
class BreakpointRow:
    """What gdb has said last of one breakpoint; :class:`BreakpointTable` writes it."""

    number: int
    enabled: bool = True
    condition: str | None = None
    written: tuple[str, str] | None = None
    """A condition that gdb has in other words: gdb's, and the test's."""
    ignore_count: int = 0
    """Hits that gdb still ignores."""
    hits: int = 0
    """Hits as gdb counts them: those that it ignored, too."""
    commands: tuple[str, ...] = ()
    """gdb commands that run at a hit."""
    temporary: bool = False
    watchpoint: bool = False
    locations: tuple[BreakpointLocation, ...] = ()
    deleted: bool = False
    internal: bool = False
    """Whether it is the plugin's own, which no test sees."""
    text: str = ""
    """The location or the expression, as it was given."""
    resolved: str | None = None
    """The location as gdb took it; None of one that waits."""
    address: int | None = None
    reads: tuple[int, ...] = ()
    """The addresses of what its condition names, or what it watches."""
    gone: str = ""
    """Why a watchpoint was deleted whose memory the kernel has freed."""
    places: tuple[int, ...] = ()
    """The addresses that gdb had for it last: it shows none of what it could not insert."""

    def update(self, record: Mapping[str, Any]) -> None:
        """Take over a `bkpt` of gdb's (gdb manual, "GDB/MI Breakpoint Information")."""
        self.enabled = record.get("enabled", "y") == "y"
        self.condition = record.get("cond")
        if self.written is not None and self.condition == self.written[0]:
            self.condition = self.written[1]
        self.ignore_count = int(record.get("ignore", 0))
        self.hits = max(self.hits, int(record.get("times", 0)))
        self.commands = tuple(_script(record.get("script")))
        self.temporary = record.get("disp") == "del"
        self.watchpoint = str(record.get("type", "")).endswith("watchpoint")
        # A single location is in the record itself, and cannot be disabled apart from it.
        whole = {**record, "number": f"{self.number}.1", "enabled": "y"}
        self.locations = tuple(
            BreakpointLocation(
                str(place["number"]), int(place["addr"], 16), place.get("enabled") == "y"
            )
            for place in record.get("locations") or [whole]
            if str(place.get("addr", "")).startswith("0x")
        )
        self.places = tuple(place.address for place in self.locations) or self.places
        if "addr" in record:
            address = str(record["addr"])
            self.address = int(address, 16) if address.startswith("0x") else None
        self.text = self.text or str(record.get("original-location") or record.get("what") or "")


def _script(script: object) -> list[str]:
    """Return a breakpoint's commands, which gdb before 13 gives in another form."""
    if isinstance(script, Mapping):
        script = script.get("script", [])
    return [str(line) for line in script] if isinstance(script, list) else []


class BreakpointOwner(Protocol):
    """What changes breakpoints in gdb."""

    def set_enabled(self, number: int, enabled: bool) -> None:
        """Enable or disable a breakpoint."""

    def set_condition(self, number: int, condition: str | None) -> None:
        """Set a breakpoint's condition; None for always."""

    def delete(self, number: int) -> None:
        """Delete a breakpoint; the kernel is stopped for it if it runs."""


class Breakpoint(Deletable):
    """A breakpoint in the kernel; a context manager that deletes it at the end."""

    def __init__(self, owner: BreakpointOwner, row: BreakpointRow) -> None:
        self._owner = owner
        self._row = row

    @property
    def number(self) -> int:
        """gdb's number of it."""
        return self._row.number

    @property
    def location(self) -> str:
        """Where it is, as it was asked for."""
        return self._row.text

    @property
    def address(self) -> int | None:
        """Where it is inserted; None for several places, or while its module is not loaded."""
        return self._row.address

    @property
    def hits(self) -> int:
        """How often it was hit: a hit whose condition was false does not count, an ignored does."""
        return self._row.hits

    @property
    def enabled(self) -> bool:
        """Whether it stops the kernel; may be set."""
        return self._row.enabled and not self._row.deleted

    @enabled.setter
    def enabled(self, value: bool) -> None:
        self._require()
        self._owner.set_enabled(self.number, value)

    @property
    def condition(self) -> str | None:
        """The condition under which it stops, a C expression; may be set, to None for always."""
        return self._row.condition

    @condition.setter
    def condition(self, value: str | None) -> None:
        self._require()
        self._owner.set_condition(self.number, value)

    @property
    def ignore_count(self) -> int:
        """Hits that are still ignored before one stops the kernel."""
        return self._row.ignore_count

    @property
    def commands(self) -> tuple[str, ...]:
        """gdb commands that run at each hit, set at gdb's prompt.

        Where they resume the kernel, no test sees the hit; but :attr:`hits` counts it.
        """
        return self._row.commands

    def _require(self) -> None:
        if self._row.deleted:
            raise KgdbError(
                f"{self} was deleted, and cannot be changed",
                hint="insert another; a temporary one ends with its hit, one at an address with "
                "the module that is there, and all with the test",
            )

    def delete(self) -> None:
        """Delete it; a second time does nothing. The kernel is stopped for it if it runs."""
        if not self._row.deleted:
            self._owner.delete(self.number)

    def __repr__(self) -> str:
        state = "deleted" if self._row.deleted else f"{self.hits} hits"
        state += f": {self._row.gone}" if self._row.gone else ""
        return f"<{type(self).__name__} {self.number} at {self.location}: {state}>"


class Watchpoint(Breakpoint):
    """A watchpoint: stops the kernel when memory is written, or read."""

    def __init__(self, owner: BreakpointOwner, row: BreakpointRow, access: Access) -> None:
        super().__init__(owner, row)
        self.access: Access = access
        """What it stops at."""

    @property
    def expression(self) -> str:
        """What is watched, as it was asked for."""
        return self._row.text
