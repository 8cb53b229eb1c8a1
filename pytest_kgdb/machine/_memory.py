"""The guest's memory: a file without a name that QEMU, and we, map."""

from __future__ import annotations

import contextlib
import os
import threading
from pathlib import Path
from typing import BinaryIO, Final

from ..errors import ConfigError
from ._command import MachineSpec

__all__ = ["check_memory", "make_ram", "reserve"]

_reserved: Final[dict[int, BinaryIO]] = {}


def reserve(mebibytes: int) -> None:
    """Begin to allocate the next machine's memory, in a thread.

    Otherwise QEMU does, a page fault at a time, when it loads a state; here the kernel does it at
    once, while a core has nothing else to do.
    """
    if mebibytes in _reserved:
        return
    file = _reserved[mebibytes] = make_ram(mebibytes)
    own = os.dup(file.fileno())

    def allocate() -> None:
        with contextlib.suppress(OSError):  # too little memory is for QEMU's start to tell
            os.posix_fallocate(own, 0, mebibytes << 20)
        os.close(own)

    threading.Thread(target=allocate, name="kgdb-ram", daemon=True).start()


def make_ram(mebibytes: int) -> BinaryIO:
    """Make the guest's memory: a file without a name, which dies with its last user."""
    reserved = _reserved.pop(mebibytes, None)
    while _reserved:  # of a size that nobody wanted
        _reserved.popitem()[1].close()
    if reserved is not None:
        return reserved
    file = os.fdopen(os.memfd_create("kgdb-ram", os.MFD_CLOEXEC), "r+b", buffering=0)
    os.ftruncate(file.fileno(), mebibytes << 20)
    return file


def check_memory(spec: MachineSpec) -> None:
    """:raises ConfigError: the host cannot give the guest that much memory."""
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            available = int(line.split()[1]) // 1024
            if spec.memory > available:
                raise ConfigError(
                    f"the guest wants {spec.memory} MiB of memory; the host has {available} MiB",
                    hint="lower --kgdb-memory",
                )
