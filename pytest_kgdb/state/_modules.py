"""Debug info of loaded modules: which file belongs to which module."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path


class ModuleFiles:
    """Module files by the names that their modules have in the kernel.

    :param places: `.ko` files, and directories in which to look for them at any depth.
    """

    def __init__(self, places: Iterable[Path] = ()) -> None:
        self._places = list(places)
        self._index: dict[str, list[Path]] | None = None

    def add(self, places: Iterable[Path]) -> None:
        """Look here too, and here first."""
        new = list(places)
        self._places = new + [place for place in self._places if place not in new]
        self._index = None

    def find(self, name: str) -> list[Path]:
        """Return the files that may be this module's, the likeliest first."""
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
    """Return what the kernel calls a module (scripts/Makefile.lib, modname: no hyphens)."""
    return path.name.partition(".ko")[0].replace("-", "_")
