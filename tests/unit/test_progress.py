"""What long work says."""

from __future__ import annotations

import io
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable

import pytest

from pytest_kgdb.progress import Progress, Silent, duration


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.04, "0.0 s"),
        (9.94, "9.9 s"),
        (9.96, "10 s"),
        (59.4, "59 s"),
        (59.6, "1 min 00 s"),
        (370, "6 min 10 s"),
        (3599.9, "1 h 00 min"),
        (3720, "1 h 02 min"),
    ],
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_a_line_is_a_line() -> None:
    stream = io.StringIO()
    Progress(stream).say("a note\nin two lines\x1b[31m")
    assert stream.getvalue() == "pytest-kgdb: a note in two lines\N{REPLACEMENT CHARACTER}[31m\n"


def test_lines_to_copy_are_as_they_are() -> None:
    stream, silent = io.StringIO(), Silent()
    for progress in (Progress(stream), silent):
        progress.print(["gdb -ex  'a  b'\x1b[31m", "# next"])
    assert stream.getvalue() == "gdb -ex  'a  b'\N{REPLACEMENT CHARACTER}[31m\n# next\n"
    assert silent.lines == stream.getvalue().splitlines()


def test_work_is_announced_and_reported_on() -> None:
    stream = io.StringIO()
    with Progress(stream, interval=0.01).stage("building Linux 6.1") as stage:
        assert stream.getvalue() == "pytest-kgdb: building Linux 6.1 …\n"
        stage.update(812, 2100, "fs/namei.o")
        until(lambda: stream.getvalue().count("fs/namei.o") >= 2)
        stage.update(813)
        until(lambda: "813" in stream.getvalue())
    lines = stream.getvalue().splitlines()
    assert re.fullmatch(
        r"pytest-kgdb: building Linux 6.1, 812 of 2100, 0.\d s, fs/namei.o",
        next(line for line in lines if "812" in line),
    )
    assert re.search(r"813 of 2100, .*fs/namei.o$", lines[-1])


def test_work_that_fails_says_so_and_leaves_no_thread() -> None:
    stream = io.StringIO()
    before = threading.active_count()
    with pytest.raises(KeyboardInterrupt), Progress(stream).stage("building"):
        raise KeyboardInterrupt
    assert re.search(r"building: stopped after 0.\d s\n$", stream.getvalue())
    assert threading.active_count() == before


def test_the_end_of_long_work_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pytest_kgdb.progress._MINIMUM_SECONDS", 0.0)
    stream = io.StringIO()
    with Progress(stream).stage("building"):
        pass
    assert re.search(r"building: done in 0.\d s\n$", stream.getvalue())


def test_more_than_was_estimated() -> None:
    with Silent().stage("building") as stage:
        stage.update(900, 812)
        assert stage.count() == "900"


def test_a_terminal_gets_one_live_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    stream = Terminal()
    progress = Progress(stream)
    before = threading.active_count()
    with progress.stage("building [red]it") as stage:
        stage.update(1, 2, "a.o")
        until(lambda: "building [red]it, 1 of 2" in stream.getvalue())
        progress.say("a [bold]note")
        with progress.stage("waiting"):
            until(lambda: "waiting, 0." in stream.getvalue())
    text = stream.getvalue()
    assert "pytest-kgdb: a [bold]note\n" in text
    until(lambda: threading.active_count() == before)
    progress.say("after")
    assert stream.getvalue().endswith("pytest-kgdb: after\n")


def test_no_live_line_on_a_dumb_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "dumb")
    stream = Terminal()
    with Progress(stream).stage("building"):
        pass
    assert stream.getvalue() == "pytest-kgdb: building …\n"


def test_a_reader_that_went_away_stops_nothing() -> None:
    class Gone(io.StringIO):
        def write(self, text: str) -> int:
            raise BrokenPipeError

    progress = Progress(Gone())
    progress.say("hello")
    with progress.stage("building"):
        pass


def test_a_live_reader_that_went_away_stops_nothing() -> None:
    class Gone(Terminal):
        def write(self, text: str) -> int:
            raise BrokenPipeError

    progress = Progress(Gone(), live=True)
    with progress.stage("building"):
        progress.say("hello")


def test_silence_keeps_what_was_said() -> None:
    silent = Silent()
    silent.say("one")
    with silent.stage("building"):
        silent.say("two")
    assert silent.lines == ["one", "two"]


def test_the_import_is_light() -> None:
    code = "import sys, pytest_kgdb.progress; print('rich' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
