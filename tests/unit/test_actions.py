"""The log of what a test does: its order, its texts, its bounds, its cost."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from fake_gdb import Parts

from pytest_kgdb.actions import ActionLog, recorded
from pytest_kgdb.console import Result
from pytest_kgdb.debugger import Restored, Resumed, StopRecord, Value
from pytest_kgdb.errors import KgdbError, TimeoutError

FRAME = {"func": "do_open", "file": "/src/fs/open.c", "fullname": "/src/fs/open.c", "line": "7"}


@recorded("do", "outer", "fail_each")
class Handle:
    def __init__(self, log: ActionLog) -> None:
        self._actions = log

    def do(self, *args: object, **kwargs: object) -> object:
        result = kwargs.get("result")
        if isinstance(result, BaseException):
            raise result
        return result

    def outer(self) -> object:
        return self.do("inner")

    def fail_each(self) -> object:
        self.do("the recipe's")
        return self._actions.by_test(lambda: self.do("scenario"))


class Named:
    """A module, say: `unload(module)`."""

    def __init__(self, name: str) -> None:
        self.name = name

    @property
    def state(self) -> str:
        raise AssertionError("the kernel is asked")


class Gdb:
    """Answers for a task."""

    asked = 0

    def numbers(self, *expressions: str) -> list[int]:
        self.asked += 1
        return [41, int.from_bytes(b"sh\0junk!", "little", signed=True), -1]


class NoTask:
    """A gdb that cannot tell the task."""

    def numbers(self, *_expressions: str) -> list[int]:
        raise KgdbError("there is no current")


class Source:
    """The kernel's source, in /src."""

    def name(self, file: str) -> str:
        return file.removeprefix("/src/")

    def read(self, file: str, address: int) -> bytes:
        raise KgdbError(f"{file} is not available")

    def line(self, file: str, address: int) -> int | None:
        raise AssertionError("the frame asks")


@pytest.fixture
def log() -> ActionLog:
    log = ActionLog()
    log.attach(NoTask(), Source())
    return log


@pytest.fixture
def handle(log: ActionLog) -> Handle:
    return Handle(log)


def texts(log: ActionLog) -> list[str]:
    return [line.split("ms  ", 1)[1] for line in log.lines()]


def stop(log: ActionLog, reason: str = "breakpoint", **more: Any) -> None:
    log.stopped(StopRecord({"frame": FRAME}))
    frame = SimpleNamespace(file="fs/open.c", path="/src/fs/open.c", line=7)
    fields = {"breakpoint": SimpleNamespace(number=3), "message": None, "return_value": None}
    fields["frame"] = frame
    log.recorded(SimpleNamespace(reason=reason, **(fields | more)))  # type: ignore[arg-type]


def test_a_breakpoint_is_in_its_function(log: ActionLog) -> None:
    """gdb's record has the line of what is inlined further down; the frame is asked for once."""
    asked = []

    class Stopped(SimpleNamespace):
        @property
        def frame(self) -> SimpleNamespace:
            asked.append(self)
            return SimpleNamespace(file="fs/read.c", path="/src/fs/read.c", line=3)

    for _ in range(3):
        log.stopped(StopRecord({"frame": {**FRAME, "addr": "0x10"}}))
        at = {"breakpoint": SimpleNamespace(number=3), "message": None, "return_value": None}
        log.recorded(Stopped(reason="breakpoint", **at))  # type: ignore[arg-type]
    assert texts(log) == ["  breakpoint 3 in do_open (fs/read.c:3)"] * 3
    assert (log.actions[0].path, log.actions[0].line) == ("/src/fs/read.c", 3)
    assert len(asked) == 1


def test_an_oops_is_where_its_frame_is(log: ActionLog) -> None:
    """gdb's record names NULL, and the caller of inlined code that begins there."""
    place = {"file": "fs/read.c", "path": "/src/fs/read.c", "line": 9, "address": 0}
    stop(log, "oops", breakpoint=None, frame=SimpleNamespace(function="do_read", **place))
    assert texts(log) == ["  oops in do_read (fs/read.c:9)"]
    assert (log.actions[0].path, log.actions[0].line) == ("/src/fs/read.c", 9)
    log.begin()
    nowhere = dict.fromkeys(place) | {"address": 0}
    stop(log, "oops", breakpoint=None, frame=SimpleNamespace(function=None, **nowhere))
    assert texts(log) == ["  oops in 0x0"]


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ((), "do"),
        (("cat /proc/version",), "do cat /proc/version"),
        ((3, -1, 0xFFFFFFFF81000000), "do 3, -1, 0xffffffff81000000"),
        ((None, True, 0.5, b"\x01"), "do None, True, 0.5, b'\\x01'"),
        ((["a", 1], Path("/tmp/x")), "do [a, 1], /tmp/x"),
        ((list(range(9)),), "do [0, 1, 2, 3, 4, …]"),
        (("one\ntwo",), "do one …"),
        (("x" * 500,), f"do {'x' * 100} …"),
        ((test_function := lambda: None,), "do <lambda>"),
        ((object(),), "do object"),
        ((Named("demo"),), "do demo"),
    ],
)
def test_arguments(log: ActionLog, handle: Handle, arguments: Any, text: str) -> None:
    handle.do(*arguments)
    assert texts(log) == [text]


def test_keywords(log: ActionLog, handle: Handle) -> None:
    handle.do("f", condition="x == 1", temporary=True)
    assert texts(log) == ["do f, condition=x == 1, temporary=True"]


def test_results(log: ActionLog, handle: Handle, parts: Parts) -> None:
    results = [Result(0, "fine"), Result(2, "bad"), None, "text", Path("/x"), object()]
    results += [
        Value(parts.debugger, record, "x")
        for record in (
            {"code": "int", "type": "int", "int": -2, "text": "-2"},
            {"code": "int", "type": "int", "optimized_out": True},
            {"code": "struct", "type": "struct x"},
        )
    ]
    for result in results:
        assert handle.do(result=result) is result
    assert [text.partition(" → ")[2] for text in texts(log)] == [
        *("", "status 2", "", "text", "/x", "", "-2", "<optimized out>", ""),
    ]


def test_errors(log: ActionLog, handle: Handle) -> None:
    with pytest.raises(TimeoutError):
        handle.do(result=TimeoutError("it ran on\nthe console", hint="wait"))
    with pytest.raises(ZeroDivisionError):
        handle.do(result=ZeroDivisionError())
    outcomes = [text.partition(" → ")[2] for text in texts(log)]
    assert outcomes == ["TimeoutError: it ran on …", "ZeroDivisionError"]
    assert all(action.failed for action in log.actions)


def test_a_methods_own_calls_are_not_the_tests(log: ActionLog, handle: Handle) -> None:
    handle.outer()
    assert texts(log) == ["outer"]
    log.begin()
    handle.fail_each()  # its scenario is
    handle.do("after")
    assert texts(log) == ["fail_each", "do scenario", "do after"]


def test_stops(log: ActionLog) -> None:
    log.attach(Gdb(), Source())
    log.resumed(Resumed(stepping=False))
    log.resumed(Resumed(stepping=False, silent=True))  # no test has seen it stop
    stop(log)
    stop(log, "panic", breakpoint=None, message="dead")
    (first, second) = texts(log)
    assert first.startswith("  breakpoint 3 in do_open (fs/open.c:7), sh[41], after ")
    assert second == "  panic, sh[41], dead"
    action = log.actions[0]
    assert (action.path, action.line, action.function) == ("/src/fs/open.c", 7, "do_open")
    ((begin, end),) = log.runs
    assert 0 <= begin <= end


def test_what_the_kernel_does_not_say_is_left_out(log: ActionLog) -> None:
    def refuse(*_: object) -> list[int]:
        raise KgdbError("there is no current")

    log.attach(SimpleNamespace(numbers=refuse), Source())
    stop(log)
    log.stopped(StopRecord({}))
    log.recorded(SimpleNamespace(reason="int3", breakpoint=None, message=None))  # type: ignore[arg-type]
    assert texts(log) == ["  breakpoint 3 in do_open (fs/open.c:7)", "  int3"]


def test_what_was_returned(log: ActionLog, parts: Parts) -> None:
    record = {"code": "int", "type": "long", "int": -2, "text": "-2"}
    stop(log, "finished", breakpoint=None, return_value=Value(parts.debugger, record, "$1"))
    assert texts(log) == ["  finished in do_open (fs/open.c:7), → -2 (-ENOENT)"]


def test_the_end_of_a_guests_command_is_no_stop(log: ActionLog) -> None:
    log.call("run", "true", lambda: stop(log, "interrupt", breakpoint=None))
    assert texts(log) == ["run true"]
    log.call("interrupt", "", lambda: stop(log, "interrupt", breakpoint=None))
    assert texts(log)[1:] == ["interrupt", "  interrupt"]


def test_stops_that_a_test_has_not_asked_for(log: ActionLog) -> None:
    def load() -> None:
        stop(log, "interrupt", breakpoint=None)
        stop(log, breakpoint=None)  # at an internal breakpoint
        stop(log)

    log.call("modules.load_stopped", "demo", load)
    assert texts(log) == ["modules.load_stopped demo", "  breakpoint 3 in do_open (fs/open.c:7)"]
    log.begin()
    stop(log, breakpoint=None)  # at one that execute() has made
    assert texts(log) == ["  breakpoint in do_open (fs/open.c:7)"]
    log.begin()
    log.stopped(StopRecord({}, passing=True))
    log.recorded(SimpleNamespace(reason="interrupt", breakpoint=None, message=None))  # type: ignore[arg-type]
    assert texts(log) == []


def test_a_restored_or_refused_kernel_does_not_run(log: ActionLog) -> None:
    log.resumed(Resumed(stepping=False))
    log.restored(Restored(keep_breakpoints=True))
    log.resumed(Resumed(stepping=False))
    assert len(log.runs) == 2
    assert log.refused("no") == ""
    assert len(log.runs) == 1


def test_it_is_bounded(log: ActionLog, handle: Handle) -> None:
    gdb = Gdb()
    log.attach(gdb, Source())
    for number in range(1000):
        handle.do(number)
        stop(log)
    assert log.dropped == 2000 - 250
    assert gdb.asked == 20
    lines = log.lines()
    assert len(lines) == 251
    assert lines[0].endswith("do 0")
    assert lines[50].endswith("1750 more …")
    assert lines[-2].endswith("do 999")
    log.begin()
    assert log.lines() == []
    assert log.dropped == 0


def test_spies_are_kept_for_their_calls(log: ActionLog, handle: Handle) -> None:
    spy = SimpleNamespace(function="vfs_read", calls=())
    handle.do(result=spy)
    assert log.instruments == [spy]


def test_methods_keep_their_names_and_documents() -> None:
    assert Handle.do.__name__ == "do"
    with pytest.raises(KeyError):
        recorded("nothing")(Handle)
