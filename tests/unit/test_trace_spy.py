"""Spies: what they make of the CPUs that arrive."""

from __future__ import annotations

import re
from typing import Any

import pytest
from fake_hooks import CALLER, ENTRY, STACK, HookedRelay, compiled, freeing

from pytest_kgdb.errors import KgdbError
from pytest_kgdb.rsp import CONTINUE
from pytest_kgdb.trace import Cost, FreedMemory, Spy
from pytest_kgdb.trace import _spy as spy_module
from pytest_kgdb.trace._functions import _CONTEXT, Function, FunctionEntry, Returns, _reader

INT = Returns("int", "int", 4, True)


@pytest.fixture
def relay() -> HookedRelay:
    return HookedRelay()


def make(relay: HookedRelay, *, returns: bool = False, **options: Any) -> Spy:
    # The task is in r15, and its numbers in those before.
    known = {"task": 15, "tgid": 14, "pid": 13}
    context: list[tuple[str, Any]] = [
        (name, KgdbError("not read")) for name in _CONTEXT if name not in known
    ]
    context += [(name, _reader(name, compiled(f"reg {reg}"), "")) for name, reg in known.items()]
    count = ("count", _reader("count", compiled("reg 3"), ""))
    flags = _reader("file->f_flags", compiled("reg 5", "ref32"), "")
    entry = FunctionEntry(ENTRY, INT, (count,), (flags,), tuple(context))
    options = {"keep": 10, "barred": (), "guard": lambda _: True, **options}
    return Spy(
        relay,
        Function("vfs_read", (entry,), ("ksys_read (fs/read_write.c:613)",)),
        returns=returns,
        **options,
    )


def test_calls_are_counted_and_recorded(relay: HookedRelay) -> None:
    relay.memory.put(0x5000, b"\x01\x80\0\0")
    with make(relay) as calls:
        relay.arrive(dx=17, di=0x5000, r15=0x9000)
        relay.arrive(dx=3)
        first, second = calls.calls
        assert (calls.count, calls.dropped, calls.active) == (2, 0, True)
        assert (first.number, second.number) == (1, 2)
        assert (first["count"], first.args["count"], first["file->f_flags"]) == (17, 17, 0x8001)
        assert first.task.address == 0x9000
        assert calls.inlined_in == ("ksys_read (fs/read_write.c:613)",)
    assert relay.hooks == {}
    assert calls.count == 2, "what was recorded stays"
    unseen = "vfs_read is inlined into ksys_read: calls there are not seen"
    assert calls.unseen == unseen
    assert repr(calls) == f"<Spy on vfs_read: 2 calls, ended; {unseen}>"


def test_what_could_not_be_read_says_so(relay: HookedRelay) -> None:
    calls = make(relay)
    relay.arrive(di=0x6000)
    (call,) = calls.calls
    with pytest.raises(KgdbError, match=r"'file->f_flags' could not be read at the call: 0x6000"):
        call["file->f_flags"]
    with pytest.raises(KeyError, match=r"vfs_read\(\) has no 'size'; it has count"):
        call["size"]
    assert repr(call) == "<1: vfs_read(count=0) by not read, file->f_flags: ?>"


def test_only_the_newest_are_kept(relay: HookedRelay) -> None:
    calls = make(relay, keep=2)
    for size in range(5):
        relay.arrive(dx=size)
    assert [call["count"] for call in calls.calls] == [3, 4]
    assert (calls.count, calls.dropped) == (5, 3)
    assert "5 calls, 3 of them dropped" in repr(calls)


# Returns


def test_a_return_is_that_of_its_task_on_its_stack(relay: HookedRelay) -> None:
    other = STACK + 0x4000
    relay.memory.put(other, CALLER.to_bytes(8, "little"))
    calls = make(relay, returns=True)
    relay.arrive(r15=1)
    relay.arrive(sp=other, r15=2)
    relay.arrive(CALLER, sp=other + 8, r15=1, ax=99)  # neither
    relay.arrive(CALLER, sp=other + 8, r15=2, ax=0xFFFFFFF4)
    first, second = calls.calls
    assert not first.returned
    with pytest.raises(KgdbError, match="call 1 of vfs_read: it has not returned"):
        _ = first.return_value
    assert second.return_value == -12
    relay.arrive(CALLER, sp=STACK + 8, r15=1, ax=5)
    assert first.return_value == 5


def test_calls_within_calls(relay: HookedRelay) -> None:
    deeper = STACK - 64
    relay.memory.put(deeper, CALLER.to_bytes(8, "little"))
    calls = make(relay, returns=True)
    relay.arrive()
    relay.arrive(sp=deeper)
    relay.arrive(CALLER, sp=deeper + 8, ax=2)
    relay.arrive(CALLER, sp=STACK + 8, ax=1)
    assert [call.return_value for call in calls.calls] == [1, 2]
    assert len(relay.hooks) == 2, "one place that they return to"


@pytest.mark.parametrize(
    ("reason", "message"),
    [
        ("not asked for", r"spy\(…, returns=True\) would have it"),
        ("barred", "from where no breakpoint may be"),
        ("refused", "no breakpoint can be inserted where it was called from"),
        ("too many", "called from more than 0 places"),
        ("unseen", "from a module, and this kernel cannot be seen to unload one"),
    ],
)
def test_why_a_return_is_not_seen(
    relay: HookedRelay, monkeypatch: pytest.MonkeyPatch, reason: str, message: str
) -> None:
    barred = [(CALLER, CALLER + 1)] if reason == "barred" else []
    if reason == "refused":
        relay.refuses.add(CALLER)
    if reason == "too many":
        monkeypatch.setattr(spy_module, "_RETURNS_TO", 0)
    calls = make(
        relay,
        returns=reason != "not asked for",
        barred=barred,
        guard=lambda address: reason != "unseen" or address != CALLER,
    )
    relay.arrive()
    with pytest.raises(KgdbError, match=message):
        _ = calls.calls[0].return_value
    assert list(relay.hooks) == [ENTRY]


def test_calls_that_never_return_are_forgotten(relay: HookedRelay) -> None:
    calls = make(relay, returns=True, keep=3)
    for number in range(10):
        stack = STACK + 0x4000 * (number + 1)
        relay.memory.put(stack, CALLER.to_bytes(8, "little"))
        relay.arrive(sp=stack)
    assert len(calls._pending) == 3


def test_calls_with_one_return(relay: HookedRelay) -> None:
    """Functions that end by jumps have one return; which of the calls have not is not told."""
    calls = make(relay, returns=True, keep=5)
    for _ in range(3):
        relay.arrive(sp=STACK)
    relay.arrive(CALLER, sp=STACK + 8, ax=99)
    first, second, last = calls.calls
    assert (first.returned, second.returned, last.returned) == (False, False, True)
    assert last.return_value == 99
    for call, next_one in ((first, 2), (second, 3)):
        with pytest.raises(KgdbError, match=rf"cannot be told from that of call {next_one}.*tail"):
            call.return_value  # noqa: B018 # it raises
    relay.arrive(CALLER, sp=STACK + 8, ax=77)
    assert last.return_value == 99


OTHERS = [
    ((51, 51), r"call 1 of vfs_read: its task, not read\[50\], has ended"),
    ((51, 50), r"call 1 of vfs_read: its task, not read\[50\], has ended"),
    ((50, 50), None),
]


@pytest.mark.parametrize(("other", "ended"), OTHERS)
def test_the_call_of_a_task_whose_memory_another_has(
    relay: HookedRelay, other: tuple[int, int], ended: str | None
) -> None:
    calls = make(relay, returns=True)
    relay.arrive(r15=0x9000, r13=50, r14=50)
    relay.arrive(r15=0x9000, r13=other[0], r14=other[1])
    first = calls.calls[0]
    with pytest.raises(KgdbError, match=ended or r"tail call\), or has returned unseen"):
        first.return_value  # noqa: B018 # it raises
    assert not first.returned


@pytest.mark.parametrize(("other", "ended"), OTHERS)
def test_a_return_of_a_task_in_the_memory_of_one_that_has_ended(
    relay: HookedRelay, other: tuple[int, int], ended: str | None
) -> None:
    """It has called another function from the same place."""
    calls = make(relay, returns=True)
    relay.arrive(r15=0x9000, r13=50, r14=50)
    relay.arrive(CALLER, sp=STACK + 8, r15=0x9000, r13=other[0], r14=other[1], ax=5)
    (call,) = calls.calls
    assert call.returned is (ended is None)
    if ended is None:
        assert call.return_value == 5
    else:
        with pytest.raises(KgdbError, match=ended):
            call.return_value  # noqa: B018 # it raises


def test_a_thread_that_has_taken_its_process_s_number(relay: HookedRelay) -> None:
    calls = make(relay, returns=True)
    relay.arrive(r15=0x9000, r13=51, r14=50)
    relay.arrive(CALLER, sp=STACK + 8, r15=0x9000, r13=50, r14=50, ax=5)
    assert calls.calls[0].return_value == 5


def test_a_call_that_is_not_waited_for_any_more_says_so(relay: HookedRelay) -> None:
    first_stack = STACK + 0x4000
    with make(relay, returns=True, keep=2) as calls:
        relay.arrive()
        (first,) = calls.calls
        for number in range(2):
            relay.memory.put(first_stack + 0x4000 * number, CALLER.to_bytes(8, "little"))
            relay.arrive(sp=first_stack + 0x4000 * number)
        with pytest.raises(KgdbError, match="more calls than are kept"):
            first.return_value  # noqa: B018 # it raises


# Returns that will not come


def test_no_return_is_awaited_in_memory_that_goes(relay: HookedRelay) -> None:
    elsewhere = STACK + 0x4000
    relay.memory.put(elsewhere, (CALLER + 0x1000).to_bytes(8, "little"))
    calls = make(relay, returns=True)
    relay.arrive()
    relay.arrive(sp=elsewhere)
    calls.forget(FreedMemory.of_module("demo", ((CALLER, CALLER + 1),)), 0)
    assert set(relay.hooks) == {ENTRY, CALLER + 0x1000}
    first, second = calls.calls
    with pytest.raises(KgdbError, match="returns to is gone: module demo is not loaded any more"):
        first.return_value  # noqa: B018 # it raises
    relay.arrive(CALLER + 0x1000, sp=elsewhere + 8, ax=3)
    assert second.return_value == 3
    relay.arrive()
    assert CALLER in relay.hooks, "another module is there"
    calls.delete()
    assert not relay.hooks


def test_no_return_is_awaited_of_what_began_before_a_restore(relay: HookedRelay) -> None:
    calls = make(relay, returns=True)
    relay.arrive()
    calls.abandon()
    assert set(relay.hooks) == {ENTRY}
    with pytest.raises(KgdbError, match="the machine was restored before it returned"):
        calls.calls[0].return_value  # noqa: B018 # it raises
    relay.arrive()
    relay.arrive(CALLER, sp=STACK + 8, ax=3)
    assert [call.returned for call in calls.calls] == [False, True]


def test_what_is_read_of_memory_that_goes(relay: HookedRelay) -> None:
    address = 0xFFFFFFFFA0002000
    relay.memory.put(address, b"\x05\0\0\0")
    reader = _reader("demo_total", compiled(f"const64 {address - (1 << 64)}", "ref32"), "")
    context = tuple((name, KgdbError("not read")) for name in _CONTEXT)
    entry = FunctionEntry(ENTRY, INT, (), (reader,), context)
    calls = Spy(
        relay, Function("f", (entry,), ()), returns=False, keep=9, barred=(), guard=lambda _: True
    )
    calls.guard(freeing(relay))
    assert len(relay.hooks) == 2
    assert relay.arrive() == CONTINUE
    calls.forget(FreedMemory.of_module("demo", ((address, address + 4),)), 0)
    assert relay.arrive() == CONTINUE
    first, second = calls.calls
    assert (first["demo_total"], calls.active) == (5, True)
    with pytest.raises(KgdbError, match="its memory is gone: module demo is not loaded any more"):
        second["demo_total"]


def test_it_ends_with_the_memory_that_it_is_in(relay: HookedRelay) -> None:
    calls = make(relay, returns=True)
    relay.arrive()
    calls.forget(FreedMemory.of_module_init("demo", ((ENTRY + 1, ENTRY + 64),)), 0)
    assert calls.active
    calls.forget(FreedMemory.of_module_init("demo", ((ENTRY, ENTRY + 64),)), 0)
    assert not calls.active
    assert not relay.hooks
    ended = "ended: the init of module demo has run, and its memory is freed"
    assert repr(calls).startswith(f"<Spy on vfs_read: 1 calls, {ended}")


# What it costs


@pytest.mark.parametrize(("returns", "here", "trap"), [(False, 0.1, 0.01), (True, 0.3, 0.03)])
def test_the_cost_of_a_call_is_that_of_all_its_traps(
    relay: HookedRelay, returns: bool, here: float, trap: float
) -> None:
    with make(relay, returns=returns) as calls:
        assert calls.cost.per_call == 0
        assert str(calls.cost) == "no call yet"
        for value in range(3):
            relay.arrive(gap=0.01, took=0.1)
            assert (CALLER in relay.hooks) is returns
            if returns:
                relay.arrive(CALLER, gap=0.02, took=0.2, sp=STACK + 8, ax=value)
    assert (calls.cost.calls, calls.cost.here, calls.cost.trap) == (
        3,
        pytest.approx(here),
        pytest.approx(trap),
    )
    if returns:
        assert [call.return_value for call in calls.calls] == [0, 1, 2]
    assert not relay.hooks


def test_a_cost_in_words() -> None:
    assert re.fullmatch(
        r"3\.50 ms for each of 7 calls: 1\.00 ms here, 2\.50 ms in the guest",
        str(Cost(7, 0.001, 0.0025)),
    )


def test_which_copy_was_called_and_whether_it_returns_anything(relay: HookedRelay) -> None:
    context: list[tuple[str, Any]] = [
        (name, KgdbError("not read")) for name in _CONTEXT if name != "task"
    ]
    context.append(("task", _reader("current", compiled("reg 15"), "")))
    entries = tuple(
        FunctionEntry(address, INT, (), (), tuple(context), copy=copy, keeps_result=kept)
        for address, copy, kept in ((ENTRY, "foo", True), (ENTRY + 64, "foo.isra.0", False))
    )
    calls = Spy(
        relay,
        Function("foo", entries, ()),
        returns=True,
        keep=10,
        barred=(),
        guard=lambda _: True,
    )
    for address in (ENTRY, ENTRY + 64):
        relay.memory.put(STACK, (0x7000).to_bytes(8, "little"))
        relay.arrive(address, r15=0x9000)
        relay.arrive(0x7000, sp=STACK + 8, ax=5, r15=0x9000)
    whole, copy = calls.calls
    assert (whole.copy, whole.function, whole.return_value) == ("foo", "foo", 5)
    assert (copy.copy, copy.function, copy.returned) == ("foo.isra.0", "foo", True)
    with pytest.raises(KgdbError, match=r"call 2 of foo: gcc may have removed what foo\.isra\.0"):
        copy.return_value  # noqa: B018
    assert repr(copy).startswith("<2: foo.isra.0() = ? by")
    assert calls.unseen == ""
