"""The x86-64 page tables (Intel SDM volume 3, chapter "Paging")."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, NamedTuple

from ..errors import KgdbError
from ._ram import Physical

PAGE_SHIFT: Final = 12
PAGE_SIZE: Final = 1 << PAGE_SHIFT
_PRESENT: Final = 1
_WRITABLE: Final = 1 << 1
_ACCESSED: Final = 1 << 5
_DIRTY: Final = 1 << 6
_PAGE_SIZE_BIT: Final = 1 << 7
_ADDRESS: Final = ((1 << 52) - 1) & ~(PAGE_SIZE - 1)
_LEVELS: Final = (48, 39, 30, 21, 12)
_MAY_BE_HUGE: Final = (30, 21)
_USER_ENTRIES: Final = 256


class Translation(NamedTuple):
    """Where an address leads."""

    physical: int
    """The physical address."""

    size: int
    """How many bytes from there on are in the same page."""

    writable: bool
    """Whether a program may write there."""

    entry: int
    """The physical address of the entry that maps the page."""


@dataclass(frozen=True)
class PageTable:
    """One address space.

    :param root: physical address of the top level (`mm->pgd`, `swapper_pg_dir`).
    :param levels: 4 or 5.
    :param name: for messages.
    :param absent_hint: why an address may not be mapped.
    """

    physical: Physical
    root: int
    levels: int
    name: str = "the kernel's page tables"
    absent_hint: str | None = None

    def translate(self, address: int) -> tuple[int, int]:
        """Return the physical address, and how many bytes from there on are in the same page.

        :raises KgdbError: the address is not mapped; the message names it.
        """
        return self.walk(address)[:2]

    def walk(self, address: int) -> Translation:
        """Return where an address leads.

        :raises KgdbError: the address is not mapped; the message names it.
        """
        sign = 47 if self.levels == 4 else 56
        if not 0 <= address < 1 << 64 or address >> sign not in (0, (1 << 64 - sign) - 1):
            raise KgdbError(
                f"{address:#x} is not an address, so nothing is mapped there: this CPU has "
                f"{self.levels} levels of page tables"
            )
        table, writable = self.root, _WRITABLE
        for shift in _LEVELS[5 - self.levels :]:
            where = table + (address >> shift & 511) * 8
            try:
                entry = self.physical.u64(where)
            except KgdbError as error:
                raise KgdbError(
                    f"{address:#x} cannot be translated: {self.name} are damaged ({error})"
                ) from error
            if not entry & _PRESENT:
                raise KgdbError(f"{address:#x} is not mapped in {self.name}", hint=self.absent_hint)
            writable &= entry
            if shift == PAGE_SHIFT or (entry & _PAGE_SIZE_BIT and shift in _MAY_BE_HUGE):
                inside = (1 << shift) - 1
                offset = address & inside
                return Translation(
                    (entry & _ADDRESS & ~inside) | offset,
                    inside + 1 - offset,
                    bool(writable),
                    where,
                )
            table = entry & _ADDRESS
        raise AssertionError("the last level always ends the walk")

    def touch(self, entry: int) -> None:
        """Have an entry say that its page was written, as the CPU does (SDM, 4.8)."""
        value = self.physical.u64(entry) | _ACCESSED | _DIRTY
        self.physical.write(entry, value.to_bytes(8, "little"))

    def read(self, address: int, size: int) -> bytes:
        """Read virtual memory.

        :raises KgdbError: not all of it is mapped; the message names the address that is not.
        """
        if size < 0:
            raise ValueError(f"cannot read {size} bytes")
        start, mapped = self.translate(address)
        if size <= mapped:
            return self.physical.read(start, size)
        pieces = []
        while size > 0:
            start, mapped = self.translate(address)
            pieces.append(self.physical.read(start, min(size, mapped)))
            address += mapped
            size -= mapped
        return b"".join(pieces)

    def user_mappings(self, page: int) -> Iterator[int]:
        """Yield each user address at which the physical page is mapped.

        :param page: physical address of a 4 KiB page.
        """
        shift = _LEVELS[5 - self.levels]
        yield from self._mappings(page, self.root, shift, 0, _USER_ENTRIES)

    def _mappings(
        self, page: int, table: int, shift: int, base: int, entries: int = 512
    ) -> Iterator[int]:
        if not self.physical.holds(table, PAGE_SIZE):
            return
        raw = self.physical.read(table, entries * 8)
        if shift == PAGE_SHIFT:
            yield from self._leaves(page, raw, base)
            return
        for index, entry in enumerate(memoryview(raw).cast("Q")):
            if not entry & _PRESENT:
                continue
            address = base | index << shift
            if entry & _PAGE_SIZE_BIT and shift in _MAY_BE_HUGE:
                inside = (1 << shift) - 1
                start = entry & _ADDRESS & ~inside
                if start <= page <= start + inside:
                    yield address | page - start
            else:
                yield from self._mappings(page, entry & _ADDRESS, shift - 9, address)

    @staticmethod
    def _leaves(page: int, raw: bytes, base: int) -> Iterator[int]:
        # A large process has thousands of these tables: search for the bytes of the entry that
        # have only address bits (16 to 47), and check the whole entry only then.
        pattern = page.to_bytes(8, "little")[2:6]
        at = -1
        while (at := raw.find(pattern, at + 1)) >= 0:
            index, byte = divmod(at, 8)
            if byte == 2:
                entry = int.from_bytes(raw[index * 8 : index * 8 + 8], "little")
                if entry & _PRESENT and entry & _ADDRESS == page:
                    yield base | index << PAGE_SHIFT
