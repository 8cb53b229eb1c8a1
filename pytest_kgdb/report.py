"""The texts of a failure report: cleaned of terminal escapes, bounded in length, saved to files."""

from __future__ import annotations

import hashlib
import re
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Final

__all__ = ["bound", "clean", "save", "sections"]

HEAD_LINES: Final = 20
"""Lines that are kept of the beginning of a long text."""

TAIL_LINES: Final = 60
"""Lines that are kept of the end of a long text, where the failure is."""

MAX_LINE: Final = 400
"""Characters that are kept of a line."""

_MAX_NAME: Final = 120

_ESCAPES: Final = re.compile(
    # ECMA-48: CSI with parameter and intermediate bytes; the strings OSC, DCS, SOS, PM and APC up
    # to their terminator (or BEL, as in xterm), or to the end of the line where it never came;
    # then two- and three-byte escapes such as the choice of a character set.
    r"(?:\x1b\[|\x9b)[0-?]*[ -/]*[@-~]?"
    r"|(?:\x1b[\]PX^_]|[\x9d\x90\x98\x9e\x9f])[^\x07\x1b\x9c\n]*(?:\x07|\x1b\\|\x9c)?"
    r"|\x1b[ -/]*[0-~]?"
)
# Control characters, and the marks by which Unicode turns the direction of text (Trojan Source).
_CONTROLS: Final = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069\u2028\u2029]"
)
_SURROGATES: Final = re.compile("[\ud800-\udfff]")


def clean(text: str) -> str:
    """Return a text without terminal escapes, control characters and carriage returns."""
    text = _ESCAPES.sub("", text)
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    # A lone surrogate stands for a byte that was not UTF-8; it cannot be written to a terminal.
    return _SURROGATES.sub("\ufffd", _CONTROLS.sub("", text))


def bound(text: str, *, head: int = HEAD_LINES, tail: int = TAIL_LINES) -> str:
    """Return the beginning and the end of a text, with a line that counts the lines left out.

    :param head: lines to keep of the beginning.
    :param tail: lines to keep of the end.
    """
    lines = [
        line if len(line) <= MAX_LINE else f"{line[:MAX_LINE]} … ({len(line)} characters)"
        for line in text.splitlines()
    ]
    if (missing := len(lines) - head - tail) > 1:
        lines[head : head + missing] = [f"… {missing} lines left out …"]
    return "\n".join(lines)


def sections(texts: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    """Return the sections of a test's report, cleaned and bounded; empty ones are left out.

    :param texts: titles and texts.
    """
    return [
        (clean(title), shown) for title, text in texts if (shown := bound(clean(text).strip("\n")))
    ]


def save(
    directory: Path, test: str, texts: Iterable[tuple[str, str]], logs: Iterable[Path]
) -> Path:
    """Save the texts and logs of a failed test in its own directory (`DIR/test_file.py/test_name`).

    :param test: the test's node id.
    :param texts: titles and texts; each becomes a file, cleaned but not bounded.
    :param logs: files to copy as they are; those that do not exist are left out.
    :returns: the test's directory.
    :raises OSError: the directory or a file cannot be written.
    """
    target = directory.joinpath(*(_file_name(part) for part in re.split("/|::", test) if part))
    target.mkdir(parents=True, exist_ok=True)
    for title, text in texts:
        name = re.sub(r"\W+", "-", title).strip("-")
        (target / f"{name}.txt").write_text(clean(text) + "\n", encoding="utf-8")
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
