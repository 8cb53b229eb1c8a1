"""The kernel's log as a serial console shows it: records among what programs write."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

__all__ = ["LogLine", "console_lines", "kernel_records", "without_kernel_records"]

# A record of the kernel's log as a serial console shows it, with CONFIG_PRINTK_TIME and, where
# set, CONFIG_PRINTK_CALLER (kernel/printk/printk.c, info_print_prefix). The console driver holds
# the port's lock for the whole record, so a record is never broken up, while anything that a
# program writes may be broken by a record.
_RECORD: Final = re.compile(rb"\[ *\d+\.\d{6}\](?:\[ *[TC]\d+\])? [^\n]*\n")
_PARTS: Final = re.compile(r"\[ *(\d+\.\d{6})\](?:\[ *([TC]\d+)\])? (.*)", re.DOTALL)


@dataclass(frozen=True)
class LogLine:
    """One line of the kernel's log."""

    text: str
    """Without time and caller."""

    time: float | None = None
    """Seconds since the boot."""

    caller: str | None = None
    """Who printed it: `T` and the task's pid, or `C` and the CPU outside of any task."""

    seq: int = 0
    """Its place: the record's number in the log, or the offset on the console."""


def kernel_records(text: bytes) -> list[bytes]:
    """Return the kernel's log records in a console's text."""
    return _RECORD.findall(text)


def without_kernel_records(text: bytes, seen: Iterable[bytes] = ()) -> bytes:
    """Take the kernel's log records out of what a program wrote.

    A record that was on the console before, or comes twice, is the program's own doing
    (`dmesg`): the kernel writes each record once.

    :param seen: records that the console showed earlier.
    """
    known = set(seen)

    def judge(match: re.Match[bytes]) -> bytes:
        record = match.group()
        if record in known:
            return record
        known.add(record)
        return b""

    return _RECORD.sub(judge, text)


def console_lines(text: bytes, seen: Iterable[bytes] = (), *, offset: int = 0) -> list[LogLine]:
    """Return the log's lines in a console's text, each once.

    Two records that two CPUs printed in one microsecond, with the same words, count as one.

    :param seen: records that the console showed earlier: a program that shows them again
        (`dmesg`) is not the kernel.
    :param offset: of the text on the console.
    """
    known = set(seen)
    lines: list[LogLine] = []
    # The last record may have no end yet, where the kernel stopped in the midst of it.
    for match in _RECORD.finditer(text if text.endswith(b"\n") else text + b"\n"):
        record = match.group()
        if record in known:
            continue
        known.add(record)
        found = _PARTS.match(record.decode("utf-8", "replace").rstrip("\r\n"))
        assert found is not None
        lines.append(LogLine(found[3], float(found[1]), found[2], offset + match.start()))
    return lines
