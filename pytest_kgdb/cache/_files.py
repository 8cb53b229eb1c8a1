"""What a directory holds: its manifest, and how to bring it to the disk for good."""

from __future__ import annotations

import hashlib
import json
import os
import stat
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

MANIFEST: Final = "manifest.json"
FILES: Final = "files"
_FORMAT: Final = 1
_PARALLEL_BYTES: Final = 16 << 20  # less is hashed faster than threads are started
_HASHERS: Final = 4
_CHUNK_BYTES: Final = 1 << 20
_BLOCK_BYTES: Final = 512  # st_blocks counts these, whatever the file system (inode(7))


# Named tuples here and in the other modules: a frozen dataclass takes half a millisecond to
# define, and a warm start pays for each.


class FileRecord(NamedTuple):
    """One regular file of an entry."""

    size: int
    mtime_ns: int
    sha256: str


class Manifest(NamedTuple):
    """What an entry is and what it holds."""

    kind: str
    key: str
    about: Mapping[str, Any]
    created: float
    files: Mapping[str, FileRecord]
    links: Mapping[str, str]
    """Symbolic links and where they point."""
    room: int
    """Bytes that it takes on the disk: fewer than its files have, where they are sparse."""

    def dump(self) -> bytes:
        """Return it as a file's content, which carries a hash of itself."""
        body = {
            "format": _FORMAT,
            "kind": self.kind,
            "key": self.key,
            "about": dict(self.about),
            "created": self.created,
            "files": {
                name: [record.size, record.mtime_ns, record.sha256]
                for name, record in self.files.items()
            },
            "links": dict(self.links),
            "room": self.room,
        }
        return json.dumps({"sha256": _digest(body), **body}, indent=1).encode()

    @classmethod
    def load(cls, data: bytes) -> Manifest:
        """Return the manifest that `dump` made.

        :raises ValueError: it is not whole.
        """
        try:
            body = json.loads(data)
            digest = body.pop("sha256")
            if digest != _digest(body):
                raise ValueError("it was altered")
            if body["format"] != _FORMAT:
                raise ValueError(f"format {body['format']} is not ours")
            return cls(
                kind=body["kind"],
                key=body["key"],
                about=body["about"],
                created=body["created"],
                files={name: FileRecord(*record) for name, record in body["files"].items()},
                links=body["links"],
                room=body["room"],
            )
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise ValueError(f"its manifest is broken: {error}") from error


def scan(root: Path) -> tuple[dict[str, os.stat_result], dict[str, str]]:
    """Return the regular files and the symbolic links below a directory, by relative name.

    :raises ValueError: there is something else (a socket, a device), which nobody can keep.
    """
    files: dict[str, os.stat_result] = {}
    links: dict[str, str] = {}
    for entry, name in _walk(root, ""):
        status = entry.stat(follow_symlinks=False)
        if stat.S_ISLNK(status.st_mode):
            links[name] = str(Path(entry.path).readlink())
        elif stat.S_ISREG(status.st_mode):
            files[name] = status
        else:
            raise ValueError(f"{name} is neither a file nor a link")
    return files, links


def measure(root: Path) -> int:
    """Return how much room a directory takes, in bytes, sparse files at what they take."""
    size = 0
    for entry, _ in _walk(root, ""):
        try:
            size += entry.stat(follow_symlinks=False).st_blocks * _BLOCK_BYTES
        except OSError:  # removed meanwhile
            continue
    return size


def take_stock(
    root: Path,
    *,
    kind: str,
    key: str,
    about: Mapping[str, Any],
    created: float,
    sync: bool,
) -> Manifest:
    """Return the manifest of a directory, every file read.

    :param sync: also bring every file to the disk.
    """
    files, links = scan(root)

    def digest(name: str) -> str:
        with (root / name).open("rb") as file:
            result = hashlib.sha256()
            while data := file.read(_CHUNK_BYTES):
                result.update(data)
            if sync:
                os.fsync(file.fileno())
        return result.hexdigest()

    digests = _each(digest, {name: status.st_size for name, status in files.items()})
    if sync:
        for directory, _, _ in os.walk(root):
            sync_directory(Path(directory))
    return Manifest(
        kind=kind,
        key=key,
        about=about,
        created=created,
        files={
            name: FileRecord(status.st_size, status.st_mtime_ns, digests[name])
            for name, status in files.items()
        },
        links=links,
        room=measure(root),
    )


class Glance(NamedTuple):
    """What a look at the files' names, sizes and times came to."""

    wrong: str = ""
    """What is wrong, "" if nothing is."""
    touched: str = ""
    """A file with another time than it had: only its content can tell."""


def look_over(root: Path, manifest: Manifest) -> Glance:
    """Look at an entry's files without reading them."""
    touched = ""
    for name, record in manifest.files.items():
        try:
            status = (root / name).stat(follow_symlinks=False)
        except OSError:
            return Glance(f"{name} is missing")
        if status.st_size != record.size:
            return Glance(f"{name} has {status.st_size} bytes instead of {record.size}")
        if status.st_mtime_ns != record.mtime_ns:
            touched = name
    return Glance(touched=touched)


def difference(root: Path, manifest: Manifest) -> str:
    """Read a directory in full; return what is not as its manifest has it, or nothing."""
    try:
        found = take_stock(
            root, kind=manifest.kind, key=manifest.key, about={}, created=0, sync=False
        )
        return compare(found, manifest)
    except (OSError, ValueError) as error:
        return f"it cannot be read: {error}"


def compare(found: Manifest, wanted: Manifest) -> str:
    """Return in what an entry, every file read, differs from its manifest, "" if in nothing."""
    for name in sorted({*found.files, *wanted.files}):
        have, want = found.files.get(name), wanted.files.get(name)
        if have is None:
            return f"{name} is missing"
        if want is None:
            return f"{name} does not belong to it"
        if have.size != want.size:
            return f"{name} has {have.size} bytes instead of {want.size}"
        if have.sha256 != want.sha256:
            return f"{name} has another content"
    for name in sorted({*found.links, *wanted.links}):
        if found.links.get(name) != wanted.links.get(name):
            return f"the link {name} points to {found.links.get(name, 'nothing')}"
    return ""


def write_synced(path: Path, data: bytes) -> None:
    """Write a file and bring it to the disk."""
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def sync_directory(path: Path) -> None:
    """Bring the names in a directory to the disk."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _digest(body: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()


def _each(work: Callable[[str], str], sizes: Mapping[str, int]) -> dict[str, str]:
    if len(sizes) < 2 or sum(sizes.values()) < _PARALLEL_BYTES:
        return {name: work(name) for name in sizes}
    # Imported here: a warm start hashes nothing. hashlib and fsync both let other threads run.
    from concurrent.futures import ThreadPoolExecutor

    largest_first = sorted(sizes, key=lambda name: -sizes[name])
    with ThreadPoolExecutor(_HASHERS) as pool:
        return dict(zip(largest_first, pool.map(work, largest_first), strict=True))


def _walk(root: Path, prefix: str) -> Iterator[tuple[os.DirEntry[str], str]]:
    try:
        entries = sorted(os.scandir(root), key=lambda entry: entry.name)
    except FileNotFoundError:  # removed meanwhile
        return
    for entry in entries:
        name = prefix + entry.name
        if entry.is_dir(follow_symlinks=False):
            yield from _walk(Path(entry.path), name + "/")
        else:
            yield entry, name
