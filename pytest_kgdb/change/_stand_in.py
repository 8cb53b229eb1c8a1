"""A revision of a driver that was checked out, and stands for the driver's own directory."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final

__all__ = ["note_stand_in", "stand_ins"]

_NOTE: Final = "pytest-kgdb-stands-for"  # a file beside the checkout, with the repository's path


def note_stand_in(checkout: Path, repository: Path) -> None:
    """Note of which repository a checkout is a revision."""
    (checkout.parent / _NOTE).write_bytes(bytes(repository))


def stand_ins(modules: Iterable[Path]) -> Callable[[Path], Path]:
    """Return what finds the file or the directory that is to be used instead of another one.

    What is in a driver's own directory is that in the revision which is checked out, if it has it.

    :param modules: the modules' directories, of which some are in such checkouts.
    """
    pairs = [pair for path in modules if (pair := _pair(path)) is not None]

    def instead(path: Path) -> Path:
        real = path.resolve()
        for directory, checked_out in pairs:
            if real == directory or directory in real.parents:
                match = checked_out / real.relative_to(directory)
                # A module's file is still to be built.
                if match.exists() or match.suffix == ".ko":
                    return match
        return path

    return instead


def _pair(path: Path) -> tuple[Path, Path] | None:
    """Return the directory that a checked out one stands for, and that one."""
    for checkout in (path, *path.parents):
        with contextlib.suppress(OSError, ValueError):
            note = (checkout.parent / _NOTE).read_bytes()
            repository = Path(os.fsdecode(note))
            return repository / path.relative_to(checkout), path
    return None
