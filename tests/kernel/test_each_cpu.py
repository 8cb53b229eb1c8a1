"""Every call on every CPU counts, also where an instruction has to be stepped.

`counted()` begins with `lock incl`, `product()` with `imul`: neither is emulated.
"""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from pytest_kgdb.errors import KgdbError
from pytest_kgdb.handle import attachment_of

pytestmark = pytest.mark.kgdb(smp=2)

EACH_CPU = Path(__file__).parent / "modules/each_cpu"
WRITE = "echo > /sys/kernel/debug/each_cpu"
ROUNDS = 40
CALLS = 2 * ROUNDS
FUNCTIONS = pytest.mark.parametrize("function", ["counted", "product"])


@pytest.fixture
def calls(kgdb):
    kgdb.modules.load(EACH_CPU)
    yield kgdb
    assert kgdb.run("echo on").output == "on\n"


def stops(kgdb):
    """Yield the stops until all threads have ended."""
    with kgdb.breakpoint("end") as end:
        kgdb.type(WRITE)
        while (stop := kgdb.cont()).breakpoint is not end:
            yield stop


@FUNCTIONS
def test_a_breakpoint(calls, function):
    breakpoint = calls.breakpoint(function)
    seen = {0: [], 1: []}
    for stop in stops(calls):
        assert (stop.breakpoint, stop.frame.function) == (breakpoint, function)
        assert stop.task.comm == f"call/{stop.cpu}"
        seen[stop.cpu].append(int(next(iter(stop.frame.args.values()))))
    assert seen == {0: list(range(ROUNDS)), 1: list(range(ROUNDS))}
    assert breakpoint.hits == CALLS == calls.evaluate("calls.counter")


def test_two_breakpoints(calls):
    both = [calls.breakpoint("counted"), calls.breakpoint("product")]
    hits = [stop.breakpoint for stop in stops(calls)]
    assert [hits.count(breakpoint) for breakpoint in both] == [CALLS, CALLS]


def test_a_watchpoint(calls):
    """Two writes at once may be one stop; none is lost, and nothing stays in the code."""
    code = calls.read(calls.evaluate("&counted"), 16)
    values = [0]
    with calls.watchpoint("calls.counter") as watch:
        for stop in stops(calls):
            assert (stop.reason, stop.breakpoint) == ("watchpoint", watch)
            assert int(stop.old) == values[-1]
            values.append(int(stop.new))
    assert values == sorted(set(values))
    assert values[-1] == CALLS
    assert watch.hits == len(values) - 1
    assert calls.read(calls.evaluate("&counted"), 16) == code


@pytest.mark.parametrize("access", ["read", "access"])
def test_a_watchpoint_of_reads(calls, access):
    """One of both is refused where atomic instructions would be missed, and none is missed."""
    if access == "access" and attachment_of(calls).machine.misses_atomics:
        with pytest.raises(KgdbError, match="misses atomic instructions") as refused:
            calls.watchpoint("calls.counter", access=access)
        assert 'access="write"' in refused.value.hint
        assert "watch" not in calls.execute("info breakpoints")
        return
    values = [0]
    with calls.watchpoint("calls.counter", access=access) as watch:
        for stop in stops(calls):
            assert (stop.reason, stop.breakpoint) == ("watchpoint", watch)
            assert stop.frame.function == "counted"
            values.append(int(stop.new))
    assert {second - first for first, second in itertools.pairwise(values)} <= {0, 1, 2}
    assert values[-1] == CALLS
    if attachment_of(calls).relay.door == "qemu":
        assert watch.hits == CALLS


@pytest.mark.parametrize("beside", ["", "spy", "breakpoint"])
@pytest.mark.parametrize("access", ["read", "write"])
def test_accesses_beside_what_is_watched(calls, access, beside):
    """QEMU keeps the hit of a CPU that it has not reported for the next access to the page."""
    with calls.watchpoint("plain", access=access) as watch:
        if beside == "spy":
            calls.spy("product")
        elif beside == "breakpoint":
            calls.breakpoint("product", hardware=True)
        for stop in stops(calls):
            if stop.breakpoint is watch:
                assert stop.frame.function == f"{access}_plain"
    if access == "read" and attachment_of(calls).relay.door == "qemu":
        assert watch.hits == CALLS
    else:
        assert ROUNDS <= watch.hits <= CALLS


def test_accesses_while_the_machine_is_paused(calls):
    """QEMU reports the pause, and none of the hits that come with it."""
    attachment = attachment_of(calls)
    with calls.watchpoint("plain", access="read") as watch, calls.breakpoint("end") as end:
        calls.type(WRITE)
        while True:
            calls.resume()
            for _ in range(30):
                if not calls.stopped:
                    with attachment.relay.machine_paused(attachment.machine.monitor):
                        pass
            if calls.wait().breakpoint is end:
                break
            assert calls.stop.frame.function == "read_plain"
    assert ROUNDS <= watch.hits <= CALLS


def test_watchpoints_of_both_kinds_on_a_page(calls):
    """The one that is there stays, and misses nothing."""
    with calls.watchpoint("calls.counter") as watch:
        if attachment_of(calls).machine.misses_atomics:
            with pytest.raises(KgdbError, match="misses atomic instructions"):
                calls.watchpoint("zeros.counter", access="read")
            with pytest.raises(KgdbError, match="misses atomic instructions"):
                calls.execute("rwatch zeros.counter")
        else:
            calls.watchpoint("zeros.counter", access="read")
        values = [int(stop.new) for stop in stops(calls) if stop.breakpoint is watch]
    assert values[-1] == CALLS


def test_a_condition(calls):
    breakpoint = calls.breakpoint("counted", condition="i % 10 == 3")
    assert [int(stop.frame.args["i"]) % 10 for stop in stops(calls)] == [3] * (CALLS // 10)
    assert breakpoint.hits == CALLS // 10


def test_hits_that_are_ignored(calls):
    breakpoint = calls.breakpoint("counted", ignore_count=CALLS - 1)
    assert [stop.breakpoint for stop in stops(calls)] == [breakpoint]
    assert breakpoint.hits == CALLS


def test_spies(calls):
    with calls.spy("counted", returns=True) as counted, calls.spy("product") as product:
        calls.run(WRITE)
    assert (counted.count, product.count) == (CALLS, CALLS)
    for cpu in (0, 1):
        mine = [call for call in counted.calls if call.cpu == cpu]
        assert {call.task.comm for call in mine} == {f"call/{cpu}"}
        assert [call.args["i"] for call in mine] == list(range(ROUNDS))
        assert [call.return_value for call in mine] == list(range(1, ROUNDS + 1))


def test_an_override(calls):
    with calls.override("counted", 0, when=lambda call: call.args["i"] % 2 == 0, skip=5) as forced:
        calls.run(WRITE)
    assert forced.forced == CALLS // 2 - 5 == calls.evaluate("zeros.counter")
    assert calls.evaluate("calls.counter") == CALLS - forced.forced


@pytest.mark.parametrize("hardware", [False, True])
def test_a_spy_at_a_breakpoint_next_to_another(calls, hardware):
    """A stop that is put off, as gdb steps another thread, is of one call."""
    both = [calls.breakpoint("counted"), calls.breakpoint("product", hardware=hardware)]
    with calls.spy("product") as spy:
        hits = [stop.breakpoint for stop in stops(calls)]
    assert [hits.count(breakpoint) for breakpoint in both] == [CALLS, CALLS]
    assert spy.count == CALLS


def test_a_spy_and_steps_from_its_function(calls):
    with calls.spy("counted", returns=True) as spy:
        breakpoint = calls.breakpoint("counted", condition="i % 7 == 2")
        for number, _ in enumerate(stops(calls)):
            if number % 3 == 0:
                calls.stepi()
            elif number % 3 == 1:
                assert calls.finish().reason in ("finished", "breakpoint")
    assert spy.count == CALLS
    assert breakpoint.hits == 2 * len(range(2, ROUNDS, 7))


def test_while_something_else_is_watched(calls):
    calls.watchpoint("zeros.counter")
    with calls.spy("counted") as spy:
        calls.run(WRITE)
    assert spy.count == CALLS


def test_interrupts_stay_enabled(calls):
    """They are masked for a step only."""
    breakpoint = calls.breakpoint("product")
    for _ in stops(calls):
        enabled = calls.evaluate("$eflags & 0x200")
        assert enabled == 0x200
        assert calls.stepi().reason in ("step", "breakpoint")
        assert calls.evaluate("$eflags & 0x200") == 0x200
    assert breakpoint.hits == CALLS
