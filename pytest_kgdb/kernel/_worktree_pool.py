"""A pool of source trees in the cache that are changed only while nobody reads them."""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from ..cache import Cache
from ..errors import CacheError
from ..process import FileLock

_MOST: Final = 16  # so many versions of one source in use at a time are a mistake
_USE: Final = "use"
_CONTENT: Final = "content"
_BASE: Final = "base"


@dataclass(frozen=True)
class Worktree:
    """One source tree of the pool, locked until nothing refers to this object."""

    state_dir: Path
    """The directory with the tree and the notes on it."""
    first: Path
    """The state directory of the first tree of the pool."""
    lock: FileLock = field(repr=False)

    def __post_init__(self) -> None:
        weakref.finalize(self, self.lock.release)

    @property
    def tree(self) -> Path:
        """The directory with the source."""
        return self.state_dir / "src"

    @property
    def first_tree(self) -> Path:
        """The directory with the source in the first tree of the pool."""
        return self.first / "src"

    def has(self, content: str) -> bool:
        """Whether it has this content, completely."""
        return _note(self.state_dir, _CONTENT) == content

    def has_base(self, base: str) -> bool:
        """Whether it has this content, apart from patches."""
        return _note(self.state_dir, _BASE) == base

    def commit(self, content: str, base: str) -> None:
        """Note what it contains now, and let others read it.

        :param base: its content without patches.
        """
        (self.state_dir / _BASE).write_text(base)
        (self.state_dir / _CONTENT).write_text(content)
        self.lock.share()

    def begin_patching(self) -> None:
        """Note that files are about to change: it has no known content until `commit`."""
        (self.state_dir / _CONTENT).unlink(missing_ok=True)

    def begin_replacing(self) -> None:
        """Note that the source is about to be replaced: it has no known base until `commit`."""
        self.begin_patching()
        (self.state_dir / _BASE).unlink(missing_ok=True)


class WorktreePool:
    """The trees of one source: a single one unless two contents are needed at a time.

    Only files that differ are compiled again when a tree changes from one content to another.

    :param name: the name of the source: of the work directory, and of its lock.
    """

    def __init__(self, cache: Cache, name: str) -> None:
        self._cache, self._name = cache, name

    def find(self, content: str) -> Worktree | None:
        """Return the tree with a content, locked so that it stays; None if there is none."""
        for first, state_dir in self._directories():
            if _note(state_dir, _CONTENT) != content:
                continue
            try:
                lock = FileLock.shared(state_dir / _USE, create=True)
            except OSError:  # it is being changed
                continue
            worktree = Worktree(state_dir, first, lock)
            if worktree.has(content):
                return worktree
            lock.release()
        return None

    def find_free(self, base: str) -> Worktree | None:
        """Return a tree with a base that is not in use, to be patched; None if there is none."""
        for first, state_dir in self._directories():
            if _note(state_dir, _BASE) == base:
                with contextlib.suppress(OSError):
                    lock = FileLock.exclusive(state_dir / _USE, create=True)
                    return Worktree(state_dir, first, lock)
        return None

    @contextlib.contextmanager
    def claim(self, content: str, label: str) -> Iterator[Worktree]:
        """Hold a tree that has a content, or that may be changed to have it.

        :param label: the source's name in messages.
        :raises CacheError: all trees are in use.
        """
        with self._cache.lock(self._name, label=label):
            yield self.find(content) or self._free()

    def _free(self) -> Worktree:
        for first, state_dir in self._directories():
            state_dir.mkdir(exist_ok=True)
            with contextlib.suppress(BlockingIOError):
                lock = FileLock.exclusive(state_dir / _USE, create=True)
                return Worktree(state_dir, first, lock)
        raise CacheError(
            f"{_MOST} contents of {self._name} are in use at the same time",
            hint="end some of the sessions that use it (fuser tells which)",
        )

    def _directories(self) -> Iterator[tuple[Path, Path]]:
        first = self._cache.workdir("tree", self._name)
        yield first, first
        for number in range(2, _MOST + 1):  # rarely needed
            yield first, first / str(number)


def _note(state_dir: Path, name: str) -> str:
    try:
        return (state_dir / name).read_text() if (state_dir / "src").is_dir() else ""
    except OSError:
        return ""
