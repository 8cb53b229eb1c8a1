"""What a SPEC names: a source tree, a build directory, a tarball, a revision, Debian's source."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ..arch import Arch
from ..errors import ConfigError

DISTRO_SOURCES: Final = Path("/usr/src")
"""Where Debian's `linux-source-*` packages put their tarballs."""

OBJECTS: Final = "kgdb-"
"""How the directories begin that trees of ours are built in, right below their top.

There kbuild calls the source `..` (top Makefile, srctree), so that the compiler is told the same
in each of them, and ccache knows in one what was compiled in another.
"""

_TARBALL: Final = re.compile(r".+\.(tar(\.(gz|xz|bz2|zst|lzma|lz))?|tgz|txz|tbz2?)")
_DISTRO: Final = re.compile(r"linux-source-(\d+(?:\.\d+)*)\.tar(?:\.\w+)?")
_VERSION: Final = re.compile(r"\d+(\.\d+)*")
_MAKEFILE: Final = re.compile(r"^(VERSION|PATCHLEVEL|SUBLEVEL|EXTRAVERSION) *= *(.*?) *$", re.M)


@dataclass(frozen=True)
class SourceTree:
    """A kernel's source, to be built."""

    path: Path
    dirty: bool
    """Whether it was built in place, so that kbuild refuses to build it elsewhere."""
    built: bool
    """Whether it has a kernel, ready to be used."""


@dataclass(frozen=True)
class BuildDir:
    """A directory with a built kernel, and no source of its own."""

    path: Path


@dataclass(frozen=True)
class Tarball:
    """A kernel's source, packed."""

    path: Path


@dataclass(frozen=True)
class Revision:
    """A revision of a git tree."""

    tree: Path
    revision: str


Spec = SourceTree | BuildDir | Tarball | Revision


def parse(spec: str, arch: Arch) -> Spec:
    """Return what a SPEC names.

    :raises ConfigError: there is nothing of that name, or it is no kernel.
    """
    if spec == "distro" or spec.startswith("distro:"):
        return Tarball(_distro(spec.partition(":")[2]))
    path = Path(spec).expanduser().absolute()
    if path.is_dir():
        return _directory(path, arch)
    if path.is_file():
        return _file(path)
    # A path may contain an "@", a revision too (HEAD@{1}): the longest tree that exists.
    for index in sorted((i for i, char in enumerate(spec) if char == "@"), reverse=True):
        tree = Path(spec[:index]).expanduser().absolute()
        if tree.is_dir() and spec[index + 1 :]:
            return Revision(tree, spec[index + 1 :])
    raise ConfigError(f"no kernel {spec}: there is no such file or directory", hint=_near(path))


def is_source(path: Path) -> bool:
    """Whether a directory is the top of a kernel's source."""
    return (path / "Kconfig").is_file() and (path / "Kbuild").is_file() and bool(version(path))


def version(tree: Path) -> str:
    """Return the version that a source tree's Makefile states, "" if it states none."""
    try:
        text = (tree / "Makefile").read_text(errors="replace")
    except OSError:
        return ""
    found = {match[1]: match[2] for match in _MAKEFILE.finditer(text[:4096])}
    if "VERSION" not in found or "PATCHLEVEL" not in found:
        return ""
    numbers = [found[name] for name in ("VERSION", "PATCHLEVEL", "SUBLEVEL") if found.get(name)]
    return ".".join(numbers) + found.get("EXTRAVERSION", "")


def is_dirty(tree: Path, arch: Arch) -> bool:
    """Whether kbuild finds a source tree "not clean" (top Makefile, target outputmakefile)."""
    return (
        (tree / ".config").is_file()
        or (tree / "include/config").is_dir()
        or (tree / "arch" / arch.name / "include/generated").is_dir()
    )


def is_built(path: Path, arch: Arch) -> bool:
    """Whether a directory holds a kernel that can be booted and debugged."""
    return all((path / name).is_file() for name in ("vmlinux", ".config", arch.image))


def _directory(path: Path, arch: Arch) -> Spec:
    if is_source(path):
        return SourceTree(path, dirty=is_dirty(path, arch), built=is_built(path, arch))
    if is_built(path, arch):
        return BuildDir(path)
    parts = ("vmlinux", ".config", arch.image)
    lacking = [name for name in parts if not (path / name).is_file()]
    if len(lacking) < len(parts):
        raise ConfigError(
            f"{path} looks like a kernel's build directory, but has no {' and no '.join(lacking)}",
            hint=f"finish the build: make -C {path} {arch.image_target}",
        )
    inner = [each.name for each in _subdirectories(path) if is_source(each)]
    raise ConfigError(
        f"{path} is not a kernel: neither a source tree (Makefile, Kconfig, Kbuild) nor a build "
        f"directory ({', '.join(parts)})",
        hint=f"it contains {inner[0]}: name that" if inner else None,
    )


def _file(path: Path) -> Spec:
    if _TARBALL.fullmatch(path.name):
        return Tarball(path)
    hint = "name a source tree, a build directory, or a tarball"
    if path.name in ("vmlinux", "bzImage", ".config"):
        hint = f"name the build directory: {path.parent}"
    raise ConfigError(f"{path} is not a kernel's source or build directory", hint=hint)


def _distro(wanted: str) -> Path:
    found = {
        tuple(int(part) for part in match[1].split(".")): path
        for path in sorted(DISTRO_SOURCES.glob("linux-source-*.tar*"))
        if (match := _DISTRO.fullmatch(path.name))
    }
    if not wanted:
        if found:
            return found[max(found)]
        raise ConfigError(
            f"distro: there is no linux-source-*.tar.* in {DISTRO_SOURCES}",
            hint="apt install linux-source",
        )
    if not _VERSION.fullmatch(wanted):
        raise ConfigError(
            f"distro:{wanted}: {wanted!r} is not a version", hint="write distro:6.1, for one"
        )
    key = tuple(int(part) for part in wanted.split("."))
    if key in found:
        return found[key]
    have = ", ".join(".".join(map(str, each)) for each in sorted(found))
    raise ConfigError(
        f"distro:{wanted}: there is no {DISTRO_SOURCES}/linux-source-{wanted}.tar.*"
        + (f" (there is {have})" if have else ""),
        hint=f"apt install linux-source-{wanted}",
    )


def _near(path: Path) -> str | None:
    """Return a hint at what may have been meant, or at how far the path exists."""
    parent = path.parent
    if not parent.is_dir():
        while not parent.is_dir():
            path, parent = parent, parent.parent
        return f"there is no {path.name} in {parent}"
    close = difflib.get_close_matches(path.name, [each.name for each in _subdirectories(parent)], 1)
    return f"did you mean {parent / close[0]}?" if close else None


def _subdirectories(path: Path) -> Iterator[Path]:
    try:
        yield from (each for each in sorted(path.iterdir()) if each.is_dir())
    except OSError:
        return
