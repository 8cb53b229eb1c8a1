"""The guest's shell on its serial console."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Final, Protocol

from ..console import Console, PrintedLog, Result, ShellReadiness, as_typed
from ..deadline import Deadline, WaitLimit
from ..debugger import FirstCause, GdbError, RunControl
from ..errors import GuestCommandError, KgdbError, MachineDied, TimeoutError

__all__ = ["IdleWait", "OopsPolicy", "Shell"]

# How long a kernel may take to stop after a wait that ran out, which is then still reported within
# five seconds, in seconds.
_STOP_SECONDS: Final = 2.5


class IdleWait(Protocol):
    """Waits until a guest has nothing to do but to wait for input."""

    def wait(self, ended: Callable[[], bool]) -> None:
        """Wait for that, until something has ended it, or the guest computes for too long."""


class OopsPolicy(Protocol):
    """Says which oopses a test wants."""

    def wants_oops(self) -> bool:
        """Whether the oops at which the kernel is stopped is one that the test expects."""


class Shell:
    """Runs commands in the guest's shell; a stopped kernel runs for them.

    :param oopses: lets a command go on after an oops that the test expects.
    :param printed: knows what the kernel prints on the console; None where nobody does.
    :param ready: knows whether there is a shell; None where there always is.
    :param idle: waits until the running kernel has nothing to do; None where that is not known.
    """

    def __init__(
        self,
        run_control: RunControl,
        console: Console,
        *,
        causes: FirstCause,
        oopses: OopsPolicy,
        waits: WaitLimit,
        printed: PrintedLog | None = None,
        ready: ShellReadiness | None = None,
        idle: IdleWait | None = None,
    ) -> None:
        self._printed = printed
        self._idle = idle
        self._ready = ready
        self._run_control = run_control
        self.console = console
        """The guest's console."""
        self._causes = causes
        self._oopses = oopses
        self._waits = waits

    def run(
        self,
        command: str,
        timeout: float | None = None,
        *,
        check: Callable[[], None] = lambda: None,
        own: bool = False,
        hint: str = "a larger timeout= for run(), if it only needs longer",
    ) -> Result:
        """Run a command; a kernel that was stopped is stopped again afterwards.

        One that is booting still boots until there is a shell.

        :param timeout: seconds; the limit of the running test otherwise.
        :param check: is called while the command runs; may raise to end the wait.
        :param own: whether it is none of a test's, so that its output is shown to nobody.
        :param hint: what can be done if there was not enough time.
        :raises ConfigError: there is a NUL in it, or what is no text.
        :raises GuestCommandError: the kernel stopped, at a breakpoint say, before the end; or the
            shell ended.
        :raises KernelPanic: the command made the kernel panic.
        :raises TimeoutError: it did not end in time.
        """
        __tracebackhide__ = True
        limit = self._waits.of(timeout)
        as_typed(command)  # raises here, where nothing has been resumed yet

        def meanwhile() -> None:
            check()
            self.check_running(command)

        def work() -> Result:
            deadline = Deadline(limit)
            if self._ready is not None and not self._ready.is_there:
                self._ready.wait(limit, meanwhile)
            return self.console.run(
                command,
                deadline=deadline,
                meanwhile=meanwhile,
                printed=self._printed,
                own=own,
                hint=hint,
            )

        return self.while_running(work)

    def while_running(self, work: Callable[[], Result]) -> Result:
        """Do something in a running kernel; one that was stopped is stopped again afterwards."""
        __tracebackhide__ = True
        control = self._run_control
        # A stop that has come since, and that nobody has been told of, ends the work.
        was_stopped = control.is_known_stopped
        if was_stopped:
            control.resume()
        try:
            result = work()
        except TimeoutError as error:
            # Before the interrupt, whose own stack would be there otherwise.
            explained = self._explained(error)
            if was_stopped and control.hears_interrupts:
                try:
                    control.interrupt(_STOP_SECONDS)
                except TimeoutError as unheard:  # kgdb is deaf to it, and nobody could tell before
                    explained.hint = unheard.hint
                except KgdbError:
                    pass
            raise explained from error
        except GuestCommandError:
            # Of the console; at a stop, which ends the work, too, the kernel is not resumed.
            if was_stopped and not control.is_known_stopped:
                with contextlib.suppress(KgdbError):
                    control.interrupt(_STOP_SECONDS)
            raise
        except MachineDied as error:
            if (cause := self._causes.first(error)) is error:
                raise
            raise cause from error
        if was_stopped:
            # When the tag behind a command arrives, the shell is still to write its last byte, and
            # to read the next command. Where it is stopped then would be a matter of luck, and so
            # would be whether that read is seen.
            if self._idle is not None:
                self._idle.wait(lambda: control.stopped)
            control.interrupt()
        return result

    def _explained(self, error: TimeoutError) -> TimeoutError:
        """Return the error with what the kernel does instead."""
        if self._run_control.is_known_stopped:
            return error
        return self._run_control.explain(error)

    def check_running(self, command: str) -> None:
        """Check that the kernel still runs a command.

        :raises GuestCommandError: it has stopped.
        :raises KernelPanic: it has panicked.
        :raises KgdbError: QEMU or gdb is gone.
        """
        control = self._run_control
        if not control.stopped:
            self._causes.check_alive()
            return
        control.check_refused()
        stop = control.stop
        assert stop is not None
        if stop.reason == "oops" and self._oopses.wants_oops():
            control.resume()  # the kernel kills the task, and the command ends
            return
        if stop.reason == "panic":
            raise self._causes.panicked(
                f"the kernel panicked during {command!r}: {stop.message or stop!r}\nit said"
            )
        hint = "type() the command and cont() to the breakpoint, or disable the breakpoint"
        if stop.reason == "oops":
            hint = (
                "kgdb.stop is where: backtrace(), registers; an oops that a test wants: "
                "with kgdb.expect_splat(PATTERN): …"
            )
        raise GuestCommandError(
            f"{command!r} did not end: the kernel stopped meanwhile, {stop!r}",
            log=self.console.log,
            hint=hint,
            # A condition names what this kernel does not have: it says nothing of the kernel.
            by_test=stop.reason == "breakpoint" and GdbError(stop.message or "").by_test,
        )
