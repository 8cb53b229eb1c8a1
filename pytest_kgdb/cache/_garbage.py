"""Listing, pruning and verifying what the cache holds."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple

from ..process import FileLock
from ..progress import Progress
from ._files import FILES, MANIFEST, Manifest, difference, disk_usage, write_atomically
from ._locks import NamedLocks, command_of, users_of
from ._store_layout import USE, BrokenEntry, StoreLayout, remove_tree

_DAY: Final = 86400.0
_QUARANTINE_SECONDS: Final = 7 * _DAY  # time to examine what broke
_MEMO_SECONDS: Final = 90 * _DAY
_BOUND_BYTES: Final = 50 * 10**9
_SURVEY_SECONDS: Final = 60.0  # between two surveys of a cache in which much more fits
_MUCH_BYTES: Final = 8 * 10**9  # more than a minute's builds take
_LONG_WALK: Final = 0.05  # seconds
_WALK_SHARE: Final = 100  # a walk takes at most a hundredth of the time
_BOUND_SHARE: Final = 0.5  # of the disk space that is free or ours


class EntryInfo(NamedTuple):
    """One item of the cache, for listings."""

    state: Literal["entry", "work", "broken"]
    """An entry, a work directory, or a broken entry in the quarantine."""
    kind: str
    key: str
    about: Mapping[str, Any]
    size: int
    """Bytes that it uses on the disk."""
    last_used: float
    """Seconds since the epoch."""
    path: Path
    in_use: bool = False
    kept: str = ""
    """Why it has not been removed."""


class Problem(NamedTuple):
    """A broken entry that `verify` found."""

    kind: str
    key: str
    reason: str
    moved_to: Path | None
    """Its path in the quarantine; None if it could not be moved."""


class Removed(NamedTuple):
    """The result of pruning."""

    entries: list[EntryInfo]
    size_before: int
    size_after: int


class GarbageCollector:
    """Lists, prunes and verifies one cache.

    :param limit: the size in bytes to keep it to; by default as `bound` says.
    """

    def __init__(
        self, layout: StoreLayout, locks: NamedLocks, progress: Progress, limit: int | None
    ) -> None:
        self._layout = layout
        self._locks = locks
        self._progress = progress
        self._limit = limit

    def entries(self) -> list[EntryInfo]:
        """Return all items of the cache, the last used first."""
        items = list(self._survey())
        bound = self.bound(sum(info.size for info in items))
        fits = f"the cache is within its bound of {shown_size(bound)}"
        listed = []
        for info in items:
            user = self._user(info)
            if user:
                kept = f"in use by {user}"
            elif info.state == "broken":
                kept = f"in the quarantine for {_QUARANTINE_SECONDS / _DAY:g} days"
            else:
                kept = fits
            listed.append(info._replace(in_use=bool(user), kept=kept))
        return sorted(listed, key=lambda info: -info.last_used)

    def prune(self, older_than: float | None, max_size: int | None) -> Removed:
        """Remove items that are old, then the least recently used until the rest fits.

        Items in use stay, even if they exceed the size.

        :param older_than: seconds since the last use.
        :param max_size: bytes.
        """
        self._layout.remove_dead_drafts()
        self._prune_memos()
        now = time.time()
        items = sorted(self._survey(), key=lambda info: info.last_used)
        removed = []
        left = before = sum(info.size for info in items)
        for info in sorted(items, key=lambda info: info.state != "broken"):  # the broken first
            age = now - info.last_used
            old = older_than is not None and age >= older_than
            if info.state == "broken":
                old = old or age >= _QUARANTINE_SECONDS
            too_much = max_size is not None and left > max_size
            if (old or too_much) and self._remove(info):
                removed.append(info)
                left -= info.size
        return Removed(removed, before, left)

    def enforce_bound(self) -> None:
        """Prune to the default bound, and report what was removed.

        Each survey walks the work directories that were used since the last one, a second for a
        kernel tree: while there is much room, one in a while is enough.
        """
        if self._has_room():
            return
        size = sum(info.size for info in self._survey())
        bound = self.bound(size)
        if size <= bound:
            self._note_room(bound - size)
            return
        removed = self.prune(None, bound)
        if removed.entries:
            self._progress.say(
                f"the cache was larger than its bound of {shown_size(bound)}: removed the"
                f" {len(removed.entries)} least recently used of its parts"
                f" ({shown_size(removed.size_before - removed.size_after)})"
            )
        if removed.size_after > bound:
            self._progress.say(
                f"the cache in {self._layout.root} takes {shown_size(removed.size_after)}, more"
                f" than its bound of {shown_size(bound)}: the rest is in use"
            )

    def _has_room(self) -> bool:
        """Whether a survey has just found that much more fits in."""
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            record = json.loads(self._layout.room.read_bytes())
            age = time.time() - float(record["at"])
            # Another bound: of another process, or of the tests.
            same = record["limit"] == self._limit
            return same and 0 <= age < _SURVEY_SECONDS and int(record["room"]) >= _MUCH_BYTES
        return False

    def _note_room(self, room: int) -> None:
        record = {"at": time.time(), "room": room, "limit": self._limit}
        with contextlib.suppress(OSError):
            write_atomically(self._layout.room, json.dumps(record).encode())

    def bound(self, size: int) -> int:
        """Return the size in bytes to which a cache is kept.

        It is 50 GB, or half of the free disk space and the cache's own, whichever is less.

        :param size: the cache's present size in bytes.
        """
        if self._limit is not None:
            return self._limit
        try:
            free = shutil.disk_usage(self._layout.base).free
        except OSError:
            return _BOUND_BYTES
        return min(_BOUND_BYTES, int((free + size) * _BOUND_SHARE))

    def verify(self) -> list[Problem]:
        """Read every entry in full, and move broken ones to the quarantine."""
        problems = []
        names = list(self._layout.entries())
        with self._progress.stage("verifying the cache") as stage:
            for number, (kind, key) in enumerate(names):
                stage.update(number, len(names), f"{kind} {key[:12]}")
                try:
                    self._verify(kind, key)
                except BrokenEntry as broken:
                    moved_to = None
                    with contextlib.suppress(OSError):
                        moved_to = self._layout.move_to_quarantine(kind, key, broken.lock)
                    problems.append(Problem(kind, key, str(broken), moved_to))
                    if broken.lock is not None:
                        broken.lock.release()
        return problems

    def _verify(self, kind: str, key: str) -> None:
        opened = self._layout.open(kind, key)
        if opened is None:  # pruned meanwhile
            return
        lock, manifest = opened
        if wrong := difference(self._layout.entry(kind, key) / FILES, manifest):
            raise BrokenEntry(wrong, lock)
        lock.release()

    def _survey(self) -> Iterator[EntryInfo]:
        for kind, key in self._layout.entries():
            path = self._layout.entry(kind, key)
            with contextlib.suppress(OSError):  # removed meanwhile
                used = (path / USE).stat().st_mtime
                try:
                    manifest = Manifest.load((path / MANIFEST).read_bytes())
                    about, size = manifest.about, manifest.room
                except ValueError:  # `verify` reports it
                    about, size = {}, disk_usage(path)
                yield EntryInfo("entry", kind, key, about, size, used, path)
        for kind, name in self._layout.workdirs():
            path = self._layout.workdir(kind, name)
            with contextlib.suppress(OSError):
                used = path.stat().st_mtime
                yield EntryInfo("work", kind, name, {}, self._workdir_size(path), used, path)
        for path in _children(self._layout.quarantine):
            with contextlib.suppress(OSError):
                moved = path.stat().st_ctime  # a rename changes it
                yield EntryInfo(
                    "broken", "quarantine", path.name, {}, disk_usage(path), moved, path
                )

    def _workdir_size(self, path: Path) -> int:
        """Return the bytes that a work directory uses on the disk.

        Walking a kernel tree takes seconds; the result is kept until the directory is used again,
        and at least for a hundred times as long as the walk took: what is built meanwhile is little
        against the bound.
        """
        note = self._layout.workdir_size(path)
        now = time.time()
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            record = json.loads(note.read_bytes())
            if record["at"] > self._locks.released(path.name):
                return int(record["size"])
            seconds = float(record.get("seconds", 0.0))
            if seconds >= _LONG_WALK and 0 <= now - record["at"] < seconds * _WALK_SHARE:
                return int(record["size"])
        began = time.monotonic()
        size = disk_usage(path)
        seconds = round(time.monotonic() - began, 3)
        with contextlib.suppress(OSError):
            note.write_text(json.dumps({"size": size, "at": now, "seconds": seconds}))
        return size

    def _user(self, info: EntryInfo) -> str:
        """Return who uses an item, "" if nobody does."""
        if info.state == "work":
            with self._locks.try_lock(info.key) as free:
                if not free:
                    return str(self._locks.holder(info.key) or "another process")
        if info.state == "broken":
            return ""
        use = self._layout.workdir_use(info.path) if info.state == "work" else info.path / USE
        try:
            FileLock.exclusive(use).release()
            return ""
        except BlockingIOError:
            pass
        except OSError:
            return ""
        users = users_of(use)
        if os.getpid() in users:
            return "this process"
        named = [f"process {pid} ({command_of(pid)})" for pid in users]
        return ", ".join(named) or "another process"

    def _remove(self, info: EntryInfo) -> bool:
        if info.state == "entry":
            return self._layout.remove_entry(info.path)
        if info.state == "broken":
            remove_tree(info.path)
            return not info.path.exists()
        with self._locks.try_lock(info.key) as free:
            return free and self._layout.remove_workdir(info.path)

    def _prune_memos(self) -> None:
        oldest = time.time() - _MEMO_SECONDS
        for directory in _children(self._layout.memo):
            for path in _children(directory):
                with contextlib.suppress(OSError):
                    if path.stat().st_mtime < oldest:
                        path.unlink()


def shown_size(size: float) -> str:
    """Return a size for messages: `230 MB`, `4.2 GB`."""
    for unit in ("kB", "MB"):
        size /= 1000
        if size < 999.5:
            return f"{size:.0f} {unit}"
    return f"{size / 1000:.1f} GB"


def _children(path: Path) -> list[Path]:
    try:
        return sorted(path.iterdir())
    except OSError:
        return []
