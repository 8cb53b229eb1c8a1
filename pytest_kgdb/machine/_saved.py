"""What the guest's memory held at each saved state, in files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from ..errors import KgdbError
from ._memory import Image, Memory

__all__ = ["MAKE_ROOM", "SavedMemory"]

MAKE_ROOM = "make room there, or set TMPDIR to where there is"


class SavedMemory:
    """What a guest's memory held at each saved state, by their names.

    :param memory: the guest's.
    :param directory: for what is saved.
    :param files: what was saved earlier, elsewhere.
    """

    def __init__(self, memory: Memory, directory: Path, files: Mapping[str, Path]) -> None:
        self._memory = memory
        self._directory = directory
        self._files = dict(files)
        self._images: dict[str, Image] = {}

    @property
    def files(self) -> Mapping[str, Path]:
        """The files, by the states' names."""
        return self._files

    def save(self, name: str) -> None:
        """Write down what the memory holds.

        :raises KgdbError: there is no room for it.
        """
        self._forget(name)
        path = self._directory / f"{name}.ram"
        try:
            self._memory.save(path)
        except OSError as error:
            path.unlink(missing_ok=True)
            raise KgdbError(
                f"the guest's memory could not be saved: {error.strerror}: {path}", hint=MAKE_ROOM
            ) from error
        self._files[name] = path

    def put_back(self, name: str) -> None:
        """Make the memory what it was.

        :raises CacheError: the file is not whole, or of another machine.
        """
        if name not in self._images:
            self._images[name] = Image(self._files[name])
        self._memory.put_back(self._images[name])

    def drop(self, name: str) -> None:
        """Forget a state, and remove its file."""
        self._forget(name)
        self._files.pop(name).unlink(missing_ok=True)

    def _forget(self, name: str) -> None:
        if image := self._images.pop(name, None):
            image.close()

    def __enter__(self) -> SavedMemory:
        return self

    def __exit__(self, *_: object) -> None:
        for name in list(self._images):
            self._forget(name)
