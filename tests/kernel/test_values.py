"""Values of every sort, and what a failed comparison shows of them."""

from __future__ import annotations

import pytest

from pytest_kgdb import Value
from pytest_kgdb.errors import KgdbError, StaleError
from pytest_kgdb.plugin._compare import compare


def test_structures_unions_bitfields(kgdb) -> None:
    task = kgdb.evaluate("init_task")
    assert {"pid", "comm", "sched_class"} <= set(task.members)
    assert task["in_execve"] == 0  # a bit field
    kgdb.assign("init_task.in_execve", 1)
    assert kgdb.evaluate("init_task.in_execve") == 1
    assert task["in_execve"] == 1, "read again after a write"
    assert task == {"pid": 0, "comm": "swapper/0", "in_execve": 1}
    assert task != {"pid": 1}
    assert task != {"pid": 0, "comm": "init"}
    union = kgdb.evaluate("init_task.restart_block.futex")
    assert union["uaddr"] == kgdb.evaluate("init_task.restart_block.nanosleep.clockid")


def test_arrays_and_flexible_ones(kgdb) -> None:
    numbers = kgdb.evaluate("init_struct_pid.numbers")
    assert numbers[0]["nr"] == 0
    assert numbers[0]["ns"] == kgdb.evaluate("&init_pid_ns")
    limits = kgdb.evaluate("init_task.signal->rlim")
    assert len(limits) == 16
    assert [int(limit["rlim_cur"]) for limit in limits][3] == int(limits[3]["rlim_cur"])
    with pytest.raises(IndexError):
        limits[16]


def test_function_pointers_are_symbols(kgdb) -> None:
    handler = kgdb.evaluate("init_task.sched_class->task_tick")
    assert handler.symbol == "task_tick_idle"
    assert handler == "task_tick_idle"
    assert handler != "task_tick_rt"
    assert kgdb.evaluate("&init_task").symbol == "init_task"
    assert kgdb.evaluate("(char *)&init_task + 8").symbol is None
    with pytest.raises(TypeError, match="not a pointer"):
        kgdb.evaluate("init_task.pid").symbol  # noqa: B018


def test_macros_are_said_to_be_missing(kgdb) -> None:
    with pytest.raises(KgdbError, match="looks like a macro"):
        kgdb.evaluate("PAGE_SIZE")
    with pytest.raises(KgdbError) as raised:
        kgdb.evaluate("no_such_thing")
    assert raised.value.hint is None


@pytest.mark.kgdb(smp=2)
def test_per_cpu_variables_and_current(kgdb) -> None:
    assert [int(kgdb.per_cpu("runqueues", cpu)["cpu"]) for cpu in (0, 1)] == [0, 1]
    assert kgdb.per_cpu("runqueues")["cpu"] == kgdb.stop.cpu
    with kgdb.breakpoint("do_sys_openat2"):
        kgdb.type("cat /proc/version")
        stop = kgdb.cont()
    assert kgdb.current == stop.task
    assert kgdb.current.comm in ("cat", "sh")
    assert kgdb.per_cpu("runqueues", stop.cpu)["curr"] == kgdb.current
    with pytest.raises(KgdbError, match="no CPU 2; the guest has 2"):
        kgdb.per_cpu("runqueues", 2)


@pytest.mark.kgdb(smp=2)
def test_current_as_in_the_kernels_source(kgdb) -> None:
    shell = int(kgdb.run("echo $$").output)
    with kgdb.breakpoint("vfs_read", condition=f"current->pid != {shell}") as others:
        kgdb.type("read x < /proc/version; dd if=/dev/zero of=/dev/null bs=17 count=1")
        stop = kgdb.cont()
        assert kgdb.evaluate("current") == stop.task == kgdb.current
        assert kgdb.evaluate("current->pid") == stop.task.pid != shell
        assert kgdb.evaluate("current->comm") == stop.task.comm
        assert stop.frame.up().evaluate("current->pid + 1") == stop.task.pid + 1
    assert others.hits == 1
    with kgdb.breakpoint("vfs_read", condition=f"current->pid == {shell}"):
        kgdb.type("read x < /proc/version")
        assert kgdb.cont().task.pid == shell
    kgdb.assign("current->exit_signal", 10)
    assert kgdb.current["exit_signal"] == 10


def test_what_the_compiler_left_out(kgdb) -> None:
    """At some place in the way of an open, some variable is not there any more."""
    left_out = []
    for function in ("do_sys_openat2", "path_openat", "do_dentry_open", "vfs_read"):
        with kgdb.breakpoint(function, temporary=True):
            kgdb.type("cat /proc/version")
            for frame in kgdb.cont().backtrace():
                variables = {**frame.args, **frame.locals}
                left_out += [
                    (frame, name, value)
                    for name, value in variables.items()
                    if isinstance(value, Value) and value.is_optimized_out
                ]
        if left_out:
            break
        kgdb.run("true")
    assert left_out, "gcc left everything in: this test needs other functions"
    frame, name, value = left_out[0]
    assert str(value) == "<optimized out>"
    reason = rf"{name} was optimised out here by the compiler"
    for use in (lambda: int(value), lambda: value == 1, value.string, value.dereference):
        with pytest.raises(KgdbError, match=reason) as raised:
            use()
        assert "another line" in str(raised.value)
    assert frame.evaluate(name).is_optimized_out
    # gdb's own words would be `value has been optimized out`, of whichever part it is.
    with pytest.raises(KgdbError, match=rf"{name} \+ 1.*was optimised out here") as raised:
        frame.evaluate(f"{name} + 1")
    assert "another line" in str(raised.value)


def test_to_drgn_and_back(kgdb) -> None:
    from drgn.helpers.linux.pid import find_task

    task = kgdb.drgn_object(kgdb.evaluate("init_task"))
    assert task.comm.string_() == b"swapper/0"
    assert task.address_ == kgdb.evaluate("&init_task")
    pointer = kgdb.drgn_object(kgdb.evaluate("init_task.parent"))
    assert pointer.pid.value_() == 0
    assert kgdb.drgn_object(kgdb.evaluate("2 + 3")).value_() == 5
    init = find_task(kgdb.program, 1)
    assert kgdb.evaluate(init)["comm"] == "init"  # a pointer
    assert kgdb.evaluate(init.comm).string() == "init"  # an array in memory
    assert kgdb.evaluate(kgdb.program["init_task"])["pid"] == 0
    with pytest.raises(KgdbError, match="that is a copy is in no memory"):
        kgdb.evaluate(init.comm.read_())


def test_what_a_failed_comparison_shows(kgdb) -> None:
    pid = kgdb.evaluate("init_task.pid")
    assert compare("==", pid, 5) == [
        "init_task.pid (0 = 0x0) == 5",
        "",
        "                 (pid_t)  0 = 0x0",
        "                   (int)  5 = 0x5",
    ]
    shown = "\n".join(compare("==", kgdb.evaluate("init_task.comm"), "init") or ())
    assert "'swapper/0'" in shown
    assert "'init'" in shown
    shown = "\n".join(compare("==", kgdb.evaluate("system_state"), "SYSTEM_HALT") or ())
    assert "SYSTEM_RUNNING" in shown
    soft = kgdb.evaluate("init_task.signal->rlim[3]")
    hard = kgdb.evaluate("init_task.signal->rlim[0]")
    lines = compare("==", soft, hard) or []
    assert lines[0] == "init_task.signal->rlim[3] == init_task.signal->rlim[0]"
    assert "  .rlim_cur" in lines
    assert any(line.startswith("-     8388608 = 0x800000") for line in lines), lines
    lines = compare("==", kgdb.evaluate("init_task"), {"pid": 0, "comm": "init"}) or []
    assert lines[-4:] == [
        "  .comm",
        "-     'swapper/0'",
        "+     'init'",
        "  (1 members are the same)",
    ]
    assert compare("==", 1, 2) is None


def test_pytest_shows_it(kgdb) -> None:
    with pytest.raises(AssertionError, match=r"(?s)init_task\.pid \(0 = 0x0\) == 5.*\(pid_t\)"):
        assert kgdb.evaluate("init_task.pid") == 5


def test_stale_ones_say_so(kgdb) -> None:
    value = kgdb.evaluate("init_task")
    kgdb.stepi()
    with pytest.raises(StaleError):
        value.members  # noqa: B018
    assert "stale" in str(compare("==", value, {"pid": 0}))


def test_what_a_watchpoint_saw(kgdb) -> None:
    with kgdb.watchpoint("panic_on_oops"):
        kgdb.type("echo 1 > /proc/sys/kernel/panic_on_oops")
        stop = kgdb.cont()
    assert (stop.old, stop.new) == (0, 1)
    assert stop.frame.function is not None
    kgdb.resume()
    kgdb.interrupt()
    with kgdb.watchpoint("panic_on_oops", access="read"):
        kgdb.type("cat /proc/sys/kernel/panic_on_oops")
        stop = kgdb.cont()
    assert (stop.old, stop.new) == (None, 1)
