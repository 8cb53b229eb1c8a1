"""Run control on a real kernel: going on, stopping, stepping."""

from __future__ import annotations

import re
import time
from pathlib import Path

import migrating
import pytest

from pytest_kgdb.errors import (
    ConfigError,
    GuestCommandError,
    KernelPanic,
    KgdbError,
    StaleError,
    TimeoutError,
)
from pytest_kgdb.handle import attachment_of

OPEN = "do_sys_openat2"


def open_something(kgdb) -> None:
    """Have the guest's shell open files from now on."""
    kgdb.type("while :; do cat /proc/uptime; done >/dev/null")


def test_the_test_begins_stopped_at_ready(kgdb):
    assert kgdb.stopped
    assert kgdb.stop.reason == "interrupt"
    assert kgdb.evaluate("system_state") == "SYSTEM_RUNNING"


@pytest.mark.kgdb(at="kgdbwait")
@pytest.mark.parametrize("cpus", [1, pytest.param(2, marks=pytest.mark.kgdb(smp=2))])
def test_an_interrupt_before_the_console_is_open(kgdb, cpus):
    """The driver drops what comes before that, a break too."""
    kgdb.resume()
    assert kgdb.interrupt().reason == "interrupt"
    assert kgdb.run("nproc").output == f"{cpus}\n"
    for _ in range(3):
        kgdb.resume()
        assert kgdb.interrupt(timeout=10).reason == "interrupt"


@pytest.mark.kgdb(at="kgdbwait")
@pytest.mark.parametrize("place", [None, "console_on_rootfs", "uart_open", "run_init_process"])
def test_a_command_for_a_kernel_that_is_to_boot_first(kgdb, place):
    """The console's driver drops what comes before it is opened."""
    if place is not None:
        kgdb.breakpoint(place, temporary=True)
        assert kgdb.cont().frame.function == place
    assert kgdb.run("echo $((40 + 2))").output == "42\n"
    assert kgdb.stop.reason == "interrupt"


@pytest.mark.kgdb(at="kgdbwait")
@pytest.mark.parametrize("place", [None, "uart_open", "run_init_process"])
def test_what_is_typed_for_a_kernel_that_is_to_boot_first(kgdb, place):
    if place is not None:
        kgdb.breakpoint(place, temporary=True)
        kgdb.cont()
    kgdb.type("cat /proc/version")
    kgdb.type("cat /proc/uptime")
    for shows in ("version_proc_show", "uptime_proc_show"):
        kgdb.breakpoint(shows)
        assert kgdb.cont().frame.function == shows


@pytest.mark.kgdb(at="kgdbwait")
def test_snapshots_from_before_and_after_there_is_a_shell(kgdb):
    kgdb.snapshot("early")
    assert kgdb.run("echo one").output == "one\n"
    kgdb.snapshot("late")
    for name in ("early", "late", "early"):
        kgdb.restore(name)
        assert kgdb.run(f"echo {name}").output == f"{name}\n"


@pytest.mark.kgdb(at="kgdbwait")
def test_a_breakpoint_before_there_is_a_shell(kgdb):
    kgdb.breakpoint("run_init_process")
    with pytest.raises(GuestCommandError, match=r"'true' did not end.*run_init_process"):
        kgdb.run("true")
    assert kgdb.stop.frame.function == "run_init_process"
    assert kgdb.run("echo alive").output == "alive\n"


@pytest.mark.kgdb(at="kgdbwait")
def test_the_marker_asks_for_early_boot(kgdb):
    assert kgdb.stopped
    door = attachment_of(kgdb).debugger.door
    assert kgdb.stop.reason == {"kgdb": "int3", "qemu": "breakpoint"}[door]
    assert kgdb.evaluate("system_state") < 3


def test_cont_stops_at_a_breakpoint(kgdb):
    with kgdb.breakpoint(OPEN) as opened:
        open_something(kgdb)
        stop = kgdb.cont()
    assert stop.reason == "breakpoint"
    assert stop.breakpoint is opened
    assert stop.frame.function == OPEN
    assert stop.cpu == 0
    assert stop.task.comm in ("sh", "cat")
    assert stop.task.pid > 1


def test_a_hundred_breaks_and_continues(kgdb):
    open_something(kgdb)
    with kgdb.breakpoint(OPEN) as opened:
        for number in range(1, 101):
            stop = kgdb.cont()
            assert stop.frame.function == OPEN
            assert opened.hits == number
    kgdb.resume()
    kgdb.console.synchronise(interrupt=True)
    assert kgdb.run("echo still here").output == "still here\n"


@pytest.mark.kgdb(smp=2)
def test_a_hundred_breaks_and_continues_on_two_processors(kgdb):
    kgdb.type("while :; do cat /proc/uptime; done >/dev/null & while :; do cat /proc/loadavg; done")
    with kgdb.breakpoint(OPEN) as opened:
        for number in range(1, 101):
            assert kgdb.cont().frame.function == OPEN
            assert opened.hits == number


@pytest.mark.parametrize("timeout", ["5", -1, float("nan")])
def test_what_is_no_timeout(kgdb, timeout):
    generation = kgdb.generation
    for use in (
        kgdb.cont,
        kgdb.stepi,
        kgdb.finish,
        lambda timeout: kgdb.until(OPEN, timeout),
        lambda timeout: kgdb.execute("stepi", timeout),
        lambda timeout: kgdb.execute("continue", timeout),
        lambda timeout: kgdb.run("true", timeout),
        lambda timeout: setattr(kgdb, "timeout", timeout),
    ):
        with pytest.raises(ConfigError, match="is no timeout"):
            use(timeout)
    assert kgdb.stopped
    assert kgdb.generation == generation
    assert kgdb.run("echo alive").output == "alive\n"


def test_the_flag_by_which_kgdb_steps_is_not_the_kernels(kgdb):
    with kgdb.breakpoint(OPEN):
        open_something(kgdb)
        kgdb.cont()
    flags = kgdb.stop.registers["eflags"]
    assert not kgdb.stepi().registers["eflags"] & 0x100
    assert kgdb.stop.registers["eflags"] & 0x200 == flags & 0x200


def test_resume_and_wait(kgdb):
    with kgdb.breakpoint(OPEN):
        kgdb.type("cat /proc/uptime")
        kgdb.resume()
        assert kgdb.wait().reason == "breakpoint"
        assert kgdb.wait().reason == "breakpoint", "a second wait returns the same stop"


def test_interrupt_and_go_on_again(kgdb):
    for _ in range(10):
        kgdb.resume()
        assert not kgdb.stopped
        assert kgdb.stop is None
        assert kgdb.interrupt().reason == "interrupt"
        assert kgdb.stopped


def test_interrupt_of_a_stopped_kernel_changes_nothing(kgdb):
    before = kgdb.generation
    assert kgdb.interrupt().reason == "interrupt"
    assert kgdb.generation == before


def test_an_interrupt_that_comes_second_is_not_seen_later(kgdb):
    """A breakpoint wins the race; the sysrq that is still on its way must not be a stop."""
    open_something(kgdb)
    reasons = []
    with kgdb.breakpoint(OPEN):
        for _ in range(10):
            kgdb.resume()
            reasons.append(kgdb.interrupt().reason)
        for _ in range(10):
            assert kgdb.cont().reason == "breakpoint"
    assert set(reasons) <= {"breakpoint", "interrupt"}


# By offset in OPEN: what the relay emulates, and what kgdb steps by the trap flag.
@pytest.mark.parametrize("kind", ["push", "mov", "movl", "call", "test"])
def test_an_interrupt_in_the_place_of_a_step(kgdb, kind):
    """It comes before the step off a breakpoint is executed, and the kernel stops in its handler.

    The breakpoint is there again when the handler returns, and so is the trap flag.
    """
    lines = re.findall(r"<\+(\d+)>:\s+(\w+)", kgdb.execute(f"disassemble {OPEN}"))
    offset = next(int(offset) for offset, name in lines if name == kind)
    open_something(kgdb)
    with kgdb.breakpoint(f"*({OPEN}+{offset})") as breakpoint:
        for _ in range(15):
            kgdb.resume()
            assert kgdb.interrupt().reason in ("breakpoint", "interrupt")
        tasks = []
        for _ in range(5):
            stop = kgdb.cont()
            assert (stop.reason, stop.breakpoint) == ("breakpoint", breakpoint)
            assert stop.frame.address == kgdb.evaluate(f"(unsigned long)&{OPEN}") + offset
            tasks.append(stop.task.pid)
    assert len(set(tasks)) > 1, "each cat comes once"


@pytest.mark.kgdb(smp=2)
@pytest.mark.parametrize("kind", ["push", "movl"])
def test_an_interrupt_in_the_place_of_a_step_on_two_cpus(kgdb, kind):
    """gdb dies of a stop of another task's while it steps one over a breakpoint."""
    lines = re.findall(r"<\+(\d+)>:\s+(\w+)", kgdb.execute(f"disassemble {OPEN}"))
    offset = next(int(offset) for offset, name in lines if name == kind)
    kgdb.type("while :; do cat /proc/version; done > /dev/null &")
    open_something(kgdb)
    with kgdb.breakpoint(f"*({OPEN}+{offset})"):
        for _ in range(10):
            kgdb.resume()
            assert kgdb.interrupt().reason in ("breakpoint", "interrupt")
        for _ in range(10):
            assert kgdb.cont().reason == "breakpoint"


def test_stepping(kgdb):
    kgdb.breakpoint(OPEN, temporary=True)
    open_something(kgdb)
    start = kgdb.cont().frame
    address, line, task = start.address, start.line, kgdb.stop.task.pid
    stop = kgdb.stepi()
    assert stop.reason == "step"
    assert 0 < stop.frame.address - address < 16
    stop = kgdb.next()
    assert stop.reason == "step"
    assert stop.frame.function == OPEN
    assert stop.frame.line != line
    lines = set()
    for _ in range(5):
        stop = kgdb.next()
        assert stop.frame.function == OPEN
        assert stop.task.pid == task
        lines.add(stop.frame.line)
    assert len(lines) > 1


def test_step_goes_into_a_function(kgdb):
    kgdb.breakpoint(OPEN, temporary=True)
    open_something(kgdb)
    kgdb.cont()
    for _ in range(20):
        stop = kgdb.step()
        if stop.frame.function not in (OPEN, "build_open_flags"):
            break
    callers = [frame.function for frame in stop.backtrace()]
    assert stop.frame.function != OPEN
    assert OPEN in callers


# Other tasks, on both CPUs, that come by wherever a step over a call is to end.
CROWD = "(while true; do cat /proc/uptime /proc/version; sleep 0.01; done) >/dev/null 2>&1 &"
smp = pytest.mark.kgdb(smp=2)


@pytest.fixture
def crowd(kgdb):
    for _ in range(3):
        kgdb.run(CROWD)
    return kgdb


@smp
@pytest.mark.parametrize("function", [OPEN, "hrtimer_nanosleep"])
def test_a_step_stays_on_its_task(crowd, function):
    """Over calls that others make at the same time, and over one that sleeps."""
    crowd.breakpoint(function, temporary=True)
    stop = crowd.cont()
    task, lines = stop.task.pid, {stop.frame.line}
    for _ in range(40):
        stop = crowd.next()
        assert (stop.reason, stop.task.pid) == ("step", task)
        if stop.frame.function != function:
            break
        lines.add(stop.frame.line)
    assert stop.frame.function != function, "it came to the function's end"
    assert len(lines) > 2


@smp
def test_finish_and_until_stay_on_their_task(crowd):
    crowd.breakpoint(OPEN, temporary=True)
    task = crowd.cont().task.pid
    stop = crowd.until("do_filp_open")
    assert (stop.frame.function, stop.task.pid) == ("do_filp_open", task)
    stop = crowd.finish()
    assert (stop.reason, stop.frame.function, stop.task.pid) == ("finished", OPEN, task)


@smp
def test_a_breakpoint_meanwhile_stops_any_task(kgdb):
    for _ in range(2):
        kgdb.run("(while true; do cat /proc/uptime; done) >/dev/null 2>&1 &")
    kgdb.breakpoint("hrtimer_nanosleep", temporary=True)
    kgdb.type("sleep 1")
    task = kgdb.cont().task.pid
    opened = kgdb.breakpoint(OPEN)
    others = []
    for _ in range(40):
        stop = kgdb.next()
        if stop.breakpoint is opened:
            others.append(stop.task.pid)
            break
    assert others
    assert others[0] != task, "that one sleeps"
    opened.delete()
    for _ in range(3):
        assert kgdb.next().task.pid == others[0]


def test_finish_has_the_return_value(kgdb):
    kgdb.breakpoint(OPEN, temporary=True)
    kgdb.type("cat /no/such/file")
    kgdb.cont()
    stop = kgdb.finish()
    assert stop.reason == "finished"
    assert stop.return_value == -2
    assert stop.frame.function != OPEN


def test_until_a_location(kgdb):
    kgdb.breakpoint(OPEN, temporary=True)
    kgdb.type("cat /proc/version")
    kgdb.cont()
    stop = kgdb.until("do_filp_open")
    assert stop.frame.function == "do_filp_open"


def test_a_kernel_that_does_not_stop_is_a_timeout(kgdb):
    began = time.monotonic()
    with pytest.raises(TimeoutError, match=r"did not stop in 0\.5 s"):
        kgdb.cont(timeout=0.5)
    assert time.monotonic() - began < 5
    assert not kgdb.stopped
    assert kgdb.interrupt().reason == "interrupt", "it can be stopped all the same"


def test_two_timeouts_are_caught_as_the_builtin_one(kgdb):
    with pytest.raises(builtin_timeout_error()):
        kgdb.cont(timeout=0.1)


def builtin_timeout_error() -> type[BaseException]:
    import builtins

    return builtins.TimeoutError


def test_resuming_a_running_kernel_is_an_error(kgdb):
    kgdb.resume()
    with pytest.raises(KgdbError, match="needs a stopped kernel"):
        kgdb.resume()
    with pytest.raises(KgdbError, match="needs a stopped kernel"):
        kgdb.evaluate("1")


def test_what_was_read_before_is_stale_after(kgdb):
    kgdb.breakpoint(OPEN)
    open_something(kgdb)
    stop = kgdb.cont()
    frame, flag, value = stop.frame, stop.frame.args["dfd"], kgdb.evaluate("jiffies_64")
    int(value)
    kgdb.cont()
    for look in (
        lambda: stop.frame,
        lambda: stop.task,
        lambda: stop.cpu,
        stop.backtrace,
        lambda: frame.function,
        lambda: frame.locals["fd"],
        lambda: int(flag),
        lambda: int(value),
        lambda: str(value),
        lambda: value == 1,
    ):
        with pytest.raises(StaleError, match="moved on"):
            print(look())
    assert stop.reason == "breakpoint", "why it stopped then is true for ever"
    assert "stale" in repr(value)


def test_a_crash_in_the_guest(kgdb):
    kgdb.type("echo c > /proc/sysrq-trigger")
    stop = kgdb.cont()
    assert stop.reason == "panic"
    assert stop.message == "sysrq triggered crash"
    with pytest.raises(KernelPanic, match="halted: sysrq triggered crash"):
        kgdb.cont(timeout=20)


def test_a_crash_during_run_is_reported_as_one(kgdb):
    with pytest.raises(KernelPanic, match="sysrq triggered crash"):
        kgdb.run("echo c > /proc/sysrq-trigger")


def test_a_breakpoint_during_run_is_an_error_that_says_so(kgdb):
    with (
        kgdb.breakpoint(OPEN),
        pytest.raises(GuestCommandError, match=f"the kernel stopped meanwhile.*{OPEN}"),
    ):
        kgdb.run("cat /proc/version")
    assert kgdb.stopped
    assert kgdb.stop.frame.function == OPEN


UPTIME = "while :; do cat /proc/uptime; done >/dev/null"
LOADAVG = "while :; do cat /proc/loadavg; done >/dev/null"


@pytest.mark.kgdb(smp=2)
@pytest.mark.parametrize("how", ["finish", "until"])
def test_going_on_stays_with_its_task_on_two_processors(kgdb, how):
    """Two processors pass the same code; what ended on the other one would tell of it."""
    kgdb.type(f"{UPTIME} & {LOADAVG}")
    for _ in range(8):
        with kgdb.breakpoint(OPEN, temporary=True):
            task = kgdb.cont().task.pid
        if how == "finish":
            stop = kgdb.finish()
            assert stop.reason == "finished"
            assert -4096 < int(stop.return_value) < 1000
        else:
            stop = kgdb.until("do_filp_open")
            assert stop.frame.function == "do_filp_open"
        assert stop.task.pid == task


@pytest.mark.parametrize("smp", [1, pytest.param(2, marks=pytest.mark.kgdb(smp=2))])
def test_finish_waits_for_its_own_task(kgdb, smp):
    """Another task returns to the same place first."""
    kgdb.breakpoint("hrtimer_nanosleep", temporary=True)
    kgdb.type("sleep 1.5 & sleep 0.3; wait")
    task = kgdb.cont().task.pid
    stop = kgdb.finish()
    assert stop.reason == "finished"
    assert stop.task.pid == task
    assert stop.return_value == 0


def test_the_guests_own_sysrq_is_a_stop(kgdb):
    """It is nobody's interrupt(), and no rest of one: several, and mixed with ours."""
    for _ in range(3):
        kgdb.type("echo g > /proc/sysrq-trigger")
        stop = kgdb.cont(timeout=5)
        assert (stop.reason, stop.task.comm) == ("interrupt", "sh")
        kgdb.resume()
        assert kgdb.interrupt().task.comm != "cat"
    with kgdb.breakpoint(OPEN):
        open_something(kgdb)
        for _ in range(5):
            kgdb.resume()
            kgdb.interrupt()
        assert kgdb.cont().reason == "breakpoint"


PROVOKE = Path(__file__).parent / "modules" / "provoke"


@pytest.mark.parametrize("smp", [pytest.param(1), pytest.param(2, marks=smp)])
@pytest.mark.parametrize("how", ["BUG", "EXCEPTION"])
def test_an_oops_is_one_stop(kgdb, how, smp):
    """Twice, at the same place; by two processes, each of which dies of it."""
    kgdb.modules.load(PROVOKE)
    for _ in range(2):
        with kgdb.expect_splat("BUG"):
            kgdb.type(f"/bin/echo {how} > /sys/kernel/debug/provoke; echo went-on")
            stop = kgdb.cont(timeout=5)
            assert stop.reason == "oops"
            assert stop.frame.function == f"provoke_{how.lower()}"
            kgdb.resume()
            kgdb.console.expect("\nwent-on", timeout=5)
            kgdb.interrupt()


def test_a_breakpoint_that_a_module_calls_is_a_stop(kgdb):
    kgdb.modules.load(PROVOKE)
    kgdb.type("/bin/echo INT3 > /sys/kernel/debug/provoke")
    stop = kgdb.cont(timeout=5)
    assert stop.reason == "int3"
    assert stop.frame.function == "provoke_write"
    assert kgdb.run("echo alive").output == "alive\n"


# Whose callers are noinstr code, where kgdb takes no breakpoint of gdb's.
BELOW_NOINSTR = {"ksys_read": "count == 17", "handle_mm_fault": None, "__x64_sys_newuname": None}
CALLERS = (
    "(while :; do dd if=/dev/zero of=/dev/null bs=17 count=1; uname -r; sleep 0.01; done)"
    " >/dev/null 2>&1 &"
)


@pytest.fixture
def callers(kgdb):
    """Processes that come there, on all CPUs."""
    for _ in range(2):
        kgdb.run(CALLERS)
    return kgdb


@pytest.mark.parametrize("cpus", [pytest.param(1), pytest.param(2, marks=smp)])
@pytest.mark.parametrize("function", BELOW_NOINSTR)
def test_finish_into_noinstr(callers, function, cpus):  # of the marker
    """With other tasks that come by there meanwhile."""
    kgdb = callers
    with kgdb.breakpoint(function, condition=BELOW_NOINSTR[function]):
        kgdb.cont()
    stop = kgdb.stop
    task, caller = stop.task.pid, stop.frame.up().address
    stop = kgdb.finish()
    assert stop.reason == "finished"
    assert stop.task.pid == task
    assert stop.frame.address == caller
    assert kgdb.run("echo alive").output == "alive\n"


@pytest.mark.parametrize("cpus", [pytest.param(1), pytest.param(2, marks=smp)])
def test_next_into_noinstr(callers, cpus):  # of the marker
    kgdb = callers
    with kgdb.breakpoint("ksys_read", condition="count == 17"):
        task = kgdb.cont().task.pid
    functions = set()
    for _ in range(14):
        stop = kgdb.next()
        assert stop.reason == "step"
        assert stop.task.pid == task
        functions.add(stop.frame.function)
    assert len(functions) > 1
    assert kgdb.run("echo alive").output == "alive\n"


@pytest.mark.kgdb(smp=2)
@migrating.each_way
@migrating.others
def test_a_step_whose_task_goes_to_another_cpu(kgdb, way, others):
    migrating.check(kgdb, way, others)
