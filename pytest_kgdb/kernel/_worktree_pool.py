"""A pool of source trees in the cache that are changed only while nobody reads them."""

from __future__ import annotations

import contextlib
import shutil
import weakref
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from ..cache import Cache
from ..errors import CacheError
from ..process import FileLock
from ._object_pool import ObjectsInTree, prune
from ._seed import link_sources
from ._spec import OBJECTS

_MOST: Final = 16  # so many versions of one source in use at a time are a mistake
_USE: Final = "use"
_CONTENT: Final = "content"
_BASE: Final = "base"
_STATE: Final = ("originals", "patched.json", "git")  # what patches and git know of a tree


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

    @contextlib.contextmanager
    def claim_free(self, base: str) -> Iterator[Worktree | None]:
        """Hold a tree with a base that is not in use, to be patched; None if nothing is free."""
        with self._cache.try_lock(self._name) as free:
            yield self._find_free(base) if free else None

    def _find_free(self, base: str) -> Worktree | None:
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

    def seed(self, worktree: Worktree, base: str) -> None:
        """Begin a new tree with the files of another, and with its objects of a configuration.

        Then only what differs between the two contents is compiled.

        :param base: the base configuration of the objects.
        """
        if worktree.tree.exists():
            return
        for first, state_dir in self._directories():
            content = _note(state_dir, _CONTENT)
            if state_dir == worktree.state_dir or not content:
                continue
            with contextlib.suppress(OSError):
                lock = FileLock.shared(state_dir / _USE, create=True)
                try:
                    if _note(state_dir, _CONTENT) == content:
                        _clone(state_dir, worktree, first / "src", base)
                        return
                finally:
                    lock.release()

    def prune(self) -> None:
        """Remove the build directories that were not used for longest, after a build."""
        self._cache.workdir_changed("tree", self._name)
        with self._cache.try_lock(self._name) as free:
            if free:
                prune(
                    [
                        ObjectsInTree(path, path / "src", first / "src")
                        for first, path in self._directories()
                    ]
                )

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


def _clone(source: Path, worktree: Worktree, debug_tree: Path, base: str) -> None:
    """Make a tree of the files of another, which is locked."""
    target = worktree.state_dir
    link_sources(source / "src", worktree.tree)
    for name in _STATE:
        if (source / name).is_dir():
            shutil.copytree(source / name, target / name, symlinks=True, dirs_exist_ok=True)
        elif (source / name).exists():
            shutil.copy2(source / name, target / name)
    # Objects are of some use only, and right only, while the tree has the times of the original.
    (target / _BASE).write_text(_note(source, _BASE))
    (target / _CONTENT).write_text(_note(source, _CONTENT))
    pool = ObjectsInTree(source, source / "src", debug_tree)
    pool.seed(base, worktree.tree / f"{OBJECTS}{base}")
