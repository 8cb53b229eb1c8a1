"""Who holds what: locks that die with their holder, and a note of who that is."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shlex
import socket
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from ..errors import CacheError, TimeoutError
from ..progress import Progress, duration

if TYPE_CHECKING:
    from filelock import FileLock

_POLL_SECONDS: Final = 0.05  # as often as filelock asks for a lock that is taken
_SIGN_SECONDS: Final = 0.2
_COMMAND_CHARS: Final = 80


class Holder(NamedTuple):
    """Who holds a lock."""

    pid: int
    command: str
    since: float
    """Seconds since the epoch."""
    host: str
    """Of a cache on a shared file system."""
    label: str
    """What it is doing under the lock."""

    @classmethod
    def me(cls, label: str) -> Holder:
        """Return a note on this process."""
        return cls(os.getpid(), _my_command(), time.time(), socket.gethostname(), label)

    @classmethod
    def read(cls, path: Path) -> Holder | None:
        """Return the note in a file, None where there is none to be trusted."""
        try:
            holder = cls(**json.loads(path.read_bytes()))
        except (OSError, ValueError, TypeError):
            return None
        return holder if holder.alive else None

    @property
    def alive(self) -> bool:
        """Whether there still is such a process (a killed holder leaves its note behind)."""
        if self.host != socket.gethostname():
            return True
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return False
        except PermissionError:
            pass
        return True

    def __str__(self) -> str:
        where = "" if self.host == socket.gethostname() else f" on {self.host}"
        since = time.strftime("%H:%M:%S", time.localtime(self.since))
        return f"process {self.pid}{where} ({self.command}), at it since {since}"


class Locks:
    """The named locks of one cache."""

    def __init__(self, root: Path, progress: Progress) -> None:
        self._root = root
        self._progress = progress
        self._guard = threading.Lock()
        self._locks: dict[str, FileLock] = {}

    @contextlib.contextmanager
    def held(self, name: str, label: str, timeout: float | None) -> Iterator[None]:
        """Hold a lock, however often this thread already does; say for whom we wait.

        :raises TimeoutError: somebody else held it for `timeout` seconds.
        """
        lock = self._lock(name)
        outermost = not lock.is_locked
        if not self._try(lock):
            self._wait(lock, name, label, timeout)
        try:
            if outermost:
                self._sign(name, label)
            yield
        finally:
            if outermost:
                self._note(name).unlink(missing_ok=True)
                with contextlib.suppress(OSError):
                    os.utime(self._root / f"{name}.lock")
            lock.release()

    @contextlib.contextmanager
    def held_if_free(self, name: str) -> Iterator[bool]:
        """Hold a lock if nobody else does, this very thread included; say whether."""
        lock = self._lock(name)
        taken = not lock.is_locked and self._try(lock)
        try:
            yield taken
        finally:
            if taken:
                lock.release()

    def holder(self, name: str) -> Holder | None:
        """Return who holds a lock, as far as it is known."""
        return Holder.read(self._note(name))

    def released(self, name: str) -> float:
        """Return when a lock was last let go of, in seconds since the epoch; 0 if never."""
        try:
            return (self._root / f"{name}.lock").stat().st_mtime
        except OSError:
            return 0.0

    def _lock(self, name: str) -> FileLock:
        # Imported here: it takes longer than a warm start, which holds no lock, can spare.
        from filelock import FileLock

        with self._guard:
            if name not in self._locks:
                self._root.mkdir(parents=True, exist_ok=True)
                self._locks[name] = FileLock(self._root / f"{name}.lock")
            return self._locks[name]

    def _try(self, lock: FileLock) -> bool:
        from filelock import Timeout

        try:
            lock.acquire(timeout=0)
        except Timeout:
            return False
        except OSError as error:
            raise CacheError(f"cannot lock {lock.lock_file}: {error.strerror or error}") from error
        return True

    def _wait(self, lock: FileLock, name: str, label: str, timeout: float | None) -> None:
        begun = time.monotonic()
        said: Holder | None = None
        # A holder that only just came has not signed yet.
        while time.monotonic() - begun < _SIGN_SECONDS:
            if self._try(lock):
                return
            said = self.holder(name)
            if said is not None:
                break
            time.sleep(_POLL_SECONDS)
        whom = str(said) if said else "another process"
        with self._progress.stage(f"{label}: waiting for {whom}"):
            while not self._try(lock):
                if timeout is not None and time.monotonic() - begun >= timeout:
                    raise TimeoutError(
                        f"{label}: waited {duration(timeout)} for {whom}",
                        hint="if it hangs, end it: its lock goes with it",
                    )
                time.sleep(_POLL_SECONDS)
                holder = self.holder(name)
                if holder is not None and holder != said:
                    said, whom = holder, str(holder)
                    self._progress.say(f"{label}: now waiting for {whom}")

    def _sign(self, name: str, label: str) -> None:
        # Only what others are told hangs on it: a full disk must not fail a lock that is held.
        with contextlib.suppress(OSError):
            beside = self._root / f"{name}.{os.getpid()}.new"
            try:
                beside.write_text(json.dumps(Holder.me(label)._asdict()))
                beside.replace(self._note(name))
            finally:
                beside.unlink(missing_ok=True)

    def _note(self, name: str) -> Path:
        return self._root / f"{name}.holder"


class Hold:
    """A shared hold on a file, for as long as the process lives or until it is let go.

    It is a plain flock(2), as filelock has none that many can share and a killed process drops.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    @classmethod
    def shared(cls, path: Path) -> Hold:
        """Take a shared hold; it waits a moment for somebody's exclusive one.

        :raises OSError: there is no such file, or no hold is to be had.
        """
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            _flock(descriptor, fcntl.LOCK_SH, 10.0)
        except BaseException:
            os.close(descriptor)
            raise
        return cls(descriptor)

    @classmethod
    def exclusive(cls, path: Path, patience: float = 0.0, *, create: bool = False) -> Hold | None:
        """Take an exclusive hold, None if somebody else has a hold for longer than that."""
        flags = os.O_RDWR | os.O_CREAT if create else os.O_RDONLY
        descriptor = os.open(path, flags | os.O_CLOEXEC, 0o666)
        try:
            _flock(descriptor, fcntl.LOCK_EX, patience)
        except BlockingIOError:
            os.close(descriptor)
            return None
        except BaseException:
            os.close(descriptor)
            raise
        return cls(descriptor)

    def is_on(self, path: Path) -> bool:
        """Whether the file is still the one under that name."""
        try:
            return os.path.samestat(path.stat(), os.fstat(self._descriptor))
        except OSError:
            return False

    def touch(self) -> None:
        """Note the time, where we may write."""
        with contextlib.suppress(OSError):
            os.utime(self._descriptor)

    def release(self) -> None:
        """Let go."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


def users_of(path: Path) -> list[int]:
    """Return the processes that hold a file (proc_locks(5)); only those of our pid namespace."""
    try:
        inode = path.stat().st_ino
        table = Path("/proc/locks").read_text()
    except OSError:
        return []
    users = set()
    for line in table.splitlines():
        words = line.split()
        if "FLOCK" in words and "->" not in words:
            pid, where = words[4], words[5]
            if where.rpartition(":")[2] == str(inode) and int(pid) > 0:
                users.add(int(pid))
    return sorted(users)


def command_of(pid: int) -> str:
    """Return a process's command line, shortened, "" if there is none."""
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return ""
    return _shorten([word.decode(errors="replace") for word in words if word])


def _my_command() -> str:
    program, *rest = sys.argv or ["python"]
    return _shorten([Path(program).name, *rest])


def _shorten(words: list[str]) -> str:
    command = shlex.join(words)
    return command if len(command) <= _COMMAND_CHARS else command[: _COMMAND_CHARS - 1] + "…"


def _flock(descriptor: int, how: int, patience: float) -> None:
    deadline = time.monotonic() + patience
    while True:
        try:
            return fcntl.flock(descriptor, how | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= deadline:
                raise
            time.sleep(0.005)
