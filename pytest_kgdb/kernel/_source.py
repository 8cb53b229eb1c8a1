"""Where a kernel's source is, by what it is known, and how it gets to where it can be built."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shutil
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from ..arch import Arch
from ..cache import Cache
from ..errors import BuildError, ConfigError
from ..process import CommandFailed, run, which
from ..progress import Progress
from . import _patch
from ._fingerprint import FileState, Fingerprint, content_key, contents, fingerprint, state_of
from ._mirror import Mirror
from ._spec import Revision, SourceTree, Tarball, is_source, version

_GIT_SECONDS: Final = 900.0
_UNPACK_SECONDS: Final = 1800.0
_NAME_VERSION: Final = re.compile(r"(\d+\.\d+(?:\.\d+)?)")


class Source(ABC):
    """A kernel's source."""

    label: str
    """What the messages call it."""
    identity: str
    """What its work directories in the cache are called by."""
    content: str
    """Hash of all that a build reads of it."""

    @property
    @abstractmethod
    def shown(self) -> Path | None:
        """Where the user reads it, as far as it is there."""

    @property
    @abstractmethod
    def version(self) -> str:
        """Its version, "" where finding out takes long."""

    @abstractmethod
    def tree(self) -> contextlib.AbstractContextManager[Path]:
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


class PlainTree(Source):
    """A clean source tree, built from as it lies there."""

    def __init__(self, path: Path, arch: Arch, cache: Cache, progress: Progress) -> None:
        self._path, self._arch, self._cache, self._progress = path, arch, cache, progress
        self._print = self._look()
        self.label = str(path)
        self.identity = identity(path.name, path.resolve())
        self.content = self._print.content

    @property
    def shown(self) -> Path | None:
        return self._path

    @property
    def version(self) -> str:
        return version(self._path)

    @contextlib.contextmanager
    def tree(self) -> Iterator[Path]:
        yield self._path

    def check(self) -> None:
        now = self._look()
        if now.stat != self._print.stat and now.content != self.content:
            raise BuildError(
                f"{self._path} was changed while a kernel was being built from it",
                hint="run it again; only what changed is compiled",
            )

    def kconfig(self) -> str:
        files = contents(self._path, self._arch, self._cache, self._progress, dirty=self._dirty)
        return content_key({name: state for name, state in files.items() if _configures(name)})

    def scm(self) -> str:
        # Commits that leave no trace in the content still name the release.
        head = self._path / ".git/HEAD"
        if not head.exists():
            return ""
        git = which("git", package="git")
        return run(
            [git, "-C", str(self._path), "rev-parse", "HEAD"],
            timeout=_GIT_SECONDS,
            env=git_environment(),
            check=False,
        ).output.strip()

    def _look(self) -> Fingerprint:
        return fingerprint(self._path, self._arch, self._cache, self._progress, dirty=self._dirty)

    @property
    def _dirty(self) -> bool:
        return False


class CopiedTree(PlainTree):
    """A source tree that kbuild does not build from elsewhere, built from a copy in the cache."""

    def __init__(self, path: Path, arch: Arch, cache: Cache, progress: Progress) -> None:
        super().__init__(path, arch, cache, progress)
        self.identity += "-copy"

    @contextlib.contextmanager
    def tree(self) -> Iterator[Path]:
        with self._cache.lock(f"tree-{self.identity}", label=f"the copy of {self._path}"):
            mirror = Mirror(self._cache.workdir("tree", f"tree-{self.identity}"))
            files = contents(self._path, self._arch, self._cache, self._progress, dirty=True)
            mirror.sync(files, {name: self._path / name for name in files}, self._progress)
            yield mirror.root

    @property
    def _dirty(self) -> bool:
        return True


class UnpackedTarball(Source):
    """A tarball, unpacked in the cache."""

    def __init__(self, path: Path, arch: Arch, cache: Cache, progress: Progress) -> None:
        self._path, self._arch, self._cache, self._progress = path, arch, cache, progress
        self.content = file_hash(path, cache)
        self.label = path.name
        self.identity = f"{slug(path.name.partition('.tar')[0])}-{self.content[:16]}"

    @property
    def _home(self) -> Path:
        return self._cache.workdir("tree", f"tree-{self.identity}")

    @property
    def shown(self) -> Path | None:
        return top if (top := self._home / "src").is_dir() else None

    @property
    def version(self) -> str:
        if (top := self.shown) is not None:
            return version(top)
        match = _NAME_VERSION.search(self._path.name)
        return match[1] if match else ""

    @contextlib.contextmanager
    def tree(self) -> Iterator[Path]:
        with self._cache.lock(f"tree-{self.identity}", label=f"unpacking {self.label}"):
            top = self._home / "src"
            if not top.is_dir():
                self._unpack(top)
            yield top

    def _unpack(self, top: Path) -> None:
        beside = top.with_name("unpacking")
        shutil.rmtree(beside, ignore_errors=True)
        beside.mkdir(parents=True)
        tar = which("tar", package="tar")
        with self._progress.stage(f"unpacking {self.label}"):
            try:
                # Times are kept: unpacked again after a prune, it does not look newer.
                run(
                    [tar, "-C", str(beside), "-xf", str(self._path), "--no-same-owner"],
                    timeout=_UNPACK_SECONDS,
                )
            except CommandFailed as error:
                shutil.rmtree(beside, ignore_errors=True)
                raise ConfigError(
                    f"cannot unpack {self._path}: {error.output.strip()[-500:]}"
                ) from error
        roots = [beside, *sorted(each for each in beside.iterdir() if each.is_dir())]
        source = next((each for each in roots if is_source(each)), None)
        if source is None:
            names = ", ".join(sorted(each.name for each in beside.iterdir())[:5])
            shutil.rmtree(beside, ignore_errors=True)
            raise ConfigError(
                f"{self._path} is no kernel's source: it contains {names or 'nothing'}"
            )
        source.rename(top)
        shutil.rmtree(beside, ignore_errors=True)


class CheckedOut(Source):
    """A revision of a git tree, checked out in the cache.

    Our own repository there borrows the user's objects (gitrepository-layout(5), alternates), so
    that theirs gets no worktree, no index and no lock of ours. One directory serves all
    revisions: from one to the next only files that differ are written, and compiled.
    """

    def __init__(self, repository: Path, revision: str, cache: Cache, progress: Progress) -> None:
        self._repository, self._cache, self._progress = repository, cache, progress
        self._git = which("git", package="git")
        self.label = f"{repository}@{revision}"
        if revision.startswith("-"):
            raise ConfigError(f"{self.label}: a revision does not begin with a dash")
        wanted = [f"{revision}^{{commit}}", f"{revision}^{{tree}}"]
        paths = ["--path-format=absolute", "--git-path", "objects"]
        done = self._ask(["rev-parse", *paths, *wanted])
        if done is None:
            raise ConfigError(f"{repository} is not a git tree, so there is no {self.label}")
        objects, self._commit, self.content = done
        self._objects = Path(objects)
        self.identity = f"{identity(repository.name, repository.resolve())}-git"

    @property
    def _home(self) -> Path:
        return self._cache.workdir("tree", f"tree-{self.identity}")

    @property
    def shown(self) -> Path | None:
        home = self._home
        return home / "src" if _read(home / "tree") == self.content else None

    @property
    def version(self) -> str:
        done = run(
            [self._git, "-C", str(self._repository), "show", f"{self._commit}:Makefile"],
            timeout=_GIT_SECONDS,
            env=git_environment(),
            check=False,
        )
        with _patch.scratch_directory() as scratch:
            (Path(scratch) / "Makefile").write_text(done.output)
            return version(Path(scratch))

    @contextlib.contextmanager
    def tree(self) -> Iterator[Path]:
        with self._cache.lock(f"tree-{self.identity}", label=f"the checkout of {self.label}"):
            home = self._home
            top = home / "src"
            if _read(home / "tree") != self.content:
                (home / "tree").unlink(missing_ok=True)
                self._check_out(home / "git", top)
                (home / "tree").write_text(self.content)
            if not is_source(top):
                raise ConfigError(f"{self.label} is not a kernel's source tree")
            yield top

    def scm(self) -> str:
        return self._commit

    def _check_out(self, git_dir: Path, top: Path) -> None:
        # Neither the user's configuration nor the system's: a filter, a hook or autocrlf must
        # not change what is built.
        environment = git_environment() | {
            "GIT_CONFIG_GLOBAL": os.devnull,
            "GIT_CONFIG_NOSYSTEM": "1",
        }
        top.mkdir(parents=True, exist_ok=True)
        with self._progress.stage(f"checking out {self.label}"):
            try:
                if not (git_dir / "HEAD").exists():
                    run(
                        [self._git, "init", "-q", "--bare", str(git_dir)],
                        timeout=_GIT_SECONDS,
                        env=environment,
                    )
                (git_dir / "objects/info/alternates").write_text(f"{self._objects}\n")
                (git_dir / "index.lock").unlink(missing_ok=True)  # of a killed one; we have ours
                work = [f"--git-dir={git_dir}", f"--work-tree={top}"]
                for command in (
                    ["read-tree", "--reset", "-u", self._commit],
                    ["clean", "-q", "-d", "-f", "-x"],
                ):
                    run(
                        [self._git, *work, *command],
                        timeout=_GIT_SECONDS,
                        env=environment,
                        cwd=top,
                    )
            except CommandFailed as error:
                raise ConfigError(
                    f"cannot check out {self.label}: {error.output.strip()[-500:]}",
                    hint="a shallow or partial clone may lack it: git fetch it first",
                ) from error

    def _ask(self, argv: Sequence[str]) -> list[str] | None:
        done = run(
            [self._git, "-C", str(self._repository), *argv],
            name="git",
            timeout=_GIT_SECONDS,
            env=git_environment(),
            check=False,
        )
        if done.status == 0:
            return done.output.split("\n")[:3]
        if "not a git repository" in done.output:
            return None
        reason = next(
            (line for line in done.output.splitlines() if line.startswith("fatal:")), done.output
        )
        raise ConfigError(f"there is no {self.label}: {reason.removeprefix('fatal: ').strip()}")


class Patched(Source):
    """Another source with patches on top, in a copy of its own."""

    def __init__(
        self,
        base: Source,
        patches: Sequence[_patch.Patch],
        arch: Arch,
        cache: Cache,
        progress: Progress,
    ) -> None:
        self._base, self._patches = base, tuple(patches)
        self._arch, self._cache, self._progress = arch, cache, progress
        count = f"{len(patches)} patches" if len(patches) > 1 else "a patch"
        self.label = f"{base.label} with {count}"
        self.identity = f"{base.identity}-patched"
        self._key = _patch.key(patches)
        self.content = hashlib.sha256(f"{base.content} {self._key}".encode()).hexdigest()

    @property
    def _home(self) -> Path:
        return self._cache.workdir("tree", f"tree-{self.identity}")

    @property
    def shown(self) -> Path | None:
        home = self._home
        return home / "src" if _read(home / "content") == self.content else None

    @property
    def version(self) -> str:
        return self._base.version

    @contextlib.contextmanager
    def tree(self) -> Iterator[Path]:
        with contextlib.ExitStack() as stack:
            base = stack.enter_context(self._base.tree())
            stack.enter_context(
                self._cache.lock(f"tree-{self.identity}", label=f"the copy of {self.label}")
            )
            home = self._home
            (home / "content").unlink(missing_ok=True)
            mirror = Mirror(home)
            files = contents(base, self._arch, self._cache, self._progress)
            places = {name: base / name for name in files}
            scratch = Path(stack.enter_context(_patch.scratch_directory()))
            for name, path in _patch.apply(self._patches, base, scratch).items():
                if path is None:
                    files.pop(name, None)
                else:
                    files[name], places[name] = state_of(path), path
            mirror.sync(files, places, self._progress)
            (home / "content").write_text(self.content)
            yield mirror.root

    def check(self) -> None:
        self._base.check()

    def scm(self) -> str:
        return self._base.scm()


def open_source(
    spec: SourceTree | Tarball | Revision, arch: Arch, cache: Cache, progress: Progress
) -> Source:
    """Return the source that a SPEC names."""
    if isinstance(spec, Tarball):
        return UnpackedTarball(spec.path, arch, cache, progress)
    if isinstance(spec, Revision):
        return CheckedOut(spec.tree, spec.revision, cache, progress)
    # kbuild cannot have such a path either (top Makefile, "cannot contain spaces or colons").
    if spec.dirty or re.search(r"[\s:]", str(spec.path)):
        return CopiedTree(spec.path, arch, cache, progress)
    return PlainTree(spec.path, arch, cache, progress)


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


def identity(name: str, path: Path) -> str:
    """Return a short name for a directory, its own for each path."""
    return f"{slug(name)}-{hashlib.sha256(os.fsencode(path)).hexdigest()[:12]}"


def slug(text: str) -> str:
    """Return a text as it can stand in a file's name."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", text).strip("-.")[:40] or "kernel"


def _configures(name: str) -> bool:
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


__all__ = ["FileState", "Source", "content_key", "file_hash", "open_source", "slug"]
