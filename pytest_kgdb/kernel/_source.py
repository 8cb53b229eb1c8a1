"""Where a kernel's source is, by what it is known, and how it gets to where it can be built."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
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
from ._fingerprint import content_key, contents, fingerprint, state_of
from ._mirror import Mirror
from ._spec import SourceTree, version

_GIT_SECONDS: Final = 60.0


@dataclass(frozen=True)
class Place:
    """A directory to build from."""

    tree: Path
    debug_tree: Path
    """What the debug information calls it: the same for all trees of one source."""
    home: Path | None = None
    """Where notes about it are kept, if it is ours; then it is also built in there."""
    hold: object = field(default=None, repr=False)
    """Keeps the tree as it is, for as long as somebody refers to it."""


class Source(ABC):
    """A kernel's source."""

    label: str
    """What the messages call it."""
    content: str
    """Hash of all that a build reads of it."""

    @abstractmethod
    def find(self) -> Place | None:
        """Return where the user can read it, None if it is nowhere just now."""

    @property
    @abstractmethod
    def version(self) -> str:
        """Its version, "" where finding out takes long."""

    @abstractmethod
    def open(self) -> contextlib.AbstractContextManager[Place]:
        """Hold a directory to build from, brought there first where needed."""

    def check(self) -> None:  # noqa: B027  (most sources cannot change)
        """Make sure that it still is what its content key says.

        :raises BuildError: it was changed while we built.
        """

    def kconfig(self) -> str:
        """Return a hash of what a configuration is made of; of more, where that is cheaper."""
        return self.content

    def scm(self) -> str:
        """Return what CONFIG_LOCALVERSION_AUTO would add to the release, as far as it matters."""
        return ""


class UserTree(Source):
    """A source tree of the user's, which is only ever read.

    It is built from as it lies there; or from a copy in the cache, if there are patches for it or
    kbuild would refuse it.

    :param dirty: whether it was built in place.
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
        self._arch, self._cache, self._progress = arch, cache, progress
        self._print = fingerprint(self._path, arch, cache, progress, dirty=self._dirty)
        # kbuild takes no such path either (top Makefile, "cannot contain spaces or colons").
        self._copied = self._dirty or bool(patches) or bool(re.search(r"[\s:]", str(self._path)))
        self.label = with_patches(str(self._path), patches)
        self.content = patched_key(self._print.content, patches)

    @property
    def version(self) -> str:
        return version(self._path)

    def find(self) -> Place | None:
        if not self._patches:
            return Place(self._path, self._path)
        home = self._cache.workdir("tree", self._name)
        return self._copy(home) if _read(home / "content") == self.content else None

    @contextlib.contextmanager
    def open(self) -> Iterator[Place]:
        if not self._copied:
            yield Place(self._path, self._path)
            return
        with self._cache.lock(self._name, label=f"the copy of {self.label}"):
            home = self._cache.workdir("tree", self._name)
            (home / "content").unlink(missing_ok=True)
            mirror = Mirror(home)
            with _patch.scratch_directory() as scratch:
                self._bring(mirror, Path(scratch))
            (home / "content").write_text(self.content)
            yield self._copy(home)

    def check(self) -> None:
        now = fingerprint(self._path, self._arch, self._cache, self._progress, dirty=self._dirty)
        if now.content != self._print.content:
            raise BuildError(
                f"{self._path} was changed while a kernel was being built from it",
                hint="run it again; only what changed is compiled",
            )

    def kconfig(self) -> str:
        files = contents(self._path, self._arch, self._cache, self._progress, dirty=self._dirty)
        ours = {name: state for name, state in files.items() if configures(name)}
        return patched_key(content_key(ours), configuring(self._patches))

    def scm(self) -> str:
        # Commits that leave no trace in the content still name the release.
        if not (self._path / ".git").exists():
            return ""
        git = which("git", package="git")
        argv = [git, "-C", str(self._path), "rev-parse", "HEAD"]
        return run(argv, timeout=_GIT_SECONDS, env=git_environment(), check=False).output.strip()

    def _copy(self, home: Path) -> Place:
        return Place(home / "src", home / "src", home)

    @property
    def _name(self) -> str:
        return f"tree-{identity(self._path.name, self._path.resolve())}-copy"

    def _bring(self, mirror: Mirror, scratch: Path) -> None:
        files = contents(self._path, self._arch, self._cache, self._progress, dirty=self._dirty)
        places = {name: self._path / name for name in files}

        def find(name: str) -> Path | None:
            return path if (path := self._path / name).is_file() else None

        patched = _patch.apply(self._patches, find, scratch, str(self._path))
        for name, path in patched.items():
            if path is None:
                files.pop(name, None)
            else:
                files[name], places[name] = state_of(path), path
        mirror.sync(files, places, self._progress)


def git_environment() -> dict[str, str]:
    """Return our environment without what makes git work on another repository than we say."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    return kept | {"GIT_OPTIONAL_LOCKS": "0", "GIT_TERMINAL_PROMPT": "0"}


def file_hash(path: Path, cache: Cache) -> str:
    """Return the hash of a file's content, remembered for as long as its times stay.

    :raises ConfigError: it cannot be read.
    """
    try:
        status = path.stat()
        sign = f"{path} {status.st_ino} {status.st_size} {status.st_mtime_ns} {status.st_ctime_ns}"
        return cache.memo("file", sign, lambda: state_of(path.resolve()).digest)
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from error


def patched_key(content: str, patches: Sequence[_patch.Patch]) -> str:
    """Return the key of a content with patches on top."""
    if not patches:
        return content
    return hashlib.sha256(f"{content} {_patch.key(patches)}".encode()).hexdigest()


def with_patches(label: str, patches: Sequence[_patch.Patch]) -> str:
    """Return a source's name that tells of its patches."""
    if not patches:
        return label
    return f"{label} with {'a patch' if len(patches) == 1 else f'{len(patches)} patches'}"


def identity(name: str, path: Path) -> str:
    """Return a short name for a directory, its own for each path."""
    return f"{slug(name)}-{hashlib.sha256(os.fsencode(path)).hexdigest()[:12]}"


def slug(text: str) -> str:
    """Return a text as it can stand in a file's name."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", text).strip("-.")[:40] or "kernel"


def configuring(patches: Sequence[_patch.Patch]) -> list[_patch.Patch]:
    """Return those patches that can change what `make olddefconfig` does."""
    return [patch for patch in patches if any(configures(name) for name in patch.touched())]


def configures(name: str) -> bool:
    """Whether a file has a part in `make olddefconfig`."""
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
