"""Which addresses the kernel comes to, by int3s that its debugger does not see."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Final, NamedTuple, Protocol

from ..errors import ConfigError, KgdbError
from ._trap_code import CODE_SIZE, INT3, SLOT_BYTES, Slot, hash_of, trap_code

__all__ = ["AddressRecorder", "RecorderMemory", "RecorderNumbers"]

_PAGE: Final = 4096
# The first MiB: its first page and the last ones of its RAM are the BIOS's, and its pages are
# reserved since 5.13 (commit f1d4d47c5851 "x86/setup: Always reserve the first 1M of RAM"), 64 KiB
# before (CONFIG_X86_RESERVE_LOW).
_FIRST_PAGE: Final = 1
_LAST_PAGE: Final = 0x9E
_NX: Final = 1 << 63
_BREAKPOINT_VECTOR: Final = 3
_GATE: Final = 16  # arch/x86/include/asm/desc_defs.h, struct gate_struct
_LEAST_BITS: Final = 9
_SPARE: Final = 3072  # slots for modules that come later
# With page table isolation, a program's int3 comes by page tables that have of the kernel the
# entry code alone (arch/x86/mm/pti.c, pti_clone_entry_text), which is filled up to 2 MiB there.
_FILLED: Final = 512
_HUGE_PAGE: Final = 1 << 21
# In Slot.GIVEN: the debugger has it; and has had the instruction executed.
_GIVEN: Final = 1
_EXECUTED: Final = 2
_DROPPED: Final = (1).to_bytes(SLOT_BYTES, "little")  # no address ends so, and the slot is in use


class Mapped(Protocol):
    """Where a virtual address leads."""

    @property
    def physical(self) -> int:
        """The physical address."""

    @property
    def writable(self) -> bool:
        """Whether it is mapped for writing."""

    @property
    def entry(self) -> int:
        """The physical address of the page table's entry."""


class RecorderMemory(Protocol):
    """The guest's memory, where it is ours."""

    @property
    def page_offset(self) -> int:
        """Virtual address of physical address 0."""

    def symbol(self, name: str) -> int | None:
        """Return the address of a symbol of the kernel's in this boot; None if it has none."""

    def read(self, address: int, size: int) -> bytes:
        """Read virtual memory."""

    def walk(self, address: int) -> Mapped:
        """Return where a virtual address leads."""

    def read_physical(self, address: int, size: int) -> bytes:
        """Read RAM."""

    def write_physical(self, address: int, data: bytes) -> None:
        """Write RAM, which QEMU does not notice."""


class RecorderNumbers(NamedTuple):
    """What the debug information says of a kernel."""

    page_size: int
    """`sizeof(struct page)`."""
    reserved: int
    """`PG_reserved`, a bit of its first member (include/linux/page-flags.h)."""


class AddressRecorder:
    """Records once, for each of many addresses, that a CPU has come there.

    All that it knows of a machine is in the machine's memory, and is saved and restored with it.

    :param isolated: whether the kernel has page table isolation built in.
    """

    def __init__(
        self,
        memory: RecorderMemory,
        numbers: Callable[[], RecorderNumbers],
        *,
        isolated: bool,
    ) -> None:
        self._memory = memory
        self._numbers = numbers
        self._isolated = isolated
        self._table = 0  # physical; 0 while there is none
        self._bits = 0
        self._prepared = 0  # how many addresses it began with
        self._addresses: dict[int, int] = {}  # by slot
        self._indexes: dict[int, int] = {}
        self._physical: dict[int, int] = {}

    @property
    def active(self) -> bool:
        """Whether there is a table."""
        return self._table != 0

    def restored(self) -> bool:
        """Take note that the machine's memory was replaced; False if it has not got the table.

        What was added since that memory was saved is not in there.
        """
        if not self._table:
            return True
        if len(self._indexes) == self._prepared:  # nothing was added
            return all(self._find(address)[1] is not None for address in [*self._indexes][:1])
        contents = self._memory.read_physical(self._table, SLOT_BYTES << self._bits)
        for slot, address in list(self._addresses.items()):
            if contents[slot * SLOT_BYTES : slot * SLOT_BYTES + 4] == b"\0\0\0\0":
                del self._addresses[slot], self._indexes[address]
        return len(self._indexes) >= self._prepared

    # Before the machine runs

    def prepare(self, addresses: Iterable[int]) -> list[tuple[int, bytes]]:
        """Return what has to be in a stopped machine's RAM: physical addresses and contents.

        :param addresses: where instructions begin.
        :raises ConfigError: there are more than there is room for.
        :raises KgdbError: this kernel has no place for it.
        """
        self._table = 0
        self._addresses.clear()
        self._indexes.clear()
        self._physical.clear()
        mapped = {address: self._memory.walk(address) for address in addresses}
        start, pages = self._free_pages()
        own = 0 if self._isolated else 1
        most = (max(0, pages - own) * _PAGE // SLOT_BYTES).bit_length() - 1
        if most < _LEAST_BITS:
            raise KgdbError(
                f"no room for coverage in the guest: {pages} pages of its low memory are reserved"
            )
        bits = max(_LEAST_BITS, (2 * (len(mapped) + _SPARE)).bit_length())
        self._bits = min(bits, most)
        if len(mapped) > (3 << self._bits) // 4:
            raise ConfigError(
                f"coverage of {len(mapped)} addresses: there is room for {(3 << self._bits) // 4}",
                hint="name fewer files, or only some of their lines: --kgdb-cov=FILE:FIRST-LAST",
            )
        table = (start + own) * _PAGE
        virtual = self._memory.page_offset + table
        pieces = list(self._gate(start * _PAGE, virtual))
        contents = bytearray(SLOT_BYTES << self._bits)
        for address, place in mapped.items():
            byte = self._memory.read_physical(place.physical, 1)[0]
            if byte == INT3:
                continue  # one of the kernel's own, or no code at all
            slot = self._assign(address)
            contents[slot * SLOT_BYTES : (slot + 1) * SLOT_BYTES] = _slot(address, byte, place)
            pieces.append((place.physical, bytes([INT3])))
            self._physical[address] = place.physical
        pieces.append((table, bytes(contents)))
        self._table = table
        self._prepared = len(self._indexes)
        return pieces

    def _free_pages(self) -> tuple[int, int]:
        """Return the first and the number of the pages in low memory that nobody uses."""
        memory, numbers = self._memory, self._numbers()
        base = memory.symbol("vmemmap_base")
        # arch/x86/include/asm/pgtable_64_types.h, __VMEMMAP_BASE_L4.
        pages = 0xFFFFEA0000000000 if base is None else _word(memory.read(base, 8))
        used = range(0)  # by the code that starts other CPUs (arch/x86/realmode/init.c)
        header = memory.symbol("real_mode_header")
        begin, end = memory.symbol("real_mode_blob"), memory.symbol("real_mode_blob_end")
        if header is not None and begin is not None and end is not None:
            low = (_word(memory.read(header, 8)) - memory.page_offset) // _PAGE
            used = range(low, low + (end - begin) // _PAGE + 1)
        best = first = 0
        start = _FIRST_PAGE
        for page in range(_FIRST_PAGE, _LAST_PAGE + 1):
            flags = _word(memory.read(pages + page * numbers.page_size, 8))
            if not flags >> numbers.reserved & 1 or page in used:
                start = page + 1
                continue
            length = page + 1 - start
            if length > best:
                best, first = length, start
        return first, best

    def _gate(self, page: int, table: int) -> Iterator[tuple[int, bytes]]:
        """Yield the handler, what makes it executable, and the gate that leads to it."""
        memory = self._memory
        gates = memory.symbol("idt_table")
        if gates is None:
            raise KgdbError("this kernel has no idt_table: its traps cannot be intercepted")
        gate = gates + _BREAKPOINT_VECTOR * _GATE
        descriptor = memory.read(gate, _GATE)
        original = _word(descriptor[0:2] + descriptor[6:12])
        if self._isolated:
            address = self._filled()
        else:
            address = memory.page_offset + page
            entry = memory.walk(address).entry
            value = _word(memory.read_physical(entry, 8)) & ~_NX
            yield entry, value.to_bytes(8, "little")
        yield memory.walk(address).physical, trap_code(table, self._bits, original)
        low = address.to_bytes(8, "little")
        yield memory.walk(gate).physical, low[0:2] + descriptor[2:6] + low[2:8] + descriptor[12:16]

    def _filled(self) -> int:
        """Return where the entry code's pages have room behind it."""
        end = self._memory.symbol("__entry_text_end")
        if end is not None:
            # arch/x86/kernel/vmlinux.lds.S, ALIGN_ENTRY_TEXT_END: up to a page of 2 MiB.
            for last in ((end + _HUGE_PAGE - 1) & -_HUGE_PAGE, end):
                filling = self._memory.read(last - _FILLED, _FILLED)
                if len(set(filling)) == 1 and filling[0] in (0, 0x90, INT3):
                    return last - _FILLED
        raise KgdbError(
            f"no room for coverage in this kernel: its entry code is not filled up with {CODE_SIZE}"
            " bytes",
            hint="build it without CONFIG_PAGE_TABLE_ISOLATION",
        )

    # Modules

    def add(self, addresses: Iterable[int]) -> None:
        """Record further addresses from now on, of code that has not run since it was written.

        :raises ConfigError: there are more than there is room for.
        """
        memory = self._memory
        for address in addresses:
            place = memory.walk(address)
            byte = memory.read_physical(place.physical, 1)[0]
            if byte == INT3:
                continue
            if address not in self._indexes and len(self._indexes) >= (7 << self._bits) // 8:
                raise ConfigError(
                    f"coverage of {len(self._indexes)} addresses and more: there is no room",
                    hint="name fewer modules, or only some lines of their files",
                )
            slot = self._indexes.get(address)
            if slot is None:
                slot = self._assign(address)
            self._write(slot, 0, _slot(address, byte, place))
            memory.write_physical(place.physical, bytes([INT3]))
            self._physical[address] = place.physical

    def drop(self, addresses: Iterable[int]) -> None:
        """Leave addresses to the kernel: their memory is about to be freed."""
        for address in addresses:
            slot, contents = self._find(address)
            if contents is not None:
                self._write(slot, 0, _DROPPED)

    def _assign(self, address: int) -> int:
        slot = hash_of(address, self._bits)
        while slot in self._addresses:
            slot = (slot + 1) & ((1 << self._bits) - 1)
        self._addresses[slot] = address
        self._indexes[address] = slot
        return slot

    # While it runs

    def hits(self) -> set[int]:
        """Return the addresses that were come to, in what the machine's memory is now."""
        if not self._table:
            return set()
        marks = self._memory.read_physical(self._table, SLOT_BYTES << self._bits)[
            Slot.HIT :: SLOT_BYTES
        ]
        hit: set[int] = set()
        slot = -1
        while (slot := marks.find(1, slot + 1)) >= 0:
            if slot in self._addresses:
                hit.add(self._addresses[slot])
        return hit

    def _write(self, slot: int, offset: int, data: bytes) -> None:
        self._memory.write_physical(self._table + slot * SLOT_BYTES + offset, data)

    def _read(self, slot: int) -> bytes:
        return self._memory.read_physical(self._table + slot * SLOT_BYTES, SLOT_BYTES)

    # For the relay (rsp.RecordedCode)

    def give(self, address: int) -> bytes | None:
        """See :meth:`RecordedCode.give`."""
        slot, contents = self._find(address)
        if contents is None:
            return None
        hit, given = contents[Slot.HIT], contents[Slot.GIVEN]
        if not given:
            self._write(slot, Slot.GIVEN, bytes([_GIVEN | (_EXECUTED if hit else 0)]))
        return None if hit or given else contents[Slot.INSTRUCTION : Slot.INSTRUCTION + 1]

    def take_back(self, address: int) -> bytes | None:
        """See :meth:`RecordedCode.take_back`."""
        slot, contents = self._find(address)
        if contents is None or not contents[Slot.GIVEN]:
            return None
        self._write(slot, Slot.GIVEN, b"\0")
        return None if contents[Slot.HIT] else bytes([INT3])

    def reached(self, address: int) -> bytes | None:
        """See :meth:`RecordedCode.reached`."""
        slot, contents = self._find(address)
        if contents is None:
            return None
        hit, given = contents[Slot.HIT], contents[Slot.GIVEN]
        self._write(slot, Slot.HIT, b"\x01")
        if given:
            self._write(slot, Slot.GIVEN, bytes([_GIVEN | _EXECUTED]))
        return None if hit or given else contents[Slot.INSTRUCTION : Slot.INSTRUCTION + 1]

    def skipped(self, address: int) -> None:
        """See :meth:`RecordedCode.skipped`."""
        slot, contents = self._find(address)
        if contents is not None and contents[Slot.GIVEN] == _GIVEN:
            self._write(slot, Slot.HIT, b"\0")

    def _find(self, address: int) -> tuple[int, bytes | None]:
        """Return the slot of an address and its contents; None where the machine has none."""
        slot = self._indexes.get(address)
        if slot is None:
            return 0, None
        contents = self._read(slot)
        return slot, contents if contents[:4] == _end(address) else None

    def written(self, address: int, size: int) -> None:
        """See :meth:`RecordedCode.written`."""
        few = size < len(self._indexes)
        for other in range(address, address + size) if few else list(self._indexes):
            if other in self._indexes and address <= other < address + size:
                self.give(other)

    def write(self, address: int, byte: bytes) -> None:
        """See :meth:`RecordedCode.write`."""
        if address in self._physical:
            self._memory.write_physical(self._physical[address], byte)

    def original(self, address: int, data: bytes) -> bytes:
        """See :meth:`RecordedCode.original`."""
        if bytes([INT3]) not in data:
            return data
        code = bytearray(data)
        at = -1
        while (at := data.find(INT3, at + 1)) >= 0:
            _, contents = self._find(address + at)
            if contents is not None and not contents[Slot.HIT] and not contents[Slot.GIVEN]:
                code[at] = contents[Slot.INSTRUCTION]
        return bytes(code)


def _end(address: int) -> bytes:
    return (address & 0xFFFFFFFF).to_bytes(4, "little")


def _slot(address: int, byte: int, place: Mapped) -> bytes:
    return _end(address) + bytes([byte, 0, 0, not place.writable])


def _word(data: bytes) -> int:
    return int.from_bytes(data, "little")
