"""Watchpoints of local variables end with their function, and what others have there is no hit.

A watched stack that is not in use is fatal to QEMU: an exception is written to it.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from pytest_kgdb.errors import KgdbError
from pytest_kgdb.handle import attachment_of

LOCALS = Path(__file__).parent / "modules/locals"
WRITE = "echo {} > /sys/module/locals/parameters/run"


@pytest.fixture
def locals_(kgdb):
    kgdb.modules.load(LOCALS)
    yield kgdb
    if kgdb.stop is None or kgdb.stop.reason != "oops":
        assert kgdb.run("echo on").output == "on\n"


def stop_in(kgdb, function, number):
    """Stop behind a function's prologue."""
    kgdb.breakpoint(function, temporary=True)
    kgdb.type(WRITE.format(number))
    kgdb.cont()
    assert kgdb.stop.frame.function == function


def ended(kgdb, watch, function):
    stop = kgdb.stop
    assert (stop.reason, stop.breakpoint) == ("watchpoint", watch), stop
    name = watch.expression
    assert stop.message == f"the function returns whose {name} it is: the watchpoint is deleted"
    assert (stop.old, stop.new, stop.frame.function) == (None, None, function)
    assert "deleted" in repr(watch)


def test_it_ends_with_the_function(locals_):
    stop_in(locals_, "locals_sum", 1)
    watch = locals_.watchpoint("local")
    seen = []
    while not locals_.cont().message:
        seen.append((locals_.stop.frame.function, locals_.stop.new))
    assert seen[-1] == ("locals_fill", 1)
    assert watch.hits == len(seen)
    ended(locals_, watch, "locals_sum")
    assert locals_.execute("info watchpoints") == "No watchpoints.\n"


def test_that_of_the_innermost_call_alone(locals_):
    stop_in(locals_, "locals_sum", 3)
    outer = locals_.watchpoint("local")
    for _ in range(2):
        locals_.breakpoint("locals_sum", temporary=True)
        while locals_.cont().reason == "watchpoint":
            assert locals_.stop.breakpoint is outer
    inner = locals_.watchpoint("local")
    while not locals_.cont().message:
        assert locals_.stop.breakpoint is inner
    ended(locals_, inner, "locals_sum")
    assert len(locals_.stop.backtrace()) > 3
    assert locals_.cont().breakpoint is outer
    while not locals_.stop.message:
        assert locals_.stop.new == 6
        locals_.cont()
    ended(locals_, outer, "locals_sum")


def test_that_of_a_caller(locals_):
    stop_in(locals_, "locals_fill", 1)
    locals_.execute("up")
    with locals_.watchpoint("local") as watch:
        assert locals_.cont().frame.function == "locals_fill"
        assert (locals_.stop.breakpoint, locals_.stop.new) == (watch, 1)
        while not locals_.cont().message:
            assert locals_.stop.reason == "watchpoint"
        ended(locals_, watch, "locals_sum")


@pytest.mark.kgdb(smp=2)
def test_it_stays_while_its_task_sleeps(locals_):
    stop_in(locals_, "locals_sleep", 20)
    watch = locals_.watchpoint("local")
    numbers = []
    while not locals_.cont().message:
        numbers.append(locals_.stop.new)
    assert numbers[-2:] == [20, 21]
    ended(locals_, watch, "locals_sleep")


def test_the_end_by_finish(locals_):
    stop_in(locals_, "locals_sum", 1)
    with locals_.watchpoint("local") as watch:
        while locals_.finish().frame.function != "locals_write":
            assert locals_.stop.reason in ("watchpoint", "finished")
        assert (locals_.stop.reason, locals_.stop.return_value) == ("finished", 1)
        assert "deleted" in repr(watch)


@pytest.mark.parametrize("step", ["next", "stepi"])
def test_the_end_by_steps(locals_, step):
    stop_in(locals_, "locals_sum", 1)
    watch = locals_.watchpoint("local")
    locals_.breakpoint("locals_spin", temporary=True)
    while locals_.cont().reason == "watchpoint":
        pass
    locals_.finish()
    while locals_.stop.frame.function == "locals_sum":
        getattr(locals_, step)()
    assert locals_.stop.frame.function == "locals_write"
    assert "deleted" in repr(watch)
    for _ in range(5):
        assert getattr(locals_, step)().reason == "step"


@pytest.mark.parametrize("command", ["watch local", "watch -l local", "rwatch -l local"])
def test_at_the_prompt(locals_, command):
    stop_in(locals_, "locals_sum", 1)
    locals_.execute(command)
    while not (locals_.stop.message and "returns" in locals_.stop.message):
        locals_.execute("continue")
        assert locals_.stop.reason == "watchpoint"
    assert locals_.stop.frame.function == "locals_sum"
    assert locals_.execute("info watchpoints") == "No watchpoints.\n"


def test_a_function_in_which_kgdb_has_no_breakpoint(kgdb):
    """noinstr code: its return address is watched instead."""
    kgdb.breakpoint("__x64_sys_openat", temporary=True)
    kgdb.type("cat /proc/version")
    kgdb.cont()
    while "do_syscall_64 (" not in kgdb.execute("frame"):
        kgdb.execute("up")
    watch = kgdb.watchpoint("*(unsigned long *)$sp")
    stop = kgdb.cont()
    assert (stop.reason, stop.breakpoint, watch.hits) == ("watchpoint", watch, 0)
    assert "the function returns" in stop.message
    place = {"kgdb": "entry_SYSCALL_64", "qemu": "do_syscall_64"}  # QEMU has them there
    assert stop.frame.function == place[attachment_of(kgdb).relay.door]
    assert kgdb.run("echo on").output.endswith("on\n")


@pytest.mark.parametrize(
    ("function", "command"),
    [("update_process_times", "sleep 0.1"), ("handle_mm_fault", "cat /proc/version")],
    ids=["in an interrupt", "in an exception"],
)
def test_beneath(kgdb, function, command):
    kgdb.breakpoint(function, temporary=True)
    kgdb.type(command)
    kgdb.cont()
    for _ in range(12):
        kgdb.stepi()
    watch = kgdb.watchpoint("*(unsigned long *)$sp")
    while not kgdb.cont().message:
        assert kgdb.stop.breakpoint is watch
    assert "asm_" in " ".join(frame.function for frame in kgdb.stop.backtrace())
    assert "deleted" in repr(watch)
    assert kgdb.run("echo on").output.endswith("on\n")


def test_with_a_spy_where_it_returns_to(locals_):
    spy = locals_.spy("locals_spin", returns=True)
    stop_in(locals_, "locals_sum", 2)
    watch = locals_.watchpoint("local")
    while not locals_.cont().message:
        pass
    ended(locals_, watch, "locals_sum")
    assert locals_.run("true").status == 0
    assert [call.return_value for call in spy.calls] == [1, 3, 3]


def test_an_oops_ends_it(locals_):
    stop_in(locals_, "locals_die", -1)
    watch = locals_.watchpoint("local")
    while locals_.cont().reason == "watchpoint":
        pass
    assert locals_.stop.reason == "oops"
    assert "deleted" in repr(watch)


def test_back_to_a_snapshot(locals_):
    """It watches again where its function is there, and is deleted where it is not."""
    locals_.snapshot("before")
    stop_in(locals_, "locals_sum", 1)
    locals_.snapshot("within")
    watch = locals_.watchpoint("local")
    assert locals_.cont().breakpoint is watch
    locals_.restore("within")
    while not locals_.cont().message:
        assert locals_.stop.breakpoint is watch
    ended(locals_, watch, "locals_sum")
    locals_.restore("within")
    watch = locals_.watchpoint("local")
    locals_.restore("before")
    stop_in(locals_, "locals_fill", 1)
    assert "deleted" in repr(watch)


TASKS = "(long)&((struct task_struct *)0)->tasks"
INIT = f"((struct task_struct *)((char *)init_task.tasks.next - {TASKS}))"


def test_what_is_refused(locals_):
    stop_in(locals_, "locals_sum", 1)
    with pytest.raises(KgdbError, match="in no function's frame") as error:
        locals_.watchpoint("*(long *)($sp - 64)")
    assert "until it returns" in error.value.hint
    with pytest.raises(KgdbError, match=r"lies on the stack of init\[1\]"):
        locals_.watchpoint(f"*(long *)((char *){INIT}->stack + 4096)")
    with pytest.raises(KgdbError, match=r"lies on the stack of swapper/0\[0\]"):
        locals_.watchpoint("*(long *)init_task.stack")
    with pytest.raises(KgdbError, match=r"is refused: 0x[0-9a-f]+ is on the stack of the task"):
        locals_.execute("watch -l *(long *)($sp - 64)")
    assert locals_.execute("info watchpoints") == "No watchpoints.\n"
    assert locals_.stop.frame.function == "locals_sum"


def test_the_registers_of_the_entry_are_no_functions(locals_):
    stop_in(locals_, "locals_sum", 1)
    watch = locals_.watchpoint("((struct pt_regs *)((char *)current->stack + 16384) - 1)->ax")
    stop = locals_.cont()
    assert (stop.reason, stop.breakpoint, stop.message) == ("watchpoint", watch, None)
    assert stop.frame.function == "do_syscall_64"
    watch.delete()


def test_two_that_are_hit_at_once(locals_):
    stop_in(locals_, "locals_sum", 1)
    first, second = locals_.watchpoint("local"), locals_.watchpoint("local", access="access")
    while locals_.cont().frame.function != "locals_fill":
        assert locals_.stop.reason == "watchpoint"
    assert locals_.stop.breakpoint in (first, second)
    while not locals_.cont().message:
        assert locals_.stop.reason == "watchpoint"
    assert "deleted" in repr(first)
    assert "deleted" in repr(second)


@pytest.mark.parametrize("smp", [1, pytest.param(2, marks=pytest.mark.kgdb(smp=2))])
def test_atomic_instructions(locals_, smp):
    """They would be missed where the return address is watched as well, or QEMU would end."""
    locals_.breakpoint("locals_count", temporary=True)
    locals_.type("echo 3 > /sys/module/locals/parameters/count")
    locals_.cont()
    locals_.next()
    if attachment_of(locals_).machine.misses_atomics:
        assert smp == 2
        with pytest.raises(KgdbError, match="is an atomic_t") as refused:
            locals_.watchpoint("local.counter")
        assert "--kgdb-smp=1" in refused.value.hint
        with pytest.raises(KgdbError, match="is an atomic_t"):
            locals_.execute("watch -l local.counter")
        assert "watch" not in locals_.execute("info breakpoints")
        return
    watch = locals_.watchpoint("local.counter")
    seen = []
    while not locals_.cont().message:
        seen.append((locals_.stop.frame.function, locals_.stop.old, locals_.stop.new))
    assert seen == [("locals_increment", number, number + 1) for number in range(3)]
    ended(locals_, watch, "locals_count")
