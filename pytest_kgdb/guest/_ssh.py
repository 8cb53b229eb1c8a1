"""The guest by ssh."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

from ..console import Result
from ..deadline import Deadline
from ..errors import ConfigError, GuestCommandError, TimeoutError
from ..process import Child, which
from ..settings import Forward

if TYPE_CHECKING:
    from ..disk import Disk

__all__ = ["command_line", "run"]

_PORT: Final = 22
_POLL: Final = 0.05  # seconds

# ssh(1), "EXIT STATUS": the command's own, or this.
_FAILED: Final = 255


def command_line(forwards: Sequence[Forward], directory: Path, disk: Disk | None) -> list[str]:
    """Return the command that logs in as root; host and user are authenticated by keys of ours.

    :param directory: for ssh's `known_hosts`.
    :raises ConfigError: there is no way to the guest, or no key.
    """
    forward = next(
        (entry for entry in forwards if (entry.proto, entry.guest) == ("tcp", _PORT)), None
    )
    if forward is None:
        raise ConfigError(
            f"ssh() needs a port of this host that leads to the guest's port {_PORT}",
            hint=f"--kgdb-forward=tcp:0:{_PORT}",
        )
    if disk is None or disk.ssh_key is None or disk.ssh_host_key is None:
        raise ConfigError(
            "ssh() has a key only for a Debian that is built here (--kgdb-disk=debian)",
            hint=f"with a key of your own: ssh -p {forward.host} root@127.0.0.1, while the kernel "
            "runs",
        )
    known_hosts = Path(directory, "known_hosts")
    known_hosts.write_text(f"guest {disk.ssh_host_key}\n")
    options = {
        "HostKeyAlias": "guest",
        "UserKnownHostsFile": str(known_hosts),
        "GlobalKnownHostsFile": "/dev/null",
        "StrictHostKeyChecking": "yes",
        "IdentitiesOnly": "yes",
        "BatchMode": "yes",
        "LogLevel": "ERROR",
    }
    argv = [which("ssh", package="openssh-client"), "-F", "none", "-p", str(forward.host)]
    argv += ["-i", str(disk.ssh_key), *(f"-o{name}={value}" for name, value in options.items())]
    return [*argv, "root@127.0.0.1"]


def run(argv: list[str], command: str, *, timeout: float, meanwhile: Callable[[], None]) -> Result:
    """Run a command in the guest.

    :param argv: see :func:`command_line`.
    :param meanwhile: called while waiting; may raise to end the wait.
    :raises GuestCommandError: ssh did not come so far.
    """
    deadline = Deadline(timeout)
    with Child.spawn([*argv, "--", command], name="ssh") as child:
        while child.poll() is None:
            with contextlib.suppress(TimeoutError):
                child.wait(_POLL)
            meanwhile()
            if deadline.expired and child.poll() is None:
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
