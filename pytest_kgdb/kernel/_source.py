"""Kernel sources: their content keys, and the directories they are built from."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from ..arch import Arch
from ..cache import Cache
from ..errors import BuildError, ConfigError
from ..process import run, which
from ..progress import Progress
from . import _patch
from ._fingerprint import content_key, contents, state_of, tree_key
from ._mirror import Mirror
from ._spec import SourceTree, version
from ._worktree_pool import Worktree

_SHOWN_PATCHES: Final = 3  # in a name
_GIT_SECONDS: Final = 60.0


@dataclass(frozen=True)
class BuildTree:
    """A source directory to build from."""

    tree: Path
    debug_tree: Path
    """Its path in the debug information, which is the same for all trees of one source."""
    state_dir: Path | None = None
    """The directory with the notes on it, if it is in the cache; it is then built in there, too."""
    worktree: Worktree | None = field(default=None, repr=False)
    """The tree does not change for as long as something refers to this."""


class Source(ABC):
    """A kernel's source."""

    label: str
    """Its name in messages."""
    content: str
    """Hash of all files that a build reads."""
    inexact: tuple[str, ...] = ()
    """How its patches fit elsewhere, or not exactly, once it was opened."""

    directory: Path | None = None
    """The user's own directory with exactly this content at present; None if there is none."""

    compared: float | None = None
    """When `content` was computed, in seconds since the epoch; None if it cannot change."""

    @abstractmethod
    def find(self) -> BuildTree | None:
        """Return a directory that has it, None if there is none at present."""

    @property
    @abstractmethod
    def version(self) -> str:
        """Its version; "" if it would have to be unpacked first."""

    @abstractmethod
    def open(self, base: str | None = None) -> contextlib.AbstractContextManager[BuildTree]:
        """Hold a directory to build from. The source is copied or unpacked first if need be.

        :param base: the base configuration that is to be built; None to read it only.
        """

    def check(self) -> None:  # noqa: B027  (most sources cannot change)
        """Check that it still has the content of its key.

        :raises BuildError: it was changed during the build.
        """

    def shown(self, spec: str) -> str:
        """Return the name for people of what a SPEC stands for, without its patches."""
        return spec

    def kconfig(self) -> str:
        """Return a hash of the files that configuring reads; of more files, if that is cheaper."""
        return self.content

    def scm(self) -> str:
        """Return the commit, which CONFIG_LOCALVERSION_AUTO adds to the release; "" without git."""
        return ""


class UserTree(Source):
    """A source tree of the user's, which is never written to.

    It is built where it is. If there are patches, or kbuild would refuse it, a copy in the cache is
    built instead.
    """

    def __init__(
        self,
        spec: SourceTree,
        patches: Sequence[_patch.Patch],
        arch: Arch,
        cache: Cache,
        progress: Progress,
    ) -> None:
        self._path, self._dirty, self._patches = spec.path, spec.dirty, patches
        self.directory = None if patches else spec.path
        self._arch, self._cache, self._progress = arch, cache, progress
        self.compared = time.time()
        self._tree_key = tree_key(self._path, arch, cache, progress, dirty=self._dirty)
        # kbuild refuses such paths (top Makefile, "cannot contain spaces or colons").
        self._copied = self._dirty or bool(patches) or bool(re.search(r"[\s:]", str(self._path)))
        self.label = with_patches(str(self._path), patches)
        self.content = patched_key(self._tree_key, patches)

    @property
    def version(self) -> str:
        return version(self._path)

    def find(self) -> BuildTree | None:
        if not self._patches:
            return BuildTree(self._path, self._path)
        state_dir = self._cache.workdir("tree", self._name)
        return self._copy(state_dir) if _read(state_dir / "content") == self.content else None

    @contextlib.contextmanager
    def open(self, base: str | None = None) -> Iterator[BuildTree]:
        del base
        if not self._copied:
            yield BuildTree(self._path, self._path)
            return
        with self._cache.lock(self._name, label=f"the copy of {self.label}"):
            state_dir = self._cache.workdir("tree", self._name)
            (state_dir / "content").unlink(missing_ok=True)
            mirror = Mirror(state_dir)
            with _patch.scratch_directory() as scratch:
                self._bring(mirror, Path(scratch))
            (state_dir / "content").write_text(self.content)
            yield self._copy(state_dir)

    def check(self) -> None:
        now = tree_key(self._path, self._arch, self._cache, self._progress, dirty=self._dirty)
        if now != self._tree_key:
            raise BuildError(
                f"{self._path} was changed while a kernel was being built from it",
                hint="run it again; only what changed is compiled",
            )

    def kconfig(self) -> str:
        files = contents(self._path, self._arch, self._cache, self._progress, dirty=self._dirty)
        relevant = {name: state for name, state in files.items() if configures(name)}
        return patched_key(content_key(relevant), configuring(self._patches))

    def scm(self) -> str:
        # A commit that changes no file still changes the release.
        if not (self._path / ".git").exists():
            return ""
        git = which("git", package="git")
        argv = [git, "-C", str(self._path), "rev-parse", "HEAD"]
        return run(argv, timeout=_GIT_SECONDS, env=git_environment(), check=False).output.strip()

    def _copy(self, state_dir: Path) -> BuildTree:
        return BuildTree(state_dir / "src", state_dir / "src", state_dir)

    @property
    def _name(self) -> str:
        return f"tree-{identity(self._path.name, self._path.resolve())}-copy"

    def _bring(self, mirror: Mirror, scratch: Path) -> None:
        files = contents(self._path, self._arch, self._cache, self._progress, dirty=self._dirty)
        paths = {name: self._path / name for name in files}

        def find(name: str) -> Path | None:
            return _patch.file_of(self._path, name)

        inexact: list[str] = []
        patched = _patch.apply(self._patches, find, scratch, str(self._path), inexact.append)
        self.inexact = tuple(inexact)
        for name, path in patched.items():
            if path is None:
                files.pop(name, None)
            else:
                files[name], paths[name] = state_of(path), path
        mirror.sync(files, paths, self._progress)


def git_environment() -> dict[str, str]:
    """Return our environment without the variables that redirect git to another repository."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    return kept | {"GIT_OPTIONAL_LOCKS": "0", "GIT_TERMINAL_PROMPT": "0"}


def file_hash(path: Path, cache: Cache) -> str:
    """Return the hash of a file's content, which is cached until its size or times change.

    :raises ConfigError: it cannot be read.
    """
    try:
        status = path.stat()
        sign = f"{path} {status.st_ino} {status.st_size} {status.st_mtime_ns} {status.st_ctime_ns}"
        return cache.memo("file", sign, lambda: state_of(path.resolve()).digest)
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from error


def patched_key(content: str, patches: Sequence[_patch.Patch]) -> str:
    """Return the key of a content with patches applied."""
    if not patches:
        return content
    return hashlib.sha256(f"{content} {_patch.key(patches)}".encode()).hexdigest()


def with_patches(label: str, patches: Sequence[_patch.Patch]) -> str:
    """Return a source's name, with those of its patches: `linux + fix.patch`.

    Of many, the first and the last: parts of one series differ in that.
    """
    names = [_name_of(patch) for patch in patches]
    if len(names) > _SHOWN_PATCHES:
        rest = len(names) - _SHOWN_PATCHES + 1
        names = [*names[: _SHOWN_PATCHES - 2], f"{rest} more patches", names[-1]]
    return " + ".join([label, *names])


def _name_of(patch: _patch.Patch) -> str:
    # A series may name its patches by their whole paths; behind the file, a mailbox has subjects.
    file, colon, subject = patch.name.partition(": ")
    name = f"{Path(file).name if file.startswith('/') else file}{colon}{subject}"
    return f"{name} (taken out)" if patch.reverse else name


def identity(name: str, path: Path) -> str:
    """Return a short name for a directory, which is unique to its path."""
    return f"{slug(name)}-{hashlib.sha256(os.fsencode(path)).hexdigest()[:12]}"


def slug(text: str) -> str:
    """Return a text with only characters that file names may have."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", text).strip("-.")[:40] or "kernel"


def configuring(patches: Sequence[_patch.Patch]) -> list[_patch.Patch]:
    """Return the patches that can change the result of `make olddefconfig`."""
    return [patch for patch in patches if any(configures(name) for name in patch.touched())]


def configures(name: str) -> bool:
    """Whether `make olddefconfig` may read a file."""
    base = name.rpartition("/")[2]
    return (
        base.startswith("Kconfig")
        or base.endswith(".sh")
        or name.startswith("scripts/")
        or "/configs/" in name
        or name == "Makefile"
        or re.fullmatch(r"arch/\w+/Makefile.*", name) is not None
    )


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
