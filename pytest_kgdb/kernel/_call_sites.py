"""The calls in some lines of a kernel's source, by the compiler's own account of them.

DWARF has an entry for each call in optimised code, with what is called and where it returns to,
within the entries of the functions that are inlined around it (DWARF 5, 3.4 "Call Site Entries";
gcc has the same as an extension of DWARF 4).
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from ..dwarf import LineTables, LineUnit
from ..elf import ElfFile
from ._source_lines import CodeAddress, SourceFile

if TYPE_CHECKING:
    from elftools.dwarf.compileunit import CompileUnit
    from elftools.dwarf.die import DIE
    from elftools.dwarf.dwarfinfo import DWARFInfo

__all__ = ["CallSite", "call_sites"]

_SITES: Final = ("DW_TAG_call_site", "DW_TAG_GNU_call_site")
_RETURN_PC: Final = ("DW_AT_call_return_pc", "DW_AT_low_pc")
_CALLEE: Final = ("DW_AT_call_origin", "DW_AT_abstract_origin")
_TAIL_CALL: Final = ("DW_AT_call_tail_call", "DW_AT_GNU_tail_call")
_INLINED: Final = "DW_TAG_inlined_subroutine"
_FUNCTION: Final = "DW_TAG_subprogram"
_SCOPES: Final = (_INLINED, _FUNCTION, "DW_TAG_lexical_block", "DW_TAG_GNU_call_site")

# IS_ERR() in the code behind a call: a comparison of a register with -MAX_ERRNO
# (include/linux/err.h), `cmp $0xfffffffffffff000, %rax` or another register.
_IS_ERR: Final = re.compile(rb"\x48\x3d\x00\xf0\xff\xff|[\x48\x49]\x81[\xf8-\xff]\x00\xf0\xff\xff")
_BEHIND: Final = 64  # bytes in which that is looked for, no further than to the next call
_CALL: Final = 5  # bytes of a direct call


@dataclass(frozen=True)
class CallSite:
    """A call that the compiler made of a line."""

    file: str
    """The file of the line, in the source tree."""
    line: int
    caller: str
    """The function that has the line's code; what the line was inlined into."""
    callee: str
    """The function that is called; "" where that is said by a pointer."""
    after: CodeAddress
    """The instruction behind the call: where it returns to, unless it is a jump."""
    is_jump: bool
    """Whether the call is a jump, and the callee returns to the caller's caller."""
    checks_error: bool
    """Whether what is returned is compared with the error pointers, before any other call."""

    @property
    def place(self) -> str:
        """File and line."""
        return f"{self.file}:{self.line}"


class _Line(NamedTuple):
    file: int
    line: int


def call_sites(images: Iterable[tuple[str, Path]], files: Sequence[SourceFile]) -> list[CallSite]:
    """Return the calls in lines that are named, in the order of these lines.

    A call within what is inlined into a line is one of the line's.

    :param images: vmlinux, as the module "", and the modules' files.
    """
    sites: dict[CodeAddress, CallSite] = {}
    for module, path in images:
        code = {
            address.offset
            for file in files
            for line, addresses in file.code.items()
            # Of a header, all its users would be read otherwise.
            if file.requested is None or line in file.requested or file.name.endswith(".c")
            for address in addresses
            if address.module == module
        }
        if code:
            with ElfFile(path) as elf:
                for site in _Image(module, elf, files).sites(code):
                    sites.setdefault(site.after, site)
    return sorted(sites.values(), key=lambda site: (site.file, site.line, site.after))


class _Image:
    """The calls of one image's code."""

    def __init__(self, module: str, elf: ElfFile, files: Sequence[SourceFile]) -> None:
        self._module = module
        self._elf = elf
        self._files = files
        self._tables = LineTables(elf)

    def sites(self, code: set[int]) -> Iterator[CallSite]:
        """Yield them.

        :param code: addresses in the compilation units that are to be read.
        """
        # Imported lazily: few tests need it.
        from elftools.elf.elffile import ELFFile

        names = {file.name.rpartition("/")[2] for file in self._files}
        with self._elf.path.open("rb") as stream:
            dwarf = ELFFile(stream).get_dwarf_info()
            # Where a unit's table begins: DW_AT_stmt_list counts its length field, too.
            units = {unit.start - 4: unit for unit in self._tables.units(names)}
            for compiled in self._compiled(dwarf, code):
                top = compiled.get_top_DIE()
                table = top.attributes.get("DW_AT_stmt_list")
                unit = units.get(table.value) if table is not None else None
                if unit is not None:
                    yield from _Unit(self._module, self._elf, self._tables, unit).sites(
                        top, self._requested(unit)
                    )

    def _compiled(self, dwarf: DWARFInfo, code: set[int]) -> Iterator[CompileUnit]:
        ranges = None if self._elf.is_relocatable else dwarf.get_aranges()
        if ranges is None:  # clang writes none; a module's units are few
            yield from dwarf.iter_CUs()
            return
        offsets = {ranges.cu_offset_at_addr(address) for address in code}
        for offset in sorted(offset for offset in offsets if offset is not None):
            yield dwarf.get_CU_at(offset)

    def _requested(self, unit: LineUnit) -> dict[_Line, str]:
        """Return the lines that are named, as the unit has them, with the names of their files."""
        return {
            _Line(number, line): file.name
            for file in self._files
            for number, path in enumerate(unit.files)
            if path == file.name or path.endswith(f"/{file.name}")
            for line in (file.code if file.requested is None else file.requested)
        }


class _Unit:
    """The calls of one compilation unit."""

    def __init__(self, module: str, elf: ElfFile, tables: LineTables, unit: LineUnit) -> None:
        self._module = module
        self._elf = elf
        self._rows: dict[str, list[tuple[int, _Line]]] = {}
        for section, address, file, line, _ in tables.rows(unit):
            self._rows.setdefault(section, []).append((address, _Line(file, line)))
        for rows in self._rows.values():
            # Of several rows at an address, the instructions are the last one's.
            rows.sort(key=lambda row: row[0])

    def sites(self, top: DIE, requested: dict[_Line, str]) -> Iterator[CallSite]:
        """Yield those in lines that are named."""
        if not requested:
            return
        entries = [
            (function, chain, entry)
            for function in top.iter_children()
            if function.tag == _FUNCTION
            for chain, entry in _entries(function, ())
        ]
        sections = self._sections() if self._elf.is_relocatable else {}
        returns = sorted({pc for *_, entry in entries if (pc := _number(entry, _RETURN_PC))})
        for function, chain, entry in entries:
            after = _number(entry, _RETURN_PC)
            if not after:
                continue
            name = _name(function)
            section = sections.get((name, _number(function, ("DW_AT_low_pc",))), "")
            lines = (self._line_of(section, after - 1), *chain)
            line = next((line for line in lines if line in requested), None)
            if line is None:
                continue
            callee = _reference(entry, _CALLEE)
            following = bisect_right(returns, after)
            end = returns[following] - _CALL if following < len(returns) else after + _BEHIND
            code = self._code(section, after, min(end - after, _BEHIND))
            yield CallSite(
                requested[line],
                line.line,
                name,
                "" if callee is None else _name(callee),
                CodeAddress(self._module, section, after),
                any(attribute in entry.attributes for attribute in _TAIL_CALL),
                _IS_ERR.search(code) is not None,
            )

    def _sections(self) -> dict[tuple[str, int], str]:
        """Return the sections of a module's functions, by name and place in the section."""
        return {
            (name.partition(".")[0], address): section
            for name, section, address, _ in self._elf.function_symbols()
        }

    def _line_of(self, section: str, address: int) -> _Line:
        rows = self._rows.get(section, [])
        index = bisect_right(rows, address, key=lambda row: row[0])
        return rows[index - 1][1] if index else _Line(0, 0)

    def _code(self, section: str, address: int, size: int) -> bytes:
        if size <= 0:
            return b""
        if self._elf.is_relocatable:
            return self._elf.section_bytes(section)[address : address + size]
        return self._elf.contents(address, size)


def _entries(scope: DIE, chain: tuple[_Line, ...]) -> Iterator[tuple[tuple[_Line, ...], DIE]]:
    """Yield the calls in a scope, with the lines of the inlined calls around, innermost first."""
    for entry in scope.iter_children():
        if entry.tag in _SITES:
            yield chain, entry
        elif entry.tag in _SCOPES:
            outer = chain
            if entry.tag == _INLINED:
                call = _Line(
                    _number(entry, ("DW_AT_call_file",)), _number(entry, ("DW_AT_call_line",))
                )
                outer = (call, *chain)
            yield from _entries(entry, outer)


def _number(entry: DIE, names: Sequence[str]) -> int:
    values = (entry.attributes[name].value for name in names if name in entry.attributes)
    return int(next(values, 0))


def _reference(entry: DIE, names: Sequence[str]) -> DIE | None:
    for name in names:
        if name in entry.attributes:
            target: DIE = entry.get_DIE_from_attribute(name)
            return target
    return None


def _name(entry: DIE) -> str:
    """Return a function's name, which is with its abstract instance, or its declaration."""
    step: DIE | None = entry
    while step is not None:
        value: Any = step.attributes.get("DW_AT_name")
        if value is not None:
            return str(value.value.decode(errors="replace"))
        step = _reference(step, ("DW_AT_abstract_origin", "DW_AT_specification"))
    return ""
