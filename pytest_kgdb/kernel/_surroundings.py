"""What is around a module's directory: a copy of it must see the same at the same places."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from ._fingerprint import is_product

_LEVELS: Final = 4  # ancestors of the directory whose other entries a copy sees
_MOST_ENTRIES: Final = 5000  # of an ancestor that is linked; a larger one is no project's
_MOST_FILES: Final = 20_000  # of a directory that is copied as links
_REFUSED: Final = re.compile(r"[^\w.+,@%=~-]")  # kbuild takes neither spaces nor colons in M=


class Surroundings:
    """A place for a copy of a directory from which relative paths lead to the same files.

    The copy's ancestors are directories of their own, with links to what the original's have. So
    `../common/shared.h` is the user's file, and `..` is not the user's directory: nothing is
    written there.

    :param top: an empty directory, or one that an earlier object of this class has filled.
    :param directory: the original.
    :param ours: the directory that all such places are in. It is around nobody's directory, though
        it may lie there: copies of copies would never end.
    """

    def __init__(self, top: Path, directory: Path, ours: Path) -> None:
        self._ours = ours.resolve()
        chain = [directory.resolve()]
        for parent in chain[0].parents[:_LEVELS]:
            chain.insert(0, parent)
        self._chain = chain  # outermost first
        self._copies = [top]
        for original in chain[1:]:
            self._copies.append(self._copies[-1] / _REFUSED.sub("-", original.name))

    @property
    def top(self) -> Path:
        """The outermost of the directories here."""
        return self._copies[0]

    @property
    def root(self) -> Path:
        """The place of the copy."""
        return self._copies[-1]

    def originals(self) -> list[tuple[Path, Path]]:
        """Return the directories here with those that they stand for, outermost first."""
        return list(zip(self._copies, self._chain, strict=True))

    def in_original(self, text: str) -> str:
        """Return a text with paths here replaced by those that the user knows."""
        for copy, original in reversed(self.originals()):
            text = text.replace(str(copy), str(original).rstrip("/"))
        return text

    def sync(self, built: Iterable[Path] = ()) -> None:
        """Make the links equal to what is there now.

        :param built: directories of the originals' in which something is built: they become
            directories here, with links to the files.
        """
        apart = {
            place
            for directory in built
            if not directory.resolve().is_relative_to(self._ours)
            and (place := self._place(directory)) is not None
        }
        for (copy, original), child in zip(self.originals()[:-1], self._copies[1:], strict=True):
            copy.mkdir(parents=True, exist_ok=True)
            names = _names(original)
            if self._ours.parent == original:
                names.discard(self._ours.name)
            if len(names) > _MOST_ENTRIES:
                names = set()
            for name in _names(copy).difference(names):
                if copy / name != child:
                    _remove(copy / name)
            for name in names:
                if copy / name == child or original / name == self._after(original):
                    continue
                # What was made a directory once stays one, with the objects in it.
                if copy / name in apart or _is_directory(copy / name, original / name):
                    _link_files(copy / name, original / name, self._ours)
                else:
                    _link(copy / name, original / name)
        self.root.mkdir(exist_ok=True)

    def _after(self, original: Path) -> Path:
        return self._chain[self._chain.index(original) + 1]

    def _place(self, directory: Path) -> Path | None:
        """Return where the entry of an ancestor that a directory is in, or below, is here."""
        for copy, original in reversed(self.originals()):
            if directory.is_relative_to(original):
                parts = directory.relative_to(original).parts
                return copy / parts[0] if parts and copy != self.root else None
        return None


def _names(directory: Path) -> set[str]:
    """Return the names in a directory; none of one that cannot be read."""
    try:
        return {entry.name for entry in directory.iterdir()}
    except OSError:
        return set()


def _is_directory(place: Path, original: Path) -> bool:
    return place.is_dir() and not place.is_symlink() and original.is_dir()


def _is_same(path: Path, other: Path) -> bool:
    """Whether two paths are of one directory, by whatever links they lead there."""
    try:
        return path.samefile(other)
    except OSError:
        return False


def _link(place: Path, target: Path) -> None:
    if place.is_symlink() and place.readlink() == target:
        return
    _remove(place)
    place.symlink_to(target)


def _remove(place: Path) -> None:
    if place.is_dir() and not place.is_symlink():
        shutil.rmtree(place)
    else:
        place.unlink(missing_ok=True)


def _link_files(place: Path, original: Path, ours: Path) -> None:
    """Make a directory with links to all files of another, at any depth; what is built stays.

    :param ours: what is left out where it is below the other.
    """
    if place.is_symlink():
        place.unlink()
    count = 0
    for directory, names, files in os.walk(original):
        names[:] = [
            name
            for name in names
            if not name.startswith(".") and not _is_same(Path(directory) / name, ours)
        ]
        here = place / os.path.relpath(directory, original)
        here.mkdir(parents=True, exist_ok=True)
        for entry in here.iterdir():
            if entry.is_symlink() and not entry.exists():
                entry.unlink()
        links = [name for name in names if (Path(directory) / name).is_symlink()]
        for name in (*files, *links):
            if not name.startswith(".") and not is_product(name) and not name.endswith(".mod.c"):
                _link(here / name, Path(directory) / name)
                count += 1
        if count > _MOST_FILES:
            return
