"""What the cache holds, what it costs, and what goes when it is too much."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple

from ..progress import Progress
from ._files import FILES, MANIFEST, Manifest, difference, measure
from ._locks import Hold, Locks, command_of, users_of
from ._shelf import USE, BrokenEntry, Shelf, remove_tree

_DAY: Final = 86400.0
_QUARANTINE_SECONDS: Final = 7 * _DAY  # long enough to look at what broke
_MEMO_SECONDS: Final = 90 * _DAY
_BOUND_BYTES: Final = 50 * 10**9
_BOUND_SHARE: Final = 0.5  # of the disk space that is free or ours


class EntryInfo(NamedTuple):
    """One thing in the cache, for a listing."""

    state: Literal["entry", "work", "broken"]
    """A whole entry, a directory being worked in, or something in the quarantine."""
    kind: str
    key: str
    about: Mapping[str, Any]
    size: int
    """Bytes on the disk."""
    last_used: float
    """Seconds since the epoch."""
    path: Path
    in_use: bool = False
    kept: str = ""
    """Why it is still there."""


class Problem(NamedTuple):
    """An entry that is not what it was."""

    kind: str
    key: str
    reason: str
    moved_to: Path | None
    """Where it is in the quarantine; None if it could not be moved."""


class Removed(NamedTuple):
    """What a pruning came to."""

    entries: list[EntryInfo]
    size_before: int
    size_after: int


class Care:
    """The housekeeping of one cache."""

    def __init__(self, shelf: Shelf, locks: Locks, progress: Progress, limit: int | None) -> None:
        self._shelf = shelf
        self._locks = locks
        self._progress = progress
        self._limit = limit

    def entries(self) -> list[EntryInfo]:
        """Return everything in the cache, last used first."""
        found = list(self._survey())
        bound = self.bound(sum(info.size for info in found))
        fits = f"the cache is within its bound of {shown_size(bound)}"
        listed = []
        for info in found:
            user = self._user(info)
            if user:
                kept = f"in use by {user}"
            elif info.state == "broken":
                kept = f"to be looked at for {_QUARANTINE_SECONDS / _DAY:g} days"
            else:
                kept = fits
            listed.append(info._replace(in_use=bool(user), kept=kept))
        return sorted(listed, key=lambda info: -info.last_used)

    def prune(self, older_than: float | None, max_size: int | None) -> Removed:
        """Remove what is old, and the least recently used until the rest fits.

        What is in use stays, whatever that means for the size.
        """
        self._shelf.clear_up()
        self._prune_memos()
        now = time.time()
        found = sorted(self._survey(), key=lambda info: info.last_used)
        removed = []
        left = before = sum(info.size for info in found)
        for info in sorted(found, key=lambda info: info.state != "broken"):  # those first
            age = now - info.last_used
            old = older_than is not None and age >= older_than
            if info.state == "broken":
                old = old or age >= _QUARANTINE_SECONDS
            too_much = max_size is not None and left > max_size
            if (old or too_much) and self._remove(info):
                removed.append(info)
                left -= info.size
        return Removed(removed, before, left)

    def keep_bound(self) -> None:
        """Prune to the default bound, and say so if something went."""
        size = sum(info.size for info in self._survey())
        bound = self.bound(size)
        if size <= bound:
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
                f"the cache in {self._shelf.root} takes {shown_size(removed.size_after)}, more"
                f" than its bound of {shown_size(bound)}: the rest is in use"
            )

    def bound(self, size: int) -> int:
        """Return the size that a cache which is now so large is kept to.

        50 GB, or half of the disk space that is free or its own, whichever is less.
        """
        if self._limit is not None:
            return self._limit
        try:
            free = shutil.disk_usage(self._shelf.base).free
        except OSError:
            return _BOUND_BYTES
        return min(_BOUND_BYTES, int((free + size) * _BOUND_SHARE))

    def verify(self) -> list[Problem]:
        """Read every entry in full; move those that are broken to the quarantine."""
        problems = []
        names = list(self._shelf.entries())
        with self._progress.stage("verifying the cache") as stage:
            for number, (kind, key) in enumerate(names):
                stage.update(number, len(names), f"{kind} {key[:12]}")
                try:
                    self._verify(kind, key)
                except BrokenEntry as broken:
                    place = None
                    with contextlib.suppress(OSError):
                        place = self._shelf.put_aside(kind, key, broken.hold)
                    problems.append(Problem(kind, key, str(broken), place))
                    if broken.hold is not None:
                        broken.hold.release()
        return problems

    def _verify(self, kind: str, key: str) -> None:
        opened = self._shelf.open(kind, key)
        if opened is None:  # pruned just now
            return
        hold, manifest = opened
        if wrong := difference(self._shelf.entry(kind, key) / FILES, manifest):
            raise BrokenEntry(wrong, hold)
        hold.release()

    def _survey(self) -> Iterator[EntryInfo]:
        for kind, key in self._shelf.entries():
            path = self._shelf.entry(kind, key)
            with contextlib.suppress(OSError):  # removed just now
                used = (path / USE).stat().st_mtime
                try:
                    manifest = Manifest.load((path / MANIFEST).read_bytes())
                    about, size = manifest.about, manifest.room
                except ValueError:  # for `verify` to find
                    about, size = {}, measure(path)
                yield EntryInfo("entry", kind, key, about, size, used, path)
        for kind, name in self._shelf.works():
            path = self._shelf.work / kind / name
            with contextlib.suppress(OSError):
                used = path.stat().st_mtime
                yield EntryInfo("work", kind, name, {}, self._measure(path), used, path)
        for path in _children(self._shelf.quarantine):
            with contextlib.suppress(OSError):
                moved = path.stat().st_ctime  # a rename changes it
                yield EntryInfo("broken", "quarantine", path.name, {}, measure(path), moved, path)

    def _measure(self, path: Path) -> int:
        """Return the size of a work directory.

        Reading a kernel tree takes a second: once for each time that it was worked in.
        """
        note = path.with_name(f".{path.name}.size")
        now = time.time()
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            known = json.loads(note.read_bytes())
            if known["at"] > self._locks.released(path.name):
                return int(known["size"])
        size = measure(path)
        with contextlib.suppress(OSError):
            note.write_text(json.dumps({"size": size, "at": now}))
        return size

    def _user(self, info: EntryInfo) -> str:
        """Who uses it, "" if nobody does."""
        if info.state == "work":
            with self._locks.held_if_free(info.key) as free:
                if not free:
                    return str(self._locks.holder(info.key) or "another process")
        if info.state == "broken":
            return ""
        use = info.path / USE
        if info.state == "work":
            use = info.path.with_name(f".{info.key}.{USE}")
        try:
            hold = Hold.exclusive(use)
        except OSError:
            return ""
        if hold is not None:
            hold.release()
            return ""
        users = users_of(use)
        if os.getpid() in users:
            return "this process"
        named = [f"process {pid} ({command_of(pid)})" for pid in users]
        return ", ".join(named) or "another process"

    def _remove(self, info: EntryInfo) -> bool:
        if info.state == "entry":
            return self._shelf.take_away(info.path)
        if info.state == "broken":
            remove_tree(info.path)
            return not info.path.exists()
        with self._locks.held_if_free(info.key) as free:
            return free and self._shelf.take_away_work(info.path)

    def _prune_memos(self) -> None:
        oldest = time.time() - _MEMO_SECONDS
        for directory in _children(self._shelf.memo):
            for path in _children(directory):
                with contextlib.suppress(OSError):
                    if path.stat().st_mtime < oldest:
                        path.unlink()


def shown_size(size: float) -> str:
    """Return a size as people say it: `230 MB`, `4.2 GB`."""
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
