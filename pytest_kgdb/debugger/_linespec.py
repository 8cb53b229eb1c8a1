"""gdb's explicit locations, told as the linespecs that all of gdb takes."""

from __future__ import annotations

import re
import shlex
from typing import Final

from ..errors import KgdbError

__all__ = ["linespec"]

# In the order in which gdb tries what an abbreviation is of (gdb/location.c,
# string_to_explicit_location_spec; gdb manual, "Explicit Locations").
_OPTIONS: Final = ("-source", "-function", "-qualified", "-line", "-label")

_OFFSET: Final = re.compile(r"-\d+$")  # lines before the present one, a linespec
_LINE: Final = re.compile(r"[-+]?\d+$")

_HINT: Final = "name it by FUNCTION, FILE:FUNCTION, FUNCTION:LABEL, FILE:LINE or *ADDRESS"


def linespec(location: str) -> str:
    """Return the linespec for a location.

    gdb's Python takes linespecs only (gdb manual, "Basic Python", `gdb.decode_line`), and gdb 13
    dies there of one that begins with `-p`, which it takes for a probe's.

    :raises KgdbError: it begins with a `-`, and there is no linespec for it.
    """
    text = location.strip()
    if not text.startswith("-") or _OFFSET.match(text):
        return location
    parts = _parts(location, text)
    file, function = parts.get("-source"), parts.get("-function")
    line, label = parts.get("-line"), parts.get("-label")
    if function is not None and line is None:
        return ":".join(part for part in (file, function, label) if part is not None)
    if line is not None and function is None and label is None:
        return line if file is None else f"{file}:{line}"
    if label is not None and function is None:
        raise _refusal(location, "a label is one of a function's", "add -function FUNCTION")
    if line is not None:
        raise _refusal(location, "a line is one of a file's, not of a function's", _HINT)
    raise _refusal(location, "it names no function and no line", _HINT)


def _parts(location: str, text: str) -> dict[str, str]:
    try:
        words = shlex.split(text)
    except ValueError:
        raise _refusal(location, "a quote has no end", _HINT) from None
    parts: dict[str, str] = {}
    while words:
        word = words.pop(0)
        option = next((one for one in _OPTIONS if len(word) > 1 and one.startswith(word)), None)
        if option == "-qualified":
            if words and not words[0].startswith("-"):
                parts["-function"] = words.pop(0)
            continue
        if option is None:
            raise _refusal(location, f"'{word}' is no part of a location", _HINT)
        value = words.pop(0) if words else "-"
        if option == "-line":
            if not _LINE.match(value):
                raise _refusal(location, f"{option} needs a number", _HINT)
        elif value.startswith("-"):
            raise _refusal(location, f"{option} names nothing", _HINT)
        parts[option] = value
    return parts


def _refusal(location: str, why: str, hint: str) -> KgdbError:
    return KgdbError(f"no breakpoint at {location}: {why}", hint=hint)
