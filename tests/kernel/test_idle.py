"""A stopped kernel polls its serial port; a machine that nobody talks to costs nothing."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from pytest_kgdb.handle import attachment_of

_TICKS = os.sysconf("SC_CLK_TCK")
_LOOK = 0.5  # seconds


def busy(kgdb) -> float:
    """How much of a host's core QEMU uses while we leave it alone."""
    stat = Path(f"/proc/{attachment_of(kgdb).machine.pid}/stat")

    def used() -> float:
        fields = stat.read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / _TICKS  # proc(5): utime, stime

    time.sleep(0.05)
    before, began = used(), time.monotonic()
    time.sleep(_LOOK)
    return (used() - before) / (time.monotonic() - began)


def test_a_running_kernel_in_a_loop_is_seen(kgdb):
    """What the other tests look for can be seen at all."""
    kgdb.type("while :; do :; done")
    kgdb.resume()
    assert busy(kgdb) > 0.2


def test_as_the_test_got_it(kgdb):
    assert busy(kgdb) < 0.05


@pytest.mark.kgdb(at="kgdbwait")
def test_in_early_boot(kgdb):
    assert busy(kgdb) < 0.05
    with kgdb.breakpoint("printk"):
        kgdb.cont()
    assert busy(kgdb) < 0.05


@pytest.mark.kgdb(smp=2)
def test_on_two_cpus(kgdb):
    assert busy(kgdb) < 0.05


@pytest.mark.kgdb(isolation="reboot")
def test_after_a_boot(kgdb):
    assert busy(kgdb) < 0.05


def test_at_a_breakpoint_and_an_interrupt(kgdb):
    kgdb.type("while :; do cat /proc/uptime; done >/dev/null")
    with kgdb.breakpoint("do_sys_openat2"):
        kgdb.cont()
        assert busy(kgdb) < 0.05
        kgdb.cont()
    kgdb.resume()
    kgdb.interrupt()
    assert busy(kgdb) < 0.05


@pytest.mark.kgdb(stub="kgdb")
def test_a_question_to_kgdb_wakes_it_for_the_answer_only(kgdb):
    assert "kthreadd" in kgdb.execute("info threads")
    assert busy(kgdb) < 0.05


def test_with_a_watchpoint(kgdb):
    with kgdb.watchpoint("panic_on_oops") as watched:
        assert busy(kgdb) < 0.05
        kgdb.type("echo 1 > /proc/sys/kernel/panic_on_oops")
        kgdb.cont()
        assert busy(kgdb) < 0.05
        assert watched.hits == 1
    assert kgdb.run("echo on").output == "on\n"
    assert busy(kgdb) < 0.05


def test_the_guests_clock_stands_still(kgdb):
    def uptime() -> float:
        return float(kgdb.run("cat /proc/uptime").output.split()[0])

    before, began = uptime(), time.monotonic()
    time.sleep(2)
    assert uptime() - before < (time.monotonic() - began) - 1.8
