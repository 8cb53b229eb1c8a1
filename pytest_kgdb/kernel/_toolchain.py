"""The compiler, its version, and the environment of a build."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final, NamedTuple

from ..cache import Cache, write_atomically
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
# lack system headers, which no file of the kernel includes (host programs are built without
# ccache), and what the assembler includes by .incbin: the compressed kernel in the image, the real
# mode code, config.gz. Preprocessing, ccache would see that and keep no such object; but it gives
# one that was kept in depend mode before.
_CCACHE: Final = """\
#!/bin/sh
for word; do
    case $word in *.c | *.S) source=$word ;; esac
done
if [ -n "$source" ] && grep -qsF .incbin -- "$source"; then
    export CCACHE_DISABLE=1
else
    export CCACHE_DEPEND=1
fi
exec ccache "$@"
"""

_FLAGS: Final = ("KCFLAGS", "KAFLAGS", "KCPPFLAGS")  # added to what a build of ours has in them


class Toolchain(NamedTuple):
    """The compiler, the linker and ccache."""

    version: str
    """The versions that they print: part of every key."""
    ccache: str | None
    """The compiler cache's path, if it is installed."""
    compiler: str = "gcc"
    """The C compiler, as make's `CC` names it."""
    given: tuple[str, ...] = ()
    """The user's variables for make's command line: `LLVM=1`, `CC=…`, `KCFLAGS=…`."""

    @property
    def key(self) -> str:
        """What a build's key has of it: the versions, and the user's variables if there are any."""
        return "\n".join([self.version, *self.given])

    def variables(self, cache: Cache, *ours: str) -> list[str]:
        """Return variables for make's command line.

        :param cache: where the script is that calls ccache; always at the same place, as each
            object's command line has it.
        :param ours: further ones; flags are put before the user's.
        """
        values = dict(variable.split("=", 1) for variable in ours)
        if self.ccache is not None and not self.compiler.startswith("ccache "):
            values["CC"] = f"{_ccache_script(cache)} {self.compiler}"
        for variable in self.given:
            name, _, value = variable.partition("=")
            if name in _FLAGS and name in values:
                values[name] += f" {value}"
            elif name != "CC" or "CC" not in values:
                values[name] = value
        return [f"{name}={value}" for name, value in values.items()]


def toolchain(cache: Cache, given: Sequence[str] = ()) -> Toolchain:
    """Return the toolchain that is installed, or that variables of make choose.

    :param given: `LLVM=1`, `CC=…`, `LD=…`, and others that are handed on.
    :raises ConfigError: a program is missing; it names the Debian package.
    """
    values = dict(variable.split("=", 1) for variable in given)
    # Documentation/kbuild/llvm.rst: 1, a suffix as -15, or a directory that ends with a slash.
    llvm = values.get("LLVM", "")
    before, behind = (llvm, "") if llvm.endswith("/") else ("", llvm if llvm[:1] == "-" else "")
    default = (f"{before}clang{behind}", f"{before}ld.lld{behind}") if llvm else ("gcc", "ld")
    compiler = values.get("CC", default[0])
    linker = values.get("LD", default[1])
    paths = [
        which(compiler.split()[-1], package=_package(compiler)),
        which(linker.split()[-1], package=_package(linker)),
    ]
    signs = []
    for path in paths:
        status = Path(path).stat()
        signs.append(f"{Path(path).resolve()} {status.st_size} {status.st_mtime_ns}")

    def ask() -> str:
        lines = [run([path, "--version"], timeout=60).output.splitlines()[0] for path in paths]
        return "; ".join(lines)

    version = cache.memo("toolchain", "\n".join(signs), ask)
    return Toolchain(version, shutil.which("ccache"), compiler, tuple(given))


def _ccache_script(cache: Cache) -> Path:
    path = cache.workdir("tools", "ccache") / "cc"
    try:
        written = path.read_text()
    except OSError:
        written = ""
    if written != _CCACHE or not os.access(path, os.X_OK):
        write_atomically(path, _CCACHE.encode(), mode=0o755)
    return path


def _package(program: str) -> str:
    """Return the Debian package of a compiler or a linker."""
    name = Path(program.split()[-1]).name
    if name.startswith("ld.lld"):
        return name.replace("ld.lld", "lld")
    return "binutils" if name.startswith("ld") else name


def check_tools() -> None:
    """Check that the programs of a kernel build are installed.

    :raises ConfigError: a program is missing; it names the Debian package.
    """
    for program, package in _TOOLS.items():
        which(program, package=package)


@contextlib.contextmanager
def build_environment(state_dir: Path) -> Iterator[dict[str, str]]:
    """Hold the environment of a build, with a directory for temporary files that ends with it.

    gcc removes its own when it is ended, except in the moment between making one and noting its
    name; and the compiler proper may make one anew behind that.

    :param state_dir: the build's; nobody else may use it meanwhile.
    """
    scratch = state_dir / "tmp"
    shutil.rmtree(scratch, ignore_errors=True)  # of a build that was killed
    scratch.mkdir()
    try:
        yield environment() | {"TMPDIR": str(scratch)}
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def environment() -> dict[str, str]:
    """Return the environment of make, without variables that would change a build's result.

    ARCH, LLVM, KCFLAGS, CROSS_COMPILE, MAKEFLAGS and the like are left out: no key has them.
    --kgdb-make names those that are wanted.
    """
    kept = {
        name: value
        for name, value in os.environ.items()
        if name in _KEPT or name.startswith("CCACHE_")
    }
    return kept | _CONSTANT
