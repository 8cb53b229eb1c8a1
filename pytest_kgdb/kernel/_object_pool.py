"""The build directories in a worktree of the cache: one for each configuration.

A second configuration begins with the objects of another one, so that only what they differ in is
compiled, and neither undoes the other's.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Final, NamedTuple

from ..cache import Cache
from ..deadline import Deadline
from ..process import FileLock
from ._seed import STARTED, Unusable, copy_objects
from ._spec import OBJECTS

MOST_OBJECTS: Final = 8
"""Build directories of one source that are kept, 1 GB each; more only while they are in use."""

LOG: Final = "make.log"
"""The file of a state directory with make's output."""

_STATE: Final = "build-"
_VARIANT: Final = "."  # in a name, between the base and what distinguishes a configuration
_REMOVED: Final = ".removed"
_WAIT_SECONDS: Final = 600.0
_LOCK: Final = "building"  # of a state directory: held by the builder, and by who removes it


class BuildDirectory(NamedTuple):
    """Where a kernel is built."""

    state_dir: Path
    objects: Path
    debug_objects: Path
    """The build directory in the debug information."""
    flags: str
    """Options for the compiler and the assembler."""


class ObjectPool(ABC):
    """The build directories of one source tree."""

    @abstractmethod
    def directory(self, base: str, variant: str) -> BuildDirectory:
        """Return the build directory of a configuration, which need not exist.

        :param base: the name of the base configuration.
        :param variant: what distinguishes this configuration from others on the base; "" for the
            base itself.
        """

    @abstractmethod
    def lock_name(self, directory: BuildDirectory) -> str:
        """Return the name of the lock that its builder holds."""

    @abstractmethod
    def others(self, base: str) -> Iterator[BuildDirectory]:
        """Yield the build directories of all configurations on a base, the last used first."""

    @contextlib.contextmanager
    def open(self, cache: Cache, base: str, variant: str, label: str) -> Iterator[BuildDirectory]:
        """Hold the build directory of a configuration; it is made if need be.

        :param label: what is built, in messages.
        """
        directory = self.directory(base, variant)
        with cache.lock(self.lock_name(directory), label=label):
            lock = _locked(directory.state_dir)
            try:
                self._remove_logs(base, directory)
                if not directory.objects.is_dir():
                    self.seed(base, directory.objects)
                started = directory.state_dir / STARTED
                if not started.exists():  # of a build that was killed
                    started.touch()
                yield directory
                started.unlink()
            finally:
                lock.touch()
                lock.release()

    def _remove_logs(self, base: str, directory: BuildDirectory) -> None:  # noqa: B027
        """Remove the logs of earlier builds of other configurations, where there is one for all."""

    def seed(self, base: str, target: Path) -> None:
        """Begin a build directory with a copy of the last used one of a configuration on its base.

        The sources that the copy is for must be those of the original, with their times.
        """
        for other in self.others(base):
            if other.objects == target or not other.objects.is_dir():
                continue
            with contextlib.suppress(Unusable):
                copy_objects(other.objects, other.state_dir, target, self._texts(other, target))
                return

    @abstractmethod
    def _texts(self, other: BuildDirectory, target: Path) -> list[tuple[str, str]]:
        """Return what must be replaced in the command lines of a copy."""


class ObjectsApart(ObjectPool):
    """The build directories of a user's tree: each a work directory of the cache.

    :param name: begins the names of these work directories.
    """

    def __init__(self, cache: Cache, name: str) -> None:
        self._cache, self._name = cache, name

    def directory(self, base: str, variant: str) -> BuildDirectory:
        """See :meth:`ObjectPool.directory`."""
        name = f"{self._name}-{_name(base, variant)}"
        return self._of(self._cache.workdir("build", name))

    @staticmethod
    def _of(state_dir: Path) -> BuildDirectory:
        return BuildDirectory(state_dir, state_dir / "objects", state_dir / "objects", "")

    def lock_name(self, directory: BuildDirectory) -> str:
        """See :meth:`ObjectPool.lock_name`: the cache must know that the directory is in use."""
        return directory.state_dir.name

    def others(self, base: str) -> Iterator[BuildDirectory]:
        """See :meth:`ObjectPool.others`."""
        first = self._cache.workdir_path("build", f"{self._name}-{base}")
        for path in _last_used([first, *first.parent.glob(f"{first.name}{_VARIANT}*")]):
            yield self._of(path)

    def _remove_logs(self, base: str, directory: BuildDirectory) -> None:
        # One log of the last build of a user's tree: it is what one looks for after an error.
        for other in self.others(base):
            if other.state_dir != directory.state_dir:
                with contextlib.suppress(OSError):
                    lock = FileLock.exclusive(other.state_dir / _LOCK)
                    (other.state_dir / LOG).unlink(missing_ok=True)
                    lock.release()

    def _texts(self, other: BuildDirectory, target: Path) -> list[tuple[str, str]]:
        return [(str(other.objects), str(target))]


class ObjectsInTree(ObjectPool):
    """The build directories in a worktree of the cache, of which a bounded number is kept.

    :param state_dir: the worktree's state directory.
    :param tree: the source in it.
    :param debug_tree: the source in the debug information.
    """

    def __init__(self, state_dir: Path, tree: Path, debug_tree: Path) -> None:
        self._state_dir, self._tree, self._debug_tree = state_dir, tree, debug_tree

    def directory(self, base: str, variant: str) -> BuildDirectory:
        """See :meth:`ObjectPool.directory`."""
        return self._named(base, _name(base, variant))

    def _named(self, base: str, name: str) -> BuildDirectory:
        objects = self._tree / f"{OBJECTS}{name}"
        debug_objects = self._debug_tree / f"{OBJECTS}{base}"
        # They make the objects independent of the directory in which they are made.
        maps = (("../", f"{self._debug_tree}/"), (objects, debug_objects))
        flags = " ".join(f"-fdebug-prefix-map={old}={new}" for old, new in maps)
        return BuildDirectory(self._state_dir / f"{_STATE}{name}", objects, debug_objects, flags)

    def lock_name(self, directory: BuildDirectory) -> str:
        """See :meth:`ObjectPool.lock_name`."""
        return f"objects-{hashlib.sha256(os.fsencode(directory.state_dir)).hexdigest()[:24]}"

    def others(self, base: str) -> Iterator[BuildDirectory]:
        """See :meth:`ObjectPool.others`."""
        for path in _last_used(self._state_dir.glob(f"{_STATE}{base}*")):
            name = path.name.removeprefix(_STATE)
            if name.partition(_VARIANT)[0] == base:
                yield self._named(base, name)

    def _texts(self, other: BuildDirectory, target: Path) -> list[tuple[str, str]]:
        base = other.debug_objects.name.removeprefix(OBJECTS)
        of_target = ObjectsInTree(self._state_dir, target.parent, self._debug_tree)
        flags = of_target._named(base, target.name.removeprefix(OBJECTS)).flags
        # The options name the first tree, which is not to be replaced.
        mark = "\0"
        texts = [(other.flags, mark), (str(other.objects), str(target))]
        if target.parent != self._tree:
            texts.append((f"{self._tree}/", f"{target.parent}/"))
        return [*texts, (mark, flags)]

    @property
    def used(self) -> list[tuple[float, Path, Path]]:
        """When each build directory was last used, its state directory, and itself."""
        return [
            (at, path, self._tree / f"{OBJECTS}{path.name.removeprefix(_STATE)}")
            for at, path in _used(self._state_dir.glob(f"{_STATE}*"))
        ]

    def remove_doomed(self) -> None:
        """Remove what `prune` has set aside."""
        for doomed in self._tree.glob(f"{OBJECTS}*{_REMOVED}"):
            shutil.rmtree(doomed, ignore_errors=True)


def prune(pools: Sequence[ObjectsInTree]) -> None:
    """Remove the least recently used build directories of a source, but for those in use.

    :param pools: those of its worktrees.
    """
    directories = sorted((entry for pool in pools for entry in pool.used), reverse=True)
    for _, state_dir, objects in directories[MOST_OBJECTS:]:
        with contextlib.suppress(OSError):
            lock = FileLock.exclusive(state_dir / _LOCK, create=True)
            try:
                if objects.exists():  # all of it at once: make would believe what is left of it
                    objects.rename(objects.with_name(f"{objects.name}{_REMOVED}"))
                shutil.rmtree(state_dir)
            finally:
                lock.release()
    for pool in pools:
        pool.remove_doomed()


def _locked(state_dir: Path) -> FileLock:
    """Lock a state directory against `prune`, which may just have removed it."""
    deadline = Deadline(_WAIT_SECONDS)
    while True:
        state_dir.mkdir(parents=True, exist_ok=True)
        lock = FileLock.exclusive(state_dir / _LOCK, deadline.left, create=True)
        if lock.is_on(state_dir / _LOCK):
            return lock
        lock.release()


def _name(base: str, variant: str) -> str:
    return f"{base}{_VARIANT}{variant}" if variant else base


def _used(state_dirs: Iterable[Path]) -> Iterator[tuple[float, Path]]:
    """Yield the state directories that exist, each after its last use."""
    for path in state_dirs:
        with contextlib.suppress(OSError):
            lock = path / _LOCK
            yield (lock if lock.exists() else path).stat().st_mtime, path


def _last_used(state_dirs: Iterable[Path]) -> list[Path]:
    return [path for _, path in sorted(_used(state_dirs), reverse=True)]
