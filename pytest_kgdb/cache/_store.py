"""The cache's interface."""

from __future__ import annotations

import contextlib
import hashlib
import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from ..errors import CacheError, ConfigError, KgdbError
from ..process import FileLock
from ..progress import Progress
from ._files import (
    FILES,
    Manifest,
    QuickCheck,
    difference,
    make_manifest,
    quick_check,
    write_atomically,
)
from ._garbage import EntryInfo, GarbageCollector, Problem, Removed
from ._locks import NamedLocks
from ._store_layout import (
    USE,
    BrokenEntry,
    Draft,
    StoreLayout,
    checked,
    explained,
    is_no_room,
    remove_tree,
)

if TYPE_CHECKING:
    from ._remote import Remote

_WAIT_SECONDS: Final = 6 * 3600.0  # Debian's whole kernel on two cores takes hours


@dataclass(frozen=True)
class Entry:
    """A complete entry of the cache. It is locked: nobody removes it while this process lives."""

    kind: str
    key: str
    path: Path
    """The directory with its files, which must not be changed."""
    about: Mapping[str, Any]
    """The `about` that was given to `make`."""


class _InUse(NamedTuple):
    """An entry that this process has locked."""

    lock: FileLock
    manifest: Manifest
    entry: Entry


class Cache:
    """A store of what takes long to build, by a key of all that it is built from.

    :param root: its directory, which is created when the first entry is made.
    :param remote: the URL of a shared cache to look in before building.
    :param limit: bytes that it may use on the disk; by default 50 GB, or half of the free disk
        space and its own, whichever is less.
    """

    def __init__(
        self,
        root: Path,
        *,
        progress: Progress,
        remote: str | None = None,
        limit: int | None = None,
    ) -> None:
        self.root = root.absolute()
        self._progress = progress
        self._layout = StoreLayout(self.root)
        self._locks = NamedLocks(self._layout.locks, progress)
        self._garbage = GarbageCollector(self._layout, self._locks, progress, limit)
        self._remote = _remote(remote, progress) if remote else None
        self._guard = threading.RLock()
        self._in_use: dict[tuple[str, str], _InUse] = {}
        self._workdir_locks: dict[Path, FileLock] = {}

    def close(self) -> None:
        """Release all entries and work directories; needed only if the process goes on."""
        with self._guard:
            for lock in (
                *(use.lock for use in self._in_use.values()),
                *self._workdir_locks.values(),
            ):
                lock.release()
            self._in_use.clear()
            self._workdir_locks.clear()

    def get(self, kind: str, key: str) -> Entry | None:
        """Return an entry, locked and checked by names, sizes and times; None if there is none.

        A broken entry is reported, and moved to the quarantine.
        """
        with self._guard:
            directory = self._layout.entry(kind, key)
            use = self._in_use.get((kind, key))
            if use is not None:
                whole = quick_check(directory / FILES, use.manifest) == QuickCheck()
                if whole and use.lock.is_on(directory / USE):
                    use.lock.touch()
                    return use.entry
                del self._in_use[kind, key]
                use.lock.release()
            try:
                with explained(f"cannot read {directory}"):
                    opened = self._layout.open(kind, key)
            except BrokenEntry as broken:
                self._quarantine(kind, key, broken)
                return None
            return None if opened is None else self._use(*opened)

    def examine(self, entry: Entry) -> str:
        """Read an entry in full; return what is wrong with it, "" if nothing is.

        :meth:`get` compares sizes and times only.
        """
        with self._guard:
            manifest = self._in_use[entry.kind, entry.key].manifest
        return difference(entry.path, manifest)

    def discard(self, kind: str, key: str, why: str) -> None:
        """Move an entry to the quarantine that its user found to be of no use.

        :param why: the reason, for the report.
        """
        with self._guard:
            use = self._in_use.pop((kind, key), None)
            self._quarantine(kind, key, BrokenEntry(why, use.lock if use else None))

    def make(
        self,
        kind: str,
        key: str,
        build: Callable[[Path], None],
        *,
        label: str,
        about: Mapping[str, object] = {},
        timeout: float | None = None,
        shared: bool = True,
    ) -> Entry:
        """Return an entry, and build it first if there is none.

        If several processes need it at once, one builds it; the others report that they wait.

        :param build: called with an empty directory to put the files in.
        :param label: its name in messages.
        :param about: JSON values that are stored with it.
        :param timeout: seconds to wait for another process that builds it; by default 6 hours.
        :param shared: whether to look in the remote cache.
        :raises CacheError: it could not be stored.
        :raises TimeoutError: the other process did not finish in time.
        """
        entry = self.get(kind, key)
        if entry is not None:
            return entry
        with self.lock(f"{kind}-{key}", label=label, timeout=timeout):
            entry = self.get(kind, key)
            if entry is not None:
                return entry
            entry = self._make(kind, key, build, label, about, shared=shared)
        # An error here must not fail what was built; the next `make` prunes again.
        with contextlib.suppress(OSError, KgdbError):
            self._garbage.enforce_bound()
        return entry

    def lock(
        self, name: str, *, label: str, timeout: float | None = None
    ) -> AbstractContextManager[None]:
        """Hold the lock of a name, among all processes that use this cache.

        :param label: what it is for, in the messages of those who wait.
        :param timeout: seconds to wait for it; by default 6 hours.
        """
        self._layout.prepare()
        return self._locks.lock(checked(name), label, _WAIT_SECONDS if timeout is None else timeout)

    def try_lock(self, name: str) -> AbstractContextManager[bool]:
        """Hold the lock of a name if nobody does; the value is whether it was free."""
        self._layout.prepare()
        return self._locks.try_lock(checked(name))

    def workdir(self, kind: str, name: str) -> Path:
        """Return a directory that may be changed, such as a build tree; it is created if need be.

        Change it only under `lock(name)`. Pruning leaves it alone while that lock is held, and
        while a process lives that called this.
        """
        path = self._layout.workdir(kind, name)
        self._layout.prepare()
        with explained(f"cannot make {path}"):
            lock = self._layout.open_workdir(path)
        with self._guard:
            if path in self._workdir_locks:
                lock.release()
            else:
                self._workdir_locks[path] = lock
        return path

    def workdir_path(self, kind: str, name: str) -> Path:
        """Return the path of a work directory, which need not exist."""
        return self._layout.workdir(kind, name)

    def workdir_changed(self, kind: str, name: str) -> None:
        """Note that a work directory has another size, if that was so without its lock."""
        with contextlib.suppress(OSError):
            self._layout.workdir_size(self._layout.workdir(kind, name)).unlink()

    def memo(self, name: str, key: str, compute: Callable[[], str]) -> str:
        """Return the result of `compute`, from the disk if it was computed with this key before."""
        value = self.remembered(name, key)
        if value is None:
            value = compute()
            path = self._note(name, key)
            with contextlib.suppress(OSError):  # in a read-only cache it is computed each time
                path.parent.mkdir(parents=True, exist_ok=True)
                write_atomically(path, json.dumps({"key": key, "value": value}).encode())
        return value

    def remembered(self, name: str, key: str) -> str | None:
        """Return what `memo` has kept under a key; None if it would have to be computed."""
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            note = json.loads(self._note(name, key).read_bytes())
            if note["key"] == key and isinstance(note["value"], str):
                return str(note["value"])
        return None

    def _note(self, name: str, key: str) -> Path:
        return self._layout.memo / checked(name) / hashlib.sha256(key.encode()).hexdigest()[:32]

    def entries(self) -> list[EntryInfo]:
        """Return all items of the cache, the last used first."""
        with explained(f"cannot list {self.root}"):
            return self._garbage.entries()

    def bound(self, size: int) -> int:
        """Return the size in bytes to which the cache is kept.

        :param size: its present size, which with the free disk space limits it.
        """
        return self._garbage.bound(size)

    def prune(self, *, older_than: float | None = None, max_size: int | None = None) -> Removed:
        """Remove items that are old, then the least recently used until the rest fits.

        Items in use stay. Without arguments, the cache is pruned to its default bound.

        :param older_than: seconds since the last use.
        :param max_size: bytes.
        """
        if not self._layout.base.is_dir():
            return Removed([], 0, 0)
        self._layout.prepare()
        with explained(f"cannot prune {self.root}"):
            if older_than is None and max_size is None:
                max_size = self._garbage.bound(sum(info.size for info in self._garbage.entries()))
            return self._garbage.prune(older_than, max_size)

    def verify(self) -> list[Problem]:
        """Read every entry in full, move broken ones to the quarantine, and return them."""
        with explained(f"cannot verify {self.root}"):
            return self._garbage.verify()

    def push(self) -> list[EntryInfo]:
        """Copy the entries that the remote cache lacks to it, and return them.

        :raises ConfigError: there is no remote cache.
        :raises CacheError: it cannot be written to.
        """
        if self._remote is None:
            raise ConfigError("there is no remote cache to push to", hint="--kgdb-remote-cache=URL")
        pushed = []
        for info in self.entries():
            if info.state == "entry" and self._push(self._remote, info.kind, info.key):
                pushed.append(info)
        return pushed

    def _push(self, remote: Remote, kind: str, key: str) -> bool:
        try:
            if remote.has(kind, key) or self.get(kind, key) is None:
                return False
            use = self._in_use[kind, key]
            with self._drafted(kind, key, f"{kind} {key[:12]}") as scratch:
                remote.push(use.entry.path.parent, use.manifest, scratch.path / "upload")
        except KgdbError:
            raise
        # Each of fsspec's file systems raises errors of its own.
        except Exception as error:
            raise CacheError(
                f"cannot push {kind} {key[:12]} to {remote.url}: {error}",
                hint="it must be a place that can be written to: a directory or a bucket, not HTTP",
            ) from error
        return True

    def _make(
        self,
        kind: str,
        key: str,
        build: Callable[[Path], None],
        label: str,
        about: Mapping[str, object],
        *,
        shared: bool,
    ) -> Entry:
        json.dumps(dict(about))  # fail before an hour's build, not after it
        with explained(f"cannot clear up in {self.root}"):
            self._layout.remove_dead_drafts()
        if self._remote is not None and shared:
            remote = self._remote
            with self._drafted(kind, key, label) as draft:
                fetched = remote.fetch(kind, key, draft.path, label=label)
                if fetched is not None:
                    return self._store(draft, kind, key, label, fetched.about)
        with self._drafted(kind, key, label) as draft:
            try:
                build(draft.files)
            except OSError as error:
                if not is_no_room(error):
                    raise
                with explained(f"{label} could not be made in {draft.files}"):
                    raise
            return self._store(draft, kind, key, label, about)

    @contextlib.contextmanager
    def _drafted(self, kind: str, key: str, label: str) -> Iterator[Draft]:
        """Yield a new draft, and remove it at the end unless it became an entry."""
        with explained(f"cannot make room for {label}"):
            draft = self._layout.draft(kind, key)
        try:
            yield draft
        finally:  # also on Ctrl-C, which should leave no gigabytes behind
            if draft.path.exists():
                remove_tree(draft.path)
                draft.lock.release()

    def _store(
        self, draft: Draft, kind: str, key: str, label: str, about: Mapping[str, object]
    ) -> Entry:
        with explained(f"{label} was made but could not be stored in {self.root}"):
            try:
                manifest = make_manifest(
                    draft.files, kind=kind, key=key, about=about, created=time.time(), sync=True
                )
            except ValueError as error:
                raise CacheError(f"{label} cannot be stored: {error}") from error
            return self._use(self._layout.publish(draft, manifest), manifest)

    def _use(self, lock: FileLock, manifest: Manifest) -> Entry:
        lock.touch()
        kind, key = manifest.kind, manifest.key
        entry = Entry(kind, key, self._layout.entry(kind, key) / FILES, dict(manifest.about))
        with self._guard:
            self._in_use[kind, key] = _InUse(lock, manifest, entry)
        return entry

    def _quarantine(self, kind: str, key: str, broken: BrokenEntry) -> None:
        what = f"the cached {kind} {key[:12]} is broken ({broken})"
        try:
            with explained(f"cannot set {kind}/{key} aside"):
                moved_to = self._layout.move_to_quarantine(kind, key, broken.lock)
            if moved_to is not None:
                self._progress.say(f"{what}; it was moved to {moved_to}")
        except CacheError as error:
            self._progress.say(f"{what}, and is not used; {error.message}")
        finally:
            if broken.lock is not None:
                broken.lock.release()


def _remote(url: str, progress: Progress) -> Remote:
    # Imported lazily: few users have one, and the import takes time.
    from ._remote import Remote

    return Remote(url, progress)
