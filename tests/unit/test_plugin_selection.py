"""The marker kgdb_kernel: which kernels a test is for."""

from __future__ import annotations

import pytest
from test_plugin import Inner, inner, recorded  # noqa: F401  the fixture

TESTS = """
    import pytest
    @pytest.mark.kgdb_kernel(">=6.5")
    def test_new(kgdb): pass
    @pytest.mark.kgdb_kernel("<6.5")
    def test_old(kgdb): pass
    @pytest.mark.kgdb_kernel(config=["CONFIG_KASAN"])
    def test_kasan(kgdb): pass
    @pytest.mark.kgdb_kernel(">=6.1", config=["KGDB=y", "!KASAN"])
    def test_both(kgdb_session): pass
    @pytest.mark.kgdb_kernel("<5.4", config="KCSAN")
    def test_neither(kgdb_kernel): pass
    def test_plain(): pass
"""
BOTH = """
from fake_session import FakeKernel
FakeKernel.releases = {"v1": "6.1.0-rc3", "v2": "6.12.117+deb13"}
FakeKernel.configs = {"v2": {"KASAN": "y"}}
"""


def test_a_test_for_other_kernels_is_skipped(inner: Inner) -> None:  # noqa: F811
    inner.pytester.makepyfile(test_it=TESTS)
    result = inner.run("-rs", "--kgdb-record=record")
    result.assert_outcomes(passed=3, skipped=3)
    result.stdout.fnmatch_lines(
        [
            "SKIPPED [[]1] test_it.py:2: needs a kernel >=6.5, and distro:6.1 is 6.1.192",
            "SKIPPED [[]1] test_it.py:6: needs CONFIG_KASAN, which distro:6.1 has not (set it by "
            "--kgdb-set=CONFIG_KASAN=y)",
            "SKIPPED [[]1] test_it.py:10: needs a kernel <5.4, and distro:6.1 is 6.1.192; needs "
            "CONFIG_KCSAN, *",
        ]
    )
    statuses = recorded(inner.path / "record")
    assert [name for name, status in statuses.items() if status == "SKIP"] == [
        "new", "kasan", "neither"
    ]  # fmt: skip


def test_no_machine_is_started_for_it(inner: Inner) -> None:  # noqa: F811
    inner.pytester.makepyfile(
        """
        import pytest
        pytestmark = pytest.mark.kgdb_kernel(">=6.5")
        @pytest.mark.kgdb(smp=2)
        def test_a(kgdb): pass
        def test_b(kgdb_session): pass
        @pytest.mark.parametrize("n", [1, 2])
        def test_c(kgdb_session, n): pass
        def test_plain(): pass
        """
    )
    inner.run().assert_outcomes(skipped=4, passed=1)
    assert inner.events() == ["build distro:6.1"]


def test_nor_where_one_is_up(inner: Inner) -> None:  # noqa: F811
    inner.pytester.makepyfile(
        """
        import pytest
        def test_a(kgdb): pass
        @pytest.mark.kgdb_kernel(">=6.5")
        def test_b(kgdb_session): pass
        """
    )
    inner.run().assert_outcomes(skipped=1, passed=1)
    assert inner.events("acquire") == ["acquire ready snapshot 60.0"]
    assert inner.events("shared") == []


def test_all_markers_of_a_test_hold(inner: Inner) -> None:  # noqa: F811
    inner.pytester.makepyfile(
        """
        import pytest
        @pytest.mark.kgdb_kernel(">=6.1")
        class TestIt:
            @pytest.mark.kgdb_kernel("<6.5", config=["KASAN"])
            def test_a(self, kgdb): pass
            @pytest.mark.kgdb_kernel("<6.5")
            def test_b(self, kgdb): pass
            @pytest.mark.parametrize("n", [1, pytest.param(2, marks=pytest.mark.kgdb_kernel("<6"))])
            def test_c(self, kgdb, n): pass
        """
    )
    inner.run().assert_outcomes(skipped=2, passed=2)


def test_wrong_markers_are_reported_at_collection(inner: Inner) -> None:  # noqa: F811
    inner.pytester.makepyfile(
        """
        import pytest
        @pytest.mark.kgdb_kernel("5.15")
        def test_version(kgdb): pass
        @pytest.mark.kgdb_kernel(">=5.15", "<6.2")
        def test_two(kgdb): pass
        @pytest.mark.kgdb_kernel(configs=["KASAN"])
        def test_name(kgdb): pass
        @pytest.mark.kgdb_kernel()
        def test_nothing(kgdb): pass
        @pytest.mark.kgdb_kernel(">=5.15", version="<6.2")
        def test_twice(kgdb): pass
        @pytest.mark.kgdb_kernel(">=5.15")
        def test_plain(): pass
        """
    )
    result = inner.run()
    assert result.ret == pytest.ExitCode.INTERRUPTED
    result.stdout.fnmatch_lines(
        [
            "*::test_version: marker kgdb_kernel: '5.15' is not a comparison: write *",
            "*::test_two: marker kgdb_kernel: it takes one version, and config=[[]…]",
            "hint: several comparisons are one text: *",
            "*::test_name: marker kgdb_kernel(configs=…): no such argument",
            "*::test_nothing: marker kgdb_kernel: it names neither a version nor a symbol",
            "*::test_twice: marker kgdb_kernel: it has two versions",
            "*::test_plain: marker kgdb_kernel(…): the test asks for no kernel",
        ]
    )
    assert not (inner.path / "events").exists()


def test_a_marker_without_any_kernel_test(inner: Inner) -> None:  # noqa: F811
    inner.pytester.makepyfile(
        """
        import pytest
        @pytest.mark.kgdb_kernel(">=5.15")
        def test_plain(): pass
        """
    )
    for words in ((), ("--kgdb-require",)):
        result = inner.run(*words, kernel=None)
        result.stdout.fnmatch_lines(
            ["*::test_plain: marker kgdb_kernel(…): the test asks for no *"]
        )


def test_a_release_that_does_not_say(inner: Inner) -> None:  # noqa: F811
    inner.fake(
        "from fake_session import FakeKernel\n"
        "FakeKernel.headers = None\n"
        "FakeKernel.releases = {'distro:6.1': '6.1.0-56-cloud-amd64'}"
    )
    inner.pytester.makepyfile(
        """
        import pytest
        @pytest.mark.kgdb_kernel(">=6.1.100")
        def test_a(kgdb): pass
        """
    )
    inner.run("--kgdb-record=record").assert_outcomes(errors=1)
    assert recorded(inner.path / "record") == {"a": "ERROR"}


# -- --kgdb-require -------------------------------------------------------------------------------


def test_one_kernel_that_is_required(inner: Inner) -> None:  # noqa: F811
    inner.pytester.makepyfile(test_it=TESTS)
    result = inner.run("--kgdb-require")
    # The version is no loss; the configuration alone is one.
    result.assert_outcomes(passed=3, skipped=2, errors=1)
    result.stdout.fnmatch_lines(
        ["skipped, and --kgdb-require allows no skip: needs CONFIG_KASAN, which distro:6.1 has *"]
    )
    assert inner.run("--kgdb-require", "-k", "plain or new or old").ret == pytest.ExitCode.OK
    # But something has to run.
    result = inner.run("--kgdb-require", "-k", "new")
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(["kgdb: --kgdb-require: of 1 kernel tests none ran"])


@pytest.mark.parametrize("workers", [(), ("-n2",)], ids=["alone", "workers"])
def test_several_kernels_that_are_required(
    inner: Inner,  # noqa: F811
    workers: tuple[str, ...],
) -> None:
    if workers:
        pytest.importorskip("xdist")
    inner.fake(BOTH)
    inner.pytester.makepyfile(test_it=TESTS)
    words = ["--kgdb-require", "--kgdb-kernel=/src/v2", *workers]
    result = inner.subprocess(*words, kernel="/src/v1")
    result.assert_outcomes(passed=4, skipped=7)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    lost = [line for line in result.outlines if "is for no kernel of this run" in line]
    assert len(lost) == 2
    result.stdout.fnmatch_lines(
        ["kgdb: --kgdb-require: test_it.py::test_neither is for no kernel of this run: needs *"]
    )
    chosen = inner.subprocess(*words, "-k", "new or old or kasan", kernel="/src/v1")
    assert chosen.ret == pytest.ExitCode.OK
    # It was not to run on the other.
    one = inner.subprocess(*words, "-k", "plain or v1 and (old or neither)", kernel="/src/v1")
    assert one.ret == pytest.ExitCode.OK
