"""The test's breakpoints and watchpoints in one machine."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final

from ..errors import KgdbError
from ..mi import Record, c_string
from ._breakpoints import Access, Breakpoint, Watchpoint
from ._link import GdbError, Link
from ._locations import MAX_BREAKPOINTS, Locations, NoSuchLocation

if TYPE_CHECKING:
    from ._handle import Kgdb
    from ._hidden import Hidden
    from ._modules import Modules

__all__ = ["Planting"]

# What a debug register can watch (Intel SDM volume 3, "Debug Address Registers").
_WATCHABLE: Final = {1: "char", 2: "short", 4: "int", 8: "long"}

_WATCH: Final = {"write": "watch", "read": "rwatch", "access": "awatch"}

# The members of a stop's record that name a watchpoint (gdb manual, "GDB/MI Data Manipulation").
_WATCHPOINTS: Final = ("wpt", "hw-rwpt", "hw-awpt")


class Planting:
    """Plants what a test asks for, and follows what gdb says of it.

    :param owner: the handle; a breakpoint asks it for its own deletion.
    """

    def __init__(
        self, owner: Kgdb, link: Link, locations: Locations, hidden: Hidden, modules: Modules
    ) -> None:
        self._owner = owner
        self._link = link
        self._locations = locations
        self._hidden = hidden
        self._modules = modules
        self._made: dict[int, Breakpoint] = {}
        self._hit_last: dict[int, Breakpoint] = {}
        self.hit_now: list[Breakpoint] = []
        """Those that were hit since the last resume."""

    def insert(
        self,
        location: str,
        *,
        condition: str | None,
        temporary: bool,
        hardware: bool,
        ignore_count: int,
        pending: bool,
    ) -> Breakpoint:
        """Plant a breakpoint; see :meth:`Kgdb.breakpoint`."""
        __tracebackhide__ = True
        self._link.require_stopped("breakpoint()")
        if len(self._made) >= MAX_BREAKPOINTS:
            raise KgdbError(
                f"kgdb holds at most {MAX_BREAKPOINTS} breakpoints "
                "(include/linux/kgdb.h, KGDB_MAX_BREAKPOINTS)",
                hint="delete some",
            )
        words = ["-break-insert"]
        try:
            told = self._locations.resolve(location)
        except NoSuchLocation:
            if not pending and not self._modules.expects(location):
                raise
            self._modules.watch()
            told = location
            words.append("-f")
        if temporary:
            words.append("-t")
        if hardware:
            words.append("-h")
        if condition is not None:
            words += ["-c", c_string(condition)]
        if ignore_count:
            words += ["-i", str(int(ignore_count))]
        words.append(c_string(told))
        planted = self._link.command(" ".join(words))["bkpt"]
        address = planted.get("addr", "")
        made = Breakpoint(
            self._owner,
            int(planted["number"]),
            location,
            int(address, 16) if address.startswith("0x") else None,
        )
        made._condition = condition
        self._made[made.number] = made
        self._modules.guard()
        return made

    def watch(self, expression: str, access: Access) -> Watchpoint:
        """Plant a watchpoint; see :meth:`Kgdb.watchpoint`."""
        __tracebackhide__ = True
        self._link.require_stopped("watchpoint()")
        if access not in _WATCH:
            raise KgdbError(
                f"a watchpoint has no access '{access}'", hint=f"it has {', '.join(_WATCH)}"
            )
        # By its address: one by its name would end with the frame, and step instead of watch
        # where a register is part of it.
        address, size = self._link.numbers(
            f"(unsigned long)&({expression})", f"sizeof({expression})"
        )
        if size not in _WATCHABLE:
            raise KgdbError(
                f"{expression} has {size} bytes; a watchpoint has "
                f"{', '.join(map(str, _WATCHABLE))}",
                hint="watch a member of it",
            )
        told = self._link.console(f"{_WATCH[access]} *({_WATCHABLE[size]} *){address:#x}")
        found = re.match(r"Hardware (?:read |access \(read/write\) )?watchpoint (\d+):", told)
        if found is None:
            raise KgdbError(
                f"gdb made no watchpoint of {expression}: {told.strip()}",
                log=self._link.gdb.transcript,
                hint="an lvalue of the kernel's memory can be watched: a variable, a member",
            )
        number = int(found[1])
        made = Watchpoint(self._owner, number, expression, access)
        self._made[number] = made
        return made

    def tell(self, command: str, breakpoint: Breakpoint, argument: str) -> None:
        """Tell gdb something about a breakpoint."""
        self._link.require_stopped("changing a breakpoint")
        words = f"{command} {breakpoint.number}"
        self._link.command(f"{words} {c_string(argument)}" if argument else words)

    def drop(self, breakpoint: Breakpoint) -> None:
        """Know no more of a breakpoint."""
        self._made.pop(breakpoint.number, None)

    def delete(self, breakpoint: Breakpoint) -> None:
        """Have gdb delete a breakpoint of the stopped kernel; one that is gone need not be."""
        with contextlib.suppress(GdbError):
            self._link.command(f"-break-delete {breakpoint.number}")

    def forget(self) -> None:
        """All have been deleted, or are about to be, behind our back."""
        self._hidden.forget()
        self._hit_last.clear()
        for each in self._made.values():
            each.gone()
        self._made.clear()

    @property
    def enabled(self) -> list[str]:
        """gdb's numbers of those that stop the kernel."""
        return [str(each.number) for each in self._made.values() if each.enabled]

    @contextlib.contextmanager
    def asleep(self) -> Iterator[None]:
        """Have none of them stop the kernel; it is stopped at the beginning and at the end."""
        numbers = " ".join(self.enabled)
        if numbers:
            self._link.command(f"-break-disable {numbers}")
        yield  # where it raises, the machine is put back, which enables them, too
        if numbers:
            self._link.command(f"-break-enable {numbers}")

    def expected(self) -> str:
        """Return, for an error, where the kernel was to stop."""
        if not self._made:
            return ", having no breakpoint to stop at"
        shown = ", ".join(
            f"{each.location} ({each.hits} hits)" for each in list(self._made.values())[:5]
        )
        return f" at {shown}"

    # What gdb says

    def hit(self, payload: dict[str, Any]) -> Breakpoint | None:
        """Return the one that a stop's record names; a temporary one ends by it."""
        watched: dict[str, Any] = next((payload[key] for key in _WATCHPOINTS if key in payload), {})
        number = int(payload.get("bkptno") or watched.get("number") or 0)
        breakpoint = self._made.get(number) or self._hit_last.pop(number, None)
        if breakpoint is not None and payload.get("disp") == "del":
            self._made.pop(breakpoint.number, None)
            breakpoint.hits = max(breakpoint.hits, 1)
            breakpoint.gone()
        return breakpoint

    def on_record(self, record: Record) -> None:
        """Follow gdb's news of breakpoints (in gdb's reading thread)."""
        payload = record["payload"] or {}
        if record["message"] == "breakpoint-modified":
            changed = payload.get("bkpt", {})
            known = self._made.get(_number(changed.get("number", "")))
            if known is not None:
                hits = int(changed.get("times", known.hits))
                if hits > known.hits:
                    self.hit_now.append(known)
                known.hits = hits
                known.moved(str(changed.get("addr", "")))
        elif record["message"] == "breakpoint-deleted":
            number = _number(payload.get("id", ""))
            self._hidden.deleted(number)
            known = self._made.pop(number, None)
            if known is not None:
                known.gone()
                self._hit_last[known.number] = known  # its stop is told after its end


def _number(text: object) -> int:
    """Return a breakpoint's number; 0 for one of its locations (`3.1`)."""
    return int(text) if isinstance(text, str) and text.isdigit() else 0
