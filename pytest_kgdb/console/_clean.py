"""Text of the guest's, fit for a terminal."""

from __future__ import annotations

import re
from typing import Final

_ESCAPES: Final = re.compile(
    # ECMA-48: CSI with parameter and intermediate bytes; the strings OSC, DCS, SOS, PM and APC up
    # to their terminator (or BEL, as xterm has it), or to the line's end where it never came;
    # then two- and three-byte escapes such as the choice of a character set.
    r"(?:\x1b\[|\x9b)[0-?]*[ -/]*[@-~]?"
    r"|(?:\x1b[\]PX^_]|[\x9d\x90\x98\x9e\x9f])[^\x07\x1b\x9c\n]*(?:\x07|\x1b\\|\x9c)?"
    r"|\x1b[ -/]*[0-~]?"
)
# Controls, and the marks by which Unicode turns the direction of text (Trojan Source).
_CONTROLS: Final = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069\u2028\u2029]"
)
_SURROGATES: Final = re.compile("[\ud800-\udfff]")


def clean(text: str) -> str:
    """Return a text without what a terminal would obey: escapes, controls, overwritten lines."""
    text = _ESCAPES.sub("", text)
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    # A lone surrogate stands for a byte that was no UTF-8; it cannot be written to a terminal.
    return _SURROGATES.sub("\ufffd", _CONTROLS.sub("", text))
