"""Guest RAM: the file that QEMU maps, mapped here as well."""

from __future__ import annotations

import mmap
import os
import struct
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

from ..errors import ConfigError, KgdbError

_GIB: Final = 1 << 30
# Bytes that are searched at once: as many as stay in a CPU's cache.
_CHUNK: Final = 1 << 17
_U64: Final = struct.Struct("<Q")


@dataclass(frozen=True)
class Segment:
    """A range of guest physical addresses, and its offset in the RAM file."""

    start: int
    size: int
    offset: int

    @property
    def end(self) -> int:
        return self.start + self.size


def ram_layout(memory_bytes: int, machine: str = "pc") -> tuple[Segment, ...]:
    """Return where a QEMU machine has its RAM.

    PCI devices need addresses below 4 GiB, so a large RAM is in two segments.

    :param machine: QEMU's machine type.
    :raises ConfigError: the memory map of that machine type is not known.
    """
    # The board and its versioned names: pc-i440fx-7.2, pc-q35-7.2, virt-7.2.
    board = machine.removeprefix("pc-").partition("-")[0] if machine != "pc" else "i440fx"
    if board == "virt":  # hw/arm/virt.c, base_memmap: VIRT_MEM
        return (Segment(_GIB, memory_bytes, 0),)
    if board == "i440fx":  # hw/i386/pc_piix.c, pc_init1: 3.5 GiB below 4 GiB, or 3 and the rest
        low = memory_bytes if memory_bytes < 0xE0000000 else min(memory_bytes, 3 * _GIB)
    elif board == "q35":  # hw/i386/pc_q35.c, pc_q35_init: 2.75 GiB, or 2 and the rest
        low = memory_bytes if memory_bytes < 0xB0000000 else min(memory_bytes, 2 * _GIB)
    else:
        raise ConfigError(
            f"the memory map of QEMU's machine type {machine!r} is not known",
            hint="pytest-kgdb knows pc, q35 and virt",
        )
    if low == memory_bytes:
        return (Segment(0, low, 0),)
    return (Segment(0, low, 0), Segment(4 * _GIB, memory_bytes - low, low))


class Physical(ABC):
    """Physical memory."""

    @abstractmethod
    def holds(self, address: int, size: int = 1) -> bool:
        """Return whether all of the range is RAM."""

    @abstractmethod
    def read(self, address: int, size: int) -> bytes:
        """Read bytes.

        :raises KgdbError: not all of them are RAM.
        """

    @abstractmethod
    def u64(self, address: int) -> int:
        """Read a little-endian 64-bit word."""

    @abstractmethod
    def write(self, address: int, data: bytes) -> None:
        """Write bytes.

        :raises KgdbError: not all of them are RAM.
        """

    @abstractmethod
    def find(self, pattern: bytes, start: int = 0, end: int | None = None) -> Iterator[int]:
        """Yield the physical address of each occurrence in order, also of overlapping ones."""


class Ram(Physical):
    """Guest physical memory, mapped into this process.

    :param file: the file behind QEMU's `memory-backend-file`, or an open one (a memfd).
    :param segments: where the guest has it.
    :raises KgdbError: the file is smaller than the segments say.
    """

    def __init__(self, file: Path | BinaryIO, segments: Iterable[Segment]) -> None:
        self.segments = tuple(segments)
        size = max(segment.offset + segment.size for segment in self.segments)
        with ExitStack() as stack:
            try:
                if isinstance(file, Path):
                    self._fd = os.open(file, os.O_RDWR | os.O_CLOEXEC)
                else:
                    self._fd = os.dup(file.fileno())
                stack.callback(os.close, self._fd)
                file_size = os.fstat(self._fd).st_size
                if file_size < size:  # reading beyond the end would be a SIGBUS, not an exception
                    raise KgdbError(f"guest RAM is {file_size} bytes; the machine has {size}")
                self.mapping = mmap.mmap(self._fd, size, prot=mmap.PROT_READ)
            except OSError as error:
                raise KgdbError(f"cannot map guest RAM: {error}") from error
            self._stack = stack.pop_all()
        self._writable: mmap.mmap | None = None
        self.end = max(segment.end for segment in self.segments)

    def close(self) -> None:
        """Unmap it. Idempotent."""
        for mapping in (self.mapping, self._writable):
            if mapping is not None:
                mapping.close()
        self._stack.close()

    def offset(self, address: int, size: int = 1) -> int:
        """Return the offset of a range in the file.

        :raises KgdbError: not all of it is RAM.
        """
        for segment in self.segments:
            if segment.start <= address and address + size <= segment.end:
                return address - segment.start + segment.offset
        raise KgdbError(
            f"physical memory at {address:#x} ({size} bytes) is not RAM: the guest has "
            + " and ".join(f"{s.start:#x}-{s.end - 1:#x}" for s in self.segments)
        )

    def holds(self, address: int, size: int = 1) -> bool:
        return any(s.start <= address and address + size <= s.end for s in self.segments)

    def read(self, address: int, size: int) -> bytes:
        offset = self.offset(address, size)
        return self.mapping[offset : offset + size]

    def u64(self, address: int) -> int:
        return int(_U64.unpack_from(self.mapping, self.offset(address, 8))[0])

    def write(self, address: int, data: bytes) -> None:
        offset = self.offset(address, len(data))
        if self._writable is None:
            self._writable = mmap.mmap(self._fd, len(self.mapping))
        self._writable[offset : offset + len(data)] = data

    def find(self, pattern: bytes, start: int = 0, end: int | None = None) -> Iterator[int]:
        if not pattern:
            raise ValueError("cannot look for an empty pattern")
        end = self.end if end is None else end
        for segment in self.segments:
            low, high = max(start, segment.start), min(end, segment.end)
            if low >= high:
                continue
            shift = segment.offset - segment.start
            for first, last in self._touched(low + shift, high + shift, pattern):
                for offset in self._search(pattern, first, last):
                    yield offset - shift

    def _search(self, pattern: bytes, first: int, last: int) -> Iterator[int]:
        # Copies, not the mapping: that is faster than a fault for each page, and does not allocate
        # the pages that the guest never touched.
        overlap = len(pattern) - 1
        for start in range(first, last - overlap, _CHUNK):
            chunk = os.pread(self._fd, min(_CHUNK + overlap, last - start), start)
            at = -1
            while (at := chunk.find(pattern, at + 1)) >= 0:
                yield start + at

    def _touched(self, low: int, high: int, pattern: bytes) -> Iterator[tuple[int, int]]:
        """Yield the ranges of the sparse file in which the pattern may be."""
        if not pattern.strip(b"\0"):
            yield low, high  # holes match
            return
        overlap = len(pattern) - 1
        at = done = low
        while at < high:
            try:
                data = os.lseek(self._fd, at, os.SEEK_DATA)
            except OSError:  # ENXIO: nothing but a hole up to the end
                return
            at = os.lseek(self._fd, data, os.SEEK_HOLE)
            # A match may begin or end in the zeros beside the data. Those that begin before `done`
            # were yielded.
            first, last = max(done, data - overlap), min(high, at + overlap)
            if first < last:
                yield first, last
                done = max(done, last - overlap)
