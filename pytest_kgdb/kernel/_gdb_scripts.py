"""The kernel's own commands for gdb: `lx-ps`, `lx-dmesg` (Documentation/dev-tools)."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Final

from ..cache import Cache
from ..errors import ConfigError
from ..process import CommandFailed, run, which
from ._headers import headers_of
from ._model import Kernel

__all__ = ["gdb_scripts"]

_LOADER: Final = "vmlinux-gdb.py"
_SCRIPTS: Final = "scripts/gdb"
_CONSTANTS: Final = "linux/constants.py"
_SECONDS: Final = 60.0

# scripts/gdb/linux/Makefile, cmd_gen_constants_py: what is before this is not Python.
_END_OF_HEADERS: Final = re.compile(r".*?<!-- end-c-headers -->\n", re.DOTALL)
# Makefile, LINUXINCLUDE and c_flags.
_FLAGS: Final = (
    *("-nostdinc", "-Iarch/{arch}/include", "-Iarch/{arch}/include/generated", "-Iinclude"),
    *("-Iarch/{arch}/include/uapi", "-Iarch/{arch}/include/generated/uapi", "-Iinclude/uapi"),
    *("-Iinclude/generated/uapi", "-include", "include/linux/compiler-version.h"),
    *("-include", "include/linux/kconfig.h", "-include", "include/linux/compiler_types.h"),
    *("-D__KERNEL__", "-E", "-x", "c", "-P"),
)


def gdb_scripts(kernel: Kernel, cache: Cache, directory: Path) -> Path:
    """Return the script that gdb is to source; it is code of whoever made the kernel's tree.

    That of a build with CONFIG_GDB_SCRIPTS is used as it is. Otherwise the scripts are those of the
    kernel's headers package, and the constants that the build would have made of its headers are
    made here.

    :param directory: for the scripts.
    :raises ConfigError: they are not to be had.
    """
    if kernel.build_dir is not None and (kernel.build_dir / _LOADER).exists():
        return kernel.build_dir / _LOADER
    with headers_of(kernel, cache) as headers:
        scripts = headers / _SCRIPTS
        template = scripts / f"{_CONSTANTS}.in"
        if not template.exists():
            raise ConfigError(
                f"{kernel.name} has no {_SCRIPTS} with its headers",
                hint="build it with CONFIG_GDB_SCRIPTS=y",
            )
        shutil.copytree(scripts, directory / _SCRIPTS)
        shutil.copyfile(scripts / _LOADER, directory / _LOADER)
        flags = [flag.format(arch=kernel.arch.name) for flag in _FLAGS]
        output = directory / _SCRIPTS / _CONSTANTS
        argv = [which("gcc", package="gcc"), *flags, "-o", str(output), str(template)]
        try:
            run(argv, name="gcc", timeout=_SECONDS, cwd=headers)
        except CommandFailed as error:
            raise ConfigError(
                f"the constants of {kernel.name}'s {_SCRIPTS} could not be made: "
                f"{error.output.strip().splitlines()[0]}",
                hint="build it with CONFIG_GDB_SCRIPTS=y",
            ) from error
    output.write_text(_END_OF_HEADERS.sub("", output.read_text(), count=1))
    return directory / _LOADER
