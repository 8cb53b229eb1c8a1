"""A module's file, and what it says about itself (include/linux/module.h, MODULE_INFO)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from ..elf import ElfFile
from ..errors import ConfigError


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
    functions: frozenset[str]
    sources: frozenset[str]
    """The source files' names, without directories."""


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
            sources = frozenset(Path(name).name for name in elf.source_files())
    except ConfigError as error:
        raise ConfigError(f"{path} is not a module: {error.message}") from None
    entries = [
        entry.decode(errors="replace").partition("=")[::2]
        for entry in modinfo.split(b"\0")
        if entry
    ]
    values = dict(entries)
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
        parameters=frozenset(
            value.partition(":")[0] for key, value in entries if key in ("parmtype", "parm")
        ),
        functions=functions,
        sources=sources,
    )
