"""The texts of a failure report: cleaned, bounded in length, saved to files."""

from __future__ import annotations

import hashlib
import re
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final, NamedTuple, TypedDict

from .escape import clean

__all__ = ["ACTIONS", "MACHINE", "Section", "Story", "bound", "cut", "save", "sections"]

HEAD_LINES: Final = 20
"""Lines that are kept of the beginning of a long text."""

TAIL_LINES: Final = 60
"""Lines that are kept of the end of a long text, where the failure is."""

MAX_LINE: Final = 400
"""Characters that are kept of a line."""

ACTIONS: Final = "kgdb: what the test did"
"""The title of the section with the log of a test's actions."""

MACHINE: Final = "machine.kgdb"
"""The name of a saved machine among a test's artifacts."""

_MAX_NAME: Final = 120


class Section(NamedTuple):
    """A part of a failure's report."""

    title: str
    text: str
    head: int = HEAD_LINES
    """Lines that are shown of its beginning."""
    tail: int = TAIL_LINES
    """Lines that are shown of its end."""
    verbosity: int = 0
    """How often `-v` is given for it to be shown at all."""
    brief: str | None = None
    """A shorter text to be shown without `-v`."""


class Story(TypedDict):
    """What happened on the kernel during a test, in types that can be sent between processes."""

    seconds: float
    """How long it took, from its beginning; all times count from there."""
    dropped: int
    """Actions that are not kept."""
    runs: list[tuple[float, float]]
    """When the kernel ran."""
    actions: list[dict[str, Any]]
    """The fields of each :class:`pytest_kgdb.actions.ActionEntry`, and `source`."""
    calls: list[tuple[float, str]]
    """The calls that spies and overrides saw."""
    console: list[tuple[float, str]]
    """The lines of the console."""


def cut(line: str) -> str:
    """Return the beginning of a line, and how long it is where that is not all."""
    return line if len(line) <= MAX_LINE else f"{line[:MAX_LINE]} … ({len(line)} characters)"


def bound(text: str, *, head: int = HEAD_LINES, tail: int = TAIL_LINES) -> str:
    """Return the beginning and the end of a text, with a line that counts the lines left out.

    :param head: lines to keep of the beginning.
    :param tail: lines to keep of the end.
    """
    lines = [cut(line) for line in text.splitlines()]
    if (missing := len(lines) - head - tail) > 1:
        lines[head : head + missing] = [f"… {missing} lines left out …"]
    return "\n".join(lines)


def sections(parts: Iterable[Section], verbosity: int = 0) -> list[tuple[str, str]]:
    """Return titles and texts of a test's report, cleaned and bounded; empty ones are left out.

    :param verbosity: how often `-v` is given: once shows more lines of each part, twice all.
    """
    shown = []
    for part in parts:
        brief = verbosity < 1 and part.brief is not None
        text = clean(part.brief if brief else part.text).strip("\n")  # type: ignore[arg-type]
        if verbosity == 1:
            text = bound(text, head=max(part.head, HEAD_LINES), tail=max(part.tail, TAIL_LINES))
        elif verbosity < 1:
            text = bound(text, head=part.head, tail=part.tail)
        if text and max(verbosity, 0) >= part.verbosity:
            shown.append((clean(part.title), text))
    return shown


def save(directory: Path, test: str, parts: Iterable[Section], logs: Iterable[Path]) -> Path:
    """Save the texts and logs of a failed test in its own directory (`DIR/test_file.py/test_name`).

    :param test: the test's node id.
    :param parts: each becomes a file, cleaned but not bounded.
    :param logs: files to copy as they are; those that do not exist are left out.
    :returns: the test's directory; directories that had to be made are the user's alone (0700).
    :raises OSError: the directory or a file cannot be written.
    """
    target = directory.joinpath(*(_file_name(part) for part in re.split("/|::", test) if part))
    # Memory and logs of a kernel are nobody else's business: what is missing is made private.
    missing = [place for place in (target, *target.parents) if not place.exists()]
    for place in reversed(missing):
        place.mkdir(mode=0o700, exist_ok=True)
    for part in parts:
        name = re.sub(r"\W+", "-", part.title).strip("-")
        (target / f"{name}.txt").write_text(clean(part.text) + "\n", encoding="utf-8")
    for log in logs:
        if log.exists():
            shutil.copyfile(log, target / log.name)
    return target


def _file_name(name: str) -> str:
    """Return a valid file name: the name itself where it is one, a similar one otherwise."""
    plain = re.sub(r"[^\w.,@+=\[\]-]+", "_", name)
    if plain == name and len(plain) <= _MAX_NAME and plain.strip("."):
        return plain
    # The digest keeps names apart that differ in replaced characters or behind the cut.
    digest = hashlib.sha256(name.encode("utf-8", "surrogateescape")).hexdigest()[:8]
    return f"{plain.strip('._')[:_MAX_NAME]}-{digest}"
