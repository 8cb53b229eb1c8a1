"""The source files that a kernel or a module was built from, as they were compiled.

They are kept in an archive beside what was built from them: trees in the cache are changed from one
patch or revision to another, and the user's own tree is edited.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import zlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Final, NamedTuple

from ..errors import CacheError, KgdbError
from ._spec import OBJECTS

INDEX: Final = "sources.json"
"""The file of an archive with each file's name, hash and place."""

BLOBS: Final = "sources.bin"
"""The file of an archive with the contents, compressed one by one, so that one is read fast."""

_LARGEST: Final = 64 << 20
"""Bytes of a source file; a few kilobytes of an archive could stand for gigabytes."""

_PLAIN: Final = re.compile(r"/?[\w.@+,:=~^#%-][\w.@+,:=~^#% -]*(?:/[\w.@+,:=~^#% -]+)*", re.ASCII)
"""Names of source files, in gdb's commands, too."""


class SourceFiles(ABC):
    """The files that something was compiled from.

    :param tops: where the source's top may be said to be: in the debug information, or by gdb.
    """

    def __init__(self, *tops: Path | None) -> None:
        self._tops = [f"{top}/" for top in tops if top is not None]

    @abstractmethod
    def read(self, file: str) -> bytes:
        """Return a file's content as it was compiled.

        :param file: its name in the debug information: absolute, or relative to the source's top.
        :raises KgdbError: it is not available; the message says why.
        """

    @property
    @abstractmethod
    def directory(self) -> Path:
        """The directory that gdb is to read the source from, which need not exist yet."""

    @property
    def is_local(self) -> bool:
        """Whether the files are on this host, so that nothing is downloaded for them."""
        return True

    def unpack(self) -> None:  # noqa: B027  (most are there)
        """Make the files available in `directory`.

        :raises KgdbError: they would have to be downloaded, and cannot be.
        """

    def name(self, file: str) -> str:
        """Return a file's name, relative to the source's top if it is below."""
        path = os.path.normpath(file)
        for top in self._tops:
            if path.startswith(top):
                return path[len(top) :]
        return path


class Blob(NamedTuple):
    """Where an archive has a file."""

    digest: str
    """SHA-256 of the content."""
    offset: int
    packed: int
    """Bytes that it takes in the archive."""


class SourceArchive(SourceFiles):
    """The source files in a cache entry.

    :param entry: the directory with the archive.
    :param label: what was built from them, in messages.
    :param directory: for the files, when gdb needs them.
    :param exclusive: holds that directory, which nobody else may change meanwhile.
    :param tops: as for :class:`SourceFiles`.
    """

    def __init__(
        self,
        entry: Path,
        label: str,
        directory: Path,
        exclusive: Callable[[], AbstractContextManager[object]] = nullcontext,
        tops: Sequence[Path] = (),
    ) -> None:
        super().__init__(*tops, directory)
        self._entry, self._label, self._directory, self._exclusive = (
            entry,
            label,
            directory,
            exclusive,
        )
        self._blobs: dict[str, Blob] | None = None

    @staticmethod
    def is_in(entry: Path) -> bool:
        """Whether a cache entry has an archive; those of older versions have none."""
        return (entry / INDEX).exists()

    @staticmethod
    def write(files: Mapping[str, bytes], entry: Path) -> None:
        """Write an archive of a few files.

        :param files: contents by name: relative to the source's top, absolute elsewhere.
        """
        blobs: dict[str, Blob] = {}
        with (entry / BLOBS).open("wb") as file:
            for name, data in files.items():
                packed = zlib.compress(data)
                blobs[name] = Blob(hashlib.sha256(data).hexdigest(), file.tell(), len(packed))
                file.write(packed)
        (entry / INDEX).write_text(json.dumps({"files": blobs}))

    @staticmethod
    def check(entry: Path) -> None:
        """Check an archive of somebody else's: that each name is one of a file below a directory.

        :raises ValueError: one is not; or the archive is not readable.
        """
        size = (entry / BLOBS).stat().st_size
        for name, blob in json.loads((entry / INDEX).read_bytes())["files"].items():
            digest, offset, packed = blob
            if not _PLAIN.fullmatch(name) or ".." in name.split("/"):
                raise ValueError(f"{name!r} is no name of a source file")
            if not (
                isinstance(digest, str)
                and type(offset) is type(packed) is int
                and 0 <= offset <= offset + packed <= size
            ):
                raise ValueError(f"{name} is nowhere in {BLOBS}")

    @property
    def paths(self) -> dict[str, Path]:
        """The archive's own files by name."""
        return {name: self._entry / name for name in (INDEX, BLOBS)}

    @property
    def files(self) -> Mapping[str, Blob]:
        """The files by name: relative to the source's top, absolute elsewhere."""
        if self._blobs is None:
            self._blobs = load(self._entry / INDEX)
        return self._blobs

    def has(self, file: str) -> bool:
        """Whether a file is in it."""
        return self._find(self.name(file)) is not None

    def read(self, file: str) -> bytes:
        """See :meth:`SourceFiles.read`."""
        name = self.name(file)
        blob = self._find(name)
        if blob is None:
            raise KgdbError(
                f"the source {name} is not available: {self._label} was not compiled from it",
                by_test=True,
            )
        with (self._entry / BLOBS).open("rb") as blobs:
            return self._content(name, blob, blobs.fileno())

    def name(self, file: str) -> str:
        """See :meth:`SourceFiles.name`."""
        name = super().name(file)
        return f"/{name}" if f"/{name}" in self.files else name  # one that was unpacked

    def _find(self, name: str) -> Blob | None:
        if name in self.files or Path(name).is_absolute():
            return self.files.get(name)
        # A generated header, as a module's debug information has it: it is in the headers package.
        return next(
            (
                blob
                for file, blob in self.files.items()
                if file.startswith(OBJECTS) and file.partition("/")[2] == name
            ),
            None,
        )

    def _content(self, name: str, blob: Blob, descriptor: int) -> bytes:
        packed = os.pread(descriptor, blob.packed, blob.offset)
        try:
            # What is beyond the bound is not the file: its hash is another.
            data = zlib.decompressobj().decompress(packed, _LARGEST)
        except zlib.error:
            data = b""
        if hashlib.sha256(data).hexdigest() != blob.digest:
            raise CacheError(
                f"the source {name} is not available: the copy in {self._entry} is damaged",
                hint="pytest-kgdb cache verify sets what is damaged aside",
            )
        return data

    @property
    def directory(self) -> Path:
        """See :attr:`SourceFiles.directory`."""
        return self._directory

    def unpack(self) -> None:
        """See :meth:`SourceFiles.unpack`."""
        with self._exclusive():
            complete = self._directory.with_name(f"{self._directory.name}.complete")
            if complete.exists():
                return
            self._unpack(self.files)
            complete.touch()

    def unpack_only(self, files: Iterable[str]) -> None:
        """Make a few files available, for gdb to begin with; those that are not in it are not.

        :raises KgdbError: one is damaged.
        """
        names = {self.name(file) for file in files}
        with self._exclusive():
            self._unpack({name: blob for name in names if (blob := self._find(name)) is not None})

    def _unpack(self, files: Mapping[str, Blob]) -> None:
        with (self._entry / BLOBS).open("rb") as blobs:
            for name, blob in files.items():
                target = self._directory / name.lstrip("/")
                target.parent.mkdir(parents=True, exist_ok=True)
                target.unlink(missing_ok=True)
                target.write_bytes(self._content(name, blob, blobs.fileno()))
                target.chmod(0o444)  # for a person who would edit it here
                os.utime(target, (0, 0))  # or gdb would say that it is newer than the code


class SourceDirectory(SourceFiles):
    """The source files in a directory, as far as they are certain to be those that were compiled.

    :param directory: the source's top.
    :param compiled: when the last file was compiled, in seconds since the epoch. What was written
        later is refused, as make would compile it again. None if the directory cannot change.
    :param compared: when the files were last compared with what was compiled. Then a file whose
        inode was changed later is refused, whatever time its content claims to be of.
    :param unchanged: tells whether the directory as a whole is still what it was.
    """

    def __init__(
        self,
        directory: Path,
        *tops: Path | None,
        compiled: float | None = None,
        compared: float | None = None,
        unchanged: Callable[[], bool] = lambda: True,
    ) -> None:
        super().__init__(*tops, directory)
        self._directory, self._unchanged = directory, unchanged
        self._compiled, self._compared = compiled, compared

    def read(self, file: str) -> bytes:
        """See :meth:`SourceFiles.read`."""
        name = self.name(file)
        path = self._directory / name
        try:
            data = path.read_bytes()
            status = path.stat()
        except OSError as error:
            raise KgdbError(
                f"the source {name} is not available: {path}: {error.strerror}", by_test=True
            ) from error
        later = self._compiled is not None and status.st_mtime > self._compiled
        later = later or (self._compared is not None and status.st_ctime > self._compared)
        if later or not self._unchanged():
            raise KgdbError(
                f"the source {name} is not available: {path} was changed since it was compiled",
                hint="build it again, or bring the file back to what it was",
                by_test=True,
            )
        return data

    @property
    def directory(self) -> Path:
        """See :attr:`SourceFiles.directory`."""
        return self._directory


class NoSources(SourceFiles):
    """The sources of something that was built elsewhere, or of which nothing is certain.

    :param why: why there are none, in messages.
    :param hint: what to do about it.
    """

    def __init__(
        self,
        *tops: Path | None,
        why: str = "nothing tells what this kernel was built from",
        hint: str = "kernels that pytest-kgdb builds come with their sources",
    ) -> None:
        super().__init__(*tops)
        self._why, self._hint = why, hint

    def read(self, file: str) -> bytes:
        """See :meth:`SourceFiles.read`."""
        raise KgdbError(
            f"the source {self.name(file)} is not available: {self._why}",
            hint=self._hint,
            by_test=True,
        )

    @property
    def directory(self) -> Path:
        """See :attr:`SourceFiles.directory`."""
        return Path("/the-source-of-this-kernel-is-not-available")


def load(path: Path) -> dict[str, Blob]:
    """Return where an archive has its files; nothing if there is none."""
    try:
        loaded = json.loads(path.read_bytes())
        return {name: Blob(*place) for name, place in loaded["files"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}
