"""Named locks among the processes that use one cache, and a note on who holds each."""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import socket
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

from ..errors import CacheError, TimeoutError
from ..process import FileLock
from ..progress import Progress, duration
from ._files import write_atomically

_POLL_SECONDS: Final = 0.05
_NOTE_SECONDS: Final = 0.2  # from taking a lock to writing the note, at the most
_COMMAND_CHARS: Final = 80
_WORKER: Final = "PYTEST_XDIST_WORKER"  # xdist.plugin: the variable with a worker's name


class Holder(NamedTuple):
    """Who holds a lock: the content of the note beside it."""

    pid: int
    command: str
    since: float
    """Seconds since the epoch."""
    host: str
    """The host's name: a cache may be on a shared file system."""
    label: str
    """What it does under the lock."""

    @classmethod
    def me(cls, label: str) -> Holder:
        """Return a note on this process."""
        return cls(os.getpid(), _my_command(), time.time(), socket.gethostname(), label)

    @classmethod
    def read(cls, path: Path) -> Holder | None:
        """Return the note in a file; None if there is none, or its process is gone."""
        try:
            holder = cls(**json.loads(path.read_bytes()))
        except (OSError, ValueError, TypeError):
            return None
        return holder if holder.alive else None

    @property
    def alive(self) -> bool:
        """Whether the process exists; a killed holder leaves its note behind."""
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
        return self.doing("it")

    def doing(self, what: str) -> str:
        """Return the process, and what it does.

        :param what: what another process wants to do: `it`, if that is the same.
        """
        where = "" if self.host == socket.gethostname() else f" on {self.host}"
        since = time.strftime("%H:%M:%S", time.localtime(self.since))
        work = "at it" if what in ("it", self.label) else f"busy with {self.label}"
        return f"process {self.pid}{where} ({self.command}), {work} since {since}"


class _OfThread(threading.local):
    """The names of the locks that the present thread holds."""

    def __init__(self) -> None:
        self.names: set[str] = set()


class NamedLocks:
    """The named locks of one cache. A thread that holds one may take it again.

    :param root: the directory with the lock files and the notes.
    """

    def __init__(self, root: Path, progress: Progress) -> None:
        self._root = root
        self._progress = progress
        self._mine = _OfThread()

    @contextlib.contextmanager
    def lock(self, name: str, label: str, timeout: float) -> Iterator[None]:
        """Hold a lock; report whom we wait for.

        :param timeout: seconds to wait for it.
        :raises TimeoutError: another holder kept it for longer.
        :raises CacheError: the lock file cannot be opened.
        """
        if name in self._mine.names:
            yield
            return
        lock = self._try(name) or self._wait(name, label, timeout)
        self._mine.names.add(name)
        try:
            self._write_note(name, label)
            yield
        finally:
            self._mine.names.discard(name)
            self._note(name).unlink(missing_ok=True)
            lock.touch()
            lock.release()

    @contextlib.contextmanager
    def try_lock(self, name: str) -> Iterator[bool]:
        """Hold a lock if nobody does, this thread included; yield whether it was free."""
        lock = self._try(name)
        try:
            yield lock is not None
        finally:
            if lock is not None:
                lock.release()

    def holder(self, name: str) -> Holder | None:
        """Return who holds a lock, if it is known."""
        return Holder.read(self._note(name))

    def released(self, name: str) -> float:
        """Return when a lock was last released, in seconds since the epoch; 0 if never."""
        try:
            return self._file(name).stat().st_mtime
        except OSError:
            return 0.0

    def _try(self, name: str) -> FileLock | None:
        path = self._file(name)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            return FileLock.exclusive(path, create=True)
        except BlockingIOError:
            return None
        except OSError as error:
            raise CacheError(f"cannot lock {path}: {error.strerror or error}") from error

    def _wait(self, name: str, label: str, timeout: float) -> FileLock:
        begin = time.monotonic()
        holder: Holder | None = None
        # A process that has just taken the lock may not have written its note yet.
        while holder is None and time.monotonic() - begin < _NOTE_SECONDS:
            if lock := self._try(name):
                return lock
            holder = self.holder(name)
            if holder is None:
                time.sleep(_POLL_SECONDS)
        whom = holder.doing(label) if holder else "another process"
        with self._progress.stage(f"{label}: waiting for {whom}"):
            while (lock := self._try(name)) is None:
                if time.monotonic() - begin >= timeout:
                    raise TimeoutError(
                        f"{label}: waited {duration(timeout)} for {whom}",
                        hint="if it hangs, end it: its lock goes with it",
                    )
                time.sleep(_POLL_SECONDS)
                present = self.holder(name)
                if present is not None and present != holder:
                    holder, whom = present, present.doing(label)
                    self._progress.say(f"{label}: now waiting for {whom}")
            return lock

    def _write_note(self, name: str, label: str) -> None:
        # Only messages depend on it: with a full disk the lock must still work.
        with contextlib.suppress(OSError):
            write_atomically(self._note(name), json.dumps(Holder.me(label)._asdict()).encode())

    def _file(self, name: str) -> Path:
        return self._root / f"{name}.lock"

    def _note(self, name: str) -> Path:
        return self._root / f"{name}.holder"


def users_of(path: Path) -> list[int]:
    """Return the processes of our pid namespace that have a file locked (proc_locks(5))."""
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
    """Return a process's command line, shortened; "" if there is no such process."""
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return ""
    return _shorten([word.decode(errors="replace") for word in words if word])


def _my_command() -> str:
    program, *rest = sys.argv or ["python"]
    # What a worker has started has its environment, too.
    if (worker := os.environ.get(_WORKER)) and "execnet" in sys.modules and program == "-c":
        # execnet's `python -c …` says nothing; who has started it does, unless ssh has.
        parent = os.getppid()
        return f"worker {worker} of process {parent}: {command_of(parent)}"
    spec = getattr(sys.modules.get("__main__"), "__spec__", None)
    if Path(program).name == "__main__.py" and spec is not None:  # of `python -m pytest`
        return _shorten(["python", "-m", spec.parent, *rest])
    return _shorten([Path(program).name, *rest])


def _shorten(words: list[str]) -> str:
    command = shlex.join(words)
    return command if len(command) <= _COMMAND_CHARS else command[: _COMMAND_CHARS - 1] + "…"
