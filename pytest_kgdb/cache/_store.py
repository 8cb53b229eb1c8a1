"""The cache as its users see it."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from ..errors import CacheError, ConfigError, KgdbError
from ..progress import Progress
from ._care import Care, EntryInfo, Problem, Removed
from ._files import FILES, Glance, Manifest, difference, look_over, take_stock
from ._locks import Hold, Locks
from ._shelf import USE, BrokenEntry, Draft, Shelf, checked, explained, is_no_room, remove_tree

if TYPE_CHECKING:
    from ._remote import Remote

_PATIENCE_SECONDS: Final = 6 * 3600.0  # Debian's whole kernel on two cores takes hours


@dataclass(frozen=True)
class Entry:
    """Something in the cache, whole, and held: nobody removes it while this process lives."""

    kind: str
    key: str
    path: Path
    """The directory with its files; not to be written to."""
    about: Mapping[str, Any]
    """What its maker noted."""


class Cache:
    """A store of what takes long to make, by a key of all that it was made from.

    :param root: its directory; made when something is put in.
    :param remote: the URL of a cache that others share, asked before something is built.
    :param limit: bytes that it may take on the disk; by default 50 GB, or half of the disk space
        that is free or its own, whichever is less.
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
        self._shelf = Shelf(self.root)
        self._locks = Locks(self._shelf.locks, progress)
        self._care = Care(self._shelf, self._locks, progress, limit)
        self._remote = _remote(remote, progress) if remote else None
        self._guard = threading.RLock()
        self._held: dict[tuple[str, str], tuple[Hold, Manifest, Entry]] = {}
        self._held_works: dict[Path, Hold] = {}

    def close(self) -> None:
        """Let go of everything; only for who goes on living without it."""
        with self._guard:
            for hold in (*(held[0] for held in self._held.values()), *self._held_works.values()):
                hold.release()
            self._held.clear()
            self._held_works.clear()

    def get(self, kind: str, key: str) -> Entry | None:
        """Return an entry, held and looked over, None if there is none.

        A broken one is moved to the quarantine, and said to be so.
        """
        with self._guard:
            directory = self._shelf.entry(kind, key)
            known = self._held.get((kind, key))
            if known is not None:
                hold, manifest, entry = known
                whole = look_over(directory / FILES, manifest) == Glance()
                if whole and hold.is_on(directory / USE):
                    hold.touch()
                    return entry
                del self._held[kind, key]
                hold.release()
            try:
                with explained(f"cannot read {directory}"):
                    opened = self._shelf.open(kind, key)
            except BrokenEntry as broken:
                self._quarantine(kind, key, broken)
                return None
            return None if opened is None else self._keep(*opened)

    def examine(self, entry: Entry) -> str:
        """Read an entry in full; return what is wrong with it, or nothing.

        :meth:`get` compares sizes and times only.
        """
        with self._guard:
            _, manifest, _ = self._held[entry.kind, entry.key]
        return difference(entry.path, manifest)

    def discard(self, kind: str, key: str, why: str) -> None:
        """Set aside an entry that is whole and yet of no use, as its user found out."""
        with self._guard:
            known = self._held.pop((kind, key), None)
            self._quarantine(kind, key, BrokenEntry(why, known[0] if known else None))

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
        """Return an entry, and make it first if there is none.

        Of all processes that want it at once one makes it; the others say that they wait.

        :param build: called with an empty directory to put the files in.
        :param label: what the messages call it.
        :param about: kept with it, for listings and for who gets it; JSON values.
        :param timeout: seconds to wait for another process that makes it.
        :param shared: whether it is worth asking the remote cache for.
        :raises CacheError: it could not be stored.
        :raises TimeoutError: the other process did not come to an end.
        """
        entry = self.get(kind, key)
        if entry is not None:
            return entry
        with self._hold_lock(f"{kind}-{key}", label, timeout):
            entry = self.get(kind, key)
            if entry is not None:
                return entry
            entry = self._make(kind, key, build, label, about, shared=shared)
        # It was made, whatever becomes of this; the next one tries again.
        with contextlib.suppress(OSError, KgdbError):
            self._care.keep_bound()
        return entry

    def lock(
        self, name: str, *, label: str, timeout: float | None = None
    ) -> AbstractContextManager[None]:
        """Hold a lock of that name among all processes that use this cache.

        :param label: what those who wait are told that they wait for.
        :param timeout: seconds to wait for it.
        """
        return self._hold_lock(name, label, timeout)

    def workdir(self, kind: str, name: str) -> Path:
        """Return a directory for changing things, a build tree for one; made if missing.

        Change it only under `lock(name)`. It is not removed to make room while that is held, nor
        while a process lives that asked for it.
        """
        path = self._shelf.work / checked(kind) / checked(name)
        self._shelf.prepare()
        with explained(f"cannot make {path}"):
            hold = self._shelf.open_work(kind, name)
        with self._guard:
            if path in self._held_works:
                hold.release()
            else:
                self._held_works[path] = hold
        return path

    def memo(self, name: str, key: str, compute: Callable[[], str]) -> str:
        """Return what `compute` returned when it was last asked with this key."""
        path = self._shelf.memo / checked(name) / hashlib.sha256(key.encode()).hexdigest()[:32]
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            note = json.loads(path.read_bytes())
            if note["key"] == key and isinstance(note["value"], str):
                return str(note["value"])
        value = compute()
        beside = path.with_name(f"{path.name}.{os.getpid()}.{threading.get_ident()}.new")
        with contextlib.suppress(OSError):  # a cache that cannot be written to only costs time
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                beside.write_text(json.dumps({"key": key, "value": value}))
                beside.replace(path)
            finally:
                beside.unlink(missing_ok=True)
        return value

    def entries(self) -> list[EntryInfo]:
        """Return everything in the cache, last used first."""
        with explained(f"cannot list {self.root}"):
            return self._care.entries()

    def prune(self, *, older_than: float | None = None, max_size: int | None = None) -> Removed:
        """Remove what is old, and the least recently used until the rest fits.

        What is in use stays.

        :param older_than: seconds since the last use.
        :param max_size: bytes; by default the cache's own bound.
        """
        if not self._shelf.base.is_dir():
            return Removed([], 0, 0)
        self._shelf.prepare()
        with explained(f"cannot prune {self.root}"):
            if older_than is None and max_size is None:
                max_size = self._care.bound(sum(info.size for info in self._care.entries()))
            return self._care.prune(older_than, max_size)

    def verify(self) -> list[Problem]:
        """Read every entry in full, move the broken to the quarantine, and return what was."""
        with explained(f"cannot verify {self.root}"):
            return self._care.verify()

    def push(self) -> list[EntryInfo]:
        """Copy what the remote cache does not have there, and return what that was.

        :raises CacheError: it takes nothing.
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
            _, manifest, entry = self._held[kind, key]
            scratch = self._shelf.draft(kind, key)
            try:
                remote.push(entry.path.parent, manifest, scratch.path / "upload")
            finally:
                remove_tree(scratch.path)
                scratch.hold.release()
        except KgdbError:
            raise
        # Each file system and each of its libraries has its own errors.
        except Exception as error:
            raise CacheError(
                f"cannot push {kind} {key[:12]} to {remote.url}: {error}",
                hint="it must be a place that can be written to: a directory or a bucket, not HTTP",
            ) from error
        return True

    def _hold_lock(
        self, name: str, label: str, timeout: float | None
    ) -> AbstractContextManager[None]:
        self._shelf.prepare()
        patience = _PATIENCE_SECONDS if timeout is None else timeout
        return self._locks.held(checked(name), label, patience)

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
        json.dumps(dict(about))  # what is no JSON is better found before an hour's work
        with explained(f"cannot clear up in {self.root}"):
            self._shelf.clear_up()
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
        """A new draft, removed at the end if no entry came of it."""
        with explained(f"cannot make room for {label}"):
            draft = self._shelf.draft(kind, key)
        try:
            yield draft
        finally:  # also for a Ctrl-C, which should not leave gigabytes to `clear_up`
            if draft.path.exists():
                remove_tree(draft.path)
                draft.hold.release()

    def _store(
        self, draft: Draft, kind: str, key: str, label: str, about: Mapping[str, object]
    ) -> Entry:
        with explained(f"{label} was made but could not be stored in {self.root}"):
            try:
                manifest = take_stock(
                    draft.files, kind=kind, key=key, about=about, created=time.time(), sync=True
                )
            except ValueError as error:
                raise CacheError(f"{label} cannot be stored: {error}") from error
            return self._keep(self._shelf.publish(draft, manifest), manifest)

    def _keep(self, hold: Hold, manifest: Manifest) -> Entry:
        hold.touch()
        kind, key = manifest.kind, manifest.key
        entry = Entry(kind, key, self._shelf.entry(kind, key) / FILES, dict(manifest.about))
        with self._guard:
            self._held[kind, key] = hold, manifest, entry
        return entry

    def _quarantine(self, kind: str, key: str, broken: BrokenEntry) -> None:
        what = f"the cached {kind} {key[:12]} is broken ({broken})"
        try:
            with explained(f"cannot set {kind}/{key} aside"):
                place = self._shelf.put_aside(kind, key, broken.hold)
            if place is not None:
                self._progress.say(f"{what}; it was moved to {place}")
        except CacheError as error:
            self._progress.say(f"{what}, and is not used; {error.message}")
        finally:
            if broken.hold is not None:
                broken.hold.release()


def _remote(url: str, progress: Progress) -> Remote:
    # Imported where there is one: few have one, and all pay for an import.
    from ._remote import Remote

    return Remote(url, progress)
