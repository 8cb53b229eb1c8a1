"""The guest by ssh."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Final

from ..console import Result
from ..errors import ConfigError, GuestCommandError, TimeoutError
from ..process import Child, which

if TYPE_CHECKING:
    from ..disk import Disk
    from ..machine import Machine

__all__ = ["command_line", "run"]

_PORT: Final = 22
_LOOK: Final = 0.05

# ssh(1), "EXIT STATUS": the command's own, or this.
_FAILED: Final = 255


def command_line(machine: Machine, disk: Disk | None) -> list[str]:
    """Return the command that logs in as root: the guest is known by its key, and we by ours.

    :raises ConfigError: there is no way to the guest, or no key.
    """
    way = next(
        (each for each in machine.forwards if (each.proto, each.guest) == ("tcp", _PORT)), None
    )
    if way is None:
        raise ConfigError(
            f"ssh() needs a port of this host that leads to the guest's port {_PORT}",
            hint=f"--kgdb-forward=tcp:0:{_PORT}",
        )
    if disk is None or disk.ssh_key is None or disk.ssh_host_key is None:
        raise ConfigError(
            "ssh() has a key only for a Debian that is built here (--kgdb-disk=debian)",
            hint=f"with a key of your own: ssh -p {way.host} root@127.0.0.1, while the kernel runs",
        )
    known = Path(machine.directory, "known_hosts")
    known.write_text(f"guest {disk.ssh_host_key}\n")
    options = {
        "HostKeyAlias": "guest",
        "UserKnownHostsFile": str(known),
        "GlobalKnownHostsFile": "/dev/null",
        "StrictHostKeyChecking": "yes",
        "IdentitiesOnly": "yes",
        "BatchMode": "yes",
        "LogLevel": "ERROR",
    }
    argv = [which("ssh", package="openssh-client"), "-F", "none", "-p", str(way.host)]
    argv += ["-i", str(disk.ssh_key), *(f"-o{name}={value}" for name, value in options.items())]
    return [*argv, "root@127.0.0.1"]


def run(argv: list[str], command: str, *, timeout: float, meanwhile: Callable[[], None]) -> Result:
    """Run a command in the guest.

    :param argv: see :func:`command_line`.
    :param meanwhile: called while waiting; may raise to end the wait.
    :raises GuestCommandError: ssh did not come so far.
    """
    deadline = time.monotonic() + timeout
    with Child.spawn([*argv, "--", command], name="ssh") as child:
        while child.poll() is None:
            with contextlib.suppress(TimeoutError):
                child.wait(_LOOK)
            meanwhile()
            if time.monotonic() >= deadline and child.poll() is None:
                raise TimeoutError(
                    f"ssh: {command!r} did not end in {timeout:g} s",
                    hint="a larger timeout=, if it only needs longer: a login takes seconds "
                    "under emulation",
                )
        status = child.wait(1.0)
        output = child.output()
    if status == _FAILED or status < 0:
        raise GuestCommandError(
            f"ssh: {command!r} was not run: {output.strip() or f'status {status}'}",
            hint="does sshd run in the guest (systemctl status ssh), and its network?",
        )
    return Result(status, output)
