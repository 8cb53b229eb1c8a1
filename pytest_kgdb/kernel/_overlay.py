"""Patches applied to a tree in the cache, and reverted."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

from ..cache import write_atomically
from . import _patch
from ._fingerprint import FileState, state_of


class Overlay:
    """The files of a tree that patches changed, and their originals.

    :param tree: the tree; nobody else may change it meanwhile.
    :param state_dir: the directory with the originals, and the list of changed files.
    :param label: the tree's name in messages.
    """

    def __init__(self, tree: Path, state_dir: Path, label: str) -> None:
        self._tree, self._label = tree, label
        self._originals = state_dir / "originals"
        self._inexact = state_dir / "inexact.json"
        self._list = state_dir / "patched.json"

    def set_patches(self, patches: Sequence[_patch.Patch]) -> None:
        """Change the tree to its original content with these patches, and no others.

        Files whose content stays the same keep their times. If a patch does not apply, the tree
        stays as it is.

        :raises BuildError: a patch does not apply.
        """
        touched = self._touched()
        with _patch.scratch_directory() as name:
            scratch = Path(name)
            inexact: list[str] = []
            patched = _patch.apply(patches, self._base, scratch, self._label, inexact.append)
            write_atomically(self._inexact, json.dumps(inexact).encode())
            for file in sorted({*patched, *touched}):
                # The original is saved before the file is changed, in case we are killed.
                if file not in touched:
                    self._keep(file, touched)
            for file in touched:
                self._write(file, patched[file] if file in patched else self._original(file))
        self._note({file: had for file, had in touched.items() if file in patched})

    def inexact(self) -> tuple[str, ...]:
        """Return how the patches that are in fit elsewhere, or not exactly, as far as is known."""
        try:
            loaded = json.loads(self._inexact.read_bytes())
        except (OSError, ValueError):  # of an older version
            return ()
        return tuple(map(str, loaded))

    def _base(self, file: str) -> Path | None:
        """Return the path of a file's original content, None if there is none."""
        if file in self._touched():
            return self._original(file)
        return _patch.file_of(self._tree, file)

    def _original(self, file: str) -> Path | None:
        return _present(self._originals / file)

    def _keep(self, file: str, touched: dict[str, bool]) -> None:
        source, kept = self._tree / file, self._originals / file
        kept.unlink(missing_ok=True)
        if source.is_file():
            kept.parent.mkdir(parents=True, exist_ok=True)
            temporary = kept.with_name(f"{kept.name}.kgdb-new")
            shutil.copy2(source, temporary)
            temporary.replace(kept)
        touched[file] = source.is_file()
        self._note(touched)

    def _write(self, file: str, source: Path | None) -> None:
        target = self._tree / file
        if source is None:
            target.unlink(missing_ok=True)
            return
        if _state(target) == state_of(source):
            return
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = target.with_name(f"{target.name}.kgdb-new")
        shutil.copyfile(source, temporary)  # with the present time: make must see it as changed
        shutil.copymode(source, temporary)
        temporary.replace(target)

    def _touched(self) -> dict[str, bool]:
        try:
            loaded = json.loads(self._list.read_bytes())
        except (OSError, ValueError):
            return {}
        return {str(name): bool(had) for name, had in loaded.items()}

    def _note(self, touched: dict[str, bool]) -> None:
        write_atomically(self._list, json.dumps(touched).encode())


def _present(path: Path) -> Path | None:
    return path if path.is_file() else None


def _state(path: Path) -> FileState | None:
    return state_of(path) if path.is_file() else None
