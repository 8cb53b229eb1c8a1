"""In which instructions of a kernel an int3 of ours may not be: it rewrites them itself."""

from __future__ import annotations

import struct
from bisect import bisect_right
from collections.abc import Collection, Iterable, Iterator
from typing import Final

from ..elf import ElfFile

__all__ = ["FixedCode"]

_RELA: Final = struct.Struct("<QQq")
_SYM: Final = struct.Struct("<IBBHQQ")
_CALL: Final = 5  # bytes of a call or jump: the longest that is rewritten at run time

# Tables of instructions that the kernel rewrites at run time, checking what is there before; the
# symbols around each (include/asm-generic/vmlinux.lds.h), its section in a module, how far its
# entries are apart, and how many bytes are rewritten. An entry begins with where the instruction
# is, counted from the entry itself.
_REWRITTEN: Final = (
    # arch/x86/kernel/jump_label.c, struct jump_entry
    ("__start___jump_table", "__stop___jump_table", "__jump_table", 16, _CALL),
    # include/linux/static_call_types.h, struct static_call_site
    ("__start_static_call_sites", "__stop_static_call_sites", ".static_call_sites", 8, _CALL),
)
# What it rewrites once, as it boots or loads a module.
_REWRITTEN_AT_BOOT: Final = (
    # arch/x86/kernel/alternative.c, alternatives_smp_unlock: the lock prefix, for a single CPU
    ("__smp_locks", "__smp_locks_end", ".smp_locks", 4, 1),
    ("__retpoline_sites", "__retpoline_sites_end", ".retpoline_sites", 4, 8),
    ("__return_sites", "__return_sites_end", ".return_sites", 4, _CALL),
    ("__call_sites", "__call_sites_end", ".call_sites", 4, _CALL),
    ("__ibt_endbr_seal", "__ibt_endbr_seal_end", ".ibt_endbr_seal", 4, 4),
)
# struct alt_instr (arch/x86/include/asm/alternative.h): with padlen until 5.13, 16 bits of cpuid
# until 6.3, 32 bits of flags since.
_ALTERNATIVE_SIZES: Final = (12, 13, 14)
_PARAVIRT: Final = struct.Struct("<QBBxxxxxx")  # struct paravirt_patch_site, until 6.8

# With these a CPU that is started, or stops, executes code without the kernel's trap handlers, or
# with page tables that are not the kernel's (arch/x86/kernel/head_64.S, smpboot.c, cpu/common.c).
_WITHOUT_TRAPS: Final = (
    "start_secondary", "__startup_secondary_64", "__startup_64", "early_setup_idt",
    "startup_64_setup_env", "startup_64_load_idt", "secondary_startup_64",
    "secondary_startup_64_no_verify", "verify_cpu", "cr4_init", "cpu_init_exception_handling",
    "cpu_init_secondary", "ap_starting", "soft_restart_cpu", "switch_to_new_gdt",
    "load_direct_gdt", "load_fixmap_gdt", "load_current_idt", "native_load_idt",
    "relocate_kernel", "identity_mapped", "machine_kexec", "pti_set_kernel_image_nonglobal",
)  # fmt: skip


class FixedCode:
    """What is known of the instructions of an image, or of a module.

    :param module: whether it is a module's file; addresses are then in its sections.
    """

    def __init__(self, elf: ElfFile, *, module: bool = False) -> None:
        self._entries: set[tuple[str, int]] = set()
        """Calls at functions' entries, which ftrace rewrites."""
        ranges: list[tuple[str, int, int]] = []
        early: list[tuple[str, int, int]] = []
        self.init: tuple[int, int] | None = None
        """What is freed after boot."""
        if module:
            for _, _, section, stride, size in _REWRITTEN:
                ranges += ((*site, size) for site in _relocated(elf, section, stride))
            self._entries.update(_relocated(elf, "__mcount_loc", 8))
        else:
            for start, stop, _, stride, size in _REWRITTEN:
                ranges += (("", site, size) for site in _sites(elf, start, stop, stride))
            for start, stop, _, stride, size in _REWRITTEN_AT_BOOT:
                early += (("", site, size) for site in _sites(elf, start, stop, stride))
            early += (("", site, size) for site, size in _alternatives(elf))
            early += (("", site, size) for site, size in _paravirt(elf))
            entries = _table(elf, "__start_mcount_loc", "__stop_mcount_loc")[1]
            self._entries.update(("", site) for (site,) in struct.iter_unpack("<Q", entries))
            low, high = elf.symbol("__entry_text_start"), elf.symbol("__entry_text_end")
            if low is not None and high is not None:
                ranges.append(("", low, high - low))
            ranges += (
                ("", address, size)
                for name, _, address, size in elf.function_symbols()
                if name in _WITHOUT_TRAPS
            )
            begin, end = elf.symbol("__init_begin"), elf.symbol("__init_end")
            if begin is not None and end is not None:
                self.init = begin, end
        self._never = _Ranges(ranges)
        self._early = _Ranges(early)

    def place(self, section: str, address: int) -> int | None:
        """Return where an int3 may be that stands for an instruction; None if nowhere."""
        if (section, address) in self._entries:
            address += _CALL  # behind the call of ftrace's, which is a nop by default
        return None if (section, address) in self._never else address

    def rewritten_at_boot(self, address: int) -> bool:
        """Whether the kernel rewrites an instruction of its image as it boots."""
        return ("", address) in self._early

    def is_init(self, address: int) -> bool:
        """Whether an address of the image is freed after boot."""
        return self.init is not None and self.init[0] <= address < self.init[1]


class _Ranges:
    """Ranges of addresses in sections."""

    def __init__(self, ranges: Iterable[tuple[str, int, int]]) -> None:
        self._sections: dict[str, tuple[list[int], list[int]]] = {}
        for section, start, size in sorted(ranges):
            starts, ends = self._sections.setdefault(section, ([], []))
            if starts and start <= ends[-1]:
                ends[-1] = max(ends[-1], start + size)
            else:
                starts.append(start)
                ends.append(start + size)

    def __contains__(self, place: tuple[str, int]) -> bool:
        section, address = place
        starts, ends = self._sections.get(section, ([], []))
        index = bisect_right(starts, address) - 1
        return index >= 0 and address < ends[index]


def _table(elf: ElfFile, start: str, stop: str) -> tuple[int, bytes]:
    low, high = elf.symbol(start), elf.symbol(stop)
    if low is None or high is None or high <= low:
        return 0, b""
    return low, elf.contents(low, high - low)


def _sites(elf: ElfFile, start: str, stop: str, stride: int) -> Iterator[int]:
    low, data = _table(elf, start, stop)
    for at in range(0, len(data) - stride + 1, stride):
        yield (low + at + struct.unpack_from("<i", data, at)[0]) & _MASK


def _alternatives(elf: ElfFile) -> Collection[tuple[int, int]]:
    """Return the instructions that depend on the CPU: addresses and sizes."""
    low, data = _table(elf, "__alt_instructions", "__alt_instructions_end")
    text, end = elf.symbol("_text"), elf.symbol("_end")
    if not data or text is None or end is None:
        return ()
    for size in _ALTERNATIVE_SIZES:
        sites = [
            ((low + at + struct.unpack_from("<i", data, at)[0]) & _MASK, data[at + _LENGTH[size]])
            for at in range(0, len(data) - size + 1, size)
        ]
        if len(data) % size == 0 and all(text <= site < end for site, _ in sites):
            return sites
    return ()


_LENGTH: Final = {12: 10, 13: 10, 14: 12}
"""The offset of `instrlen` in an alternative, by the whole one's size."""


def _paravirt(elf: ElfFile) -> Iterator[tuple[int, int]]:
    _, data = _table(elf, "__parainstructions", "__parainstructions_end")
    for site, _, size in _PARAVIRT.iter_unpack(data[: len(data) // 16 * 16]):
        yield site, size


def _relocated(elf: ElfFile, section: str, stride: int) -> Iterator[tuple[str, int]]:
    """Yield where the entries of a module's table point, by its relocations."""
    symbols, names = elf.section_bytes(".symtab"), elf.section_names
    for offset, info, addend in _RELA.iter_unpack(elf.section_bytes(f".rela{section}")):
        if offset % stride == 0:
            _, _, _, index, value, _ = _SYM.unpack_from(symbols, (info >> 32) * _SYM.size)
            yield names[index] if index < len(names) else "", value + addend


_MASK: Final = (1 << 64) - 1
