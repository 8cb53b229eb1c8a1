"""The way to the user's terminal while pytest captures the output of tests."""

from __future__ import annotations

import contextlib
import io
import sys
import threading
from collections.abc import Iterable, Iterator
from typing import TextIO, cast

import pytest

from ..progress import Progress, Stage


def is_worker(config: pytest.Config) -> bool:
    """Whether this process is one of pytest-xdist's workers."""
    return hasattr(config, "workerinput")


@contextlib.contextmanager
def uncaptured(config: pytest.Config) -> Iterator[None]:
    """Let what is written reach the terminal."""
    manager = config.pluginmanager.get_plugin("capturemanager")
    if manager is None:
        yield
        return
    with manager.global_and_fixture_disabled():
        yield


class TerminalProgress(Progress):
    """Progress that pytest's capture does not swallow, and that keeps off the line of dots."""

    def __init__(self, config: pytest.Config) -> None:
        reporter = config.pluginmanager.get_plugin("terminalreporter")
        if is_worker(config) or reporter is None:
            # A worker's standard output is pytest-xdist's channel. No live lines: the workers and
            # the controller would draw over each other's.
            super().__init__(sys.__stderr__, live=False)
        else:
            super().__init__(cast(TextIO, _Writer(reporter)))
        self._config = config
        self._reporter = reporter
        self._worker = f"[{config.workerinput['workerid']}] " if is_worker(config) else ""  # type: ignore[attr-defined]
        self._depth = 0
        self._depth_lock = threading.Lock()

    def say(self, text: str) -> None:
        """Write one line, once."""
        with self._shown():
            super().say(self._worker + text)

    def print(self, lines: Iterable[str]) -> None:
        """Write lines as they are, for the user to copy."""
        with self._shown():
            super().print(lines)

    @contextlib.contextmanager
    def stage(self, title: str) -> Iterator[Stage]:
        """Report on one piece of work until the context is left."""
        with self._shown(), super().stage(title) as stage:
            yield stage

    @contextlib.contextmanager
    def _shown(self) -> Iterator[None]:
        # A stage says its lines from a thread: only the outermost use touches the capture.
        with self._depth_lock:
            self._depth += 1
            outermost = self._depth == 1
        try:
            if outermost:
                with uncaptured(self._config):
                    if self._reporter is not None:
                        self._reporter.ensure_newline()
                    yield
            else:
                yield
        finally:
            with self._depth_lock:
                self._depth -= 1


class _Writer(io.TextIOBase):
    """pytest's terminal as a text stream."""

    def __init__(self, reporter: pytest.TerminalReporter) -> None:
        super().__init__()
        self._reporter = reporter

    def write(self, text: str) -> int:
        self._reporter.write(text, flush=True)
        return len(text)

    def isatty(self) -> bool:
        return bool(self._reporter.isatty)

    def writable(self) -> bool:
        return True
