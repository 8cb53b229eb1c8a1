"""A stop that comes while a running kernel is stopped for something else is not lost."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from pytest_kgdb.errors import GuestCommandError, TimeoutError
from pytest_kgdb.handle import attachment_of

OPEN = "do_sys_openat2"
HERE = Path(__file__).parent / "modules"
DEMO = HERE / "demo"
HANGS = HERE / "hangs"


@pytest.fixture
def opening(kgdb):
    """A guest in which files are opened all the time."""
    kgdb.type("while :; do cat /proc/uptime; done >/dev/null")
    return kgdb


def save_file(kgdb, path):
    kgdb.save(path / "machine")


FOR = {
    "delete": lambda kgdb, path: kgdb.breakpoint("vfs_statfs"),
    "snapshot": lambda kgdb, path: kgdb.snapshot("here"),
    "save": save_file,
}


@pytest.mark.parametrize("what", FOR)
def test_what_stops_it_for_a_moment(opening, what, tmp_path):
    kgdb = opening
    opened = kgdb.breakpoint(OPEN)
    for number in range(1, 2 if what == "save" else 6):
        work = FOR[what]
        if what == "delete":
            other = work(kgdb, tmp_path)
            work = lambda *_: other.delete()  # noqa: B023, E731 # it is called at once
        kgdb.resume()
        work(kgdb, tmp_path)
        stop = kgdb.wait(20)
        assert (stop.reason, stop.breakpoint) == ("breakpoint", opened)
        assert opened.hits == number


def test_its_own_stop_is_none_of_a_deleted_breakpoint(opening):
    kgdb = opening
    for _ in range(5):
        opened = kgdb.breakpoint(OPEN)
        kgdb.resume()
        opened.delete()
        assert not kgdb.stopped
        kgdb.interrupt()


USES = {
    "put": lambda kgdb: kgdb.put(__file__, "/tmp/file"),
    "load": lambda kgdb: kgdb.modules.load(DEMO),
    "load_stopped": lambda kgdb: kgdb.modules.load_stopped(DEMO),
    "unload": lambda kgdb: kgdb.modules.unload("demo"),
    "run": lambda kgdb: kgdb.run("true"),
}


@pytest.mark.parametrize("has_come", [False, True])
@pytest.mark.parametrize("use", USES)
def test_what_has_it_run_is_refused(kgdb, use, has_come):
    kgdb.modules.known(DEMO)
    kgdb.run("(while :; do cat /proc/uptime; done) >/dev/null &")
    opened = kgdb.breakpoint(OPEN)
    kgdb.resume()
    while has_come and not attachment_of(kgdb).gdb.has_events:
        time.sleep(0.01)  # nobody is told of it
    with pytest.raises(GuestCommandError, match=rf"the kernel stopped .*<Stop breakpoint.*{OPEN}"):
        USES[use](kgdb)
    stop = kgdb.wait(0)
    assert (stop.reason, stop.breakpoint, opened.hits) == ("breakpoint", opened, 1)


def test_a_module_that_a_running_kernel_is_stopped_at(kgdb):
    kgdb.resume()
    kgdb.modules.load_stopped(DEMO)
    assert kgdb.stopped
    kgdb.breakpoint("demo_init")
    assert kgdb.cont().frame.function == "demo_init"


def test_the_first_error_is_the_one_that_is_reported(kgdb):
    """What hears no interrupt cannot be stopped for the end of a `with`."""
    kgdb.modules.load(HANGS)
    kgdb.snapshot("before")
    kgdb.type("echo deaf > /sys/kernel/debug/hangs")
    point, watch = kgdb.breakpoint("vfs_statfs"), kgdb.watchpoint("panic_timeout")
    began = time.monotonic()
    reported = r"did not stop in 1 s at vfs_statfs .*interrupts off"
    with pytest.raises(TimeoutError, match=reported), point, watch:
        kgdb.cont(timeout=1)
    assert time.monotonic() - began < 20
    assert (point.enabled, watch.enabled) == (False, False)
    kgdb.restore("before")
    assert "vfs_statfs" not in kgdb.execute("info breakpoints")
    kgdb.run("df; echo 7 > /proc/sys/kernel/panic")
