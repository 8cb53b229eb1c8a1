"""What a console has shown: its newest part in memory, all of it in a file."""

from __future__ import annotations

import bisect
import io
import re
import threading
import time
from collections import deque
from collections.abc import Iterable
from pathlib import Path
from typing import Final

__all__ = ["KEPT_BYTES", "Transcript"]

_TIMES: Final = 50_000  # pieces whose times are kept

_NO_NEWLINE: Final = re.compile(rb"[^\n]")

KEPT_BYTES: Final = 16 * 1024 * 1024
"""At least so many bytes are kept in memory, for expect and reports."""


class Transcript:
    """The text of a console. A mark is an offset in it, counted from its beginning.

    All methods take the lock of :attr:`arrived`, which a caller may hold already.

    :param log: file to which every byte is appended.
    :param history: the beginning of the text.
    """

    def __init__(self, log: Path, history: bytes) -> None:
        self.arrived = threading.Condition()
        """Notified by the console when something was added, and when there may be news."""
        self._text = bytearray(history)
        self._text_start = 0  # the offset of _text: what was before is no longer in memory
        self._history_end = self._connection_start = len(history)
        # Where each piece ended, and when it came, by the monotonic clock.
        self._times: deque[tuple[int, float]] = deque(maxlen=_TIMES)
        self._file: io.BufferedWriter = log.open("ab")
        self._file.write(history)

    def add(self, data: bytes) -> None:
        """Add text at the end."""
        with self.arrived:
            self._text += data
            self._times.append((self.end, time.monotonic()))
            if not self._file.closed:
                self._file.write(data)
                self._file.flush()
            if len(self._text) > 2 * KEPT_BYTES:
                cut = len(self._text) - KEPT_BYTES
                del self._text[:cut]
                self._text_start += cut

    @property
    def start(self) -> int:
        """The offset of the first byte that is in memory."""
        with self.arrived:
            return self._text_start

    @property
    def end(self) -> int:
        """The offset of the end."""
        with self.arrived:
            return self._text_start + len(self._text)

    def since(self, mark: int, size: int | None = None) -> bytes:
        """Return what was added since a mark, as far as it is in memory.

        :param size: at most so many bytes; all otherwise.
        """
        with self.arrived:
            begin = max(0, mark - self._text_start)
            return bytes(self._text[begin : None if size is None else begin + size])

    def part(self, mark: int) -> tuple[bytes, int]:
        """Return what was added since a mark, as far as it is in memory, and where that begins."""
        with self.arrived:
            return self.since(mark), max(mark, self._text_start)

    def timed(self, mark: int, omitted: Iterable[tuple[int, int]] = ()) -> list[tuple[float, str]]:
        """Return the lines since a mark, as far as they are in memory, and when each began to come.

        By the monotonic clock; of a line that came before those whose time is kept, the first time.

        :param omitted: the spans of the text since the mark that are left out.
        """
        with self.arrived:
            (text, offset), times = self.part(mark), list(self._times)
        lines = []
        ends = [end for end, _ in times]
        masked = bytearray(text)
        for start, end in omitted:
            masked[start:end] = _NO_NEWLINE.sub(b"\0", text[start:end])
        for line in bytes(masked).split(b"\n"):
            index = min(bisect.bisect_right(ends, offset), len(times) - 1)
            shown = line.replace(b"\0", b"")
            if index >= 0 and shown.strip():
                lines.append((times[index][1], shown.decode("utf-8", "replace").rstrip("\r")))
            offset += len(line) + 1
        return lines

    def earlier(self, mark: int) -> bytes:
        """Return what the running kernel showed before a mark.

        That is the history, and what came since the last :meth:`restart`. What came in between
        was shown by kernels that were replaced, which may have printed the same records.
        """
        with self.arrived:
            history = self._text[: max(0, self._history_end - self._text_start)]
            begin = max(self._history_end, self._connection_start) - self._text_start
            return bytes(history + self._text[max(0, begin) : max(0, mark - self._text_start)])

    def restart(self, mark: int) -> None:
        """Take what comes after a mark for another kernel's, which was restored."""
        self._connection_start = mark

    def flush(self) -> None:
        """Flush the file."""
        with self.arrived:
            self._file.flush()

    def close(self) -> None:
        """Close the file. The text in memory stays."""
        with self.arrived:
            self._file.close()
