"""Noticing that a board has reset, by what its console shows."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from typing import Final

from ..escape import clean

__all__ = ["ResetWatch", "boot_in"]

# A line with CONFIG_PRINTK_TIME; with CONFIG_PRINTK_CALLER, who printed it follows.
_LINE: Final = re.compile(rb"\[ *(\d+)\.(\d{6})\](?:\[ *[CT]\d+\])? (.*)")
# init/main.c, start_kernel: linux_banner is printed first.
_BANNER: Final = b"Linux version "

# By so many seconds CPUs that print at once may be in the wrong order.
_DISORDER: Final = 0.5

_SURE_SECONDS: Final = 4.0  # in which 40 kB come at 115,200 baud
_AHEAD_SECONDS: Final = 2.0  # of a boot: what was printed before there was a console comes at once

# Around a command's output (console/_shell.py, Bracketed).
_BEGINS, _ENDS = re.compile(rb"[\x1d\x1e]"), b"\x1f"
_COMMAND_SECONDS: Final = 20.0  # after which a command whose output has a kernel's first line ended
_LONGEST: Final = 4096


def boot_in(text: bytes, mark: int) -> bytes:
    """Return what a kernel has printed that has begun to boot behind a mark; nothing if none has.

    What the kernel before it has printed last may be on its way still. A kernel that is `quiet`
    does not print its first line, but its times begin anew.
    """
    begin = text.rfind(_BANNER, mark)
    last = None
    for match in _LINE.finditer(text):
        seconds = int(match[1]) + int(match[2]) / 1e6
        if last is not None and seconds < last - _DISORDER and match.start() >= mark:
            begin = max(begin, match.start())
        last = seconds
    return text[begin:] if begin >= 0 else b""


class ResetWatch:
    """Tells the first lines of a kernel that boots from those that dmesg(1) shows.

    The times in a kernel's lines pass as fast as time does. Those of a dump do not. What a command
    prints before its end is no boot, but if it does not end.

    :param clock: returns seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self.start()

    def start(self) -> None:
        """Watch from now on: the kernel that runs now is the one that is expected."""
        self._pending = b""
        self._banner: bytes | None = None
        self._at = 0.0
        self._in_command = False

    def feed(self, data: bytes) -> None:
        """Take what the console shows, as soon as it does."""
        *lines, self._pending = (self._pending + data).split(b"\n")
        self._pending = self._pending[-_LONGEST:]
        for line in lines:
            if _BEGINS.search(line):
                self._in_command = True
            if _ENDS in line and self._in_command:
                self._in_command, self._banner = False, None
            if match := _LINE.search(line):
                self._take(int(match[1]) + int(match[2]) / 1e6, match[3])

    def _take(self, seconds: float, text: bytes) -> None:
        now = self._clock()
        if text.startswith(_BANNER) and seconds == 0:
            self._banner, self._at = text, now
        elif self._banner is not None and seconds > now - self._at + _AHEAD_SECONDS:
            self._banner = None

    @property
    def banner(self) -> str | None:
        """The first line of the kernel that has booted since; None while none has."""
        wait = _COMMAND_SECONDS if self._in_command else _SURE_SECONDS
        if self._banner is None or self._clock() - self._at < wait:
            return None
        return clean(self._banner.decode("utf-8", "replace")).strip()
