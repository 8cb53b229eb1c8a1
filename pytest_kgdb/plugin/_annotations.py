"""A failed kernel test as forges annotate it: on its own line, and on the lines of the stack."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

import pytest

from ._record import message_of

__all__ = ["Failure", "failure_of", "places"]

_MESSAGE: Final = 300  # characters
# A frame of the kernel's: `#3 vfs_write at fs/read_write.c:582`, and in a splat `(fs/open.c:7)`.
_PLACE: Final = re.compile(r"(?:\bat |\()(?P<file>[\w./+-]+\.[chS]):(?P<line>\d+)\b")


class Failure(NamedTuple):
    """A failed kernel test."""

    nodeid: str
    message: str
    """The first line of what it failed with."""
    file: str
    """The test's file, relative to the user's tree where it can be."""
    line: int | None
    """The line of its function, from 1."""
    sections: tuple[tuple[str, str], ...]
    text: str
    """pytest's account of it."""


def failure_of(report: pytest.TestReport, root: Path, tree: Path) -> Failure | None:
    """Return the failure that a report is of; None for what is none of a kernel test's.

    :param root: pytest's root directory.
    :param tree: the top of the user's tree.
    """
    if not report.failed or not getattr(report, "kgdb_uses_kernel", False):
        return None
    file, line, _ = report.location
    return Failure(
        report.nodeid,
        message_of(report)[:_MESSAGE],
        _within(root / file, tree) or file,
        None if line is None else line + 1,
        tuple(report.sections),
        report.longreprtext,
    )


def places(failure: Failure, tree: Path) -> Iterator[tuple[str, int]]:
    """Yield the lines of the user's tree that a failure's sections name, in their order.

    The kernel's files are relative to its tree: this is the user's where he tests what he edits.
    """
    for _, text in failure.sections:
        for match in _PLACE.finditer(text):
            file = _within(tree / match["file"], tree)
            if file is not None and (tree / file).is_file():
                yield file, int(match["line"])


def _within(path: Path, tree: Path) -> str | None:
    """Return a path relative to a tree; None for one that leads out of it."""
    path, tree = Path(os.path.normpath(path)), Path(os.path.normpath(tree))
    return str(path.relative_to(tree)) if path.is_relative_to(tree) else None
