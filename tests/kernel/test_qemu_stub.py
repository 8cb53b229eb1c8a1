"""gdb on QEMU's own stub, instead of the kernel's."""

from __future__ import annotations

import time
from dataclasses import replace

import pytest

from pytest_kgdb import initrd
from pytest_kgdb.cache import Cache
from pytest_kgdb.errors import KernelPanic, KgdbError
from pytest_kgdb.progress import Silent
from pytest_kgdb.session import Session
from pytest_kgdb.settings import from_pytest

KERNEL_SPACE = 1 << 63


@pytest.fixture(scope="module")
def session(pytestconfig, kgdb_kernel):
    settings = replace(
        from_pytest(pytestconfig),
        stub="qemu",
        initrd="busybox",
        disk="none",
        boot="kernel",
        append="",
        memory=256,
        smp=1,
        origins={},
    )
    progress = Silent()
    cache = Cache(settings.cache_dir, progress=progress)
    ram = initrd.prepare(settings, kgdb_kernel, [], cache, progress)
    with Session(settings, kgdb_kernel, ram, None, cache=cache, progress=progress) as session:
        yield session


@pytest.fixture
def stub(session, request):
    wanted = session.settings.for_marker(getattr(request, "param", {}), request.node.nodeid)
    yield session.acquire(wanted)
    session.release(failed=False)


def machine(**marker):
    """As pytest.mark.kgdb, for the fixture here."""
    return pytest.mark.parametrize("stub", [marker], indirect=True, ids=[str(marker)])


@machine(at="kgdbwait")
def test_before_the_kernels_first_function(stub):
    assert stub.stop.reason == "breakpoint"
    assert stub.stop.frame.function == "start_kernel"
    assert stub.stop.frame.file == "init/main.c"
    assert stub.stop.cpu == 0
    assert stub.stop.task.comm == "swapper"
    with stub.breakpoint("setup_arch") as arch:  # before the kernel could have a debugger
        assert stub.cont().breakpoint is arch
    with stub.breakpoint("kernel_init", temporary=True):
        assert stub.cont().task.comm == "swapper/0"
        assert stub.stop.task.pid == 1


def test_the_kernel_runs_as_it_would_without_a_debugger(stub):
    words = stub.run("cat /proc/cmdline").output.split()
    assert not [word for word in words if word.startswith(("kgdb", "rodata"))]
    assert "nokaslr" in words


def test_a_breakpoint(stub):
    stub.run("echo here > /tmp/file")
    with stub.breakpoint(
        "do_sys_openat2", condition='$_streq((char *)filename, "/tmp/file") && current->pid > 1'
    ) as at:
        stub.type("cat /tmp/file")
        stop = stub.cont()
        assert stop.breakpoint is at
        assert stop.task.comm == "cat"
        assert stub.evaluate("current->pid") == stop.task.pid > 1
        assert stop.frame.args["filename"].string() == "/tmp/file"
        assert "do_syscall_64" in [frame.function for frame in stop.backtrace()]
        assert stub.program["init_task"].comm.string_() == b"swapper/0"
        assert stub.finish().reason == "finished"
        assert int(stub.stop.return_value) >= 3
    assert stub.run("echo on").output.endswith("on\n")
    assert at.hits == 1


def test_steps(stub):
    with stub.breakpoint("do_sys_openat2", temporary=True):
        stub.type("cat /etc/passwd")
        stub.cont()
    before = stub.stop.frame.address
    assert stub.stepi().reason == "step"
    assert stub.stop.frame.address != before
    line = stub.stop.frame.line
    assert stub.next().frame.function == "do_sys_openat2"
    assert stub.stop.frame.line != line


def test_where_kgdb_must_not_be(stub):
    """The entry of an exception: noinstr, and on the debugger's own way."""
    with stub.breakpoint("exc_page_fault") as fault:
        stub.type("cat /etc/passwd")
        assert stub.cont().breakpoint is fault
        assert stub.stop.frame.function == "exc_page_fault"


def test_a_program_that_runs_is_interrupted(stub):
    stub.type("echo by''now; while :; do :; done")
    stub.resume()
    stub.console.expect("bynow")
    stub.interrupt()
    end = time.monotonic() + 60
    while stub.stop.frame.address >= KERNEL_SPACE:  # a tick of the clock, mostly
        assert time.monotonic() < end
        stub.resume()
        stub.interrupt()
    assert stub.stop.reason == "interrupt"
    assert stub.stop.task.comm == "sh"
    assert stub.stop.cpu == 0
    assert "Linux version" in stub.dmesg()
    assert int(stub.evaluate("init_task.pid")) == 0


@machine(smp=2)
def test_the_other_cpu(stub):
    with stub.breakpoint("proc_pid_status"):
        stub.type("taskset 2 cat /proc/self/status")
        stop = stub.cont()
        assert (stop.cpu, stop.task.comm) == (1, "cat")
        assert stub.next().cpu == 1
    assert stub.run("echo on").output.endswith("on\n")


def test_a_watchpoint(stub):
    with stub.watchpoint("panic_timeout") as watched:
        stub.type("echo 7 > /proc/sys/kernel/panic")
        stop = stub.cont()
        assert stop.breakpoint is watched
        assert (stop.old, stop.new) == (0, 7)


@pytest.mark.parametrize("left", ["running", "stopped", "panicked", "interrupted"])
def test_it_is_put_back_whatever_was_left(session, left):
    wanted = session.settings.for_marker({}, "the test")
    kgdb = session.acquire(wanted)
    kgdb.run("echo here > /tmp/file")
    kgdb.breakpoint("do_sys_openat2")
    if left == "running":
        kgdb.delete_breakpoints()
        kgdb.resume()
    elif left == "stopped":
        kgdb.type("cat /tmp/file")
        assert kgdb.cont().reason == "breakpoint"
    elif left == "panicked":
        kgdb.delete_breakpoints()
        kgdb.type("echo c > /proc/sysrq-trigger")
        with pytest.raises(KernelPanic, match="sysrq triggered crash"):
            kgdb.cont()
    session.release(failed=False)
    kgdb = session.acquire(wanted)
    assert kgdb.stop.reason == "interrupt"
    assert kgdb.run("cat /tmp/file").status == 1  # nor does the breakpoint stop it
    session.release(failed=False)


def test_points_of_ones_own(stub):
    stub.run("echo one > /tmp/file")
    with stub.breakpoint(
        "do_sys_openat2", condition='$_streq((char *)filename, "/tmp/file") && current->pid > 1'
    ) as at:
        stub.snapshot("one")
        stub.type("echo two > /tmp/file")
        stub.cont()
        stub.restore("one")
        stub.type("cat /tmp/file")
        assert stub.cont().breakpoint is at
    assert stub.run("cat /tmp/file").output.endswith("one\n")


def test_what_only_kgdb_can(stub):
    for attempt in (
        lambda: stub.spy("do_sys_openat2"),
        lambda: stub.override("do_sys_openat2", "-ENOMEM"),
        lambda: stub.fail_each("do_sys_openat2", lambda: None),
    ):
        with pytest.raises(KgdbError, match="by kgdb only, and gdb is on QEMU's stub"):
            attempt()
    assert stub.run("echo on").output == "on\n"
