"""What goes wrong in the middle of a test, with a real kernel, a real QEMU and a real gdb.

One run of pytest has all of it, one after the other: each of its tests begins on the machine that
the last one broke, and first shows that it got a good one.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from inner_run import InnerRun, Outcome, message, no_traceback_of_ours

TESTS = r'''
import os
import signal
import threading

import pytest

from pytest_kgdb.errors import DebuggerDied, KgdbError, TimeoutError
from pytest_kgdb.handle import attachment_of


@pytest.fixture(autouse=True)
def good(kgdb):
    """The last test's ruins are gone."""
    assert kgdb.stopped
    assert kgdb.run("echo fine").output == "fine\n"
    assert kgdb.evaluate("jiffies_64") > 0
    assert kgdb.execute("info breakpoints") == "No breakpoints or watchpoints.\n"


def kill_qemu(kgdb):
    os.kill(attachment_of(kgdb).machine.pid, signal.SIGKILL)


def kill_gdb(kgdb):
    os.kill(attachment_of(kgdb).gdb.pid, signal.SIGKILL)


def test_assertion(kgdb):
    kgdb.run("echo before > /dev/kmsg")
    kgdb.breakpoint("do_sys_openat2")
    kgdb.type("echo typed; cat /proc/version")
    kgdb.cont()
    assert kgdb.evaluate("dfd") == 77


def test_timeout(kgdb):
    kgdb.breakpoint("do_sys_openat2", condition="dfd == 1234")
    kgdb.cont(timeout=0.5)


def test_command_timeout(kgdb):
    kgdb.run("echo begun; sleep 1000", timeout=1)


def test_hang(kgdb):
    kgdb.breakpoint("vfs_read", temporary=True)
    kgdb.type("cat /proc/version")
    kgdb.cont()
    kgdb.assign("$eflags", int(kgdb.evaluate("$eflags")) & ~0x200)
    kgdb.write(int(kgdb.evaluate("$pc")), b"\xeb\xfe")  # jmp to itself: no interrupt ends it
    kgdb.resume()
    kgdb.interrupt(timeout=1)


def test_panic(kgdb):
    kgdb.run("echo about to crash; echo c > /proc/sysrq-trigger")


def test_panic_past_the_debugger(kgdb):
    kgdb.type("echo c > /proc/sysrq-trigger")
    assert kgdb.cont().reason == "panic"
    kgdb.cont()


def test_qemu_killed_while_the_kernel_runs(kgdb):
    kgdb.resume()
    kill_qemu(kgdb)
    kgdb.wait()


def test_qemu_killed_while_it_is_stopped(kgdb):
    with kgdb.breakpoint("vfs_read"):
        kill_qemu(kgdb)
        kgdb.read(0xFFFFFFFF81000000, 8)
        kgdb.evaluate("linux_banner").string()
        kgdb.cont()


def test_qemu_killed_during_a_command(kgdb):
    threading.Timer(0.3, kill_qemu, [kgdb]).start()
    kgdb.run("echo begun; sleep 1000")


def test_power_off(kgdb):
    kgdb.run("poweroff -f")


def test_gdb_killed_while_the_kernel_runs(kgdb):
    kgdb.resume()
    kill_gdb(kgdb)
    kgdb.wait()


def test_gdb_killed_mid_command(kgdb):
    threading.Timer(0.3, kill_gdb, [kgdb]).start()
    kgdb.execute("python import time; time.sleep(1000)")


def test_gdb_and_qemu_killed(kgdb):
    with kgdb.breakpoint("vfs_read"):
        kill_gdb(kgdb)
        kill_qemu(kgdb)
        kgdb.cont()


def test_what_is_caught_counts_no_more(kgdb):
    kill_gdb(kgdb)
    with pytest.raises(DebuggerDied):
        kgdb.evaluate("jiffies")


@pytest.mark.parametrize("how", ["fixture"])
def test_a_finalizer_finds_no_machine(kgdb, request, how):
    made = kgdb.breakpoint("vfs_read")
    request.addfinalizer(made.delete)
    kill_qemu(kgdb)
    kgdb.cont()


def test_last(kgdb):
    kgdb.breakpoint("vfs_read")
    kgdb.type("cat /proc/version")
    assert kgdb.cont().reason == "breakpoint"
'''

DEADLY = (
    "test_qemu_killed_while_the_kernel_runs",
    "test_qemu_killed_while_it_is_stopped",
    "test_qemu_killed_during_a_command",
    "test_power_off",
    "test_gdb_killed_while_the_kernel_runs",
    "test_gdb_killed_mid_command",
    "test_gdb_and_qemu_killed",
    "test_a_finalizer_finds_no_machine[fixture]",
)
FAILING = ("test_assertion", "test_timeout", "test_command_timeout", "test_hang", "test_panic")
FAILING = (*FAILING, "test_panic_past_the_debugger", *DEADLY)

CONSOLE = "kgdb: console since the test began"
WHERE = "kgdb: where the kernel is"
GDB = "kgdb: gdb's conversation, its end"
ACTIONS = "kgdb: what the test did"
AGAIN = "kgdb: to run it again"


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory, session_options: list[str]) -> Outcome:
    """The run, at whose end no process and no file was left."""
    directory = tmp_path_factory.mktemp("live")
    artifacts = f"--kgdb-artifacts={directory / 'artifacts'}"
    return InnerRun(directory / "tests", TESTS, [*session_options, artifacts, "-vv"]).end()


@pytest.fixture
def error(ran: Outcome, request: pytest.FixtureRequest) -> str:
    """The message of the inner test of the same name."""
    return error_of(ran, request.function.__name__)


def error_of(ran: Outcome, test: str) -> str:
    report = ran.failure(test)
    assert report.when == "call", ran.output
    return message(report.text)


def log_of(error: str) -> Path:
    (line,) = re.findall(r"^ *log: (.*)$", error, re.M)
    return Path(line)


def test_the_next_test_always_runs(ran: Outcome) -> None:
    assert ran.status == 1
    assert set(ran.reports) == {*FAILING, "test_what_is_caught_counts_no_more", "test_last"}
    for name in FAILING:
        assert ran.failure(name).when == "call", ran.output
    assert ran.passed("test_what_is_caught_counts_no_more")
    assert ran.passed("test_last"), ran.output


@pytest.mark.parametrize("name", FAILING)
def test_the_cause_is_reported_once_and_in_the_users_terms(ran: Outcome, name: str) -> None:
    report = ran.failure(name)
    no_traceback_of_ours(report.text)
    assert "test_it.py" in report.text
    message(report.text)
    assert [item.when for item in ran.reports[name] if item.outcome != "passed"] == ["call"]


@pytest.mark.parametrize("name", FAILING)
def test_what_says_nothing_about_the_kernel_is_an_error(ran: Outcome, name: str) -> None:
    assert ran.failure(name).lost == (name in DEADLY)


def test_assertion(ran: Outcome) -> None:
    report = ran.failure("test_assertion")
    assert list(report.sections) == [WHERE, ACTIONS, CONSOLE, GDB, AGAIN]
    assert "before" in report.sections[CONSOLE]
    assert "Linux version" not in report.sections[CONSOLE]  # of the boot, not of the test
    where = report.sections[WHERE]
    assert "breakpoint" in where
    assert re.search(r"do_sys_openat2 .*fs/open\.c:\d+", where)
    assert re.search(r"^.*\d+\s+.*struct open_how", where, re.M), where  # the line itself
    assert "do_syscall_64" in where
    assert "evaluate" in report.sections[GDB]
    assert "-break-insert" in report.sections[GDB]
    actions = re.findall(r"^ *\d+ ms +(.*)$", report.sections[ACTIONS], re.M)
    assert actions[-5:-2] == [
        *("breakpoint do_sys_openat2", "type echo typed; cat /proc/version", "cont"),
    ]
    assert re.fullmatch(
        r"breakpoint \d+ in do_sys_openat2 \(fs/open\.c:\d+\), \w+\[\d+\], after \d+ ms",
        actions[-2],
    )
    assert actions[-1] == "evaluate dfd → -100"
    command, _, artifacts = report.sections[AGAIN].splitlines()
    assert command.endswith(" test_it.py::test_assertion")
    saved = Path(artifacts.removeprefix("artifacts: "))
    assert {"console.log", "gdb.log", "failure.txt"} <= {item.name for item in saved.iterdir()}
    assert "Linux version" in (saved / "console.log").read_text()
    assert re.search(r"^ *\d+ ms  .*before$", (saved / "console-times.txt").read_text(), re.M)
    assert "CONFIG_KGDB=y" in (saved / "kernel.config").read_text()
    registers = (saved / "registers.txt").read_text()
    assert re.search(r"^CPU#0\n(.*\n)*?RIP=[0-9a-f]{16}", registers, re.M)
    assert not (saved / "vmcore").exists()


def test_timeout(ran: Outcome, error: str) -> None:
    assert error.startswith("pytest_kgdb.errors.TimeoutError: the kernel did not stop in 0.5 s")
    assert "at do_sys_openat2 (0 hits)" in error
    assert "hint: it runs on: interrupt() stops it where it is" in error
    assert log_of(error).exists()
    report = ran.failure("test_timeout")
    where = report.sections[WHERE]
    assert where.startswith("running; what its CPUs do:\n")
    assert "CPU 0, task 0 (swapper/0), idle" in where
    assert re.search(r"RIP=[0-9a-f]{16}", where)
    assert "YMM" not in where
    assert report.sections[GDB]


def test_command_timeout(error: str) -> None:
    assert "the guest's command 'echo begun; sleep 1000' did not end in 1 s" in error
    assert "begun" in error
    assert log_of(error).exists()


def test_hang(ran: Outcome, error: str) -> None:
    assert error.startswith("pytest_kgdb.errors.TimeoutError: the kernel did not stop in 1 s")
    assert "it may spin with interrupts off" in error
    first = error.splitlines()[0].partition(" no breakpoint to stop at: ")[2]
    place = r"vfs_read \(fs/read_write\.c:\d+\)"
    assert re.fullmatch(rf"spinning with interrupts off: CPU 0 in {place}, \w+\[\d+\]", first)
    assert re.search(
        r"CPU 0, task \d+ \(\w+\), interrupts off\n +#0 vfs_read at fs/read_write\.c:\d+", error
    )
    assert "do_syscall_64" in error
    assert re.search(r"RIP=[0-9a-f]{16}", error)
    assert log_of(error).exists()
    report = ran.failure("test_hang")
    assert re.search(r"RIP=[0-9a-f]{16}", report.sections[WHERE])
    assert "vfs_read" in report.sections[WHERE]
    assert report.sections[CONSOLE]
    assert report.sections[GDB]


def test_panic(ran: Outcome, error: str) -> None:
    assert error.startswith(
        "pytest_kgdb.errors.KernelPanic: the kernel panicked during 'echo about"
    )
    assert "sysrq triggered crash" in error
    assert log_of(error).exists()
    report = ran.failure("test_panic")
    assert "about to crash" in report.sections[CONSOLE]
    assert "Kernel panic - not syncing: sysrq triggered crash" in report.sections[CONSOLE]
    assert "sysrq_handle_crash" in report.sections[WHERE]


def test_panic_past_the_debugger(error: str) -> None:
    assert "the kernel panicked and halted: sysrq triggered crash" in error
    assert log_of(error).exists()


def test_gdb_and_qemu_killed(ran: Outcome) -> None:
    error = error_of(ran, "test_gdb_and_qemu_killed").removeprefix("pytest_kgdb.errors.")
    assert error.startswith(("DebuggerDied: gdb died", "MachineDied: QEMU ended"))


@pytest.mark.parametrize("name", [name for name in DEADLY if name.startswith("test_qemu_killed")])
def test_qemu_killed(ran: Outcome, name: str) -> None:
    error = error_of(ran, name).removeprefix("pytest_kgdb.errors.")
    assert error.startswith(
        "MachineDied: QEMU ended while a test was using it: killed by SIGKILL\n"
    )
    assert "hint: " in error
    assert log_of(error).exists()
    assert ran.failure(name).sections[WHERE] == "gone: QEMU has ended"


def test_power_off(error: str) -> None:
    ended = "MachineDied: QEMU ended while a test was using it: exit status 0, after the guest has "
    assert re.search(rf"{ended}switched the machine off, while .+\[\d+\] on CPU 0 ran\n", error)


@pytest.mark.parametrize("name", [name for name in DEADLY if name.startswith("test_gdb_killed")])
def test_gdb_killed(ran: Outcome, name: str) -> None:
    error = error_of(ran, name)
    assert error.startswith("pytest_kgdb.errors.DebuggerDied: gdb died (killed by signal 9) ")
    assert "hint: " in error
    assert log_of(error).exists()
    assert "python import time" in ran.failure("test_gdb_killed_mid_command").sections[GDB]


def test_messages_are_short(ran: Outcome) -> None:
    for name in FAILING:
        assert len(ran.failure(name).text.splitlines()) < 60, ran.failure(name).text
