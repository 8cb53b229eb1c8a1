"""Progress of long operations: a live line on a terminal, a line every 30 seconds elsewhere."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, Final, TextIO, cast

if TYPE_CHECKING:
    from rich.progress import Progress as Bars
    from rich.progress import TaskID

__all__ = ["Progress", "Silent", "Stage", "duration"]

_PREFIX: Final = "pytest-kgdb: "
_MINIMUM_SECONDS: Final = 5.0  # the end of a shorter stage is not reported


def duration(seconds: float) -> str:
    """Return a duration for messages: `0.4 s`, `12 s`, `6 min 10 s`, `1 h 02 min`."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02} min"


class Stage:
    """One long operation in progress."""

    def __init__(self, title: str) -> None:
        self.title = title
        self._lock = threading.Lock()
        self._begun = time.monotonic()
        self._done: int | None = None
        self._total: int | None = None
        self._text = ""

    def update(self, done: int | None = None, total: int | None = None, text: str = "") -> None:
        """Set how far the operation is; arguments that are not given leave their value unchanged.

        :param done: how much is done, of `total`.
        :param text: what is being done at present.
        """
        with self._lock:
            self._done = self._done if done is None else done
            self._total = self._total if total is None else total
            self._text = _clean(text) if text else self._text

    @property
    def elapsed(self) -> float:
        """Seconds since the operation began."""
        return time.monotonic() - self._begun

    def line(self) -> str:
        """Return the state of the operation, in one line."""
        return ", ".join(
            part for part in (self.title, self.count(), duration(self.elapsed), self._text) if part
        )

    def count(self) -> str:
        """Return `DONE of TOTAL`, as far as they are known."""
        if self._done is None:
            return ""
        # Totals are estimates (a kernel build's number of files): never "812 of 700".
        if self._total is None or self._done > self._total:
            return f"{self._done}"
        return f"{self._done} of {self._total}"

    @property
    def text(self) -> str:
        """What is being done at present."""
        return self._text


class Progress:
    """Reports the progress of long operations.

    :param stream: where the lines are written; standard error by default.
    :param live: whether to redraw one line; by default, if the stream is a terminal.
    :param interval: seconds between two lines if not `live`.
    """

    def __init__(
        self, stream: TextIO | None = None, *, live: bool | None = None, interval: float = 30.0
    ) -> None:
        self._stream = _Unfailing(sys.stderr if stream is None else stream)
        self._live = _is_terminal(self._stream) if live is None else live
        self._interval = interval
        self._lock = threading.RLock()
        self._bars: Bars | None = None
        self._open = 0

    def say(self, text: str) -> None:
        """Write one line."""
        self._line(_PREFIX + _clean(text))

    def print(self, lines: Iterable[str]) -> None:
        """Write lines as they are, for the user to copy: without a prefix, blanks unchanged."""
        for line in lines:
            self._line(_printable(line))

    def _line(self, text: str) -> None:
        with self._lock:
            if self._bars is not None:
                self._bars.console.print(text, markup=False, highlight=False, soft_wrap=True)
            else:
                self._write(text)

    @contextlib.contextmanager
    def stage(self, title: str) -> Iterator[Stage]:
        """Report the progress of one operation until the context ends."""
        stage = Stage(_clean(title))
        with self._drawn(stage) if self._live else self._written(stage):
            try:
                yield stage
            except BaseException:
                self.say(f"{stage.title}: stopped after {duration(stage.elapsed)}")
                raise
        if stage.elapsed >= _MINIMUM_SECONDS:
            self.say(f"{stage.title}: done in {duration(stage.elapsed)}")

    @contextlib.contextmanager
    def _written(self, stage: Stage) -> Iterator[None]:
        self.say(f"{stage.title} …")
        ended = threading.Event()

        def report() -> None:
            while not ended.wait(self._interval):
                self.say(stage.line())

        thread = threading.Thread(target=report, name=f"progress {stage.title}", daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()

    @contextlib.contextmanager
    def _drawn(self, stage: Stage) -> Iterator[None]:
        with self._lock:
            if self._bars is None:
                self._bars = _bars(self._stream)
                self._bars.start()
            bars = self._bars
            self._open += 1
            task = bars.add_task(stage.title, total=None, stage=stage)
        try:
            yield
        finally:
            with self._lock:
                self._remove(bars, task)

    def _remove(self, bars: Bars, task: TaskID) -> None:
        bars.remove_task(task)
        self._open -= 1
        if self._open == 0:
            self._bars = None
            bars.stop()

    def _write(self, text: str) -> None:
        self._stream.write(text + "\n")
        self._stream.flush()


class _Unfailing:
    """A stream whose reader may close it (`pytest | head`); a build must not fail for that."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        with contextlib.suppress(OSError, ValueError):
            return self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        with contextlib.suppress(OSError, ValueError):
            self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


class Silent(Progress):
    """Writes nothing; collects the lines in `lines`."""

    def __init__(self) -> None:
        super().__init__(live=False)
        self.lines: list[str] = []

    def say(self, text: str) -> None:
        """Append a line to `lines`."""
        self.lines.append(_clean(text))

    def print(self, lines: Iterable[str]) -> None:
        """Append lines to `lines`."""
        self.lines += map(_printable, lines)

    @contextlib.contextmanager
    def stage(self, title: str) -> Iterator[Stage]:
        """Run a stage without reporting it."""
        yield Stage(_clean(title))


def _bars(stream: _Unfailing) -> Bars:
    # Imported lazily: a warm start reports no progress, and the import takes 50 ms.
    from rich.console import Console
    from rich.progress import Progress as Bars
    from rich.progress import ProgressColumn, SpinnerColumn, Task
    from rich.text import Text

    class Line(ProgressColumn):
        def render(self, task: Task) -> Text:
            stage: Stage = task.fields["stage"]
            return Text(stage.line(), no_wrap=True, overflow="ellipsis")

    return Bars(
        SpinnerColumn(),
        Line(),
        console=Console(file=cast(TextIO, stream), force_terminal=True),
        refresh_per_second=4,
        transient=True,
        # pytest captures these itself.
        redirect_stdout=False,
        redirect_stderr=False,
    )


def _is_terminal(stream: _Unfailing) -> bool:
    return bool(stream.isatty()) and os.environ.get("TERM", "dumb") != "dumb"


def _clean(text: str) -> str:
    return _printable(" ".join(text.split()))


def _printable(text: str) -> str:
    """Replace control characters: names and compiler output may contain terminal escapes."""
    return "".join(char if char.isprintable() else "�" for char in text)
