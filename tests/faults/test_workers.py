"""Workers of pytest-xdist, each with a machine of its own: all ways to share out tests."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from inner_run import InnerRun

pytest.importorskip("xdist")

XDISTS = r"pytest-of-.*"  # its workers' common directory, for tmp_path

TESTS = """
import os
from pathlib import Path
import pytest
from pytest_kgdb.handle import attachment_of

HERE = Path(__file__).parent


@pytest.mark.parametrize("number", range(6))
@pytest.mark.xdist_group("one")
def test_one(kgdb, worker_id, number):
    with (HERE / "ran").open("a") as ran:
        ran.write(f"{worker_id} {attachment_of(kgdb).machine.pid}\\n")
    assert kgdb.run("cat /tmp/mess").status != 0
    kgdb.run(f"echo {worker_id} > /tmp/mess")
    assert kgdb.run("nproc").output == "1\\n"


@pytest.mark.kgdb(smp=2)
@pytest.mark.xdist_group("two")
@pytest.mark.parametrize("number", range(4))
def test_two(kgdb, worker_id, number):
    assert kgdb.run("nproc").output == "2\\n"


def test_none_of_ours():
    pass
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    "dist", ["load", "loadscope", "loadfile", "loadgroup", "worksteal", "each"]
)
def test_all_ways_to_share_out(tmp_path: Path, session_options: list[str], dist: str) -> None:
    options = [*session_options, "-n2", f"--dist={dist}", "--kgdb-require"]
    outcome = InnerRun(tmp_path, TESTS, options, workers=True).end(leaves=XDISTS)
    ways = 2 if dist == "each" else 1
    assert outcome.status == 0, outcome.output
    assert f"{11 * ways} passed" in outcome.output
    ran = [line.split() for line in (tmp_path / "ran").read_text().splitlines()]
    assert len(ran) == 6 * ways
    machines: dict[str, set[str]] = {}
    for worker, machine in ran:
        machines.setdefault(worker, set()).add(machine)
    # No machine serves two workers.
    assert sum(map(len, machines.values())) == len(set().union(*machines.values()))


KILLING = """
import os, signal
from pathlib import Path
import pytest
from pytest_kgdb.handle import attachment_of

KILLED = Path(__file__).with_name("killed")


@pytest.mark.parametrize("number", range(6))
def test_it(kgdb, number):
    assert kgdb.run(f"echo {number}").output == f"{number}\\n"
    if number == 2 and not KILLED.exists():
        KILLED.touch()
        os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize("dist", ["load", "loadscope"])
def test_a_worker_is_killed(tmp_path: Path, session_options: list[str], dist: str) -> None:
    pytest.importorskip("xdist")
    options = [*session_options, "-n2", f"--dist={dist}"]
    outcome = InnerRun(tmp_path, KILLING, options, workers=True).end(
        leaves=rf"pytest-kgdb-.*|{XDISTS}"
    )
    assert "worker 'gw" in outcome.output
    assert "crashed while running 'test_it.py::test_it[2]'" in outcome.output
    # A scope that lost its worker is run again as a whole.
    assert re.search(r"1 failed, [5-8] passed", outcome.output), outcome.output
