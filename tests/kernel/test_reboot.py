"""A kernel that is about to reboot or halt is debugged to its end."""

from __future__ import annotations

import pytest

from pytest_kgdb.errors import KgdbError


def test_a_breakpoint(kgdb):
    kgdb.breakpoint("device_shutdown")
    kgdb.type("reboot -f")
    stop = kgdb.cont()
    assert (stop.frame.function, stop.task.comm) == ("device_shutdown", "reboot")
    assert kgdb.finish().reason == "finished"
    kgdb.breakpoint("machine_restart")
    assert kgdb.cont().frame.function in ("machine_restart", "native_machine_restart")


def test_a_spy(kgdb):
    with kgdb.spy("device_shutdown") as spy:
        with pytest.raises(KgdbError):
            kgdb.run("halt -f", timeout=5)
        assert spy.count == 1


def test_the_next_test_has_the_same_machine(kgdb):
    assert kgdb.run("echo on").output == "on\n"
    assert kgdb.evaluate("system_state") == kgdb.evaluate("SYSTEM_RUNNING")
