"""Resolves SPECs: a source tree, a build directory, a tarball, a revision, Debian's source."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

from ..arch import Arch
from ..errors import ConfigError
from ..host import Host, install

DISTRO_SOURCES: Final = Path("/usr/src")
"""The directory of the tarballs in Debian's `linux-source-*` packages."""

OBJECTS: Final = "kgdb-"
"""The prefix of the names of our build directories, which are at the top of a source tree.

There kbuild calls the source `..` (top Makefile, srctree). So the compiler's command line is the
same in all of them, and ccache finds in one what was compiled in another.
"""

_TARBALL: Final = re.compile(r".+\.(tar(\.(gz|xz|bz2|zst|lzma|lz))?|tgz|txz|tbz2?)")
_DISTRO: Final = re.compile(r"linux-source-(\d+(?:\.\d+)*)\.tar(?:\.\w+)?")
_VERSION: Final = re.compile(r"\d+(\.\d+)*")
_MAKEFILE: Final = re.compile(r"^(VERSION|PATCHLEVEL|SUBLEVEL|EXTRAVERSION) *= *(.*?) *$", re.M)


class SourceTree(NamedTuple):
    """A kernel's source, to be built."""

    path: Path
    dirty: bool
    """Whether it was built in place; kbuild then refuses another build directory."""
    built: bool
    """Whether it has a built kernel."""


class BuildDir(NamedTuple):
    """A build directory without a source of its own."""

    path: Path


class Tarball(NamedTuple):
    """A tarball with a kernel's source."""

    path: Path


class Revision(NamedTuple):
    """A revision of a git tree."""

    tree: Path
    revision: str


Spec = SourceTree | BuildDir | Tarball | Revision


def parse(spec: str, arch: Arch) -> Spec:
    """Return what a SPEC names.

    :raises ConfigError: there is nothing of that name, or it is not a kernel.
    """
    if spec == "distro" or spec.startswith("distro:"):
        return Tarball(_distro(spec.partition(":")[2]))
    path = Path(spec).expanduser().absolute()
    if path.is_dir():
        return _directory(path, arch)
    if path.is_file():
        return _file(path)
    # Both the path and the revision (HEAD@{1}) may contain "@": take the longest path that exists.
    for index in sorted((i for i, char in enumerate(spec) if char == "@"), reverse=True):
        tree = Path(spec[:index]).expanduser().absolute()
        if tree.is_dir() and spec[index + 1 :]:
            return Revision(tree, spec[index + 1 :])
    raise ConfigError(f"no kernel {spec}: there is no such file or directory", hint=_near(path))


def is_source(path: Path) -> bool:
    """Whether a directory is the top of a kernel source tree."""
    return (path / "Kconfig").is_file() and (path / "Kbuild").is_file() and bool(version(path))


def version(tree: Path) -> str:
    """Return the version in a source tree's Makefile, "" if there is none."""
    try:
        text = (tree / "Makefile").read_text(errors="replace")
    except OSError:
        return ""
    values = {match[1]: match[2] for match in _MAKEFILE.finditer(text[:4096])}
    if "VERSION" not in values or "PATCHLEVEL" not in values:
        return ""
    numbers = [values[name] for name in ("VERSION", "PATCHLEVEL", "SUBLEVEL") if values.get(name)]
    return ".".join(numbers) + values.get("EXTRAVERSION", "")


def is_dirty(tree: Path, arch: Arch) -> bool:
    """Whether kbuild finds a source tree "not clean" (top Makefile, target outputmakefile)."""
    return (
        (tree / ".config").is_file()
        or (tree / "include/config").is_dir()
        or (tree / "arch" / arch.name / "include/generated").is_dir()
    )


def is_built(path: Path, arch: Arch) -> bool:
    """Whether a directory has the files of a built kernel."""
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
    inner = [child.name for child in _subdirectories(path) if is_source(child)]
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


def _distro(release: str) -> Path:
    tarballs = {
        tuple(int(part) for part in match[1].split(".")): path
        for path in sorted(DISTRO_SOURCES.glob("linux-source-*.tar*"))
        if (match := _DISTRO.fullmatch(path.name))
    }
    if not release:
        if tarballs:
            return tarballs[max(tarballs)]
        raise ConfigError(
            f"distro: there is no linux-source-*.tar.* in {DISTRO_SOURCES}",
            hint=_source_hint("linux-source"),
        )
    if not _VERSION.fullmatch(release):
        raise ConfigError(
            f"distro:{release}: {release!r} is not a version", hint="write distro:6.1, for one"
        )
    key = tuple(int(part) for part in release.split("."))
    if key in tarballs:
        return tarballs[key]
    have = ", ".join(".".join(map(str, key)) for key in sorted(tarballs))
    raise ConfigError(
        f"distro:{release}: there is no {DISTRO_SOURCES}/linux-source-{release}.tar.*"
        + (f" (there is {have})" if have else ""),
        hint=_source_hint(f"linux-source-{release}"),
    )


def _source_hint(package: str) -> str:
    if Host.of().has_apt:
        return install(package)
    return "distro is a Debian's kernel source: give a tree (--kgdb-kernel=DIR), or release:"


def _near(path: Path) -> str | None:
    """Return a hint: a similar path, or the part of the path that exists."""
    parent = path.parent
    if not parent.is_dir():
        while not parent.is_dir():
            path, parent = parent, parent.parent
        return f"there is no {path.name} in {parent}"
    import difflib  # needed for this message only

    names = [entry.name for entry in _subdirectories(parent)]
    close = difflib.get_close_matches(path.name, names, 1)
    return f"did you mean {parent / close[0]}?" if close else None


def _subdirectories(path: Path) -> Iterator[Path]:
    try:
        yield from (entry for entry in sorted(path.iterdir()) if entry.is_dir())
    except OSError:
        return
