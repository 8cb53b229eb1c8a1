"""KUnit: where a suite's results come from, and what pytest is told of them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fake_guest_shell import FakeShell

from pytest_kgdb.console import Result
from pytest_kgdb.errors import KgdbError
from pytest_kgdb.klog import LogLine
from pytest_kgdb.recipes._kunit import KunitCase, KunitRunner, KunitSuite, parse_suites

KTAP = """\
KTAP version 1
1..1
    KTAP version 1
    # Subtest: {name}
    1..3
    ok 1 adds
    # subtracts: EXPECTATION FAILED at demo.c:7
    not ok 2 subtracts
    ok 3 divides # SKIP no hardware
# {name}: pass:1 fail:1 skip:1 total:3
not ok 1 {name}
"""


class World:
    """A guest that may have a suite in debugfs, in its log or in a module."""

    def __init__(self, modules_dir: Path | None = None) -> None:
        self.shell = FakeShell()
        self.shell.answers = {
            "[ -w": Result(1, ""),
            "cat ": Result(1, "No such file"),
            "modprobe": self.load,
            "insmod": self.load,
        }
        self.log = ""
        self.printed = ""
        self.lines_so_far: list[LogLine] = []
        parts: Any = self
        self.runner = KunitRunner(parts.shell, parts, parts, modules_dir=modules_dir)

    def load(self) -> Result:
        self.lines_so_far += [
            LogLine(text, 1.0, None, seq) for seq, text in enumerate(self.printed.splitlines())
        ]
        return Result(0, "")

    def cursor(self) -> int:
        return len(self.lines_so_far)

    def lines(self, cursor: int) -> list[LogLine]:
        return self.lines_so_far[cursor:]

    def dmesg(self) -> str:
        return self.log


@pytest.fixture
def world() -> World:
    return World()


def statuses(suite: KunitSuite) -> list[tuple[str, str]]:
    return [(case.name, case.status) for case in suite.cases]


RESULT = [("adds", "passed"), ("subtracts", "failed"), ("divides", "skipped")]


def test_a_suite_that_can_be_run_at_any_time(world: World) -> None:
    world.shell.answers = {"[ -w": "", "/run && cat": KTAP.format(name="demo")}
    assert statuses(world.runner.run("demo", None, 7.0)) == RESULT
    assert "echo 1 > /sys/kernel/debug/kunit/demo/run" in world.shell.commands[-1]
    assert world.shell.timeouts[-1] == 7.0


def test_one_that_ran_at_the_boot(world: World) -> None:
    world.shell.answers["cat "] = KTAP.format(name="demo")
    assert statuses(world.runner.run("demo", None, None)) == RESULT


def test_one_that_only_the_log_has(world: World) -> None:
    world.log = "".join(f"[    0.1{at:05d}] {line}\n" for at, line in enumerate(KTAP.splitlines()))
    world.log = world.log.replace("{name}", "demo")
    assert statuses(world.runner.run("demo", None, None)) == RESULT
    words = r"no KUnit suite 'other' .*\(suites that did: demo\)"
    with pytest.raises(KgdbError, match=words) as caught:
        world.runner.run("other", None, None)
    assert caught.value.by_test


def test_one_in_a_module(world: World) -> None:
    world.lines_so_far = [LogLine(text, 0.5, None, 0) for text in KTAP.splitlines()]
    world.printed = KTAP.format(name="demo").replace("not ok 2", "ok 2")
    suite = world.runner.run("demo", "demo-test", None)
    assert suite.cases[1].status == "passed"
    assert world.shell.commands == [
        "[ ! -e /sys/module/demo_test ] || rmmod demo_test",
        "modprobe demo-test",
    ]
    with pytest.raises(KgdbError, match=r"demo-test did not run a KUnit suite 'x' \(it ran: demo"):
        world.runner.run("x", "demo-test", None)


def test_a_module_by_its_path(world: World) -> None:
    world.printed = KTAP.format(name="demo")
    world.runner.run("demo", "/run/demo.ko", None)
    assert world.shell.commands[-1] == "modprobe kunit 2>/dev/null; insmod /run/demo.ko"
    world.shell.answers["modprobe"] = Result(1, "insmod: can't insert\n")
    with pytest.raises(KgdbError, match=r"/run/demo\.ko could not be loaded: insmod: can't insert"):
        world.runner.run("demo", "/run/demo.ko", None)


def test_the_kernels_module_that_has_a_suite(tmp_path: Path) -> None:
    world = World(tmp_path)
    (tmp_path / "other.ko").write_bytes(b".kunit_test_suites" + b"demo2".ljust(256, b"\0"))
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib" / "demo_test.ko").write_bytes(
        b".kunit_test_suites" + b"demo".ljust(256, b"\0")
    )
    world.printed = KTAP.format(name="demo")
    world.runner.run("demo", None, None)
    assert world.shell.commands[-1] == "modprobe demo_test"


# What pytest is told


class Subtests:
    def __init__(self) -> None:
        self.outcomes: dict[str, str] = {}

    @contextlib.contextmanager
    def test(self, msg: str) -> Iterator[None]:
        try:
            yield
        except AssertionError as error:
            self.outcomes[msg] = str(error)
        except pytest.skip.Exception as skipped:
            self.outcomes[msg] = f"skipped: {skipped.msg}"
        else:
            self.outcomes[msg] = "passed"


def test_cases_as_subtests() -> None:
    subtests = Subtests()
    (suite,) = parse_suites(KTAP.format(name="demo").splitlines())
    suite.report(subtests)
    assert subtests.outcomes == {
        "demo.adds": "passed",
        "demo.subtracts": "subtracts failed\n# subtracts: EXPECTATION FAILED at demo.c:7",
        "demo.divides": "skipped: no hardware",
    }


def test_a_suite_that_came_to_no_end() -> None:
    text = "\n".join(KTAP.format(name="demo").splitlines()[:6])
    (suite,) = parse_suites(text.splitlines())
    with pytest.raises(AssertionError, match="suite demo did not come to its end"):
        suite.report(Subtests())


def test_a_suite_that_failed_though_no_case_did() -> None:
    (suite,) = parse_suites(["# demo: # failed to initialize (-19)", "not ok 1 demo"])
    subtests = Subtests()
    with pytest.raises(AssertionError, match=r"suite demo failed\n# demo: .*initialize \(-19\)"):
        suite.report(subtests)
    assert subtests.outcomes == {}


def test_a_case_that_was_skipped_has_run() -> None:
    with pytest.raises(pytest.skip.Exception) as skipped:
        KunitCase("divides", "skipped").check()
    assert skipped.value.msg == "skipped by KUnit"
    assert getattr(skipped.value, "kgdb_ran", False), "--kgdb-require lets it pass"
