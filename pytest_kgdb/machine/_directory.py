"""Machines' directories: private, with short paths for sockets, and removed even after a kill."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
import time
from pathlib import Path
from typing import Final

from ..process import FileLock

__all__ = ["private_directory"]

# The prefix of their names, and the file in each that tells them from others.
_PREFIX: Final = "pytest-kgdb-"
_MARK: Final = "machine"
_ABANDONED_SECONDS: Final = 60.0
_LONGEST: Final = 60  # characters


def private_directory() -> tuple[Path, FileLock]:
    """Make a private directory for a machine's sockets, disk and saved memory.

    It is in the directory for temporary files (`TMPDIR`), or in /tmp if the path of that is too
    long for Unix sockets (unix(7): 108 bytes).

    :returns: the directory, and its lock, to be held while it is in use.
    """
    # Not $XDG_RUNTIME_DIR, which is a small part of the host's memory: the disk is here, too.
    base = tempfile.gettempdir()
    if len(base) > _LONGEST:
        base = "/tmp"  # noqa: S108 # made private by mkdtemp
    _remove_abandoned(base)
    directory = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=base))
    (directory / _MARK).touch()
    return directory, FileLock.exclusive(directory)


def _remove_abandoned(base: str) -> None:
    """Remove the directories of killed processes: the disk of a snapshot can be large."""
    for entry in os.scandir(base):
        if not entry.name.startswith(_PREFIX):
            continue
        with contextlib.suppress(OSError):  # another user's, in use, or gone by now
            status = entry.stat(follow_symlinks=False)
            # A new one may not be locked yet.
            if status.st_uid != os.getuid() or time.time() - status.st_mtime < _ABANDONED_SECONDS:
                continue
            if not Path(entry.path, _MARK).is_file():
                continue
            lock = FileLock.exclusive(Path(entry.path))
            try:
                shutil.rmtree(entry.path, ignore_errors=True)
            finally:
                lock.release()
