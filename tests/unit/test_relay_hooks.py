"""Hooks in a relay whose kgdb and gdb are played here, through its two sockets."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from relay_bench import Bench, counter, insert, remove
from scripted_kgdb import COPIES, LAYOUT, LAYOUT_WITH_COPIES, TRAP_FLAG
from scripted_stub import CALLER, ENTRY, LOAD, NOP, RET, STACK

from pytest_kgdb.rsp import CONTINUE, STOP, Action, Event, Return


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    with Bench(tmp_path) as bench:
        yield bench


@pytest.fixture
def bench_not_ours(tmp_path: Path) -> Iterator[Bench]:
    """As with a kernel on somebody else's serial line."""
    with Bench(tmp_path, ours=False) as bench:
        yield bench


def test_gdb_sees_nothing(bench: Bench) -> None:
    calls: list[int] = []
    bench.relay.add_hook(ENTRY, counter(calls))
    bench.gdb.ask(insert(RET))
    assert bench.gdb.ask(b"c") == b"T05swbreak:;thread:01;"
    assert calls == [ENTRY]
    assert bench.sent() == [insert(ENTRY), insert(RET), b"c", b"c"]
    assert bench.kgdb.memory.read(bench.kgdb.registers["sp"], 8) == bytes(8), "%r12 was pushed"


def test_what_is_not_emulated_is_stepped(bench: Bench) -> None:
    calls: list[int] = []
    bench.relay.add_hook(LOAD, counter(calls))
    bench.gdb.ask(insert(RET))
    assert bench.gdb.ask(b"c") == b"T05swbreak:;thread:01;"
    assert calls == [LOAD]
    assert bench.sent()[2:] == [b"c", remove(LOAD), b"s", insert(LOAD), b"c"]


def test_two_threads_of_which_one_steps_off_a_hook(bench: Bench) -> None:
    calls: list[int] = []
    bench.relay.add_hook(LOAD, counter(calls))
    bench.relay.add_hook(ENTRY, counter(calls))
    bench.gdb.ask(insert(RET))
    bench.kgdb.registers["ip"] = LOAD
    bench.relay.use_guest_memory(bench.kgdb.memory, LAYOUT)
    # 1 stops at LOAD and is stepped; 2 stops at ENTRY, and then 1's step ends.
    bench.kgdb.turns += [b"01", b"02", b"01", b"01"]
    assert bench.gdb.ask(b"c") == b"T05swbreak:;thread:01;"
    assert calls == [LOAD, ENTRY]
    assert bench.kgdb.breakpoints == {ENTRY, LOAD, RET}


@pytest.fixture
def copying(bench: Bench) -> Bench:
    """Where there is room for a copy of what is stepped off."""
    bench.relay.use_guest_memory(bench.kgdb.memory, LAYOUT_WITH_COPIES)
    return bench


def test_a_copy_is_stepped_where_there_is_room(copying: Bench) -> None:
    calls: list[int] = []
    copying.relay.add_hook(LOAD, counter(calls))
    copying.gdb.ask(insert(RET))
    for _ in range(2):
        assert copying.gdb.ask(b"c") == b"T05swbreak:;thread:01;"
        copying.kgdb.registers["ip"] = ENTRY
        copying.relay.use_guest_memory(copying.kgdb.memory, LAYOUT_WITH_COPIES)
    assert calls == [LOAD, LOAD]
    sent = copying.sent()[2:]
    assert [packet[:1] for packet in sent] == [b"c", b"M", b"s", b"c", b"c", b"s", b"c"]
    assert copying.kgdb.registers["flags"] & 0x200, "interrupts are enabled again"


def test_another_thread_comes_to_the_hook_meanwhile(copying: Bench) -> None:
    calls: list[int] = []
    copying.relay.add_hook(LOAD, counter(calls))
    copying.gdb.ask(insert(RET))
    copying.kgdb.turns += [b"01", b"02", b"01", b"02", b"01"]
    assert copying.gdb.ask(b"c") == b"T05swbreak:;thread:01;"
    assert calls == [LOAD, LOAD]
    assert copying.kgdb.breakpoints == {LOAD, RET}


def test_another_thread_comes_to_what_gdb_steps_over(copying: Bench) -> None:
    """gdb is told later, when it has another thread's stop to be told of again."""
    copying.gdb.ask(insert(LOAD))
    assert copying.gdb.ask(b"c") == b"T05swbreak:;thread:01;"
    copying.gdb.ask(remove(LOAD))
    copying.kgdb.turns += [b"02", b"01"]
    assert copying.gdb.ask(b"s") == b"T05thread:01;"
    assert copying.kgdb.registers["ip"] == NOP
    assert copying.kgdb.breakpoints == {LOAD}
    copying.gdb.ask(insert(LOAD))
    copying.kgdb.turns += [b"02"]
    assert copying.gdb.ask(b"c") == b"T05swbreak:;thread:02;"
    assert copying.kgdb.registers["ip"] == LOAD


def test_what_is_repeated_is_stepped_to_its_end(copying: Bench) -> None:
    """An iteration of `rep stos` ends a single step; its address is the same then."""
    copying.step_over(LOAD)
    for count in (2, 3):
        assert copying.kgdb.registers["ip"] in COPIES
        copying.kgdb.registers["flags"] |= TRAP_FLAG
        copying.kgdb.stop()
        copying.kgdb.wait_for(b"s", count)
    assert copying.kgdb.breakpoints == {LOAD}
    copying.kgdb.resume(step=True)
    assert copying.gdb.receive() == b"T05thread:01;"
    assert copying.kgdb.registers["ip"] == NOP


def test_an_oops_at_a_copy_is_one_of_the_original(copying: Bench) -> None:
    copying.relay.add_hook(LOAD, counter([]))
    copying.kgdb.holds_steps = True
    copying.gdb.send(b"c")
    copying.kgdb.wait_for(b"s")
    assert copying.kgdb.registers["ip"] in COPIES
    copying.kgdb.stop(b"0b")
    assert copying.gdb.receive() == b"T0bthread:01;"
    assert copying.kgdb.registers["ip"] == LOAD
    assert copying.kgdb.registers["flags"] & 0x200


def test_one_that_stops_the_kernel(bench: Bench) -> None:
    bench.relay.add_hook(NOP, counter([], STOP))
    assert bench.gdb.ask(b"c") == b"T05thread:01;"
    assert bench.kgdb.registers["ip"] == NOP


def test_one_that_returns_a_value(bench: Bench) -> None:
    assert bench.relay.can_force_return
    bench.relay.add_hook(ENTRY, counter([], Return(0xFFFFFFF4)))
    bench.gdb.send(b"c")
    bench.kgdb.wait_for(b"c", 2)
    registers = bench.kgdb.registers
    assert (registers["ax"], registers["sp"]) == (0xFFFFFFF4, STACK + 8)
    assert registers["ip"] == CALLER


def test_one_that_raises(bench: Bench) -> None:
    def stumble(event: Event) -> Action:
        raise ValueError("no")

    bench.relay.add_hook(NOP, stumble)
    assert bench.gdb.ask(b"c") == b"T05thread:01;"
    assert isinstance(bench.relay.take_hook_error(), ValueError)
    assert bench.relay.take_hook_error() is None


def test_one_that_adds_another(bench: Bench) -> None:
    calls: list[int] = []

    def on_entry(event: Event) -> Action:
        caller = int.from_bytes(event.read(event.registers["sp"], 8), "little")
        assert caller == CALLER
        assert bench.relay.try_add_hook(NOP, counter(calls, STOP))
        return CONTINUE

    bench.relay.add_hook(ENTRY, on_entry)
    assert bench.gdb.ask(b"c") == b"T05thread:01;"
    assert calls == [NOP]


def test_one_that_is_removed_while_the_kernel_runs(bench: Bench) -> None:
    calls: list[int] = []
    hook = counter(calls)
    bench.relay.add_hook(NOP, hook)
    bench.kgdb.registers["ip"] = CALLER
    bench.gdb.send(b"c")
    bench.kgdb.wait_for(b"c")
    bench.relay.remove_hook(NOP, hook)
    bench.kgdb.registers["ip"] = NOP + 1
    bench.kgdb.stop()
    bench.kgdb.wait_for(b"c", 2)
    assert calls == []
    assert bench.kgdb.breakpoints == set()
    assert not bench.relay.stop_reported


def test_a_breakpoint_of_gdbs_at_the_same_place(bench: Bench) -> None:
    calls: list[int] = []
    bench.relay.add_hook(NOP, counter(calls))
    bench.gdb.ask(insert(NOP))
    assert bench.gdb.ask(b"c") == b"T05swbreak:;thread:01;"
    bench.gdb.ask(remove(NOP))
    assert bench.gdb.ask(b"s") == b"T05thread:01;"
    assert calls == [NOP]


def test_where_guest_memory_is_not_ours(bench_not_ours: Bench) -> None:
    bench = bench_not_ours
    calls: list[int] = []
    assert not bench.relay.can_force_return
    bench.relay.add_hook(ENTRY, counter(calls))
    bench.relay.add_hook(LOAD, counter(calls))
    bench.gdb.ask(insert(RET))
    assert bench.gdb.ask(b"c") == b"T05swbreak:;thread:01;"
    assert calls == [ENTRY, LOAD]


def test_a_return_that_kgdb_cannot_do_stops_the_kernel(bench_not_ours: Bench) -> None:
    """It would have to set the stack pointer."""
    bench = bench_not_ours
    bench.relay.add_hook(ENTRY, counter([], Return(1)))
    bench.gdb.send(b"c")
    assert bench.gdb.receive() == b"", "gdb is let go of"
