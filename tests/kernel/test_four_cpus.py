"""Steps of a task that goes from CPU to CPU on the way: of itself, or moved by another."""

from __future__ import annotations

from pathlib import Path

import pytest

pytestmark = pytest.mark.kgdb(smp=4)

HOP = Path(__file__).parent / "modules/hop"
FILE = "/sys/kernel/debug/hop"
OTHERS = "for n in 1 2 3 4; do (while :; do cat /proc/version; done > /dev/null) & done; sleep 0.2"


@pytest.fixture(params=["", OTHERS], ids=["alone", "among_others"])
def hop(kgdb, request):
    kgdb.modules.load(HOP)
    if request.param:
        kgdb.run(request.param)
    yield kgdb
    assert kgdb.run("echo on").output == "on\n"


@pytest.fixture
def task(hop):
    with hop.breakpoint("hop_around"):
        hop.type(f"echo 3 > {FILE}")
        return int(hop.cont().task.pid)


def test_finish(hop, task):
    stop = hop.finish()
    assert (stop.task.pid, stop.return_value, stop.cpu) == (task, 3, 3)


def test_next(hop, task):
    cpus = []
    while not cpus or stop.frame.function == "hop_around":  # noqa: F821 # of the last round
        stop = hop.next()
        assert (stop.reason, stop.task.pid) == ("step", task)
        cpus.append(stop.cpu)
    assert set(cpus) == {0, 1, 2, 3}


def test_step_into_and_finish(hop, task):
    while hop.step().frame.function != "hop_to":
        assert hop.stop.frame.function == "hop_around"
    stop = hop.finish()
    assert (stop.task.pid, stop.frame.function, stop.cpu) == (task, "hop_around", 1)
    assert hop.next().task.pid == task


def test_at_the_prompt(hop, task):
    for _ in range(3):
        hop.execute("next")
    assert "Run till exit" in hop.execute("finish")
    assert (hop.stop.task.pid, hop.stop.cpu) == (task, 3)


def test_with_a_spy(hop):
    with hop.spy("hop_to", collect=["cpu"]) as spy:
        with hop.breakpoint("hop_around"):
            hop.type(f"echo 3 > {FILE}")
            task = int(hop.cont().task.pid)
        stop = hop.finish()
    assert (stop.task.pid, stop.return_value) == (task, 3)
    assert [call["cpu"] for call in spy.calls] == [1, 2, 3]


def test_a_watchpoint_on_the_way(hop, task):
    with hop.watchpoint("hops"):
        stop = hop.finish()
    assert (stop.reason, stop.task.pid) == ("watchpoint", task)
    stop = hop.finish()
    assert (stop.task.pid, stop.frame.function) == (task, "hop_around")


def test_a_breakpoint_on_the_way(hop, task):
    with hop.breakpoint("hop_to", condition="cpu == 3"):
        stop = hop.finish()
    assert (stop.reason, stop.task.pid, stop.cpu) == ("breakpoint", task, 2)
    stop = hop.finish()
    assert (stop.task.pid, stop.frame.function, stop.cpu) == (task, "hop_around", 3)


def test_moved_by_another(hop):
    moves = "; ".join(f"taskset -p {1 << n % 4} $! > /dev/null; sleep 0.05" for n in range(8))
    with hop.breakpoint("spin"):
        hop.type(f"echo s > {FILE} & sleep 0.2; {moves}")
        task = int(hop.cont().task.pid)
    stop = hop.finish()
    assert (stop.task.pid, stop.return_value) == (task, stop.cpu)
