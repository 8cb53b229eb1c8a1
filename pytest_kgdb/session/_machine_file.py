"""The file that a saved machine is in: an archive of compressed parts, and a hash of all of it.

It is a tar archive (ustar), so that it can be read by hand. `machine.json` is its first member, and
the others are zstd-compressed files of that machine. The last member, `sha256`, has the hash of
everything before it: neither a file that is cut off nor one that was changed is opened.

A file may come from somebody else. Nothing in it names a place on this host: the parts go into a
directory of ours, under names of one pattern, and none grows beyond the size that was checked.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import tarfile
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, BinaryIO, Final, cast

import zstandard

from ..errors import CacheError, ConfigError, KgdbError

__all__ = ["RECORD", "MachineFile", "Packed", "pack", "sha256_of", "write_machine_file"]

RECORD: Final = "machine.json"
_DIGEST: Final = "sha256"
_SUFFIX: Final = ".zst"
_BLOCK: Final = tarfile.BLOCKSIZE
_CHUNK: Final = 1 << 20
_LEVEL: Final = 3  # measured: level 7 takes five times as long for 8 % less of a vmlinux

_NAME: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+-]*(?:/[A-Za-z0-9_][A-Za-z0-9_.+-]*){0,2}")
_MOST_PARTS: Final = 1_000
_RECORD_BYTES: Final = 16 << 20
_SMALL_BYTES: Final = 256 << 20
_LARGE_BYTES: Final = 4 << 30
_LARGE: Final = frozenset({"vmlinux", "storage.qcow2"})
"""Parts that may be larger than the others; the memory's size is that of the guest."""

_LARGEST_WINDOW: Final = 1 << 27  # bytes that zstd may need to decompress a part


class Packed:
    """A part that is compressed, in a file of its own.

    :param name: its name in the archive.
    :param path: the compressed file.
    :param size: its size before.
    """

    def __init__(self, name: str, path: Path, size: int) -> None:
        self.name, self.path, self.size = name, path, size
        self.packed = path.stat().st_size


def pack(name: str, source: Path | bytes, scratch: Path) -> Packed:
    """Compress a part, unless that was done before.

    :param scratch: the directory for the compressed file.
    :raises OSError: it cannot be read or written.
    """
    compressor = zstandard.ZstdCompressor(level=_LEVEL, threads=-1, write_checksum=True)
    target = scratch / f"{name.replace('/', '~')}{_SUFFIX}"
    size = len(source) if isinstance(source, bytes) else source.stat().st_size
    if not target.exists():
        temporary = target.with_suffix(".tmp")
        with (
            io.BytesIO(source) if isinstance(source, bytes) else source.open("rb") as file,
            temporary.open("wb") as packed,
        ):
            compressor.copy_stream(file, packed, size=size)
        temporary.replace(target)
    return Packed(name, target, size)


def write_machine_file(path: Path, record: Mapping[str, Any], parts: list[Packed]) -> None:
    """Write the file beside its place, and rename it there.

    :param record: what `machine.json` has, but for the sizes of the parts.
    :raises KgdbError: it cannot be written.
    """
    text = json.dumps({**record, "sizes": {part.name: part.size for part in parts}}, indent=1)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with temporary.open("xb") as file:
            digest = hashlib.sha256()

            def write(data: bytes) -> None:
                digest.update(data)
                file.write(data)

            _write_member(write, RECORD, io.BytesIO(text.encode()), len(text.encode()))
            for part in parts:
                with part.path.open("rb") as packed:
                    _write_member(write, part.name + _SUFFIX, packed, part.packed)
            line = f"{digest.hexdigest()}\n".encode()
            _write_member(file.write, _DIGEST, io.BytesIO(line), len(line))
            file.write(bytes(-file.tell() % tarfile.RECORDSIZE or tarfile.RECORDSIZE))
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        raise KgdbError(
            f"the machine could not be saved in {path}: {error.strerror or error}",
            hint="name another place, with room for 100 MB",
        ) from error
    finally:
        temporary.unlink(missing_ok=True)


def _write_member(write: Callable[[bytes], object], name: str, source: BinaryIO, size: int) -> None:
    info = tarfile.TarInfo(name)
    info.size, info.mode = size, 0o600
    write(info.tobuf(tarfile.GNU_FORMAT))
    while data := source.read(_CHUNK):
        write(data)
    write(bytes(-size % _BLOCK))


def sha256_of(path: Path) -> str:
    """Return the hash of a file's content, in hexadecimal digits."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while data := file.read(_CHUNK):
            digest.update(data)
    return digest.hexdigest()


class MachineFile:
    """A file that is to be opened; nothing of it is unpacked yet.

    :raises ConfigError: there is no such file, or it is not one.
    :raises CacheError: it is damaged.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._file = path.open("rb")
        except OSError as error:
            raise ConfigError(f"{path} cannot be read: {error.strerror}") from error
        try:
            self._size = os.fstat(self._file.fileno()).st_size
            self._members: dict[str, tuple[int, int]] = {}
            self._hashed = 0
            self._read_headers()
            self.record: dict[str, Any] = self._read_record()
            self._sizes: dict[str, int] = self._checked_sizes()
        except BaseException:
            self._file.close()
            raise

    def damaged(self, why: str) -> CacheError:
        """Return the error for a file that is not as it was written."""
        return CacheError(
            f"{self.path} is damaged, and was not opened: {why}",
            hint="copy it again from where it was saved; `sha256sum` there and here tells",
        )

    def _other(self) -> ConfigError:
        return ConfigError(
            f"{self.path} is not a saved machine",
            hint="kgdb.save(FILE) and --kgdb-artifacts-machine write such files",
        )

    # The archive

    def _read_at(self, offset: int, size: int) -> bytes:
        data = os.pread(self._file.fileno(), size, offset)
        if len(data) != size:
            raise self.damaged("it ends too early")
        return data

    def _read_headers(self) -> None:
        """Read where the members are, up to the hash, which must be the last."""
        offset = 0
        while _DIGEST not in self._members:
            if offset + _BLOCK > self._size or len(self._members) > _MOST_PARTS:
                raise self.damaged("it ends too early") if self._members else self._other()
            block = self._read_at(offset, _BLOCK)
            if block == bytes(_BLOCK):
                raise self.damaged("it ends too early") if self._members else self._other()
            try:
                info = tarfile.TarInfo.frombuf(block, "ascii", "strict")
            except (tarfile.HeaderError, ValueError) as error:
                if not self._members:
                    raise self._other() from error
                raise self.damaged(f"no member is at {offset}: {error}") from error
            if not self._members and info.name != RECORD:
                raise self._other()
            if not info.isreg() or info.name in self._members or not _NAME.fullmatch(info.name):
                raise self.damaged(f"it has no place for {info.name!r}")
            start = offset + _BLOCK
            if info.size < 0 or start + info.size > self._size:
                raise self.damaged("it ends too early")
            self._members[info.name] = (start, info.size)
            self._hashed = offset
            offset = start + info.size + -info.size % _BLOCK
        start, size = self._members[_DIGEST]
        rest = self._read_at(start + size, min(self._size - start - size, 4 * tarfile.RECORDSIZE))
        if rest.strip(b"\0") or self._size != -(-(offset + 1) // tarfile.RECORDSIZE) * (
            tarfile.RECORDSIZE
        ):
            raise self.damaged("its end is another")

    def _read_record(self) -> dict[str, Any]:
        start, size = self._members[RECORD]
        if size > _RECORD_BYTES:
            raise self.damaged(f"{RECORD} has {size >> 20} MiB")
        try:
            record = json.loads(self._read_at(start, size))
        except (ValueError, RecursionError) as error:
            raise self.damaged(f"{RECORD}: {error}") from error
        if not isinstance(record, dict):
            raise self._other()
        return record

    def _checked_sizes(self) -> dict[str, int]:
        sizes = self.record.get("sizes")
        packed = {
            name.removesuffix(_SUFFIX) for name in self._members if name not in (RECORD, _DIGEST)
        }
        if (
            not isinstance(sizes, dict)
            or set(sizes) != packed
            or not all(type(size) is int and size >= 0 for size in sizes.values())
        ):
            raise self.damaged(f"its parts are not those of {RECORD}")
        return sizes

    # The parts

    def has(self, name: str) -> bool:
        """Whether a part is in it."""
        return name in self._sizes

    def names(self, top: str) -> list[str]:
        """Return the parts below a directory."""
        return [name for name in self._sizes if name.startswith(f"{top}/")]

    def unpack(self, directory: Path, *, memory_bytes: int) -> None:
        """Unpack all parts, and check that the file is whole.

        Nothing may be used before this has returned.

        :param memory_bytes: the guest's memory, beyond which its part must not grow.
        :raises CacheError: the file is damaged.
        :raises KgdbError: there is no room for it.
        """
        for name, size in self._sizes.items():
            # With a table of the parts that are not zeros (machine/_ram.py).
            limit = 2 * memory_bytes if name == "memory" else _SMALL_BYTES
            if size > (_LARGE_BYTES if name in _LARGE else limit):
                raise self.damaged(f"{name} would have {size >> 20} MiB")
        status = os.statvfs(directory)
        needed, free = sum(self._sizes.values()), status.f_bavail * status.f_frsize
        if needed > free:
            raise KgdbError(
                f"{self.path} takes {needed >> 20} MiB to open; {directory.parent} has "
                f"{free >> 20} MiB",
                hint="make room there, or set TMPDIR to where there is",
            )
        with ThreadPoolExecutor(os.cpu_count() or 1, "kgdb-unpack") as pool:
            # The hash first: where it is another, nothing else matters.
            hashed = pool.submit(self._digest)
            unpacked = [pool.submit(self._unpack, name, directory) for name in self._sizes]
            start, size = self._members[_DIGEST]
            if self._read_at(start, min(size, _BLOCK)) != f"{hashed.result()}\n".encode():
                raise self.damaged("its SHA-256 is another")
            for future in unpacked:
                future.result()

    def _digest(self) -> str:
        digest = hashlib.sha256()
        before = _Member(self._read_at, 0, self._hashed)
        while data := before.read(_CHUNK):
            digest.update(data)
        return digest.hexdigest()

    def _unpack(self, name: str, directory: Path) -> None:
        start, packed = self._members[name + _SUFFIX]
        expected, size = self._sizes[name], 0
        target = directory / name
        target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        source = cast("BinaryIO", _Member(self._read_at, start, packed))
        decompressor = zstandard.ZstdDecompressor(max_window_size=_LARGEST_WINDOW)
        try:
            # Read piece by piece: a few kilobytes may stand for gigabytes.
            with target.open("xb") as file, decompressor.stream_reader(source) as reader:
                while piece := reader.read(_CHUNK):
                    size += len(piece)
                    if size > expected:
                        raise self.damaged(f"{name} has more than {expected} bytes")
                    file.write(piece)
        except zstandard.ZstdError as error:
            raise self.damaged(f"{name}: {error}") from error
        except OSError as error:
            raise KgdbError(
                f"{self.path} could not be unpacked: {error.strerror}: {target}",
                hint="make room there, or set TMPDIR to where there is",
            ) from error
        if size != expected:
            raise self.damaged(f"{name} has {size} bytes instead of {expected}")

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def __enter__(self) -> MachineFile:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class _Member:
    """One member of the archive, as a file to be read once."""

    def __init__(self, read_at: Callable[[int, int], bytes], start: int, size: int) -> None:
        self._read_at, self._at, self._left = read_at, start, size

    def read(self, size: int = -1) -> bytes:
        """Return the next bytes."""
        size = self._left if size < 0 else min(size, self._left)
        data = self._read_at(self._at, size)
        self._at, self._left = self._at + size, self._left - size
        return data
