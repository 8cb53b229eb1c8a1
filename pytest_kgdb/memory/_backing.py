"""The two ways to a kernel's memory: RAM mapped into this process, or reads by the debugger."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from typing import Final, NamedTuple, NoReturn

from ..errors import KgdbError
from ..kernel import Vmlinux
from ._pagetable import PageTable
from ._placement import Placement, ReadFunction, place, place_remote
from ._ram import Physical, Ram

# Bytes that are read at once over a slow line: no page's end is within, and it is one packet.
_BLOCK: Final = 256

SegmentReader = Callable[[int, int, int, bool], bytes]
"""drgn's: takes address, size, offset in the segment, and whether the address is physical."""


WriteFunction = Callable[[int, bytes], None]
"""Takes an address and the bytes."""


class ProgramSegment(NamedTuple):
    """The arguments of drgn's `add_memory_segment`."""

    address: int
    size: int
    read_fn: SegmentReader
    physical: bool


class Backing(ABC):
    """A kernel's memory."""

    vmlinux: Vmlinux
    physical: Physical
    placement: Placement
    table: PageTable

    @abstractmethod
    def refresh(self) -> None:
        """Find the kernel again, which may have been booted or restored."""

    @abstractmethod
    def read(self, address: int, size: int) -> bytes:
        """Read kernel virtual memory."""

    def many_reads(self) -> ReadFunction:
        """Return what reads many small pieces of ordinary memory, near each other, at one stop."""
        return self.read

    @abstractmethod
    def segments(self, check: Callable[[], None]) -> Iterator[ProgramSegment]:
        """Yield the memory segments of a drgn program, whose reads call `check` first."""

    def close(self) -> None:
        """Close the files. Idempotent."""
        self.vmlinux.close()


def _table(vmlinux: Vmlinux, placement: Placement, physical: Physical) -> PageTable:
    # arch/x86/include/asm/pgtable_64.h: swapper_pg_dir is a macro over init_top_pgt.
    root = vmlinux.need("init_top_pgt", "swapper_pg_dir") + placement.offset
    return PageTable(physical, placement.image_to_phys(root), placement.levels)


class RamBacking(Backing):
    """A kernel in RAM that is mapped into this process."""

    physical: Ram

    def __init__(self, vmlinux: Vmlinux, ram: Ram) -> None:
        self.vmlinux = vmlinux
        self.physical = self._ram = ram
        self._shift = 0

    def refresh(self) -> None:
        self.placement, self._shift = place(self.vmlinux, self._ram, self._shift)
        self.table = _table(self.vmlinux, self.placement, self.physical)

    def read(self, address: int, size: int) -> bytes:
        return self.table.read(address, size)

    def close(self) -> None:
        super().close()
        self._ram.close()

    def segments(self, check: Callable[[], None]) -> Iterator[ProgramSegment]:
        # drgn walks the page tables itself, over the physical segments. The two linear maps, in
        # which nearly everything is, are shortcuts: one call for each read instead of six.
        import drgn

        ram = self._ram
        for segment in ram.segments:
            yield ProgramSegment(
                segment.start, segment.size, _slices(ram, segment.offset, check), True
            )
            yield ProgramSegment(
                self.placement.page_offset + segment.start,
                segment.size,
                _slices(ram, segment.offset, check),
                False,
            )
        start, end = (self.vmlinux.need(name) + self.placement.offset for name in ("_text", "_end"))
        physical = self.placement.image_to_phys(start)
        if not ram.holds(physical, end - start):
            raise drgn.FaultError("the kernel's image is not in RAM", physical)
        yield ProgramSegment(start, end - start, _slices(ram, ram.offset(physical), check), False)


def _slices(ram: Ram, base: int, check: Callable[[], None]) -> SegmentReader:
    mapping = ram.mapping

    def read(_address: int, size: int, offset: int, _physical: bool) -> bytes:
        check()
        start = base + offset
        return mapping[start : start + size]

    return read


class DebuggerBacking(Backing):
    """A kernel whose memory only its debugger can read.

    :param read: reads virtual memory; raises KgdbError where nothing is mapped.
    :param offset: KASLR offset of the image.
    :param write: writes virtual memory; None if it is not to be written.
    """

    def __init__(
        self,
        vmlinux: Vmlinux,
        read: ReadFunction,
        offset: int,
        write: WriteFunction | None = None,
    ) -> None:
        self.vmlinux = vmlinux
        self._read = read
        self._write = write
        self._offset = offset

    def refresh(self) -> None:
        self.placement = place_remote(self.vmlinux, self._read, self._offset)
        self.physical = DirectMap(self._read, self.placement.page_offset, self._write)
        self.table = _table(self.vmlinux, self.placement, self.physical)

    def read(self, address: int, size: int) -> bytes:
        return self._read(address, size)

    def many_reads(self) -> ReadFunction:
        return _Blocks(self._read).read

    def segments(self, check: Callable[[], None]) -> Iterator[ProgramSegment]:
        def reader(base: int) -> SegmentReader:
            def read(address: int, size: int, _offset: int, _physical: bool) -> bytes:
                import drgn

                check()
                try:
                    return self._read(base + address, size)
                except KgdbError as error:
                    if type(error) is not KgdbError:
                        raise  # the debugger or the machine is gone
                    raise drgn.FaultError(error.message, address) from error

            return read

        everything = (1 << 64) - 1
        yield ProgramSegment(0, everything, reader(0), False)
        page_offset = self.placement.page_offset
        yield ProgramSegment(0, (1 << 64) - page_offset, reader(page_offset), True)


class _Blocks:
    """Reads a kernel's memory in blocks, and each of them once.

    For ordinary memory only: a device's registers may change by being read.
    """

    def __init__(self, read: ReadFunction) -> None:
        self._read = read
        self._blocks: dict[int, bytes] = {}

    def read(self, address: int, size: int) -> bytes:
        first, last = address // _BLOCK, (address + size - 1) // _BLOCK
        try:
            data = b"".join(self._block(number) for number in range(first, last + 1))
        except KgdbError as error:
            if type(error) is not KgdbError:
                raise  # the debugger or the machine is gone
            return self._read(address, size)  # which names what is not mapped
        start = address - first * _BLOCK
        return data[start : start + size]

    def _block(self, number: int) -> bytes:
        if number not in self._blocks:
            self._blocks[number] = self._read(number * _BLOCK, _BLOCK)
        return self._blocks[number]


class DirectMap(Physical):
    """Physical memory, read through the kernel's direct map."""

    def __init__(
        self, read: ReadFunction, page_offset: int, write: WriteFunction | None = None
    ) -> None:
        self._read = read
        self._page_offset = page_offset
        self._write = write

    def read(self, address: int, size: int) -> bytes:
        return self._read(self._page_offset + address, size)

    def u64(self, address: int) -> int:
        return int.from_bytes(self.read(address, 8), "little")

    def holds(self, address: int, size: int = 1) -> bool:
        return address >= 0 and address + size <= (1 << 64) - self._page_offset

    def write(self, address: int, data: bytes) -> None:
        if self._write is None:
            self._refuse(f"write {len(data)} bytes at {address:#x}")
        self._write(self._page_offset + address, data)

    def find(self, pattern: bytes, start: int = 0, end: int | None = None) -> Iterator[int]:
        self._refuse(f"look for {pattern[:20]!r} from {start:#x} to {end}")

    @staticmethod
    def _refuse(what: str) -> NoReturn:
        raise KgdbError(
            f"cannot {what}: this machine's memory is reached through kgdb only",
            hint="in a guest in QEMU, all of its memory can be read at once",
        )
