"""Manifests of directories, and writing files that survive a crash."""

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
_HASH_THREADS: Final = 4
_CHUNK_BYTES: Final = 1 << 20
_BLOCK_BYTES: Final = 512  # st_blocks counts these, whatever the file system (inode(7))


# Named tuples here and in the other modules: defining a frozen dataclass takes half a millisecond,
# which every start of a session would pay.


class FileRecord(NamedTuple):
    """One regular file of an entry."""

    size: int
    mtime_ns: int
    sha256: str


class Manifest(NamedTuple):
    """The description of an entry: what it is, and every file in it with its hash."""

    kind: str
    key: str
    about: Mapping[str, Any]
    created: float
    files: Mapping[str, FileRecord]
    links: Mapping[str, str]
    """Symbolic links and their targets."""
    room: int
    """Bytes that it uses on the disk; sparse files use less than their size."""

    def dump(self) -> bytes:
        """Return it as the content of a file, with a hash of that content."""
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
        """Return the manifest in the output of `dump`.

        :raises ValueError: it was altered or truncated, or has another format.
        """
        try:
            body = json.loads(data)
            digest = body.pop("sha256")
            if digest != _digest(body):
                raise ValueError("it was altered")
            if body["format"] != _FORMAT:
                raise ValueError(f"format {body['format']} is unknown")
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

    :raises ValueError: there is something else, such as a socket or a device.
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


def disk_usage(root: Path) -> int:
    """Return the bytes that a directory uses on the disk."""
    size = 0
    linked: set[int] = set()
    for entry, _ in _walk(root, ""):
        try:
            status = entry.stat(follow_symlinks=False)
        except OSError:  # removed meanwhile
            continue
        if status.st_nlink > 1:
            if status.st_ino in linked:
                continue
            linked.add(status.st_ino)
        size += status.st_blocks * _BLOCK_BYTES
    return size


def make_manifest(
    root: Path,
    *,
    kind: str,
    key: str,
    about: Mapping[str, Any],
    created: float,
    sync: bool,
) -> Manifest:
    """Return the manifest of a directory. It reads every file.

    :param sync: whether to fsync every file and directory, too.
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

    digests = _hash_all(digest, {name: status.st_size for name, status in files.items()})
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
        room=disk_usage(root),
    )


class QuickCheck(NamedTuple):
    """The result of checking an entry's names, sizes and times."""

    wrong: str = ""
    """What is wrong; "" if nothing is."""
    touched: str = ""
    """A file with another time, whose content may or may not have changed; "" if there is none."""


def quick_check(root: Path, manifest: Manifest) -> QuickCheck:
    """Check an entry's files without reading them."""
    touched = ""
    for name, record in manifest.files.items():
        try:
            status = (root / name).stat(follow_symlinks=False)
        except OSError:
            return QuickCheck(f"{name} is missing")
        if status.st_size != record.size:
            return QuickCheck(f"{name} has {status.st_size} bytes instead of {record.size}")
        if status.st_mtime_ns != record.mtime_ns:
            touched = name
    return QuickCheck(touched=touched)


def difference(root: Path, manifest: Manifest) -> str:
    """Read a directory in full; return how it differs from its manifest, "" if it does not."""
    try:
        actual = make_manifest(
            root, kind=manifest.kind, key=manifest.key, about={}, created=0, sync=False
        )
        return compare(actual, manifest)
    except (OSError, ValueError) as error:
        return f"it cannot be read: {error}"


def compare(actual: Manifest, expected: Manifest) -> str:
    """Return how a directory's manifest differs from that of the entry, "" if it does not."""
    for name in sorted({*actual.files, *expected.files}):
        file, record = actual.files.get(name), expected.files.get(name)
        if file is None:
            return f"{name} is missing"
        if record is None:
            return f"{name} does not belong to it"
        if file.size != record.size:
            return f"{name} has {file.size} bytes instead of {record.size}"
        if file.sha256 != record.sha256:
            return f"{name} has another content"
    for name in sorted({*actual.links, *expected.links}):
        if actual.links.get(name) != expected.links.get(name):
            return f"the link {name} points to {actual.links.get(name, 'nothing')}"
    return ""


def write_synced(path: Path, data: bytes) -> None:
    """Write a file and fsync it."""
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def write_atomically(
    path: Path, data: bytes, *, sync: bool = False, mode: int | None = None
) -> None:
    """Write a temporary file beside a path and rename it: readers see the old content or the new.

    :param sync: whether to fsync the file before the rename.
    :param mode: its permissions; by default what the umask leaves of 0o666.
    """
    temporary = path.with_name(f"{path.name}.{os.getpid()}.{os.urandom(4).hex()}.new")
    try:
        if sync:
            write_synced(temporary, data)
        else:
            temporary.write_bytes(data)
        if mode is not None:
            temporary.chmod(mode)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def sync_directory(path: Path) -> None:
    """Fsync a directory, and with it the names in it."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _digest(body: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()


def _hash_all(digest: Callable[[str], str], sizes: Mapping[str, int]) -> dict[str, str]:
    if len(sizes) < 2 or sum(sizes.values()) < _PARALLEL_BYTES:
        return {name: digest(name) for name in sizes}
    # Imported lazily: a warm start hashes nothing. hashlib and fsync both release the GIL.
    from concurrent.futures import ThreadPoolExecutor

    largest_first = sorted(sizes, key=lambda name: -sizes[name])
    with ThreadPoolExecutor(_HASH_THREADS) as pool:
        return dict(zip(largest_first, pool.map(digest, largest_first), strict=True))


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
