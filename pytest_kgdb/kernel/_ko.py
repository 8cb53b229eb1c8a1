"""What a module's file tells of itself (include/linux/module.h, MODULE_INFO)."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from elftools.common.exceptions import ELFError
from elftools.elf.elffile import ELFFile
from elftools.elf.sections import SymbolTableSection

from ..errors import ConfigError


@dataclass(frozen=True)
class ModuleFile:
    """A `.ko`."""

    path: Path
    name: str
    """What the kernel calls it."""
    vermagic: str
    """The kernel that it was built for: release, SMP, preemption and so on."""
    depends: tuple[str, ...]
    """Modules that must be loaded before it."""
    parameters: frozenset[str]
    functions: frozenset[str]
    sources: frozenset[str]
    """The source files' names, without directories."""


def read_module(path: Path) -> ModuleFile:
    """Read a module's file.

    :raises ConfigError: it is not one.
    """
    status = path.stat()
    return _read(path, status.st_mtime_ns, status.st_size)


def without_addresses(path: Path) -> bytes | None:
    """Return a module's file with no addresses in its section headers; None if it has none.

    Since 6.10 modules have some that mean nothing (scripts/module.lds.S, CODETAG_SECTIONS). The
    kernel does not look at them. gdb takes a file that has one for a file that is placed already,
    and leaves its debug information at section offsets (gdb/symfile.c, default_symfile_offsets).
    """
    data = bytearray(path.read_bytes())
    if data[:6] != b"\x7fELF\x02\x01":
        return None
    # elf(5), Elf64_Ehdr and Elf64_Shdr.
    (table,) = struct.unpack_from("<Q", data, 0x28)
    size, count = struct.unpack_from("<HH", data, 0x3A)
    places = [table + index * size + 16 for index in range(count)]
    if not any(struct.unpack_from("<Q", data, place)[0] for place in places):
        return None
    for place in places:
        struct.pack_into("<Q", data, place, 0)
    return bytes(data)


@lru_cache(maxsize=64)
def _read(path: Path, _modified: int, _size: int) -> ModuleFile:
    try:
        with path.open("rb") as file:
            elf = ELFFile(file)
            section = elf.get_section_by_name(".modinfo")
            told = section.data() if section is not None else b""
            functions, sources = _symbols(elf)
    except (ELFError, OSError) as error:
        raise ConfigError(f"{path} is not a module: {error}") from None
    words = [
        each.decode(errors="replace").partition("=")[::2] for each in told.split(b"\0") if each
    ]
    known = dict(words)
    if "vermagic" not in known:
        raise ConfigError(
            f"{path} is not a module: it does not tell which kernel it was built for",
            hint="its .modinfo section has no vermagic",
        )
    return ModuleFile(
        path=path,
        name=known.get("name") or path.name.partition(".ko")[0].replace("-", "_"),
        vermagic=known["vermagic"].strip(),
        depends=tuple(name for name in known.get("depends", "").split(",") if name),
        parameters=frozenset(
            value.partition(":")[0] for key, value in words if key in ("parmtype", "parm")
        ),
        functions=functions,
        sources=sources,
    )


def _symbols(elf: ELFFile) -> tuple[frozenset[str], frozenset[str]]:
    """Return the names of the functions, and of the source files."""
    functions, sources = set(), set()
    table = elf.get_section_by_name(".symtab")
    if isinstance(table, SymbolTableSection):
        for symbol in table.iter_symbols():
            kind = symbol["st_info"]["type"]
            if kind == "STT_FUNC":
                functions.add(symbol.name)
            elif kind == "STT_FILE":
                sources.add(Path(symbol.name).name)
    return frozenset(functions), frozenset(sources)
