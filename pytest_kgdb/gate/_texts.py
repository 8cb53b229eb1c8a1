"""Texts that come from the tests, and through them from the guest, which nobody trusts."""

from __future__ import annotations

import re
from typing import Final

from ..escape import clean

__all__ = ["code_span", "plain", "shortened", "xml_text"]

_LONGEST: Final = 400  # characters

# Characters that an XML 1.0 document cannot have, not even as references (XML 1.0, 2.2, Char).
_NOT_XML: Final = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def plain(text: str) -> str:
    """Return a text in one line, without terminal escapes and control characters."""
    return " ".join(clean(text).split())


def shortened(text: str, longest: int = _LONGEST) -> str:
    """Return a text in one line of bounded length."""
    line = plain(text)
    return line if len(line) <= longest else f"{line[: longest - 1]}…"


def code_span(text: str, *, table: bool = False) -> str:
    """Return a text as Markdown's code: no part of it is a link, a mention, HTML or emphasis.

    :param table: it is to stand in a table, in which a pipe ends a cell (GitHub Flavored Markdown,
        4.10).
    """
    line = shortened(text)
    if not line:
        return ""
    longest = max((len(run) for run in re.findall("`+", line)), default=0)
    fence = "`" * (longest + 1)
    pad = " " if line.startswith("`") or line.endswith("`") else ""
    if table:
        line = line.replace("|", "\\|")
    return f"{fence}{pad}{line}{pad}{fence}"


def xml_text(text: str) -> str:
    """Return a text that can stand in an XML document, once it is escaped."""
    return _NOT_XML.sub("\ufffd", clean(text))
