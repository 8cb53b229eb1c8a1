"""Runs in which QEMU or gdb is killed at random moments."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import time
from pathlib import Path

from inner_run import InnerRun, no_traceback_of_ours

TESTS = '''
from pathlib import Path

import pytest


@pytest.mark.parametrize("number", range(400))
def test_it(kgdb, number):
    """All that tests do, until enough was killed."""
    assert kgdb.stopped
    assert kgdb.evaluate("panic_on_oops") == 0
    if Path("enough").exists():
        return
    kgdb.assign("panic_on_oops", 1)
    with kgdb.breakpoint("vfs_read") as reached:
        kgdb.type("cat /proc/version > /dev/null")
        assert kgdb.cont().reason == "breakpoint"
        assert reached.hits == 1
    assert kgdb.run("echo a; echo b").output == "a\\nb\\n"
    kgdb.resume()
    assert kgdb.interrupt().reason == "interrupt"
    kgdb.snapshot("here")
    kgdb.assign("panic_on_oops", 2)
    kgdb.restore("here")
    assert kgdb.evaluate("panic_on_oops") == 1
'''


def victims(run: InnerRun) -> dict[str, list[int]]:
    """The QEMUs and gdbs that a run has started."""
    sign = f"PYTEST_KGDB_OWNER={run.process.pid}-".encode()
    pids: dict[str, list[int]] = {"qemu": [], "gdb": []}
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            name = (entry / "comm").read_text()[:4].strip()
            if name in pids and sign in (entry / "environ").read_bytes():
                pids[name].append(int(entry.name))
    return pids


def run_with_kills(directory: Path, options: list[str], seed: int, kills: int) -> None:
    """Kill so often, and see that no test has failed: each has passed, or is an error.

    At the end no process and no file is left, and a run after it finds all well.
    """
    generator = random.Random(seed)
    run = InnerRun(directory / "killed", TESTS, options)
    done: list[str] = []
    deadline = time.monotonic() + 60.0 * kills
    while len(done) < kills:
        time.sleep(generator.uniform(0.0, 1.0))
        assert time.monotonic() < deadline, f"seed {seed}: {done}"
        assert run.process.poll() is None, f"seed {seed}: it ended after {done}\n{run.output}"
        name = generator.choice(["qemu", "gdb"])
        if pids := victims(run)[name]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(generator.choice(pids), signal.SIGKILL)
                done.append(name)
    (directory / "killed/enough").touch()
    ran = run.end(within=900)
    what = f"seed {seed}: {done}\n{ran.output}"
    no_traceback_of_ours(ran.output)
    assert len(ran.reports) == 400, what
    for reports in ran.reports.values():
        for report in reports:
            assert report.outcome == "passed" or report.lost, what
    (directory / "again").mkdir()
    (directory / "again/enough").touch()
    again = InnerRun(directory / "again", TESTS.replace("400", "1"), options).end()
    assert again.status == 0, what + again.output
