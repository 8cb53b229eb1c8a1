"""100 MB on the console, some ten minutes of them: they cost time, and a file on the disk."""

from __future__ import annotations

from pathlib import Path

from inner_run import InnerRun

from pytest_kgdb.console._transcript import KEPT_BYTES

MEGABYTES = 100
COPIES = 10  # of the text that is kept, at the same time, as it is searched

TESTS = r"""
import resource


def size():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10


def test_flood(kgdb):
    before = size()
    kgdb.type("yes 0123456789012345678901234567890123456789 | head -c BYTES; echo END")
    kgdb.resume()
    kgdb.console.wait_for(rb"END\r?\n", mark=0, timeout=3600)
    kgdb.interrupt()
    assert kgdb.evaluate("init_task.comm").string().startswith("swapper")
    assert kgdb.run("echo works").output == "works\n"
    with kgdb.breakpoint("vfs_read"):
        kgdb.type("cat /proc/version > /dev/null")
        assert kgdb.cont().reason == "breakpoint"
    print(f"grown by {size() - before} MB")


def test_the_next_one(kgdb):
    assert kgdb.run("echo fine").output == "fine\n"


def test_one_that_fails_behind_it(kgdb):
    assert kgdb.run("echo this").output == "fails\n"
""".replace("BYTES", str(MEGABYTES << 20))


def test_a_flood_of_the_console(tmp_path: Path, session_options: list[str]) -> None:
    options = [*session_options, "--kgdb-timeout=60", "-vv", "-rP"]
    outcome = InnerRun(tmp_path, TESTS, options).end(within=3600)
    assert outcome.passed("test_flood"), outcome.output
    assert outcome.passed("test_the_next_one"), outcome.output
    grown = int(outcome.output.partition("grown by ")[2].split()[0])
    assert grown < COPIES * (2 * KEPT_BYTES >> 20), "it is of what is kept, not of what came"
    failure = outcome.failure("test_one_that_fails_behind_it")
    assert "fails" in failure.text
    assert len(failure.text) < 1 << 16, "the flood is in the console's log, not in the report"
