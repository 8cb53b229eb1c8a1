"""Watchpoints that are hit by what is stepped: the stop is behind the access, in its function."""

from __future__ import annotations

from pathlib import Path

import pytest

WATCHED = Path(__file__).parent / "modules/watched"
SOURCE = (WATCHED / "watched.c").read_text().splitlines()


def line_of(word):
    (number,) = [n for n, line in enumerate(SOURCE, 1) if f"/* {word} */" in line]
    return number


@pytest.fixture
def watched(kgdb):
    kgdb.modules.load(WATCHED)
    return kgdb


def write(kgdb, number):
    kgdb.type(f"echo {number} > /sys/module/watched/parameters/all")


@pytest.mark.parametrize("step", ["next", "step", "stepi"])
def test_a_step(watched, step):
    watched.breakpoint("watched_write", temporary=True)
    write(watched, 33)
    watched.cont()
    watch = watched.watchpoint("watched_second")
    stop = watched.stop
    while stop.reason in ("step", "breakpoint"):
        stop = getattr(watched, step)()
    assert (stop.reason, stop.old, stop.new) == ("watchpoint", 0, 33)
    assert (stop.frame.function, watch.hits) == ("watched_write", 1)
    assert line_of("second") <= stop.frame.line <= line_of("third")
    # The next one is a step of what comes then.
    stop = getattr(watched, step)()
    assert stop.reason == "step"
    assert stop.frame.function in ("watched_write", "watched_set")
    watch.delete()
    watched.breakpoint("watched_count")
    assert watched.cont().frame.function == "watched_count"
    watched.delete_breakpoints()
    assert watched.run("echo ok").output == "ok\n"
    assert watched.evaluate("watched_third") == 33


def test_no_line_is_passed_over_behind_sti(watched):
    """QEMU reports no step behind sti."""
    watched.breakpoint("watched_masked", temporary=True)
    watched.type("echo 5 > /sys/module/watched/parameters/masked")
    stop, lines = watched.cont(), []
    while stop.frame.function == "watched_masked":
        lines.append(stop.frame.line)
        stop = watched.next()
    words = ("within", "enable", "behind", "again", "sleep", "last")
    assert [line for line in lines if line >= line_of("within")] == [line_of(one) for one in words]
    assert watched.run("echo ok").output == "ok\n"
    assert watched.evaluate("masked_before") == 6


AT = {"watched_count": "watched_total", f"watched.c:{line_of('first')}": "watched_first"}
KINDS = ("breakpoint", "hardware", "temporary", "condition")
CASES = [(kind, place) for kind in KINDS for place in AT] + [("spy", "watched_count")]


@pytest.mark.parametrize(("kind", "place"), CASES)
def test_at_the_instruction_of_a_breakpoint(watched, kind, place):
    variable = AT[place]
    calls = 2 if variable == "watched_total" else 1
    if kind == "spy":
        one = watched.spy(place)
    elif kind == "condition":
        one = watched.breakpoint(place, condition="jiffies == 1")
    else:
        one = watched.breakpoint(place, **{} if kind == "breakpoint" else {kind: True})
    watch = watched.watchpoint(variable)
    reasons = []
    write(watched, 7)
    stops = {"temporary": 1, "spy": 0, "condition": 0}.get(kind, calls)
    for _ in range(stops + calls):
        stop = watched.cont()
        reasons.append(stop.reason)
        function = "watched_count" if variable == "watched_total" else "watched_write"
        assert stop.frame.function == function, stop
    assert (reasons.count("breakpoint"), reasons.count("watchpoint")) == (stops, calls)
    assert watch.hits == calls
    if kind == "spy":
        assert one.count == calls
    watch.delete()
    assert watched.run("echo ok").output == "ok\n"
    assert watched.evaluate(variable) == (2 if variable == "watched_total" else 7)
