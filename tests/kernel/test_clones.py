"""Instruments on functions that gcc copied or split: `.constprop`, `.isra`, `.part`, `.cold`."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from pytest_kgdb.errors import KgdbError
from pytest_kgdb.kernel import Kernel

CLONES = Path(__file__).parent / "modules" / "clones"
STEP = "echo {} > /sys/module/clones/parameters/step"


@pytest.fixture
def clones(kgdb: Any) -> Any:
    kgdb.modules.load(CLONES)
    return kgdb


def step(kgdb: Any, number: int) -> int:
    kgdb.run(STEP.format(number))
    return int(re.findall(rf"clones: step {number} gives (-?\d+)", kgdb.dmesg())[-1])


# Copies of which one parameter is constant


def test_a_constant_argument_is_read(clones: Any) -> None:
    with clones.spy("masked", collect=["flags + 1", "value & flags"], returns=True) as calls:
        assert step(clones, 1) == 44
    assert {call.copy for call in calls.calls} == {"masked.constprop.0"}
    assert [dict(call.args) for call in calls.calls] == [
        {"value": 5, "flags": 4},
        {"value": 6, "flags": 4},
    ]
    assert [dict(call.collected) for call in calls.calls] == [
        {"flags + 1": 5, "value & flags": 4},
        {"flags + 1": 5, "value & flags": 4},
    ]
    assert [call.return_value for call in calls.calls] == [20, 24]
    assert calls.unseen == ""
    with clones.override("masked", 7, when="flags == 4 && value == 6") as forced:
        assert step(clones, 1) == 27
    assert (forced.calls, forced.forced) == (2, 1)
    assert forced.last.copy == "masked.constprop.0"
    with clones.override("masked", "value + flags", when="flags == 5") as forced:
        assert step(clones, 1) == 44
    assert (forced.calls, forced.forced) == (2, 0)


def test_a_function_and_its_copy(clones: Any) -> None:
    with clones.spy("shared", returns=True) as calls:
        step(clones, 2)
    assert [(call.copy, dict(call.args), call.return_value) for call in calls.calls] == [
        ("shared.constprop.0", {"value": 5, "flags": 6}, 30),
        ("shared.constprop.0", {"value": 7, "flags": 6}, 42),
        ("shared", {"value": 1, "flags": 2}, 2),
        ("shared", {"value": 2, "flags": 0}, 0),
    ]
    with clones.spy("shared.constprop.0") as copies:
        step(clones, 2)
    assert [call.args["value"] for call in copies.calls] == [5, 7]
    with clones.override("shared", 1, when="flags < 6") as forced:
        assert step(clones, 2) == 72 + 2
    assert (forced.calls, forced.forced) == (4, 2)


def test_a_breakpoint_at_both(clones: Any) -> None:
    hit = clones.breakpoint("shared", condition="flags > 1")
    clones.type(STEP.format(2))
    for flags in (6, 6, 2):
        stop = clones.cont()
        assert stop.breakpoint is hit
        assert stop.frame.args["flags"] == flags
    hit.delete()
    clones.resume()
    clones.console.expect("clones: step 2 gives")


def test_the_kernels_copies_with_a_constant(kgdb: Any) -> None:
    with kgdb.spy("file_tty_write", returns=True) as writes:
        kgdb.run("printf abcde > /dev/tty")
    (mine, *_) = [call for call in writes.calls if call.returned and call.return_value == 5]
    assert mine.copy in ("file_tty_write.constprop.0", "file_tty_write.isra.0")  # gcc 12, 14
    assert mine.args["from"] > 1 << 63


# Copies whose parameters are removed


def test_a_removed_parameter_is_named(clones: Any) -> None:
    with clones.spy("second_of", collect=["n * 2"]) as calls:
        step(clones, 3)
    assert [(call.args["n"], call["n * 2"]) for call in calls.calls] == [(3, 6), (5, 10)]
    (copy,) = {call.copy for call in calls.calls}
    assert copy.startswith("second_of.")
    removed = rf"gcc removed the parameter `{{}}` of second_of \({re.escape(copy)}\)"
    assert "isra" in copy
    for name in ("pair", "unused"):
        with pytest.raises(KgdbError, match=removed.format(name)):
            calls.calls[0].args[name]
    with pytest.raises(KgdbError, match=removed.format("pair")):
        clones.spy("second_of", collect=["pair->second"])
    with pytest.raises(KgdbError, match=removed.format("unused")):
        clones.override("second_of", 3, when="n == 3 || unused")
    with pytest.raises(KgdbError, match=removed.format("pair")):
        clones.fail_each("second_of", STEP.format(3), 0, when="pair->first == 10")
    with clones.override("second_of", 1, when="n == 5") as forced:
        assert step(clones, 3) == 61
    assert forced.forced == 1


def test_what_no_caller_uses_is_not_read(clones: Any) -> None:
    with clones.spy("noted", returns=True) as calls:
        step(clones, 4)
    assert [call.args["n"] for call in calls.calls] == [3, 4]
    assert {call.copy for call in calls.calls} == {"noted.isra.0"}
    for call in calls.calls:
        assert call.returned
        with pytest.raises(KgdbError, match=r"may have removed what noted\.isra\.0 returns"):
            call.return_value  # noqa: B018


def test_a_condition_finds_what_was_removed_in_the_caller(clones: Any) -> None:
    hit = clones.breakpoint("second_of", condition="pair->second == 20 && n == 5")
    clones.type(STEP.format(3))
    stop = clones.cont()
    assert stop.breakpoint is hit
    assert (stop.message, stop.frame.args["n"]) == (None, 5)


def test_the_kernels_copies_without_a_parameter(kgdb: Any) -> None:
    with kgdb.spy("__set_oom_adj", returns=True) as calls:
        kgdb.run("echo 5 > /proc/self/oom_score_adj")
    (call,) = calls.calls
    assert (call.copy, call.return_value) == ("__set_oom_adj.isra.0", 0)
    assert (call.args["oom_adj"], call.args["legacy"]) == (5, False)
    removed = r"gcc removed the parameter `file` of __set_oom_adj \(__set_oom_adj\.isra\.0\)"
    with pytest.raises(KgdbError, match=removed):
        call.args["file"]
    with kgdb.override("__set_oom_adj", "-EPERM", when="oom_adj == 5") as forced:
        result = kgdb.run("echo 5 > /proc/self/oom_score_adj; echo 6 > /proc/self/oom_score_adj")
    assert "Operation not permitted" in result.output
    assert (forced.calls, forced.forced) == (2, 1)
    report = kgdb.fail_each("__set_oom_adj", "echo 5 > /proc/self/oom_score_adj", when="!legacy")
    assert report.ok, report
    assert (len(report), report.complete) == (1, True)


# Functions of which a part is split off


def test_a_part_that_was_split_off(clones: Any) -> None:
    with clones.spy("summed", collect=["pair->second + n"], returns=True) as calls:
        assert step(clones, 5) == 22 + 1 + 2 * 24 - 2 * 14
    assert [(call.copy, call.args["n"], call.return_value) for call in calls.calls] == [
        ("summed.part.0", 2, 22),
        ("summed.part.0", 4, 24),
    ]
    assert [call["pair->second + n"] for call in calls.calls] == [22, 24]
    assert re.fullmatch(
        r"summed is inlined into (one, two|two, one): calls there are seen only where they get to "
        r"summed\.part\.0",
        calls.unseen,
    )
    assert calls.unseen in repr(calls)
    assert {name.partition(" ")[0] for name in calls.inlined_in} == {"one", "two"}


def test_a_part_is_overridden_by_its_own_name(clones: Any) -> None:
    with pytest.raises(KgdbError, match=r"no override on summed:.*cannot be skipped") as error:
        clones.override("summed", 3)
    assert "override('summed.part.0', …)" in str(error.value)
    with pytest.raises(KgdbError, match="no override on summed:"):
        clones.fail_each("summed", STEP.format(5))
    with clones.override("summed.part.0", 3, when="n == 2") as forced:
        assert step(clones, 5) == 3 + 1 + 2 * 24 - 2 * 14
    assert (forced.calls, forced.forced) == (2, 1)


def test_a_breakpoint_meets_the_inlined_copies(clones: Any) -> None:
    hit = clones.breakpoint("summed")
    clones.type(STEP.format(5))
    functions = set()
    while "two" not in functions:
        stop = clones.cont()
        assert stop.breakpoint is hit
        functions |= {frame.function for frame in stop.backtrace()[:3]}
    assert {"one", "summed"} <= functions


def test_the_kernels_split_functions(kgdb: Any) -> None:
    with kgdb.spy("link_path_walk", collect=["nd->depth"], returns=True) as walks:
        assert kgdb.run("cat /proc/sys/kernel/ostype").status == 0
    (call,) = [call for call in walks.calls if call.args["name"] == "/proc/sys/kernel/ostype"]
    assert call.copy == "link_path_walk.part.0.constprop.0"
    assert (call["nd->depth"], call.return_value) == (0, 0)
    assert "link_path_walk is inlined into " in walks.unseen
    with pytest.raises(KgdbError, match="no override on link_path_walk"):
        kgdb.override("link_path_walk", "-EACCES")
    by_cat = lambda call: call.task.comm == "cat"  # noqa: E731 # not what the shell opens
    with kgdb.override("link_path_walk.part.0.constprop.0", "-EACCES", times=1, when=by_cat):
        assert "Permission denied" in kgdb.run("cat /proc/version").output


def test_a_call_that_gets_to_the_part_is_counted_once(kgdb: Any) -> None:
    """Of the program that ends, release_task() drops pids: put_pid(), and put_pid.part.0 in it."""
    with kgdb.spy("put_pid") as puts, kgdb.spy("put_pid.part.0") as parts:
        kgdb.run("cat /proc/version; cat /proc/version")
    assert puts.count > 0
    assert parts.count > 0
    assert {call.copy for call in puts.calls} == {"put_pid"}
    assert {call.copy for call in parts.calls} == {"put_pid.part.0"}
    assert "put_pid is inlined into " in puts.unseen
    assert "delayed_put_pid" in puts.unseen, "whose first instruction is put_pid()'s"


def test_what_is_no_function(clones: Any, kgdb_kernel: Kernel) -> None:
    with clones.spy("rare", returns=True) as calls:
        assert step(clones, 7) == 6 - 34
    assert [(call.copy, call.args["n"], call.return_value) for call in calls.calls] == [
        ("rare", 3, 6),
        ("rare", 7, -34),
    ]
    # Of the module's functions, this compiler with these flags may have split none.
    symbols = (kgdb_kernel.vmlinux.parent / "System.map").read_text()
    owner = re.findall(r" t (\w+)\.cold$", symbols, re.M)[0]
    with pytest.raises(KgdbError, match=rf"{owner}\.cold is no function.*of {owner}") as error:
        clones.spy(f"{owner}.cold")
    assert error.value.hint == f"take {owner}"


# Everywhere


@pytest.mark.kgdb(smp=2)
def test_copies_on_two_processors(clones: Any) -> None:
    line = f"for i in 1 2 3 4 5; do taskset {{}} sh -c '{STEP.format(2)}'; done"
    with clones.spy("shared") as calls, clones.override("masked", 1, when="flags == 4") as forced:
        clones.run(f"({line.format(1)}) & ({line.format(2)}) & wait; {STEP.format(1)}")
    assert calls.count == 40
    assert sum(call.copy == "shared.constprop.0" for call in calls.calls) == 20
    assert all(call.args["flags"] == 6 for call in calls.calls if "constprop" in call.copy)
    assert forced.forced == 2


def test_what_a_copy_returns_that_was_finished(clones: Any) -> None:
    """As a spy: read if a caller uses it, and refused otherwise."""
    with clones.breakpoint("second_of"):
        clones.type(STEP.format(3))
        clones.cont()
        stop = clones.finish()
    assert stop.return_value == 60
    clones.run("true")
    with clones.breakpoint("noted"):
        clones.type(STEP.format(4))
        clones.cont()
        stop = clones.finish()
    with pytest.raises(KgdbError, match=r"gcc may have removed what noted\.\S+ returns"):
        _ = stop.return_value
