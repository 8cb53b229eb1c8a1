"""An out-of-tree driver's own repository: one kernel, two revisions of the driver."""

from __future__ import annotations

import hashlib
import re
import shutil
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Final

from ..cache import Cache
from ..change import (
    Change,
    Side,
    changed_lines,
    changed_names,
    diff,
    git,
    note_stand_in,
    resolved,
)
from ..elf import ElfFile
from ..errors import ConfigError
from ..kernel import Patch
from ..settings import Settings

__all__ = ["from_module", "same_code"]

# Without the user's configuration: a filter or autocrlf must not change what is built.
_CLEAN: Final = ("-c", "core.autocrlf=false", "-c", "core.hooksPath=/dev/null")
_SECTIONS_WITHOUT_CODE: Final = re.compile(
    r"(?:\.rela)?\.debug_.*|\.comment|\.note\.gnu\.build-id|\.shstrtab"
)
# A checksum of the sources, comments included (scripts/mod/sumversion.c).
_SHT_NOBITS: Final = 8  # elf.h
_CHECKOUT: Final = re.compile(rb"(/revision-)[0-9a-f]{16}(?=/)")
_SRCVERSION: Final = re.compile(rb"srcversion=[0-9A-F]*\0")


def from_module(settings: Settings, what: str, cache: Cache) -> Change:
    """Return the change from one revision of a driver to another, on one kernel.

    Both are checked out into the cache; the repository is only read.

    :param what: `DIR@A..B`: a directory of a git repository, and two revisions.
    :raises ConfigError: there is no such directory, repository or revision.
    """
    name, at, revisions = what.rpartition("@")
    before, dots, after = revisions.partition("..")
    if not at or not dots:
        raise ConfigError(f"--module: {what!r} is not DIR@A..B: a directory and two revisions")
    directory = Path(name).resolve()
    if not directory.is_dir():
        raise ConfigError(f"--module: there is no directory {name}")
    top = _top(directory)
    below = directory.relative_to(top)
    commits = [resolved(top, revision) for revision in (before or "HEAD", after or "HEAD")]
    sides = []
    for side, commit in zip(("base", "patched"), commits, strict=True):
        path = _checked_out(top, commit, cache) / below
        if not path.is_dir():
            raise ConfigError(f"--module: {commit[:12]} has no directory {below}")
        others = _others(settings.module, directory, path)
        module = replace(settings, module=(*others, path))
        sides.append(Side(side, module, f"{directory.name}@{commit[:12]}"))
    names = changed_names(top, *commits, str(below))
    data = diff(top, *commits, context=0, paths=[str(below)])
    base, patched = sides
    return Change(
        base,
        patched,
        files=tuple(sorted(names)),
        lines=changed_lines([Patch("the change", data)]),
        of_kernel=False,
    )


def _others(modules: Iterable[Path], directory: Path, revision: Path) -> list[Path]:
    """Return the modules that the tests have besides the driver; in its directory, the revision's.

    What they have of the driver anyway would be a second module of its name.
    """
    others = []
    for module in modules:
        real = module.resolve()
        if real == directory:
            continue
        if directory in real.parents:
            in_revision = revision / real.relative_to(directory)
            if not in_revision.exists() and real.suffix == ".ko":
                continue  # it is built from the revision
            others.append(in_revision if in_revision.exists() else module)
        else:
            others.append(module)
    return others


def _top(directory: Path) -> Path:
    for path in (directory, *directory.parents):
        if (path / ".git").exists():
            return path
    raise ConfigError(
        f"--module: {directory} is in no git repository, so that it has no revisions",
        hint="name the directory itself as --kgdb-module, and the change to the kernel",
    )


def _checked_out(repository: Path, commit: str, cache: Cache) -> Path:
    """Return a directory with a revision of a repository: the same one each time."""
    digest = hashlib.sha256(f"{repository}\0{commit}".encode(errors="surrogateescape")).hexdigest()
    name = f"revision-{digest[:16]}"
    with cache.lock(name, label=f"{repository.name}@{commit[:12]}"):
        path = cache.workdir("revision", name) / repository.name
        note_stand_in(path, repository)
        if path.is_dir():
            return path
        unfinished = path.with_name(f"{repository.name}.unfinished")
        shutil.rmtree(unfinished, ignore_errors=True)
        git(path.parent, "clone", "--quiet", "--shared", "--no-checkout", str(repository),
            str(unfinished))  # fmt: skip
        git(unfinished, *_CLEAN, "checkout", "--quiet", "--detach", commit)
        unfinished.rename(path)
        return path


def same_code(one: Iterable[Path], other: Iterable[Path]) -> bool:
    """Whether modules have the same code and data, wherever they were built.

    Debug information is left out. A text with the path of a checkout (`__FILE__`) has that of the
    other one in its place: both are equally long.
    """
    modules = [{path.name: path for path in paths} for paths in (one, other)]
    if modules[0].keys() != modules[1].keys():
        return False
    return all(_code(modules[0][name]) == _code(modules[1][name]) for name in modules[0])


def _code(path: Path) -> dict[str, bytes]:
    sections = {}
    with ElfFile(path) as elf:
        for name, section in elf.sections.items():
            if not _SECTIONS_WITHOUT_CODE.fullmatch(name):
                data = _SRCVERSION.sub(b"", elf.section_bytes(name))
                size = section.size if section.kind == _SHT_NOBITS else 0
                sections[name] = b"%d " % size + _CHECKOUT.sub(rb"\g<1>", data)
    return sections
