"""Lines of gdb's output as records (gdb manual, "GDB/MI Output Syntax")."""

from __future__ import annotations

import re
from typing import Any, Final

__all__ = ["Record", "parse"]

Record = dict[str, Any]
"""One MI record, as pygdbmi parses it: `type`, `message`, `token`, `payload`."""

# A breakpoint's commands before mi4, as `script={"silent","print 1"}`, which is no value of MI
# (gdb 13 NEWS, "-fix-breakpoint-script-output"): pygdbmi loses what follows, or never ends.
_SCRIPT: Final = re.compile(r'(?<=[{,])script=\{((?:"(?:[^"\\]|\\.)*",?)*)\}')

# The records that have results: replies and notifications.
_RECORD: Final = re.compile(r"\d*[\^*=][^\s,]+")
_TOKEN: Final = re.compile(r'"(?:[^"\\]|\\.)*"|[\[\]{},]|[^\s"\[\]{},=]+=')
_CLOSING: Final = {"{": "}", "[": "]"}


def parse(line: str) -> Record:
    """Parse a line of gdb's output; one that is not MI is text."""
    from pygdbmi.gdbmiparser import parse_response

    line_text = _SCRIPT.sub(r"script=[\1]", line)
    if (match := _RECORD.match(line_text)) is None or _is_whole(line_text, match.end()):
        try:
            record: Record = parse_response(line_text)
        except (ValueError, TypeError, IndexError, KeyError, RecursionError):
            pass
        else:
            return {"token": None, **record}
    return {"type": "output", "message": None, "payload": line, "token": None}


def _is_whole(line: str, at: int) -> bool:
    """Return whether results are as MI has them: of others, pygdbmi may never find the end.

    A script that a gdb command starts writes to the same pipe, and can cut a record in two.

    :param at: where they begin, with a comma.
    """
    open_ones: list[str] = []
    state = "behind"  # a value; or "due" it is, or a name "named" it, or a list or tuple "began"
    while at < len(line):
        match = _TOKEN.match(line, at)
        if match is None:
            return False
        at = match.end()
        word = match[0]
        if word == ",":
            good, state = state == "behind", "due"
        elif word in "]}":
            good = state in ("behind", "began") and bool(open_ones)
            good = good and _CLOSING[open_ones.pop()] == word
            state = "behind"
        elif word.endswith("="):
            good, state = state in ("due", "began"), "named"
        else:
            # Only in a list may a value be without a name.
            good = state == "named" or (state in ("due", "began") and open_ones[-1:] == ["["])
            state = "behind"
            if word in _CLOSING:
                open_ones.append(word)
                state = "began"
        if not good:
            return False
    return state == "behind" and not open_ones
