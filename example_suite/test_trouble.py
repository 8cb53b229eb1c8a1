"""Kernels that panic, and kernels that are still booting."""

from __future__ import annotations

import pytest


# Through QEMU's stub, a kernel that panics is one that runs on.
@pytest.mark.kgdb(stub="kgdb")
def test_a_crash_is_a_stop(kgdb):
    """A panic enters the debugger, with the state at the panic."""
    kgdb.type("echo c > /proc/sysrq-trigger")
    stop = kgdb.cont()
    assert stop.reason == "panic"
    assert stop.message == "sysrq triggered crash"
    assert "sysrq_handle_crash" in [frame.function for frame in stop.backtrace()]


def test_the_next_test_has_a_pristine_kernel(kgdb):
    """Every test starts from the freshly booted kernel."""
    assert "sysrq triggered crash" not in kgdb.dmesg()
    assert kgdb.run("echo alive").output == "alive\n"


@pytest.mark.kgdb(at="kgdbwait")
def test_early_boot(kgdb):
    """Before init: the kernel can stop in functions that are freed later."""
    assert kgdb.evaluate("system_state") != "SYSTEM_RUNNING"
    with kgdb.breakpoint("console_on_rootfs"):
        stop = kgdb.cont()
        assert stop.frame.function == "console_on_rootfs"
    with kgdb.breakpoint("run_init_process"):
        stop = kgdb.cont()
        assert stop.frame.args["init_filename"].string() == "/init"


@pytest.mark.kgdb(smp=2)
def test_two_processors(kgdb):
    """The marker sets the machine's number of CPUs."""
    assert kgdb.run("grep -c ^processor /proc/cpuinfo").output == "2\n"
    with kgdb.breakpoint("do_sys_openat2"):
        kgdb.type("while :; do taskset 2 cat /proc/uptime; done")
        cpus = {kgdb.cont().cpu for _ in range(6)}
    assert 1 in cpus
