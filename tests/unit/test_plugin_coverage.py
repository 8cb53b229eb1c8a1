"""Coverage over a run of pytest: tests' names, workers, files, and the limit."""

from __future__ import annotations

import json
from typing import Any

import pytest
from test_plugin import Inner
from test_plugin import inner as inner  # a fixture

COVERED = """
from pytest_kgdb.recipes import FileCoverage, KernelCoverage, LineCoverage

class Covered:
    '''Of two lines, one runs under each test, and the other under none.'''

    def __init__(self):
        self.tests = []

    def ended(self, nodeid):
        if nodeid not in self.tests:
            self.tests.append(nodeid)

    def result(self):
        lines = {1: LineCoverage("ran", list(self.tests)), 2: LineCoverage("not reached")}
        if not self.tests:
            lines[1] = LineCoverage("not reached")
        return KernelCoverage("distro:6.1", {"fs/open.c": FileCoverage("fs/open.c", "", lines)})

fake_session.Session.coverage = property(
    lambda self: self.__dict__.setdefault("covered", Covered())
)
"""
TESTS = """
import pytest
@pytest.mark.parametrize("n", range(4))
def test_a(kgdb, n): pass
def test_shared(kgdb_session): pass
"""


@pytest.fixture
def covered(inner: Inner) -> Inner:
    inner.fake(COVERED)
    inner.pytester.makepyfile(test_it=TESTS)
    return inner


def lines_of(inner: Inner) -> dict[str, Any]:
    document = json.loads((inner.path / "out.json").read_text())
    (kernel,) = document["kernels"]
    lines: dict[str, Any] = kernel["files"]["fs/open.c"]["lines"]
    return lines


ALL = {*(f"test_it.py::test_a[{n}]" for n in range(4)), "test_it.py::test_shared"}


def test_a_run(covered: Inner) -> None:
    result = covered.run(
        "--kgdb-cov=fs/open.c", "--kgdb-cov-json=out.json", "--kgdb-cov-lcov=out.info"
    )
    result.assert_outcomes(passed=5)
    assert result.ret == 0
    assert set(lines_of(covered)["1"]["tests"]) == ALL
    assert "DA:1,5\nDA:2,0\n" in (covered.path / "out.info").read_text()
    result.stdout.fnmatch_lines(
        ["*kgdb coverage of distro:6.1*", "File *", "fs/open.c      2    1    50%  2"]
    )


def test_repetitions_are_one_test(covered: Inner) -> None:
    covered.run("--kgdb-cov=fs/open.c", "--kgdb-cov-json=out.json", "--kgdb-repeat=3")
    assert set(lines_of(covered)["1"]["tests"]) == ALL


def test_workers(covered: Inner) -> None:
    result = covered.subprocess(
        "--kgdb-cov=fs/open.c", "--kgdb-cov-json=out.json", "-n2", "--dist=load"
    )
    result.assert_outcomes(passed=5)
    assert set(lines_of(covered)["1"]["tests"]) == ALL
    assert lines_of(covered)["2"] == {"state": "not reached"}


@pytest.mark.parametrize("workers", [(), ("-n2", "--dist=load")])
def test_each_configuration_is_a_kernel_of_its_own(
    covered: Inner, workers: tuple[str, ...]
) -> None:
    words = ("--kgdb-config=minimal", "--kgdb-config=defconfig", "--kgdb-cov=fs/open.c", *workers)
    result = covered.subprocess(*words, "-k", "minimal or shared", "--kgdb-cov-json=out.json")
    document = json.loads((covered.path / "out.json").read_text())
    kernels = {kernel["kernel"]: kernel for kernel in document["kernels"]}
    assert set(kernels) == {"distro:6.1 (minimal)", "distro:6.1 (defconfig)"}
    ran = {
        name: {
            test.partition("[")[0] for test in kernel["files"]["fs/open.c"]["lines"]["1"]["tests"]
        }
        for name, kernel in kernels.items()
    }
    assert ran == {
        "distro:6.1 (minimal)": {"test_it.py::test_a", "test_it.py::test_shared"},
        "distro:6.1 (defconfig)": {"test_it.py::test_shared"},
    }
    result.stdout.fnmatch_lines(["*kgdb coverage of distro:6.1 (defconfig)*"])


@pytest.mark.parametrize(("least", "status"), [("50", 0), ("50.1", 1), ("100%", 1)])
def test_a_limit(covered: Inner, least: str, status: int) -> None:
    result = covered.run("--kgdb-cov=fs/open.c", f"--kgdb-cov-fail-under={least}")
    result.assert_outcomes(passed=5)
    assert result.ret == status
    text = "*--kgdb-cov-fail-under=*: of 2 lines 1 ran (50.0 %) on distro:6.1"
    if status:
        result.stdout.fnmatch_lines([text])
    else:
        result.stdout.no_fnmatch_line(text)


def test_a_limit_for_workers(covered: Inner) -> None:
    result = covered.subprocess("--kgdb-cov=fs/open.c", "--kgdb-cov-fail-under=90", "-n2")
    assert result.ret == 1
    result.stdout.fnmatch_lines(["*of 2 lines 1 ran (50.0 %) on distro:6.1"])


def test_a_limit_where_nothing_ran(covered: Inner) -> None:
    result = covered.run("--kgdb-cov=fs/open.c", "--kgdb-cov-fail-under=0", kernel=None)
    assert result.ret == 1
    result.stdout.fnmatch_lines(["*--kgdb-cov-fail-under=0: no kernel test ran"])


def test_a_failure_stays_one(covered: Inner) -> None:
    covered.pytester.makepyfile(test_it="def test_a(kgdb): assert 0")
    result = covered.run("--kgdb-cov=fs/open.c", "--kgdb-cov-fail-under=100")
    assert result.ret == 1


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--kgdb-cov=patch"], "--kgdb-cov=patch: the kernel has no patches"),
        (["--kgdb-cov=a b"], "--kgdb-cov: 'a b' names no lines"),
        (["--kgdb-cov=fs/open.c:9-3"], "--kgdb-cov: 'fs/open.c:9-3' names no lines: 9 to 3"),
        (["--kgdb-cov=fs/open.c:0"], "--kgdb-cov: 'fs/open.c:0' names no lines"),
        (["--kgdb-cov-lcov=out"], "--kgdb-cov-lcov: nothing is covered"),
        (["--kgdb-cov=a.c", "--kgdb-cov-diff=out"], "--kgdb-cov-diff: there is no diff"),
        (["--kgdb-cov=a.c", "--kgdb-cov-fail-under=many"], "'many' is not a number from 0 to 100"),
        (["--kgdb-cov=a.c", "--kgdb-cov-json=none/out"], "cannot write"),
    ],
)
def test_a_usage_error(covered: Inner, options: list[str], says: str) -> None:
    result = covered.run(*options)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert says in result.stderr.str() + result.stdout.str()
