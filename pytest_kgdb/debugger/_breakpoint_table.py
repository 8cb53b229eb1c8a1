"""The table of breakpoints: what gdb has, and the only writer of it."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from functools import partial
from typing import Any, Final, Protocol

from ..errors import KgdbError
from ._breakpoint_rows import BreakpointRows, MiRecords
from ._breakpoints import Access, Breakpoint, BreakpointRow, Watchpoint
from ._debugger import Debugger
from ._freed_breakpoints import FreedBreakpoints
from ._linespec import linespec
from ._locations import MAX_BREAKPOINTS, NoSuchLocation
from ._mi import GdbError, Record, c_string
from ._run_control import RunControl
from ._stop import Stop
from ._subscribers import Restored, Resumed, StopRecord, StopSubscriber

__all__ = ["BreakpointTable", "InternalHandler"]

InternalHandler = Callable[[], bool]
"""Is called at each hit of an internal breakpoint; returns whether the kernel stays stopped."""

# gdb/breakpoint.h, breakpoint::ignore_count: an int; gdb cuts off what is more.
_MAX_IGNORED: Final = 2**31 - 1

# What a debug register can watch (Intel SDM volume 3, "Debug Address Registers").
_WATCHABLE: Final = {1: "char", 2: "short", 4: "int", 8: "long"}

_WATCH: Final = {"write": "watch", "read": "rwatch", "access": "awatch"}

# The members of a stop's record that name a watchpoint (gdb manual, "GDB/MI Data Manipulation").
_WATCHPOINTS: Final = ("wpt", "hw-rwpt", "hw-awpt")

# gdb/breakpoint.c, insert_bp_location: gdb keeps what it could not insert. gdb 16 has the
# stub's reply behind the number of one that is hardware.
_NOT_INSERTED: Final = re.compile(
    r"^(?:Cannot insert (?:hardware )?breakpoint|Could not insert hardware watchpoint) (\d+)[.:]",
    re.M,
)
# Breakpoints that the message of a wait names.
_NAMED: Final = 5


class Resolver(Protocol):
    """Turns locations into what gdb knows."""

    def resolve(self, location: str) -> str:
        """Return the location as gdb takes it, or raise why no breakpoint may be there."""

    def freed(self, location: str) -> Collection[int]:
        """Return the addresses of a resolved location whose memory the kernel has freed."""

    def refuse_within_instruction(self, location: str, what: str) -> None:
        """Raise if an address that is given is no instruction's; `what` begins the message."""

    def freed_of_modules(self, location: str) -> Collection[int]:
        """Return those in modules of which that is so."""

    def freed_among(self, addresses: Iterable[int]) -> Collection[int]:
        """Return those of which the first is so."""


class BreakpointTable(StopSubscriber):
    """Inserts, changes and deletes breakpoints, and follows what gdb says of them.

    gdb's own view is what a row shows: what a command at gdb's prompt changes arrives as a
    record. gdb sends none for the MI commands that are sent here (gdb/mi/mi-interp.c,
    `mi_suppress_notification`), whose effect is noted when gdb has answered.

    :param gdb: its records.
    :param expects: whether a module that is known, and not loaded, has a location.
    :param ended_watches: returns, once, the addresses on a stack that are not watched any more, and
        whether the stop is that of the return of the function in whose frame it was.
    :param refused: returns, once, the addresses at which the target has refused a breakpoint.
    """

    def __init__(
        self,
        debugger: Debugger,
        gdb: MiRecords,
        run_control: RunControl,
        locations: Resolver,
        *,
        expects: Callable[[str], bool],
        ended_watches: Callable[[], Mapping[int, bool]],
        refused: Callable[[], Collection[int]],
    ) -> None:
        self._debugger = debugger
        self._run_control = run_control
        self._locations = locations
        self._expects = expects
        self._ended_watches = ended_watches
        self._take_refused = refused
        self._rows = BreakpointRows(debugger, gdb, partial(Breakpoint, self))
        self.in_freed_memory = FreedBreakpoints(
            debugger, self._rows, delete=self._delete, set_condition=self._give_condition
        )
        """Those in memory that the kernel frees."""
        self._internal: dict[str, tuple[int, InternalHandler]] = {}
        self._disabled_for_step = False
        self._listeners: list[Callable[[bool], None]] = []
        self._announced: set[int] = set()  # of which the listeners know
        self._doomed: set[int] = set()  # which gdb is to delete at the next stop
        run_control.subscribe(self)

    def on_insert(self, listener: Callable[[bool], None]) -> None:
        """Call a function after each insertion; its argument: whether it waits for a module."""
        self._listeners.append(listener)

    # What there is

    def rows(self) -> list[BreakpointRow]:
        """Return the test's breakpoints and watchpoints, those made at gdb's prompt too."""
        return [row for row in self._rows if not row.internal]

    def refresh(self) -> list[BreakpointRow]:
        """Read gdb's table anew, internal breakpoints included, and return all rows."""
        return self._rows.refresh()

    # The test's breakpoints

    def insert(
        self,
        location: str,
        *,
        condition: str | None = None,
        temporary: bool = False,
        hardware: bool = False,
        ignore_count: int = 0,
        pending: bool = False,
    ) -> Breakpoint:
        """Insert a breakpoint; see :meth:`Kgdb.breakpoint`."""
        __tracebackhide__ = True
        self._run_control.require_stopped("breakpoint()")
        if self._rows.objects >= MAX_BREAKPOINTS:
            raise KgdbError(
                f"kgdb holds at most {MAX_BREAKPOINTS} breakpoints "
                "(include/linux/kgdb.h, KGDB_MAX_BREAKPOINTS)",
                hint="delete some",
            )
        if not isinstance(ignore_count, int) or not 0 <= ignore_count <= _MAX_IGNORED:
            raise KgdbError(
                f"no breakpoint at {location}: {ignore_count!r} is no number of hits to ignore",
                hint=f"gdb takes 0 to {_MAX_IGNORED}",
            )
        words = ["-break-insert"]
        waits = False
        try:
            resolved = self._locations.resolve(location)
        except NoSuchLocation:
            resolved = linespec(location)
            if not pending and not self._expects(resolved):
                raise
            waits = True
            words.append("-f")
        if temporary:
            words.append("-t")
        if hardware:
            words.append("-h")
        written = None
        reads: tuple[int, ...] = ()
        if condition is not None:
            text, reads = self._as_gdb_takes_it(condition, resolved)
            written = text, condition
            words += ["-c", c_string(written[0])]
        if ignore_count:
            words += ["-i", str(int(ignore_count))]
        freed = () if waits else self._locations.freed(resolved)
        if freed:
            words.append("-d")
        words.append(c_string(resolved))
        of_modules = () if waits else self._locations.freed_of_modules(resolved)
        record = self._insert(" ".join(words), left_to_gdb=of_modules)
        row = self._add(record, location, written=written)
        row.resolved, row.reads = None if waits else resolved, reads
        if freed:
            try:
                self._leave_out(row, freed)
            except GdbError as error:
                self.forget_not_inserted(error.message)
                raise
        breakpoint = self._rows.object_of(row)
        self._announce(row, waits=waits)
        return breakpoint

    def _announce(self, row: BreakpointRow, *, waits: bool = False) -> None:
        self._announced.add(row.number)
        for listener in self._listeners:
            listener(waits)

    def check_others(self) -> None:
        """Delete what was made at gdb's prompt where it would change an instruction.

        :raises KgdbError: something was.
        """
        for row in self.rows():
            if row.number not in self._announced and row.text.startswith("*"):
                what = f"breakpoint {row.number} at {row.text} was deleted"
                try:
                    with contextlib.suppress(GdbError):  # there is no such place any more
                        self._locations.refuse_within_instruction(row.text, what)
                except KgdbError:
                    self._delete([row])
                    raise

    def announce_others(self) -> None:
        """Tell the listeners of what was made at gdb's prompt, if anything was."""
        others = [row for row in self.rows() if row.number not in self._announced]
        self._announced.update(row.number for row in others)
        if others:
            self._announce(others[0])

    def _leave_out(self, row: BreakpointRow, addresses: Collection[int]) -> None:
        """Enable a breakpoint that is disabled, but for some of its addresses."""
        for place in row.locations:
            if place.address in addresses:
                self.enable_location(place.number, False)
        self._enable([row.number], True)

    def _insert(self, command: str, *, left_to_gdb: Collection[int] = ()) -> Record:
        """Run a command that inserts one, and return gdb's record; leave none that gdb cannot.

        :param left_to_gdb: addresses that may be refused: a module has code there when it is loaded
            again, and gdb inserts it then.
        """
        self._take_refused()  # what is older
        try:
            record: Record = self._debugger.command(command)["bkpt"]
            if not set(left_to_gdb).issuperset(self._take_refused()):
                # gdb takes a file that was added for a shared library's, and what it cannot insert
                # there for that of one which is gone (gdb/breakpoint.c, insert_bp_location). All
                # sections of a module that are not loaded begin at 0.
                raise GdbError(
                    f"Cannot insert breakpoint {record['number']}.", log=self._debugger.transcript
                )
        except GdbError as error:
            # It would have every resume refused.
            for number in map(int, _NOT_INSERTED.findall(error.message)):
                if number not in self._rows:
                    with contextlib.suppress(GdbError):
                        self._debugger.command(f"-break-delete {number}")
            raise
        return record

    def _as_gdb_takes_it(self, condition: str, location: str) -> tuple[str, tuple[int, ...]]:
        """Return a condition in which each name is that of the function that is named.

        And the addresses of what it names.

        :raises KgdbError: gdb cannot evaluate it, or it is empty.
        """
        if not condition.strip():
            raise KgdbError(
                f"no breakpoint at {location} with an empty condition",
                hint="None is no condition",
                by_test=True,
            )
        try:
            request = self._debugger.request("condition", text=condition, location=location)
        except GdbError as error:
            raise GdbError(
                f"no breakpoint at {location} with the condition '{condition}': {error.message}",
                hint=error.hint,
            ) from error
        return str(request["condition"]), tuple(map(int, request.get("addresses", ())))

    def _add(
        self,
        record: Record,
        text: str,
        *,
        internal: bool = False,
        written: tuple[str, str] | None = None,
    ) -> BreakpointRow:
        row = self._rows.add(int(record["number"]))
        row.text, row.internal, row.written = text, internal, written
        row.update(record)
        return row

    def watch(self, expression: str, access: Access) -> Watchpoint:
        """Insert a watchpoint; see :meth:`Kgdb.watchpoint`."""
        __tracebackhide__ = True
        self._run_control.require_stopped("watchpoint()")
        if access not in _WATCH:
            raise KgdbError(
                f"a watchpoint has no access '{access}'", hint=f"it has {', '.join(_WATCH)}"
            )
        # By its address: one by its name would end with the frame, and step instead of watch
        # where a register is part of it.
        place = self._debugger.request("watchable", expression=expression)
        address, size = int(place["address"]), int(place["size"])
        if size not in _WATCHABLE:
            raise KgdbError(
                f"{expression} has {size} bytes; a watchpoint has "
                f"{', '.join(map(str, _WATCHABLE))}",
                hint="watch a member of it",
            )
        kind = f"{'signed' if place['signed'] else 'unsigned'} {_WATCHABLE[size]}"
        try:
            output = self._debugger.console(f"{_WATCH[access]} *({kind} *){address:#x}")
        except GdbError as error:
            self.forget_not_inserted(error.message)
            raise
        match = re.match(r"Hardware (?:read |access \(read/write\) )?watchpoint (\d+):", output)
        if match is None:
            raise KgdbError(
                f"gdb made no watchpoint of {expression}: {output.strip()}",
                log=self._debugger.transcript,
                hint="an lvalue of the kernel's memory can be watched: a variable, a member",
            )
        row = self._rows.add(int(match[1]))
        row.text, row.reads = expression, (address,)
        watchpoint = Watchpoint(self, row, access)
        self._rows.keep(watchpoint)
        self._announce(row)
        return watchpoint

    def _give_condition(self, row: BreakpointRow, text: str) -> None:
        self._debugger.command(f"-break-condition {row.number} {c_string(text)}")

    def set_enabled(self, number: int, enabled: bool) -> None:
        """Enable or disable a breakpoint (gdb's `enable`, `disable`)."""
        self._run_control.require_stopped("changing a breakpoint")
        self._enable([number], enabled)

    def set_condition(self, number: int, condition: str | None) -> None:
        """Set a breakpoint's condition; None for always."""
        self._run_control.require_stopped("changing a breakpoint")
        words, row = f"-break-condition {number}", self._rows[number]
        reads: tuple[int, ...] = ()
        if condition is not None:
            text, reads = self._as_gdb_takes_it(condition, row.resolved or row.text)
            row.written = text, condition
            words += f" {c_string(text)}"
        self._debugger.command(words)
        row.condition, row.reads = condition, reads
        self._announce(row)

    def delete(self, number: int) -> None:
        """Delete a breakpoint; the kernel is stopped for it if it runs."""
        row = self._rows.get(number)
        if row is None or row.deleted:
            return
        control = self._run_control
        if not control.alive:
            self._rows.forget([row])
        elif not (control.hears_interrupts or control.stopped):
            self._rows.forget([row])
            self._doomed.add(number)
        else:
            with control.kept_stopped(ends=partial(self._is_of, row)):
                self._rows.forget([row])
                with contextlib.suppress(GdbError):  # it may be gone
                    self._debugger.command(f"-break-delete {number}")

    def _is_of(self, row: BreakpointRow, stop: Stop) -> bool:
        """Whether the present stop is of one breakpoint only."""
        others = [hit for hit in self._rows.hit if hit is not row]
        return stop.breakpoint is not None and stop.breakpoint.number == row.number and not others

    def _delete_doomed(self) -> None:
        """Delete what could not be deleted while the kernel heard no interrupt."""
        doomed, self._doomed = self._doomed, set()
        if doomed:
            with contextlib.suppress(GdbError):
                self._debugger.command(f"-break-delete {' '.join(map(str, sorted(doomed)))}")

    def delete_all(self) -> None:
        """Delete the test's breakpoints and watchpoints, as :meth:`delete`; internal ones stay."""
        rows = self.rows()
        if rows and self._run_control.stopped:
            self._delete(rows)
            return
        for row in rows:
            self.delete(row.number)

    def _delete(self, rows: list[BreakpointRow]) -> None:
        self._debugger.command(f"-break-delete {' '.join(str(row.number) for row in rows)}")
        self._rows.forget(rows)

    def clear(self) -> None:
        """Forget all breakpoints, internal ones too: gdb is gone, or has deleted them."""
        self._internal.clear()
        self._disabled_for_step = False
        self._announced.clear()
        self.in_freed_memory.clear()
        self._doomed.clear()
        self._rows.clear()

    # Internal breakpoints (gdb's word): something is done at each hit, and the kernel goes on

    def insert_internal(self, function: str, handler: InternalHandler) -> None:
        """Insert one at a function's first instruction, where its arguments are in registers.

        :param handler: is called at each hit; returns whether the kernel stays stopped.
        :raises GdbError: there is no such function.
        """
        if function not in self._internal:
            record = self._insert(f'-break-insert "*{function}"')
            row = self._add(record, function, internal=True)
            self._internal[function] = row.number, handler

    def remove_internal(self, function: str) -> None:
        """Remove one; one that is not there is no error."""
        number, _ = self._internal.pop(function, (0, None))
        if number:
            self._rows.forget([self._rows[number]] if number in self._rows else [])
            with contextlib.suppress(GdbError):
                self._debugger.command(f"-break-delete {number}")

    def repair_internal(self) -> None:
        """Undo what a command at gdb's prompt has done to internal breakpoints: `delete`, say."""
        for function, (number, handler) in list(self._internal.items()):
            row = self._rows.get(number)
            if row is not None and row.enabled and not (row.condition or row.ignore_count):
                continue
            self.remove_internal(function)
            self.insert_internal(function, handler)

    # Enabling and disabling

    def _enable(self, numbers: Collection[int], enabled: bool) -> None:
        if not numbers:
            return
        command = "-break-enable" if enabled else "-break-disable"
        self._debugger.command(f"{command} {' '.join(map(str, numbers))}")
        for number in numbers:
            if number in self._rows:
                self._rows[number].enabled = enabled

    def enable_location(self, number: str, enabled: bool) -> None:
        """Enable or disable one location of a breakpoint.

        :param number: gdb's, as in :class:`BreakpointLocation`: `3.1`.
        :raises GdbError: there is no such location any more.
        """
        self._debugger.command(f"-break-{'enable' if enabled else 'disable'} {number}")

    @contextlib.contextmanager
    def disabled(self, numbers: Collection[int] | None = None) -> Iterator[None]:
        """Keep breakpoints disabled meanwhile; the kernel is stopped at the start and at the end.

        :param numbers: which; all of the test's that are enabled otherwise.
        """
        rows = self._rows
        if numbers is None:
            numbers = [row.number for row in self.rows()]
        enabled = [number for number in numbers if number in rows and rows[number].enabled]
        self._enable(enabled, False)
        try:
            yield
        except BaseException:
            # The kernel may run, and gdb refuse; a restore of the machine enables them then.
            with contextlib.suppress(KgdbError):
                self._enable([number for number in enabled if number in rows], True)
            for number in enabled:
                if number in rows:
                    rows[number].enabled = True
            raise
        self._enable([number for number in enabled if number in rows], True)

    @contextlib.contextmanager
    def restoring(self, *, keep: bool) -> Iterator[Callable[[], None]]:
        """Around a restore of the machine: yield what removes the breakpoints from gdb's target.

        :param keep: insert them again in the restored kernel; they are deleted otherwise.
        """
        enabled = [row.number for row in self._rows if row.enabled]

        def remove() -> None:
            self._delete_doomed()
            if keep:
                self._enable(enabled, False)
            else:
                self._debugger.command("-break-delete")

        yield remove
        if keep:
            self._enable([number for number in enabled if number in self._rows], True)

    # What run control says

    def may_go_on(self) -> bool:
        """Return whether one with commands was hit: they may resume the kernel."""
        return any(row.commands for row in list(self._rows.hit))

    def intercept(self, record: StopRecord) -> bool:
        """Serve a hit of an internal breakpoint."""
        if "reason" not in record.payload and self._rows.hit:
            # gdb gives none where a breakpoint's commands begin with `silent`.
            record.payload.update(reason="breakpoint-hit", bkptno=self._rows.hit[0].number)
        number = int(record.payload.get("bkptno") or 0)
        only_doomed = number in self._doomed and not self._rows.hit
        self._delete_doomed()
        if only_doomed:
            return True
        handler = next((work for own, work in list(self._internal.values()) if own == number), None)
        if handler is None:
            return False
        stays = handler()
        if not stays and not self._rows.hit:
            return True
        # One of the test's at the same place, which gdb does not name in its record.
        record.payload["bkptno"] = next((row.number for row in self._rows.hit), 0)
        record.internal = True
        return False

    def stopped(self, record: StopRecord) -> None:
        """Name the breakpoint of a stop; a temporary one ends by its hit."""
        payload = record.payload
        watch: dict[str, Any] = next((payload[key] for key in _WATCHPOINTS if key in payload), {})
        number = int(payload.get("bkptno") or watch.get("number") or payload.get("wpnum") or 0)
        self._end_watches(record)
        row = self._rows.get(number)
        if row is not None and not row.internal:
            record.breakpoint = self._rows.object_of(row)
        elif record.breakpoint is None:
            record.breakpoint = self._rows.take_deleted(number)
        if payload.get("reason") == "watchpoint-scope" and record.breakpoint is not None:
            record.message = _returned(record.breakpoint)
        if row is not None and payload.get("disp") == "del":
            row.hits = max(row.hits, 1)
            self._rows.forget([row])
        if self._rows.untestable is not None and row is not None and row.condition is not None:
            record.message = (
                f"gdb could not evaluate the condition '{row.condition}': "
                f"{self._rows.untestable.strip()}"
            )

    def _end_watches(self, record: StopRecord) -> None:
        """Delete the watchpoints of local variables whose function has returned."""
        ended = self._ended_watches()
        if not ended:
            return
        answer = self._debugger.request("watchpoints_at", addresses=sorted(ended))
        rows = [self._rows[number] for number in answer["numbers"] if number in self._rows]
        if not rows:
            return
        watchpoints = [self._rows.object_of(row) for row in rows]
        self._delete(rows)
        if record.reason == "int3" and any(ended.values()):
            record.reason, record.signal = "watchpoint", None
            record.breakpoint, record.message = watchpoints[0], _returned(watchpoints[0])

    def recorded(self, stop: Stop) -> None:  # noqa: ARG002 # as every subscriber's
        """After a step, internal breakpoints are enabled again."""
        self._end_step()

    def _end_step(self) -> None:
        if self._disabled_for_step:
            self._disabled_for_step = False
            with contextlib.suppress(GdbError):
                self._enable(self._internal_numbers, True)

    def resumed(self, event: Resumed) -> None:
        """Around a step, internal breakpoints are disabled: gdb would end the step at a hit."""
        self._rows.forget_hits()
        self._check_conditions()
        if event.stepping and self._internal:
            self._disabled_for_step = True
            self._enable(self._internal_numbers, False)

    def _check_conditions(self) -> None:
        """Say the names of a condition anew, whose breakpoint has waited for its module."""
        for row in self._rows:
            if row.resolved is None and row.written is not None and row.locations:
                row.resolved = linespec(row.text)
                text, row.reads = self._as_gdb_takes_it(row.written[1], row.resolved)
                if text != row.written[0]:
                    row.written = text, row.written[1]
                    self._give_condition(row, text)

    def restored(self, event: Restored) -> None:
        """Another test begins without breakpoints."""
        self._rows.hit.clear()
        if not event.keep_breakpoints:
            self._ended_watches()  # those of the test before
        if event.keep_breakpoints:
            self._end_step()  # one that had not ended
            self._rows.forget_deleted()
        else:
            self.clear()

    def refused(self, message: str) -> str:
        """Delete those that could not be inserted: every later resume would fail as well."""
        self._end_step()
        if places := self.forget_not_inserted(message):
            return f": kgdb does not take {places}, deleted now"
        return (
            ": kgdb takes no breakpoint where gdb needs one"
            if _NOT_INSERTED.search(message)
            else ""
        )

    def forget_not_inserted(self, message: str) -> str:
        """Delete the breakpoints that a message of gdb's says it could not insert.

        :return: which they were, for a message; empty if there are none.
        """
        places = []
        for number in sorted(set(map(int, _NOT_INSERTED.findall(message))) - {0}):
            row = self._rows.get(number)
            kind = "watchpoint" if f"watchpoint {number}." in message else "breakpoint"
            places.append(f"{kind} {number}" + (f" at {row.text}" if row is not None else ""))
            with contextlib.suppress(GdbError):
                self._debugger.command(f"-break-delete {number}")
            if row is not None:
                self._rows.forget([row])
        return ", ".join(places)

    def leave_out_freed(self, message: str) -> str:
        """Leave out, of breakpoints that a message of gdb's says it could not insert, freed code.

        :return: which they are, and what was left out; empty if that does not help: they are as
            before then.
        :raises GdbError: gdb cannot insert the rest, either.
        """
        numbers = sorted(set(map(int, _NOT_INSERTED.findall(message))) - {0})
        if not numbers:
            return ""
        self._rows.refresh()
        rows = [self._rows[number] for number in numbers if number in self._rows]
        freed = {
            row.number: self._locations.freed_among(place.address for place in row.locations)
            for row in rows
        }
        if len(rows) < len(numbers) or any(
            not 0 < len(freed[row.number]) < len(row.locations) for row in rows
        ):
            return ""
        self._enable(numbers, False)
        for row in rows:
            self._leave_out(row, freed[row.number])
        return "\n".join(
            f"Breakpoint {row.number}: {row.text}. ({len(row.locations)} locations, of which "
            f"{len(freed[row.number])} are in .init.text, which the kernel has freed by now)"
            for row in rows
        )

    def unreported(self) -> str:
        """Return what gdb would say of the breakpoints that it could not insert and keeps silently.

        Those that the target has refused since this was last asked, or one inserted here.
        """
        refused = set(self._take_refused())
        rows = [row for row in self.rows() if refused.intersection(row.places)]
        return "\n".join(f"Cannot insert breakpoint {row.number}." for row in rows)

    def awaited(self) -> str:
        """Return where the kernel was to stop, for a message."""
        rows = self.rows()
        places = ", ".join(f"{row.text} ({row.hits} hits)" for row in rows[:_NAMED])
        ended = "".join(f"; {words}" for words in self.in_freed_memory.ended()[-_NAMED:])
        return (f" at {places}" if rows else ", having no breakpoint to stop at") + ended

    @property
    def _internal_numbers(self) -> list[int]:
        return [number for number, _ in self._internal.values()]


def _returned(watchpoint: Breakpoint) -> str:
    return f"the function returns whose {watchpoint.location} it is: the watchpoint is deleted"
