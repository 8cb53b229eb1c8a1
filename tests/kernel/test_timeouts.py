"""A marker's timeout bounds every wait of its test, on a machine that another test has made."""

from __future__ import annotations

import os
import re
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pexpect
import pytest

from pytest_kgdb import TimeoutError
from pytest_kgdb.handle import attachment_of

DEMO = Path(__file__).parent / "modules/demo"
SHORT = pytest.mark.kgdb(timeout=1.5)


@contextmanager
def takes_about(seconds: float) -> Iterator[None]:
    began = time.monotonic()
    yield
    assert seconds - 0.1 < time.monotonic() - began < seconds + 3


def test_the_machine_is_made_with_the_usual_limit(kgdb):
    assert kgdb.timeout == 60


@pytest.mark.kgdb(timeout=0.5, isolation="reboot")
def test_a_boot_takes_what_it_takes(kgdb):
    assert kgdb.timeout == 0.5


@SHORT
def test_gdb(kgdb):
    with takes_about(1.5), pytest.raises(TimeoutError, match=r"did not end in 1\.5 s"):
        kgdb.execute("python import time; time.sleep(3)")
    time.sleep(2.5)
    # What it answers late is not taken for the answer to the next command.
    assert kgdb.evaluate("1 + 1") == 2
    assert kgdb.execute("output 6 * 7") == "42"


@SHORT
def test_a_stop(kgdb):
    kgdb.resume()
    with takes_about(1.5), pytest.raises(TimeoutError, match=r"did not stop in 1\.5 s"):
        kgdb.wait()
    kgdb.interrupt()


def test_a_stop_that_is_a_little_late(kgdb):
    """The error says why and where, whether it comes to QEMU's stub or to kgdb."""
    kgdb.breakpoint("version_proc_show")
    words = r": it stopped just then: breakpoint \d+ in version_proc_show at fs/proc/version\.c:\d+"
    for _ in range(20):  # or it comes when all has been said
        kgdb.type("cat /proc/version")
        with pytest.raises(TimeoutError, match="did not stop in 0 s") as caught:
            kgdb.cont(timeout=0)
        if late := re.search(
            words + r"; CPU 0, task \d+ \(cat\)$", caught.value.message.splitlines()[0]
        ):
            break
        kgdb.wait()
    assert late
    assert kgdb.stop.frame.function == "version_proc_show"


def test_calls_that_a_spy_sees_are_no_stop(kgdb):
    """In most of the time the machine is stopped for them."""
    with kgdb.spy("vfs_read") as reads:
        kgdb.type("while :; do read line < /proc/version; done")
        with pytest.raises(
            TimeoutError, match=r"did not stop in 0\.5 s[^:]*: (?:running|spinning): "
        ):
            kgdb.cont(timeout=0.5)
        kgdb.interrupt()
    assert reads.count > 3


@SHORT
def test_a_command_and_the_console(kgdb):
    with takes_about(1.5), pytest.raises(TimeoutError, match=r"did not end in 1\.5 s"):
        kgdb.run("sleep 20")
    kgdb.resume()
    with takes_about(1.5), pytest.raises(pexpect.TIMEOUT):
        kgdb.console.expect("what nobody says")


def test_a_module(kgdb):
    """Its methods have no timeout=; and none of the plugin's own commands is in the last lines."""
    demo = kgdb.modules.load(DEMO)
    kgdb.run("echo a line of the driver >/dev/kmsg")
    kgdb.type("insmod() { sleep 20; }; rmmod() { sleep 20; }")
    kgdb.timeout = 1.5
    for work in (demo.unload, lambda: kgdb.modules.load(DEMO.with_name("hangs"))):
        with pytest.raises(TimeoutError) as caught:
            work()
        error = caught.value
        assert error.hint == "a larger kgdb.timeout, if it only needs longer"
        tail = error.message.partition("last lines are:\n")[2].partition("what the kernel does")[0]
        assert "a line of the driver" in tail
        assert "kgdb-" not in tail
        assert "sysrq" not in tail
        kgdb.resume()
        kgdb.console.synchronise(interrupt=True)
        kgdb.interrupt()
    assert "kgdb-buffer" in kgdb.console.log.read_text()


@pytest.mark.kgdb(stub="kgdb")  # which is what has the kernel know this sysrq
def test_a_sysrq_of_the_tests_own_is_shown(kgdb):
    mark = kgdb.console.mark()
    kgdb.run("true")
    kgdb.type("echo begun; echo g >/proc/sysrq-trigger")
    kgdb.cont()
    kgdb.run("echo ended")
    text = kgdb.console.shown(mark)
    assert re.findall(r"begun|sysrq.*|ended|kgdb-\d+", text) == ["begun", "sysrq: DEBUG\r", "ended"]


@SHORT
def test_qemus_monitor(kgdb):
    """QEMU answers within milliseconds, unless its main loop is held up."""
    machine = attachment_of(kgdb).machine
    with takes_about(1.5):
        try:
            os.kill(machine.pid, signal.SIGSTOP)
            with pytest.raises(TimeoutError, match=r"monitor did not answer .* in 1\.5 s"):
                machine.monitor.execute("query-status")
        finally:
            os.kill(machine.pid, signal.SIGCONT)
    assert machine.monitor.execute("query-status")["status"] in ("running", "paused", "debug")


def test_the_next_test_has_the_usual_limit_again(kgdb):
    assert kgdb.timeout == 60
    assert kgdb.run("sleep 2; echo on").output == "on\n"
