"""File locks that the kernel releases when their holder dies."""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from pathlib import Path
from typing import Final

_POLL_SECONDS: Final = 0.005


class FileLock:
    """A flock(2) lock on a file or a directory, held from its creation on.

    The lock belongs to one open file description: it excludes other threads of this process as
    well as other processes. It ends with `release`, or when the process ends, however that
    happens.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    @classmethod
    def shared(cls, path: Path, timeout: float = 0.0, *, create: bool = False) -> FileLock:
        """Take a lock that others can share.

        :param timeout: seconds to wait for the holder of an exclusive lock.
        :param create: whether to create a file that does not exist.
        :raises BlockingIOError: another holder has an exclusive lock.
        :raises OSError: the file cannot be opened or locked.
        """
        return cls._take(path, fcntl.LOCK_SH, timeout, create)

    @classmethod
    def exclusive(cls, path: Path, timeout: float = 0.0, *, create: bool = False) -> FileLock:
        """Take a lock that excludes all others.

        :param timeout: seconds to wait for the other holders.
        :param create: whether to create a file that does not exist.
        :raises BlockingIOError: another holder has a lock of either kind.
        :raises OSError: the file cannot be opened or locked.
        """
        return cls._take(path, fcntl.LOCK_EX, timeout, create)

    @classmethod
    def _take(cls, path: Path, kind: int, timeout: float, create: bool) -> FileLock:
        flags = os.O_RDWR | os.O_CREAT if create else os.O_RDONLY
        descriptor = os.open(path, flags | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
        deadline = time.monotonic() + timeout
        try:
            while True:
                try:
                    fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
                    return cls(descriptor)
                except BlockingIOError:
                    if time.monotonic() >= deadline:
                        raise
                    time.sleep(_POLL_SECONDS)
        except BaseException:
            os.close(descriptor)
            raise

    def share(self) -> None:
        """Turn an exclusive lock into a shared one."""
        fcntl.flock(self._descriptor, fcntl.LOCK_SH)

    def is_on(self, path: Path) -> bool:
        """Whether the path still names the file that is locked."""
        try:
            return os.path.samestat(path.stat(), os.fstat(self._descriptor))
        except OSError:
            return False

    def touch(self) -> None:
        """Set the file's times to now, if we may."""
        with contextlib.suppress(OSError):
            os.utime(self._descriptor)

    def release(self) -> None:
        """Release the lock. Idempotent."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
