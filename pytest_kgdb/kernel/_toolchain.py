"""The compiler, its version, and the environment of a build."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Final, NamedTuple

from ..cache import Cache
from ..process import run, which

# The programs that kbuild needs besides the compiler, and their Debian packages
# (Documentation/process/changes.rst).
_TOOLS: Final = {"make": "make", "flex": "flex", "bison": "bison", "bc": "bc", "perl": "perl"}
_KEPT: Final = ("HOME", "LOGNAME", "PATH", "TMPDIR", "USER", "XDG_CACHE_HOME", "XDG_CONFIG_HOME")

# With constants for what kbuild would take from the clock, the user and git, the same source gives
# the same kernel (Documentation/kbuild/reproducible-builds.rst). An empty LOCALVERSION removes the
# "+" from the release of a commit without a tag (scripts/setlocalversion).
_CONSTANT: Final = {
    "KBUILD_BUILD_TIMESTAMP": "Thu Jan  1 00:00:00 UTC 1970",
    "KBUILD_BUILD_USER": "pytest",
    "KBUILD_BUILD_HOST": "kgdb",
    "KBUILD_BUILD_VERSION": "1",
    "LOCALVERSION": "",
    "LC_ALL": "C",
}

# In depend mode, ccache uses the dependency files that kbuild makes the compiler write. Without it,
# ccache preprocesses each file first, and a first build takes 1.5 times as long. Dependency files
# lack system headers, which no file of the kernel includes; host programs are built without ccache.
_CCACHE: Final = {"CCACHE_DEPEND": "1"}


class Toolchain(NamedTuple):
    """The compiler, the linker and ccache."""

    version: str
    """The versions that they print: part of every key."""
    ccache: str | None
    """The compiler cache's path, if it is installed."""

    def variables(self) -> list[str]:
        """Return variables for make's command line."""
        return [] if self.ccache is None else ["CC=ccache gcc"]


def toolchain(cache: Cache) -> Toolchain:
    """Return the toolchain that is installed.

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
    """Check that the programs of a kernel build are installed.

    :raises ConfigError: a program is missing; it names the Debian package.
    """
    for program, package in _TOOLS.items():
        which(program, package=package)


def environment() -> dict[str, str]:
    """Return the environment of a build, without variables that would change its result.

    ARCH, LLVM, KCFLAGS, CROSS_COMPILE, MAKEFLAGS and the like are left out: no key has them.
    """
    kept = {
        name: value
        for name, value in os.environ.items()
        if name in _KEPT or name.startswith("CCACHE_")
    }
    return _CCACHE | kept | _CONSTANT
