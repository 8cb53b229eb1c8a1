"""DWARF's line number tables (DWARF 5, 6.2), versions 2 to 5: which code is of which line.

A reader that decodes every unit needs minutes for a kernel. Here the header of each unit is
searched for the name of a file, and only the units that have it are decoded.
"""

from __future__ import annotations

import contextlib
import posixpath
import struct
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Final, NamedTuple

from .elf import ElfFile
from .errors import ConfigError

__all__ = ["CodeOfLine", "LineTables", "LineUnit"]

# x86-64 psABI, "Relocation Types".
_R_X86_64_64: Final = 1
_R_X86_64_32: Final = (10, 11)

# DWARF 5, 7.22 "Line Number Information", and 7.5.6 "Form Encodings".
_LNCT_PATH: Final = 1
_LNCT_DIRECTORY: Final = 2
_FORM_DATA2: Final = 0x05
_FORM_DATA4: Final = 0x06
_FORM_DATA8: Final = 0x07
_FORM_STRING: Final = 0x08
_FORM_BLOCK: Final = 0x09
_FORM_DATA1: Final = 0x0B
_FORM_STRP: Final = 0x0E
_FORM_UDATA: Final = 0x0F
_FORM_DATA16: Final = 0x1E
_FORM_LINE_STRP: Final = 0x1F
_FIXED: Final = {_FORM_DATA1: 1, _FORM_DATA2: 2, _FORM_DATA4: 4, _FORM_DATA8: 8, _FORM_DATA16: 16}
_LNE_END_SEQUENCE: Final = 1
# What a table that means harm could have more of: bits of a number, bytes of a path (limits.h,
# PATH_MAX), files of a unit (Linux has some 500).
_MOST_BITS: Final = 70
_LONGEST_PATH: Final = 4096
_MOST_FILES: Final = 1 << 14
_LNE_SET_ADDRESS: Final = 2


class LineUnit(NamedTuple):
    """The line number program of one compilation unit."""

    start: int
    """Where its header is in the section `.debug_line`."""
    program: int
    end: int
    version: int
    minimum_length: int
    default_is_stmt: bool
    line_base: int
    line_range: int
    opcode_lengths: tuple[int, ...]
    """Of the standard opcodes; the first is unused."""
    files: tuple[str, ...]
    """Paths by the numbers that the program uses; the file of the unit itself comes first."""
    directory: str
    """The directory of the compilation, where that is in the table: since version 5."""


@dataclass
class CodeOfLine:
    """Where one line of a file has code."""

    statements: set[tuple[str, int]] = field(default_factory=set)
    """Where a statement of the line begins: a section, "" in a linked file, and an address."""
    ranges: set[tuple[str, int]] = field(default_factory=set)
    """The first instruction of each range of instructions that are the line's."""


class LineTables:
    """The line number tables of an ELF file.

    :raises ConfigError: the file has none that can be read, when something is read.
    """

    def __init__(self, elf: ElfFile) -> None:
        self._elf = elf

    @cached_property
    def _section(self) -> tuple[bytes, dict[int, str]]:
        """The section `.debug_line`, relocated; where in it addresses are, and of which section."""
        data = self._elf.section_bytes(".debug_line")
        if not data:
            raise ConfigError(
                f"{self._elf.path} has no line number table: it was built without debug "
                "information, or with compressed one",
                hint="build it with CONFIG_DEBUG_INFO_DWARF5=y, CONFIG_DEBUG_INFO_COMPRESSED off",
            )
        # A kernel that is linked with --emit-relocs has the relocations, too, already applied.
        if not self._elf.is_relocatable:
            return data, {}
        relocated = bytearray(data)
        sections: dict[int, str] = {}
        names = self._elf.section_names
        with self._whole():
            for offset, kind, index, value in self._elf.relocations(".debug_line"):
                if kind == _R_X86_64_64:
                    struct.pack_into("<q", relocated, offset, value)
                    sections[offset] = names[index] if index < len(names) else ""
                elif kind in _R_X86_64_32:
                    struct.pack_into("<I", relocated, offset, value & 0xFFFFFFFF)
        return bytes(relocated), sections

    @cached_property
    def _strings(self) -> dict[int, bytes]:
        return {
            _FORM_LINE_STRP: self._elf.section_bytes(".debug_line_str"),
            _FORM_STRP: self._elf.section_bytes(".debug_str"),
        }

    def units(self, names: Collection[str] | None = None) -> Iterator[LineUnit]:
        """Yield the units.

        :param names: those whose tables have a file of one of these names, without directories;
            all by default.
        """
        data, _ = self._section
        patterns = None if names is None else [self._patterns(name) for name in names]
        with self._whole():
            yield from self._units(data, patterns)

    @contextlib.contextmanager
    def _whole(self) -> Iterator[None]:
        """Report what a broken table leads to."""
        try:
            yield
        except (IndexError, OverflowError, ValueError, ZeroDivisionError, struct.error) as error:
            raise ConfigError(
                f"{self._elf.path} has a line number table that is broken: {error}",
                hint="build it again",
            ) from error

    def _units(self, data: bytes, patterns: list[list[bytes]] | None) -> Iterator[LineUnit]:
        at = 0
        while at + 4 < len(data):
            (length,) = struct.unpack_from("<I", data, at)
            wide = length == 0xFFFFFFFF
            if wide:
                (length,) = struct.unpack_from("<Q", data, at + 4)
            begin = at + (12 if wide else 4)
            end = begin + length
            (version,) = struct.unpack_from("<H", data, begin)
            place = begin + 2 + (2 if version >= 5 else 0)
            size = 8 if wide else 4
            header = int.from_bytes(data[place : place + size], "little")
            program = place + size + header
            if 2 <= version <= 5 and (
                patterns is None
                or any(
                    data.find(pattern, place, program) >= 0
                    for group in patterns
                    for pattern in group
                )
            ):
                yield self._unit(data, begin, version, place + size, program, end, size)
            at = end

    def _patterns(self, name: str) -> list[bytes]:
        """Return what the header of a unit with a file of that name has in it, at least."""
        text = name.encode() + b"\0"
        patterns = [text]
        for table in self._strings.values():
            at = -1
            while (at := table.find(text, at + 1)) >= 0:
                # From the beginning of the string: it may have directories in front.
                start = table.rfind(b"\0", 0, at) + 1
                patterns += {struct.pack("<I", start), struct.pack("<I", at)}
        return patterns

    def _unit(
        self, data: bytes, start: int, version: int, at: int, program: int, end: int, size: int
    ) -> LineUnit:
        minimum = data[at]
        at += 2 if version >= 4 else 1  # then the operations of a VLIW instruction
        default_is_stmt, line_base, line_range, base = struct.unpack_from("<BbBB", data, at)
        at += 4
        lengths = (0, *data[at : at + base - 1])
        at += base - 1
        directory = ""
        if version >= 5:
            directory, files = self._files_5(data, at, size)
        else:
            files = self._files_2(data, at)
        return LineUnit(
            start, program, end, version, minimum, bool(default_is_stmt), line_base, line_range,
            lengths, tuple(files), directory,
        )  # fmt: skip

    @staticmethod
    def _files_2(data: bytes, at: int) -> list[str]:
        directories = [""]
        while data[at]:
            directory_name, at = _path(data, at)
            directories.append(directory_name)
        at += 1
        files: list[str] = []
        while data[at]:
            name, at = _path(data, at)
            directory, at = _uleb(data, at)
            _, at = _uleb(data, at)
            _, at = _uleb(data, at)
            files.append(posixpath.normpath(posixpath.join(directories[directory], name)))
            if len(files) > _MOST_FILES:
                raise ValueError(f"more than {_MOST_FILES} files of a unit")
        return [files[0] if files else "", *files]  # they are numbered from 1

    def _files_5(self, data: bytes, at: int, size: int) -> tuple[str, list[str]]:
        entries, at = self._entries_5(data, at, size)
        directories = [path for path, _ in entries]
        first = directories[0] if directories else ""
        directories = [posixpath.join(first, path) for path in directories]
        entries, at = self._entries_5(data, at, size)
        return first, [
            posixpath.normpath(posixpath.join(directories[directory], path))
            for path, directory in entries
        ]

    def _entries_5(self, data: bytes, at: int, size: int) -> tuple[list[tuple[str, int]], int]:
        count = data[at]
        at += 1
        formats = []
        for _ in range(count):
            content, at = _uleb(data, at)
            form, at = _uleb(data, at)
            formats.append((content, form))
        number, at = _uleb(data, at)
        if number > _MOST_FILES:
            raise ValueError(f"{number} files of a unit")
        entries = []
        for _ in range(number):
            path, directory = "", 0
            for content, form in formats:
                value: str | int = 0
                if form in self._strings:
                    offset = int.from_bytes(data[at : at + size], "little")
                    at += size
                    if content == _LNCT_PATH:
                        value, _ = _path(self._strings[form], offset)
                elif form == _FORM_STRING:
                    value, at = _path(data, at)
                elif form == _FORM_UDATA:
                    value, at = _uleb(data, at)
                elif form == _FORM_BLOCK:
                    length, at = _uleb(data, at)
                    at += length
                elif form in _FIXED:
                    value = int.from_bytes(data[at : at + _FIXED[form]], "little")
                    at += _FIXED[form]
                else:
                    raise ConfigError(
                        f"{self._elf.path} has a line number table with form {form:#x}, which is "
                        "not known here"
                    )
                if content == _LNCT_PATH:
                    path = str(value)
                elif content == _LNCT_DIRECTORY:
                    directory = int(value)
            entries.append((path, directory))
        return entries, at

    # The programs

    def rows(self, unit: LineUnit) -> Iterator[tuple[str, int, int, int, bool]]:
        """Yield the rows of a unit: section, address, file, line, whether a statement begins.

        The end of a sequence of instructions has the line 0. A file without relocations has "" for
        its section. What the linker has dropped is at address 0, and left out.
        """
        with self._whole():
            yield from self._rows(unit)

    def _rows(self, unit: LineUnit) -> Iterator[tuple[str, int, int, int, bool]]:
        data, sections = self._section
        base, minimum = len(unit.opcode_lengths), unit.minimum_length
        line_base, line_range = unit.line_base, unit.line_range
        advance = (255 - base) // line_range * minimum
        at, end = unit.program, unit.end
        section, address, file, line, is_stmt = "", 0, 1, 1, unit.default_is_stmt
        while at < end:
            opcode = data[at]
            at += 1
            if opcode >= base:
                opcode -= base
                address += opcode // line_range * minimum
                line += line_base + opcode % line_range
                if address or section:
                    yield section, address, file, line, is_stmt
            elif opcode == 1:  # copy
                if address or section:
                    yield section, address, file, line, is_stmt
            elif opcode == 2:  # advance_pc
                step, at = _uleb(data, at)
                address += step * minimum
            elif opcode == 3:  # advance_line
                step, at = _sleb(data, at)
                line += step
            elif opcode == 4:  # set_file
                file, at = _uleb(data, at)
            elif opcode == 6:  # negate_stmt
                is_stmt = not is_stmt
            elif opcode == 8:  # const_add_pc
                address += advance
            elif opcode == 9:  # fixed_advance_pc
                address += int.from_bytes(data[at : at + 2], "little")
                at += 2
            elif opcode == 0:
                length, at = _uleb(data, at)
                if data[at] == _LNE_END_SEQUENCE:
                    if address or section:
                        yield section, address, file, 0, False
                    section, address, file, line = "", 0, 1, 1
                    is_stmt = unit.default_is_stmt
                elif data[at] == _LNE_SET_ADDRESS:
                    address = int.from_bytes(data[at + 1 : at + length], "little")
                    section = sections.get(at + 1, "")
                at += length
            else:  # what is of no use here: column, block, prologue, instruction set
                for _ in range(unit.opcode_lengths[opcode]):
                    _, at = _uleb(data, at)

    def code(self, unit: LineUnit, files: Collection[int]) -> dict[tuple[int, int], CodeOfLine]:
        """Return where the lines of some of a unit's files have code, by file and line."""
        code: dict[tuple[int, int], CodeOfLine] = {}
        last: tuple[str, int, int, int] | None = None  # the row whose range is not known yet
        owner: tuple[int, int] | None = None  # of the range before
        for section, address, file, line, is_stmt in self.rows(unit):
            if last is not None and (section, address) != last[:2]:
                # Of several rows at an address, the instructions are the last one's.
                key = last[2:]
                if key[1] and key != owner and key[0] in files:
                    code.setdefault(key, CodeOfLine()).ranges.add(last[:2])
                owner = key
            if is_stmt and line and file in files:
                code.setdefault((file, line), CodeOfLine()).statements.add((section, address))
            last = (section, address, file, line) if line else None
            if not line:
                owner = None
        return code

    def line_at(self, name: str, section: str, address: int) -> tuple[str, int] | None:
        """Return the file and line of an instruction; None if no unit with that file has it.

        :param name: the file's, without directories. All units that include it are decoded, of
            which a header has hundreds.
        :param section: "" in a linked file.
        """
        for unit in self.units([name]):
            last: tuple[str, int, int, int] | None = None
            for row_section, row_address, file, line, _ in self.rows(unit):
                if (
                    last is not None
                    and last[0] == section == row_section
                    and last[1] <= address < row_address
                ):
                    return unit.files[last[2]], last[3]
                last = (row_section, row_address, file, line) if line else None
        return None


def _path(data: bytes, at: int) -> tuple[str, int]:
    """Return a string, and where the next one begins."""
    end = data.index(b"\0", at, at + _LONGEST_PATH)
    return data[at:end].decode(errors="replace"), end + 1


def _uleb(data: bytes, at: int) -> tuple[int, int]:
    """Return an unsigned LEB128 number, and where it ends (DWARF 5, 7.6)."""
    value = data[at]
    at += 1
    if value < 0x80:
        return value, at
    value &= 0x7F
    shift = 7
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            return value, at
        if shift >= _MOST_BITS:
            raise ValueError("a number of more than 64 bits")


def _sleb(data: bytes, at: int) -> tuple[int, int]:
    """Return a signed LEB128 number, and where it ends."""
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            return (value - (1 << shift) if byte & 0x40 else value), at
        if shift >= _MOST_BITS:
            raise ValueError("a number of more than 64 bits")
