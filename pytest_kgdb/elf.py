"""ELF files, read through a memory map: headers, sections, symbols, notes.

A reader that makes a Python object of every section and symbol needs seconds for a kernel with
debug information. Here single symbols are found by searching the raw tables, in a millisecond.
"""

from __future__ import annotations

import mmap
import struct
import sys
from array import array
from collections.abc import Iterator
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Final, NamedTuple

from .errors import ConfigError

__all__ = ["ElfFile", "ElfSection", "ElfSegment", "build_id_of"]

# elf.h: Elf64_Ehdr, Elf64_Phdr, Elf64_Shdr and Elf64_Sym, little endian.
_EHDR: Final = struct.Struct("<16s2xHIQQQIHHHHHH")
_PHDR: Final = struct.Struct("<IIQQQQQQ")
_SHDR: Final = struct.Struct("<IIQQQQIIQQ")
_SHDR_ADDRESS: Final = 16  # the offset of sh_addr
_SYM: Final = struct.Struct("<IBBHQQ")
_RELA: Final = struct.Struct("<QQq")
_ELF64_LITTLE: Final = b"\x7fELF\x02\x01"
_ELFDATA2MSB: Final = 2
_ET_REL: Final = 1
_PT_INTERP: Final = 3
_PT_NOTE: Final = 4
_SHT_SYMTAB: Final = 2
_SHT_NOTE: Final = 7
_SHT_NOBITS: Final = 8
_SHN_UNDEF: Final = 0
_SHN_XINDEX: Final = 0xFFFF
_STT_FUNC: Final = 2
_NT_GNU_BUILD_ID: Final = 3

# Far more than a name or a path has: a file can be made in which a thousand symbols share one name
# of a gigabyte. (include/linux/kallsyms.h, KSYM_NAME_LEN: 512.)
_LONGEST_NAME: Final = 1 << 16

# elf.h, EM_*: the machines that Linux and QEMU both have.
_MACHINES: Final = {
    3: "EM_386",
    8: "EM_MIPS",
    20: "EM_PPC",
    21: "EM_PPC64",
    22: "EM_S390",
    40: "EM_ARM",
    62: "EM_X86_64",
    183: "EM_AARCH64",
    243: "EM_RISCV",
    258: "EM_LOONGARCH",
}


class _Header(NamedTuple):
    """The ELF header, by the names in elf.h."""

    ident: bytes
    machine: int
    version: int
    entry: int
    phoff: int
    shoff: int
    flags: int
    ehsize: int
    phentsize: int
    phnum: int
    shentsize: int
    shnum: int
    shstrndx: int


class ElfSection(NamedTuple):
    """One section header."""

    name: str
    kind: int
    """`sh_type`."""
    address: int
    offset: int
    """In the file."""
    size: int
    link: int
    """`sh_link`."""


class ElfSegment(NamedTuple):
    """One program header."""

    kind: int
    """`p_type`."""
    address: int
    offset: int
    """In the file."""
    size: int
    """In the file."""


class Relocation(NamedTuple):
    """One relocation of a section, which says what an address in it will be."""

    offset: int
    """Where in the section the address is."""
    kind: int
    """Its type (x86-64 psABI, "Relocation Types")."""
    section: int
    """The number of the section in which the address leads."""
    value: int
    """Where in that section: the symbol's value, and the addend."""


class _SymbolIndex:
    """What was found in the symbol table of one file."""

    def __init__(self) -> None:
        self.numbers: dict[int, int] = {}
        """From the offset of a name in the string table to the number of its symbol.

        Local symbols come before global ones (gABI, "Symbol Table"), and the last one is kept.
        """
        self.values: dict[str, int | None] = {}


@lru_cache(maxsize=2)
def _symbol_index(_path: Path, _inode: int, _size: int, _mtime_ns: int) -> _SymbolIndex:
    # A session boots the same kernel again and again; indexing its symbols takes 10 ms.
    return _SymbolIndex()


class ElfFile:
    """A 64-bit little-endian ELF file. It is opened and mapped when something is first read.

    :param path: the file.
    :param data: its content, if it is in memory.
    """

    def __init__(self, path: Path, data: bytes | None = None) -> None:
        self.path = path
        if data is not None:
            self.__dict__["_data"] = data

    def __enter__(self) -> ElfFile:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Unmap the file. It is mapped again when something else is read. Idempotent."""
        if isinstance(self.__dict__.get("_data"), mmap.mmap):
            self.__dict__.pop("_data").close()

    def _unusable(self, why: str) -> ConfigError:
        """Return the error for a file that cannot be read."""
        return ConfigError(f"cannot read the ELF file {self.path}: {why}")

    @cached_property
    def _data(self) -> mmap.mmap | bytes:
        try:
            with self.path.open("rb") as file:
                if not file.peek(1):
                    raise self._unusable("it is empty")  # which cannot be mapped
                return mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
        except OSError as error:
            raise self._unusable(error.strerror or str(error)) from error

    @cached_property
    def _header(self) -> _Header:
        data = self._data
        if data[:4] != _ELF64_LITTLE[:4]:
            raise self._unusable("it is not an ELF file")
        if len(data) < _EHDR.size or data[:6] != _ELF64_LITTLE:
            raise self._unusable("it is not a 64-bit little-endian ELF file")
        return _Header(*_EHDR.unpack_from(data))

    @cached_property
    def machine(self) -> str:
        """`e_machine` by its name in elf.h, as `EM_X86_64`; of files of the other classes, too."""
        data = self._data
        if data[:4] != _ELF64_LITTLE[:4] or len(data) < 20:
            raise self._unusable("it is not an ELF file")
        number = int.from_bytes(data[18:20], "big" if data[5] == _ELFDATA2MSB else "little")
        return _MACHINES.get(number, f"EM_{number}")

    @cached_property
    def segments(self) -> list[ElfSegment]:
        """The program headers."""
        header = self._header
        segments = []
        try:
            for index in range(header.phnum):
                fields = _PHDR.unpack_from(self._data, header.phoff + index * header.phentsize)
                kind, _flags, offset, address, _physical, size, *_ = fields
                segments.append(ElfSegment(kind, address, offset, size))
        except (struct.error, OverflowError) as error:
            raise self._unusable("its program headers are cut off") from error
        return segments

    @property
    def is_relocatable(self) -> bool:
        """Whether it is to be linked, or loaded as a module (ET_REL)."""
        _ = self._header  # which checks the file
        return int.from_bytes(self._data[16:18], "little") == _ET_REL

    @property
    def is_dynamic(self) -> bool:
        """Whether a program needs a dynamic loader (elf(5), PT_INTERP)."""
        return any(segment.kind == _PT_INTERP for segment in self.segments)

    @cached_property
    def _section_headers(self) -> list[int]:
        """The offsets of the section headers."""
        header = self._header
        count = header.shnum
        try:
            if count == 0 and header.shoff:  # elf(5): more than e_shnum can hold
                count = _SHDR.unpack_from(self._data, header.shoff)[5]
            # Of size 0, any number of them would fit.
            if header.shoff and header.shentsize < _SHDR.size:
                raise self._unusable(f"its section headers have {header.shentsize} bytes")
            if header.shoff + count * header.shentsize > len(self._data):
                raise struct.error
        except (struct.error, OverflowError) as error:
            raise self._unusable("its section headers are cut off") from error
        return [header.shoff + index * header.shentsize for index in range(count)]

    @cached_property
    def sections(self) -> dict[str, ElfSection]:
        """The section headers by name."""
        return {section.name: section for section in self._all_sections}

    @cached_property
    def section_names(self) -> list[str]:
        """The names of the sections by their numbers."""
        return [section.name for section in self._all_sections]

    @cached_property
    def _all_sections(self) -> list[ElfSection]:
        headers = [_SHDR.unpack_from(self._data, offset) for offset in self._section_headers]
        if not headers:
            return []
        names = self._header.shstrndx
        if names == _SHN_XINDEX:
            names = headers[0][6]
        if names >= len(headers):
            raise self._unusable("its section headers are cut off")
        table = headers[names][4]
        return [
            ElfSection(self._string(table + name), kind, address, start, length, link)
            for name, kind, _flags, address, start, length, link, *_ in headers
        ]

    def _string(self, offset: int) -> str:
        data = self._data
        end = -1
        if offset < len(data):
            end = data.find(b"\0", offset, min(offset + _LONGEST_NAME, len(data)))
        if end < 0:
            raise self._unusable("a name in it has no end")
        return self._data[offset:end].decode(errors="replace")

    def section_bytes(self, name: str) -> bytes:
        """Return the content of a section; nothing if there is no such section, or no content."""
        section = self.sections.get(name)
        if section is None or section.kind == _SHT_NOBITS:
            return b""
        return self._data[section.offset : section.offset + section.size]

    def relocations(self, name: str) -> Iterator[Relocation]:
        """Yield the relocations (SHT_RELA) of a section; none if there is no such section."""
        data = self.section_bytes(f".rela{name}")
        symbols = self.section_bytes(".symtab")
        try:
            for offset, info, addend in _RELA.iter_unpack(data):
                _, _, _, section, value, _ = _SYM.unpack_from(symbols, (info >> 32) * _SYM.size)
                yield Relocation(offset, info & 0xFFFFFFFF, section, value + addend)
        except struct.error as error:
            raise self._unusable(f"the relocations of {name} are cut off") from error

    def string_at(self, section: int, offset: int) -> str:
        """Return a string in a section, which is given by its number."""
        sections = self._all_sections
        if not 0 <= section < len(sections) or not 0 <= offset < sections[section].size:
            raise self._unusable("a name in it is in no section")
        return self._string(sections[section].offset + offset)

    def section_sizes(self) -> dict[str, int]:
        """Return the sizes of the sections in bytes, by name."""
        return {name: section.size for name, section in self.sections.items()}

    def contents(self, address: int, size: int) -> bytes:
        """Return bytes of the image as linked; fewer where a section ends.

        :raises ConfigError: no section with contents is linked at that address.
        """
        for section in self.sections.values():
            if section.address and section.kind != _SHT_NOBITS:
                skip = address - section.address
                if 0 <= skip < section.size:
                    start = section.offset + skip
                    return self._data[start : min(start + size, section.offset + section.size)]
        raise self._unusable(f"nothing is linked at {address:#x}")

    def without_section_addresses(self) -> bytes | None:
        """Return the file with zero for every section's address; None if they are all zero."""
        fields = [offset + _SHDR_ADDRESS for offset in self._section_headers]
        if not any(struct.unpack_from("<Q", self._data, field)[0] for field in fields):
            return None
        data = bytearray(self._data)
        for field in fields:
            struct.pack_into("<Q", data, field, 0)
        return bytes(data)

    @cached_property
    def _symbol_tables(self) -> tuple[ElfSection, ElfSection]:
        symtab = self.sections.get(".symtab")
        strtab = self.sections.get(".strtab")
        if symtab is None or strtab is None or symtab.kind != _SHT_SYMTAB:
            raise self._unusable("it has no symbol table; was it stripped?")
        if max(symtab.offset + symtab.size, strtab.offset + strtab.size) > len(self._data):
            raise self._unusable("its symbol table is cut off")
        return symtab, strtab

    def _entries(self, symtab: ElfSection) -> bytes:
        """Return a symbol table's entries, as many as are whole and in the file."""
        data = self._data[symtab.offset : symtab.offset + symtab.size]
        return data[: len(data) // _SYM.size * _SYM.size]

    @cached_property
    def _index(self) -> _SymbolIndex:
        symtab, _ = self._symbol_tables
        if isinstance(self._data, mmap.mmap):
            status = self.path.stat()
            index = _symbol_index(self.path, status.st_ino, status.st_size, status.st_mtime_ns)
        else:
            index = _SymbolIndex()
        if not index.numbers:
            words = array("I", self._entries(symtab))
            if sys.byteorder == "big":
                words.byteswap()
            names = words[:: _SYM.size // words.itemsize]
            index.numbers.update(zip(names, range(len(names)), strict=True))
        return index

    def symbol(self, name: str) -> int | None:
        """Return a symbol's value as linked; None if there is none. Global ones come first.

        :raises ConfigError: the file has no symbol table.
        """
        index = self._index
        try:
            return index.values[name]
        except KeyError:
            return index.values.setdefault(name, self._look_up(name.encode() + b"\0"))

    def _look_up(self, name: bytes) -> int | None:
        # Usually the name stands alone in the table. But the linker may have stored it as the end
        # of a longer one; then each occurrence of the bytes may be it.
        data = self._data
        symtab, strtab = self._symbol_tables
        for pattern, skip in ((b"\0" + name, 1), (name, 0)):
            at, end = strtab.offset, strtab.offset + strtab.size
            while (at := data.find(pattern, at, end)) >= 0:
                number = self._index.numbers.get(at + skip - strtab.offset)
                if number is not None:
                    symbol = _SYM.unpack_from(data, symtab.offset + number * _SYM.size)
                    if symbol[3] != _SHN_UNDEF:
                        return int(symbol[4])
                at += 1
        return None

    def need(self, *names: str) -> int:
        """Return the value of the first of these symbols that the file has.

        :raises ConfigError: it has none of them.
        """
        for name in names:
            value = self.symbol(name)
            if value is not None:
                return value
        raise self._unusable(f"it has no symbol {' or '.join(names)}")

    def functions(self) -> Iterator[str]:
        """Yield the names of the functions (STT_FUNC); none if the file was stripped."""
        symtab, strtab = self.sections.get(".symtab"), self.sections.get(".strtab")
        if symtab is None or strtab is None or symtab.kind != _SHT_SYMTAB:
            return
        for name, info, *_ in _SYM.iter_unpack(self._entries(symtab)):
            if info & 0xF == _STT_FUNC:
                yield self._string(strtab.offset + name)

    def function_symbols(self) -> Iterator[tuple[str, str, int, int]]:
        """Yield the functions (STT_FUNC) that are defined: name, section, value, size."""
        symtab, strtab = self._symbol_tables
        sections = self.section_names
        for name, info, _, index, value, size in _SYM.iter_unpack(self._entries(symtab)):
            if info & 0xF == _STT_FUNC and index != _SHN_UNDEF:
                section = sections[index] if index < len(sections) else ""
                yield self._string(strtab.offset + name), section, value, size

    @cached_property
    def build_id(self) -> str:
        """The GNU build id in hexadecimal digits; "" if there is none."""
        notes = [
            (segment.offset, segment.size) for segment in self.segments if segment.kind == _PT_NOTE
        ]
        if not notes:  # as in a relocatable file
            sections = self.sections.values()
            notes = [(note.offset, note.size) for note in sections if note.kind == _SHT_NOTE]
        for offset, size in notes:
            if build_id := build_id_of(self._data[offset : offset + size]):
                return build_id
        return ""


def build_id_of(notes: bytes) -> str:
    """Return the build id among some notes (elf(5), "Notes"); "" if it is not there."""
    at = 0
    while at + 12 <= len(notes):
        name_size, size, kind = struct.unpack_from("<III", notes, at)
        name = notes[at + 12 : at + 12 + name_size]
        at += 12 + (name_size + 3 & ~3)
        if kind == _NT_GNU_BUILD_ID and name == b"GNU\0":
            return notes[at : at + size].hex()
        at += size + 3 & ~3
    return ""
