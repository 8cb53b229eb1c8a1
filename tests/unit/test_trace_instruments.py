"""The instruments of a machine: what they are given, their stops, their end."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from fake_gdb import FakeGdb, Parts
from fake_hooks import ENTRY, HookedRelay, compiled, freeing

from pytest_kgdb.debugger import Restored, Resumed
from pytest_kgdb.errors import KgdbError
from pytest_kgdb.rsp import CONTINUE, Return
from pytest_kgdb.trace import Instruments
from pytest_kgdb.trace._spy import Cost

INT = {"type": "int", "kind": "int", "size": 4, "signed": True}


class Pointers:
    """Knows how a function fails that returns a pointer."""

    failure: int | None = -12

    def of(self, target: Any) -> int | None:
        assert target.definition == ("fs/read_write.c", 454)
        return self.failure


@pytest.fixture
def pointers() -> Pointers:
    return Pointers()


@pytest.fixture
def relay() -> HookedRelay:
    return HookedRelay()


@pytest.fixture
def returns() -> dict[str, Any]:
    """What the function returns."""
    return dict(INT)


@pytest.fixture
def instruments(
    parts: Parts, gdb: FakeGdb, relay: HookedRelay, returns: Any, pointers: Pointers
) -> Instruments:
    def function(
        location: str, expressions: list[str], conditions: int, cpu: str
    ) -> dict[str, Any]:
        assert conditions in (0, 1), "what `when` says"
        codes = {
            "count == 17": compiled("reg 3", "const8 17", "equal"),
            "count + 1": compiled("reg 3", "const8 1", "add"),
            "&count": compiled("reg 3", kind="struct"),
            "panic_timeout + 1": compiled("const8 4"),
            "1 << 40": compiled("const64 1099511627776"),
        }
        place = {
            "name": location, "address": ENTRY, "inlined": False, "file": "fs/read_write.c",
            "line": 454, "definition": ["fs/read_write.c", 454], "returns": returns,
            "arguments": [["count", compiled("reg 3")]],
            "expressions": [codes.get(text, compiled("const8 7")) for text in expressions],
        }  # fmt: skip
        return {"places": [place]}

    gdb.agent["function"] = function
    return Instruments(
        parts.debugger,
        parts.run_control,
        relay,
        parts.locations,
        SimpleNamespace(name=str),
        freeing(relay),
        pointers,  # type: ignore[arg-type]
    )


def override(instruments: Instruments, returns: object = -12, **options: Any) -> Any:
    options = {"times": None, "when": None, "skip": 0, **options}
    return instruments.override("vfs_read", returns, **options)


def test_a_spy(instruments: Instruments, relay: HookedRelay) -> None:
    made: list[int] = []
    instruments.on_insert(lambda: made.append(1))
    calls = instruments.spy("vfs_read", "count == 17", returns=False, keep=10)
    assert relay.arrive(dx=17) == CONTINUE
    assert calls.calls[0]["count == 17"] == 1, "one expression need not be a list"
    assert made == [1]
    with pytest.raises(KgdbError, match="keeps at least one call, not 0"):
        instruments.spy("vfs_read", (), returns=False, keep=0)


def test_whose_calls_have_taken_long(
    instruments: Instruments, relay: HookedRelay, monkeypatch: Any
) -> None:
    """Since the kernel was resumed, by what they have cost."""
    instruments.spy("vfs_write", (), returns=False, keep=10)
    slow = instruments.spy("vfs_read", (), returns=False, keep=10)
    relay.arrive()
    instruments.resumed(Resumed(stepping=False))
    assert instruments.slowed_by() == ""
    monkeypatch.setattr(type(slow), "cost", Cost(300, 0.01, 0.02))
    slow.count += 99
    instruments.resumed(Resumed(stepping=False, silent=True))  # of none that a test sees
    assert instruments.slowed_by() == (
        "99 calls of vfs_read were spied on meanwhile, for 3 s: spy on what is called less often"
    )
    instruments.resumed(Resumed(stepping=False))
    slow.count += 9
    assert instruments.slowed_by() == "", "for 0.3 s"


@pytest.mark.parametrize(
    ("value", "register"),
    [
        (-12, 0xFFFFFFF4), (True, 1), ("-ENOMEM", 0xFFFFFFF4), ("ERR_PTR(-EIO)", 0xFFFFFFFB),
        ("NULL", 0), ("true", 1), ("false", 0), ("panic_timeout + 1", 4),
        (SimpleNamespace(value_=lambda: 9), 9),
    ],
)  # fmt: skip
def test_what_an_override_returns(
    instruments: Instruments, relay: HookedRelay, value: object, register: int
) -> None:
    override(instruments, value)
    assert relay.arrive() == Return(register)


def test_a_value_of_gdbs_has_an_index(instruments: Instruments, relay: HookedRelay) -> None:
    class Index:
        def __index__(self) -> int:
            return 5

    override(instruments, Index())
    assert relay.arrive() == Return(5)


def test_what_an_override_cannot_return(instruments: Instruments) -> None:
    with pytest.raises(KgdbError, match=r"cannot return \[\]"):
        override(instruments, [])
    for options in ({"skip": -1}, {"times": 0}):
        with pytest.raises(KgdbError, match="skips 0 calls or more"):
            override(instruments, **options)


def test_an_expression_is_evaluated_at_each_call(
    instruments: Instruments, relay: HookedRelay
) -> None:
    override(instruments, "count + 1", when="count == 17")
    assert [relay.arrive(dx=size) for size in (3, 17)] == [CONTINUE, Return(18)]
    instruments.end()
    override(instruments, "count + 1")
    assert [relay.arrive(dx=size) for size in (3, 4)] == [Return(4), Return(5)]


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("&count", "vfs_read cannot return '&count', which is no number"),
        ("1 << 40", "int, of 32 bits, which cannot hold 1099511627776"),
        (1 << 31, "int, of 32 bits, which cannot hold 2147483648"),
    ],
)
def test_what_does_not_fit_is_refused_at_once(
    instruments: Instruments, relay: HookedRelay, value: object, message: str
) -> None:
    with pytest.raises(KgdbError, match=message):
        override(instruments, value)
    assert relay.hooks == {}


def test_a_condition_is_compiled_or_called(instruments: Instruments, relay: HookedRelay) -> None:
    override(instruments, when="count == 17")
    assert [relay.arrive(dx=size) for size in (3, 17)] == [CONTINUE, Return(0xFFFFFFF4)]
    instruments.end()
    override(instruments, when=lambda call: call["count"] == 3)
    assert [relay.arrive(dx=size) for size in (3, 17)] == [Return(0xFFFFFFF4), CONTINUE]


@pytest.mark.parametrize(
    ("kind", "failure"), [("int", -12), ("ptr", 0), ("ptr", -12), ("string", 0)]
)
def test_how_a_function_fails(
    instruments: Instruments,
    pointers: Pointers,
    returns: dict[str, Any],
    kind: str,
    failure: int,
) -> None:
    returns.update(kind=kind, type=kind)
    pointers.failure = failure
    assert instruments.default_failure("vfs_read") == failure


@pytest.mark.parametrize(
    ("kind", "words", "hint"),
    [
        ("void", "vfs_read returns nothing, so that none of its callers can see it fail", "take a"),
        ("struct", "how vfs_read fails is not known: it returns struct", "say so: returns="),
        ("ptr", "vfs_read fails is not known: neither its source nor its callers say", "'-ENOMEM'"),
    ],
)
def test_how_a_function_fails_is_not_known(
    instruments: Instruments,
    pointers: Pointers,
    returns: dict[str, Any],
    kind: str,
    words: str,
    hint: str,
) -> None:
    returns.update(kind=kind, type=kind)
    pointers.failure = None
    with pytest.raises(KgdbError, match=words) as error:
        instruments.default_failure("vfs_read")
    assert hint in (error.value.hint or "")


def test_a_running_kernel_takes_none(instruments: Instruments, parts: Parts) -> None:
    parts.run_control.resume()
    with pytest.raises(KgdbError, match=r"spy\(\) needs a stopped kernel"):
        instruments.spy("vfs_read", (), returns=False, keep=10)
    with pytest.raises(KgdbError, match=r"override\(\) needs a stopped kernel"):
        override(instruments)


# Stops


def frames(limit: int, behind: bool = False) -> dict[str, Any]:
    names = ("vfs_read", "ksys_read", "do_syscall_64")
    return {
        "frames": [
            {"level": level, "function": name, "address": 1, "file": "./a.c", "line": level}
            for level, name in enumerate(names)
        ]
    }


def test_the_callers_of_a_forced_call_are_noted_unseen(
    instruments: Instruments, parts: Parts, gdb: FakeGdb, relay: HookedRelay
) -> None:
    gdb.agent["frames"] = frames
    failing = override(instruments, times=1, trace=True)
    opened = parts.table.insert("do_sys_openat2")

    def forced() -> None:
        relay.arrive()
        gdb.on_resume = lambda: gdb.hit(opened.number)
        gdb.signal("SIGTRAP", "vfs_read")

    assert parts.stop_by(forced).breakpoint is opened
    assert failing.path == ("#1 ksys_read at a.c:1", "#2 do_syscall_64 at a.c:2")


def test_a_breakpoint_at_the_same_place_is_seen(
    instruments: Instruments, parts: Parts, gdb: FakeGdb, relay: HookedRelay
) -> None:
    gdb.agent["frames"] = frames
    failing = override(instruments, trace=True)
    read = parts.table.insert("vfs_read")

    def forced() -> None:
        relay.arrive()
        gdb.hit(read.number)

    assert parts.stop_by(forced).breakpoint is read
    assert failing.path[0] == "#1 ksys_read at a.c:1"


def test_what_a_tests_own_function_raised_is_raised(
    instruments: Instruments, parts: Parts, gdb: FakeGdb, relay: HookedRelay
) -> None:
    gdb.agent["frames"] = frames
    parts.run_control.resume()
    relay.error = ZeroDivisionError("division by zero")
    gdb.signal("SIGTRAP", "vfs_read")
    with pytest.raises(
        KgdbError, match="an instrument stopped the kernel: ZeroDivisionError: division by zero"
    ) as error:
        parts.run_control.wait()
    assert error.value.__cause__.__class__ is ZeroDivisionError
    assert error.value.by_instrument
    assert parts.run_control.stopped
    assert parts.run_control.wait().reason == "int3", "once"


# The end


def test_another_test_begins_without(instruments: Instruments, relay: HookedRelay) -> None:
    spy = instruments.spy("vfs_read", (), returns=False, keep=10)
    instruments.restored(Restored(keep_breakpoints=True))
    assert spy.active
    instruments.restored(Restored(keep_breakpoints=False))
    assert not spy.active
    assert relay.hooks == {}


def test_those_in_memory_that_is_freed(instruments: Instruments) -> None:
    spy = instruments.spy("vfs_read", (), returns=False, keep=10)
    assert instruments.within(lambda address: address == ENTRY) == [spy]
    assert instruments.within(lambda address: address != ENTRY) == []
    spy.delete()
    assert instruments.within(lambda address: True) == []


# The calls in a patch's lines

POINTER = {"type": "struct file *", "kind": "ptr", "size": 8, "signed": False}
UNSIGNED = {"type": "unsigned long", "kind": "int", "size": 8, "signed": False}


@pytest.mark.parametrize(
    ("kind", "failure", "checked", "value"),
    [
        (INT, None, False, -12), (POINTER, -12, False, -12), (POINTER, 0, False, 0),
        (POINTER, 0, True, -12), ({**INT, "kind": "void"}, None, False, None),
    ],
)  # fmt: skip
def test_how_a_function_fails_that_nobody_has_looked_at(
    instruments: Instruments,
    pointers: Pointers,
    returns: dict[str, Any],
    kind: dict[str, Any],
    failure: int | None,
    checked: bool,
    value: int | None,
) -> None:
    returns.update(kind)
    pointers.failure = failure
    assert instruments.likely_failure("vfs_read", checked=checked) == value


@pytest.mark.parametrize("kind", [UNSIGNED, {**INT, "size": 2}, {**INT, "kind": "bool"}])
def test_how_it_fails_cannot_be_told(
    instruments: Instruments, returns: dict[str, Any], kind: dict[str, Any]
) -> None:
    returns.update(kind)
    with pytest.raises(KgdbError, match=r"how it fails is not known\n.*returns="):
        instruments.likely_failure("vfs_read", checked=True)


def test_how_a_pointer_fails_cannot_be_told(
    instruments: Instruments, pointers: Pointers, returns: dict[str, Any]
) -> None:
    returns.update(POINTER)
    pointers.failure = None
    with pytest.raises(KgdbError, match=r"is not known: neither.*\n.*returns={'vfs_read': 'NULL'}"):
        instruments.likely_failure("vfs_read", checked=False)


def test_arrivals(instruments: Instruments, relay: HookedRelay) -> None:
    arrivals = instruments.arrivals([ENTRY, ENTRY + 8])
    assert relay.arrive(ENTRY + 8) == CONTINUE
    assert arrivals.reached == {ENTRY + 8}
    failing = override(instruments, times=1, skip=1)
    arrivals.begin(failing)
    relay.hooks[ENTRY].reverse()
    relay.arrive()
    assert arrivals.reached == set(), "no call was forced yet"
    relay.hooks[ENTRY].reverse()
    relay.arrive()
    relay.arrive()
    relay.arrive(ENTRY + 8)
    assert arrivals.reached == {ENTRY + 8}
    failing.delete()
    arrivals.begin(failing)
    relay.arrive(ENTRY + 8)
    assert arrivals.reached == set(), "the run after a failure is none with one"
    instruments.end()
    assert not relay.hooks
