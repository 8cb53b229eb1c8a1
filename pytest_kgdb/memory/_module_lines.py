"""Source lines in modules by their files alone, wherever a module was loaded."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Final

from ..elf import ElfFile

if TYPE_CHECKING:
    import drgn

__all__ = ["program_of_file"]

# Any would do; these are where modules are (arch/x86/include/asm/pgtable_64_types.h,
# MODULES_VADDR).
_START: Final = 0xFFFFFFFFC0000000
_PAGE: Final = 4096


def program_of_file(path: Path, name: str) -> drgn.Program:
    """Return a program in which a module's file is loaded, all its sections with it.

    The kernel frees a module's init when that has run, and all of it when it is unloaded. A splat
    names function and offset, which the file has the line of.

    :param name: the module's name.
    """
    status = path.stat()
    return _program(path, name, status.st_mtime_ns, status.st_size)


@lru_cache(maxsize=16)
def _program(path: Path, name: str, _modified: int, _size: int) -> drgn.Program:
    import drgn

    program = drgn.Program(drgn.Platform(drgn.Architecture.X86_64))
    module = program.relocatable_module(name, _START, create=True)
    with ElfFile(path) as elf:
        sizes = elf.section_sizes()
    end = _START
    for section, size in sizes.items():
        if size and not section.startswith((".debug", ".symtab", ".strtab", ".rela")):
            module.section_addresses[section] = end
            end += (size // _PAGE + 2) * _PAGE
    module.address_ranges = [(_START, end)]
    module.try_file(path)
    return program
