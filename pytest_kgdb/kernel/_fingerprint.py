"""What a source tree contains, told by content, and looked up by stat(2) when nothing changed.

One walk gives every file's inode, size and times. While these are as they were, so is the content,
whose hash was remembered; otherwise only the files that differ are read again. So the key of a
tree depends on nothing but content: a copy of it elsewhere has the same key, and a file that was
touched, or a build product that came and went, changes nothing.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ..arch import Arch
from ..cache import Cache
from ..errors import ConfigError
from ..process import PIPE, Child, run, which
from ..progress import Progress

# None of these can change a kernel; the first two are left out of a walk, of 78,000 files a third.
_UNUSED_TOP: Final = frozenset({"Documentation", "LICENSES", "debian"})
_TAKEN_APART: Final = frozenset({"arch", "drivers", "tools"})
_UNUSED_TOOLS: Final = frozenset({"testing", "perf"})
_ALWAYS: Final = ("Documentation/Kconfig", "Documentation/Makefile", "arch/Kconfig")

# Left behind by builds, editors, patch(1) and indexers. Names with a leading dot (`.foo.o.cmd`,
# `.git`) are not even looked at: nothing that is built has one.
_PRODUCTS: Final = (".o", ".a", ".ko", ".mod", ".order", ".symvers", ".orig", ".rej", "~")
_INDEXES: Final = ("tags", "TAGS", "GTAGS", "GRTAGS", "GPATH", "cscope.", "compile_commands.json")

_WALK_SECONDS: Final = 600.0
_READERS: Final = 4
_WORTH_SAYING: Final = 5000  # so many files to read take more than a moment
_FORMAT: Final = r"%p\0%y%m %s %T@ %C@ %i %l\0"


@dataclass(frozen=True)
class FileState:
    """What a file of a source tree is, wherever and whenever it was written."""

    digest: str
    """Of its bytes; of its target, if it is a symbolic link."""
    executable: bool = False
    link: bool = False

    @property
    def token(self) -> str:
        """Return all of it in one word."""
        return ("l" if self.link else "x" if self.executable else "f") + self.digest

    @classmethod
    def of(cls, token: str) -> FileState:
        """Return the state that a token stands for."""
        return cls(token[1:], executable=token[0] == "x", link=token[0] == "l")


@dataclass(frozen=True)
class Fingerprint:
    """What a source tree was at one time."""

    stat: str
    """Hash of all files' inodes, sizes and times."""
    content: str
    """Hash of all files' names and contents."""


def fingerprint(
    tree: Path, arch: Arch, cache: Cache, progress: Progress, *, dirty: bool = False
) -> Fingerprint:
    """Return what a tree is now.

    :param dirty: whether it was built in place: then git tells products from sources.
    """
    raw = _walk(tree, arch)
    digest = hashlib.sha256(b"\0\0".join(raw)).hexdigest()

    def read() -> str:
        return content_key(_contents(tree, raw, cache, progress, dirty=dirty))

    key = f"{tree.resolve()}\n{arch.name}\n{dirty}\n{digest}"
    return Fingerprint(digest, cache.memo("sources", key, read))


def contents(
    tree: Path, arch: Arch, cache: Cache, progress: Progress, *, dirty: bool = False
) -> dict[str, FileState]:
    """Return the state of each of a tree's files that a build can read."""
    return _contents(tree, _walk(tree, arch), cache, progress, dirty=dirty)


def content_key(files: Mapping[str, FileState]) -> str:
    """Return one hash for the contents of many files."""
    result = hashlib.sha256()
    for name in sorted(files):
        result.update(f"{name}\0{files[name].token}\n".encode(errors="surrogateescape"))
    return result.hexdigest()


def state_of(path: Path) -> FileState:
    """Return the state of one file.

    :raises OSError: it cannot be read.
    """
    status = path.lstat()
    if stat.S_ISLNK(status.st_mode):
        target = os.fsencode(path.readlink())
        return FileState(hashlib.sha256(target).hexdigest(), link=True)
    return FileState(_hash(path), executable=bool(status.st_mode & 0o100))


def is_product(name: str) -> bool:
    """Whether a file's name says that no build reads it as a source."""
    base = name.rpartition("/")[2]
    return base.endswith(_PRODUCTS) or base.startswith(_INDEXES)


def _contents(
    tree: Path, raw: Iterable[bytes], cache: Cache, progress: Progress, *, dirty: bool
) -> dict[str, FileState]:
    """Return every file's state, reading only those that changed since they were last read."""
    name = f"index-{hashlib.sha256(os.fsencode(tree.resolve())).hexdigest()[:24]}"
    wanted = _sources_of(tree, cache) if dirty else None
    found = {
        path: sign
        for path, sign in _records(raw)
        if (path in wanted if wanted is not None else not is_product(path))
    }
    with cache.lock(name, label=f"the list of files in {tree}"):
        index = cache.workdir("index", name) / "files.json"
        known = _load(index)
        tokens = {
            path: known[path][1]
            for path, sign in found.items()
            if path in known and known[path][0] == sign
        }
        changed = [path for path in found if path not in tokens]
        if changed:
            tokens |= _read(tree, changed, progress)
            # A file that changes while it is read has another time afterwards: its sign, taken
            # before, will not be met again.
            _save(index, {path: (found[path], tokens[path]) for path in tokens})
    return {path: FileState.of(token) for path, token in tokens.items()}


def _read(tree: Path, names: Sequence[str], progress: Progress) -> dict[str, str]:
    def token(name: str) -> str | None:
        try:
            return state_of(tree / name).token
        except FileNotFoundError:  # removed since the walk
            return None
        except OSError as error:
            raise ConfigError(f"cannot read {tree / name}: {error.strerror}") from error

    from concurrent.futures import ThreadPoolExecutor  # slow to import, and rarely needed

    with ThreadPoolExecutor(_READERS) as pool:
        if len(names) < _WORTH_SAYING:
            tokens = list(pool.map(token, names))
        else:
            tokens = []
            with progress.stage(f"reading {tree}") as stage:
                for result in pool.map(token, names):
                    tokens.append(result)
                    stage.update(done=len(tokens), total=len(names))
    return {name: each for name, each in zip(names, tokens, strict=True) if each is not None}


def _walk(tree: Path, arch: Arch) -> list[bytes]:
    """Return all files with type, mode, size, times, inode and target, as find(1) prints them.

    Two processes, with half of the files each, as what takes the time is the kernel's path
    lookup; Python needs twice as long.
    """
    try:
        tops = sorted(_tops(tree, arch))
    except OSError as error:
        raise ConfigError(f"cannot read the source tree {tree}: {error.strerror}") from error
    first = [top for top in tops if top.startswith("drivers/") and top != "drivers/gpu"]
    second = [top for top in tops if top not in first]
    results: list[bytes] = [b"", b""]
    failures: list[BaseException] = []

    def collect(index: int, names: Sequence[str]) -> None:
        try:
            results[index] = _find(tree, names)
        except BaseException as error:
            failures.append(error)

    threads = [
        threading.Thread(target=collect, args=(index, names), daemon=True)
        for index, names in enumerate((first, second))
        if names
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]
    return results


def _find(tree: Path, names: Sequence[str]) -> bytes:
    find = which("find", package="findutils")
    starts = [f"./{name}" for name in names]
    argv = [find, *starts, "-name", ".?*", "-prune", "-o", "!", "-type", "d", "-printf", _FORMAT]
    return _output(argv, tree, "find")


def _tops(tree: Path, arch: Arch) -> Iterator[str]:
    for entry in os.scandir(tree):
        unused = entry.name in _UNUSED_TOP | _TAKEN_APART or _is_output(Path(entry.path))
        if not entry.name.startswith(".") and not unused:
            yield entry.name
    yield from (f"drivers/{entry.name}" for entry in _entries(tree / "drivers"))
    yield f"arch/{arch.name}"
    yield from (name for name in _ALWAYS if (tree / name).exists())
    # crypto/Kconfig reads those of all architectures since 6.1, if only to pass them over.
    for kconfig in tree.glob("arch/*/crypto/Kconfig"):
        if kconfig.parts[-3] != arch.name:
            yield str(kconfig.relative_to(tree))
    for entry in _entries(tree / "tools"):
        if entry.name not in _UNUSED_TOOLS:
            yield f"tools/{entry.name}"


def _entries(directory: Path) -> Iterator[os.DirEntry[str]]:
    if directory.is_dir():
        yield from (entry for entry in os.scandir(directory) if not entry.name.startswith("."))


def _is_output(directory: Path) -> bool:
    """Whether a directory in the tree is what somebody builds into (`make O=build`)."""
    return (directory / ".config").exists() or (directory / "source").is_symlink()


def _records(raw: Iterable[bytes]) -> Iterator[tuple[str, str]]:
    for part in raw:
        fields = part.split(b"\0")
        for name, sign in zip(fields[::2], fields[1::2], strict=False):
            if sign[:1] in (b"f", b"l"):
                yield os.fsdecode(name[2:]), sign.decode(errors="surrogateescape")


def _sources_of(tree: Path, cache: Cache) -> set[str]:
    """Return what git would not ignore in a tree, which need not be a repository.

    :raises ConfigError: git is not installed, or refuses.
    """
    git = which("git", package="git")
    argv = [git, "-c", f"core.excludesFile={os.devnull}", "ls-files", "-z"]
    argv += ["--others", "--exclude-standard"]
    environment = {k: v for k, v in os.environ.items() if not k.startswith("GIT_")}
    if (tree / ".git").exists():
        environment["GIT_OPTIONAL_LOCKS"] = "0"  # nothing of the user's is written to
        argv.append("--cached")
    else:
        # The tree's .gitignore files count in any repository, an empty one of ours too.
        with cache.lock("empty-repository", label="an empty git repository"):
            empty = cache.workdir("index", "empty-repository")
            if not (empty / ".git/HEAD").exists():
                run([git, "init", "-q", str(empty)], timeout=60, env=environment)
        environment |= {"GIT_DIR": str(empty / ".git"), "GIT_WORK_TREE": str(tree)}
    listed = _output(argv, tree, "git ls-files", environment)
    return set(os.fsdecode(listed).split("\0"))


def _output(
    argv: Sequence[str], cwd: Path, name: str, env: Mapping[str, str] | None = None
) -> bytes:
    """Return what a program writes, as bytes: names of files need not be text."""
    with Child.spawn(argv, name=name, cwd=cwd, stdout=PIPE, env=env) as child:
        assert child.stdout is not None
        parts = []
        while part := child.stdout.read(1 << 20):
            parts.append(part)
        status = child.wait(_WALK_SECONDS)
        # Files that vanish while it walks make find fail; what it saw is what there was.
        if status != 0 and not parts:
            raise ConfigError(f"cannot list the files of {cwd}: {name}: {child.tail(3)}")
    return b"".join(parts)


def _load(path: Path) -> dict[str, tuple[str, str]]:
    try:
        loaded = json.loads(path.read_bytes())
        return {name: (sign, token) for name, (sign, token) in loaded.items()}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}


def _save(path: Path, entries: Mapping[str, tuple[str, str]]) -> None:
    beside = path.with_name(f"{path.name}.new")
    beside.write_bytes(json.dumps(entries).encode())
    beside.replace(path)


def _hash(path: Path) -> str:
    result = hashlib.sha256()
    with path.open("rb", buffering=0) as file:
        while data := file.read(1 << 20):
            result.update(data)
    return result.hexdigest()
