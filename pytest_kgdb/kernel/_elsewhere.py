"""The source of a kernel that somebody built elsewhere: where it was then, and where it is now."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from ..errors import ConfigError
from ._model import numbers
from ._sources import NoSources, SourceDirectory, SourceFiles
from ._spec import is_source, version

_FIRST: Final = "init/main.c"  # of every kernel, and among the first that are linked


def compiled_in(vmlinux: Path) -> str:
    """Return the directory of the source in the debug information; "" where it has none.

    kbuild gives gcc relative names in the tree itself and in a build directory below it, absolute
    ones elsewhere (KBUILD_ABS_SRCTREE and srctree in its Makefile); DW_AT_comp_dir is the build
    directory.
    """
    # Imported lazily: for most kernels it is known.
    from elftools.common.exceptions import DWARFError, ELFError
    from elftools.elf.elffile import ELFFile

    try:
        with vmlinux.open("rb") as stream:
            elf = ELFFile(stream)
            if not elf.has_dwarf_info():
                return ""
            dwarf = elf.get_dwarf_info(relocate_dwarf_sections=False, follow_links=False)
            for unit in dwarf.iter_CUs():
                attributes = unit.get_top_DIE().attributes
                if "DW_AT_name" not in attributes or "DW_AT_comp_dir" not in attributes:
                    continue
                name, directory = (
                    os.fsdecode(attributes[key].value) for key in ("DW_AT_name", "DW_AT_comp_dir")
                )
                if name == _FIRST or name.endswith(f"/{_FIRST}"):
                    path = os.path.normpath(Path(directory, name))
                    return path.removesuffix(f"/{_FIRST}") if Path(path).is_absolute() else ""
    except (DWARFError, ELFError, OSError, ValueError, KeyError, AssertionError):
        return ""  # it is only for names; what needs the debug information says what is wrong
    return ""


def checked_source(given: Path, kernel_version: str, name: str, origin: str) -> Path:
    """Return a directory that is said to have a kernel's source.

    :param kernel_version: the kernel's, as `6.1.192`, or its release.
    :param name: the kernel's, for errors.
    :param origin: who says so.
    :raises ConfigError: it has none, or that of another version.
    """
    if not is_source(given):
        raise ConfigError(f"{origin}: {given} is not the top of a kernel's source")
    if numbers(there := version(given)) != numbers(kernel_version):
        raise ConfigError(
            f"{origin}: {given} is the source of {there}, and {name} was built from that of "
            f"{kernel_version}",
            hint="check out the revision that it was built from",
        )
    return given


def source_files(given: Path | None, likely: Path | None, *tops: str, built: float) -> SourceFiles:
    """Return the files of a source.

    :param given: where the user says that it is: as it was compiled.
    :param likely: where it seems to be; what was written there since is refused.
    :param tops: where the debug information says that it is.
    :param built: when the kernel was built, in seconds since the epoch.
    """
    places = [Path(top) for top in tops if top]
    if given is not None:
        return SourceDirectory(given, *places)
    if likely is not None:
        return SourceDirectory(likely, *places, compiled=built)
    where = f"in {tops[0]}, which is not there" if tops and tops[0] else "elsewhere"
    return NoSources(
        *places,
        why=f"this kernel was built {where}",
        hint="--kgdb-source=DIR says where its source is now",
    )
