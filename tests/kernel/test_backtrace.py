"""Stacks beneath interrupts and exceptions, held against drgn's, which has the same tables."""

from __future__ import annotations

import contextlib
import itertools
import re
from collections import ChainMap
from pathlib import Path

import pytest

from pytest_kgdb.errors import KgdbError

MODULES = Path(__file__).parent / "modules"


def functions(stop):
    return [frame.function for frame in stop.backtrace()]


def calls(stop):
    """The functions that were called, without those that were inlined.

    Where an inlined one ends, gdb and drgn look at different instructions.
    """
    return [frame.function for frame in stop.backtrace() if not frame._record["inline"]]


def aliases(names):
    """One name for memcpy() and __memcpy(), and their like (arch/x86/lib/memcpy_64.S)."""
    return [re.sub("^__(?=mem)", "", name) for name in names]


def once(names):
    return [name for name, _ in itertools.groupby(names)]


def check(kgdb, stop):
    ours, theirs = once(aliases(calls(stop))), once(aliases(drgns(kgdb, stop)))
    # gdb knows calls that are jumps, too: those to what gcc has split off have the same name.
    assert [name for name in ours if name in theirs] == theirs
    assert ours[-1] == theirs[-1]


def drgns(kgdb, stop):
    """drgn's stack of the same, up to the entry from user space."""
    trace = kgdb.program.stack_trace(kgdb.drgn_object(stop.task))
    return [frame.name for frame in trace if not frame.is_inline and frame.pc >> 63]


def interrupted(kgdb, stop):
    """The frames of the function in which an interrupt or exception came: ours and drgn's.

    drgn looks at the instruction at which it came, and not at the one before.
    """
    frames = stop.backtrace()
    entry = next(n for n, frame in enumerate(frames) if frame.function.startswith("asm_"))
    address = frames[entry + 1].address
    trace = kgdb.program.stack_trace(kgdb.drgn_object(stop.task))
    return ([frame for frame in frames if frame.address == address],
            [frame for frame in trace if frame.pc == address])  # fmt: skip


def numbers(ours, theirs):
    """The variables that both have as numbers: by name, ours and drgn's."""
    found = {}
    for frame, other in zip(ours, theirs, strict=True):
        variables = ChainMap(frame.args, frame.locals)
        for name in other.locals():
            value = None
            with contextlib.suppress(KgdbError):  # DW_OP_GNU_uninit, of which gdb knows nothing
                value = variables.get(name)
            if value is not None and not value.is_optimized_out and not other[name].absent_:
                with contextlib.suppress(TypeError):  # structures
                    number = other[name].value_()
                    # Of a bool, the debug info may have any number that is not 0.
                    mine = bool(int(value)) if isinstance(number, bool) else int(value)
                    found[name] = mine, int(number)
    return found


@pytest.mark.kgdb(smp=2)
@pytest.mark.parametrize(
    "function",
    [
        "scheduler_tick",  # in a timer's interrupt
        "run_timer_softirq",  # behind an interrupt, on its stack
        "call_timer_fn",
        "wake_up_process",
        "handle_mm_fault",  # in an exception
        "clear_page_erms",  # assembler
        "do_exit",
        "kthread_should_stop",
        "process_one_work",
    ],
)
def test_it_goes_to_the_end(kgdb, kgdb_kernel, function):
    if function == "scheduler_tick" and kgdb_kernel.version >= (6, 10):
        function = "sched_tick"
    kgdb.breakpoint(function)
    kgdb.type("while :; do cat /proc/self/maps; sleep 0.01; done > /dev/null & sleep 0.3")
    for _ in range(4):
        stop = kgdb.cont()
        check(kgdb, stop)


@pytest.mark.kgdb(smp=2, stub="kgdb")
def test_beneath_an_interrupt(kgdb):
    """kgdb is interrupted by a character on the console."""
    kgdb.resume()
    for _ in range(5):
        stop = kgdb.interrupt()
        check(kgdb, stop)
        assert "Backtrace stopped" not in kgdb.execute("bt")
        names = functions(stop)
        assert "asm_common_interrupt" in names, names
        assert names[-1] != "asm_common_interrupt" or stop.task["mm"]
        kgdb.resume()


def test_beneath_a_page_fault_of_the_kernels(kgdb):
    with kgdb.breakpoint("handle_mm_fault", condition="!(flags & 64)"):  # FAULT_FLAG_USER
        kgdb.type("cat /proc/self/maps > /dev/null")
        stop = kgdb.cont()
    frames = stop.backtrace()
    names = [frame.function for frame in frames]
    entry = names.index("asm_exc_page_fault")
    check(kgdb, stop)
    assert len(names) > entry + 2
    # The registers are those that the exception saved, and the caller's variables are known.
    regs = frames[names.index("exc_page_fault")].args["regs"]
    interrupted = frames[entry + 1]
    assert interrupted.address == regs["ip"]
    for name, member in (("$rsp", "sp"), ("$rbx", "bx"), ("$rax", "ax"), ("$r12", "r12")):
        assert interrupted.evaluate(f"(unsigned long){name}") == regs[member]
    assert interrupted.up().function == names[entry + 2]


def test_the_variables_of_what_was_interrupted(kgdb):
    """They are where they are at the instruction that faulted, which was not executed."""
    compared = 0
    with kgdb.breakpoint("handle_mm_fault", condition="regs && !(flags & 64)"):
        kgdb.type("while :; do cat /proc/self/maps; ls -l /proc; done > /dev/null &")
        for _ in range(30):
            ours, theirs = interrupted(kgdb, kgdb.cont())
            assert [frame.function for frame in ours] == [frame.name for frame in theirs]
            assert [frame.line for frame in ours] == [frame.source()[1] for frame in theirs]
            for name, (value, other) in numbers(ours, theirs).items():
                assert value == other, (name, ours)
                compared += 1
    assert compared > 5


def test_where_an_inlined_function_was_interrupted(kgdb):
    """The instruction before may be another function's."""
    with kgdb.breakpoint("update_process_times", condition="!user_tick"):
        kgdb.type("while :; do cat /proc/self/maps; ls -l /proc; done > /dev/null &")
        for _ in range(30):
            ours, theirs = interrupted(kgdb, kgdb.cont())
            assert set(aliases(frame.function for frame in ours)) == set(
                aliases(frame.name for frame in theirs)
            )
            for name, (value, other) in numbers(ours, theirs).items():
                assert value == other, (name, ours)


def test_at_gdbs_prompt(kgdb):
    with kgdb.breakpoint("handle_mm_fault", condition="!(flags & 64)"):
        kgdb.type("cat /proc/self/maps > /dev/null")
        names = functions(kgdb.cont())
    shown = kgdb.execute("bt")
    assert all(f"{name} (" in shown for name in names)
    assert "Backtrace stopped" not in shown
    assert names[-2] in kgdb.execute(f"frame {len(names) - 2}")


def test_a_stop_in_assembler(kgdb):
    kgdb.breakpoint("clear_page_erms", temporary=True)
    kgdb.type("cat /proc/self/maps > /dev/null")
    stop = kgdb.cont()
    frames = itertools.dropwhile(lambda frame: frame.inlined, stop.backtrace()[1:])
    caller = next(frames).function  # those between are inlined in it
    before = kgdb.evaluate("(unsigned long)$rbx")
    assert stop.backtrace()[1].evaluate("(unsigned long)$rbx") == int(before)
    finished = next(frame for frame in kgdb.finish().backtrace() if not frame.inlined)
    assert finished.function == caller


@pytest.mark.kgdb(smp=2)
def test_a_panic_in_an_interrupt(kgdb):
    kgdb.modules.load_stopped(MODULES / "ipi")
    stop = kgdb.cont()
    assert (stop.reason, stop.frame.function) == ("panic", "in_ipi")
    check(kgdb, stop)
