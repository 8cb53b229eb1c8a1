"""Measurements of whole runs of pytest."""

from __future__ import annotations

import os
import resource
import sys
import time
from pathlib import Path

from pytest_kgdb.process import run
from tests.bench.kernels import boot
from tests.bench.result import Bench, Row

ROOT = Path(__file__).resolve().parents[2]

FIRST_LINE = """
import os, time
def test_first(kgdb):
    open(os.environ["STAMP"], "w").write(repr(time.time()))
    assert kgdb.stopped
"""

TRIVIAL = """
import pytest
@pytest.mark.parametrize("number", range(200))
def test_pristine(kgdb, number):
    assert kgdb.evaluate("panic_on_oops") == 0
    kgdb.assign("panic_on_oops", 1)
"""

GUEST_BOUND = """
import pytest
@pytest.mark.parametrize("number", range(24))
def test_guest(kgdb, number):
    ran = kgdb.run("i=0; while [ $i -lt 30000 ]; do i=$((i+1)); done; echo $i")
    assert ran.output == "30000\\n"
"""

STOP_BOUND = """
import pytest
@pytest.mark.parametrize("number", range(24))
def test_stops(kgdb, number):
    kgdb.type("while :; do echo 0 > /proc/sys/kernel/panic_on_oops; done")
    with kgdb.breakpoint("ksys_write") as written:
        for _ in range(60):
            kgdb.cont()
        assert written.hits == 60
"""


def users_environment() -> dict[str, str]:
    """Return an environment in which Python keeps its bytecode, as it does by default."""
    # Without, each start compiles the plugin anew.
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    return {**kept, "PYTHONPATH": str(ROOT)}


def pytest_run(directory: Path, *arguments: str, passed: int, **environment: str) -> float:
    """Run pytest and return the seconds it took; it must have passed so many tests."""
    began = time.monotonic()
    done = run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *arguments, "."],
        cwd=directory,
        env=users_environment() | environment,
        timeout=1200,
        check=False,
    )
    took = time.monotonic() - began
    if done.status != 0 or f"{passed} passed" not in done.output:
        raise RuntimeError(f"pytest failed:\n{done.output[-3000:]}")
    return took


def suite(bench: Bench, name: str, text: str) -> Path:
    directory = bench.directory / name
    directory.mkdir(exist_ok=True)
    (directory / f"test_{name}.py").write_text(text)
    (directory / "pytest.ini").write_text("[pytest]\n")
    return directory


def warm_start(bench: Bench) -> Row:
    """From the prompt to the first line of the first test."""
    directory, stamp = suite(bench, "first", FIRST_LINE), bench.directory / "stamp"
    kernel = f"--kgdb-kernel={bench.kernel}"

    def ours() -> float:
        stamp.unlink(missing_ok=True)
        began = time.time()
        pytest_run(directory, kernel, passed=1, STAMP=str(stamp))
        return float(stamp.read_text()) - began

    ours()  # builds what is missing
    mine, theirs = bench.alternate(ours, lambda: boot(bench), max(bench.rounds, 9))
    return Row(
        "warm start: `pytest` to the first line of the first test",
        "s",
        mine,
        theirs,
        "a boot to the shell, gdb attached",
        must="≤ 1.0 s",
        goal="≤ 0.7 s",
        budget=lambda row: row.median <= 1.0,
    )


def two_hundred(bench: Bench) -> Row:
    """A suite of trivial tests, each on a pristine kernel."""
    directory = suite(bench, "trivial", TRIVIAL)
    kernel = f"--kgdb-kernel={bench.kernel}"
    mine, theirs = bench.alternate(
        lambda: pytest_run(directory, kernel, passed=200),
        lambda: 200 * boot(bench),
        3,
    )
    return Row(
        "200 trivial tests on pristine kernels, one worker",
        "s",
        mine,
        theirs,
        "200 × a boot",
        must="≤ 25 s",
        budget=lambda row: row.median <= 25,
    )


def workers(bench: Bench, name: str, text: str, what: str, least: float, goal: str) -> Row:
    directory = suite(bench, name, text)
    kernel = f"--kgdb-kernel={bench.kernel}"
    if (os.cpu_count() or 1) < 2:
        raise RuntimeError("two workers cannot be measured on one core")
    pytest_run(directory, kernel, passed=24)
    mine, theirs = bench.alternate(
        lambda: pytest_run(directory, kernel, "-n2", passed=24),
        lambda: pytest_run(directory, kernel, "-n0", passed=24),
        max(3, bench.rounds - 2),
    )
    return Row(
        f"24 tests {what}, `-n2`",
        "s",
        mine,
        theirs,
        "`-n0`",
        must=f"≥ {least} ×",
        goal=goal,
        budget=lambda row: row.ratio >= least,
    )


def workers_guest(bench: Bench) -> Row:
    return workers(bench, "guest", GUEST_BOUND, "of guest commands", 1.5, "≥ 1.8 ×")


def workers_stops(bench: Bench) -> Row:
    return workers(bench, "stops", STOP_BOUND, "of 60 stops", 1.0, "≥ 1.2 ×")


def unused(bench: Bench) -> Row:
    """What the plugin costs those who do not use it."""
    directory = suite(bench, "plain", "def test_plain(): pass\n")

    def used(*arguments: str) -> float:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        pytest_run(directory, *arguments, passed=1)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return 1000 * (after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)

    mine, theirs = bench.alternate(used, lambda: used("-p", "no:kgdb"), 31)
    return Row(
        "CPU time of pytest with the plugin installed and unused",
        "ms",
        mine,
        theirs,
        "without it",
        must="≤ 10 ms more",
        goal="≤ 3 ms more",
        budget=lambda row: row.median - sorted(row.theirs)[len(row.theirs) // 2] <= 10,
    )
