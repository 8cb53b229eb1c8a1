"""10,000 tests in one session: nothing grows but pytest's list of them, and none is slower."""

from __future__ import annotations

import itertools
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

TESTS = 10_000
EACH = 1000
SECONDS = 3000.0
# pytest keeps the three reports of each test to its end (_pytest/terminal.py,
# TerminalReporter.stats), and the plugin notes on each whose it is and what it came to: 2.6 kB
# more than an empty test's, by tracemalloc, mostly because an object with further attributes has
# a dictionary of its own.
OF_REPORTS = 3000

CONFTEST = f"""
import itertools
import json
import os
import time
from pathlib import Path

taken = []
number = 0


def anonymous(pid):
    for line in Path(f"/proc/{{pid}}/status").read_text().splitlines():
        if line.startswith("RssAnon"):
            return int(line.split()[1]) << 10


def descendants(pid):
    for task in Path(f"/proc/{{pid}}/task").iterdir():
        for child in (task / "children").read_text().split():
            yield int(child)
            yield from descendants(child)


def pytest_runtest_logfinish():
    global number
    number += 1
    if number % {EACH}:
        return
    me = os.getpid()
    taken.append({{
        "time": time.monotonic(),
        "memory": anonymous(me),
        "files": len(os.listdir("/proc/self/fd")),
        "children": sum(map(anonymous, descendants(me))),
    }})


def pytest_sessionfinish():
    Path(__file__).with_name("taken").write_text(json.dumps(taken))
"""

USES = f"""
import pytest


@pytest.mark.parametrize("number", range({TESTS}))
def test_it(kgdb, number):
    assert kgdb.evaluate("panic_on_oops") == 0
    kgdb.assign("panic_on_oops", 1)
    if number % 3 == 1:
        kgdb.resume()
    elif number % 7 == 2:
        kgdb.breakpoint("vfs_read")
    elif number % 11 == 3:
        kgdb.run("true")
"""

EMPTY = f"""
import pytest


@pytest.mark.parametrize("number", range({TESTS}))
def test_it(number):
    pass
"""


def run(directory: Path, text: str, *options: str) -> list[dict[str, Any]]:
    """Run the tests of a text, and return what was seen after each 1,000."""
    directory.mkdir()
    (directory / "conftest.py").write_text(CONFTEST)
    (directory / "test_many.py").write_text(text)
    argv = [sys.executable, "-m", "pytest", "-q", "-c", os.devnull, f"--rootdir={directory}"]
    argv += ["-p", "no:cacheprovider", *options, str(directory)]
    done = subprocess.run(argv, cwd=directory, capture_output=True, text=True, timeout=SECONDS)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    assert f"{TESTS} passed" in done.stdout
    taken: list[dict[str, Any]] = json.loads((directory / "taken").read_text())
    return taken


def growth(taken: list[dict[str, Any]], what: str) -> int:
    """Return how much more there is at the end than after the second 1,000."""
    return int(taken[-1][what]) - int(taken[1][what])


def test_ten_thousand_tests(
    tmp_path: Path, request: pytest.FixtureRequest, record_property: Any
) -> None:
    kernel = request.config.getoption("kgdb_kernel")[0]
    ours = run(tmp_path / "ours", USES, f"--kgdb-kernel={kernel}", "--kgdb-require")
    empty = run(tmp_path / "empty", EMPTY, "-p", "no:kgdb")
    times = [b["time"] - a["time"] for a, b in itertools.pairwise(ours)]
    seen = {
        "seconds for each 1,000": [round(seconds, 1) for seconds in times],
        "memory": growth(ours, "memory") - growth(empty, "memory"),
        "children": growth(ours, "children"),
        "files": growth(ours, "files"),
    }
    record_property("seen", seen)
    print(seen)
    assert abs(seen["files"]) <= 2, seen
    assert seen["memory"] < OF_REPORTS * (TESTS - 2 * EACH), seen
    assert seen["children"] < 8 << 20, seen
    assert statistics.median(times[-4:]) < 1.15 * statistics.median(times[:4]), seen
