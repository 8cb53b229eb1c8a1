"""Several kernels, configurations and numbers of CPUs: parameters, choice, order."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from test_plugin import Inner, inner, needs_subtests  # noqa: F401  the fixture

from pytest_kgdb.plugin._matrix import Matrix
from pytest_kgdb.plugin._table import Row, blocks
from pytest_kgdb.settings import make_settings

TESTS = """
    import pytest
    @pytest.mark.parametrize("letter", "ab")
    def test_a(kgdb, letter): pass
    def test_kernel(kgdb_kernel): pass
    @pytest.mark.kgdb(smp=4)
    def test_own(kgdb): pass
    def test_shared(kgdb_session): pass
    def test_plain(): pass
"""
KERNELS = ("distro:6.1", "distro:6.12")
SMPS = ("smp1", "smp2")
AXES = ("--kgdb-kernel=distro:6.12", "--kgdb-smp=1", "--kgdb-smp=2")


def ids(result: pytest.RunResult) -> list[str]:
    """The tests that an inner run collected or ran, in order, without their file."""
    lines = [line.partition("::")[2] for line in result.outlines if ".py::" in line]
    return [re.sub(r"(\]|\w) .*", r"\1", line) for line in lines]


# -- parameters -----------------------------------------------------------------------------------


def test_each_combination_is_a_parameter(inner: Inner) -> None:  # noqa: F811
    inner.pytester.makepyfile(TESTS)
    result = inner.run("--collect-only", "-q", *AXES)
    collected = ids(result)
    assert sorted(collected) == sorted(
        [
            f"test_a[{kernel}-{smp}-{letter}]"
            for kernel in KERNELS
            for smp in SMPS
            for letter in "ab"
        ]
        + [f"test_shared[{kernel}-{smp}]" for kernel in KERNELS for smp in SMPS]
        + [f"test_{name}[{kernel}]" for kernel in KERNELS for name in ("kernel", "own")]
        + ["test_plain"]
    )
    # One kernel after the other, and one of its machines after the other.
    kernels = [name.partition("[")[2].split("-")[0].rstrip("]") for name in collected]
    assert kernels == sorted(kernels, key=["distro:6.1", "distro:6.12", ""].index)
    inner.run(*AXES).stdout.fnmatch_lines(
        [
            "kgdb: 16 tests on 6 machines (*), reordered so that each boots once",
            "kgdb: 2 tests set their own number of CPUs (marker kgdb): --kgdb-smp does not apply *",
        ]
    )


def test_each_runs_on_what_its_id_says(inner: Inner) -> None:  # noqa: F811
    inner.pytester.makepyfile(TESTS)
    result = inner.run("--kgdb-config=minimal", "--kgdb-config=defconfig", *AXES)
    result.assert_outcomes(passed=33)
    result.stdout.fnmatch_lines(
        ["kgdb: kernel distro:6.1, distro:6.12; config minimal, defconfig; CPUs 1, 2; *"]
    )
    kernels = [f"{kernel} {base}" for kernel in KERNELS for base in ("minimal", "defconfig")]
    assert sorted(inner.events("build")) == sorted(f"build {kernel}" for kernel in kernels)
    boots = [line.removesuffix(" 256 ") for line in inner.events("boot")]
    assert sorted(boots) == sorted(
        f"boot {kernel.replace(' ', '-')} {smp}" for kernel in kernels for smp in (1, 2, 4)
    )


def test_the_shared_machine_has_the_parameters_cpus(inner: Inner) -> None:  # noqa: F811
    inner.pytester.makepyfile(
        """
        def test_one(kgdb_session): pass
        def test_two(kgdb_session): pass
        """
    )
    inner.run("--kgdb-smp=2", "--kgdb-smp=3").assert_outcomes(passed=4)
    assert inner.events()[1:] == [
        "session distro:6.1 initrd None",
        "boot distro:6.1 2 256 ",
        "acquire ready snapshot 60.0",
        "shared",
        "boot distro:6.1 3 256 ",
        "acquire ready snapshot 60.0",
        "shared",  # the fixture is set up anew
        "shared",
        "close distro:6.1",
    ]


def test_a_parameters_own_marker_wins(inner: Inner) -> None:  # noqa: F811
    inner.pytester.makepyfile(
        """
        import pytest
        four = pytest.param("b", marks=pytest.mark.kgdb(smp=4))
        @pytest.mark.parametrize("letter", ["a", four])
        def test_a(kgdb, letter): pass
        """
    )
    result = inner.run("-v", *AXES[1:])
    # With four CPUs for smp1 and smp2 alike: once.
    result.assert_outcomes(passed=3, deselected=1)
    assert [line.split()[2] for line in inner.events("boot")] == ["1", "4", "2"]
    result.stdout.fnmatch_lines(["kgdb: 1 test sets its own number of CPUs *"])


def test_several_numbers_of_cpus_cannot_be_asked_for_at_run_time(inner: Inner) -> None:  # noqa: F811
    inner.pytester.makepyfile(
        """
        import pytest
        def test_a(request): request.getfixturevalue("kgdb")
        def test_b(request): request.getfixturevalue("kgdb_session")
        @pytest.mark.kgdb(smp=2)
        def test_c(request): request.getfixturevalue("kgdb")
        """
    )
    result = inner.run(*AXES[1:])
    result.assert_outcomes(failed=2, passed=1)
    result.stdout.fnmatch_lines(
        ["*by getfixturevalue(), and there are several numbers of CPUs: 1, 2"]
    )
    result = inner.run("--kgdb-config=minimal", "--kgdb-config=defconfig")
    result.stdout.fnmatch_lines(["*and there are several configurations: minimal, defconfig"])


def test_values_in_the_configuration_file(inner: Inner) -> None:  # noqa: F811
    inner.pytester.makeini("[pytest]\nkgdb_smp =\n    1\n    2\nkgdb_config = minimal")
    inner.pytester.makepyfile(TESTS)
    assert "test_a[smp2-b]" in ids(inner.run("--collect-only", "-q"))
    # The command line's are all there are.
    assert "test_a[b]" in ids(inner.run("--collect-only", "-q", "--kgdb-smp=2"))


def test_a_value_that_is_given_twice(inner: Inner) -> None:  # noqa: F811
    tree = inner.path / "linux"
    tree.mkdir()
    (inner.path / "link").symlink_to(tree)
    inner.pytester.makepyfile("def test_a(kgdb): pass")
    result = inner.run(
        "--kgdb-kernel=linux/../link", "--kgdb-kernel=v3", "--kgdb-smp=2", "--kgdb-smp=2", "-v",
        kernel="linux",
    )  # fmt: skip
    result.assert_outcomes(passed=2)
    result.stdout.fnmatch_lines(
        [
            f"kgdb: --kgdb-kernel: {tree}/../link, which is {tree}, is given twice; *",
            "kgdb: --kgdb-smp: 2 is given twice; its tests run once",
        ]
    )
    assert {line.split("::")[1].split()[0] for line in result.outlines if "PASSED" in line} == {
        "test_a[linux]",
        "test_a[v3]",
    }


def test_distro_and_the_version_that_it_stands_for_are_one_value(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pytest_kgdb.kernel._spec.DISTRO_SOURCES", tmp_path)
    for version in ("6.1", "6.12"):
        (tmp_path / f"linux-source-{version}.tar.xz").touch()
    matrix = Matrix(make_settings(kernel=["distro", "distro:6.1", "distro:6.12", "distro:9.9"]))
    assert matrix.columns == [("distro",), ("distro:6.1",), ("distro:9.9",)]
    assert matrix.repeated == [
        "--kgdb-kernel: distro:6.12, which is distro, is given twice; its tests run once"
    ]


# -- choice and order -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "number"),
    [
        (["-k", "smp2"], 6),
        (["-k", "smp2 and distro:6.12"], 3),
        (["-k", "test_a and not smp1"], 4),
        (["--deselect=test_it.py::test_a[distro:6.1-smp1-a]"], 16),
        (["--deselect=test_it.py::test_a"], 9),
        (["test_it.py::test_a[distro:6.12-smp1-b]", "test_it.py::test_own"], 3),
    ],
)
def test_choice(inner: Inner, words: list[str], number: int) -> None:  # noqa: F811
    inner.pytester.makepyfile(test_it=TESTS)
    assert len(ids(inner.run("--collect-only", "-q", *AXES, *words))) == number


def test_last_failed(inner: Inner) -> None:  # noqa: F811
    inner.pytester.makepyfile(
        """
        def test_a(kgdb, kgdb_kernel, request):
            assert kgdb_kernel == "distro:6.1" or "smp1" in request.node.name
        def test_b(kgdb): pass
        """
    )
    inner.run(*AXES).assert_outcomes(failed=1, passed=7)
    assert ids(inner.run(*AXES, "--lf", "--collect-only", "-q")) == ["test_a[distro:6.12-smp2]"]
    # A kernel that was added has not failed.
    more = ids(inner.run(*AXES, "--kgdb-kernel=v3", "--lf", "--collect-only", "-q"))
    assert more == ["test_a[distro:6.12-smp2]"]


def test_markers_hold_on_each(inner: Inner) -> None:  # noqa: F811
    inner.pytester.makepyfile(
        """
        import pytest
        @pytest.mark.xfail(strict=True)
        def test_a(kgdb): assert False
        @pytest.mark.skip
        def test_b(kgdb): pass
        @pytest.mark.kgdb(memory=512)
        def test_c(kgdb): pass
        """
    )
    inner.run(*AXES).assert_outcomes(xfailed=4, skipped=4, passed=4)
    boots = [line.split()[1:4] for line in inner.events("boot")]
    assert sorted(boot for boot in boots if boot[2] == "512") == [
        [kernel, smp, "512"] for kernel in KERNELS for smp in ("1", "2")
    ]


def test_groups_of_workers(inner: Inner) -> None:  # noqa: F811
    pytest.importorskip("xdist")
    inner.pytester.makepyfile(
        """
        import pytest
        @pytest.mark.xdist_group("one")
        def test_a(kgdb): pass
        @pytest.mark.xdist_group("two")
        @pytest.mark.kgdb(memory=512)
        def test_b(kgdb): pass
        """
    )
    inner.subprocess("-n2", "--dist=loadgroup", "-v", *AXES).assert_outcomes(passed=8)
    # Each worker has the machine that a test's id says.
    assert {tuple(line.split()[1:4]) for line in inner.events("boot")} == {
        (kernel, smp, memory) for kernel in KERNELS for smp in "12" for memory in ("256", "512")
    }


# pytest-xdist #1386: it writes a test's group into an attribute that pytest 9.2 does not read.
GROUPS_ARE_IGNORED = pytest.version_tuple >= (9, 2)


@pytest.mark.parametrize(
    "dist",
    [
        "loadfile",
        "loadscope",
        pytest.param(
            "loadgroup",
            # Strict: once xdist is fixed, docs/many-tests.md has to say with which version.
            marks=pytest.mark.xfail(GROUPS_ARE_IGNORED, reason="pytest-xdist #1386", strict=True),
        ),
    ],
)
def test_each_machine_is_one_workers(inner: Inner, dist: str) -> None:  # noqa: F811
    pytest.importorskip("xdist")
    tests = """
        import pytest
        @pytest.mark.xdist_group("{smp} CPUs")
        @pytest.mark.kgdb(smp={smp})
        class TestIt:
            @pytest.mark.parametrize("n", range(6))
            def test_it(self, kgdb, n): pass
    """
    inner.pytester.makepyfile(**{f"test_{smp}": tests.format(smp=smp) for smp in (2, 4)})
    inner.subprocess("-n2", f"--dist={dist}").assert_outcomes(passed=12)
    assert sorted(inner.events("boot")) == [f"boot distro:6.1 {smp} 256 " for smp in (2, 4)]


def test_repetitions_of_each(inner: Inner) -> None:  # noqa: F811
    inner.pytester.makepyfile("def test_a(kgdb): pass")
    collected = ids(inner.run("--collect-only", "-q", "--kgdb-repeat=2", *AXES[1:]))
    assert sorted(collected) == [
        "test_a[smp1-repeat1]", "test_a[smp1-repeat2]",
        "test_a[smp2-repeat1]", "test_a[smp2-repeat2]",
    ]  # fmt: skip


# -- the table ------------------------------------------------------------------------------------

MIXED = """
    import pytest
    from pytest_kgdb.errors import MachineDied
    def test_same(kgdb): pass
    def test_other(kgdb): pass
    @pytest.mark.skip
    def test_never(kgdb): pass
    def test_fails(kgdb, request): assert "distro:6.1-" in request.node.name
    @pytest.mark.xfail
    def test_known(kgdb, request): assert "smp1" in request.node.name
    def test_bug(kgdb, request): nonesuch if "smp2" in request.node.name else 1
    def test_lost(kgdb, request):
        if "6.12-smp1" in request.node.name: kgdb.fail(MachineDied("QEMU is gone"))
    def test_kernel(kgdb_kernel): assert kgdb_kernel == "distro:6.1"
    @pytest.mark.parametrize("kgdb_kernel", ["/src/v3"], indirect=True)
    def test_chosen(kgdb, kgdb_kernel): pass
    def test_plain(): assert False
"""
TABLE = """\
                        distro:6.1  distro:6.1  distro:6.12  distro:6.12
                        smp1        smp2        smp1         smp2
test_it.py::test_bug    PASS        ERROR       PASS         ERROR
test_it.py::test_fails  PASS        PASS        FAIL         FAIL
test_it.py::test_known  PASS        XFAIL       PASS         XFAIL
test_it.py::test_lost   PASS        PASS        MISS         PASS
test_it.py::test_kernel  PASS        =           FAIL         =
=: the run in a column to its left is this one's, too
the same in all 4 columns: 1 SKIP, 2 PASS; -v lists them
distro:6.1: Linux 6.1.192 (distro:6.1)
distro:6.12: Linux 6.1.192 (distro:6.12)
"""


def table(result: pytest.RunResult) -> list[str]:
    """The lines of the table, its rows in alphabetical order and columns apart by two spaces."""
    lines = result.outlines
    start = next(i for i, line in enumerate(lines) if "kgdb: tests by kernel" in line) + 1
    end = next(i for i, line in enumerate(lines) if i > start and line.startswith("===="))
    shown = [re.sub(" {2,}", "  ", line).rstrip() for line in lines[start:end]]
    rows = [line for line in shown if line.startswith("test_")]
    return [line for line in shown if line not in rows] + sorted(rows)


@pytest.mark.parametrize("workers", [(), ("-n2",)], ids=["alone", "workers"])
def test_the_table(inner: Inner, workers: tuple[str, ...]) -> None:  # noqa: F811
    if workers:
        pytest.importorskip("xdist")
    inner.pytester.makepyfile(test_it=MIXED)
    result = inner.subprocess(*AXES, "--tb=no", *workers)
    expected = [re.sub(" {2,}", "  ", line) for line in TABLE.splitlines()]
    rows = [line for line in expected if line.startswith("test_")]
    assert table(result) == [line for line in expected if line not in rows] + sorted(rows)


def test_what_failed_on_the_way_to_a_test(inner: Inner) -> None:  # noqa: F811
    inner.pytester.makepyfile(
        test_it="""
        from pytest_kgdb.errors import BootError, BuildError
        def test_a(kgdb, request):
            kgdb.fail(BootError("late") if "smp1" in request.node.name else BuildError("no"))
        def test_b(kgdb, request):
            if "repeat1" in request.node.name: kgdb.fail(BootError("late"))
        def test_c(kgdb):
            kgdb.fail(BootError("late"))
        """
    )
    lines = table(inner.run(*AXES[1:], "--kgdb-repeat=2", "--tb=no"))
    assert "test_it.py::test_a  MISS (boot)  MISS (build)" in lines
    assert "test_it.py::test_b  MISS (boot) 1/2  MISS (boot) 1/2" in lines
    assert "the same in all 2 columns: 1 MISS (boot); -v lists them" in lines


@needs_subtests
def test_skipped_subtests_in_the_table(inner: Inner) -> None:  # noqa: F811
    inner.pytester.makepyfile(
        """
        import pytest
        def test_some(kgdb, subtests):
            with subtests.test("a"): pass
            with subtests.test("b"): pytest.skip("no hardware")
        """
    )
    result = inner.run("--kgdb-smp=1", "--kgdb-smp=2")
    assert "the same in all 2 columns: 1 PASS; -v lists them" in table(result)


def test_the_whole_table(inner: Inner) -> None:  # noqa: F811
    inner.pytester.makepyfile(test_it=MIXED)
    lines = table(inner.run(*AXES, "--tb=no", "-v"))
    assert "test_it.py::test_same  PASS  PASS  PASS  PASS" in lines
    assert "test_it.py::test_never  SKIP  SKIP  SKIP  SKIP" in lines
    assert "the same in all 4 columns: 1 SKIP, 2 PASS" in lines


def test_no_table(inner: Inner) -> None:  # noqa: F811
    inner.pytester.makepyfile(test_it=MIXED)
    for words in (("--tb=no",), (*AXES, "-k", "distro:6.12 and smp2"), (*AXES, "-qq")):
        inner.run(*words).stdout.no_fnmatch_line("*tests by kernel*")


def test_columns_in_which_nothing_ran(inner: Inner) -> None:  # noqa: F811
    inner.pytester.makepyfile(test_it=MIXED)
    lines = table(inner.run(*AXES, "--tb=no", "-k", "smp2 or test_lost[distro:6.1-smp1]"))
    assert lines[0].split() == ["distro:6.1", "distro:6.1", "distro:6.12"]
    assert "test_it.py::test_same  -  PASS  PASS" in lines
    assert "test_it.py::test_fails  -  PASS  FAIL" in lines


def test_repetitions_share_a_row(inner: Inner) -> None:  # noqa: F811
    inner.pytester.makepyfile(
        test_it="def test_a(kgdb, request): assert 'smp2-repeat2' not in request.node.name"
    )
    lines = table(inner.run(*AXES[1:], "--kgdb-repeat=3", "--tb=no"))
    assert lines[-1] == "test_it.py::test_a  PASS  FAIL 1/3"


def test_a_worker_that_crashed(inner: Inner) -> None:  # noqa: F811
    pytest.importorskip("xdist")
    inner.pytester.makepyfile(
        test_it="import os\ndef test_a(kgdb, request): 'smp2' in request.node.name and os._exit(1)"
    )
    lines = table(inner.subprocess(*AXES[1:], "-n1", "--tb=no"))
    assert lines[-1] == "test_it.py::test_a  PASS  MISS"


def test_wide_tables_are_wrapped() -> None:
    columns = [(f"v6.{n}", "smp2") for n in range(9)]
    rows = [
        Row("tests/a/long/path/test_of_something.py::TestIt::test_it", ("PASS",) * 8 + ("FAIL",)),
        Row("test_b.py::test_it", ("ERROR",) * 9),
    ]
    shown = [["".join(line) for line in block] for block in blocks(columns, rows, 60)]
    assert [len(block) for block in shown] == [4, 4, 4]
    assert all(len(line) <= 60 for block in shown for line in block)
    assert shown[0][0].split() == ["v6.0", "v6.1", "v6.2", "v6.3"]
    assert shown[2][2] == "…something.py::TestIt::test_it  FAIL"
    assert [block[3].split() for block in shown] == [
        ["test_b.py::test_it", *["ERROR"] * 4],
        ["test_b.py::test_it", *["ERROR"] * 4],
        ["test_b.py::test_it", "ERROR"],
    ]
    # One column is shown however narrow the terminal.
    assert len(blocks(columns, rows, 10)) == 9
    assert blocks(columns, [], 80) == []
