"""What a failure shows: the kernel's and gdb's words, fit for a terminal, within bounds."""

from __future__ import annotations

import hashlib
import re
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from .console import clean

__all__ = ["bound", "clean", "save", "sections"]

HEAD_LINES: Final = 20
"""Lines kept of a long text's beginning."""

TAIL_LINES: Final = 60
"""Lines kept of a long text's end, where the failure is."""

MAX_LINE: Final = 400
"""Characters kept of a line."""

_MAX_NAME: Final = 120


def bound(text: str, *, head: int = HEAD_LINES, tail: int = TAIL_LINES) -> str:
    """Return the beginning and the end of a text, with a line that says what is missing."""
    lines = [
        line if len(line) <= MAX_LINE else f"{line[:MAX_LINE]} … ({len(line)} characters)"
        for line in text.splitlines()
    ]
    if (missing := len(lines) - head - tail) > 1:
        lines[head : head + missing] = [f"… {missing} lines left out …"]
    return "\n".join(lines)


def sections(told: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    """Return the sections of a test's report: clean, bounded, and none of them empty."""
    return [
        (clean(title), shown) for title, text in told if (shown := bound(clean(text).strip("\n")))
    ]


def save(directory: Path, test: str, told: Iterable[tuple[str, str]], logs: Iterable[Path]) -> Path:
    """Save everything about a failed test in a directory of its own (`DIR/test_file.py/test_name`).

    :param test: the test, as pytest names it.
    :param told: titles and texts, each to be a file: clean, but not bounded.
    :param logs: files that are copied as they are; one that does not exist is passed over.
    :raises OSError: the directory or a file cannot be written.
    """
    target = directory.joinpath(*(_file_name(part) for part in re.split("/|::", test) if part))
    target.mkdir(parents=True, exist_ok=True)
    for title, text in told:
        name = re.sub(r"\W+", "-", title).strip("-")
        (target / f"{name}.txt").write_text(clean(text) + "\n", encoding="utf-8")
    for log in logs:
        if log.exists():
            shutil.copyfile(log, target / log.name)
    return target


def _file_name(name: str) -> str:
    """Return a file's name: the name itself where it can be one, else one like it."""
    plain = re.sub(r"[^\w.,@+=\[\]-]+", "_", name)
    if plain == name and len(plain) <= _MAX_NAME and plain.strip("."):
        return plain
    # What differs in the characters that were replaced, or behind the cut, differs here.
    digest = hashlib.sha256(name.encode("utf-8", "surrogateescape")).hexdigest()[:8]
    return f"{plain.strip('._')[:_MAX_NAME]}-{digest}"
