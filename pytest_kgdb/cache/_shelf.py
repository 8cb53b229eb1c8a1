"""Where things lie in the cache, and how they get there and away: only ever by one rename."""

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
from ._files import (
    FILES,
    MANIFEST,
    Glance,
    Manifest,
    compare,
    look_over,
    sync_directory,
    take_stock,
    write_synced,
)
from ._locks import Hold

USE: Final = "use"
"""In each entry: held by who uses it, and its time is that of the last use."""

_VERSION: Final = "v1"
_RESERVED: Final = frozenset({"work", "locks", "quarantine", "tmp", "memo"})
_NAME: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._+~@=,-]{0,127}")
_GATE_SECONDS: Final = 30.0  # whoever holds the gate renames a directory or two
_NO_ROOM: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})

# https://bford.info/cachedir/: backup programs leave such a directory out.
_CACHEDIR_TAG: Final = """\
Signature: 8a477f597d28d172789f06886806bc55
# Kernels, initrds and disks that pytest-kgdb built; it builds them again when they are gone.
"""


class BrokenEntry(Exception):
    """An entry is not what its manifest says."""

    def __init__(self, reason: str, hold: Hold | None) -> None:
        super().__init__(reason)
        self.hold = hold


class Draft(NamedTuple):
    """A directory that is to become an entry."""

    path: Path
    hold: Hold

    @property
    def files(self) -> Path:
        """Where the entry's files are built."""
        return self.path / FILES


class Shelf:
    """The directories of one cache."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.base = root / _VERSION
        self.tmp = self.base / "tmp"
        self.work = self.base / "work"
        self.memo = self.base / "memo"
        self.locks = self.base / "locks"
        self.quarantine = self.base / "quarantine"

    def entry(self, kind: str, key: str) -> Path:
        """Return the directory of an entry, which need not exist."""
        if kind in _RESERVED:
            raise ConfigError(f"the cache uses the name {kind!r} itself")
        return self.base / checked(kind) / checked(key)

    def entries(self) -> Iterator[tuple[str, str]]:
        """All kinds and keys that there are."""
        for kind in _subdirectories(self.base):
            if kind not in _RESERVED:
                for key in _subdirectories(self.base / kind):
                    yield kind, key

    def works(self) -> Iterator[tuple[str, str]]:
        """All kinds and names of work directories that there are."""
        for kind in _subdirectories(self.work):
            for name in _subdirectories(self.work / kind):
                yield kind, name

    def prepare(self) -> None:
        """Make the directories that are missing.

        :raises CacheError: they cannot be made, or not be written to.
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
        """Be the only one who moves directories: what was looked at is what is moved."""
        hold = Hold.exclusive(self.base / "gate", _GATE_SECONDS, create=True)
        if hold is None:
            raise CacheError(
                f"the cache in {self.root} was locked for {_GATE_SECONDS:g} s",
                hint=f"see who holds {self.base / 'gate'} (fuser), and whether it is stopped",
            )
        try:
            yield
        finally:
            hold.release()

    def draft(self, kind: str, key: str) -> Draft:
        """Make a new directory beside the entries, ours for as long as we live."""
        path = self.tmp / f"{kind}-{key[:24]}-{os.getpid()}-{os.urandom(4).hex()}"
        with self.gate():  # so that no one finds it before its hold is taken
            path.mkdir()
            (path / USE).touch()
            hold = Hold.shared(path / USE)
        (path / FILES).mkdir()
        return Draft(path, hold)

    def publish(self, draft: Draft, manifest: Manifest) -> Hold:
        """Make an entry of a draft; its hold becomes that of the entry."""
        write_synced(draft.path / MANIFEST, manifest.dump())
        sync_directory(draft.path)
        final = self.entry(manifest.kind, manifest.key)
        final.parent.mkdir(exist_ok=True)
        with self.gate():
            if final.exists():  # put there by something that is not us
                self._set_aside(final)
            draft.path.rename(final)
        sync_directory(final.parent)
        return draft.hold

    def open(self, kind: str, key: str) -> tuple[Hold, Manifest] | None:
        """Take hold of an entry, None if there is none.

        :raises BrokenEntry: it is not what its manifest says.
        """
        directory = self.entry(kind, key)
        while True:
            try:
                hold = Hold.shared(directory / USE)
            except (FileNotFoundError, NotADirectoryError):
                if directory.is_dir():
                    raise BrokenEntry(f"{USE} is missing", None) from None
                return None
            if hold.is_on(directory / USE):
                break
            hold.release()  # it was moved away just now; perhaps there is another one
        try:
            manifest = Manifest.load((directory / MANIFEST).read_bytes())
            if (manifest.kind, manifest.key) != (kind, key):
                raise ValueError(f"it is {manifest.kind}/{manifest.key}")
        except FileNotFoundError:
            raise BrokenEntry("its manifest is missing", hold) from None
        except ValueError as error:
            raise BrokenEntry(str(error), hold) from None
        glance = look_over(directory / FILES, manifest)
        if glance.touched and not glance.wrong:
            manifest, wrong = self._read_again(directory, manifest)
            glance = Glance(wrong)
        if glance.wrong:
            raise BrokenEntry(glance.wrong, hold)
        return hold, manifest

    @staticmethod
    def _read_again(directory: Path, manifest: Manifest) -> tuple[Manifest, str]:
        """Compare contents, as the times differ: CI systems bring caches back with other times."""
        try:
            found = take_stock(
                directory / FILES,
                kind=manifest.kind,
                key=manifest.key,
                about=manifest.about,
                created=manifest.created,
                sync=False,
            )
        except ValueError as error:
            return manifest, str(error)
        if wrong := compare(found, manifest):
            return manifest, wrong
        beside = directory / f"{MANIFEST}.{os.getpid()}.{os.urandom(4).hex()}.new"
        with contextlib.suppress(OSError):  # a cache that cannot be written to only costs time
            try:
                write_synced(beside, found.dump())
                beside.replace(directory / MANIFEST)
            finally:
                beside.unlink(missing_ok=True)
        return found, ""

    def put_aside(self, kind: str, key: str, hold: Hold | None) -> Path | None:
        """Move a broken entry to the quarantine, None if it is no longer there."""
        directory = self.entry(kind, key)
        with self.gate():
            # Somebody else may have done the same, and built a good one since.
            same = hold.is_on(directory / USE) if hold else not (directory / USE).exists()
            return self._set_aside(directory) if same and directory.is_dir() else None

    def take_away(self, directory: Path) -> bool:
        """Remove an entry unless somebody uses it; say whether."""
        with self.gate():
            try:
                hold = Hold.exclusive(directory / USE)
            except OSError:
                return False
            if hold is None:
                return False
            doomed = self.tmp / f"{directory.parent.name}-{directory.name[:24]}-{_stamp()}"
            directory.rename(doomed)
        # Still held: whoever clears up after dead builders must not meet us in there.
        try:
            remove_tree(doomed)
        finally:
            hold.release()
        return True

    def open_work(self, kind: str, name: str) -> Hold:
        """Make a work directory if it is missing, and take hold of it."""
        directory = self.work / checked(kind) / checked(name)
        directory.parent.mkdir(parents=True, exist_ok=True)
        use = directory.with_name(f".{name}.{USE}")
        while True:
            use.touch()
            hold = Hold.shared(use)
            if hold.is_on(use):
                break
            hold.release()  # it was removed just now
        directory.mkdir(exist_ok=True)
        os.utime(directory)
        return hold

    def take_away_work(self, directory: Path) -> bool:
        """Remove a work directory, whose lock the caller holds, unless somebody uses it."""
        use = directory.with_name(f".{directory.name}.{USE}")
        hold = Hold.exclusive(use, create=True)
        if hold is None:
            return False
        doomed = self.tmp / f"work-{directory.name[:24]}-{_stamp()}"
        try:
            directory.rename(doomed)
            directory.with_name(f".{directory.name}.size").unlink(missing_ok=True)
            use.unlink()
        except FileNotFoundError:
            return False
        finally:
            hold.release()
        remove_tree(doomed)
        return True

    def clear_up(self) -> list[Path]:
        """Remove what builders left that were killed, and return it."""
        dead: list[tuple[Path, Hold | None]] = []
        with self.gate():
            for path in self.tmp.iterdir():
                try:
                    hold = Hold.exclusive(path / USE)
                except (FileNotFoundError, NotADirectoryError):
                    dead.append((path, None))
                    continue
                if hold is not None:
                    dead.append((path, hold))
        for path, hold in dead:
            try:
                remove_tree(path)
            finally:
                if hold is not None:
                    hold.release()
        return [path for path, _ in dead]

    def _set_aside(self, directory: Path) -> Path:
        target = self.quarantine / f"{directory.parent.name}-{directory.name}-{_stamp()}"
        directory.rename(target)
        return target


def checked(name: str) -> str:
    """Return a name that can be a file's name, or refuse it."""
    if not _NAME.fullmatch(name):
        raise ConfigError(f"{name!r} cannot be the name of something in the cache")
    return name


@contextlib.contextmanager
def explained(what: str) -> Iterator[None]:
    """Say of an operating system's error what we were doing and what helps."""
    try:
        yield
    except KgdbError:  # our own TimeoutError is an OSError, too
        raise
    except OSError as error:
        reason = error.strerror or str(error)
        hint = "choose another directory with --kgdb-cache-dir"
        if error.errno in _NO_ROOM:
            hint = "make room (pytest-kgdb cache prune), or " + hint
        raise CacheError(f"{what}: {reason}", hint=hint) from error


def is_no_room(error: OSError) -> bool:
    """Whether a disk, a quota or a limit on file sizes was full."""
    return error.errno in _NO_ROOM


def remove_tree(path: Path) -> None:
    """Remove a directory as far as it can be; what remains is found again by `clear_up`."""
    if not path.is_dir() or path.is_symlink():
        with contextlib.suppress(OSError):
            path.unlink()
        return
    shutil.rmtree(path, ignore_errors=True)
    if path.exists():  # directories without the right to write, as a file system image has them
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
