"""Makes the archives of source files, while a build directory still has what was compiled."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from ..cache import write_atomically
from ._sources import BLOBS, INDEX, Blob, load

_LEVEL: Final = 3  # measured: as fast as 1 on the kernel's text, and smaller
_WASTE: Final = 0.3  # the part of an archive that may be of files as they were before

# scripts/basic/fixdep.c: the files that an object was made of.
_DEPENDENCIES: Final = re.compile(rb"^(?:source|deps)_\S+ := ((?:.*\\\n)*.*)$", re.MULTILINE)


class Recorder:
    """Makes archives of what one build directory was compiled from, each from the one before.

    :param state_dir: the directory with the archive of the last build.
    """

    def __init__(self, state_dir: Path) -> None:
        self._blobs = state_dir / BLOBS
        self._state = state_dir / "sources.state.json"
        self._names = state_dir / "sources.names.json"

    def record(self, files: Mapping[str, Path], target: Path) -> None:
        """Write an archive of files.

        :param files: paths by names.
        :param target: the directory to put it in.
        """
        before, signs = load(self._state), self._signs()
        if not self._blobs.exists() or self._is_wasteful(before):
            before, signs = {}, {}
            self._state.unlink(missing_ok=True)
            self._blobs.write_bytes(b"")
        kept: dict[str, Blob] = {}
        new_signs: dict[str, str] = {}
        with self._blobs.open("r+b") as blobs:
            blobs.seek(0, os.SEEK_END)
            for name, path in sorted(files.items()):
                sign = _sign(path)
                if name in before and signs.get(name) == sign:
                    kept[name], new_signs[name] = before[name], sign
                    continue
                data = path.read_bytes()
                digest = hashlib.sha256(data).hexdigest()
                new_signs[name] = sign
                if name in before and before[name].digest == digest:
                    kept[name] = before[name]
                    continue
                packed = zlib.compress(data, _LEVEL)
                kept[name] = Blob(digest, blobs.tell(), len(packed))
                blobs.write(packed)
        # One file: a place that is older than the sign would be that of an earlier content.
        write_atomically(self._state, json.dumps({"files": kept, "signs": new_signs}).encode())
        shutil.copyfile(self._blobs, target / BLOBS)
        (target / INDEX).write_text(json.dumps({"files": kept}))

    def _signs(self) -> dict[str, str]:
        try:
            loaded: dict[str, str] = json.loads(self._state.read_bytes())["signs"]
            return loaded
        except (OSError, ValueError, KeyError, TypeError):
            return {}

    def _is_wasteful(self, blobs: Mapping[str, Blob]) -> bool:
        used = sum(blob.packed for blob in blobs.values())
        return used < self._blobs.stat().st_size * (1 - _WASTE)

    def compiled(self, objects: Path) -> set[str]:
        """Return the names in the dependencies of all objects below a build directory.

        Only those that were compiled since the last time are read.
        """
        names: set[str] = set()
        since = 0
        try:
            loaded: dict[str, Any] = json.loads(self._names.read_bytes())
            names, since = set(loaded["names"]), int(loaded["since"])
        except (OSError, ValueError, KeyError, TypeError):
            pass
        newest = since
        for path in _commands(objects):
            written = path.stat().st_mtime_ns
            if written >= since:
                newest = max(newest, written)
                names.update(os.fsdecode(name) for name in _dependencies(path.read_bytes()))
        write_atomically(
            self._names, json.dumps({"names": sorted(names), "since": newest}).encode()
        )
        return names


def record_kernel(
    objects: Path, tree: Path, shown: tuple[Path, Path], state_dir: Path, target: Path
) -> None:
    """Write an archive of what a kernel was compiled from.

    :param objects: the build directory.
    :param tree: the source.
    :param shown: what the debug information calls the source and the build directory.
    :param state_dir: the directory with the archive of the last build.
    :param target: the directory to put it in.
    """
    recorder = Recorder(state_dir)
    files: dict[str, Path] = {}
    for name in recorder.compiled(objects):
        path = os.path.normpath(objects / name)
        for real, debug in ((objects, shown[1]), (tree, shown[0])):
            if path.startswith(f"{real}/"):
                called = f"{debug}/{path[len(str(real)) + 1 :]}"
                if Path(path).is_file():
                    files[called.removeprefix(f"{shown[0]}/")] = Path(path)
                break
    recorder.record(files, target)


def _commands(objects: Path) -> Iterator[Path]:
    for directory, _, files in os.walk(objects):
        for name in files:
            if name.startswith(".") and name.endswith(".cmd"):
                yield Path(directory, name)


def _dependencies(data: bytes) -> Iterator[bytes]:
    for match in _DEPENDENCIES.finditer(data):
        for word in match[1].split():
            # $(wildcard include/config/X), and the backslashes that end lines.
            if not word.startswith((b"$", b"\\")) and not word.endswith(b")"):
                yield word


def _sign(path: Path) -> str:
    status = path.stat()
    return f"{status.st_ino} {status.st_size} {status.st_mtime_ns} {status.st_ctime_ns}"
