"""Steps of a task that goes to another CPU meanwhile."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

GOES = "taskset 1 taskset 2 true"
"""From CPU 0 to CPU 1, within a system call of its own."""

OTHERS = f"for n in 1 2 3 4 5 6; do {GOES} & taskset 2 taskset 1 true & done; "


def _about_to_go(kgdb: Any, command: str) -> Any:
    with kgdb.breakpoint("sched_setaffinity", condition="in_mask->bits[0] == 2"):
        kgdb.type(command)
        stop = kgdb.cont()
        while stop.cpu != 0:
            stop = kgdb.cont()
    return stop


def finish(kgdb: Any) -> Any:
    stop = kgdb.finish()
    assert stop.return_value == 0
    return stop


def next_lines(kgdb: Any) -> Any:
    for _ in range(60):
        stop = kgdb.next()
        if stop.cpu == 1:
            break
    return stop


def until_caller(kgdb: Any) -> Any:
    inner = kgdb.until("__sched_setaffinity")
    assert inner.cpu == 0
    _, caller, *_ = inner.backtrace()
    assert caller.function == "sched_setaffinity"
    return kgdb.until(f"*{caller.address:#x}")


def two_levels(kgdb: Any) -> Any:
    """Out of the function, and line by line on from there."""
    kgdb.finish()
    return kgdb.next()


WAYS: list[Callable[[Any], Any]] = [finish, next_lines, until_caller, two_levels]

each_way = pytest.mark.parametrize("way", WAYS, ids=[way.__name__ for way in WAYS])
others = pytest.mark.parametrize("others", ["", OTHERS], ids=["alone", "among_others"])


def check(kgdb: Any, way: Callable[[Any], Any], others: str) -> None:
    """The step ends in the same task, on its new CPU; what comes then is as ever."""
    task = _about_to_go(kgdb, f"({others}{GOES})").task.pid
    stop = way(kgdb)
    ended = int(stop.task.pid), stop.task.comm, stop.cpu
    assert ended == (int(task), "taskset", 1), stop.backtrace()
    assert kgdb.stepi().task.pid == task
    assert kgdb.run("echo on").output == "on\n"
    with kgdb.breakpoint("proc_pid_status"):
        kgdb.type("taskset 1 cat /proc/self/status")
        stop = kgdb.cont()
        assert (stop.cpu, stop.task.comm) == (0, "cat")
        assert kgdb.next().cpu == 0
