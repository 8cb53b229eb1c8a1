"""The handle on the kernel that a test gets."""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, overload

from ..console import Console, Result, Splat
from ..errors import (
    GuestCommandError,
    KernelPanic,
    KgdbError,
    MachineDied,
    StaleError,
    TimeoutError,
)
from ..machine import Machine
from ..mi import Gdb, GdbError, Record, c_string
from . import _ssh as ssh
from ._breakpoints import Access, Breakpoint, Watchpoint
from ._fail_each import FailEach, Scenario
from ._hidden import Hidden
from ._instruments import DEFAULT, Instruments
from ._kunit import KunitSuite, run_suite
from ._link import Link
from ._locations import MAX_BREAKPOINTS, Locations, NoSuchLocation
from ._modules import Modules
from ._objects import explained, expression_of, object_of, per_cpu
from ._override import Override, When
from ._points import Keeper, restore, snapshot
from ._splats import ExpectedSplat, SplatWatch
from ._spy import Spy
from ._stops import Frame, Reason, Stop, classify, select_frame, trap_name
from ._transfer import get, put
from ._values import Task, Value

if TYPE_CHECKING:
    import drgn

    from ..disk import Disk
    from ..kernel import Kernel
    from ..rsp import Relay
    from ..settings import Forward
    from ..state import State

__all__ = ["Kgdb"]

# How often a wait looks whether QEMU still lives; stops themselves arrive at once.
_LOOK: Final = 0.1

# kernel/panic.c: before the debugger is asked, and after it was let go.
_PANIC: Final = re.compile(rb"(?<!end )Kernel panic - not syncing: ([^\r\n]*)")
_PANIC_END: Final = re.compile(rb"---\[ end Kernel panic - not syncing: ([^\r\n]*?) \]---")
_PANIC_LINES: Final = 14
_PANIC_HINT: Final = (
    "a panic that a test wants is a stop: type() the command, and cont() returns with "
    "reason 'panic'"
)
# Commands of gdb's that are about threads, which are the kernel's tasks.
_THREADS: Final = re.compile(r"\s*(?:info|i)\s+th|\s*t(?:h(?:r\w*)?)?\b")


# What a debug register can watch (Intel SDM volume 3, "Debug Address Registers").
_WATCHABLE: Final = {1: "char", 2: "short", 4: "int", 8: "long"}

# The members of a stop's record that name a watchpoint (gdb manual, "GDB/MI Data Manipulation").
_WATCHPOINTS: Final = ("wpt", "hw-rwpt", "hw-awpt")


@dataclass(frozen=True)
class _Bound:
    """What a handle is bound to."""

    gdb: Gdb
    machine: Machine
    state: State
    relay: Relay
    keeper: Keeper
    link: Link
    locations: Locations
    hidden: Hidden
    instruments: Instruments


class Kgdb:
    """A handle on a live kernel under kgdb: run control, breakpoints, data, the guest's shell."""

    def __init__(self, kernel: Kernel, *, timeout: float, disk: Disk | None = None) -> None:
        self.kernel = kernel
        self._disk = disk
        self.timeout = timeout
        self.modules = Modules(self, kernel)
        """The guest's modules: loaded with their symbols, unloaded, looked up."""
        self._bound: _Bound | None = None
        self._stop: Stop | None = None
        self._breakpoints: dict[int, Breakpoint] = {}
        self._hit_last: dict[int, Breakpoint] = {}
        self._hit_now: list[Breakpoint] = []  # since the last resume
        self._interrupting = False  # asked for, and no stop has come since
        self._resumed_at = 0  # the console's mark at the last resume
        self._moments = 0  # of the machines before this one
        self._watch = SplatWatch()

    # Being bound to a machine

    def bind(
        self, *, gdb: Gdb, machine: Machine, state: State, relay: Relay, keeper: Keeper
    ) -> None:
        """Take up a machine that is stopped and connected (for the session)."""
        link = Link(gdb, moment=self._moments + 1, first_cause=self._first_cause)
        map_file = self.kernel.vmlinux.with_name("System.map")
        hidden = Hidden(link)
        locations = Locations(
            link,
            self.kernel.vmlinux,
            map_file,
            why_not=self.modules.why_not,
            functions=self.modules.functions,
        )
        instruments = Instruments(link, relay, locations)
        self.modules.bind(link, state, hidden, instruments, machine.directory)
        self._bound = _Bound(
            gdb, machine, state, relay, keeper, link, locations, hidden, instruments
        )
        self._interrupting = False
        gdb.listen(self._on_record)
        # A stop that no test is to see may come while it waits for the console.
        machine.console.attend = lambda: self._bound is not None and self.stopped
        gdb.next_stop(self.timeout)
        self.settle("int3")
        self._watch.bind(machine, state, link, self.kernel.debug_source)

    def unbind(self, machine: Machine) -> None:
        """Let go of a machine that is about to end (for the session)."""
        if self._bound is None or self._bound.machine is not machine:
            return
        self._bound.link.moved()
        self.modules.unbind()
        self._moments = self._bound.link.moment
        self._forget_breakpoints()
        self._watch.unbind()
        self._stop = None
        self._bound = None

    def settle(
        self, reason: Reason, *, breakpoint: Breakpoint | None = None, message: str | None = None
    ) -> None:
        """Note that the kernel is stopped at a saved point (for the session)."""
        self._interrupting = False
        self._link.moved()
        self._link.stopped = True
        self._resumed_at = self.console.mark()
        self._stop = Stop(
            self._link,
            reason,
            breakpoint=breakpoint,
            message=message,
            source=self.kernel.debug_source,
        )

    @contextlib.contextmanager
    def replaced(self, reason: Reason, *, keep_breakpoints: bool = False) -> Iterator[None]:
        """Around what puts another state under a running or stopped kernel (for the session).

        gdb is made to believe that the kernel ran and stopped there; so it gives up of its own
        accord whatever it knew.

        :param keep_breakpoints: have them in the other state, too; otherwise they are deleted.
        """
        enabled = [
            str(each.number)
            for each in self._breakpoints.values()
            if keep_breakpoints and each.enabled
        ]
        if keep_breakpoints:
            enabled += self._require().hidden.numbers
        out = f"-break-disable {' '.join(enabled)}" if enabled else ""
        if not keep_breakpoints:
            out = "-break-delete"
        gdb, relay = self._gdb, self._require().relay
        deadline = time.monotonic() + self.timeout
        # What gdb says and what has come to the relay may differ for a moment: a resume, or a
        # stop, is on its way.
        while gdb.running and relay.stopped and time.monotonic() < deadline:
            relay.wait_resumed(0.01)
        if not gdb.running:
            self._link.moved()
            if out:
                gdb.command(out)
            gdb.command("-exec-continue")
            relay.wait_resumed(self.timeout)
        gdb.forget_stops()
        yield
        if gdb.next_stop(self.timeout) is None:
            raise TimeoutError(
                f"gdb did not notice within {self.timeout:g} s that the machine was put back",
                log=gdb.transcript,
            )
        if out:
            gdb.command(out)
        if not keep_breakpoints:
            self._forget_breakpoints()
        self.settle(reason)
        self.modules.put_back(afresh=not keep_breakpoints)
        if enabled:
            self._link.command(f"-break-enable {' '.join(enabled)}")

    def _forget_breakpoints(self) -> None:
        if self._bound is not None:
            self._bound.hidden.forget()
        self._hit_last.clear()
        for each in self._breakpoints.values():
            each.gone()
        self._breakpoints.clear()
        if self._bound is not None:
            self._bound.instruments.end()

    def _require(self) -> _Bound:
        if self._bound is None:
            raise MachineDied(
                "there is no machine under this handle any more",
                hint="the next test gets a new one; a session's handle follows it",
            )
        return self._bound

    @property
    def _gdb(self) -> Gdb:
        return self._require().gdb

    @property
    def _machine(self) -> Machine:
        return self._require().machine

    @property
    def _state(self) -> State:
        return self._require().state

    @property
    def _link(self) -> Link:
        return self._require().link

    @property
    def _locations(self) -> Locations:
        return self._require().locations

    # The moment

    @property
    def stopped(self) -> bool:
        """Whether the kernel is stopped, as far as we have looked."""
        if self._bound is None:
            return False
        if not self._link.stopped and self._gdb.alive:
            self._take_stop(0)
        return self._link.stopped

    @property
    def stop(self) -> Stop | None:
        """The current stop; None while the kernel runs."""
        return self._stop if self.stopped else None

    @property
    def moment(self) -> int:
        """Counts the kernel's moves; equal numbers mean that it has not moved."""
        return self._link.moment if self._bound is not None else self._moments

    # Run control

    def resume(self) -> None:
        """Let the kernel run and return at once.

        :raises KgdbError: it runs already.
        """
        __tracebackhide__ = True
        self._go("-exec-continue")

    def wait(self, timeout: float | None = None) -> Stop:
        """Wait until the kernel stops; return the stop at once if it has.

        :param timeout: seconds; `--kgdb-timeout` otherwise.
        :raises TimeoutError: it ran on; it still does.
        :raises KernelPanic: it panicked past the debugger.
        :raises MachineDied: QEMU is gone.
        """
        __tracebackhide__ = True
        limit = self.timeout if timeout is None else timeout
        deadline = time.monotonic() + limit
        while not self._link.stopped:
            left = deadline - time.monotonic()
            if self._take_stop(max(0.0, min(left, _LOOK))):
                break
            self._check_alive()
            if left <= 0:
                raise TimeoutError(
                    f"the kernel did not stop in {limit:g} s{self._expected()}\n"
                    f"the console's last lines are:\n{self.console.tail()}",
                    log=self.console.log,
                    hint="it runs on: interrupt() stops it where it is",
                )
        assert self._stop is not None
        return self._stop

    def cont(self, timeout: float | None = None) -> Stop:
        """Let the kernel run until it stops; see :meth:`wait` for what it raises."""
        __tracebackhide__ = True
        self.resume()
        return self.wait(timeout)

    def interrupt(self, timeout: float | None = None) -> Stop:
        """Stop the running kernel where it is; a stopped one stays as it is."""
        __tracebackhide__ = True
        if self.stopped:
            return self.wait()
        self._interrupting = True
        self._machine.send_break()
        try:
            return self.wait(timeout)
        except TimeoutError as error:
            raise TimeoutError(
                f"{error.message}\nit did not answer a sysrq on the console: it may spin with "
                f"interrupts off. What its CPUs do:\n{self.on_cpus()}",
                log=error.log,
            ) from error

    def step(self, timeout: float | None = None) -> Stop:
        """Step to another source line, into functions (gdb's `step`)."""
        __tracebackhide__ = True
        return self._step("-exec-step", timeout)

    def next(self, timeout: float | None = None) -> Stop:
        """Step to another source line, over functions (gdb's `next`)."""
        __tracebackhide__ = True
        return self._step("-exec-next", timeout)

    def stepi(self, timeout: float | None = None) -> Stop:
        """Step one instruction (gdb's `stepi`)."""
        __tracebackhide__ = True
        return self._step("-exec-step-instruction", timeout)

    def finish(self, timeout: float | None = None) -> Stop:
        """Run until the selected function returns; the stop has its `return_value`."""
        __tracebackhide__ = True
        return self._step("-exec-finish", timeout)

    def until(self, location: str, timeout: float | None = None) -> Stop:
        """Run until a location, or until the current function returns.

        The location may be in this function or in one that it calls: gdb's `advance`, whose
        `until` knows only the present frame.
        """
        __tracebackhide__ = True
        self._link.require_stopped("until()")
        told = self._locations.resolve(location)
        return self._step(f"-interpreter-exec console {c_string(f'advance {told}')}", timeout)

    def _step(self, command: str, timeout: float | None) -> Stop:
        __tracebackhide__ = True
        self._link.require_stopped("resuming")
        with self._require().hidden.asleep():
            self._go(command)
            return self.wait(timeout)

    def _go(self, command: str) -> None:
        __tracebackhide__ = True
        self._link.require_stopped("resuming")
        before = self._stop
        self._resumed_at = self.console.mark()
        self._hit_now.clear()
        self._link.moved()
        self._stop = None
        try:
            self._link.command(command)
        except GdbError:
            # gdb refused, so nothing moved; what was read was read of this very moment, but it
            # is safer to have it read again.
            self._link.stopped = True
            self._stop = before and Stop(self._link, before.reason, source=self.kernel.debug_source)
            raise

    def _take_stop(self, timeout: float) -> bool:
        """Take note of a stop if there is one; True when the kernel is stopped."""
        deadline = time.monotonic() + timeout
        while True:
            record = self._gdb.next_stop(max(0.0, deadline - time.monotonic()))
            if record is None:
                return False
            if self._note_stop(record["payload"] or {}):
                return True

    def _note_stop(self, payload: dict[str, Any]) -> bool:
        """Make a Stop of gdb's record; False for one that nobody asked for any more."""
        if str(payload.get("reason", "")).startswith("exited"):
            # The relay's word for a closed port; QEMU itself may need a moment more to end.
            raise self._first_cause(MachineDied("QEMU closed kgdb's port"))
        self._link.stopped = True
        hidden = self._require().hidden.at(int(payload.get("bkptno") or 0))
        if hidden is not None:
            if not (hidden() or self._hit_now):
                self._go_on()
                return False
            # At the same place as one of the test's, which gdb then does not name.
            payload["bkptno"] = next((each.number for each in self._hit_now), 0)
        if self._require().instruments.serve_stop(self._frames) and "bkptno" not in payload:
            self._go_on()
            return False
        reason, signal = classify(payload, lambda: self._link.ask("stack_names")["names"])
        if reason == "interrupt" and not self._interrupting:
            # A sysrq that an earlier interrupt() sent, when a breakpoint came first.
            self._go("-exec-continue")
            return False
        self._interrupting = False
        if hidden is None:
            self.modules.stopped(trouble=reason in ("oops", "panic"))
        watched: dict[str, Any] = next((payload[key] for key in _WATCHPOINTS if key in payload), {})
        number = int(payload.get("bkptno") or watched.get("number") or 0)
        breakpoint = self._breakpoints.get(number) or self._hit_last.pop(number, None)
        if breakpoint is not None and payload.get("disp") == "del":
            self._breakpoints.pop(breakpoint.number, None)
            breakpoint.hits = max(breakpoint.hits, 1)
            breakpoint.gone()
        message = None
        if reason in ("oops", "panic"):
            message = self._watch.cause(reason) or trap_name(self._link)
            self._watch.tell()
        self._stop = Stop(
            self._link,
            reason,
            breakpoint=breakpoint,
            signal=signal,
            message=message,
            watched=payload.get("value"),
            result=payload.get("gdb-result-var"),
            source=self.kernel.debug_source,
            level=select_frame(self._link, reason),
        )
        self._require().instruments.check()
        return True

    def _frames(self) -> list[Frame]:
        return Stop(self._link, "int3", source=self.kernel.debug_source).backtrace()

    def _go_on(self) -> None:
        """Resume after a stop that no test sees: what it waits for began before."""
        resumed_at = self._resumed_at
        self._go("-exec-continue")
        self._resumed_at = resumed_at

    def _expected(self) -> str:
        if not self._breakpoints:
            return ", having no breakpoint to stop at"
        shown = ", ".join(
            f"{each.location} ({each.hits} hits)" for each in list(self._breakpoints.values())[:5]
        )
        return f" at {shown}"

    def _check_alive(self) -> None:
        """:raises KgdbError: the kernel, QEMU or gdb is gone, whichever went first."""
        if not self._machine.alive:
            raise self._first_cause(MachineDied("QEMU ended"))
        self._machine.check_storage()
        if not self._gdb.alive:
            self._gdb.next_stop(0)
        said = self.console.since(self._resumed_at)
        if b"end Kernel panic" in said and (found := _PANIC_END.search(said)):
            self._watch.tell()
            raise KernelPanic(
                f"the kernel panicked and halted: {found.group(1).decode('utf-8', 'replace')}\n"
                f"it said:\n{self._last_panic()}",
                log=self.console.log,
                hint=_PANIC_HINT,
            )

    def _first_cause(self, error: KgdbError) -> KgdbError:
        """Return what was behind an error: the kernel's panic before QEMU's end before gdb's."""
        lost = isinstance(error, MachineDied) or "emote" in error.message
        if self._machine.alive and self._gdb.alive and lost:
            # A socket that closed is seen before the process that had it open is gone.
            with contextlib.suppress(KgdbError):
                self._machine.child.wait(0.5)
        if self._machine.alive:
            return error
        if found := _PANIC.search(self.console.since(self._resumed_at)):
            self._watch.tell()
            return KernelPanic(
                f"the kernel panicked ({found.group(1).decode('utf-8', 'replace')}) and QEMU "
                f"ended; it said:\n{self._last_panic()}",
                log=self.console.log,
                hint=_PANIC_HINT,
            )
        return self._machine.death("QEMU ended while a test was using it", started=True)

    def _last_panic(self) -> str:
        """Return the last panic's lines, up to where registers and code are dumped."""
        text = self.console.since()
        begin = max((found.start() for found in _PANIC.finditer(text)), default=len(text))
        lines = text[begin:].decode("utf-8", "replace").splitlines()[:_PANIC_LINES]
        return "\n".join(f"    {line}" for line in lines) or "    (nothing)"

    def on_cpus(self) -> str:
        """Return what each CPU does, as QEMU sees it: for a kernel that does not stop."""
        machine = self._machine
        try:
            machine.pause()
            try:
                return self._state.on_cpus(machine.registers(), self.kernel.debug_source)
            finally:
                machine.resume()
        except KgdbError as error:
            return f"(not to be had: {error.message})"

    # Breakpoints

    def breakpoint(
        self,
        location: str,
        *,
        condition: str | None = None,
        temporary: bool = False,
        hardware: bool = False,
        ignore_count: int = 0,
        pending: bool = False,
    ) -> Breakpoint:
        """Plant a breakpoint.

        :param location: as gdb takes it: a function, `file:line`, `*address`. `printk` means
            the function behind that name on every kernel.
        :param condition: a C expression; the kernel goes on where it is false.
        :param temporary: delete it at its first hit.
        :param hardware: use a debug register; x86 has four.
        :param ignore_count: hits to pass over first.
        :param pending: where there is no such location, wait for a module that has it. For a
            module that is known (`--kgdb-module`, `modules.known()`) this is the default.
        :raises KgdbError: the location does not exist or must not be probed.
        """
        __tracebackhide__ = True
        self._link.require_stopped("breakpoint()")
        if len(self._breakpoints) >= MAX_BREAKPOINTS:
            raise KgdbError(
                f"kgdb holds at most {MAX_BREAKPOINTS} breakpoints "
                "(include/linux/kgdb.h, KGDB_MAX_BREAKPOINTS)",
                hint="delete some",
            )
        words = ["-break-insert"]
        try:
            told = self._locations.resolve(location)
        except NoSuchLocation:
            if not pending and not self.modules.expects(location):
                raise
            self.modules.watch()
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
            self,
            int(planted["number"]),
            location,
            int(address, 16) if address.startswith("0x") else None,
        )
        made._condition = condition
        self._breakpoints[made.number] = made
        self.modules.guard()
        return made

    def watchpoint(self, expression: str, *, access: Access = "write") -> Watchpoint:
        """Stop the kernel when the memory behind an expression is written, or read.

        :param expression: an lvalue of at most 8 bytes.
        :param access: `write`, `read`, or `access` for either.
        """
        __tracebackhide__ = True
        self._link.require_stopped("watchpoint()")
        commands = {"write": "watch", "read": "rwatch", "access": "awatch"}
        if access not in commands:
            raise KgdbError(
                f"a watchpoint has no access '{access}'", hint=f"it has {', '.join(commands)}"
            )
        # By its address: one by its name would end with the frame, and step instead of watch
        # where a register is part of it.
        address, size = self.numbers(f"(unsigned long)&({expression})", f"sizeof({expression})")
        if size not in _WATCHABLE:
            raise KgdbError(
                f"{expression} has {size} bytes; a watchpoint has "
                f"{', '.join(map(str, _WATCHABLE))}",
                hint="watch a member of it",
            )
        told = self._link.console(f"{commands[access]} *({_WATCHABLE[size]} *){address:#x}")
        found = re.match(r"Hardware (?:read |access \(read/write\) )?watchpoint (\d+):", told)
        if found is None:
            raise KgdbError(f"gdb made no watchpoint of {expression}: {told.strip()}")
        number = int(found[1])
        made = Watchpoint(self, number, expression, access)
        self._breakpoints[number] = made
        return made

    # Named points

    def snapshot(self, name: str) -> None:
        """Keep the whole machine, memory and disk, under a name, until the test ends.

        A running kernel is stopped for it, and goes on. One of the same name is replaced.

        :raises KgdbError: QEMU could not save it.
        """
        __tracebackhide__ = True
        snapshot(self, self._require().keeper, name)

    def restore(self, name: str) -> None:
        """Make the machine what it was at :meth:`snapshot`, stopped at the same stop.

        Whatever the kernel does now. Breakpoints are as they are now, not as they were then.

        :raises KgdbError: there is no such snapshot, or QEMU could not load it.
        """
        __tracebackhide__ = True
        with self._watch.put_back():
            restore(self._require().keeper, name)

    def breakpoint_command(self, command: str, breakpoint: Breakpoint, argument: str = "") -> None:
        """Tell gdb something about a breakpoint (for :class:`Breakpoint`)."""
        self._link.require_stopped("changing a breakpoint")
        words = f"{command} {breakpoint.number}"
        self._link.command(f"{words} {c_string(argument)}" if argument else words)

    def delete_breakpoint(self, breakpoint: Breakpoint) -> None:
        """Delete a breakpoint (for :meth:`Breakpoint.delete`)."""
        self._breakpoints.pop(breakpoint.number, None)
        if self._bound is None or not self._gdb.alive or not self._machine.alive:
            return
        was_running = not self.stopped
        if was_running:
            self.interrupt()
        with contextlib.suppress(GdbError):
            self._link.command(f"-break-delete {breakpoint.number}")
        if was_running:
            self.resume()

    def delete_breakpoints(self) -> None:
        """Delete all breakpoints and watchpoints, and end all instruments."""
        self._forget_breakpoints()
        self._link.command("-break-delete")

    def _on_record(self, record: Record) -> None:
        """Follow gdb's news of breakpoints (in gdb's reading thread)."""
        payload = record["payload"] or {}
        if record["message"] == "breakpoint-modified":
            changed = payload.get("bkpt", {})
            known = self._breakpoints.get(_number(changed.get("number", "")))
            if known is not None:
                hits = int(changed.get("times", known.hits))
                if hits > known.hits:
                    self._hit_now.append(known)
                known.hits = hits
                known.moved(str(changed.get("addr", "")))
        elif record["message"] == "breakpoint-deleted":
            number = _number(payload.get("id", ""))
            if self._bound is not None:
                self._bound.hidden.deleted(number)
            known = self._breakpoints.pop(number, None)
            if known is not None:
                known.gone()
                self._hit_last[known.number] = known  # its stop is told after its end

    # Instruments

    def spy(
        self,
        function: str,
        collect: Sequence[str] = (),
        *,
        returns: bool = False,
        keep: int = 10_000,
    ) -> Spy:
        """Count and record every call of a function; the kernel is not seen to stop.

        :param collect: C expressions, read at the function's entry at each call; the arguments
            are recorded anyway.
        :param returns: record what the calls return, at the price of a second trap for each.
        :param keep: calls of which more than their number is kept: the newest.
        :raises KgdbError: there is no such function, gcc inlined it everywhere, it must not be
            probed, or an expression cannot be read at its entry.
        """
        __tracebackhide__ = True
        made = self._require().instruments.spy(function, collect, returns=returns, keep=keep)
        self.modules.guard()
        return made

    def override(
        self,
        function: str,
        returns: object,
        *,
        times: int | None = None,
        when: str | When | None = None,
        skip: int = 0,
    ) -> Override:
        """Have a function return at once with a value; the kernel is not seen to stop.

        :param returns: a number; a C expression; `"-ENOMEM"`, for functions that return pointers,
            too; None for a void function.
        :param times: calls that are forced at the most; all otherwise.
        :param when: a C condition on the arguments, or a function that is asked with the
            :class:`Call`: other calls are let through.
        :param skip: of the calls for which `when` holds, so many are let through first.
        :raises KgdbError: there is no such function, gcc inlined it everywhere, it must not be
            probed, or its type cannot hold the value.
        """
        __tracebackhide__ = True
        made = self._require().instruments.override(
            function, returns, times=times, when=when, skip=skip
        )
        self.modules.guard()
        return made

    def fail_each(
        self,
        function: str,
        scenario: Scenario,
        returns: object = DEFAULT,
        *,
        when: str | When | None = None,
        limit: int = 100,
    ) -> FailEach:
        """Run a scenario once for each call of a function that it makes, with that call failing.

        Each run begins with the kernel as it is now, and it is so again at the end.

        :param scenario: a command for the guest's shell, or a function that is called with this
            handle. What it cannot do is an error handled; what it asserts must hold.
        :param returns: how the function fails, as for :meth:`override`; -ENOMEM, or NULL, by its
            type otherwise.
        :param when: which calls are meant, as for :meth:`override`.
        :param limit: calls that are tried at the most.
        :raises KgdbError: the scenario does not pass by itself, or never calls the function.
        """
        __tracebackhide__ = True
        return self._require().instruments.fail_each(
            self, self._require().keeper.kept, function, scenario, returns, when=when, limit=limit
        )

    # Data

    def evaluate(self, expression: str | drgn.Object) -> Value:
        """Evaluate a C expression in the selected frame.

        :param expression: or an object of drgn's, to have it as gdb's value.
        :raises KgdbError: gdb cannot; the message is its own.
        """
        __tracebackhide__ = True
        self._link.require_stopped("evaluate()")
        told = expression if isinstance(expression, str) else expression_of(expression)
        try:
            return Value(self._link, self._link.ask("evaluate", expression=told), told)
        except GdbError as error:
            raise explained(error) from None

    def drgn_object(self, value: Value) -> drgn.Object:
        """Return drgn's object for a value of gdb's.

        :raises KgdbError: it is nowhere in memory and no number.
        """
        __tracebackhide__ = True
        return object_of(self.program, value)

    def per_cpu(self, variable: str, cpu: int | None = None) -> Value:
        """Return a CPU's own copy of a per-CPU variable; of the CPU that stopped by default.

        :raises KgdbError: there is no such variable or CPU.
        """
        __tracebackhide__ = True
        self._link.require_stopped("per_cpu()")
        return per_cpu(self._link, variable, self.wait().cpu if cpu is None else cpu)

    @property
    def current(self) -> Task:
        """The task on the CPU that stopped, the kernel's `current`."""
        self._link.require_stopped("current")
        return self.wait().task

    def numbers(self, *expressions: str) -> list[int]:
        """Evaluate several expressions at once (for the session)."""
        answer = self._link.ask("numbers", expressions=expressions)
        return [int(number) for number in answer["numbers"]]

    def assign(self, expression: str, value: object) -> None:
        """Assign to a variable, a member, a register (`$rax`).

        :param value: a number, or a C expression.
        """
        __tracebackhide__ = True
        self._link.require_stopped("assign()")
        told = int(value) if isinstance(value, bool | Value) else value
        self._link.command(f"-gdb-set var {expression} = {told}")
        self._wrote()

    def read(self, address: int, size: int) -> bytes:
        """Read the kernel's virtual memory.

        :raises KgdbError: not all of it is mapped.
        """
        __tracebackhide__ = True
        self._link.require_stopped("read()", StaleError)
        return self._state.read(int(address), int(size))

    def write(self, address: int, data: bytes) -> None:
        """Write to the kernel's virtual memory.

        :raises KgdbError: it is not mapped.
        """
        __tracebackhide__ = True
        self._link.require_stopped("write()")
        # Through kgdb, not into guest memory: QEMU must learn of changed instructions.
        step = 512
        for start in range(0, len(data), step):
            piece = bytes(data[start : start + step])
            self._link.command(f"-data-write-memory-bytes {int(address) + start:#x} {piece.hex()}")
        self._wrote()

    def _wrote(self) -> None:
        """What was read before a write is not what is there now."""
        self._link.writes += 1
        self._state.invalidate()

    def execute(self, gdb_command: str) -> str:
        """Run a command as typed at gdb's prompt; return what it printed.

        A command that lets the kernel move (`continue`, `stepi`) is followed: it returns at the
        next stop.
        """
        __tracebackhide__ = True
        self._link.require_stopped("execute()")
        asks_threads = _THREADS.match(gdb_command) is not None
        if asks_threads:
            self.show_all_threads(True)
        try:
            text = self._link.console(gdb_command)
        finally:
            if asks_threads:
                self.show_all_threads(False)
        if self._gdb.running:
            self._link.moved()
            self._stop = None
            self.wait()
        elif self._gdb.has_stops:
            self._link.moved()
            self._stop = None
            self._take_stop(0)
        else:
            self._wrote()  # it may have been `set var`
        return text

    def show_all_threads(self, value: bool) -> None:
        """Let gdb list every task, which takes kgdb a while; otherwise the one that stopped."""
        self._require().relay.all_threads = value

    @property
    def program(self) -> drgn.Program:
        """The stopped kernel as a drgn program."""
        self._link.require_stopped("program", StaleError)
        return self._state.program

    @property
    def physical(self) -> Any:
        """The guest's physical memory: `read`, `write`, `find`."""
        self._link.require_stopped("physical", StaleError)
        return self._state.physical

    def stack_trace(self, task: drgn.Object | int) -> drgn.StackTrace:
        """Return the stack of any task, asleep or stopped on its CPU.

        :param task: a pid, or a `struct task_struct *` of drgn's.
        :raises KgdbError: there is no such task.
        """
        __tracebackhide__ = True
        self._link.require_stopped("stack_trace()", StaleError)
        return self._state.stack_trace(task)

    def read_user(self, task: drgn.Object | int, address: int, size: int) -> bytes:
        """Read a process's memory.

        :param task: a pid, or a `struct task_struct *` or `struct mm_struct *` of drgn's.
        :raises KgdbError: not all of it is in memory.
        """
        __tracebackhide__ = True
        self._link.require_stopped("read_user()", StaleError)
        return self._state.read_user(task, int(address), int(size))

    def dmesg(self) -> str:
        """Return the kernel's log buffer, as dmesg(1) shows it."""
        __tracebackhide__ = True
        self._link.require_stopped("dmesg()", StaleError)
        return self._state.dmesg()

    # What the kernel says of itself

    @property
    def watch(self) -> SplatWatch:
        """What judges the test's splats (for the session)."""
        return self._watch

    @property
    def splats(self) -> list[Splat]:
        """What the kernel reported about itself since the test began: a WARN, an oops, …"""
        return self._watch.splats

    def expect_splat(
        self,
        pattern: str | re.Pattern[str],
        kind: str | None = None,
        *,
        timeout: float | None = None,
    ) -> ExpectedSplat:
        """Have a splat not fail the test, and its absence do so.

        :param pattern: a regular expression, searched for in the splat's text.
        :param kind: one of the kinds of splat: `"WARN"`, `"KASAN"`, ….
        :param timeout: how long the end of the `with` waits for it while the kernel runs.
        """
        __tracebackhide__ = True
        limit = self.timeout if timeout is None else timeout
        made = self._watch.expect(pattern, kind)
        return made.waiting(limit, lambda: not self.stopped and self._machine.alive)

    def kunit(
        self, suite: str, *, module: str | None = None, timeout: float | None = None
    ) -> KunitSuite:
        """Run a KUnit suite in the guest, or take its results from the boot if it is built in.

        :param module: the module that has it, by its name or as a path in the guest; found by
            the suite's name among the kernel's own modules otherwise.
        :raises KgdbError: there is no such suite.
        """
        __tracebackhide__ = True
        return run_suite(self, suite, module, timeout)

    # The guest

    @property
    def console(self) -> Console:
        """The guest's console, with pexpect's spawn interface."""
        return self._machine.console

    def type(self, command: str) -> None:
        """Type a command into the console's shell and wait for nothing.

        While the kernel is stopped the bytes wait in the serial port; the shell reads them once
        the kernel runs.
        """
        self.console.sendline(command)

    def run(self, command: str, timeout: float | None = None) -> Result:
        """Run a command in the guest's shell.

        A stopped kernel runs for it and is stopped again afterwards.

        :raises GuestCommandError: the kernel stopped, at a breakpoint say, before the end.
        :raises KernelPanic: the command made the kernel panic.
        :raises TimeoutError: it did not end in time.
        """
        __tracebackhide__ = True
        return self.run_until(command, lambda: None, timeout)

    def run_until(
        self, command: str, check: Callable[[], None], timeout: float | None = None
    ) -> Result:
        """Run a command until it ends or `check` raises (for the modules)."""
        __tracebackhide__ = True
        limit = self.timeout if timeout is None else timeout

        def meanwhile() -> None:
            check()
            self._check_running(command)

        return self._while_running(
            lambda: self.console.run(command, timeout=limit, meanwhile=meanwhile)
        )

    def _while_running(self, work: Callable[[], Result]) -> Result:
        """Do something in a running kernel; one that was stopped is stopped again afterwards."""
        __tracebackhide__ = True
        was_stopped = self.stopped
        if was_stopped:
            self.resume()
        try:
            result = work()
        except TimeoutError:
            if was_stopped:
                with contextlib.suppress(KgdbError):
                    self.interrupt()
            raise
        except MachineDied as error:
            if (cause := self._first_cause(error)) is error:
                raise
            raise cause from error
        if was_stopped:
            self.interrupt()
        return result

    @overload
    def ssh(self, command: None = None, timeout: float | None = None) -> list[str]: ...

    @overload
    def ssh(self, command: str, timeout: float | None = None) -> Result: ...

    def ssh(self, command: str | None = None, timeout: float | None = None) -> Result | list[str]:
        """Run a command in the guest as root, by the host's ssh.

        A stopped kernel runs for it, as for :meth:`run`. Without a command: the command line that
        logs in, for a program of one's own; the kernel must run meanwhile.

        :raises ConfigError: no port leads to the guest's ssh, or there is no key for it.
        :raises GuestCommandError: the command was not run, or the kernel stopped before its end.
        """
        __tracebackhide__ = True
        argv = ssh.command_line(self._machine, self._disk)
        if command is None:
            return argv
        limit = self.timeout if timeout is None else timeout
        return self._while_running(
            lambda: ssh.run(
                argv, command, timeout=limit, meanwhile=lambda: self._check_running(command)
            )
        )

    @property
    def forwards(self) -> tuple[Forward, ...]:
        """The host's ports that lead to the guest: `proto`, `host`, `guest`."""
        return self._machine.forwards

    def put(self, local: Path | str, remote: str, *, timeout: float | None = None) -> None:
        """Copy a file or a directory from the host into the guest, as `cp -r` does.

        Modes are kept; what is copied is root's. A stopped kernel runs for it, as for `run()`.

        :param remote: a path in the guest; into it, where it is a directory.
        :param timeout: seconds for all of it.
        :raises ConfigError: the host has no such file.
        :raises GuestCommandError: the guest could not write it; the message is its own.
        """
        __tracebackhide__ = True
        put(self, Path(local), remote, self.timeout if timeout is None else timeout)

    def get(self, remote: str, local: Path | str, *, timeout: float | None = None) -> Path:
        """Copy a file or a directory from the guest to the host; return where it is.

        :param local: a path on the host; into it, where it is a directory.
        :param timeout: seconds for all of it.
        :raises ConfigError: there is no place for it on the host.
        :raises GuestCommandError: the guest could not read it; the message is its own.
        """
        __tracebackhide__ = True
        return get(self, remote, Path(local), self.timeout if timeout is None else timeout)

    def _check_running(self, command: str) -> None:
        if self.stopped:
            stop = self._stop
            assert stop is not None
            if stop.reason == "oops" and self._watch.wants_oops():
                self.resume()  # the kernel kills the task, and the command ends
                return
            if stop.reason == "panic":
                raise KernelPanic(
                    f"the kernel panicked during {command!r}: {stop.message or repr(stop)}\n"
                    f"it said:\n{self._last_panic()}",
                    log=self.console.log,
                    hint=_PANIC_HINT,
                )
            raise GuestCommandError(
                f"{command!r} did not end: the kernel stopped meanwhile, {stop!r}",
                log=self.console.log,
                hint="type() the command and cont() to the breakpoint, or disable the breakpoint",
            )
        self._check_alive()

    def __repr__(self) -> str:
        if self._bound is None:
            return f"<Kgdb {self.kernel.release}: no machine>"
        where = repr(self._stop) if self._link.stopped else "running"
        return f"<Kgdb {self.kernel.release}: {where}>"


def _number(text: object) -> int:
    """Return a breakpoint's number; 0 for one of its locations (`3.1`)."""
    return int(text) if isinstance(text, str) and text.isdigit() else 0
