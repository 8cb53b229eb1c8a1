"""The handle's chapter of the guest: its console, its shell, its files, its modules."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, overload

from ..actions import recorded
from ..guest import run_ssh, ssh_command_line
from ._base import Base

if TYPE_CHECKING:
    from ..console import Console, Result
    from ..modules import Modules
    from ..settings import Forward

__all__ = ["Talking"]


@recorded(
    "type",
    "run",
    "ssh",
    "put",
    "get",
)
class Talking(Base):
    """Talks to the guest, as whoever sits at its console."""

    @property
    def console(self) -> Console:
        """The guest's console, with pexpect's spawn interface."""
        return self._slot.require().machine.console

    @property
    def modules(self) -> Modules:
        """The guest's modules: loaded with their symbols, unloaded, looked up."""
        return self._slot.require().modules

    def type(self, command: str) -> None:
        """Type a command into the console's shell and wait for nothing.

        While the kernel is stopped the bytes wait; the shell reads them once it runs, as it does
        after a :meth:`restore` of a snapshot made in between. Those for a kernel that is booting
        still wait until it has opened the console.
        """
        self.console.sendline(command)

    def run(self, command: str, timeout: float | None = None) -> Result:
        """Run a command in the guest's shell.

        A stopped kernel runs for it and is stopped again afterwards. One that is booting still
        boots until there is a shell.

        :param timeout: seconds; the marker's or `--kgdb-timeout` otherwise.
        :raises ConfigError: there is a NUL in it, or what is no text.
        :raises GuestCommandError: the kernel stopped, at a breakpoint say, before the end.
        :raises KernelPanic: the command made the kernel panic.
        :raises TimeoutError: it did not end in time.
        """
        __tracebackhide__ = True
        return self._slot.require().shell.run(command, timeout)

    @overload
    def ssh(self, command: None = None, timeout: float | None = None) -> list[str]: ...

    @overload
    def ssh(self, command: str, timeout: float | None = None) -> Result: ...

    def ssh(self, command: str | None = None, timeout: float | None = None) -> Result | list[str]:
        """Run a command in the guest as root, by the host's ssh.

        A stopped kernel runs for it, as for :meth:`run`. Without a command: the command line that
        logs in, for a program of one's own; the kernel must run meanwhile.

        :param timeout: seconds; the marker's or `--kgdb-timeout` otherwise.
        :raises ConfigError: no port leads to the guest's ssh, or there is no key for it.
        :raises GuestCommandError: the command was not run, or the kernel stopped before its end.
        """
        __tracebackhide__ = True
        attachment = self._slot.require()
        machine, shell = attachment.machine, attachment.shell
        argv = ssh_command_line(machine.forwards, machine.directory, self._slot.disk)
        if command is None:
            return argv
        limit = self._slot.waits.of(timeout)
        return shell.while_running(
            lambda: run_ssh(
                argv, command, timeout=limit, meanwhile=lambda: shell.check_running(command)
            )
        )

    @property
    def forwards(self) -> tuple[Forward, ...]:
        """The host's ports that lead to the guest: `proto`, `host`, `guest`."""
        return self._slot.require().machine.forwards

    def put(self, local: Path | str, remote: str, *, timeout: float | None = None) -> None:
        """Copy a file or a directory from the host into the guest, as `cp -r` does.

        Modes are kept; what is copied is root's. A stopped kernel runs for it, as for `run()`.

        :param remote: a path in the guest; into it, where it is a directory.
        :param timeout: seconds for all of it; the marker's or `--kgdb-timeout` otherwise.
        :raises ConfigError: the host has no such file, or cannot read it.
        :raises GuestCommandError: the guest could not write it; the message is its own.
        """
        __tracebackhide__ = True
        self._slot.require().files.put(Path(local), remote, timeout)

    def get(self, remote: str, local: Path | str, *, timeout: float | None = None) -> Path:
        """Copy a file or a directory from the guest to the host; return where it is.

        :param local: a path on the host; into it, where it is a directory.
        :param timeout: seconds for all of it; the marker's or `--kgdb-timeout` otherwise.
        :raises ConfigError: there is no place for it on the host, or the host cannot write it.
        :raises GuestCommandError: the guest could not read it; the message is its own.
        """
        __tracebackhide__ = True
        return self._slot.require().files.get(remote, Path(local), timeout)
