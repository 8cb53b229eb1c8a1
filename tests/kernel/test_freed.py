"""Instruments whose memory the kernel frees: modules, the inits of modules, its own init."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from pytest_kgdb.errors import GuestCommandError, KgdbError, TimeoutError
from pytest_kgdb.handle import attachment_of

FREED = Path(__file__).parent / "modules" / "freed"
FIRST, SECOND = FREED / "first.ko", FREED / "second.ko"
CALL = "echo 1 > /sys/module/{}/parameters/call"


def sum_of(number: int) -> int:
    """What second_sum() returns."""
    for n in range(32):
        number = (number ^ 0x1122334455667788) * (2 * n + 3) & (1 << 64) - 1
    return number - (1 << 64) * (number >> 63)


def second_is_whole(kgdb) -> None:
    """Load another module, and have its code run."""
    kgdb.modules.load(SECOND)
    assert kgdb.run(CALL.format("second")).status == 0
    assert kgdb.evaluate("second_numbers[63]") == sum_of(3)
    assert "KGDB: BP" not in kgdb.dmesg()


def in_modules(kgdb) -> list[int]:
    """Return where the target has breakpoints behind the kernel's image."""
    inserted = attachment_of(kgdb).relay._breakpoints.inserted
    return [address for address in inserted if address >= kgdb.program.symbol("_end").address]


@pytest.mark.parametrize("where", ["init", "text", "parameter"])
def test_returns_to_a_module_that_goes(kgdb, where):
    with kgdb.spy("int_pow", returns=True) as powers:
        if where == "parameter":  # which is refused, and the module with it
            with pytest.raises(GuestCommandError, match="Invalid argument"):
                kgdb.modules.load(FIRST, call="-")
            values = [9] * powers.count  # busybox tries another system call, too
        else:
            first = kgdb.modules.load(FIRST)
            values = [343]
        if where == "text":
            assert kgdb.run(CALL.format("first")).status == 0
            values.append(9)
            assert len(in_modules(kgdb)) == 1
            first.unload()
        assert [call.return_value for call in powers.calls] == values
        kgdb.run("true")  # what is not needed is removed when the kernel next runs
        assert not in_modules(kgdb)
        second_is_whole(kgdb)
        assert powers.active


@pytest.mark.kgdb(at="kgdbwait")
def test_returns_to_init_code_that_goes(kgdb):
    init = range(*(kgdb.program.symbol(name).address for name in ("__init_begin", "__init_end")))
    relay = attachment_of(kgdb).relay
    with kgdb.spy("misc_register", returns=True) as registered:
        kgdb.breakpoint("run_init_process", temporary=True)
        kgdb.cont()
        values = [call.return_value for call in registered.calls]
        assert values == [0] * registered.count != []
        assert not [address for address in relay._breakpoints.inserted if address in init]
        assert registered.active


@pytest.mark.parametrize("kind", ["spy", "override"])
def test_a_restore_to_before_a_module(kgdb, kind):
    kgdb.snapshot("before")
    kgdb.modules.load(FIRST)
    made = kgdb.spy("first_call") if kind == "spy" else kgdb.override("first_call", -1)
    assert kgdb.run(CALL.format("first")).status == (0 if kind == "spy" else 1)
    kgdb.restore("before")
    assert not made.active
    assert "ended: module first is not loaded any more" in repr(made)
    assert not in_modules(kgdb)
    second_is_whole(kgdb)


def test_a_restore_to_where_a_module_is(kgdb):
    kgdb.modules.load_stopped(FIRST)
    kgdb.snapshot("stopped")
    in_init, in_text = kgdb.spy("first_init"), kgdb.spy("first_call")
    kgdb.resume()
    assert kgdb.run(CALL.format("first")).status == 0
    assert (in_init.active, in_init.count, in_text.active, in_text.count) == (False, 1, True, 1)
    kgdb.snapshot("loaded")
    kgdb.restore("stopped")
    assert in_text.active
    in_init = kgdb.spy("first_init")
    kgdb.restore("loaded")
    assert "ended: the init of module first has run" in repr(in_init)
    assert kgdb.run(CALL.format("first")).status == 0
    assert in_text.count == 2


def wait_for_read(kgdb, reads) -> list[Any]:
    """Let the kernel run until the shell waits for what is typed; return the calls that wait."""
    deadline = time.monotonic() + 30
    while not (waiting := [call for call in reads.calls if not call.returned]):
        assert time.monotonic() < deadline
        kgdb.resume()
        kgdb.interrupt()
    return waiting


def test_a_restore_to_before_a_return(kgdb):
    with kgdb.spy("vfs_read", returns=True) as reads:
        kgdb.run("true")
        wait_for_read(kgdb, reads)
        kgdb.snapshot("here")
    with kgdb.spy("vfs_read", returns=True) as reads:
        kgdb.run("true")
        waiting = wait_for_read(kgdb, reads)
        count = reads.count
        kgdb.restore("here")
        kgdb.run("true")
        for call in waiting:
            with pytest.raises(KgdbError, match="the machine was restored before it returned"):
                call.return_value  # noqa: B018 # it raises
        kgdb.run("true")
        assert any(call.returned for call in reads.calls[count:]), "those since are seen"


GONE = "its memory is gone: module first is not loaded any more"


def test_variables_of_a_module_that_goes(kgdb):
    first = kgdb.modules.load(FIRST)
    names = ["first_number", "first_on_cpu", "*(&first_number - 0)", "first_call == 0"]
    with kgdb.spy("hrtimer_nanosleep", collect=[*names, "nr_cpu_ids"]) as sleeps:
        kgdb.run("sleep 0")
        assert [sleeps.calls[-1][name] for name in names] == [4711, 12, 4711, 0]
        first.unload()
        for second in (False, True):
            if second:
                second_is_whole(kgdb)
            before = sleeps.count
            kgdb.run("sleep 0")
            assert sleeps.count > before
            for call in sleeps.calls[before:]:
                assert call["nr_cpu_ids"] == 1
                for name in names:
                    with pytest.raises(KgdbError, match=f"could not be read at the call: {GONE}"):
                        call[name]


@pytest.mark.parametrize("part", ["when", "returns"])
def test_an_override_by_variables_of_a_module_that_goes(kgdb, part):
    first = kgdb.modules.load(FIRST)
    when, value = ("first_number", 0) if part == "when" else (None, "first_number - first_number")
    sleeps = kgdb.override("hrtimer_nanosleep", value, when=when)
    assert kgdb.run("sleep 100").status == 0
    assert sleeps.forced == 1
    first.unload()
    kgdb.type("sleep 100")
    with pytest.raises(KgdbError, match=f"an instrument stopped .*'first_number.*{GONE}"):
        kgdb.cont()
    assert kgdb.stop.frame.function == "hrtimer_nanosleep"


def test_init_data_of_a_module(kgdb):
    kgdb.modules.load(FIRST)
    for read in (kgdb.evaluate, kgdb.watchpoint, lambda name: kgdb.assign(name, 1)):
        with pytest.raises(KgdbError, match=r"is init data \(first\.c\).*freed.*\n.*load_stopped"):
            read("first_in_init")
    assert int(kgdb.evaluate("&first_in_init")) > 1 << 63


POINTED = ("&first_list_in_init->prev", "&(first_list_in_init->prev)", "&first_list_in_init[1]")


@pytest.mark.parametrize("expression", POINTED)
def test_where_freed_init_data_points(kgdb, expression):
    """To say where that is, the pointer is read."""
    kgdb.modules.load(FIRST)
    for read in (
        kgdb.evaluate,
        lambda text: kgdb.watchpoint(f"*({text})"),
        lambda text: kgdb.spy("vfs_read", collect=[text]),
        lambda text: kgdb.breakpoint("vfs_read", condition=f"{text} == 0"),
    ):
        with pytest.raises(KgdbError, match=r"is init data \(first\.c\).*freed"):
            read(expression)
    assert kgdb.evaluate("sizeof(first_list_in_init)") == 8


def test_where_a_pointer_of_each_cpu_points(kgdb):
    with pytest.raises(KgdbError, match="each CPU has its own"):
        kgdb.evaluate("&ksoftirqd->pid")
    task = kgdb.per_cpu("ksoftirqd", 0)
    assert task["comm"].string() == "ksoftirqd/0"
    assert kgdb.evaluate("&per_cpu(ksoftirqd, 0)->pid") == task["pid"].address


def test_a_pointer_of_each_cpu(kgdb):
    """gdb 16 reads it for its address and its size, where each CPU's own lies at none of both."""
    pid = int(kgdb.per_cpu("ksoftirqd", 0)["pid"])
    offset = int(kgdb.evaluate("(unsigned long)&ksoftirqd"))
    assert kgdb.evaluate("sizeof(ksoftirqd)") == 8
    for text in ("ksoftirqd", "ksoftirqd->pid", "&ksoftirqd[1]", "*&ksoftirqd"):
        with pytest.raises(KgdbError, match="each CPU has its own"):
            kgdb.evaluate(text)
    for text in (
        "per_cpu(ksoftirqd, 0)->pid",
        "(*per_cpu_ptr(&ksoftirqd, 0))->pid",
        "per_cpu('softirq.c'::ksoftirqd, 0)->pid",
        f"(*(struct task_struct **)({offset} + __per_cpu_offset[0]))->pid",
    ):
        assert kgdb.evaluate(text) == pid, text
    with kgdb.spy("vfs_read", collect=["per_cpu(ksoftirqd, 0)->pid", "&ksoftirqd"]) as reads:
        kgdb.run("cat /proc/version")
    assert reads.calls[0]["per_cpu(ksoftirqd, 0)->pid"] == pid
    assert reads.calls[0]["&ksoftirqd"] == offset
    condition = f"per_cpu(ksoftirqd, 0)->pid == {pid}"
    kgdb.breakpoint("vfs_read", condition=condition, temporary=True)
    kgdb.type("cat /proc/version")
    assert kgdb.cont().reason == "breakpoint"
    kgdb.watchpoint("per_cpu(ksoftirqd, 0)").delete()


@pytest.mark.kgdb(at="kgdbwait")
def test_init_data_that_goes(kgdb):
    with (
        kgdb.spy("do_filp_open", collect=["boot_command_line"]) as opens,
        kgdb.spy("console_on_rootfs") as made,
    ):
        kgdb.breakpoint("run_init_process", temporary=True)
        kgdb.cont()
        before = opens.count
        assert "console=" in opens.calls[0]["boot_command_line"]
        assert (made.count, made.active) == (1, False)
        assert "ended: the kernel has freed its init memory" in repr(made)
        kgdb.breakpoint("do_exit", temporary=True)
        kgdb.cont()
        assert opens.count > before
        for call in opens.calls[before:]:
            with pytest.raises(KgdbError, match="is gone: the kernel has freed its init memory"):
                call["boot_command_line"]


@pytest.mark.parametrize("seen", [True, False])
def test_a_condition_on_a_module_that_goes(kgdb, seen):
    first = kgdb.modules.load(FIRST)
    condition = "first_number == 4711 && first_number != 0"
    kgdb.breakpoint("hrtimer_nanosleep", condition=condition)
    kgdb.type("sleep 0")
    assert kgdb.cont().breakpoint.condition == condition
    if seen:
        first.unload()
        kgdb.type("sleep 0")
    else:
        kgdb.type("rmmod first; sleep 0")
    stop = kgdb.cont()
    assert stop.breakpoint.condition == condition
    assert f"the condition '{condition}': module first is not loaded any more" in stop.message
    stop.breakpoint.condition = "nr_cpu_ids == 1"
    kgdb.type("sleep 0")
    stop = kgdb.cont()
    assert (stop.message, stop.breakpoint.hits) == (None, 3)


def test_a_condition_on_a_module_that_a_restore_has_not(kgdb):
    kgdb.snapshot("before")
    kgdb.modules.load(FIRST)
    kgdb.breakpoint("hrtimer_nanosleep", condition="first_number == 4711")
    watched = kgdb.watchpoint("first_number")
    kgdb.restore("before")
    assert "deleted: module first is not loaded any more" in repr(watched)
    kgdb.type("sleep 0")
    assert "module first is not loaded any more" in kgdb.cont().message


def test_a_watchpoint_on_a_module_that_goes(kgdb):
    first = kgdb.modules.load(FIRST)
    watched = kgdb.watchpoint("first_number")
    assert kgdb.evaluate("first_number") == 4711
    kgdb.type(CALL.format("first"))
    assert kgdb.cont().breakpoint is watched
    first.unload()
    assert repr(watched).endswith("deleted: module first is not loaded any more>")
    second_is_whole(kgdb)
    with pytest.raises(TimeoutError, match=r"first_number is deleted: module first is not loaded"):
        kgdb.cont(timeout=0.1)


@pytest.mark.kgdb(at="kgdbwait")
def test_breakpoints_on_init_data_that_goes(kgdb):
    watched = kgdb.watchpoint("*(long *)boot_command_line")
    kgdb.breakpoint("run_init_process", condition="boot_command_line[0] == 99")
    assert "could not evaluate" in kgdb.cont().message
    assert repr(watched).endswith("deleted: the kernel has freed its init memory>")
