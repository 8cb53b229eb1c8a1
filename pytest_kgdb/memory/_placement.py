"""Where a kernel is in memory: its image, its direct map, its page tables."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

from ..errors import KgdbError
from ..kernel import Vmlinux
from ._ram import Ram

ReadFunction = Callable[[int, int], bytes]
"""Takes an address and a size."""

# arch/x86/include/asm/page_64_types.h: __START_KERNEL_map, __PAGE_OFFSET_BASE_L4.
START_KERNEL_MAP: Final = 0xFFFFFFFF80000000
_PAGE_OFFSET_4: Final = 0xFFFF888000000000
# arch/x86/include/asm/pgtable_64_types.h: PGDIR_SHIFT with five levels.
_PGDIR_SHIFT_5: Final = 48
# arch/x86/include/asm/page_64_types.h, KERNEL_IMAGE_SIZE: KASLR stays within it.
_IMAGE_SIZE: Final = 1 << 30
_IMAGE_ALIGN: Final = 1 << 21


@dataclass(frozen=True)
class Placement:
    """How the link addresses of vmlinux relate to the addresses of this boot."""

    offset: int
    """What KASLR added to every link address of the image."""

    phys_base: int
    """The kernel's variable: image address - START_KERNEL_MAP + phys_base is physical."""

    levels: int
    """Levels of the page tables: 4 or 5."""

    page_offset: int
    """Virtual address of physical address 0 in the direct map."""

    def image_to_phys(self, address: int) -> int:
        """Translate a (relocated) address of the kernel image."""
        return address - START_KERNEL_MAP + self.phys_base


def place(vmlinux: Vmlinux, ram: Ram, guess: int = 0) -> tuple[Placement, int]:
    """Find the kernel in guest RAM.

    :param guess: how far it was from the physical address that it was linked for, last time.
    :returns: the placement, and the guess for the next time.
    :raises KgdbError: this kernel is not there.
    """
    banner = vmlinux.need("linux_banner") - START_KERNEL_MAP
    for shift in itertools.chain((guess,), _shifts(vmlinux, ram, banner)):
        if not ram.holds(banner + shift, len(vmlinux.banner)):
            continue
        if ram.read(banner + shift, len(vmlinux.banner)) != vmlinux.banner:
            continue

        def linked(address: int, size: int, shift: int = shift) -> bytes:
            return ram.read(address - START_KERNEL_MAP + shift, size)

        phys_base = _phys_base(vmlinux, linked)
        offset = shift - phys_base
        if 0 <= offset < _IMAGE_SIZE and offset % _IMAGE_ALIGN == 0:
            return _placement(vmlinux, linked, offset, phys_base), shift
    raise KgdbError(
        f"guest RAM does not hold the kernel of {vmlinux.path} ({vmlinux.release})",
        hint="has it been started, and are vmlinux and boot image of the same build?",
    )


def place_remote(vmlinux: Vmlinux, read: ReadFunction, offset: int) -> Placement:
    """Return the placement of a kernel whose image is mapped at `offset` from its link address."""

    def linked(address: int, size: int) -> bytes:
        return read(address + offset, size)

    phys_base = _phys_base(vmlinux, linked)
    return _placement(vmlinux, linked, offset, phys_base)


def _placement(vmlinux: Vmlinux, linked: ReadFunction, offset: int, phys_base: int) -> Placement:
    # Kernels without 5-level paging, or without randomized memory, have constants instead.
    shift = vmlinux.symbol("pgdir_shift")
    base = vmlinux.symbol("page_offset_base")
    five = shift is not None and int.from_bytes(linked(shift, 4), "little") == _PGDIR_SHIFT_5
    return Placement(
        offset=offset,
        phys_base=phys_base,
        levels=5 if five else 4,
        page_offset=_PAGE_OFFSET_4 if base is None else int.from_bytes(linked(base, 8), "little"),
    )


def _shifts(vmlinux: Vmlinux, ram: Ram, banner: int) -> Iterator[int]:
    """Yield how far the kernel may have been moved, for each of its banners in RAM."""
    for address in ram.find(vmlinux.banner):
        shift = address - banner
        if shift % _IMAGE_ALIGN == 0:
            yield shift


def _phys_base(vmlinux: Vmlinux, linked: ReadFunction) -> int:
    # Signed: KASLR may move the image further in virtual than in physical memory, or less far.
    return int.from_bytes(linked(vmlinux.need("phys_base"), 8), "little", signed=True)
