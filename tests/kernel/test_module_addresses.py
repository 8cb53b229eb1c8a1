"""Breakpoints at addresses, and watchpoints, in a module's memory, which is another's next."""

from __future__ import annotations

from pathlib import Path

import pytest

from pytest_kgdb.errors import KgdbError, TimeoutError

HERE = Path(__file__).parent / "modules"
HOP = HERE / "hop"
CLONES = HERE / "clones"

WATCHES = {
    "handle": lambda kgdb: kgdb.watchpoint("hops"),
    "access": lambda kgdb: kgdb.watchpoint("hops", access="access"),
    "prompt": lambda kgdb: kgdb.execute("watch -l hops"),
}


@pytest.fixture
def hop(kgdb):
    return kgdb.modules.load(HOP)


def breakpoints(kgdb):
    return kgdb.execute("info breakpoints")


@pytest.mark.parametrize("way", WATCHES)
def test_a_watchpoint(kgdb, hop, way):
    """The loader writes there next, for another module."""
    watch = WATCHES[way](kgdb)
    kgdb.run("rmmod hop")
    assert "watchpoint" not in breakpoints(kgdb)
    kgdb.modules.load(CLONES)
    with pytest.raises(TimeoutError, match=r"watchpoint \d+ at .*hops is deleted: module hop is"):
        kgdb.cont(timeout=0.2)
    kgdb.interrupt()
    if way != "prompt":
        assert not watch.enabled
        with pytest.raises(KgdbError, match=r"(?s)was deleted.*with the module that is there"):
            watch.condition = "1"


def test_a_watchpoint_of_an_expression_at_the_prompt_follows_it(kgdb, hop):
    kgdb.execute("watch hops")
    hop.unload()
    kgdb.modules.load(CLONES)
    kgdb.modules.load(HOP)
    kgdb.type("echo 1 > /sys/kernel/debug/hop")
    stop = kgdb.cont()
    assert (stop.reason, stop.old, stop.new) == ("watchpoint", 0, 1)


@pytest.mark.parametrize("at_prompt", [False, True])
@pytest.mark.parametrize("hardware", [False, True])
def test_a_breakpoint_at_an_address(kgdb, hop, at_prompt, hardware):
    """In the code of another module it might be within an instruction."""
    address = f"*{int(kgdb.evaluate('(unsigned long)&hop_to')):#x}"
    if at_prompt:
        kgdb.execute(f"{'hbreak' if hardware else 'break'} {address}")
    else:
        point = kgdb.breakpoint(address, hardware=hardware)
    waiting, elsewhere = kgdb.breakpoint("hop_to"), kgdb.breakpoint("*vfs_statfs")
    kgdb.run("rmmod hop")
    assert address[1:] not in breakpoints(kgdb)
    assert (waiting.address, waiting.enabled, elsewhere.enabled) == (None, True, True)
    if not at_prompt:
        assert not point.enabled
    kgdb.modules.load(CLONES)
    assert kgdb.run("echo 2 > /sys/module/clones/parameters/step").status == 0
    kgdb.modules.load(HOP)
    kgdb.type("echo 1 > /sys/kernel/debug/hop")
    assert kgdb.cont().breakpoint is waiting


def test_what_a_restored_kernel_has_not_loaded(kgdb):
    kgdb.snapshot("before")
    kgdb.modules.load(HOP)
    watch = kgdb.watchpoint("hops")
    point = kgdb.breakpoint(f"*{int(kgdb.evaluate('(unsigned long)&hop_to')):#x}")
    kgdb.restore("before")
    assert (watch.enabled, point.enabled) == (False, False)
    kgdb.modules.load(CLONES)
