"""What of a console's text is the plugin's own: people are not shown it, the file has it."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterator
from typing import Final

from ..klog import record_spans
from ._shell import OWN_BEGIN

__all__ = ["OwnText"]

_Span = tuple[int, int]

# What stands around the output of a command, and is the answer to a question (_shell.py).
_TAG: Final = re.compile(rb"([\x06\x1d-\x1f])(kgdb-\d+)(?: \d+)?(?:\r?\n|\Z)")
_BEGIN: Final = re.compile(rb"[\x1d\x1e]kgdb-\d+(?:\r?\n|\Z)")
# The prompts before it: the shell of a guest that reads such commands prints no other text there.
_PROMPTS: Final = re.compile(rb"(?:[\w.@:~/-]{0,64}# )+\Z")
_PROMPT_BYTES: Final = 200
# What the kernel says of a sysrq `g` (drivers/tty/sysrq.c, sysrq_dbg_op; "SysRq : " up to 5.0).
_DEBUG: Final = re.compile(
    rb"(?:\[ *\d+\.\d{6}\](?:\[ *[TC]\d+\])? )?sysrq: (?:SysRq : )?DEBUG(?:\r?\n|\Z)"
)

_KEPT_BREAKS: Final = 10_000


class OwnText:
    """Finds the tags around commands, the output of the plugin's own ones, and its sysrqs.

    A sysrq of a test's own, by `/proc/sysrq-trigger`, leads to the same words: only as many are the
    plugin's as it has asked for.

    :param history: the end of what the console showed before the first test's: of all sysrqs.
    """

    def __init__(self, history: int) -> None:
        self._history = history
        # Where a sysrq was asked for, and where another kernel began, which answers none of those.
        self._breaks: deque[tuple[int, bool]] = deque(maxlen=_KEPT_BREAKS)

    def note_sysrq(self, mark: int) -> None:
        """Note that a sysrq is asked for: the kernel's words come after this mark."""
        self._breaks.append((mark, True))

    def restart(self, mark: int) -> None:
        """Note that another kernel's text begins."""
        self._breaks.append((mark, False))

    def spans(self, text: bytes, offset: int) -> list[_Span]:
        """Return where in a text is what is the plugin's own, in order.

        :param offset: the text's, on the console.
        """
        spans = sorted([*self._commands(text), *self._sysrqs(text, offset)])
        return [(start - _prompts(text, start), end) for start, end in spans]

    @staticmethod
    def _commands(text: bytes) -> Iterator[_Span]:
        position = 0
        while match := _TAG.search(text, position):
            start, position = match.span()
            if match[1] == OWN_BEGIN:
                last = re.compile(rb"\x1f%b \d+(?:\r?\n|\Z)" % match[2]).search(text, position)
                if last is None:  # it has been ended: by a restore, for one
                    last = _BEGIN.search(text, position)
                    position = len(text) if last is None else last.start()
                else:
                    position = last.end()
                # What the kernel says meanwhile is its own.
                for begin, end in record_spans(text, match.end(), position):
                    yield start, begin
                    start = end
            yield start, position

    def _sysrqs(self, text: bytes, offset: int) -> Iterator[_Span]:
        breaks = [item for item in self._breaks if item[0] >= offset]
        pending = 0
        for match in _DEBUG.finditer(text):
            while breaks and breaks[0][0] <= offset + match.start():
                pending = pending + 1 if breaks.pop(0)[1] else 0
            if pending or offset + match.start() < self._history:
                pending = max(0, pending - 1)
                yield match.span()


def _prompts(text: bytes, end: int) -> int:
    """Return how many bytes before a place in a text are prompts of the shell's."""
    match = _PROMPTS.search(text[max(0, end - _PROMPT_BYTES) : end])
    return len(match.group()) if match else 0
