"""A module's file, and what it says about itself (include/linux/module.h, MODULE_INFO)."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Final

from ..dwarf import LineTables
from ..elf import ElfFile
from ..errors import ConfigError
from ..process import run, which

# include/linux/moduleparam.h, struct kernel_param, whose first member is the name: since 4.2.
_PARAMETER_BYTES: Final = 40

_GDB_SECONDS: Final = 60.0

# A breakpoint that cannot be inserted is pending.
_QUESTION: Final = """python
import gdb
print("pending" if gdb.Breakpoint({location!r}).pending else "found")
"""


@dataclass(frozen=True)
class ModuleFile:
    """A `.ko`."""

    path: Path
    name: str
    """Its name in the kernel."""
    vermagic: str
    """The kernel that it was built for: release, SMP, preemption and more."""
    depends: tuple[str, ...]
    """Names of modules that must be loaded before it."""
    parameters: frozenset[str]
    """Names of those that the kernel takes for it."""
    functions: frozenset[str]
    """The linker's names of its functions: `foo.isra.0` of a copy of foo that gcc specialised."""
    build_id: str = ""
    """Its GNU build id in hexadecimal digits; "" if it has none."""


def read_module(path: Path) -> ModuleFile:
    """Read a module's file.

    :raises ConfigError: it is not a module.
    """
    status = path.stat()
    return _read(path, status.st_mtime_ns, status.st_size)


def without_addresses(path: Path) -> bytes | None:
    """Return a module's file with zero as the address of every section; None if they all are zero.

    Since 6.10, modules have sections with meaningless addresses (scripts/module.lds.S,
    CODETAG_SECTIONS), which the kernel ignores. gdb takes a file with such a section for one that
    is linked already, and does not relocate its debug information (gdb/symfile.c,
    default_symfile_offsets).
    """
    try:
        with ElfFile(path) as elf:
            return elf.without_section_addresses()
    except ConfigError:
        return None


@lru_cache(maxsize=64)
def _read(path: Path, _modified: int, _size: int) -> ModuleFile:
    try:
        with ElfFile(path) as elf:
            modinfo = elf.section_bytes(".modinfo")
            functions = frozenset(elf.functions())
            parameters = frozenset(_parameters(elf))
            build_id = elf.build_id
    except ConfigError as error:
        raise ConfigError(f"{path} is not a module: {error.message}") from None
    values = dict(
        entry.decode(errors="replace").partition("=")[::2]
        for entry in modinfo.split(b"\0")
        if entry
    )
    if "vermagic" not in values:
        raise ConfigError(
            f"{path} is not a module: it does not say which kernel it was built for",
            hint="its .modinfo section has no vermagic",
        )
    return ModuleFile(
        path=path,
        name=values.get("name") or path.name.partition(".ko")[0].replace("-", "_"),
        vermagic=values["vermagic"].strip(),
        depends=tuple(name for name in values.get("depends", "").split(",") if name),
        parameters=parameters,
        functions=functions,
        build_id=build_id,
    )


def _parameters(elf: ElfFile) -> Iterator[str]:
    """Yield the names of a module's parameters: what the kernel compares (kernel/params.c).

    `.modinfo` has the types of those of module_param() only, and not those of module_param_cb().
    """
    for relocation in elf.relocations("__param"):
        if relocation.offset % _PARAMETER_BYTES == 0:
            yield elf.string_at(relocation.section, relocation.value)


def has_location(path: Path, location: str) -> bool:
    """Whether a module's file has what a breakpoint can be at: gdb itself is asked, of the file.

    :param location: as gdb takes it.
    """
    if location in read_module(path).functions:
        return True
    status = path.stat()
    return _gdb_has(path, status.st_mtime_ns, status.st_size, location)


@lru_cache(maxsize=1024)
def _gdb_has(path: Path, _modified: int, _size: int, location: str) -> bool:
    argv = [which("gdb", package="gdb"), "-nx", "-q", "-batch", "-iex", "set auto-load off"]
    argv += ["-iex", "set debuginfod enabled off", "-ex", _QUESTION.format(location=location)]
    with tempfile.TemporaryDirectory(prefix="pytest-kgdb-module-") as scratch:
        file = path
        if (data := without_addresses(path)) is not None:
            file = Path(scratch) / path.name
            file.write_bytes(data)
        result = run([*argv, str(file)], name="gdb", timeout=_GDB_SECONDS, check=False)
    return "found" in result.output.splitlines()


def lines_with_code(path: Path, source: str) -> list[int]:
    """Return the lines of a source file that have code in a module, in order; none if unknown.

    :param source: as in a location: its name, with some of its directories or without.
    """
    status = path.stat()
    return list(_lines_with_code(path, status.st_mtime_ns, status.st_size, source))


@lru_cache(maxsize=64)
def _lines_with_code(path: Path, _modified: int, _size: int, source: str) -> tuple[int, ...]:
    lines: set[int] = set()
    try:
        with ElfFile(path) as elf:
            tables = LineTables(elf)
            for unit in tables.units([Path(source).name]):
                files = [
                    number
                    for number, file in enumerate(unit.files)
                    if f"/{file}".endswith(f"/{source}")
                ]
                code = tables.code(unit, files)
                lines.update(line for (_, line), place in code.items() if place.statements)
    except ConfigError:
        return ()  # no debug information
    return tuple(sorted(lines))
