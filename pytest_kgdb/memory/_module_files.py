"""Which file has the debug information of which module."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Protocol

__all__ = ["ModuleFiles", "ModuleLookup", "module_name"]


class ModuleLookup(Protocol):
    """Knows the files of modules."""

    @property
    def version(self) -> int:
        """A number that changes whenever a file was added."""

    def candidates(self, name: str) -> Sequence[Path]:
        """Return the files that may be a module's, the likeliest first; the build id decides."""


class ModuleFiles:
    """Module files by the names that their modules have in the kernel.

    :param places: `.ko` files, and directories that are searched for them at any depth.
    """

    def __init__(self, places: Iterable[Path] = ()) -> None:
        self._places = list(places)
        self._index: dict[str, list[Path]] | None = None
        self._version = 0

    @property
    def version(self) -> int:
        """A number that changes with :meth:`add`."""
        return self._version

    def add(self, places: Iterable[Path]) -> None:
        """Add places, which are searched before those that were added earlier."""
        new = list(places)
        self._places = new + [place for place in self._places if place not in new]
        self._index = None
        self._version += 1

    def candidates(self, name: str) -> Sequence[Path]:
        """Return the files of the modules with that name, in the order of the places."""
        if self._index is None:
            self._index = {}
            for path in self._files():
                self._index.setdefault(module_name(path), []).append(path)
        return self._index.get(name, [])

    def _files(self) -> Iterator[Path]:
        for place in self._places:
            if place.is_dir():
                yield from sorted(place.rglob("*.ko"))
            elif place.exists():
                yield place


def module_name(path: Path) -> str:
    """Return the name that a module file's module has in the kernel.

    The kernel's names have no hyphens (scripts/Makefile.lib, modname).
    """
    return path.name.partition(".ko")[0].replace("-", "_")
