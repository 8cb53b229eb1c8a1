"""The guest's RAM at each snapshot, in files."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from ..errors import KgdbError
from ._ram import RamFile, RamImage

__all__ = ["MAKE_ROOM", "SavedMemory"]

MAKE_ROOM = "make room there, or set TMPDIR to where there is"
"""The hint of errors about a full file system."""


class SavedMemory:
    """Saves a guest's RAM in one file for each snapshot, and restores it.

    :param ram: the guest's RAM.
    :param directory: directory for the files.
    :param files: files that were saved earlier, elsewhere, by the snapshots' names.
    """

    def __init__(self, ram: RamFile, directory: Path, files: Mapping[str, Path]) -> None:
        self._ram = ram
        self._directory = directory
        self._files = dict(files)
        self._images: dict[str, RamImage] = {}

    @property
    def files(self) -> Mapping[str, Path]:
        """The files, by the snapshots' names."""
        return self._files

    def save(self, name: str) -> None:
        """Save the RAM under a snapshot's name.

        :raises KgdbError: it cannot be written.
        """
        self._close_image(name)
        path = self._directory / f"{name}.ram"
        try:
            self._ram.save(path)
        except OSError as error:
            path.unlink(missing_ok=True)
            raise KgdbError(
                f"the guest's memory could not be saved: {error.strerror}: {path}", hint=MAKE_ROOM
            ) from error
        self._files[name] = path

    def restore(self, name: str) -> None:
        """Restore the RAM of a snapshot.

        :raises CacheError: the file is truncated, or of another machine.
        """
        self._ram.restore(self._image(name))

    def patch(self, name: str, pieces: Iterable[tuple[int, bytes]]) -> None:
        """Have other bytes in a snapshot, for this machine: in the RAM after the next restore.

        :param pieces: offsets in the RAM, and what is there.
        :raises CacheError: the file is truncated.
        """
        image = self._image(name)
        for start, data in pieces:
            image.patch(start, data)

    def _image(self, name: str) -> RamImage:
        if name not in self._images:
            self._images[name] = RamImage(self._files[name])
        return self._images[name]

    def drop(self, name: str) -> None:
        """Remove the file of a snapshot."""
        self._close_image(name)
        self._files.pop(name).unlink(missing_ok=True)

    def _close_image(self, name: str) -> None:
        if image := self._images.pop(name, None):
            image.close()

    def __enter__(self) -> SavedMemory:
        return self

    def __exit__(self, *_: object) -> None:
        for name in list(self._images):
            self._close_image(name)
