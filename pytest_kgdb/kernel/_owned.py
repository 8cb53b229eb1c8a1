"""Sources that the user has packed or in git: brought into the cache, and patched there."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from ..cache import Cache
from ..errors import BuildError, ConfigError
from ..process import CommandFailed, run, which
from ..progress import Progress
from . import _patch
from ._overlay import Overlay
from ._slots import Slot, Slots
from ._source import (
    Place,
    Source,
    configuring,
    file_hash,
    git_environment,
    identity,
    patched_key,
    slug,
    with_patches,
)
from ._spec import OBJECTS, is_source, version

_GIT_SECONDS: Final = 900.0
_UNPACK_SECONDS: Final = 1800.0
_NAME_VERSION: Final = re.compile(r"(\d+\.\d+(?:\.\d+)?)")


class OwnedTree(Source):
    """A source that lies in directories of ours.

    :param name: what these are called by.
    :param base: its content without the patches.
    """

    def __init__(
        self,
        label: str,
        name: str,
        base: str,
        patches: Sequence[_patch.Patch],
        cache: Cache,
        progress: Progress,
    ) -> None:
        self._patches, self._progress = patches, progress
        self._base = base
        self._slots = Slots(cache, f"tree-{name}")
        self.label = with_patches(label, patches)
        self.content = patched_key(base, patches)

    def find(self) -> Place | None:
        slot = self._slots.find(self.content)
        if slot is None:
            slot = self._slots.find_free(self._base)
            if slot is None:
                return None
            try:
                self._patch(slot)  # no more than a few files
            except BuildError:
                return None
        return self._place(slot)

    @contextlib.contextmanager
    def open(self) -> Iterator[Place]:
        with self._slots.claim(self.content, f"the source {self.label}") as slot:
            if not slot.holds(self.content):
                if not slot.has_base(self._base):
                    slot.clear()
                    self._overlay(slot).lay([])
                    self._bring(slot)
                self._patch(slot)
            yield self._place(slot)

    def _patch(self, slot: Slot) -> None:
        slot.unsettle()
        self._overlay(slot).lay(self._patches)
        slot.settle(self.content, self._base)

    def _overlay(self, slot: Slot) -> Overlay:
        return Overlay(slot.tree, slot.home, self.label)

    def kconfig(self) -> str:
        return patched_key(self._base, configuring(self._patches))

    @abstractmethod
    def _bring(self, slot: Slot) -> None:
        """Bring the source there, without patches."""

    def _place(self, slot: Slot) -> Place:
        return Place(slot.tree, slot.first_tree, slot.home, slot)


class Unpacked(OwnedTree):
    """A tarball."""

    def __init__(
        self, path: Path, patches: Sequence[_patch.Patch], cache: Cache, progress: Progress
    ) -> None:
        self._path = path
        base = file_hash(path, cache)
        name = f"{slug(path.name.partition('.tar')[0])}-{base[:16]}"
        super().__init__(path.name, name, base, patches, cache, progress)

    @property
    def version(self) -> str:
        if (place := self.find()) is not None:
            return version(place.tree)
        match = _NAME_VERSION.search(self._path.name)
        return match[1] if match else ""

    def _bring(self, slot: Slot) -> None:
        shutil.rmtree(slot.tree, ignore_errors=True)
        beside = slot.home / "unpacking"
        shutil.rmtree(beside, ignore_errors=True)
        beside.mkdir(parents=True)
        try:
            with self._progress.stage(f"unpacking {self._path.name}"):
                self._unpack(beside).rename(slot.tree)
        finally:
            shutil.rmtree(beside, ignore_errors=True)

    def _unpack(self, target: Path) -> Path:
        """Unpack and return the source's top directory."""
        # Times are kept: unpacked again after a prune, it does not look newer.
        argv = [which("tar", package="tar"), "-C", str(target), "-xf", str(self._path)]
        try:
            run([*argv, "--no-same-owner"], timeout=_UNPACK_SECONDS)
        except CommandFailed as error:
            said = error.output.strip()[-500:]
            raise ConfigError(f"cannot unpack {self._path}: {said}") from error
        found = sorted(target.iterdir())
        for each in (target, *found):
            if is_source(each):
                return each
        names = ", ".join(each.name for each in found[:5])
        raise ConfigError(f"{self._path} is no kernel's source: it contains {names or 'nothing'}")


class CheckedOut(OwnedTree):
    """A revision of a git tree.

    Our own repository borrows the user's objects (gitrepository-layout(5), alternates), so that
    theirs gets no worktree, no index and no lock of ours. From one revision to the next only
    files that differ are written.
    """

    def __init__(
        self,
        repository: Path,
        revision: str,
        patches: Sequence[_patch.Patch],
        cache: Cache,
        progress: Progress,
    ) -> None:
        self._repository = repository
        self._git = which("git", package="git")
        label = f"{repository}@{revision}"
        if revision.startswith("-"):
            raise ConfigError(f"{label}: a revision does not begin with a dash")
        self._objects, self._commit, tree = self._resolve(label, revision)
        name = f"{identity(repository.name, repository.resolve())}-git"
        super().__init__(label, name, tree, patches, cache, progress)

    @property
    def version(self) -> str:
        argv = [self._git, "-C", str(self._repository), "show", f"{self._commit}:Makefile"]
        done = run(argv, timeout=_GIT_SECONDS, env=git_environment(), check=False)
        with _patch.scratch_directory() as scratch:
            (Path(scratch) / "Makefile").write_text(done.output)
            return version(Path(scratch))

    def scm(self) -> str:
        return self._commit

    def _bring(self, slot: Slot) -> None:
        git_dir, top = slot.home / "git", slot.tree
        top.mkdir(parents=True, exist_ok=True)
        # Neither the user's configuration nor the system's: a filter, a hook or autocrlf must
        # not change what is built.
        clean = {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_NOSYSTEM": "1"}

        def git(*words: str) -> None:
            argv = [self._git, f"--git-dir={git_dir}", *words]
            run(argv, timeout=_GIT_SECONDS, env=git_environment() | clean, cwd=top)

        with self._progress.stage(f"checking out {self.label}"):
            try:
                if not (git_dir / "HEAD").exists():
                    git("init", "-q", "--bare")
                (git_dir / "objects/info/alternates").write_text(f"{self._objects}\n")
                (git_dir / "index.lock").unlink(missing_ok=True)  # of a killed one: it is ours
                git(f"--work-tree={top}", "read-tree", "--reset", "-u", self._commit)
                git(
                    f"--work-tree={top}",
                    "clean",
                    "-q",
                    "-d",
                    "-f",
                    "-f",
                    "-x",
                    "-e",
                    f"/{OBJECTS}*",
                )
            except CommandFailed as error:
                raise ConfigError(
                    f"cannot check out {self.label}: {error.output.strip()[-500:]}",
                    hint="a shallow or partial clone may lack it: git fetch it first",
                ) from error
        if not is_source(top):
            raise ConfigError(f"{self.label} is not a kernel's source tree")

    def _resolve(self, label: str, revision: str) -> tuple[Path, str, str]:
        """Return where the objects are, the commit, and its tree."""
        argv = [self._git, "-C", str(self._repository), "rev-parse", "--path-format=absolute"]
        argv += ["--git-path", "objects", f"{revision}^{{commit}}", f"{revision}^{{tree}}"]
        done = run(argv, name="git", timeout=_GIT_SECONDS, env=git_environment(), check=False)
        if done.status == 0:
            objects, commit, tree = done.output.split("\n")[:3]
            return Path(objects), commit, tree
        if "not a git repository" in done.output:
            raise ConfigError(f"{self._repository} is not a git tree, so there is no {label}")
        fatal = (line for line in done.output.splitlines() if line.startswith("fatal: "))
        reason = next(fatal, done.output.strip()).removeprefix("fatal: ")
        raise ConfigError(f"there is no {label}: {reason}")
