"""VMCOREINFO: the kernel's description of its own memory.

The fields are explained in Documentation/admin-guide/kdump/vmcoreinfo.rst.
"""

from __future__ import annotations

from typing import Final

from ..errors import KgdbError
from ..kernel import Vmlinux
from ._placement import Placement, ReadFunction

_LONGEST: Final = 1 << 16
# arch/x86/include/asm/sparsemem.h
_SECTION_SIZE_BITS: Final = 27
_MAX_PHYSMEM_BITS: Final = {4: 46, 5: 52}
# include/linux/mmzone.h, SECTIONS_PER_ROOT: as many `struct mem_section` as a page holds. With
# CONFIG_PAGE_EXTENSION it is half as many, and there are more roots than is said here: drgn looks
# for the first section that is there.
_SECTIONS_PER_ROOT: Final = 4096 // 16


def vmcoreinfo(vmlinux: Vmlinux, placement: Placement, read: ReadFunction) -> str:
    """Return the kernel's own text, or one that is made here if it has none.

    It has none before `subsys_initcall` (kernel/crash_core.c, crash_save_vmcoreinfo_init), without
    CONFIG_CRASH_CORE (since 6.9 CONFIG_VMCORE_INFO), and if it was overwritten.
    """
    ours = make_vmcoreinfo(vmlinux, placement)
    try:
        text = _kernels(vmlinux, placement, read)
    except (KgdbError, UnicodeDecodeError):
        return ours
    fields, expected = parse(text), parse(ours)
    trusted = ("OSRELEASE", "PAGESIZE", "SYMBOL(swapper_pg_dir)")
    if any(fields.get(name) != expected[name] for name in trusted):
        return ours
    return text


def _kernels(vmlinux: Vmlinux, placement: Placement, read: ReadFunction) -> str:
    data, size = vmlinux.symbol("vmcoreinfo_data"), vmlinux.symbol("vmcoreinfo_size")
    if data is None or size is None:
        return ""
    address = int.from_bytes(read(data + placement.offset, 8), "little")
    length = int.from_bytes(read(size + placement.offset, 8), "little")
    if not address or not 0 < length <= _LONGEST:
        return ""
    return read(address, length).decode("ascii")


def make_vmcoreinfo(vmlinux: Vmlinux, placement: Placement) -> str:
    """Return the fields that drgn needs in order to read an x86-64 kernel."""
    sections = 1 << (_MAX_PHYSMEM_BITS[placement.levels] - _SECTION_SIZE_BITS)
    page_table = vmlinux.need("init_top_pgt", "swapper_pg_dir") + placement.offset
    lines = [
        f"OSRELEASE={vmlinux.release}",
        "PAGESIZE=4096",
        f"SYMBOL(swapper_pg_dir)={page_table:x}",
        f"NUMBER(SECTION_SIZE_BITS)={_SECTION_SIZE_BITS}",
        f"NUMBER(MAX_PHYSMEM_BITS)={_MAX_PHYSMEM_BITS[placement.levels]}",
        # By which drgn finds `vmemmap`, the array of all `struct page`.
        f"LENGTH(mem_section)={sections // _SECTIONS_PER_ROOT}",
        f"NUMBER(phys_base)={placement.phys_base}",
        f"NUMBER(pgtable_l5_enabled)={int(placement.levels == 5)}",
        f"KERNELOFFSET={placement.offset:x}",
    ]
    if vmlinux.build_id:
        lines.append(f"BUILD-ID={vmlinux.build_id}")
    return "".join(f"{line}\n" for line in lines)


def parse(text: str) -> dict[str, str]:
    """Return the fields by name."""
    return dict(line.split("=", 1) for line in text.splitlines() if "=" in line)
