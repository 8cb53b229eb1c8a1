"""The lines of a kernel panic (kernel/panic.c, panic)."""

from __future__ import annotations

import re
from typing import Final

__all__ = [
    "PANIC",
    "PANIC_END",
    "PANIC_END_WORDS",
    "PANIC_WORDS",
    "console_panic",
    "console_panic_end",
    "log_panic",
]

PANIC_WORDS: Final = "Kernel panic - not syncing"
"""How the line of a panic begins."""

PANIC_END_WORDS: Final = f"---[ end {PANIC_WORDS}"
"""How the last line of a panic begins."""

_WORDS: Final = PANIC_WORDS.encode()

PANIC: Final = re.compile(rb"(?<!end )%b: ([^\r\n]*)" % _WORDS)
"""On the console: the line that the kernel prints before it enters the debugger (`kgdb_panic`).

Group 1 is the reason, which may be cut off where the line has not ended yet.
"""

PANIC_END: Final = re.compile(rb"---\[ end %b: ([^\r\n]*?) \]---" % _WORDS)
"""On the console: the last line, printed when the debugger has let the kernel go on.

Group 1 is the reason.
"""

_PANIC_LINE: Final = re.compile(rb"%b: ([^\r\n]*)[\r\n]" % _WORDS)
_LOG_LINE: Final = re.compile(rf"{PANIC_WORDS}: (.*)")


def console_panic(text: bytes, *, whole: bool = False) -> str | None:
    """Return the reason of the first panic in a console's text; None where there is none.

    :param whole: ignore a line that has not ended yet.
    """
    match = (_PANIC_LINE if whole else PANIC).search(text)
    return None if match is None else _decode(match[1])


def console_panic_end(text: bytes) -> str | None:
    """Return the reason of the panic whose last line is in a console's text, None otherwise."""
    match = PANIC_END.search(text)
    return None if match is None else _decode(match[1])


def log_panic(line: str) -> str | None:
    """Return the reason of the panic that a line of the log reports; None for other lines."""
    match = _LOG_LINE.match(line)
    return None if match is None else match[1]


def _decode(text: bytes) -> str:
    return text.decode("utf-8", "replace")
