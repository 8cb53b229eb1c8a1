"""A kernel that stood still in its debugger is not taken for a hung one."""

from __future__ import annotations

import re
import time

from pytest_kgdb.handle import attachment_of

HUNG = re.compile(r"soft lockup|hard LOCKUP|detected stall|blocked for more than|rcu: INFO")

# As impatient as they can be: seconds.
IMPATIENT = (
    "echo 1 >/proc/sys/kernel/watchdog_thresh",  # soft lockup after twice that
    "echo 3 >/sys/module/rcupdate/parameters/rcu_cpu_stall_timeout",
    "echo 1 >/proc/sys/kernel/hung_task_timeout_secs",
)


def test_the_detectors_learn_that_it_was_stopped(kgdb):
    """The guest's clock goes on for as long as kgdb is busy (dbg_touch_watchdogs).

    QEMU's stub stops the machine, and its clock.
    """
    assert kgdb.run(" && ".join(IMPATIENT)).status == 0
    address = int(kgdb.evaluate("(unsigned long)&panic_on_oops"))
    before = float(kgdb.run("cat /proc/uptime").output.split()[0])
    end = time.monotonic() + 5
    while time.monotonic() < end:
        kgdb.write(address, bytes(4))
    kgdb.run("sleep 2")
    # More than the sleep and what a soft lockup takes; less than the host's, as it also paused.
    passed = float(kgdb.run("cat /proc/uptime").output.split()[0]) - before
    assert passed > 4 if attachment_of(kgdb).debugger.door == "kgdb" else passed < 4
    assert not HUNG.search(kgdb.dmesg())


def test_one_that_really_hangs_is_reported(kgdb):
    assert kgdb.run(" && ".join(IMPATIENT)).status == 0
    with kgdb.breakpoint("vfs_read", temporary=True):
        kgdb.type("cat /proc/version")
        stop = kgdb.cont()
    kgdb.write(stop.frame.address, b"\xeb\xfe")  # jmp to itself, interrupts being on
    mark = kgdb.console.mark()
    with kgdb.expect_splat("soft lockup - CPU#0 stuck"):
        kgdb.resume()
    assert HUNG.search(kgdb.console.since(mark).decode())
