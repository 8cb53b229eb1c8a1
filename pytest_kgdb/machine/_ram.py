"""The guest's RAM: an anonymous file that QEMU maps, saved and restored here.

QEMU could save it with the rest of the machine. At each restore it would then read and compare
every page, including those that are empty and those that were never written to. The file is mapped
here as well: a restore compares only what was saved, and clears only what was allocated since.
"""

from __future__ import annotations

import bisect
import ctypes
import mmap
import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Final

from ..errors import CacheError, ConfigError
from ._command import MachineSpec

__all__ = ["RamFile", "RamImage", "check_memory"]

_PART: Final = 1 << 16  # bytes; compared, saved and restored as a whole
_ZEROS: Final = bytes(_PART)

# The header of an image: this, the size of the RAM, and the number of runs. Each run's start and
# length follow, and from the next page on the contents of the runs.
_MAGIC: Final = b"kgdb-ram"
_HEAD: Final = struct.Struct("<8sQQ")
_RUN: Final = struct.Struct("<QQ")

_memcmp: Final = ctypes.CDLL(None).memcmp
_memcmp.argtypes = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t)


class RamImage:
    """A file with the saved contents of a guest's RAM.

    :raises CacheError: the file is not an image, or is truncated.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            with path.open("rb") as file:
                size = os.fstat(file.fileno()).st_size
                magic, self.size, count = _HEAD.unpack(file.read(_HEAD.size))
                if magic != _MAGIC or count * _RUN.size > size:
                    raise ValueError("it does not begin like one")
                table = file.read(count * _RUN.size)
                offset = _data_at(count)
                self.runs: list[tuple[int, int, int]] = []
                """Start in the RAM, length, and offset in the file of each."""
                end = 0
                for start, length in _RUN.iter_unpack(table):
                    if start < end or start + length > self.size:
                        raise ValueError(f"there cannot be {length} bytes at {start:#x}")
                    self.runs.append((start, length, offset))
                    end = start + length
                    offset += length
                if offset != size:
                    raise ValueError(f"{size} bytes instead of {offset}")
                # Copy on write: ctypes gives the address only of writable memory.
                self.map = mmap.mmap(file.fileno(), size, access=mmap.ACCESS_COPY)
        except (OSError, ValueError, struct.error) as error:
            raise CacheError(f"the saved memory {path} cannot be read: {error}") from error

        self.additions: list[tuple[int, bytes]] = []
        """What is in the RAM besides, where the file has none of it: start and contents."""

    def patch(self, start: int, data: bytes) -> None:
        """Have other bytes at a place from now on; the file stays as it is."""
        index = bisect.bisect_right(self.runs, start, key=lambda run: run[0]) - 1
        if index >= 0:
            begin, length, offset = self.runs[index]
            if start + len(data) <= begin + length:
                at = offset + start - begin
                self.map[at : at + len(data)] = data
                return
        for begin, length, offset in self.runs[max(index, 0) :]:
            if begin >= start + len(data):
                break
            low, high = max(begin, start), min(begin + length, start + len(data))
            if low < high:
                self.map[offset + low - begin : offset + high - begin] = data[
                    low - start : high - start
                ]
        self.additions.append((start, data))

    def close(self) -> None:
        """Unmap the file."""
        self.map.close()


def _data_at(count: int) -> int:
    return -(-(_HEAD.size + count * _RUN.size) // mmap.PAGESIZE) * mmap.PAGESIZE


class RamFile:
    """The RAM of one machine, in an anonymous file that goes with its last user.

    No method may be called while the guest runs.
    """

    def __init__(self, mebibytes: int) -> None:
        self.size = mebibytes << 20
        self.file: BinaryIO = os.fdopen(
            os.memfd_create("kgdb-ram", os.MFD_CLOEXEC), "r+b", buffering=0
        )
        os.ftruncate(self.file.fileno(), self.size)
        self._map = mmap.mmap(self.file.fileno(), self.size)

    def save(self, path: Path) -> None:
        """Save the contents in a file.

        :raises OSError: it cannot be written.
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
        """Yield start and end of each range with something other than zeros in it."""
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
        """Yield the ranges between two addresses that have pages (lseek(2), SEEK_DATA)."""
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

    def restore(self, image: RamImage) -> None:
        """Restore the contents from an image.

        :raises CacheError: the image is of a machine with another amount of RAM.
        """
        if image.size != self.size:
            raise CacheError(
                f"the saved memory {image.path} is of a machine with {image.size >> 20} MiB, not "
                f"{self.size >> 20}"
            )
        ours, saved = _address(self._map), _address(image.map)
        done = 0
        for start, length, offset in image.runs:
            self._clear(done, start, ours)
            done = start + length
            shift = saved + offset - start
            for at in range(start, done, _PART):
                size = min(_PART, done - at)
                if _memcmp(ours + at, shift + at, size):
                    ctypes.memmove(ours + at, shift + at, size)
        self._clear(done, self.size, ours)
        for start, data in image.additions:
            self._map[start : start + len(data)] = data

    def _clear(self, start: int, end: int, address: int) -> None:
        for begin, stop in self._allocated(start, end):
            for at in range(begin, stop, _PART):
                size = min(_PART, stop - at)
                if _memcmp(address + at, _ZEROS, size):
                    self._map.madvise(mmap.MADV_REMOVE, at, size)

    def close(self) -> None:
        """Unmap and close the file."""
        self._map.close()
        self.file.close()

    def __enter__(self) -> RamFile:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _address(mapped: mmap.mmap) -> int:
    return ctypes.addressof(ctypes.c_char.from_buffer(mapped))


def check_memory(spec: MachineSpec) -> None:
    """Check that the host has enough memory for the guest.

    :raises ConfigError: it does not.
    """
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            available = int(line.split()[1]) // 1024
            if spec.memory > available:
                raise ConfigError(
                    f"the guest wants {spec.memory} MiB of memory; the host has {available} MiB",
                    hint="lower --kgdb-memory",
                )
