"""The two sides of a change: a kernel without it, and one with it."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from ..errors import ConfigError
from ..kernel import Patch, patch_files, read_patches, with_patches
from ..settings import Settings
from ._git import changed_names, diff, git, is_dirty, resolved, subject_of, tree_of
from ._lines import ChangedLines, changed_lines

__all__ = ["Change", "Side", "from_patches", "from_revert", "from_revisions"]

_REVISION: Final = re.compile(r"@([^@]+)$")
_HASH: Final = re.compile("[0-9a-f]{40,64}")
_MOST_DIFF: Final = 4 << 20  # bytes; of a longer one, the lines are not read
_BASE_COMMIT: Final = re.compile(rb"^base-commit: ([0-9a-f]{7,64})\s*$", re.MULTILINE)


@dataclass(frozen=True)
class Side:
    """A kernel on which the tests run."""

    name: str
    """`base`, or `patched`."""
    settings: Settings
    module: str = ""
    """The driver's revision, where that is what the sides differ in."""

    @property
    def spec(self) -> str:
        """The SPEC that names its source."""
        return self.settings.kernel[0]

    @property
    def label(self) -> str:
        """What it is, for people: `distro:6.1 + fix.patch`."""
        kernel = with_patches(_shown(self.spec), _read(self.settings.patch))
        return f"{self.module} on {kernel}" if self.module else kernel


@dataclass(frozen=True)
class Change:
    """What is to be tested."""

    base: Side
    patched: Side
    files: tuple[str, ...]
    """The files of the kernel's source that it changes."""
    lines: tuple[ChangedLines, ...] = ()
    """The lines that it changes, as they are on the patched side."""
    commit: str | None = None
    """The commit on which the patched side's patches are; None if it is not one exactly."""
    notes: tuple[str, ...] = ()
    """What is to be known of the sources."""
    of_kernel: bool = True
    """Whether it changes the kernel, and not a driver."""

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
    return _change(settings, patched, _read(patches))


def from_revert(settings: Settings, what: str, scratch: Path) -> Change:
    """Return a change that the kernel contains: with it taken out, and as it is.

    :param what: a patch, or a revision of the kernel's git tree.
    :param scratch: a directory for the patch that takes it out.
    :raises ConfigError: there is neither such a file nor such a revision.
    """
    path = Path(what)
    if not path.is_file():
        try:
            path = _commit(settings.kernel[0], what, scratch)
        except ConfigError as error:
            if not ("/" in what or path.suffix or path.exists()):
                raise  # it is no name of a file
            hint = "name one patch, or a revision" if path.exists() else error.hint
            why = f"there is no file {what}, and {error.message}"
            raise ConfigError(why, hint=hint) from None
    series = scratch / f"without-{path.name}"
    series.mkdir()
    (series / "series").write_text(f"{shlex.quote(str(path.resolve()))} -R\n")
    base = replace(settings, patch=(*settings.patch, series))
    return _change(base, settings, _read([path]))


def from_revisions(settings: Settings, before: str, after: str) -> Change:
    """Return the change from one revision of the kernel's git tree to another.

    :raises ConfigError: the kernel is no git tree, or has no such revision.
    """
    tree = tree_of(settings.kernel[0])
    base, patched = (
        replace(settings, kernel=(f"{tree}@{resolved(tree, revision)}",))
        for revision in (before or "HEAD", after or "HEAD")
    )
    revisions = [side.kernel[0].rpartition("@")[2] for side in (base, patched)]
    names = changed_names(tree, *revisions)
    data = diff(tree, *revisions, context=0)
    patches = [Patch("the change", data)] if len(data) <= _MOST_DIFF else []
    return _change(base, patched, patches, names)


def _change(
    base: Settings, patched: Settings, patches: Sequence[Patch], files: Sequence[str] = ()
) -> Change:
    names = {*files} or {name for patch in patches for name in patch.touched()}
    commit, notes = _state(patched.kernel[0])
    return Change(
        Side("base", base),
        Side("patched", patched),
        tuple(sorted(names - {""})),
        changed_lines(patches),
        commit,
        notes,
    )


def _state(spec: str) -> tuple[str | None, tuple[str, ...]]:
    """Return the commit that a SPEC stands for, and what is to be known of it."""
    if not Path(spec).exists():
        match = _REVISION.search(spec)
        if match is None or not Path(tree := spec[: match.start()], ".git").exists():
            return None, ()  # a tarball, or a distribution's
        return resolved(Path(tree), match[1]), ()
    if not Path(spec, ".git").exists():
        return None, ()
    if is_dirty(Path(spec)):
        return None, (f"{spec} has changes that are not committed: it is tested as it is",)
    return resolved(Path(spec), "HEAD"), ()


def _shown(spec: str) -> str:
    """Return a SPEC for people: of a commit, as the kernel's own name has it."""
    tree, _, revision = spec.rpartition("@")
    if Path(spec).exists() or not _HASH.fullmatch(revision):
        return spec
    return f'{Path(tree).name}@{revision[:12]} ("{subject_of(Path(tree), revision)}")'


def _read(paths: Sequence[Path]) -> list[Patch]:
    return [patch for path in paths for patch in read_patches(path)]


def _at_base_commit(settings: Settings, patches: Sequence[Path]) -> Settings:
    """Honour the trailer by which a series says what it applies to (git-format-patch(1))."""
    spec = settings.kernel[0]
    if not Path(spec, ".git").exists():
        return settings  # of a tarball, or a revision that the user names
    files = [file for path in patches for file in patch_files(path)]
    for path in files:
        if not path.is_file() or (match := _BASE_COMMIT.search(path.read_bytes())) is None:
            continue
        commit = match[1].decode()
        return replace(settings, kernel=(f"{spec}@{resolved(Path(spec), commit)}",))
    return settings


def _commit(spec: str, revision: str, scratch: Path) -> Path:
    tree = tree_of(spec)
    commit = resolved(tree, revision)
    path = scratch / f"{commit[:12]}.patch"
    # Of a merge, what came into the first parent's branch: git shows no difference by itself.
    _, *parents = git(tree, "rev-list", "--parents", "-n1", commit).split()
    between = [parents[0], commit] if len(parents) > 1 else [commit]
    data = diff(tree, *between)
    if not data:
        raise ConfigError(f"{tree}: the commit {commit[:12]} changes nothing")
    path.write_bytes(data)
    return path
