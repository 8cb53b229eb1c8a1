"""A vmlinux's symbols, found without loading its tables.

A reader that builds every section and symbol as a Python object needs seconds for a kernel with
debug info. The few symbols that we want are found by searching the raw tables, in a millisecond.
"""

from __future__ import annotations

import mmap
import re
import struct
import sys
from array import array
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Final

from ..errors import ConfigError

# elf.h: Elf64_Ehdr, Elf64_Shdr and Elf64_Sym, little endian.
_EHDR: Final = struct.Struct("<16sHHIQQQIHHHHHH")
_SHDR: Final = struct.Struct("<IIQQQQIIQQ")
_SYM: Final = struct.Struct("<IBBHQQ")
_SHT_SYMTAB: Final = 2
_SHT_NOBITS: Final = 8
_NT_GNU_BUILD_ID: Final = 3
_SHN_UNDEF: Final = 0


@dataclass(frozen=True)
class Section:
    """One section header, as far as we need it."""

    name: bytes
    kind: int
    address: int
    offset: int
    size: int
    link: int


@dataclass
class _Known:
    """What was found out about one vmlinux."""

    index: dict[int, int] = field(default_factory=dict)
    """From a name's offset in the string table to the symbol's number.

    Local symbols stand before global ones (gABI, "Symbol Table"), and the last one is kept.
    """

    values: dict[str, int | None] = field(default_factory=dict)


@lru_cache(maxsize=2)
def _known(_path: Path, _inode: int, _size: int, _mtime_ns: int) -> _Known:
    # A session boots the same kernel again and again; indexing its symbols takes 10 ms.
    return _Known()


class Vmlinux:
    """The symbol table and the initial contents of a kernel image with debug info.

    :raises ConfigError: the file is not a 64-bit little-endian ELF file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    @cached_property
    def _map(self) -> mmap.mmap:
        try:
            with self.path.open("rb") as file:
                data = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
        except (OSError, ValueError) as error:  # ValueError: an empty file cannot be mapped
            raise self._unusable(str(error)) from error
        if len(data) < _EHDR.size or data[:6] != b"\x7fELF\x02\x01":
            raise self._unusable("it is not a 64-bit little-endian ELF file")
        return data

    def close(self) -> None:
        """Unmap the file. What was found out stays known. Idempotent."""
        if data := self.__dict__.pop("_map", None):
            data.close()

    def _unusable(self, why: str) -> ConfigError:
        return ConfigError(
            f"cannot read the kernel's symbols from {self.path}: {why}",
            hint="this must be the uncompressed vmlinux of the build, with its symbol table",
        )

    @cached_property
    def sections(self) -> dict[bytes, Section]:
        """The sections by name."""
        data = self._map
        *_, offset, _flags, _ehsize, _phsize, _phnum, size, count, names = _EHDR.unpack_from(data)
        try:
            headers = [_SHDR.unpack_from(data, offset + i * size) for i in range(count)]
            table = headers[names][4]
        except (struct.error, IndexError) as error:
            raise self._unusable("its section headers are cut off") from error
        sections = {}
        for name, kind, _flags, address, start, length, link, *_ in headers:
            end = data.find(b"\0", table + name)
            key = data[table + name : end]
            sections[key] = Section(key, kind, address, start, length, link)
        return sections

    @cached_property
    def _symbol_tables(self) -> tuple[Section, Section]:
        symtab = self.sections.get(b".symtab")
        strtab = self.sections.get(b".strtab")
        if symtab is None or strtab is None or symtab.kind != _SHT_SYMTAB:
            raise self._unusable("it has no symbol table; was it stripped?")
        return symtab, strtab

    @cached_property
    def _known(self) -> _Known:
        symtab, _ = self._symbol_tables
        status = self.path.stat()
        known = _known(self.path, status.st_ino, status.st_size, status.st_mtime_ns)
        if not known.index:
            words = array("I", self._map[symtab.offset : symtab.offset + symtab.size])
            if sys.byteorder == "big":
                words.byteswap()
            names = words[:: _SYM.size // words.itemsize]
            known.index.update(zip(names, range(len(names)), strict=True))
        return known

    def symbol(self, name: str) -> int | None:
        """Return a symbol's value as linked, a global one before a local one; None if absent."""
        known = self._known
        try:
            return known.values[name]
        except KeyError:
            return known.values.setdefault(name, self._look_up(name.encode() + b"\0"))

    def _look_up(self, name: bytes) -> int | None:
        # Usually the name stands alone in the table, but the linker may have stored it inside a
        # longer one that ends the same way: then each occurrence of the bytes may be it.
        for pattern, skip in ((b"\0" + name, 1), (name, 0)):
            data = self._map
            symtab, strtab = self._symbol_tables
            at, end = strtab.offset, strtab.offset + strtab.size
            while (at := data.find(pattern, at, end)) >= 0:
                number = self._known.index.get(at + skip - strtab.offset)
                if number is not None:
                    symbol = _SYM.unpack_from(data, symtab.offset + number * _SYM.size)
                    if symbol[3] != _SHN_UNDEF:
                        return int(symbol[4])
                at += 1
        return None

    def need(self, *names: str) -> int:
        """Return the first of these symbols that the kernel has.

        :raises ConfigError: it has none of them.
        """
        for name in names:
            value = self.symbol(name)
            if value is not None:
                return value
        raise self._unusable(f"it has no symbol {' or '.join(names)}")

    def contents(self, address: int, size: int) -> bytes:
        """Return bytes of the image as linked; fewer where a section ends.

        :raises ConfigError: no section with contents is linked at that address.
        """
        for section in self.sections.values():
            if section.address and section.kind != _SHT_NOBITS:
                skip = address - section.address
                if 0 <= skip < section.size:
                    start = section.offset + skip
                    return self._map[start : min(start + size, section.offset + section.size)]
        raise self._unusable(f"nothing is linked at {address:#x}")

    @cached_property
    def banner(self) -> bytes:
        """`linux_banner` with its terminator: what tells one build's memory from another's."""
        text = self.contents(self.need("linux_banner"), 4096)
        return text[: text.index(b"\0") + 1]

    @cached_property
    def release(self) -> str:
        """What `uname -r` says on this kernel."""
        match = re.match(rb"Linux version (\S+)", self.banner)
        if match is None:
            raise self._unusable(f"its linux_banner is {self.banner[:40]!r}")
        return match[1].decode()

    @cached_property
    def build_id(self) -> str:
        """The GNU build id in hex; empty when the kernel was linked without one."""
        section = self.sections.get(b".notes")
        if section is None:
            return ""
        notes = self._map[section.offset : section.offset + section.size]
        at = 0
        while at + 12 <= len(notes):
            name_size, size, kind = struct.unpack_from("<III", notes, at)
            name = notes[at + 12 : at + 12 + name_size]
            at += 12 + (name_size + 3 & ~3)
            if kind == _NT_GNU_BUILD_ID and name == b"GNU\0":
                return notes[at : at + size].hex()
            at += size + 3 & ~3
        return ""
