"""A copy of a source tree in the cache, updated file by file."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from ..cache import write_atomically
from ..errors import CacheError, ConfigError
from ..progress import Progress
from ._fingerprint import FileState, state_of
from ._spec import OBJECTS

_MANY_FILES: Final = 5000  # copying so many takes seconds, and is reported
_UNFINISHED: Final = ""  # not the name of any file; in the list while the copy is being changed


class Mirror:
    """A directory that is made equal to another, by writing as few files as possible.

    A file that is written gets the present time, not that of the original: `make` must see every
    change as newer than its objects, also one back to an older file. The caller must hold the lock
    of the state directory.

    :param state_dir: the directory with the copy and the list of its files.
    :param root: the copy, if it is not `src` in there.
    """

    def __init__(self, state_dir: Path, root: Path | None = None) -> None:
        self.root = state_dir / "src" if root is None else root
        self._list = state_dir / "files.json"

    def sync(
        self, files: Mapping[str, FileState], paths: Mapping[str, Path], progress: Progress
    ) -> int:
        """Make the copy have exactly these files; return how many were written or removed.

        :param files: the state of every file, by name.
        :param paths: the path of every file's original, by name.
        :raises ConfigError: an original is not in that state any more.
        :raises CacheError: a file cannot be written.
        """
        have = self._load()
        whole = have.pop(_UNFINISHED, None) is None and bool(have) and self.root.is_dir()
        present = have if whole else self._names()
        gone = [name for name in present if name not in files]
        new = [name for name, state in files.items() if have.get(name) != state.token]
        if whole and not gone and not new:
            return 0
        # During the update the list has only files that do not change. If we are killed, the next
        # run checks all others.
        doubt = {*gone, *new}
        certain = {name: token for name, token in have.items() if name not in doubt}
        self._save({_UNFINISHED: "", **certain})
        for name in gone:
            self._remove(name)
        if len(new) < _MANY_FILES:
            for name in new:
                self._write(name, files[name], paths[name])
        else:
            with progress.stage(f"copying the source to {self.root}") as stage:
                for done, name in enumerate(new):
                    self._write(name, files[name], paths[name])
                    stage.update(done=done, total=len(new))
        self._save({name: state.token for name, state in files.items()})
        return len(doubt)

    def _write(self, name: str, state: FileState, source: Path) -> None:
        target = self.root / name
        temporary = target.with_name(f"{target.name}.kgdb-new")
        try:
            if target.is_file() and not target.is_symlink() and state_of(target) == state:
                return  # after an interruption; with a new time, it would be compiled again
            target.parent.mkdir(parents=True, exist_ok=True)
            if state.link:
                temporary.unlink(missing_ok=True)
                temporary.symlink_to(source.readlink())
            else:
                shutil.copyfile(source, temporary)
                temporary.chmod(0o755 if state.executable else 0o644)
            if state_of(temporary) != state:
                temporary.unlink()
                raise ConfigError(
                    f"{source} was changed while it was being copied", hint="run it again"
                )
            temporary.replace(target)
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
            parent.rmdir()  # kbuild's wildcards see empty directories, which git does not track

    def _names(self) -> list[str]:
        """Return the files in the directory, if the list is lost or unfinished."""
        names = []
        for directory, subdirectories, files in os.walk(self.root):
            if directory == str(self.root):
                subdirectories[:] = [
                    name for name in subdirectories if not name.startswith(OBJECTS)
                ]
            here = os.path.relpath(directory, self.root)
            names += [os.path.normpath(f"{here}/{name}") for name in files]
        return names

    def _load(self) -> dict[str, str]:
        try:
            loaded = json.loads(self._list.read_bytes())
        except (OSError, ValueError):
            return {}
        return loaded if isinstance(loaded, dict) else {}

    def _save(self, tokens: Mapping[str, str]) -> None:
        write_atomically(self._list, json.dumps(tokens).encode())
