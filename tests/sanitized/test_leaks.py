"""`fail_each` on a kernel with kmemleak: memory that an error path forgets."""

from __future__ import annotations

from pathlib import Path

import pytest

LEAKY = Path(__file__).parent / "modules" / "leaky"
SOURCE = (LEAKY / "leaky.c").read_text().splitlines()
START = "echo start > /proc/leaky"


def line_of(word: str) -> int:
    (number,) = [n for n, line in enumerate(SOURCE, 1) if f"/* HERE {word} */" in line]
    return number


def test_an_error_path_that_forgets_a_buffer(kgdb) -> None:
    kgdb.modules.load(LEAKY / "leaky.ko")
    report = kgdb.fail_each("leaky_take", START, "NULL")
    print(report)
    assert [failure.verdict for failure in report] == ["handled", "handled", "leak"], report
    assert report.complete
    assert report.unsought is None
    assert [failure.leaks for failure in report[:2]] == [(), ()]
    (bad,) = report.bad
    (leak,) = bad.leaks
    assert (leak.kind, leak.comm) == ("memory leak", "sh")
    assert "(size 512)" in leak.title or "(size 400)" in leak.title
    assert (leak.function, leak.line) == ("leaky_take", line_of("taken"))
    (caller,) = [failure for failure in leak.frames if failure.function == "leaky_start"]
    assert caller.line == line_of("first")
    assert f"leaky_take at {leak.file}:{leak.line}" in bad.message
    assert "leaks were looked for" in str(report)
    assert bad.message in str(report)
    # It is as it was before, and the leak is no splat of the test's.
    assert kgdb.evaluate("leaky") == 0
    assert kgdb.evaluate("jiffies_min_age") > 0
    assert kgdb.splats == []


def test_an_init_that_is_gone_by_then(kgdb) -> None:
    """The kernel has no name for where an init was; the leak has its line."""
    kgdb.modules.known(LEAKY)
    report = kgdb.fail_each(
        "proc_create", lambda kgdb: kgdb.modules.load(LEAKY / "leaky.ko"), "NULL"
    )
    print(report)
    (bad,) = report.bad
    assert bad.verdict == "leak"
    (leak,) = bad.leaks
    assert (leak.function, leak.line) == ("leaky_take", line_of("taken"))
    (caller,) = [failure for failure in leak.frames if failure.function == "leaky_init"]
    assert (caller.module, caller.line) == ("leaky", line_of("log"))
    assert f"leaky.c:{line_of('log')}" in str(leak)


def test_a_module_that_is_gone_by_then(kgdb) -> None:
    kgdb.modules.load(LEAKY / "leaky.ko")

    def scenario(kgdb) -> None:
        kgdb.run(START)
        kgdb.modules.unload("leaky")

    (bad,) = kgdb.fail_each("leaky_take", scenario, "NULL", when="size == 500").bad
    print(bad)
    (leak,) = bad.leaks
    print(leak)
    assert (leak.function, leak.line) == ("leaky_take", line_of("taken"))
    (caller,) = [failure for failure in leak.frames if failure.function == "leaky_start"]
    assert (caller.module, caller.line) == ("leaky", line_of("first"))


@pytest.mark.parametrize("scenario", ["start", "init"])
def test_a_driver_that_forgets_nothing(kgdb, scenario: str) -> None:
    if scenario == "start":
        kgdb.modules.load(LEAKY / "leaky_fixed.ko")
        report = kgdb.fail_each("leaky_take", START, "NULL", when="size == 500")
    else:
        report = kgdb.fail_each(
            "proc_create", lambda kgdb: kgdb.modules.load(LEAKY / "leaky_fixed.ko"), "NULL"
        )
    assert len(report) == 1
    assert report.ok, report
    assert report.unsought is None
    assert [failure.leaks for failure in report] == [()] * len(report)


def test_what_was_lost_before_is_not_the_failures(kgdb) -> None:
    """A leak that is there already, and one that the scenario has whether or not it fails."""
    kgdb.modules.load(LEAKY.parent / "broken")
    kgdb.run("echo leak > /proc/broken")
    report = kgdb.fail_each(
        "proc_reg_open", "cat /proc/version; echo leak > /proc/broken", "-ENOMEM", limit=1
    )
    assert len(report) == 1
    assert report.ok, report
