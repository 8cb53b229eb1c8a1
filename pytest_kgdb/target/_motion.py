"""The kernel's going on and stopping: lets it go, and makes a Stop of what gdb says."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from ..errors import MachineDied, TimeoutError
from ._link import GdbError, Link
from ._stops import Frame, Reason, Stop, classify, select_frame, trap_name

if TYPE_CHECKING:
    from ..machine import Machine
    from ..mi import Gdb
    from ..rsp import Relay
    from ._breakpoints import Breakpoint
    from ._causes import Causes
    from ._hidden import Hidden
    from ._instruments import Instruments
    from ._modules import Modules
    from ._planting import Planting
    from ._splats import SplatWatch

__all__ = ["Motion"]

# How often a wait looks whether QEMU still lives; stops themselves arrive at once.
_LOOK: Final = 0.1

_CONTINUE: Final = "-exec-continue"  # the others are steps, of one task


class Motion:
    """Moves one machine's kernel.

    :param source: where the kernel's source is now; where its debug info says otherwise.
    """

    def __init__(
        self,
        gdb: Gdb,
        machine: Machine,
        link: Link,
        relay: Relay,
        *,
        causes: Causes,
        planting: Planting,
        hidden: Hidden,
        instruments: Instruments,
        modules: Modules,
        watch: SplatWatch,
        source: Path | None,
    ) -> None:
        self._gdb = gdb
        self._machine = machine
        self._link = link
        self._relay = relay
        self._causes = causes
        self._planting = planting
        self._hidden = hidden
        self._instruments = instruments
        self._modules = modules
        self._watch = watch
        self._source = source
        self._interrupting = False  # asked for, and no stop has come since
        self.stop: Stop | None = None
        """The last stop; None since the kernel went on."""

    # Stopping

    def look(self) -> bool:
        """Whether the kernel is stopped; a stop that has come is taken note of."""
        if not self._link.stopped and self._gdb.alive:
            self.take_stop(0)
        return self._link.stopped

    def wait(self, limit: float) -> Stop:
        """Wait until the kernel stops, for `limit` seconds; see :meth:`Kgdb.wait`."""
        __tracebackhide__ = True
        deadline = time.monotonic() + limit
        while not self._link.stopped:
            left = deadline - time.monotonic()
            if self.take_stop(max(0.0, min(left, _LOOK))):
                break
            self._causes.check_alive()
            if left <= 0:
                console = self._machine.console
                raise TimeoutError(
                    f"the kernel did not stop in {limit:g} s{self._planting.expected()}\n"
                    f"the console's last lines are:\n{console.tail()}",
                    log=console.log,
                    hint="it runs on: interrupt() stops it where it is",
                )
        assert self.stop is not None
        return self.stop

    def interrupt(self, limit: float) -> Stop:
        """Stop the running kernel where it is; see :meth:`Kgdb.interrupt`."""
        __tracebackhide__ = True
        self._interrupting = True
        self._machine.interrupt()
        try:
            return self.wait(limit)
        except TimeoutError as error:
            raise TimeoutError(
                f"{error.message}\nit did not answer a sysrq on the console: it may spin with "
                f"interrupts off. What its CPUs do:\n{self._causes.on_cpus()}",
                log=error.log,
                hint="restore() brings it back, and the next test has a pristine kernel; a sysrq "
                "needs CONFIG_MAGIC_SYSRQ_SERIAL and interrupts",
            ) from error

    def settle(
        self, reason: Reason, *, breakpoint: Breakpoint | None = None, message: str | None = None
    ) -> None:
        """Note that the kernel is stopped at a saved point."""
        self._interrupting = False
        self._link.moved()
        self._link.stopped = True
        self._causes.since = self._machine.console.mark()
        self.stop = Stop(
            self._link, reason, breakpoint=breakpoint, message=message, source=self._source
        )

    # Going on

    def step(self, command: str, limit: float) -> Stop:
        """Have gdb resume for a step, and wait for its end."""
        __tracebackhide__ = True
        self._link.require_stopped("resuming")
        with self._hidden.asleep():
            self.go(command)
            return self.wait(limit)

    def go(self, command: str) -> None:
        """Have gdb resume, by that command.

        :raises KgdbError: the kernel runs already.
        """
        __tracebackhide__ = True
        self._link.require_stopped("resuming")
        before = self.stop
        self._causes.since = self._machine.console.mark()
        self._planting.hit_now.clear()
        self._link.moved()
        self.stop = None
        self._relay.set_stepping(command != _CONTINUE)
        try:
            self._link.command(command)
        except GdbError:
            # gdb refused, so nothing moved; what was read was read of this very moment, but it
            # is safer to have it read again.
            self._link.stopped = True
            self.stop = before and Stop(self._link, before.reason, source=self._source)
            raise

    def _go_on(self) -> None:
        """Resume after a stop that no test sees: what it waits for began before."""
        since = self._causes.since
        self.go(_CONTINUE)
        self._causes.since = since

    def follow(self, limit: float) -> bool:
        """Take note of whether the kernel moved by something else that gdb did."""
        if self._gdb.running:
            self._link.moved()
            self.stop = None
            self.wait(limit)
            return True
        if self._gdb.has_stops:
            self._link.moved()
            self.stop = None
            self.take_stop(0)
            return True
        return False

    # What gdb says of a stop

    def take_stop(self, timeout: float) -> bool:
        """Take note of a stop if there is one; True when the kernel is stopped."""
        deadline = time.monotonic() + timeout
        while True:
            record = self._gdb.next_stop(max(0.0, deadline - time.monotonic()))
            if record is None:
                return False
            if self._note(record["payload"] or {}):
                return True

    def _note(self, payload: dict[str, Any]) -> bool:
        """Make a Stop of gdb's record; False for one that nobody asked for any more."""
        if str(payload.get("reason", "")).startswith("exited"):
            # The relay's word for a closed port; QEMU itself may need a moment more to end.
            raise self._causes.first(MachineDied("QEMU closed kgdb's port"))
        self._link.stopped = True
        hidden = self._hidden.at(int(payload.get("bkptno") or 0))
        if hidden is not None:
            hit_now = self._planting.hit_now
            if not (hidden() or hit_now):
                self._go_on()
                return False
            # At the same place as one of the test's, which gdb then does not name.
            payload["bkptno"] = next((each.number for each in hit_now), 0)
        if self._instruments.serve_stop(self._frames) and "bkptno" not in payload:
            self._go_on()
            return False
        reason, signal = classify(payload, lambda: self._link.ask("stack_names")["names"])
        if reason == "interrupt" and not self._interrupting:
            # A sysrq that an earlier interrupt() sent, when a breakpoint came first.
            self.go(_CONTINUE)
            return False
        self._interrupting = False
        if hidden is None:
            self._modules.stopped(trouble=reason in ("oops", "panic"))
        breakpoint = self._planting.hit(payload)
        message = None
        if reason in ("oops", "panic"):
            message = self._watch.cause(reason) or trap_name(self._link)
            self._watch.tell()
        self.stop = Stop(
            self._link,
            reason,
            breakpoint=breakpoint,
            signal=signal,
            message=message,
            watched=payload.get("value"),
            result=payload.get("gdb-result-var"),
            source=self._source,
            level=select_frame(self._link, reason),
        )
        self._instruments.check()
        return True

    def _frames(self) -> list[Frame]:
        return Stop(self._link, "int3", source=self._source).backtrace()
