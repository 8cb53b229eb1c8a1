"""Lines of the kernel's log, and its records among what programs write on a serial console."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, Literal, TypeVar

__all__ = [
    "LogLine",
    "LogSource",
    "console_lines",
    "kernel_records",
    "record_spans",
    "without_kernel_records",
    "without_printed",
    "without_records",
]

# A record as a serial console shows it, with CONFIG_PRINTK_TIME and, where set,
# CONFIG_PRINTK_CALLER (kernel/printk/printk.c, info_print_prefix). The console driver holds the
# port's lock for the whole record: a record is never interrupted, but a record may interrupt
# anything that a program writes. It has no control characters such as the tags around a command.
_RECORD: Final = re.compile(rb"\[ *\d+\.\d{6}\](?:\[ *[TC]\d+\])? [^\n\x06\x1d-\x1f]*\n")
_PARTS: Final = re.compile(r"\[ *(\d+\.\d{6})\](?:\[ *([TC]\d+)\])? (.*)", re.DOTALL)

# What the driver prints of records that it lost (kernel/printk/printk.c, console_emit_next_record;
# printk.h, CONSOLE_DROPPED).
_DROPPED: Final = re.compile(rb"\*\* \d+ printk messages dropped \*\* ?\r?\n")

# A long line is cut on the console (kernel/printk/printk.c, record_print_text).
_COMPARED: Final = 900

_Key = TypeVar("_Key")

LogSource = Literal["ring", "console"]
"""Where lines were read: in the ring buffer in the guest's memory, or on the serial console."""


@dataclass(frozen=True)
class LogLine:
    """One line of the kernel's log."""

    text: str
    """Without time and caller."""

    time: float | None = None
    """Seconds since the boot."""

    caller: str | None = None
    """What printed it: `T` and the task's pid, or `C` and the CPU outside of any task."""

    seq: int = 0
    """Its place in its source: the number of its record in the ring, the offset on the console."""

    source: LogSource = "ring"

    by_program: bool = False
    """Whether a program has written it (/dev/kmsg); on the console that is not known."""


def kernel_records(text: bytes) -> list[bytes]:
    """Return the kernel's log records in a console's text."""
    return _RECORD.findall(text)


def record_spans(text: bytes, start: int, end: int) -> list[tuple[int, int]]:
    """Return where the kernel's log records are in a part of a console's text."""
    return [match.span() for match in _RECORD.finditer(text, start, end)]


def without_kernel_records(text: bytes, seen: Iterable[bytes] = ()) -> bytes:
    """Remove the kernel's log records from the output of a program.

    The kernel writes each record once. A record that comes twice, or was on the console before,
    was written by the program (`dmesg`) and is kept.

    :param seen: records that the console showed earlier.
    """
    earlier = set(seen)

    def judge(match: re.Match[bytes]) -> bytes:
        record = match.group()
        if record in earlier:
            return record
        earlier.add(record)
        return b""

    return _DROPPED.sub(b"", _RECORD.sub(judge, text))


def without_records(text: bytes) -> bytes:
    """Remove everything that has the form of a log record, whoever wrote it."""
    return _DROPPED.sub(b"", _RECORD.sub(b"", text))


def without_printed(text: bytes, printed: Iterable[LogLine]) -> bytes:
    """Remove the records that the kernel has printed, each as often as it was printed.

    What else has the form of a record was written by a program (`dmesg`), and is kept. The kernel
    prints a record before a program can read it.
    """
    left = Counter(_key(f"{line.time:.6f}", line.text) for line in printed)
    rest = _RECORD.sub(lambda match: _taken(left, _parsed(match), match.group()), text)
    # An overrun of the port's buffer garbles a record: it is told by its time.
    times = Counter(time for time, _ in left.elements())
    if times:
        rest = _RECORD.sub(lambda match: _taken(times, _parsed(match)[0], match.group()), rest)
    return _DROPPED.sub(b"", rest)


def _taken(left: Counter[_Key], key: _Key, record: bytes) -> bytes:
    """Return what stays of a record: nothing, if there is one left to be taken."""
    if not left[key]:
        return record
    left[key] -= 1
    return b""


def _parsed(match: re.Match[bytes]) -> tuple[str, str]:
    parts = _PARTS.match(match.group().decode("utf-8", "replace").rstrip("\r\n"))
    assert parts is not None
    return _key(parts[1], parts[3])


def _key(time: str, words: str) -> tuple[str, str]:
    return time, words.replace("\r", "")[:_COMPARED]


def console_lines(text: bytes, seen: Iterable[bytes] = (), *, offset: int = 0) -> list[LogLine]:
    """Return the lines of the kernel's log in a console's text, each once.

    Records of two CPUs with the same words and the same microsecond count as one.

    :param seen: records that the console showed earlier: if they come again, a program
        (`dmesg`) wrote them.
    :param offset: offset of the text on the console.
    """
    earlier = set(seen)
    lines: list[LogLine] = []
    # The last record may have no end yet, where the kernel stopped in the midst of it.
    for match in _RECORD.finditer(text if text.endswith(b"\n") else text + b"\n"):
        record = match.group()
        if record in earlier:
            continue
        earlier.add(record)
        parts = _PARTS.match(record.decode("utf-8", "replace").rstrip("\r\n"))
        assert parts is not None
        time, caller, words = parts.groups()
        lines.append(LogLine(words, float(time), caller, offset + match.start(), "console"))
    return lines
