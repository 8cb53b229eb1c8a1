"""What ends the watchpoints of local variables, and when they begin."""

from __future__ import annotations

import pytest

from pytest_kgdb.rsp._hooks import CONTINUE, STOP, Action, Event, Hook
from pytest_kgdb.rsp._stack_watches import STACK_FRAMES, StackWatches

SP = 0xFFA0_0000_0052_7E00
LOCAL = SP + 0x10
SLOT = SP + 0x38
CALLERS = SLOT + 0x20
MADE = 0x4000
RETURNS_TO = 0x1234
OUTER = 0x5678


class Target:
    """Has watchpoints and hooks, and refuses what is said."""

    def __init__(self) -> None:
        self.inserted: list[bytes] = []
        self.hooks: dict[int, Hook] = {}
        self.refused: set[bytes] = set()
        self.noinstr: set[int] = set()
        self.watches = self.made(misses_atomics=False)

    def made(self, *, misses_atomics: bool) -> StackWatches:
        return StackWatches(
            self.request,
            add_hook=self.add_hook,
            remove_hook=lambda address, hook: self.hooks.pop(address, None) and None,
            request_elsewhere=self.request,
            misses_atomics=misses_atomics,
        )

    def request(self, payload: bytes) -> bytes:
        key = payload[1:]
        if payload in self.refused:
            return b"E22"
        (self.inserted.append if payload[:1] == b"Z" else self.inserted.remove)(key)
        return b"OK"

    def add_hook(self, address: int, hook: Hook) -> bool:
        if address in self.noinstr:
            return False
        self.hooks[address] = hook
        return True

    def insert(self, key: bytes, sp: int | None = SP) -> bytes:
        return self.watches.insert(b"Z" + key, lambda: sp)

    def remove(self, keys: set[bytes]) -> None:
        for key in sorted(keys):
            self.request(b"z" + key)


def key(address: int, size: int = 4, kind: int = 2) -> bytes:
    return b"%d,%x,%x" % (kind, address, size)


GUARD = key(SLOT, 8, 3)
OUTER_GUARD = key(CALLERS, 8, 3)


def frames(
    *, made_at: int = 0, lowest: int = SP, exits: bytes = b"", watched: int = LOCAL, atomic: int = 0
) -> bytes:
    numbers = (
        (lowest, SLOT, RETURNS_TO, made_at),
        (SLOT + 8, CALLERS, OUTER, 0),
        (CALLERS + 0x40, CALLERS + 0x100, 0, 0),
    )
    first, *others = (b"%x,%x,%x,%x" % frame for frame in numbers)
    return STACK_FRAMES + b";".join([b"%x,%d" % (watched, atomic), first + exits, *others])


@pytest.fixture
def target() -> Target:
    target = Target()
    target.watches.offer(frames())
    return target


def test_it_is_watched_with_the_return_address(target: Target) -> None:
    assert target.insert(key(LOCAL)) == b"OK"
    assert target.insert(key(LOCAL + 4)) == b"OK"
    assert target.inserted == [key(LOCAL), GUARD, key(LOCAL + 4)]
    assert target.watches.remove(b"z" + key(LOCAL)) == b"OK"
    assert target.watches.active
    assert target.watches.remove(b"z" + key(LOCAL + 4)) == b"OK"
    assert target.inserted == []
    assert not target.watches.active


def test_what_is_on_no_stack(target: Target) -> None:
    elsewhere = key(0xFFFF_8880_0000_1000)
    assert target.insert(elsewhere) == b"OK"
    assert target.watches.remove(b"z" + elsewhere) == b"OK"
    assert target.insert(elsewhere, None) == b"OK"
    assert target.inserted == [elsewhere]


def test_what_no_function_ends(target: Target) -> None:
    assert target.insert(key(SP - 0x40)) == b"E0e"
    refusal = target.watches.take_refusal()
    assert refusal is not None
    assert "is on the stack of the task that stopped" in refusal.reason
    assert target.watches.take_refusal() is None
    assert target.inserted == []


def test_the_registers_of_the_entry(target: Target) -> None:
    assert target.insert(key(CALLERS + 0x48)) == b"OK"
    assert target.inserted == [key(CALLERS + 0x48)]
    assert not target.watches.active


def test_one_without_its_guard_is_none(target: Target) -> None:
    target.refused.add(b"Z" + GUARD)
    assert target.insert(key(LOCAL)) == b"E22"
    assert target.inserted == []


def test_a_return(target: Target) -> None:
    target.insert(key(LOCAL))
    target.insert(key(SLOT + 0x10, 8))
    reply = b"T05thread:p01.01;rwatch:%x;" % SLOT
    assert target.watches.guard_read(reply) == SLOT
    assert target.watches.without_guards(reply) == b"T05thread:p01.01;"
    assert not target.watches.has_returned(SLOT, SP)
    assert target.watches.has_returned(SLOT, SLOT + 8)
    target.remove(target.watches.returned(SLOT))
    assert target.inserted == [key(SLOT + 0x10, 8), OUTER_GUARD]
    assert target.watches.take_ended() == {LOCAL: True}
    assert target.watches.take_ended() == {}
    # gdb still has it, until it is told.
    assert target.watches.remove(b"z" + key(LOCAL)) == b"OK"
    assert target.insert(key(LOCAL), SLOT + 8) == b"OK"
    assert target.inserted == [key(SLOT + 0x10, 8), OUTER_GUARD]
    # Another call of the function may have it at the same place.
    target.watches.offer(frames())
    assert target.insert(key(LOCAL)) == b"OK"
    assert key(LOCAL) in target.inserted


def test_what_reads_another_place(target: Target) -> None:
    target.insert(key(LOCAL))
    for reply in (b"T05rwatch:%x;" % LOCAL, b"T05watch:%x;" % SLOT, b"T05thread:01;"):
        assert target.watches.guard_read(reply) is None
        assert target.watches.without_guards(reply) == reply


def test_a_frame_that_is_left_before_the_return(target: Target) -> None:
    target.insert(key(LOCAL))
    assert target.watches.left(SP) == set()
    assert target.watches.left(LOCAL) == set()
    assert target.watches.left(SP + 0x10_0000) == set(), "another stack"
    target.remove(target.watches.left(LOCAL + 8))
    assert target.inserted == []
    assert target.watches.take_ended() == {LOCAL: False}


def test_the_end_of_the_task(target: Target) -> None:
    target.insert(key(LOCAL))
    assert target.watches.end_stack(SP + 0x10_0000) == set(), "that of another task"
    target.remove(target.watches.end_stack(SP - 0x100))
    assert target.inserted == []
    assert target.watches.take_ended() == {LOCAL: False}


ADD, POP, LEAVE = 0x5000, 0x5004, 0x5100
EXITS = b":%x,s,20:%x,s,8:%x,b,8" % (ADD, POP, LEAVE)


def executes(target: Target, address: int, **registers: int) -> Action:
    event = Event(address, {"bp": 0, **registers}, no_memory, 0.0)
    return target.hooks[address](event)


@pytest.mark.parametrize("stops", [True, False])
def test_a_function_that_frees_its_stack(target: Target, stops: bool) -> None:
    target.watches.stops = lambda: stops
    target.watches.offer(frames(exits=EXITS))
    target.insert(key(LOCAL))
    assert set(target.hooks) == {ADD, POP, LEAVE}
    assert executes(target, ADD, sp=SP - 0x100) == CONTINUE, "a call of it within"
    assert executes(target, ADD, sp=SP + 0x10_0000) == CONTINUE, "another task"
    assert executes(target, POP, sp=SP) == CONTINUE, "not so far"
    assert executes(target, LEAVE, sp=SP, bp=SP) == CONTINUE
    assert target.inserted == [key(LOCAL), GUARD]
    assert executes(target, ADD, sp=SP) == (STOP if stops else CONTINUE)
    assert (target.inserted, target.hooks) == ([], {})
    assert target.watches.take_ended() == {LOCAL: stops}


def test_the_exits_of_what_is_called_from_the_same_place(target: Target) -> None:
    target.watches.offer(frames(exits=EXITS))
    target.insert(key(LOCAL))
    target.watches.remove(b"z" + key(LOCAL))
    target.watches.offer(frames())  # for a watchpoint in another frame
    target.insert(key(LOCAL))
    assert executes(target, LEAVE, sp=SP, bp=SLOT) == STOP
    target.watches.offer(frames(exits=b":%x,s,20" % (ADD + 0x100)))
    target.insert(key(LOCAL))
    assert set(target.hooks) == {ADD + 0x100}


@pytest.mark.parametrize("by_hook", [True, False])
def test_a_function_that_has_still_to_make_room(target: Target, by_hook: bool) -> None:
    target.watches.offer(frames(made_at=MADE, lowest=LOCAL))
    assert target.insert(key(LOCAL), SLOT) == b"OK"
    assert target.inserted == []
    assert target.watches.waiting
    assert not target.watches.active
    comes(target, by_hook, SP + 0x10_0000)  # another task, in the same function
    comes(target, by_hook, SLOT)
    assert target.inserted == []
    comes(target, by_hook, SP)
    assert target.inserted == [key(LOCAL), GUARD]
    assert target.hooks == {}
    assert not target.watches.waiting


def comes(target: Target, by_hook: bool, sp: int) -> None:
    if by_hook:
        event = Event(MADE, {"sp": sp}, no_memory, 0.0)
        assert target.hooks[MADE](event) == CONTINUE
    else:
        target.watches.make(sp)


def no_memory(address: int, size: int) -> bytes:
    raise AssertionError(f"{size} bytes at {address:#x} are read")


def test_one_that_is_removed_before_there_is_room(target: Target) -> None:
    target.watches.offer(frames(made_at=MADE, lowest=LOCAL))
    target.insert(key(LOCAL), SLOT)
    assert target.watches.remove(b"z" + key(LOCAL)) == b"OK"
    assert (target.inserted, target.hooks) == ([], {})
    # And at once, where there is.
    assert target.insert(key(LOCAL), SP) == b"OK"
    assert target.inserted == [key(LOCAL), GUARD]


def test_two_for_which_there_is_no_room_yet(target: Target) -> None:
    """They end no earlier than what is watched already, of the caller's."""
    target.watches.offer(frames(made_at=MADE, lowest=LOCAL))
    hooks: list[int] = []
    target.watches._add_hook = lambda address, _hook: not hooks.append(address)
    for kind in (2, 3):
        assert target.insert(key(LOCAL, kind=kind), SLOT) == b"OK"
    assert hooks == [MADE]
    assert target.insert(key(SLOT + 0x10), SLOT) == b"OK"
    assert target.watches.left(SLOT - 8) == set()
    assert target.watches.take_ended() == {}
    target.watches.make(SP)
    assert {key(LOCAL), key(LOCAL, kind=3)} <= set(target.inserted)


def test_one_for_which_there_is_room_nobody_knows_when(target: Target) -> None:
    target.noinstr.add(MADE)
    target.watches.offer(frames(made_at=MADE, lowest=LOCAL))
    assert target.insert(key(LOCAL), SLOT) == b"E0e"
    refusal = target.watches.take_refusal()
    assert refusal is not None
    assert f"no breakpoint can be at {MADE:#x}" in refusal.reason
    assert not target.watches.waiting


@pytest.mark.parametrize("there", [True, False])
def test_another_state_of_the_machine(target: Target, there: bool) -> None:
    target.insert(key(LOCAL))
    target.inserted.clear()
    value = RETURNS_TO if there else 0
    target.watches.replaced(lambda address, size: value.to_bytes(size, "little"))
    assert target.watches.take_ended() == ({} if there else {LOCAL: False})
    assert target.insert(key(LOCAL)) == b"OK"
    assert target.inserted == ([key(LOCAL), GUARD] if there else [])


def test_one_in_which_its_stack_is_not_there(target: Target) -> None:
    target.watches.offer(frames(made_at=MADE, lowest=LOCAL))
    target.insert(key(LOCAL), SLOT)
    target.watches.replaced(lambda address, size: None)
    assert target.hooks == {}
    assert target.watches.take_ended() == {LOCAL: False}


def test_one_that_atomic_instructions_write(target: Target) -> None:
    target.watches = target.made(misses_atomics=True)
    target.watches.offer(frames(watched=LOCAL + 8))
    assert target.insert(key(LOCAL + 8)) == b"OK"
    target.watches.offer(frames(atomic=1))
    assert target.insert(key(LOCAL)) == b"E0e"
    refusal = target.watches.take_refusal()
    assert refusal is not None
    assert "is an atomic_t" in refusal.reason
    assert target.insert(key(LOCAL + 8)) == b"OK", "gdb inserts it again, and it is another one"
    target.watches.offer(frames())
    assert target.insert(key(LOCAL)) == b"OK", "another function has an int there"
    target.watches = target.made(misses_atomics=False)
    target.watches.offer(frames(atomic=1))
    assert target.insert(key(LOCAL)) == b"OK"
