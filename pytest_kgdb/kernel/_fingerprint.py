"""The content key of a source tree.

A walk gives the inode, size and times of every file. Files whose inode, size and times are those
of the last walk are not read again: their hashes are stored. The key depends on content only: a
copy of a tree has the same key, and it does not change when a file is touched, or when build
products appear.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final, NamedTuple

from ..arch import Arch
from ..cache import Cache, write_atomically
from ..errors import ConfigError
from ..process import PIPE, Child, run, which
from ..progress import Progress

# None of these can change a kernel. Documentation and tools/testing are a third of all files.
_UNUSED_TOP: Final = frozenset({"Documentation", "LICENSES", "debian"})
_TAKEN_APART: Final = frozenset({"arch", "drivers", "tools"})
_UNUSED_TOOLS: Final = frozenset({"testing", "perf"})
_ALWAYS: Final = ("Documentation/Kconfig", "Documentation/Makefile", "arch/Kconfig")

# Products of builds, editors, patch(1) and indexers. Names with a leading dot (`.foo.o.cmd`,
# `.git`) are left out of the walk: no build reads such a file.
_PRODUCTS: Final = (".o", ".a", ".ko", ".mod", ".order", ".symvers", ".orig", ".rej", "~")
_INDEXES: Final = ("tags", "TAGS", "GTAGS", "GRTAGS", "GPATH", "cscope.", "compile_commands.json")

_WALK_SECONDS: Final = 600.0
_READERS: Final = 4
_MANY_FILES: Final = 5000  # reading so many takes seconds, and is reported
_FORMAT: Final = r"%p\0%y%m %s %T@ %C@ %i %l\0"


class FileState(NamedTuple):
    """The content and the mode of a file, without its place and times."""

    digest: str
    """SHA-256 of its bytes, or of the target of a symbolic link."""
    executable: bool = False
    link: bool = False

    @property
    def token(self) -> str:
        """The state as one word."""
        return ("l" if self.link else "x" if self.executable else "f") + self.digest

    @classmethod
    def of(cls, token: str) -> FileState:
        """Return the state of a token."""
        return cls(token[1:], executable=token[0] == "x", link=token[0] == "l")


def tree_key(
    tree: Path, arch: Arch, cache: Cache, progress: Progress, *, dirty: bool = False
) -> str:
    """Return one hash for the names and contents of all files of a tree that a build can read.

    :param dirty: whether it was built in place; git then tells products from sources.
    """
    raw = _walk(tree, arch)
    digest = hashlib.sha256(b"\0\0".join(raw)).hexdigest()

    def read() -> str:
        return content_key(_contents(tree, raw, cache, progress, dirty=dirty))

    key = f"{tree.resolve()}\n{arch.name}\n{dirty}\n{digest}"
    return cache.memo("sources", key, read)


def contents(
    tree: Path, arch: Arch, cache: Cache, progress: Progress, *, dirty: bool = False
) -> dict[str, FileState]:
    """Return the states of all files of a tree that a build can read, by name."""
    return _contents(tree, _walk(tree, arch), cache, progress, dirty=dirty)


def content_key(files: Mapping[str, FileState]) -> str:
    """Return one hash for the states of many files."""
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
    """Whether a file is a build product, by its name."""
    base = name.rpartition("/")[2]
    return base.endswith(_PRODUCTS) or base.startswith(_INDEXES)


def _contents(
    tree: Path, raw: Iterable[bytes], cache: Cache, progress: Progress, *, dirty: bool
) -> dict[str, FileState]:
    """Return every file's state; only files that changed are read."""
    name = f"index-{hashlib.sha256(os.fsencode(tree.resolve())).hexdigest()[:24]}"
    sources = _sources_of(tree, cache) if dirty else None
    signs = {
        path: sign
        for path, sign in _records(raw)
        if (path in sources if sources is not None else not is_product(path))
    }
    with cache.lock(name, label=f"the list of files in {tree}"):
        index = cache.workdir("index", name) / "files.json"
        index_entries = _load(index)
        tokens = {
            path: index_entries[path][1]
            for path, sign in signs.items()
            if path in index_entries and index_entries[path][0] == sign
        }
        changed = [path for path in signs if path not in tokens]
        if changed:
            tokens |= _read(tree, changed, progress)
            # A file that changes while it is read gets another time than the walk found, and is
            # read again next time.
            _save(index, {path: (signs[path], tokens[path]) for path in tokens})
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
        if len(names) < _MANY_FILES:
            tokens = list(pool.map(token, names))
        else:
            tokens = []
            with progress.stage(f"reading {tree}") as stage:
                for result in pool.map(token, names):
                    tokens.append(result)
                    stage.update(done=len(tokens), total=len(names))
    return {name: token for name, token in zip(names, tokens, strict=True) if token is not None}


def _walk(tree: Path, arch: Arch) -> list[bytes]:
    """Return all files with type, mode, size, times, inode and target, as find(1) prints them.

    Two processes list half of the files each: most of the time is path lookup in the kernel. A walk
    in Python takes twice as long.
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
    # Since 6.1, crypto/Kconfig reads those of all architectures.
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
    """Whether a directory in the tree is a build directory (`make O=build`)."""
    return (directory / ".config").exists() or (directory / "source").is_symlink()


def _records(raw: Iterable[bytes]) -> Iterator[tuple[str, str]]:
    for part in raw:
        fields = part.split(b"\0")
        for name, sign in zip(fields[::2], fields[1::2], strict=False):
            if sign[:1] in (b"f", b"l"):
                yield os.fsdecode(name[2:]), sign.decode(errors="surrogateescape")


def _sources_of(tree: Path, cache: Cache) -> set[str]:
    """Return the files in a tree, which need not be a repository, that git would not ignore.

    :raises ConfigError: git is not installed, or refuses.
    """
    git = which("git", package="git")
    argv = [git, "-c", f"core.excludesFile={os.devnull}", "ls-files", "-z"]
    argv += ["--others", "--exclude-standard"]
    environment = {k: v for k, v in os.environ.items() if not k.startswith("GIT_")}
    if (tree / ".git").exists():
        environment["GIT_OPTIONAL_LOCKS"] = "0"  # write nothing to the user's repository
        argv.append("--cached")
    else:
        # Its .gitignore files work with any repository, also with an empty one.
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
    """Return a program's output as bytes: names of files need not be text."""
    with Child.spawn(argv, name=name, cwd=cwd, stdout=PIPE, env=env) as child:
        assert child.stdout is not None
        parts = []
        while part := child.stdout.read(1 << 20):
            parts.append(part)
        status = child.wait(_WALK_SECONDS)
        # find fails if a file disappears during the walk; its output is complete all the same.
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
    write_atomically(path, json.dumps(entries).encode())


def _hash(path: Path) -> str:
    result = hashlib.sha256()
    with path.open("rb", buffering=0) as file:
        while data := file.read(1 << 20):
            result.update(data)
    return result.hexdigest()
