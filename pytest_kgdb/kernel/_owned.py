"""Tarballs and git revisions: unpacked or checked out into the cache, and patched there."""

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
from ._source import (
    BuildTree,
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
from ._worktree_pool import Worktree, WorktreePool

_GIT_SECONDS: Final = 900.0
_UNPACK_SECONDS: Final = 1800.0
_HASH: Final = re.compile("[0-9a-f]{40,64}")  # git-init(1), --object-format
_NAME_VERSION: Final = re.compile(r"(\d+\.\d+(?:\.\d+)?)")


class OwnedTree(Source):
    """A source whose trees are in the cache.

    :param name: the name of these trees.
    :param base: the key of its content without patches.
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
        self._pool = WorktreePool(cache, f"tree-{name}")
        self._bare = label
        self.label = with_patches(label, patches)
        self.content = patched_key(base, patches)

    def find(self) -> BuildTree | None:
        worktree = self._pool.find(self.content)
        if worktree is None:
            with self._pool.claim_free(self._base) as worktree:
                if worktree is None:
                    return None
                try:
                    self._patch(worktree)  # a few files at the most
                except BuildError:
                    return None
        return self._build_tree(worktree)

    @contextlib.contextmanager
    def open(self, base: str | None = None) -> Iterator[BuildTree]:
        # Others may bring a tree of this source to another content while this one is built.
        with self._pool.claim(self.content, f"the source {self.label}") as worktree:
            if base is not None:
                self._pool.seed(worktree, base)
            if not worktree.has(self.content):
                if not worktree.has_base(self._base):
                    worktree.begin_replacing()
                    self._overlay(worktree).set_patches([])
                    self._bring(worktree)
                self._patch(worktree)
            self.inexact = self._overlay(worktree).inexact()
        yield self._build_tree(worktree)
        if base is not None:
            self._pool.prune()

    def _patch(self, worktree: Worktree) -> None:
        worktree.begin_patching()
        self._overlay(worktree).set_patches(self._patches)
        worktree.commit(self.content, self._base)

    def _overlay(self, worktree: Worktree) -> Overlay:
        return Overlay(worktree.tree, worktree.state_dir, self._bare)

    def kconfig(self) -> str:
        return patched_key(self._base, configuring(self._patches))

    @abstractmethod
    def _bring(self, worktree: Worktree) -> None:
        """Put the source, without patches, into a tree."""

    def _build_tree(self, worktree: Worktree) -> BuildTree:
        return BuildTree(worktree.tree, worktree.first_tree, worktree.state_dir, worktree)


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
        if (tree := self.find()) is not None:
            return version(tree.tree)
        match = _NAME_VERSION.search(self._path.name)
        return match[1] if match else ""

    def _bring(self, worktree: Worktree) -> None:
        shutil.rmtree(worktree.tree, ignore_errors=True)
        unpacking = worktree.state_dir / "unpacking"
        shutil.rmtree(unpacking, ignore_errors=True)
        unpacking.mkdir(parents=True)
        try:
            with self._progress.stage(f"unpacking {self._path.name}"):
                self._unpack(unpacking).rename(worktree.tree)
        finally:
            shutil.rmtree(unpacking, ignore_errors=True)

    def _unpack(self, target: Path) -> Path:
        """Unpack the tarball and return the source's top directory."""
        # Times are kept: unpacked again after a prune, files do not look newer than their objects.
        argv = [which("tar", package="tar"), "-C", str(target), "-xf", str(self._path)]
        try:
            run([*argv, "--no-same-owner"], timeout=_UNPACK_SECONDS)
        except CommandFailed as error:
            output = error.output.strip()[-500:]
            raise ConfigError(f"cannot unpack {self._path}: {output}") from error
        entries = sorted(target.iterdir())
        for entry in (target, *entries):
            if is_source(entry):
                return entry
        names = ", ".join(entry.name for entry in entries[:5])
        raise ConfigError(f"{self._path} is no kernel's source: it contains {names or 'nothing'}")


class CheckedOut(OwnedTree):
    """A revision of a git tree.

    It is checked out by a repository in the cache that uses the objects of the user's
    (gitrepository-layout(5), alternates): nothing is written to the user's repository. From one
    revision to the next, only files that differ are written.
    """

    def __init__(
        self,
        repository: Path,
        revision: str,
        patches: Sequence[_patch.Patch],
        cache: Cache,
        progress: Progress,
    ) -> None:
        self._repository, self._cache = repository, cache
        self._git = which("git", package="git")
        label = f"{repository}@{revision}"
        if revision.startswith("-"):
            raise ConfigError(f"{label}: a revision does not begin with a dash")
        self._objects, self._commit, tree = self._resolve(label, revision)
        if _HASH.fullmatch(revision):
            label = self.shown(label)
        name = f"{identity(repository.name, repository.resolve())}-git"
        super().__init__(label, name, tree, patches, cache, progress)

    def shown(self, spec: str) -> str:  # noqa: ARG002 # the revision that it stands for now
        """See :meth:`Source.shown`: `linux@abc123def456 ("the commit's subject")`."""
        argv = [self._git, "-C", str(self._repository), "log", "-1"]
        argv += ["--no-show-signature", "--format=%s", self._commit]

        def ask() -> str:
            result = run(argv, timeout=_GIT_SECONDS, env=git_environment(), check=False)
            return result.output.strip()

        subject = self._cache.memo("subject", self._commit, ask)
        return f'{self._repository.name}@{self._commit[:12]} ("{subject}")'

    @property
    def version(self) -> str:
        argv = [self._git, "-C", str(self._repository), "show", f"{self._commit}:Makefile"]
        result = run(argv, timeout=_GIT_SECONDS, env=git_environment(), check=False)
        with _patch.scratch_directory() as scratch:
            (Path(scratch) / "Makefile").write_text(result.output)
            return version(Path(scratch))

    def scm(self) -> str:
        return self._commit

    def _bring(self, worktree: Worktree) -> None:
        git_dir, top = worktree.state_dir / "git", worktree.tree
        top.mkdir(parents=True, exist_ok=True)
        # Without the user's and the system's configuration: a filter, a hook or autocrlf must not
        # change what is built.
        clean = {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_NOSYSTEM": "1"}

        def git(*words: str) -> None:
            # A tree that was made of links to another's files has other times of inodes only.
            argv = [self._git, "-c", "core.trustctime=false", f"--git-dir={git_dir}", *words]
            run(argv, timeout=_GIT_SECONDS, env=git_environment() | clean, cwd=top)

        with self._progress.stage(f"checking out {self.label}"):
            try:
                if not (git_dir / "HEAD").exists():
                    git("init", "-q", "--bare")
                (git_dir / "objects/info/alternates").write_text(f"{self._objects}\n")
                (git_dir / "index.lock").unlink(missing_ok=True)  # left by a git that was killed
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
        """Return the directory of the objects, the commit, and its tree."""
        argv = [self._git, "-C", str(self._repository), "rev-parse", "--path-format=absolute"]
        argv += ["--git-path", "objects", f"{revision}^{{commit}}", f"{revision}^{{tree}}"]
        result = run(argv, name="git", timeout=_GIT_SECONDS, env=git_environment(), check=False)
        if result.status == 0:
            objects, commit, tree = result.output.split("\n")[:3]
            return Path(objects), commit, tree
        if "not a git repository" in result.output:
            raise ConfigError(f"{self._repository} is not a git tree, so there is no {label}")
        fatal = (line for line in result.output.splitlines() if line.startswith("fatal: "))
        reason = next(fatal, result.output.strip()).removeprefix("fatal: ")
        raise ConfigError(f"there is no {label}: {reason}")
