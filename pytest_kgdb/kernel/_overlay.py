"""Patches laid over a tree of ours, and taken off again."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

from . import _patch
from ._fingerprint import FileState, state_of


class Overlay:
    """What patches changed in a tree, with the originals kept beside it.

    :param tree: the tree, nobody else's to change meanwhile.
    :param home: keeps the originals, and the list of what was touched.
    :param label: what the messages call the tree.
    """

    def __init__(self, tree: Path, home: Path, label: str) -> None:
        self._tree, self._label = tree, label
        self._originals = home / "originals"
        self._list = home / "patched.json"

    def lay(self, patches: Sequence[_patch.Patch]) -> None:
        """Make the tree what it was at first, with these patches on top and no others.

        A file whose content stays keeps its time. When a patch does not apply, nothing is done.

        :raises BuildError: one does not apply.
        """
        touched = self._touched()
        with _patch.scratch_directory() as name:
            scratch = Path(name)
            wanted = _patch.apply(patches, self._base, scratch, self._label)
            for file in sorted({*wanted, *touched}):
                # Before a file is changed its original is safe, whatever ends us then.
                if file not in touched:
                    self._keep(file, touched)
            for file in touched:
                self._write(file, wanted[file] if file in wanted else self._original(file))
        self._note({file: had for file, had in touched.items() if file in wanted})

    def _base(self, file: str) -> Path | None:
        """Where a file's original is, None if it has none."""
        return self._original(file) if file in self._touched() else _present(self._tree / file)

    def _original(self, file: str) -> Path | None:
        return _present(self._originals / file)

    def _keep(self, file: str, touched: dict[str, bool]) -> None:
        source, kept = self._tree / file, self._originals / file
        kept.unlink(missing_ok=True)
        if source.is_file():
            kept.parent.mkdir(parents=True, exist_ok=True)
            beside = kept.with_name(f"{kept.name}.kgdb-new")
            shutil.copy2(source, beside)
            beside.replace(kept)
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
        beside = target.with_name(f"{target.name}.kgdb-new")
        shutil.copyfile(source, beside)  # with the present time: make must see it as new
        shutil.copymode(source, beside)
        beside.replace(target)

    def _touched(self) -> dict[str, bool]:
        try:
            loaded = json.loads(self._list.read_bytes())
        except (OSError, ValueError):
            return {}
        return {str(name): bool(had) for name, had in loaded.items()}

    def _note(self, touched: dict[str, bool]) -> None:
        beside = self._list.with_name("patched.json.new")
        beside.write_text(json.dumps(touched))
        beside.replace(self._list)


def _present(path: Path) -> Path | None:
    return path if path.is_file() else None


def _state(path: Path) -> FileState | None:
    return state_of(path) if path.is_file() else None
