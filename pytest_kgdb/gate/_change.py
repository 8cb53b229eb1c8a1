"""The two sides of a change: a kernel without it, and one with it."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from ..kernel import read_patches
from ..settings import Settings
from ._git import git, resolved, tree_of

__all__ = ["Change", "Side", "from_patches", "from_revert", "from_revisions"]

_BASE_COMMIT: Final = re.compile(rb"^base-commit: ([0-9a-f]{7,40})\s*$", re.MULTILINE)


@dataclass(frozen=True)
class Side:
    """A kernel on which the tests run."""

    name: str
    """`base`, or `patched`."""
    settings: Settings

    @property
    def spec(self) -> str:
        """The SPEC that names its source."""
        return self.settings.kernel[0]

    @property
    def label(self) -> str:
        """What it is, for people: `distro:6.1 + fix.patch`."""
        return " + ".join([self.spec, *(_shown(path) for path in self.settings.patch)])


@dataclass(frozen=True)
class Change:
    """What is to be tested."""

    base: Side
    patched: Side
    files: tuple[str, ...]
    """The files of the kernel's source that it changes."""

    @property
    def sides(self) -> tuple[Side, Side]:
        """The base, then the other."""
        return self.base, self.patched


def from_patches(settings: Settings, patches: Sequence[Path]) -> Change:
    """Return a change that patches make: the kernel without them, and with them.

    :raises ConfigError: a patch cannot be read.
    """
    settings = _at_base_commit(settings, patches)
    patched = replace(settings, patch=(*settings.patch, *patches))
    return _change(settings, patched, _files(patches))


def from_revert(settings: Settings, what: str, scratch: Path) -> Change:
    """Return a change that the kernel contains: with it taken out, and as it is.

    :param what: a patch, or a revision of the kernel's git tree.
    :param scratch: a directory for the patch that takes it out.
    :raises ConfigError: there is neither such a file nor such a revision.
    """
    path = Path(what)
    if not path.exists():
        path = _commit(settings.kernel[0], what, scratch)
    series = scratch / f"without-{path.name}"
    series.mkdir()
    (series / "series").write_text(f"{shlex.quote(str(path.resolve()))} -R\n")
    base = replace(settings, patch=(*settings.patch, series))
    return _change(base, settings, _files([path]))


def from_revisions(settings: Settings, before: str, after: str) -> Change:
    """Return the change from one revision of the kernel's git tree to another.

    :raises ConfigError: the kernel is no git tree, or has no such revision.
    """
    tree = tree_of(settings.kernel[0])
    base, patched = (
        replace(settings, kernel=(f"{tree}@{resolved(tree, revision)}",))
        for revision in (before or "HEAD", after or "HEAD")
    )
    names = git(tree, "diff", "--name-only", base.kernel[0].rpartition("@")[2],
                 patched.kernel[0].rpartition("@")[2])  # fmt: skip
    return _change(base, patched, names.split("\n"))


def _change(base: Settings, patched: Settings, files: Sequence[str]) -> Change:
    return Change(Side("base", base), Side("patched", patched), tuple(sorted({*files} - {""})))


def _files(patches: Sequence[Path]) -> list[str]:
    return [name for path in patches for patch in read_patches(path) for name in patch.touched()]


def _at_base_commit(settings: Settings, patches: Sequence[Path]) -> Settings:
    """Honour the trailer by which a series says what it applies to (git-format-patch(1))."""
    spec = settings.kernel[0]
    if not Path(spec, ".git").exists():
        return settings  # of a tarball, or a revision that the user names
    for path in patches:
        if not path.is_file() or (match := _BASE_COMMIT.search(path.read_bytes())) is None:
            continue
        commit = match[1].decode()
        return replace(settings, kernel=(f"{spec}@{resolved(Path(spec), commit)}",))
    return settings


def _commit(spec: str, revision: str, scratch: Path) -> Path:
    tree = tree_of(spec)
    commit = resolved(tree, revision)
    path = scratch / f"{commit[:12]}.patch"
    path.write_text(git(tree, "format-patch", "--stdout", "-1", commit))
    return path


def _shown(path: Path) -> str:
    return path.name
