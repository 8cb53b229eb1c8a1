"""Instruments where the kernel patches its own instructions: jump labels and static calls.

The kernel checks what is there before it does, and calls BUG() at an int3.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from drgn.helpers.linux.list import list_for_each_entry

PATCHED = Path(__file__).parent / "modules" / "patched" / "patched.ko"
PARAMETERS = "/sys/module/patched/parameters"
CALL = f"echo 1 > {PARAMETERS}/call"
# What labelled() returns of 1 and called() of 2, before and after both have been patched.
BEFORE, AFTER = (1, 7), (101, 11)
SWITCHES = (("1", AFTER), ("0", BEFORE), ("1", AFTER))


@pytest.fixture
def patched(kgdb):
    kgdb.modules.load(PATCHED)
    return kgdb


def sums(kgdb, command=CALL):
    """Have the module call both functions; return what they have returned."""
    assert kgdb.run(command).status == 0
    return divmod(int(kgdb.evaluate("patched_sums")), 1000)


def switch(kgdb, value):
    assert kgdb.run(f"echo {value} > {PARAMETERS}/switched").status == 0


def place(counted):
    """Return the address that a member of an entry has, counted from itself."""
    return counted.address_of_().value_() + counted.value_()


def sites(kgdb):
    """Return the addresses of the module's instructions that are patched: one of each kind."""
    modules = list_for_each_entry("struct module", kgdb.program["modules"].address_of_(), "list")
    module = next(module for module in modules if module.name.string_() == b"patched")
    found = {"called": place(module.static_call_sites[0].addr)}
    if hasattr(module, "jump_entries"):  # without CONFIG_JUMP_LABEL it is a plain branch
        found["labelled"] = place(module.jump_entries[0].code)
    return found


@pytest.mark.parametrize("cpus", [pytest.param(n, marks=pytest.mark.kgdb(smp=n)) for n in (1, 2)])
def test_spies(patched, cpus):
    with (
        patched.spy("labelled", returns=True) as labelled,
        patched.spy("called", returns=True) as called,
    ):
        values = [sums(patched)]
        for value, expected in SWITCHES:
            switch(patched, value)
            values.append(sums(patched))
            assert values[-1] == expected
    assert values[0] == BEFORE
    calls = [
        (label.return_value, call.return_value)
        for label, call in zip(labelled.calls, called.calls, strict=True)
    ]
    assert calls == values
    switch(patched, "0")
    assert sums(patched) == BEFORE


def test_an_override(patched):
    with patched.override("labelled", returns=5):
        for value, expected in SWITCHES:
            switch(patched, value)
            assert sums(patched) == (5, expected[1])
    assert sums(patched) == AFTER


@pytest.mark.parametrize("hardware", [False, True])
def test_breakpoints_at_the_instructions(patched, hardware):
    """They are stepped, too."""
    places = sites(patched)
    for value, expected in SWITCHES:
        for name, address in places.items():
            assert patched.program.symbol(address).name == name
            with patched.breakpoint(f"*{address:#x}", hardware=hardware) as breakpoint_:
                switch(patched, value)
                patched.type(CALL)
                stop = patched.cont()
                assert stop.breakpoint == breakpoint_
                assert name in [frame.function for frame in stop.backtrace()[:3]]  # it inlines
                assert patched.stepi().reason == "step"
                patched.resume()
                patched.console.synchronise()
                patched.interrupt()
                assert int(patched.evaluate("patched_sums")) == expected[0] * 1000 + expected[1]
