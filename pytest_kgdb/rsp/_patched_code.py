"""Tells the instructions that the kernel patches while it runs, by its own tables of them."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Final

from ..errors import KgdbError

if TYPE_CHECKING:
    from ..kernel import PatchedSites, SiteTable

__all__ = ["PatchedCode"]

_MASK: Final = (1 << 64) - 1
# More there are not: a list or a table that is longer has been overwritten.
_MODULES: Final = 10_000
_ENTRIES: Final = 1_000_000

Read = Callable[[int, int], bytes]


class PatchedCode:
    """Knows where jump labels and static calls are, in the image and in the modules.

    Before the kernel patches one it checks that the bytes there are those that it has written
    (arch/x86/kernel/jump_label.c, `__jump_label_patch`; static_call.c, `__static_call_validate`),
    and calls `BUG()` if they are an int3.
    """

    def __init__(self) -> None:
        self._image: tuple[PatchedSites, frozenset[int]] | None = None

    def is_patched(self, address: int, layout: PatchedSites, read: Read) -> bool:
        """Whether the kernel patches the instruction at an address.

        :param read: reads the kernel's memory (address, size); raises KgdbError if it cannot.
        """
        try:
            if layout.text <= address < layout.text_end:
                return address in self._of_image(layout, read)
            return any(address in _sites(*table, read) for table in _of_modules(layout, read))
        except KgdbError:
            return False  # memory that is not as it should be: nothing is patched any more

    def _of_image(self, layout: PatchedSites, read: Read) -> frozenset[int]:
        if self._image is None or self._image[0] is not layout:
            sites = [
                _sites(table, table.start, (table.end - table.start) // table.stride, read)
                for table in layout.tables
            ]
            self._image = layout, frozenset().union(*sites)
        return self._image[1]


def _of_modules(layout: PatchedSites, read: Read) -> Iterator[tuple[SiteTable, int, int]]:
    """Yield the modules' tables: the kind, where each is, and how many entries it has."""
    item = layout.modules
    for _ in range(_MODULES if layout.modules else 0):
        item = int.from_bytes(read(item, 8), "little")
        if item == layout.modules:
            return
        module = item - layout.module_list
        for table in layout.tables:
            count = int.from_bytes(read(module + table.module_count, 4), "little")
            if table.module_start and count > 0:
                start = int.from_bytes(read(module + table.module_start, 8), "little")
                yield table, start, count


def _sites(table: SiteTable, start: int, count: int, read: Read) -> frozenset[int]:
    if count > _ENTRIES:
        raise KgdbError(f"the table at {start:#x} has {count} entries")
    data = read(start, count * table.stride)
    entries = struct.iter_unpack(f"<i{table.stride - 4}x", data)
    return frozenset(
        (start + index * table.stride + distance) & _MASK
        for index, (distance,) in enumerate(entries)
    )
