"""Instruments where the kernel patches its own instructions: jump labels and static calls.

The kernel checks what is there before it does, and calls BUG() at an int3.
"""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest
from drgn import Object
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


def jump_labels(entries):
    """Return where the instructions of entries of a table are, and of which keys."""
    for entry in entries:
        code, target = (getattr(entry, name) for name in ("code", "key"))
        # include/linux/jump_label.h: counted from the entry, and two bits of flags in the key's
        key = (target.address_of_().value_() + target.value_() & ~3) & (1 << 64) - 1
        yield code.address_of_().value_() + code.value_(), key


def sites(kgdb):
    """Return the addresses of the module's instructions that are patched: one of each kind."""
    modules = list_for_each_entry("struct module", kgdb.program["modules"].address_of_(), "list")
    module = next(module for module in modules if module.name.string_() == b"patched")
    call = module.static_call_sites[0].addr
    found = {"called": call.address_of_().value_() + call.value_()}
    if hasattr(module, "jump_entries"):  # without CONFIG_JUMP_LABEL it is a plain branch
        ((found["labelled"], _),) = jump_labels([module.jump_entries[0]])
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
                assert (stop.breakpoint, stop.frame.function) == (breakpoint_, name)
                assert patched.stepi().reason == "step"
                patched.resume()
                patched.console.synchronise()
                patched.interrupt()
                assert int(patched.evaluate("patched_sums")) == expected[0] * 1000 + expected[1]


@pytest.mark.kgdb_kernel(config=["CONFIG_JUMP_LABEL"])
@pytest.mark.kgdb(smp=2)
def test_the_kernel_s_own(kgdb):
    """A static key behind a sysctl, at each of its places that a boot leaves."""
    program = kgdb.program
    first, last = (program.symbol(f"__{end}___jump_table").address for end in ("start", "stop"))
    kind = program.type("struct jump_entry")
    table = Object(program, program.array_type(kind, (last - first) // kind.size), address=first)
    key = program.symbol("sched_schedstats").address
    init = range(*(program.symbol(name).address for name in ("_sinittext", "_einittext")))
    places = [place for place, of in jump_labels(table) if of == key and place not in init]
    assert len(places) > 10
    with contextlib.ExitStack() as breakpoints:
        for place in places:
            breakpoints.enter_context(kgdb.breakpoint(f"*{place:#x}", condition="$rip == 0"))
        for value in (1, 0, 1, 0):
            assert kgdb.run(f"echo {value} > /proc/sys/kernel/sched_schedstats").status == 0
            assert kgdb.run("cat /proc/sys/kernel/sched_schedstats").output == f"{value}\n"
