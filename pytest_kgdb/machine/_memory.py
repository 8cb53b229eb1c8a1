"""The guest's memory: a file without a name that QEMU and we map; what of it is kept, and put back.

QEMU could keep it with the rest of a machine's state, and did. It then reads and compares every
page at each return, those too that hold nothing and those that nobody has written to. The file is
ours as well as QEMU's, so that we do better: of what was kept only the parts with something in
them are looked at, and of the rest only what has come to be since.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Final

from ..errors import CacheError, ConfigError
from ._command import MachineSpec

__all__ = ["Image", "Memory", "check_memory"]

_PART: Final = 1 << 16  # bytes; compared, kept and put back as a whole
_ZEROS: Final = bytes(_PART)

# An image: this, the size of the memory, how many runs; each run's start and length; and from
# the next page on what the runs hold, one after the other.
_MAGIC: Final = b"kgdb-ram"
_HEAD: Final = struct.Struct("<8sQQ")
_RUN: Final = struct.Struct("<QQ")

_memcmp: Final = ctypes.CDLL(None).memcmp
_memcmp.argtypes = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t)


class Image:
    """What a guest's memory held at one moment, in a file.

    :raises CacheError: the file is not one, or not whole.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            with path.open("rb") as file:
                size = os.fstat(file.fileno()).st_size
                magic, self.size, count = _HEAD.unpack(file.read(_HEAD.size))
                if magic != _MAGIC or count * _RUN.size > size:
                    raise ValueError("it does not begin as one")
                table = file.read(count * _RUN.size)
                offset = _data_at(count)
                self.runs: list[tuple[int, int, int]] = []
                """Of each its start in the guest's memory, its length, and its place here."""
                end = 0
                for start, length in _RUN.iter_unpack(table):
                    if start < end or start + length > self.size:
                        raise ValueError(f"there cannot be {length} bytes at {start:#x}")
                    self.runs.append((start, length, offset))
                    end = start + length
                    offset += length
                if offset != size:
                    raise ValueError(f"{size} bytes instead of {offset}")
                # Copy on write, as only of writable memory ctypes tells the address.
                self.map = mmap.mmap(file.fileno(), size, access=mmap.ACCESS_COPY)
        except (OSError, ValueError, struct.error) as error:
            raise CacheError(f"the saved memory {path} cannot be read: {error}") from error

    def close(self) -> None:
        """Let go of the file."""
        self.map.close()


def _data_at(count: int) -> int:
    return -(-(_HEAD.size + count * _RUN.size) // mmap.PAGESIZE) * mmap.PAGESIZE


class Memory:
    """The memory of one machine; it dies with its last user.

    Nothing here may be called while the guest runs.
    """

    def __init__(self, mebibytes: int) -> None:
        self.size = mebibytes << 20
        self.file: BinaryIO = os.fdopen(
            os.memfd_create("kgdb-ram", os.MFD_CLOEXEC), "r+b", buffering=0
        )
        os.ftruncate(self.file.fileno(), self.size)
        self._map = mmap.mmap(self.file.fileno(), self.size)

    def save(self, path: Path) -> None:
        """Write down what there is.

        :raises OSError: there is no room for it.
        """
        runs = list(self._runs())
        with path.open("wb") as file:
            file.write(_HEAD.pack(_MAGIC, self.size, len(runs)))
            file.writelines(_RUN.pack(start, end - start) for start, end in runs)
            file.seek(_data_at(len(runs)))
            with memoryview(self._map) as view:
                for start, end in runs:
                    file.write(view[start:end])
            file.truncate(max(file.tell(), _data_at(len(runs))))

    def _runs(self) -> Iterator[tuple[int, int]]:
        """Yield where there is more than zeros."""
        begun = -1
        for start, end in self._allocated(0, self.size):
            for at in range(start, end, _PART):
                part = self._map[at : min(at + _PART, end)]
                if part == _ZEROS[: len(part)]:
                    if begun >= 0:
                        yield begun, at
                    begun = -1
                elif begun < 0:
                    begun = at
            if begun >= 0:
                yield begun, end
            begun = -1

    def _allocated(self, start: int, end: int) -> Iterator[tuple[int, int]]:
        """Yield what was ever written to, or looked at, in a part of it (lseek(2), SEEK_DATA)."""
        descriptor = self.file.fileno()
        while start < end:
            try:
                start = os.lseek(descriptor, start, os.SEEK_DATA)
            except OSError:  # ENXIO: nothing more
                return
            if start >= end:
                return
            stop = min(os.lseek(descriptor, start, os.SEEK_HOLE), end)
            yield start, stop
            start = stop

    def put_back(self, image: Image) -> None:
        """Make it what it was when an image was saved.

        :raises CacheError: the image is of another machine.
        """
        if image.size != self.size:
            raise CacheError(
                f"the saved memory {image.path} is of a machine with {image.size >> 20} MiB, not "
                f"{self.size >> 20}"
            )
        ours, kept = _address(self._map), _address(image.map)
        done = 0
        for start, length, offset in image.runs:
            self._clear(done, start, ours)
            done = start + length
            shift = kept + offset - start
            for at in range(start, done, _PART):
                size = min(_PART, done - at)
                if _memcmp(ours + at, shift + at, size):
                    ctypes.memmove(ours + at, shift + at, size)
        self._clear(done, self.size, ours)

    def _clear(self, start: int, end: int, address: int) -> None:
        for begin, stop in self._allocated(start, end):
            for at in range(begin, stop, _PART):
                size = min(_PART, stop - at)
                if _memcmp(address + at, _ZEROS, size):
                    self._map.madvise(mmap.MADV_REMOVE, at, size)

    def close(self) -> None:
        """Let go of it."""
        self._map.close()
        self.file.close()

    def __enter__(self) -> Memory:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _address(mapped: mmap.mmap) -> int:
    return ctypes.addressof(ctypes.c_char.from_buffer(mapped))


def check_memory(spec: MachineSpec) -> None:
    """:raises ConfigError: the host cannot give the guest that much memory."""
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            available = int(line.split()[1]) // 1024
            if spec.memory > available:
                raise ConfigError(
                    f"the guest wants {spec.memory} MiB of memory; the host has {available} MiB",
                    hint="lower --kgdb-memory",
                )
