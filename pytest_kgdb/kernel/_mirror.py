"""A copy of a source tree in the cache, kept in step with it file by file."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from ..errors import CacheError, ConfigError
from ..progress import Progress
from ._fingerprint import FileState, state_of
from ._spec import OBJECTS

_WORTH_SAYING: Final = 5000
_UNFINISHED: Final = ""  # no file's name: in the list while the copy is being changed


class Mirror:
    """A directory whose files are made to be those of another, changing as few as possible.

    A file that changes here gets the present time, whatever it has there: `make` must see every
    change as newer than what was built before, also one back to an older file. To be used under
    the lock of the directory that holds it.

    :param home: holds the copy and the list of what is in it.
    """

    def __init__(self, home: Path) -> None:
        self.root = home / "src"
        self._list = home / "files.json"

    def sync(
        self, wanted: Mapping[str, FileState], places: Mapping[str, Path], progress: Progress
    ) -> int:
        """Make the copy have exactly these files; return how many were written or removed.

        :param wanted: every file's name and state.
        :param places: where each is to be had from.
        :raises ConfigError: a file is not what it was when it was listed.
        """
        have = self._load()
        whole = have.pop(_UNFINISHED, None) is None and bool(have)
        present = have if whole else self._names()
        gone = [name for name in present if name not in wanted]
        new = [name for name, state in wanted.items() if have.get(name) != state.token]
        if whole and not gone and not new:
            return 0
        # While it is being changed the list names only what is certain, so that whatever ends
        # us half-way, the next run makes good what is in doubt.
        doubt = {*gone, *new}
        certain = {name: token for name, token in have.items() if name not in doubt}
        self._save({_UNFINISHED: "", **certain})
        for name in gone:
            self._remove(name)
        if len(new) < _WORTH_SAYING:
            for name in new:
                self._write(name, wanted[name], places[name])
        else:
            with progress.stage(f"copying the source to {self.root}") as stage:
                for done, name in enumerate(new):
                    self._write(name, wanted[name], places[name])
                    stage.update(done=done, total=len(new))
        self._save({name: state.token for name, state in wanted.items()})
        return len(doubt)

    def _write(self, name: str, state: FileState, source: Path) -> None:
        target = self.root / name
        beside = target.with_name(f"{target.name}.kgdb-new")
        try:
            if target.is_file() and not target.is_symlink() and state_of(target) == state:
                return  # after an interruption: what was built from it need not be built again
            target.parent.mkdir(parents=True, exist_ok=True)
            if state.link:
                beside.unlink(missing_ok=True)
                beside.symlink_to(source.readlink())
            else:
                shutil.copyfile(source, beside)
                beside.chmod(0o755 if state.executable else 0o644)
            if state_of(beside) != state:
                beside.unlink()
                raise ConfigError(
                    f"{source} was changed while it was being copied", hint="run it again"
                )
            beside.replace(target)
        except OSError as error:
            raise CacheError(
                f"cannot copy {source} to {target}: {error.strerror}",
                hint="make room (pytest-kgdb cache prune), or choose another --kgdb-cache-dir",
            ) from error

    def _remove(self, name: str) -> None:
        target = self.root / name
        target.unlink(missing_ok=True)
        for parent in target.parents:
            if parent == self.root or any(parent.iterdir()):
                break
            parent.rmdir()  # git tracks no empty directories, and kbuild's wildcards see them

    def _names(self) -> list[str]:
        """The files that are really there, for where the list is lost or unfinished."""
        found = []
        for directory, names, files in os.walk(self.root):
            if directory == str(self.root):
                names[:] = [name for name in names if not name.startswith(OBJECTS)]
            here = os.path.relpath(directory, self.root)
            found += [os.path.normpath(f"{here}/{name}") for name in files]
        return found

    def _load(self) -> dict[str, str]:
        try:
            loaded = json.loads(self._list.read_bytes())
        except (OSError, ValueError):
            return {}
        return loaded if isinstance(loaded, dict) else {}

    def _save(self, tokens: Mapping[str, str]) -> None:
        beside = self._list.with_name("files.json.new")
        beside.write_bytes(json.dumps(tokens).encode())
        beside.replace(self._list)
