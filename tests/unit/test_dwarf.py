"""Line number tables, against what gcc and the assembler wrote."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from pytest_kgdb.dwarf import LineTables
from pytest_kgdb.elf import ElfFile
from pytest_kgdb.errors import ConfigError

SOURCE = """\
#include "part.h"
int counter;
static __attribute__((noinline)) int other(int n)
{
    counter += n;
    return counter;
}
__attribute__((section(".init.text"))) int start(int n)
{
    if (n > 3)
        counter = part(n);
    for (int i = 0; i < n; i++)
        counter += other(i);
    return counter;
}
int main(int argc, char **argv) { return start(argc) + part(argc); }
"""
HEADER = """\
static inline int part(int n)
{
    return n * 3 + 1;
}
"""


def compiled(directory: Path, *options: str) -> ElfFile:
    (directory / "main.c").write_text(SOURCE)
    (directory / "part.h").write_text(HEADER)
    target = directory / "out"
    argv = ["gcc", "-g", *options, "-o", str(target), str(directory / "main.c")]
    subprocess.run(argv, check=True, timeout=60)
    return ElfFile(target)


def rows_of(elf: ElfFile) -> list[tuple[int, int, bool]]:
    """The rows of all units, by our reader: address, line, is_stmt; without sequences' ends."""
    tables = LineTables(elf)
    return sorted(
        (address, line, is_stmt)
        for unit in tables.units()
        for _, address, _, line, is_stmt in tables.rows(unit)
        if line
    )


@pytest.mark.parametrize(
    "options",
    [["-O0"], ["-O2"], ["-O2", "-gdwarf-4"], ["-O2", "-gdwarf-3"], ["-O2", "-Wl,--emit-relocs"]],
)
def test_the_rows_are_binutils(tmp_path: Path, options: list[str]) -> None:
    elf = compiled(tmp_path, *options)
    argv = ["objdump", "--dwarf=decodedline", str(elf.path)]
    text = subprocess.run(argv, check=True, capture_output=True, text=True, timeout=60).stdout
    expected = sorted(
        (int(match[2], 16), int(match[1]), bool(match[3]))
        for match in re.finditer(r"^\S+\s+(\d+)\s+(0x[0-9a-f]+)(?:\s+\d+)?(\s+x)?\s*$", text, re.M)
    )
    assert len(expected) > 10
    assert rows_of(elf) == expected


def code_of(elf: ElfFile, name: str) -> dict[int, tuple[int, int]]:
    """How many statements and ranges each line of a file has."""
    tables = LineTables(elf)
    code: dict[int, tuple[int, int]] = {}
    for unit in tables.units({name}):
        numbers = {n for n, path in enumerate(unit.files) if path.endswith(f"/{name}")}
        for (_, line), places in tables.code(unit, numbers).items():
            code[line] = (len(places.statements), len(places.ranges))
    return code


def test_lines_have_code(tmp_path: Path) -> None:
    code = code_of(compiled(tmp_path, "-O0"), "main.c")
    assert {4, 5, 6, 7, 9, 10, 11, 12, 13, 14, 15, 16} == set(code)
    assert code[5] == (1, 1)


def test_a_line_that_was_inlined_twice(tmp_path: Path) -> None:
    inlined = code_of(compiled(tmp_path, "-O2"), "part.h")
    assert inlined[3][0] >= 2


def test_only_units_that_have_the_file(tmp_path: Path) -> None:
    tables = LineTables(compiled(tmp_path, "-O0"))
    assert len(list(tables.units({"main.c"}))) == 1
    assert not list(tables.units({"main.h"}))
    assert len(list(tables.units({"part.h"}))) == 1


@pytest.mark.parametrize("options", [["-O2"], ["-O2", "-gdwarf-4"], ["-O2", "-c"]])
def test_the_line_of_an_instruction_is_addr2lines(tmp_path: Path, options: list[str]) -> None:
    elf = compiled(tmp_path, *options)
    tables = LineTables(elf)
    section = ".text" if "-c" in options else ""
    (start, size) = next((s[2], s[3]) for s in elf.function_symbols() if s[0] == "other")
    for address in range(start, start + size):
        argv = ["addr2line", "-e", str(elf.path), *(["-j", section] if section else [])]
        argv.append(hex(address))
        text = subprocess.run(argv, check=True, capture_output=True, text=True, timeout=60).stdout
        path, line = text.split()[0].rsplit(":", 1)
        found = tables.line_at("main.c", section, address)
        assert found is not None
        assert (Path(found[0]).name, found[1]) == (Path(path).name, int(line))
    assert tables.line_at("main.c", section, 1 << 40) is None
    assert tables.line_at("other.c", section, start) is None


def test_a_relocatable_files_sections(tmp_path: Path) -> None:
    elf = compiled(tmp_path, "-O2", "-c")
    tables = LineTables(elf)
    (unit,) = tables.units()
    assert any(path == str(tmp_path / "main.c") for path in unit.files)
    sections: dict[str, set[int]] = {}
    for section, _, _, line, _ in tables.rows(unit):
        sections.setdefault(section, set()).add(line)
    assert {".text", ".init.text", ".text.startup"} == set(sections)
    assert {10, 13} <= sections[".init.text"]
    assert 5 in sections[".text"]


def test_a_file_without_lines(tmp_path: Path) -> None:
    elf = compiled(tmp_path, "-g0")
    with pytest.raises(ConfigError, match="has no line number table"):
        list(LineTables(elf).units())
