"""What compiles: which compiler, by what it is known, and in which environment."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ..cache import Cache
from ..process import run, which

# What kbuild runs besides the compiler (Documentation/process/changes.rst), by Debian's packages.
_TOOLS: Final = {"make": "make", "flex": "flex", "bison": "bison", "bc": "bc", "perl": "perl"}
_KEPT: Final = ("HOME", "LOGNAME", "PATH", "TMPDIR", "USER", "XDG_CACHE_HOME", "XDG_CONFIG_HOME")

# What Kbuild would ask the clock, the user and git for: with constants in its place the same
# source gives the same kernel (Documentation/kbuild/reproducible-builds.rst). LOCALVERSION, set
# and empty, takes the "+" off a release that is not at a tag (scripts/setlocalversion).
_CONSTANT: Final = {
    "KBUILD_BUILD_TIMESTAMP": "Thu Jan  1 00:00:00 UTC 1970",
    "KBUILD_BUILD_USER": "pytest",
    "KBUILD_BUILD_HOST": "kgdb",
    "KBUILD_BUILD_VERSION": "1",
    "LOCALVERSION": "",
    "LC_ALL": "C",
}

# ccache goes by the list of files that the compiler read, which kbuild has it write anyway. By
# preprocessing first, as it does otherwise, a first build takes half as long again. The list has
# no system headers, which nothing in a kernel includes; what runs on the host is built without it.
_CCACHE: Final = {"CCACHE_DEPEND": "1"}


@dataclass(frozen=True)
class Toolchain:
    """The compiler and its friends."""

    version: str
    """What they say of themselves: part of every key."""
    ccache: str | None
    """The compiler cache's path, if it is installed."""

    def variables(self) -> list[str]:
        """Return what `make` is told on its command line."""
        return [] if self.ccache is None else ["CC=ccache gcc"]


def toolchain(cache: Cache) -> Toolchain:
    """Return the compiler that is installed.

    :raises ConfigError: a program is missing; it names the Debian package.
    """
    paths = [which("gcc", package="gcc"), which("ld", package="binutils")]
    signs = []
    for path in paths:
        status = Path(path).stat()
        signs.append(f"{Path(path).resolve()} {status.st_size} {status.st_mtime_ns}")

    def ask() -> str:
        lines = [run([path, "--version"], timeout=60).output.splitlines()[0] for path in paths]
        return "; ".join(lines)

    return Toolchain(cache.memo("toolchain", "\n".join(signs), ask), shutil.which("ccache"))


def check_tools() -> None:
    """Make sure that a kernel can be built here.

    :raises ConfigError: a program is missing; it names the Debian package.
    """
    for program, package in _TOOLS.items():
        which(program, package=package)


def environment() -> dict[str, str]:
    """Return the environment of a build: nothing in it that would change what comes out.

    ARCH, LLVM, KCFLAGS, CROSS_COMPILE, MAKEFLAGS and the like stay out, as no key knows of them.
    """
    kept = {
        name: value
        for name, value in os.environ.items()
        if name in _KEPT or name.startswith("CCACHE_")
    }
    return _CCACHE | kept | _CONSTANT
