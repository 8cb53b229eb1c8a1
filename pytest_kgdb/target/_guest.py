"""The handle's chapter of the guest: its console, its shell, its files."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import TYPE_CHECKING, overload

from ..errors import GuestCommandError, KgdbError, MachineDied, TimeoutError
from . import _ssh as ssh
from ._run_control import RunControl

if TYPE_CHECKING:
    from ..console import Console, Result
    from ..settings import Forward

__all__ = ["Guest"]


class Guest(RunControl):
    """Has the guest do something, as whoever sits at its console."""

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
        limit = self._limit(timeout)

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
            if (cause := self._require().causes.first(error)) is error:
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
        limit = self._limit(timeout)
        return self._while_running(
            lambda: ssh.run(
                argv, command, timeout=limit, meanwhile=lambda: self._check_running(command)
            )
        )

    @property
    def forwards(self) -> tuple[Forward, ...]:
        """The host's ports that lead to the guest: `proto`, `host`, `guest`."""
        return self._machine.forwards

    def _check_running(self, command: str) -> None:
        if self.stopped:
            stop = self._require().motion.stop
            assert stop is not None
            if stop.reason == "oops" and self._watch.wants_oops():
                self.resume()  # the kernel kills the task, and the command ends
                return
            if stop.reason == "panic":
                raise self._require().causes.panicked(
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
            )
        self._require().causes.check_alive()
