"""Overrides: what they leave in the return register, and of which calls."""

from __future__ import annotations

from typing import Any

import pytest
from fake_hooks import CALLER, ENTRY, STACK, HookedRelay, Memory, compiled

from pytest_kgdb.errors import KgdbError
from pytest_kgdb.rsp import CONTINUE, Return
from pytest_kgdb.trace import Call, CallPlaces, Override, errno_of
from pytest_kgdb.trace._functions import Function, FunctionEntry, Returns, _reader
from pytest_kgdb.trace._override import in_register

INT = Returns("int", "int", 4, True)
LONG = Returns("ssize_t", "int", 8, True)
UNSIGNED = Returns("u16", "int", 2, False)
POINTER = Returns("struct file *", "ptr", 8, False)
BOOL = Returns("bool", "bool", 1, False)
VOID = Returns("void", "void", 1, False)

# Values


@pytest.mark.parametrize(
    ("returns", "value", "register", "seen"),
    [
        (INT, -12, 0xFFFFFFF4, -12), (INT, 7, 7, 7), (LONG, -12, (1 << 64) - 12, -12),
        (UNSIGNED, 0xFFFF, 0xFFFF, 0xFFFF), (POINTER, -12, (1 << 64) - 12, (1 << 64) - 12),
        (POINTER, 0, 0, 0), (BOOL, 1, 1, True), (BOOL, False, 0, False), (VOID, None, None, None),
        (INT, -1, 0xFFFFFFFF, -1),
    ],
)  # fmt: skip
def test_values(returns: Returns, value: int | None, register: int | None, seen: object) -> None:
    assert in_register("f", returns, value) == register
    assert returns.decode(register or 0, Memory().read) == seen


def test_nothing_is_known_of_a_function_in_assembler() -> None:
    assert in_register("memcpy", None, -1) == (1 << 64) - 1


@pytest.mark.parametrize(
    ("returns", "value", "message"),
    [
        (INT, 1 << 32, "int, of 32 bits, which cannot hold 4294967296"),
        (INT, 0xFFFFFFFF, r"cannot hold 4294967295: it holds -2147483648 to 2147483647"),
        (UNSIGNED, 65536, "u16, of 16 bits"),
        (UNSIGNED, -1, "u16, of 16 bits, which cannot hold -1: it holds 0 to 65535"),
        (BOOL, 5, "bool, of 8 bits, which cannot hold 5: it holds 0 to 1"),
        (POINTER, -4096, r"struct file \*, of 64 bits, which cannot hold -4096"),
        (VOID, 1, "returns nothing, not 1"),
        (INT, None, r"returns int\n.*say which value"),
        (Returns("struct pair", "struct", 16, False), 1, "struct pair, which cannot be forced"),
    ],
)
def test_what_a_type_cannot_hold(returns: Returns, value: int | None, message: str) -> None:
    with pytest.raises(KgdbError, match=message):
        in_register("f", returns, value)


def test_errors_by_name() -> None:
    assert errno_of("-ENOMEM") == -12
    assert errno_of("ENOENT") == 2
    assert errno_of("ERR_PTR(-EIO)") == -5
    assert errno_of("-EPROBE_DEFER") == -517
    assert errno_of("&init_task") is None
    with pytest.raises(KgdbError, match="no error ENOSUCH"):
        errno_of("-ENOSUCH")


# Calls


@pytest.fixture
def relay() -> HookedRelay:
    return HookedRelay()


CONTEXT: tuple[tuple[str, Any], ...] = (
    *(
        (name, _reader(name, compiled("const8 7"), ""))
        for name in ("task", "pid", "tgid", "cpu", "time")
    ),
    ("comm", KgdbError("not read")),
)


def make(relay: HookedRelay, value: int | None = -12, **options: Any) -> Override:
    count = ("count", _reader("count", compiled("reg 3"), ""))  # rdx
    condition = (_reader("count == 17", compiled("reg 3", "const8 17", "equal"), ""),)
    entry = FunctionEntry(
        ENTRY, INT, (count,), condition if options.get("condition") else (), CONTEXT
    )
    options = {"times": None, "skip": 0, "condition": False, "when": None, **options}
    return Override(relay, Function("vfs_read", (entry,), ()), value, **options)


FORCED = Return(0xFFFFFFF4)


def test_every_call_is_forced(relay: HookedRelay) -> None:
    with make(relay) as override:
        assert [relay.arrive(dx=size) for size in (1, 2)] == [FORCED, FORCED]
        assert (override.calls, override.forced, override.active) == (2, 2, True)
        assert override.last is not None
        assert (override.last["count"], override.last.number) == (2, 2)
        assert override.last.return_value == -12
        assert repr(override) == "<Override of vfs_read: 2 of 2 calls forced>"
    assert relay.hooks == {}
    assert not override.active
    assert repr(override).endswith(", ended>")
    override.delete()


def test_some_are_let_through_first_and_so_many_are_forced(relay: HookedRelay) -> None:
    override = make(relay, skip=2, times=1)
    actions = [relay.arrive() for _ in range(5)]
    assert actions == [CONTINUE, CONTINUE, FORCED, CONTINUE, CONTINUE]
    assert (override.calls, override.forced) == (5, 1)


def test_a_condition_of_c(relay: HookedRelay) -> None:
    override = make(relay, condition=True, skip=1)
    assert [relay.arrive(dx=size) for size in (17, 3, 17)] == [CONTINUE, CONTINUE, FORCED]
    assert (override.calls, override.forced) == (3, 1)


def test_a_condition_of_the_tests(relay: HookedRelay) -> None:
    seen: list[int] = []

    def when(call: Call) -> bool:
        seen.append(call.number)
        return bool(call["count"] == 17)

    make(relay, when=when)
    assert [relay.arrive(dx=size) for size in (3, 17)] == [CONTINUE, FORCED]
    assert seen == [1, 2]


def test_a_call_that_a_newer_override_has_forced_is_left_to_it(relay: HookedRelay) -> None:
    override = make(relay)
    assert relay.arrive(decided=True) == CONTINUE
    assert (override.calls, override.forced) == (1, 0)


def test_the_kernel_is_stopped_to_see_where_a_call_came_from(relay: HookedRelay) -> None:
    override = make(relay, times=1, trace=True)
    assert not override.to_be_traced
    assert relay.arrive() == Return(0xFFFFFFF4, stop=True)
    assert override.to_be_traced
    override.path = ("#1 ksys_read",)
    assert not override.to_be_traced


def test_a_machine_that_cannot_force_a_return(relay: HookedRelay) -> None:
    relay.can_force_return = False
    with pytest.raises(KgdbError, match="no override on vfs_read"):
        make(relay)
    assert relay.hooks == {}


def test_none_is_left_behind_where_one_entry_is_refused(relay: HookedRelay) -> None:
    first = FunctionEntry(ENTRY, INT, (), (), ())
    second = FunctionEntry(ENTRY + 64, INT, (), (), ())
    relay.refuses.add(ENTRY + 64)
    with pytest.raises(KgdbError, match="no breakpoint can be inserted"):
        Override(
            relay,
            Function("f", (first, second), ()),
            0,
            times=None,
            skip=0,
            condition=False,
            when=None,
        )
    assert relay.hooks == {}


@pytest.mark.parametrize(
    ("name", "kept", "why"),
    [
        ("foo", True, r"no override on foo: foo is inlined into bar.*cannot be skipped"),
        ("main.c:foo", False, r"no override on main\.c:foo: .*cannot be skipped"),
        ("foo.part.0", False, r"gcc may have changed what foo\.part\.0 returns"),
    ],
)
def test_a_part_that_gcc_split_off(relay: HookedRelay, name: str, kept: bool, why: str) -> None:
    entry = FunctionEntry(
        ENTRY, INT, (), (), (), copy="foo.part.0", is_part=True, keeps_result=kept
    )
    function = Function(name, (entry,), ("bar (main.c:3)",))
    with pytest.raises(KgdbError, match=why):
        Override(relay, function, 1, times=None, skip=0, condition=False, when=None)
    assert relay.hooks == {}


def test_a_part_by_its_own_name(relay: HookedRelay) -> None:
    entry = FunctionEntry(ENTRY, INT, (), (), (), copy="foo.part.0", is_part=True)
    Override(
        relay,
        Function("foo.part.0", (entry,), ()),
        1,
        times=None,
        skip=0,
        condition=False,
        when=None,
    )
    assert list(relay.hooks) == [ENTRY]


# Calls from some places only


def from_places(relay: HookedRelay, places: CallPlaces) -> Override:
    entries = tuple(FunctionEntry(address, INT, (), (), CONTEXT) for address in (ENTRY, ENTRY + 64))
    function = Function("vfs_read", entries, ())
    return Override(
        relay, function, -12, times=None, skip=1, condition=False, when=None, places=places
    )


def test_only_calls_that_return_to_some_places_count(relay: HookedRelay) -> None:
    override = from_places(relay, CallPlaces({CALLER: ENTRY}, {}))
    relay.memory.put(STACK - 8, (CALLER + 1).to_bytes(8, "little"))
    assert [relay.arrive(sp=STACK - 8) for _ in range(3)] == [CONTINUE] * 3
    assert (override.calls, override.forced) == (0, 0)
    assert [relay.arrive(), relay.arrive()] == [CONTINUE, FORCED]
    assert (override.calls, override.forced) == (2, 1)
    assert list(relay.hooks) == [ENTRY], "the other entry is called by others"


def test_a_jump_that_is_a_call_is_seen_where_it_is(relay: HookedRelay) -> None:
    jump = CALLER - 100
    override = from_places(relay, CallPlaces({}, {jump: ENTRY + 64}))
    assert list(relay.hooks) == [jump]
    assert [relay.arrive(jump), relay.arrive(jump)] == [CONTINUE, FORCED]
    assert (override.calls, override.forced) == (2, 1)


def test_a_call_of_something_else_is_refused(relay: HookedRelay) -> None:
    with pytest.raises(KgdbError, match=f"{CALLER:#x} is at 0x5: not vfs_read"):
        from_places(relay, CallPlaces({CALLER: 5}, {}))
    assert relay.hooks == {}
