"""Where things are in the cache's directory, and how they get in and out: by one rename each."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

from ..errors import CacheError, ConfigError, KgdbError
from ..process import FileLock
from ._files import (
    FILES,
    MANIFEST,
    Manifest,
    QuickCheck,
    compare,
    make_manifest,
    quick_check,
    sync_directory,
    write_atomically,
    write_synced,
)

USE: Final = "use"
"""The file of an entry that its users have locked; its time is that of the last use."""

_VERSION: Final = "v1"
_RESERVED: Final = frozenset({"work", "locks", "quarantine", "tmp", "memo"})
_NAME: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._+~@=,-]{0,127}")
_USE_SECONDS: Final = 10.0  # a pruner locks an entry for as long as a rename takes
_GATE_SECONDS: Final = 30.0  # the gate is locked for a rename or two
_NO_ROOM: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})

# https://bford.info/cachedir/: backup programs leave such a directory out.
_CACHEDIR_TAG: Final = """\
Signature: 8a477f597d28d172789f06886806bc55
# Kernels, initrds and disks that pytest-kgdb built; it builds them again when they are gone.
"""


class BrokenEntry(Exception):
    """An entry differs from its manifest."""

    def __init__(self, reason: str, lock: FileLock | None) -> None:
        super().__init__(reason)
        self.lock = lock


class Draft(NamedTuple):
    """A directory that is to become an entry."""

    path: Path
    lock: FileLock

    @property
    def files(self) -> Path:
        """The directory in which the entry's files are built."""
        return self.path / FILES


class StoreLayout:
    """The directories and files of one cache."""

    def __init__(self, root: Path) -> None:
        self.root = root
        # Builds have the path in their compilers' options: by way of a link, which a home or its
        # .cache may be, all would be compiled again.
        self.base = (root / _VERSION).resolve()
        self.tmp = self.base / "tmp"
        self.work = self.base / "work"
        self.memo = self.base / "memo"
        self.locks = self.base / "locks"
        self.quarantine = self.base / "quarantine"
        self.room = self.base / "room.json"
        """What the last survey of the cache's size has found."""

    def entry(self, kind: str, key: str) -> Path:
        """Return the directory of an entry, which need not exist."""
        if kind in _RESERVED:
            raise ConfigError(f"the cache uses the name {kind!r} itself")
        return self.base / checked(kind) / checked(key)

    def entries(self) -> Iterator[tuple[str, str]]:
        """Yield the kind and key of every entry."""
        for kind in _subdirectories(self.base):
            if kind not in _RESERVED:
                for key in _subdirectories(self.base / kind):
                    yield kind, key

    def workdir(self, kind: str, name: str) -> Path:
        """Return a work directory, which need not exist."""
        return self.work / checked(kind) / checked(name)

    def workdirs(self) -> Iterator[tuple[str, str]]:
        """Yield the kind and name of every work directory."""
        for kind in _subdirectories(self.work):
            for name in _subdirectories(self.work / kind):
                yield kind, name

    def workdir_use(self, directory: Path) -> Path:
        """Return the file that the users of a work directory have locked."""
        return directory.with_name(f".{directory.name}.{USE}")

    def workdir_size(self, directory: Path) -> Path:
        """Return the file with the size of a work directory."""
        return directory.with_name(f".{directory.name}.size")

    def prepare(self) -> None:
        """Create the directories that do not exist.

        :raises CacheError: they cannot be created or written to.
        """
        with explained(f"cannot use the cache directory {self.root}"):
            for directory in (self.tmp, self.locks, self.quarantine):
                directory.mkdir(parents=True, exist_ok=True)
            tag = self.root / "CACHEDIR.TAG"
            if not tag.exists():
                tag.write_text(_CACHEDIR_TAG)
            if not os.access(self.tmp, os.W_OK | os.X_OK):
                raise PermissionError(errno.EACCES, "it is not writable", str(self.tmp))

    @contextlib.contextmanager
    def gate(self) -> Iterator[None]:
        """Exclude all others that move directories, from the check to the rename."""
        path = self.base / "gate"
        try:
            lock = FileLock.exclusive(path, _GATE_SECONDS, create=True)
        except BlockingIOError:
            raise CacheError(
                f"the cache in {self.root} was locked for {_GATE_SECONDS:g} s",
                hint=f"see who holds {path} (fuser), and whether it is stopped",
            ) from None
        try:
            yield
        finally:
            lock.release()

    def draft(self, kind: str, key: str) -> Draft:
        """Create a draft, which stays for as long as this process lives."""
        path = self.tmp / f"{kind}-{key[:24]}-{os.getpid()}-{os.urandom(4).hex()}"
        with self.gate():  # `remove_dead_drafts` must not find it before it is locked
            path.mkdir()
            (path / USE).touch()
            lock = FileLock.shared(path / USE, _USE_SECONDS)
        (path / FILES).mkdir()
        return Draft(path, lock)

    def publish(self, draft: Draft, manifest: Manifest) -> FileLock:
        """Turn a draft into an entry; return its lock, which is now that of the entry."""
        write_synced(draft.path / MANIFEST, manifest.dump())
        sync_directory(draft.path)
        final = self.entry(manifest.kind, manifest.key)
        final.parent.mkdir(exist_ok=True)
        with self.gate():
            if final.exists():  # only a program that ignores our locks puts it there
                self._quarantine(final)
            draft.path.rename(final)
        sync_directory(final.parent)
        return draft.lock

    def open(self, kind: str, key: str) -> tuple[FileLock, Manifest] | None:
        """Lock an entry and check it by names, sizes and times; None if there is none.

        :raises BrokenEntry: it differs from its manifest.
        """
        directory = self.entry(kind, key)
        while True:
            try:
                lock = FileLock.shared(directory / USE, _USE_SECONDS)
            except (FileNotFoundError, NotADirectoryError):
                if directory.is_dir():
                    raise BrokenEntry(f"{USE} is missing", None) from None
                return None
            if lock.is_on(directory / USE):
                break
            lock.release()  # the entry was moved meanwhile, and there may be another one
        try:
            manifest = Manifest.load((directory / MANIFEST).read_bytes())
            if (manifest.kind, manifest.key) != (kind, key):
                raise ValueError(f"it is {manifest.kind}/{manifest.key}")
        except FileNotFoundError:
            raise BrokenEntry("its manifest is missing", lock) from None
        except ValueError as error:
            raise BrokenEntry(str(error), lock) from None
        check = quick_check(directory / FILES, manifest)
        if check.touched and not check.wrong:
            manifest, wrong = self._read_again(directory, manifest)
            check = QuickCheck(wrong)
        if check.wrong:
            raise BrokenEntry(check.wrong, lock)
        return lock, manifest

    @staticmethod
    def _read_again(directory: Path, manifest: Manifest) -> tuple[Manifest, str]:
        """Compare the contents where times differ: CI systems restore caches with other times."""
        try:
            actual = make_manifest(
                directory / FILES,
                kind=manifest.kind,
                key=manifest.key,
                about=manifest.about,
                created=manifest.created,
                sync=False,
            )
        except ValueError as error:
            return manifest, str(error)
        if wrong := compare(actual, manifest):
            return manifest, wrong
        with contextlib.suppress(OSError):  # in a read-only cache it is read again each time
            write_atomically(directory / MANIFEST, actual.dump(), sync=True)
        return actual, ""

    def move_to_quarantine(self, kind: str, key: str, lock: FileLock | None) -> Path | None:
        """Move a broken entry to the quarantine; None if it is no longer there."""
        directory = self.entry(kind, key)
        with self.gate():
            # Another process may have moved it already, and built a good one since.
            same = lock.is_on(directory / USE) if lock else not (directory / USE).exists()
            return self._quarantine(directory) if same and directory.is_dir() else None

    def remove_entry(self, directory: Path) -> bool:
        """Remove an entry unless it is in use; return whether it was removed."""
        with self.gate():
            try:
                lock = FileLock.exclusive(directory / USE)
            except OSError:
                return False
            doomed = self.tmp / f"{directory.parent.name}-{directory.name[:24]}-{_stamp()}"
            directory.rename(doomed)
        # Still locked, so that `remove_dead_drafts` of another process leaves it to us.
        try:
            remove_tree(doomed)
        finally:
            lock.release()
        return True

    def open_workdir(self, directory: Path) -> FileLock:
        """Create a work directory if it does not exist, and lock it as one that is in use."""
        directory.parent.mkdir(parents=True, exist_ok=True)
        use = self.workdir_use(directory)
        while True:
            use.touch()
            lock = FileLock.shared(use, _USE_SECONDS)
            if lock.is_on(use):
                break
            lock.release()  # it was removed meanwhile
        directory.mkdir(exist_ok=True)
        os.utime(directory)
        return lock

    def remove_workdir(self, directory: Path) -> bool:
        """Remove a work directory, whose named lock the caller holds, unless it is in use."""
        use = self.workdir_use(directory)
        try:
            lock = FileLock.exclusive(use, create=True)
        except BlockingIOError:
            return False
        doomed = self.tmp / f"work-{directory.name[:24]}-{_stamp()}"
        try:
            directory.rename(doomed)
            self.workdir_size(directory).unlink(missing_ok=True)
            use.unlink()
        except FileNotFoundError:
            return False
        finally:
            lock.release()
        remove_tree(doomed)
        return True

    def remove_dead_drafts(self) -> None:
        """Remove what killed processes left in `tmp`."""
        dead: list[tuple[Path, FileLock | None]] = []
        with self.gate():
            for path in self.tmp.iterdir():
                try:
                    dead.append((path, FileLock.exclusive(path / USE)))
                except BlockingIOError:
                    continue
                except (FileNotFoundError, NotADirectoryError):
                    dead.append((path, None))
        for path, lock in dead:
            try:
                remove_tree(path)
            finally:
                if lock is not None:
                    lock.release()

    def _quarantine(self, directory: Path) -> Path:
        target = self.quarantine / f"{directory.parent.name}-{directory.name}-{_stamp()}"
        directory.rename(target)
        return target


def checked(name: str) -> str:
    """Return a name.

    :raises ConfigError: it cannot be used as a file's name.
    """
    if not _NAME.fullmatch(name):
        raise ConfigError(f"{name!r} cannot be the name of something in the cache")
    return name


@contextlib.contextmanager
def explained(what: str) -> Iterator[None]:
    """Turn an OSError into a CacheError that begins with `what` and has a hint."""
    try:
        yield
    except KgdbError:  # our TimeoutError is an OSError, too
        raise
    except OSError as error:
        reason = error.strerror or str(error)
        hint = "choose another directory with --kgdb-cache-dir"
        if error.errno in _NO_ROOM:
            hint = "make room (pytest-kgdb cache prune), or " + hint
        raise CacheError(f"{what}: {reason}", hint=hint) from error


def is_no_room(error: OSError) -> bool:
    """Whether an error means a full disk, or a limit on disk usage or file sizes."""
    return error.errno in _NO_ROOM


def remove_tree(path: Path) -> None:
    """Remove a directory as far as possible; `remove_dead_drafts` tries again with the rest."""
    if not path.is_dir() or path.is_symlink():
        with contextlib.suppress(OSError):
            path.unlink()
        return
    shutil.rmtree(path, ignore_errors=True)
    if path.exists():  # read-only directories, as a file system image has them
        for directory, _, _ in os.walk(path):
            with contextlib.suppress(OSError):
                Path(directory).chmod(0o700)
        shutil.rmtree(path, ignore_errors=True)


def _stamp() -> str:
    return f"{time.strftime('%Y%m%d-%H%M%S')}-{os.urandom(3).hex()}"


def _subdirectories(path: Path) -> list[str]:
    try:
        return sorted(entry.name for entry in os.scandir(path) if entry.is_dir())
    except (FileNotFoundError, NotADirectoryError):
        return []
