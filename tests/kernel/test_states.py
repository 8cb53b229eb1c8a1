"""Each method of the handle in each state of the kernel: it works, or says why not, in its time.

Which it does is the business of other tests. After it, the machine can be restored, and is where it
was.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pytest_kgdb.errors import KgdbError, MachineDied

pytestmark = pytest.mark.slow

LIMIT = 3.0  # seconds that each method has
DIAGNOSED = 5.0  # and how long the diagnosis may take after that
PROVOKE = Path(__file__).parent / "modules" / "provoke"
Method = Callable[[Any, Path], object]

METHODS: dict[str, Method] = {
    "assign": lambda kgdb, _: kgdb.assign("panic_timeout", 5),
    "breakpoint": lambda kgdb, _: (kgdb.breakpoint("do_sys_openat2"), kgdb.cont()),
    "breakpoint, condition": lambda kgdb, _: (
        kgdb.breakpoint("vfs_read", condition="count == 12345"),
        kgdb.cont(),
    ),
    "breakpoint, hardware": lambda kgdb, _: (
        kgdb.breakpoint("update_process_times", hardware=True),
        kgdb.cont(),
    ),
    "breakpoint, in the scheduler": lambda kgdb, _: (
        kgdb.breakpoint("pick_next_task_fair", temporary=True),
        kgdb.cont(),
    ),
    "console": lambda kgdb, _: (kgdb.console.sendline("echo typed"), kgdb.resume(), kgdb.wait(0.2)),
    "cont": lambda kgdb, _: kgdb.cont(),
    "current": lambda kgdb, _: kgdb.current.comm,
    "delete_breakpoints": lambda kgdb, _: kgdb.delete_breakpoints(),
    "dmesg": lambda kgdb, _: kgdb.dmesg(),
    "drgn_object": lambda kgdb, _: kgdb.drgn_object(kgdb.evaluate("init_task")).pid.value_(),
    "dump": lambda kgdb, path: kgdb.dump(path / "vmcore"),
    "evaluate": lambda kgdb, _: int(kgdb.evaluate("jiffies")),
    "evaluate, the task": lambda kgdb, _: kgdb.evaluate("$lx_current().comm"),
    "execute": lambda kgdb, _: kgdb.execute("info registers"),
    "execute, bt": lambda kgdb, _: kgdb.execute("bt"),
    "execute, continue": lambda kgdb, _: kgdb.execute("continue"),
    "execute, info threads": lambda kgdb, _: kgdb.execute("info threads", 8),
    "execute, stepi": lambda kgdb, _: kgdb.execute("stepi 3"),
    "expect_splat": lambda kgdb, _: _expect(kgdb),
    "fail_each": lambda kgdb, _: kgdb.fail_each(
        "version_proc_show", lambda one: one.run("cat /proc/version"), "-ENOMEM"
    ),
    "finish": lambda kgdb, _: kgdb.finish(),
    "forwards": lambda kgdb, _: kgdb.forwards,
    "generation": lambda kgdb, _: kgdb.generation,
    "get": lambda kgdb, path: kgdb.get("/proc/version", path / "version"),
    "interrupt": lambda kgdb, _: (kgdb.resume(), kgdb.interrupt()),
    "kernel": lambda kgdb, _: kgdb.kernel.release,
    "kunit": lambda kgdb, _: kgdb.kunit("nonesuch"),
    "modules": lambda kgdb, _: kgdb.modules.load(PROVOKE),
    "modules, loaded": lambda kgdb, _: list(kgdb.modules),
    "moment": lambda kgdb, _: kgdb.moment,
    "next": lambda kgdb, _: kgdb.next(),
    "override": lambda kgdb, _: (kgdb.override("do_filp_open", -12), kgdb.run("cat /proc/version")),
    "per_cpu": lambda kgdb, _: kgdb.per_cpu("cpu_number", 0),
    "physical": lambda kgdb, _: kgdb.physical.read(0x1000, 16),
    "program": lambda kgdb, _: kgdb.program["init_task"].comm.string_(),
    "put": lambda kgdb, path: kgdb.put(_file(path), "/tmp/file"),
    "read": lambda kgdb, _: kgdb.read(int(kgdb.evaluate("&jiffies")), 8),
    "read, not mapped": lambda kgdb, _: kgdb.read(0x10, 8),
    "read_user": lambda kgdb, _: kgdb.read_user(1, 0x400000, 8),
    "resume": lambda kgdb, _: (kgdb.resume(), time.sleep(0.05)),
    "run": lambda kgdb, _: kgdb.run("cat /proc/version"),
    "save": lambda kgdb, path: kgdb.save(path / "machine"),
    "snapshot": lambda kgdb, _: (kgdb.snapshot("other"), kgdb.restore("other")),
    "splats": lambda kgdb, _: list(kgdb.splats),
    "spy": lambda kgdb, _: (kgdb.spy("vfs_read", returns=True), kgdb.run("cat /proc/version")),
    "stack_trace": lambda kgdb, _: str(kgdb.stack_trace(1)),
    "step": lambda kgdb, _: kgdb.step(),
    "stepi": lambda kgdb, _: [kgdb.stepi() for _ in range(3)],
    "stop": lambda kgdb, _: _whole(kgdb.stop),
    "timeout": lambda kgdb, _: kgdb.timeout,
    "type": lambda kgdb, _: (kgdb.type("cat /proc/version"), kgdb.resume(), time.sleep(0.05)),
    "until": lambda kgdb, _: kgdb.until("do_sys_openat2"),
    "wait": lambda kgdb, _: (kgdb.resume(), kgdb.wait(0.2)),
    "watchpoint": lambda kgdb, _: (kgdb.watchpoint("jiffies"), kgdb.cont()),
    "watchpoint, read": lambda kgdb, _: (
        kgdb.watchpoint("init_task.comm", access="access"),
        kgdb.cont(),
    ),
    "write": lambda kgdb, _: kgdb.write(int(kgdb.evaluate("&panic_timeout")), bytes(4)),
    "write, not mapped": lambda kgdb, _: kgdb.write(0xFFFFC0DE00000000, bytes(4)),
}


def _whole(stop: Any) -> None:
    if stop is not None:  # of a machine that is gone there is none
        _ = [frame.locals for frame in stop.backtrace()], stop.task.comm, stop.cpu
        stop.frame.source()


def _expect(kgdb: Any) -> None:
    with kgdb.expect_splat("none of this", timeout=0.5):
        kgdb.run("true")


def _file(path: Path) -> Path:
    file = path / "file"
    file.write_bytes(bytes(5000))
    return file


def at(location: str, command: str = "cat /proc/version") -> Callable[[Any], object]:
    def stop(kgdb: Any) -> None:
        kgdb.breakpoint(location, temporary=True)
        kgdb.type(command)
        assert kgdb.cont(timeout=10).reason == "breakpoint"

    return stop


def step_of(how: str) -> Callable[[Any], object]:
    def stop(kgdb: Any) -> None:
        at("do_sys_openat2")(kgdb)
        getattr(kgdb, how)()

    return stop


def watched(kgdb: Any) -> None:
    kgdb.watchpoint("jiffies_64")
    kgdb.cont(timeout=10)
    kgdb.delete_breakpoints()


def provoked(word: str) -> Callable[[Any], object]:
    def stop(kgdb: Any) -> None:
        kgdb.modules.load(PROVOKE)
        kgdb.type(f"/bin/echo {word} > /sys/kernel/debug/provoke")
        assert kgdb.cont(timeout=10).reason == ("int3" if word == "INT3" else "oops")

    return stop


def module_init(kgdb: Any) -> None:
    kgdb.breakpoint("provoke_init", pending=True)
    with pytest.raises(KgdbError, match="the kernel stopped"):
        kgdb.modules.load(PROVOKE)
    kgdb.delete_breakpoints()


def panicked(kgdb: Any) -> None:
    kgdb.type("echo c > /proc/sysrq-trigger")
    assert kgdb.cont(timeout=10).reason == "panic"


def computing(kgdb: Any) -> None:
    kgdb.run("while :; do :; done &")


def waiting(kgdb: Any) -> None:
    kgdb.type("sleep 1000")
    kgdb.resume()
    time.sleep(0.1)
    kgdb.interrupt(10)


STATES: dict[str, Callable[[Any], object]] = {
    "pristine": lambda _: None,
    "system call": at("do_sys_openat2"),
    "interrupt of the console": at("serial8250_interrupt"),
    "tick": at("update_process_times"),
    "softirq": at("run_timer_softirq"),
    "scheduler": at("pick_next_task_fair"),
    "fork": at("wake_up_new_task"),
    "exec": at("begin_new_exec"),
    "exit": at("do_exit"),
    "page fault": at("handle_mm_fault"),
    "printk": at(
        "printk", "echo text > /dev/kmsg; modprobe nonesuch; echo h > /proc/sysrq-trigger"
    ),
    "finished": step_of("finish"),
    "stepped": step_of("stepi"),
    "watchpoint": watched,
    "module's init": module_init,
    "BUG": provoked("BUG"),
    "oops": provoked("EXCEPTION"),
    "int3": provoked("INT3"),
    "panic": panicked,
    "a program computes": computing,
    "the shell is busy": waiting,
}


def try_all(kgdb: Any, tmp_path: Path) -> list[str]:
    """Try each method at the present stop; return what was wrong, in words."""
    kgdb.snapshot("state")
    where, wrong = repr(kgdb.stop), []
    for name, method in METHODS.items():
        directory = tmp_path / name
        directory.mkdir()
        start = time.monotonic()
        try:
            method(kgdb, directory)
        except KgdbError as error:
            if isinstance(error, MachineDied):
                wrong.append(f"{name}: {error}")
        except Exception as error:
            wrong.append(f"{name}: {error!r}")
        took = time.monotonic() - start
        if took > 2 * LIMIT + DIAGNOSED:
            wrong.append(f"{name}: it took {took:.1f} s")
        kgdb.restore("state")
        if repr(kgdb.stop) != where:
            wrong.append(f"{name}: at {kgdb.stop!r} afterwards, no longer {where}")
    return wrong


TWO_CPUS = ("pristine", "system call", "tick", "scheduler", "oops", "panic")


@pytest.mark.parametrize("state", STATES)
@pytest.mark.kgdb(timeout=LIMIT)
def test_each_method(kgdb: Any, tmp_path: Path, state: str) -> None:
    STATES[state](kgdb)
    wrong = try_all(kgdb, tmp_path)
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("state", TWO_CPUS)
@pytest.mark.kgdb(timeout=LIMIT, smp=2)
def test_each_method_on_two_cpus(kgdb: Any, tmp_path: Path, state: str) -> None:
    STATES[state](kgdb)
    wrong = try_all(kgdb, tmp_path)
    assert not wrong, "\n".join(wrong)


@pytest.mark.kgdb(at="kgdbwait", timeout=LIMIT)
def test_each_method_before_the_console(kgdb: Any, tmp_path: Path) -> None:
    wrong = try_all(kgdb, tmp_path)
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.kgdb(timeout=LIMIT)
def test_each_method_without_a_machine(kgdb: Any, tmp_path: Path, method: str) -> None:
    kgdb.type("poweroff -f")
    with pytest.raises(MachineDied):
        kgdb.cont(timeout=10)
    with contextlib.suppress(KgdbError):
        METHODS[method](kgdb, tmp_path)
