"""Who else uses a tty: two programs on one serial line get half of its bytes each."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

__all__ = ["tty_users"]

_PROC: Final = Path("/proc")
# Where programs leave their process id (Filesystem Hierarchy Standard, "/var/lock").
_LOCKS: Final = (Path("/run/lock"), Path("/var/lock"))


def tty_users(device: Path) -> list[str]:
    """Return the other programs that have a tty open, or have locked it, with their process ids.

    Those of other users are seen by root only.
    """
    try:
        number = device.stat().st_rdev
    except OSError:
        return []
    pids = {int(entry.name) for entry in _PROC.iterdir() if entry.name.isdigit()} - {os.getpid()}
    using = {pid for pid in pids if _has_open(pid, number)} | set(_locked_by(device.resolve()))
    return [_describe(pid) for pid in sorted(using)]


def _has_open(pid: int, number: int) -> bool:
    with contextlib.suppress(OSError):  # gone, or not ours to see
        for descriptor in (_PROC / str(pid) / "fd").iterdir():
            # Without a stat, which waits on some files, unless the name says that it is a device.
            with contextlib.suppress(OSError):
                if str(descriptor.readlink()).startswith("/dev/"):
                    status = descriptor.stat()
                    if status.st_rdev == number:
                        return True
    return False


def _locked_by(device: Path) -> Iterator[int]:
    for directory in _LOCKS:
        with contextlib.suppress(OSError, ValueError):
            pid = int((directory / f"LCK..{device.name}").read_text().split()[0])
            if pid != os.getpid() and (_PROC / str(pid)).exists():
                yield pid


def _describe(pid: int) -> str:
    with contextlib.suppress(OSError):
        return f"{(_PROC / str(pid) / 'comm').read_text().strip()} (process {pid})"
    return f"process {pid}"
