"""The plugin inside pytest, with a fake session: order, errors, reports, the end."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

# pytester takes modules that an inner run imported out again; one that were left with a reference
# to them would not know the next run's errors. So all are imported here, and stay.
from pytest_kgdb.plugin import (
    _github,
    _gitlab,  # noqa: F401
    _html,  # noqa: F401
    _junit,  # noqa: F401
    _run,  # noqa: F401
)
from pytest_kgdb.plugin._names import NO_KERNEL

INSTALLED = bool(entry_points(group="pytest11", name="kgdb"))
ROOT = Path(__file__).parents[2]
HERE = Path(__file__).parent

CONFTEST = """
from pathlib import Path

import fake_session
from fake_session import Handle, Session, build_errors, event
from pytest_kgdb import errors

EVENTS = fake_session.EVENTS = Path(__file__).with_name("events")


def pytest_configure(config):
    fake_session.install(config)
"""


class Inner:
    """A directory of tests, and runs of pytest in it."""

    def __init__(self, pytester: pytest.Pytester) -> None:
        self.pytester = pytester
        self.path = pytester.path
        self.fake()

    def fake(self, script: str = "") -> None:
        """Use the fake session, with a script that makes something go wrong in it."""
        self.pytester.makeconftest(CONFTEST + "\n" + script)

    def run(self, *args: str, kernel: str | None = "distro:6.1") -> pytest.RunResult:
        plugin = () if INSTALLED else ("-p", "pytest_kgdb.plugin")
        named = (f"--kgdb-kernel={kernel}",) if kernel else ()
        return self.pytester.runpytest(*plugin, *named, *args)

    def subprocess(self, *args: str, kernel: str | None = "distro:6.1") -> pytest.RunResult:
        plugin = () if INSTALLED else ("-p", "pytest_kgdb.plugin")
        named = (f"--kgdb-kernel={kernel}",) if kernel else ()
        return self.pytester.runpytest_subprocess(*plugin, *named, *args)

    def events(self, first: str = "") -> list[str]:
        """What the fake session was asked to do; only what begins so."""
        lines = (self.path / "events").read_text().splitlines()
        return [line for line in lines if line.startswith(first)]


def make_inner(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> Inner:
    """A place for tests that have the plugin and a fake session."""
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), str(HERE)]))
    monkeypatch.setenv("XDG_CACHE_HOME", str(pytester.path / "cache"))  # what runs measure
    monkeypatch.syspath_prepend(HERE)
    for name in (
        "CI",
        "BUILD_NUMBER",
        "GITHUB_ACTIONS",
    ):  # where pytest repeats messages in full
        monkeypatch.delenv(name, raising=False)
    return Inner(pytester)


@pytest.fixture
def inner(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> Inner:
    return make_inner(pytester, monkeypatch)


# -- a run without kernel tests -------------------------------------------------------------------


def test_a_plain_run_imports_the_options_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "test_plain.py").write_text("def test_plain(): pass\n")
    script = """
import sys, pytest
status = pytest.main(sys.argv[1:])
print("\\nLOADED", *sorted(name for name in sys.modules if name.startswith("pytest_kgdb")))
for name in ("rich", "drgn", "qemu", "pexpect", "platformdirs", "fsspec"):
    if name in sys.modules:
        print("HEAVY", name)
sys.exit(status)
"""
    done = subprocess.run(
        [sys.executable, "-c", script, "-p", "pytest_kgdb.plugin", "-q", str(tmp_path)],
        cwd=tmp_path,
        # Other plugins may import some of these for themselves.
        env={"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    loaded = next(line for line in done.stdout.splitlines() if line.startswith("LOADED"))
    assert loaded.split()[1:] == [
        "pytest_kgdb",
        "pytest_kgdb.plugin",
        "pytest_kgdb.plugin._names",
        "pytest_kgdb.settings",
        "pytest_kgdb.settings._options",
    ]
    assert "HEAVY" not in done.stdout


def test_options_and_fixtures_are_documented(inner: Inner) -> None:
    result = inner.run("--help", kernel=None)
    result.stdout.fnmatch_lines(["*--kgdb-kernel=SPEC*", "*--kgdb-require*", "*kgdb_kernel*"])
    result = inner.run("--fixtures", kernel=None)
    result.stdout.fnmatch_lines(
        ["kgdb_session*session scope*", "kgdb -- *", "*pristine live kernel*"]
    )
    result.stdout.no_fnmatch_line("_kgdb_machines*")
    inner.run("--markers", kernel=None).stdout.fnmatch_lines(["@pytest.mark.kgdb(at=*"])


# -- options --------------------------------------------------------------------------------------


def test_a_bad_option_is_a_usage_error(inner: Inner) -> None:
    inner.pytester.makepyfile("def test_plain(): pass")
    result = inner.run("--kgdb-smp=none")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["ERROR: --kgdb-smp: 'none' is not a whole number"])
    result.stderr.no_fnmatch_line("*Traceback*")


def test_a_bad_key_in_the_file_is_a_usage_error(inner: Inner) -> None:
    inner.pytester.makeini("[pytest]\nkgdb_accel = fast")
    inner.pytester.makepyfile("def test_plain(): pass")
    result = inner.run(kernel=None)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["ERROR: tox.ini: kgdb_accel: 'fast' is not one of auto, kvm, tcg"])


def test_the_header_names_the_kernels(inner: Inner) -> None:
    inner.pytester.makepyfile("def test_plain(): pass")
    result = inner.run("--kgdb-isolation=reboot")
    result.stdout.fnmatch_lines(
        ["kgdb: kernel distro:6.1; config minimal; isolation reboot", "*1 passed*"]
    )
    result = inner.run(kernel="package:linux-image-cloud-amd64")  # which was configured already
    result.stdout.fnmatch_lines(
        ["kgdb: kernel package:linux-image-cloud-amd64; isolation snapshot", "*1 passed*"]
    )
    inner.run(kernel=None).stdout.no_fnmatch_line("kgdb:*")
    assert not (inner.path / "events").exists()


@pytest.mark.parametrize(
    "words",
    [
        ("--kgdb-kernel=distro:6.12", "--kgdb-smp=1", "--kgdb-smp=2"),
        ("--shard=1/2", "--kgdb-repeat=2"),
        ("--shard=1/2", "-n2"),
        ("--kgdb-require", "--kgdb-prove", "--kgdb-cov=init/main.c", "--kgdb-cov-json=cov.json"),
        ("--kgdb-report=page", "--kgdb-record=record", "--kgdb-gitlab=gitlab"),
        ("--junitxml=junit.xml", "--kgdb-record=record", "--kgdb-peer=peer"),
    ],
    ids=lambda words: " ".join(words),
)
def test_a_run_that_only_collects_has_nothing_of_ours(inner: Inner, words: tuple[str, ...]) -> None:
    if "-n2" in words:
        pytest.importorskip("xdist")
    inner.pytester.makepyfile(
        """
        import pytest
        @pytest.mark.kgdb(smp=2)
        def test_two(kgdb): pass
        def test_one(kgdb): pass
        @pytest.mark.kgdb(smp=2)
        def test_another(kgdb): pass
        """
    )
    for name in ("record", "gitlab", "cov.json"):
        (inner.path / name).write_text("of an earlier run")
    for more in ((), ("-q",)):
        result = inner.run("--collect-only", *words, *more)
        assert result.ret == pytest.ExitCode.OK
        result.stdout.fnmatch_lines(["*test_two*"])
        own = [line for line in result.outlines if line.startswith(("kgdb", "pytest-kgdb"))]
        assert own + result.errlines == []
    for name in ("record", "gitlab", "cov.json"):
        assert (inner.path / name).read_text() == "of an earlier run"
    assert not (inner.path / "page").exists()
    assert not (inner.path / "events").exists()


def test_commands_can_be_pasted(inner: Inner) -> None:
    inner.pytester.makepyfile("def test_one(kgdb): pass\ndef test_two(kgdb): pass")
    lines = inner.run("--kgdb-print-commands").outlines
    at = lines.index("qemu-system-x86_64  -append 'a  b' &")
    assert lines[at + 1] == "gdb vmlinux"
    assert lines.count("gdb vmlinux") == 1
    assert "gdb vmlinux" not in inner.run().outlines


# -- no kernel ------------------------------------------------------------------------------------

THREE = """
    def test_plain(): pass
    def test_one(kgdb): pass
    def test_two(kgdb_session): pass
"""


def test_without_a_kernel_one_line_says_how_to_name_one(inner: Inner) -> None:
    inner.pytester.makepyfile(THREE)
    result = inner.run(kernel=None)
    result.assert_outcomes(passed=1, skipped=2)
    assert result.stdout.str().count(NO_KERNEL) == 1
    result.stdout.fnmatch_lines(["kgdb: 2 tests skipped: no kernel to test: name one with *"])
    result = inner.run("-rs", kernel=None)
    assert result.stdout.str().count(NO_KERNEL) == 1
    result.stdout.fnmatch_lines(["SKIPPED [[]2] kgdb: no kernel to test*"])


def test_required_kernel_tests_fail_without_a_kernel(inner: Inner) -> None:
    inner.pytester.makepyfile(THREE)
    result = inner.run("--kgdb-require", kernel=None)
    result.assert_outcomes(passed=1, errors=2)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(["no kernel to test: name one with *(--kgdb-require)"])


def test_required_tests_may_not_be_skipped_by_anybody(inner: Inner) -> None:
    inner.pytester.makepyfile(
        """
        import unittest, pytest
        @pytest.mark.skip(reason="not today")
        def test_marked(kgdb): pass
        def test_called(kgdb): pytest.skip("no luck")
        def test_raised(kgdb): raise unittest.SkipTest("old way")
        @pytest.mark.skipif(True, reason="plain tests may")
        def test_plain(): pass
        @pytest.mark.xfail(reason="known")
        def test_expected(kgdb): assert False
        """
    )
    result = inner.run("--kgdb-require")
    result.assert_outcomes(failed=2, errors=1, skipped=1, xfailed=1)
    result.stdout.fnmatch_lines(
        [
            "skipped, and --kgdb-require allows no skip: not today",
            "skipped, and --kgdb-require allows no skip: no luck",
            "skipped, and --kgdb-require allows no skip: old way",
        ]
    )


STUB_TESTS = """
    import pytest
    from pytest_kgdb import StubError
    @pytest.mark.kgdb(stub="kgdb")
    def test_kgdb(kgdb): pass
    @pytest.mark.kgdb(stub="qemu")
    def test_qemu(kgdb): pass
    @pytest.mark.kgdb(stub="auto")
    def test_any(kgdb): pass
    def test_monitor(kgdb): raise StubError("'monitor' was not given to gdb")
"""


def test_a_test_of_the_other_stub_is_skipped(inner: Inner) -> None:
    inner.pytester.makepyfile(STUB_TESTS)
    result = inner.run("-rs")  # the fake session has QEMU's stub for auto
    result.assert_outcomes(passed=2, skipped=2)
    result.stdout.fnmatch_lines(
        [
            "SKIPPED * the test needs kgdb (marker kgdb(stub='kgdb')), and gdb is attached to "
            "QEMU's stub",
            "SKIPPED * QEMU's stub cannot do it: 'monitor' was not given to gdb",
        ]
    )
    assert len(inner.events("acquire")) == 3  # no machine for the first


def test_a_required_test_of_the_other_stub_fails(inner: Inner) -> None:
    inner.pytester.makepyfile(STUB_TESTS)
    result = inner.run("--kgdb-require")
    result.assert_outcomes(passed=2, failed=1, errors=1)
    result.stdout.fnmatch_lines(["*allows no skip: the test needs kgdb (marker*"])


def test_a_stub_that_was_asked_for_is_not_an_excuse(inner: Inner) -> None:
    inner.pytester.makepyfile(STUB_TESTS)
    result = inner.run("--kgdb-stub=kgdb")
    result.assert_outcomes(passed=2, skipped=1, failed=1)
    result.stdout.fnmatch_lines(["*StubError: 'monitor' was not given to gdb*"])


def test_a_required_run_in_which_nothing_ran_fails(inner: Inner) -> None:
    inner.pytester.makepyfile(
        """
        import pytest
        @pytest.mark.xfail(run=False)
        def test_known(kgdb): pass
        def test_plain(): pass
        """
    )
    assert inner.run().ret == pytest.ExitCode.OK
    result = inner.run("--kgdb-require")
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(["kgdb: --kgdb-require: of 1 kernel tests none ran"])
    # What collects only, or chooses no kernel test, asks for nothing.
    assert inner.run("--kgdb-require", "--collect-only").ret == pytest.ExitCode.OK
    assert inner.run("--kgdb-require", "-k", "plain").ret == pytest.ExitCode.OK


# -- markers --------------------------------------------------------------------------------------


def test_a_marker_reaches_the_session(inner: Inner) -> None:
    inner.pytester.makepyfile(
        """
        import pytest
        @pytest.mark.kgdb(smp=2, timeout=7)
        class TestClass:
            @pytest.mark.kgdb(at="kgdbwait", smp=4, append="debug")
            def test_one(self, kgdb): pass
        """
    )
    inner.run("--kgdb-append=quiet").assert_outcomes(passed=1)
    assert inner.events() == [
        "build distro:6.1",
        "session distro:6.1 initrd None",
        "boot distro:6.1 4 256 quiet debug",
        "acquire kgdbwait snapshot 7.0",
        "release",
        "close distro:6.1",
    ]


def test_bad_markers_are_reported_at_collection(inner: Inner) -> None:
    inner.pytester.makepyfile(
        """
        import pytest
        @pytest.mark.kgdb(cpus=2)
        def test_unknown(kgdb): pass
        @pytest.mark.kgdb("kgdbwait")
        def test_positional(kgdb): pass
        @pytest.mark.kgdb(smp=2)
        def test_shared(kgdb_session): pass
        """
    )
    result = inner.run()
    assert result.ret == pytest.ExitCode.INTERRUPTED
    result.stdout.fnmatch_lines(
        [
            "*ERROR collecting test_bad_markers*",
            "*::test_unknown: marker kgdb(cpus=…): no such argument",
            "hint: it takes at, smp, memory, append, qemu_arg, isolation, timeout, stub",
            "*::test_positional: marker kgdb('kgdbwait'): it takes keyword arguments only",
            "*::test_shared: marker kgdb(…): it is for the fixture kgdb, *",
            "*Interrupted: 3 errors during collection*",
        ]
    )
    assert "Traceback" not in result.stdout.str() + result.stderr.str()
    assert not (inner.path / "events").exists()


# -- order and parameters -------------------------------------------------------------------------


def test_each_machine_is_booted_once(inner: Inner) -> None:
    inner.pytester.makepyfile(
        """
        import pytest
        two = pytest.mark.kgdb(smp=2)
        def test_a(kgdb): pass
        @two
        def test_b(kgdb): pass
        def test_plain(): pass
        def test_c(kgdb): pass
        @two
        def test_d(kgdb): pass
        """
    )
    result = inner.run("-v")
    result.assert_outcomes(passed=5)
    assert inner.events("boot") == ["boot distro:6.1 1 256 ", "boot distro:6.1 2 256 "]
    result.stdout.fnmatch_lines(
        ["kgdb: 4 tests on 2 machines (1 CPU 256M; 2 CPUs 256M), reordered so that each boots once"]
    )
    order = [line.split()[0].partition("::")[2] for line in result.outlines if "PASSED" in line]
    assert order == ["test_a", "test_c", "test_plain", "test_b", "test_d"]


def test_tests_that_need_no_reordering_stay_put(inner: Inner) -> None:
    inner.pytester.makepyfile("def test_b(kgdb): pass\ndef test_a(kgdb): pass")
    result = inner.run("-v")
    result.stdout.no_fnmatch_line("kgdb: *machines*")
    result.stdout.fnmatch_lines(["*::test_b *", "*::test_a *"])


def test_an_order_that_costs_boots_is_reported(inner: Inner) -> None:
    inner.pytester.makepyfile(
        """
        import pytest
        def test_a(kgdb): pass
        @pytest.mark.kgdb(smp=2)
        def test_b(kgdb): assert False
        @pytest.mark.kgdb(smp=2)
        def test_c(kgdb): pass
        def test_d(kgdb): assert False
        """
    )
    inner.run()
    result = inner.run("--failed-first")
    result.stdout.fnmatch_lines(
        ["kgdb: 4 tests on 2 machines (1 CPU 256M; 2 CPUs 256M): their order costs 4 boots"]
    )
    assert len(inner.events("boot")) == 2 + 4


def test_reboots_are_counted(inner: Inner) -> None:
    inner.pytester.makepyfile("def test_a(kgdb): pass\ndef test_b(kgdb): pass")
    result = inner.run("--kgdb-isolation=reboot")
    result.stdout.fnmatch_lines(["kgdb: 2 tests boot one of their own (isolation=reboot)"])


def test_several_kernels_are_parameters(inner: Inner) -> None:
    inner.pytester.makepyfile(
        """
        import pytest
        def test_a(kgdb): pass
        def test_plain(): pass
        @pytest.mark.kgdb(smp=2)
        def test_b(kgdb): pass
        def test_c(kgdb_kernel): assert kgdb_kernel in ("v1", "v2")
        """
    )
    result = inner.run("--kgdb-kernel=/src/v2", "-v", kernel="/src/v1")
    result.assert_outcomes(passed=7)
    result.stdout.fnmatch_lines(["*test_a[[]v1]*", "*test_a[[]v2]*"])
    assert inner.events("b") == [
        "build /src/v1",
        "boot v1 1 256 ",
        "boot v1 2 256 ",
        "build /src/v2",
        "boot v2 1 256 ",
        "boot v2 2 256 ",
    ]
    assert inner.events("close") == ["close v1", "close v2"]


def test_a_test_can_choose_its_kernels(inner: Inner) -> None:
    inner.pytester.makepyfile(
        """
        import pytest
        @pytest.mark.parametrize("kgdb_kernel", ["/src/v3"], indirect=True)
        def test_a(kgdb, kgdb_kernel): assert kgdb_kernel == "v3"
        """
    )
    inner.run("--kgdb-kernel=/src/v2", kernel="/src/v1").assert_outcomes(passed=1)
    assert inner.events("build") == ["build /src/v3"]


def test_several_kernels_cannot_be_asked_for_at_run_time(inner: Inner) -> None:
    inner.pytester.makepyfile("def test_a(request): request.getfixturevalue('kgdb')")
    inner.run().assert_outcomes(passed=1)
    result = inner.run("--kgdb-kernel=/src/v2", kernel="/src/v1")
    result.stdout.fnmatch_lines(["*asked for by getfixturevalue(), and there are several kernels*"])


@pytest.mark.parametrize(
    ("specs", "ids"),
    [
        (["distro:6.1", "distro:6.12"], ["distro:6.1", "distro:6.12"]),
        (["/a/linux", "/b/linux", "/b/other"], ["a/linux", "b/linux", "other"]),
        (["/src/linux-6.1.tar.xz", "/src/linux-6.12.tgz"], ["linux-6.1", "linux-6.12"]),
        (["/a/t@v6.1", "/a/t@origin/next"], ["t@v6.1", "t@origin/next"]),
        (["/a/t@v6.1", "/b/t@v6.1"], ["a/t@v6.1", "b/t@v6.1"]),
        (["/linux", "/a/linux"], ["linux", "a/linux"]),
    ],
)
def test_kernel_ids(specs: list[str], ids: list[str]) -> None:
    from pytest_kgdb.plugin._matrix import kernel_ids

    assert kernel_ids(specs) == ids


# -- errors ---------------------------------------------------------------------------------------


def test_a_build_error_is_reported_once(inner: Inner) -> None:
    inner.fake(
        "build_errors[:] = [errors.BuildError('cc found an error\\nfs/namei.c:12: what is this?', "
        "log='/tmp/log')]"
    )
    inner.pytester.makepyfile(THREE + "\n    def test_three(kgdb): pass")
    result = inner.run()
    result.assert_outcomes(passed=1, errors=3)
    text = result.stdout.str()
    assert text.count("what is this?") == 1
    assert text.count("log: /tmp/log") == 1
    assert "_run.py" not in text
    assert text.count("BuildError: cc found an error (reported in full above: ") == 2
    assert inner.events() == ["build distro:6.1"]


def test_a_module_that_does_not_compile_is_reported_once(inner: Inner) -> None:
    inner.pytester.makepyfile(
        """
        from pytest_kgdb.errors import BuildError, KgdbError
        module = BuildError("module faulty does not compile:\\nfaulty.c:3: error: what is this?")
        other = BuildError("module other does not compile:\\nother.c:4: error: and this?")
        def load(kgdb):
            kgdb.fail(module)
        def test_a(kgdb):
            load(kgdb)
        def test_b(kgdb):
            load(kgdb)
        def test_c(kgdb):
            kgdb.fail(other)
        """
    )
    result = inner.run()
    result.assert_outcomes(errors=3)
    text = result.stdout.str()
    assert text.count("what is this?") == text.count("and this?") == 1
    line = (
        "BuildError: module faulty does not compile, at *.py:5 (reported in full above: *::test_a)"
    )
    result.stdout.fnmatch_lines([line])


def test_an_error_in_the_test_shows_the_tests_line_and_our_message(inner: Inner) -> None:
    inner.pytester.makepyfile(
        """
        from pytest_kgdb.errors import TimeoutError
        def test_a(kgdb):
            kgdb.fail(TimeoutError("no stop in 3 s", hint="raise the timeout"), cause=True)
        def test_b(kgdb):
            def scenario():
                kgdb.fail(TimeoutError("not here either"))
            kgdb.call_back(scenario)
        """
    )
    result = inner.run()
    result.assert_outcomes(failed=2)
    result.stdout.fnmatch_lines(
        [
            ">       kgdb.fail(TimeoutError*",
            "E       pytest_kgdb.errors.TimeoutError: no stop in 3 s",
            "E       hint: raise the timeout",
            ">       kgdb.call_back(scenario)",
            ">       kgdb.fail(TimeoutError*",
            "E       pytest_kgdb.errors.TimeoutError: not here either",
        ]
    )
    result.stdout.no_fnmatch_line("*fake_session.py*")
    result.stdout.no_fnmatch_line("*an inner affair*")
    result.stdout.no_fnmatch_line("*direct cause*")
    inner.run("--full-trace").stdout.fnmatch_lines(["*an inner affair*"])


def test_what_the_user_was_handling_is_kept(inner: Inner) -> None:
    inner.pytester.makepyfile(
        """
        from pytest_kgdb.errors import TimeoutError
        def test_a(kgdb):
            try:
                {}["mine"]
            except KeyError:
                kgdb.fail(TimeoutError("no stop"))
        """
    )
    inner.run().stdout.fnmatch_lines(["*KeyError: 'mine'*", "*no stop*"])


def test_an_error_of_the_users_own_is_left_alone(inner: Inner) -> None:
    inner.pytester.makepyfile("def test_a(kgdb):\n    assert kgdb is None")
    result = inner.run()
    result.stdout.fnmatch_lines([">       assert kgdb is None", "E       assert *Handle* is None"])


def test_a_lost_machine_is_an_error_and_not_a_failure(inner: Inner) -> None:
    inner.pytester.makepyfile(
        """
        from pytest_kgdb.errors import KernelPanic, MachineDied
        def test_lost(kgdb): kgdb.fail(MachineDied("QEMU was killed by signal 9"))
        def test_panic(kgdb): kgdb.fail(KernelPanic("Attempted to kill init!"))
        def test_next(kgdb): pass
        """
    )
    result = inner.run()
    result.assert_outcomes(errors=1, failed=1, passed=1)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(["*ERROR at call of test_lost*", "ERROR *::test_lost - *"])
    assert inner.events("release") == ["release", "release", "release"]


STATUSES = """
    import pytest
    from pytest_kgdb.errors import *
    from pytest_kgdb.errors import making_instrument
    def test_good(kgdb): pass
    def test_wrong(kgdb): assert 1 == 2
    def test_panic(kgdb): kgdb.fail(KernelPanic("Attempted to kill init!"))
    def test_late(kgdb): kgdb.fail(TimeoutError("it did not stop"))
    def test_bug(kgdb): nonesuch
    def test_stale(kgdb): kgdb.fail(StaleError("it has run on"))
    def test_misspelt(kgdb):
        with making_instrument():
            kgdb.fail(KgdbError("there is no function vfs_raed"))
    def test_absent(kgdb): kgdb.fail(KgdbError("there is no CPU 7", by_test=True))
    def test_lost(kgdb): kgdb.fail(MachineDied("QEMU is gone"))
    def test_ours(kgdb): kgdb.fail(AssertionError("this cannot be"))
    def test_module(kgdb): kgdb.fail(BuildError("it does not compile"))
    def test_skipped(kgdb): pytest.skip("not today")
    @pytest.mark.xfail
    def test_known(kgdb): assert 1 == 2
    """


def records(path: Path) -> list[dict[str, Any]]:
    """Return the lines of a record of a run that has ended."""
    *lines, last = [json.loads(line) for line in path.read_text().splitlines()]
    assert last == {"finished": True}
    return lines


def recorded(path: Path) -> dict[str, str]:
    lines = records(path)
    return {line["test"].partition("::test_")[2]: line["status"] for line in lines}


def test_statuses_are_kcidbs(inner: Inner) -> None:
    inner.pytester.makepyfile(STATUSES)
    inner.run("--kgdb-record=record").assert_outcomes(
        passed=1, failed=5, errors=5, skipped=1, xfailed=1
    )
    assert recorded(inner.path / "record") == {
        "good": "PASS",
        **dict.fromkeys(("wrong", "panic", "late", "known"), "FAIL"),
        **dict.fromkeys(("bug", "stale", "misspelt", "absent"), "ERROR"),
        **dict.fromkeys(("lost", "ours", "module"), "MISS"),
        "skipped": "SKIP",
    }


def test_what_tested_nothing_is_no_expected_failure(inner: Inner) -> None:
    inner.pytester.makepyfile(
        """
        import pytest
        from pytest_kgdb.errors import *
        from pytest_kgdb.errors import making_instrument
        pytestmark = pytest.mark.xfail
        def test_lost(kgdb): kgdb.fail(MachineDied("QEMU is gone"))
        def test_misspelt(kgdb):
            with making_instrument():
                kgdb.fail(KgdbError("there is no function vfs_raed"))
        def test_absent(kgdb): kgdb.fail(KgdbError("there is no CPU 7", by_test=True))
        def test_panic(kgdb): kgdb.fail(KernelPanic("Attempted to kill init!"))
        @pytest.mark.xfail(raises=MachineDied)
        def test_of_that(kgdb): kgdb.fail(MachineDied("QEMU is gone"))
        """
    )
    result = inner.run()
    result.assert_outcomes(errors=3, xfailed=2)
    result.stdout.fnmatch_lines(["*ERROR at call of test_lost*", "ERROR *::test_lost - *"])


def test_the_status_is_not_pytests_outcome(inner: Inner) -> None:
    inner.pytester.makepyfile(
        """
        import unittest
        import pytest
        from pytest_kgdb.errors import *
        strict = pytest.mark.xfail(strict=True)
        @strict
        def test_fixed(kgdb): pass
        @strict
        def test_not_fixed(kgdb): assert 1 == 2
        @pytest.mark.xfail
        def test_lenient(kgdb): pass
        @pytest.mark.xfail(run=False)
        def test_not_run(kgdb): pass
        @pytest.mark.xfail
        def test_bug(kgdb): nonesuch
        @pytest.mark.xfail(raises=MachineDied)
        def test_triple_fault(kgdb): kgdb.fail(MachineDied("the kernel has reset the machine"))
        @pytest.mark.xfail(raises=KgdbError)
        def test_timeout(kgdb): kgdb.fail(TimeoutError("it did not stop"))
        @pytest.fixture
        def broken(kgdb): assert False
        @strict
        def test_fixture(broken): pass
        def test_by_hand(kgdb): pytest.xfail("it is known")
        @pytest.mark.usefixtures("kgdb_session")
        class TestUnit(unittest.TestCase):
            @unittest.expectedFailure
            def test_success(self): pass
            @unittest.expectedFailure
            def test_failure(self): self.fail("as ever")
        """
    )
    inner.run("--kgdb-record=record", "--kgdb-report=page").assert_outcomes(
        failed=2, xfailed=8, xpassed=1
    )
    assert recorded(inner.path / "record") == {
        **dict.fromkeys(("fixed", "lenient", "success"), "PASS"),
        **dict.fromkeys(("not_fixed", "triple_fault", "timeout", "fixture"), "FAIL"),
        **dict.fromkeys(("by_hand", "failure"), "FAIL"),
        "not_run": "SKIP",
        "bug": "ERROR",
    }
    page = (inner.path / "page/index.html").read_text()
    assert "XPASS(strict)" in page


needs_subtests = pytest.mark.skipif(
    not hasattr(pytest, "Subtests"), reason="pytest has subtests from 9.0 on"
)

SUBTESTS = """
    import pytest
    def test_some(kgdb, subtests):
        with subtests.test("fix"): pass
        with subtests.test("other", n=1): pytest.skip("no hardware")
        with subtests.test("other", n=1): pass
    def test_wrong(kgdb, subtests):
        with subtests.test("fix"): assert 1 == 2
        with subtests.test("other"): pytest.skip("no hardware")
    def test_all(kgdb, subtests):
        with subtests.test("other"): pytest.skip("no hardware")
    def test_itself(kgdb, subtests):
        with subtests.test("fix"): pass
        pytest.skip("not today")
    """


@needs_subtests
@pytest.mark.parametrize("workers", [(), ("-n1",)])
def test_subtests_that_are_skipped(inner: Inner, workers: tuple[str, ...]) -> None:
    inner.pytester.makepyfile(SUBTESTS)
    inner.subprocess("--kgdb-record=record", "--kgdb-report=page", *workers)
    lines = {line["test"].partition("::test_")[2]: line for line in records(inner.path / "record")}
    statuses = {name: line["status"] for name, line in lines.items()}
    assert statuses == {"some": "PASS", "wrong": "FAIL", "all": "SKIP", "itself": "SKIP"}
    names = lines["some"]["subtests"]
    assert list(names.values()) == ["PASS", "SKIP", "PASS"]
    assert next(iter(names)) == "fix (1)"
    assert [name.rpartition(" ")[2] for name in names] == ["(1)", "(1)", "(2)"]
    page = (inner.path / "page/index.html").read_text()
    assert "1 failed, 1 passed, 2 skipped" in page


@pytest.mark.parametrize("broken", ["build", "boot"])
def test_nor_is_a_kernel_that_is_not_there(inner: Inner, broken: str) -> None:
    error = f"errors.{broken.title()}Error('it is not there')"
    inner.fake(
        f"build_errors[:] = [{error}]"
        if broken == "build"
        else f"Session.acquire_errors = [{error}]"
    )
    inner.pytester.makepyfile(
        """
        import pytest
        @pytest.mark.xfail
        def test_it(kgdb): pass
        """
    )
    inner.run("--kgdb-record=record").assert_outcomes(errors=1)
    assert recorded(inner.path / "record") == {"it": "MISS"}


def test_repetitions(inner: Inner) -> None:
    inner.pytester.makepyfile(
        """
        import pytest
        @pytest.mark.parametrize("letter", "ab")
        def test_it(kgdb, letter): assert letter == "a"
        def test_plain(): pass
        """
    )
    inner.run("--kgdb-repeat=3", "--kgdb-record=record").assert_outcomes(passed=4, failed=3)
    lines = records(inner.path / "record")
    ran = sorted(
        (line["test"].partition("::")[2], line["repeat"], line["status"]) for line in lines
    )
    assert ran == [
        *(("test_it[a]", number, "PASS") for number in (1, 2, 3)),
        *(("test_it[b]", number, "FAIL") for number in (1, 2, 3)),
        ("test_plain", 1, "PASS"),
    ]


@pytest.mark.parametrize("workers", [(), ("-n1",)])
def test_a_repeated_test_is_named_as_ever(inner: Inner, workers: tuple[str, ...]) -> None:
    inner.pytester.makepyfile(
        test_one="""
        import pytest
        @pytest.mark.parametrize("letter", "abc")
        class TestOf:
            def test_it(self, kgdb, letter): pass
            def test_other(self, kgdb, letter): pass
        @pytest.mark.parametrize("letter", ["x::y", "b"])
        def test_it(kgdb, letter): pass
        def test_plain(): pass
        """,
        test_two="def test_it(kgdb): pass",
    )
    names = ("test_one.py::TestOf::test_it[b]", "test_one.py::test_it[x::y]", "test_two.py")
    result = inner.subprocess("--kgdb-repeat=2", "--kgdb-record=record", *workers, *names)
    result.assert_outcomes(passed=6, deselected=0 if workers else 6)
    lines = records(inner.path / "record")
    assert {line["test"] for line in lines} == {*names[:2], "test_two.py::test_it"}
    inner.run("--kgdb-repeat=2", "test_one.py::test_plain").assert_outcomes(passed=1)
    result = inner.run("--kgdb-repeat=2", "test_one.py::test_it[c]")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines("ERROR: not found: *test_one.py::test_it[[]c[]]")


IN_STEP = """
    import os, pathlib
    side = os.environ["SIDE"]
    runs = pathlib.Path(f"runs-{side}")
    def count(letter):
        with runs.open("a") as file:
            file.write(letter)
        return runs.read_text().count(letter)
    def test_steady(kgdb): count("s")
    def test_varies(kgdb): assert side == "two" or count("v") != 3
    def test_late(kgdb): assert side == "one" or count("l") != 7
    def test_wrong(kgdb): count("w"); nonesuch
    def test_plain(): pass
    """


def start_in_step(inner: Inner, side: str, other: str, *words: str) -> subprocess.Popen[str]:
    plugin = () if INSTALLED else ("-p", "pytest_kgdb.plugin")
    argv = [sys.executable, "-m", "pytest", *plugin, "--kgdb-kernel=distro:6.1", "--kgdb-repeat=9"]
    argv += [f"--kgdb-record={side}", f"--kgdb-peer={other}", "--kgdb-require", *words]
    return subprocess.Popen(
        argv,
        cwd=inner.path,
        env=os.environ | {"SIDE": side},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def test_two_runs_beside_each_other(inner: Inner) -> None:
    inner.pytester.makepyfile(IN_STEP)
    runs = [start_in_step(inner, *sides) for sides in (("one", "two"), ("two", "one"))]
    outputs = [run.communicate(timeout=60)[0] for run in runs]
    for side, output in zip(("one", "two"), outputs, strict=True):
        lines = records(inner.path / side)
        counts = dict.fromkeys(("steady", "varies", "late", "wrong", "plain"), 0)
        for line in lines:
            counts[line["test"].partition("::test_")[2]] += 1
        # Behind five runs, as soon as it is seen: the same on both sides.
        assert counts == {"steady": 9, "varies": 5, "late": 7, "wrong": 9, "plain": 1}, output
        assert "SKIP" not in {line["status"] for line in lines}
        assert "--kgdb-require allows no skip" not in output


def test_a_run_whose_other_one_has_ended(inner: Inner) -> None:
    inner.pytester.makepyfile(IN_STEP)
    (inner.path / "two").write_text("")
    run = start_in_step(inner, "one", "two", "-k", "steady")
    output, _ = run.communicate(timeout=60)
    assert "9 passed" in output


def test_two_runs_with_another_order_do_not_wait_for_each_other(inner: Inner) -> None:
    inner.pytester.makepyfile(IN_STEP)
    inner.fake(
        "def pytest_collection_modifyitems(items):\n"
        "    import os\n"
        "    if os.environ['SIDE'] == 'two': items.reverse()\n"
    )
    words = ("-k", "steady or wrong")
    runs = [start_in_step(inner, *sides, *words) for sides in (("one", "two"), ("two", "one"))]
    for run in runs:
        output, _ = run.communicate(timeout=60)
        assert "9 failed, 9 passed" in output


def test_the_wait_for_the_other_run_is_not_the_tests(inner: Inner) -> None:
    pytest.importorskip("pytest_timeout")
    inner.pytester.makepyfile(
        """
        import os, time
        import pytest
        @pytest.mark.timeout(1)
        def test_hang(kgdb):
            if os.environ["SIDE"] == "one":
                time.sleep(30)
        """
    )
    runs = [
        start_in_step(inner, *sides, "--kgdb-repeat=3")
        for sides in (("one", "two"), ("two", "one"))
    ]
    outputs = [run.communicate(timeout=60)[0] for run in runs]
    for side, output in zip(("one", "two"), outputs, strict=True):
        statuses = [line["status"] for line in records(inner.path / side)]
        assert statuses == (["FAIL"] if side == "one" else ["PASS"]) * 3, output


OUT_OF_TIME = """
    import time
    import pytest
    pytestmark = pytest.mark.timeout(1)
    @pytest.fixture
    def slow(kgdb): time.sleep(30)
    def test_boot(kgdb): pass
    @pytest.mark.xfail
    def test_known(kgdb): pass
    def test_fixture(slow): pass
    def test_body(kgdb): kgdb.call_back(lambda: time.sleep(30))
    def test_end(kgdb): pass
    """


def test_time_that_is_up_in_what_is_ours(inner: Inner) -> None:
    pytest.importorskip("pytest_timeout")
    inner.fake("Session.acquire_seconds, Session.check_seconds = [30, 30], [30]")
    inner.pytester.makepyfile(OUT_OF_TIME)
    inner.run("--kgdb-record=record").assert_outcomes(errors=4, failed=1)
    assert recorded(inner.path / "record") == {
        **dict.fromkeys(("boot", "known", "end"), "MISS"),
        **dict.fromkeys(("fixture", "body"), "FAIL"),
    }


@pytest.mark.parametrize("option", [(), ("--full-trace",)])
def test_how_a_failure_is_shown_is_no_matter(inner: Inner, option: tuple[str, ...]) -> None:
    inner.fake("Session.acquire_errors = [errors.TimeoutError('gdb does not answer')] * 2")
    inner.pytester.makepyfile(
        """
        import pytest
        from pytest_kgdb.errors import *
        def test_it(kgdb): pass
        @pytest.mark.xfail
        def test_known(kgdb): pass
        def test_late(kgdb): kgdb.fail(TimeoutError("it did not stop"))
        """
    )
    inner.run("--kgdb-record=record", *option).assert_outcomes(errors=2, failed=1)
    assert recorded(inner.path / "record") == {"it": "MISS", "known": "MISS", "late": "FAIL"}


def test_how_a_kernel_did_not_boot(inner: Inner) -> None:
    inner.fake("""
Session.acquire_errors = [
    errors.BootError("it panicked", by_kernel=True), errors.BootError("in 60 s", late=True),
    errors.BootError("it does not fit"),
]
""")
    inner.pytester.makepyfile(
        """
        import pytest
        @pytest.mark.kgdb(smp=2)
        def test_a(kgdb): pass
        @pytest.mark.kgdb(smp=2)
        def test_again(kgdb): pass
        @pytest.mark.kgdb(smp=3)
        def test_b(kgdb): pass
        @pytest.mark.kgdb(smp=4)
        def test_c(kgdb): pass
        """
    )
    inner.run("--kgdb-record=record").assert_outcomes(errors=4)
    boots = [line.get("boot") for line in records(inner.path / "record")]
    assert boots == ["panicked", "panicked", "late", None]


def test_why_a_test_was_skipped(inner: Inner) -> None:
    inner.pytester.makepyfile("import pytest\ndef test_it(kgdb): pytest.skip('not here')")
    inner.run("--kgdb-record=record").assert_outcomes(skipped=1)
    (line,) = records(inner.path / "record")
    assert (line["status"], line["message"]) == ("SKIP", "not here")


def test_a_hang_without_where_the_kernel_was(inner: Inner) -> None:
    inner.pytester.makepyfile(
        """
        from pytest_kgdb.diagnosis import Diagnosis, explained
        from pytest_kgdb.errors import TimeoutError
        def test_late(kgdb):
            late = TimeoutError("'cat' did not end in 60 s\\nthe console's last lines")
            kgdb.fail(explained(late, Diagnosis("spinning: CPU 0 in f", "its stack")))
        def test_other(kgdb): kgdb.fail(TimeoutError("it did not stop"))
        """
    )
    inner.run("--kgdb-record=record").assert_outcomes(failed=2)
    late, other = records(inner.path / "record")
    assert late["message"] == "TimeoutError: 'cat' did not end in 60 s: spinning: CPU 0 in f"
    assert late["reason"] == "TimeoutError: 'cat' did not end in 60 s"
    assert "reason" not in other


def test_peer_needs_a_record(inner: Inner) -> None:
    inner.pytester.makepyfile("def test_it(kgdb): pass")
    result = inner.run("--kgdb-peer=other")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["ERROR: --kgdb-peer: it needs --kgdb-record=FILE"])


def test_a_record_that_cannot_be_written(inner: Inner) -> None:
    inner.pytester.makepyfile("def test_it(kgdb): pass")
    result = inner.run("--kgdb-record=nonesuch/record")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["ERROR: --kgdb-record: cannot write *: No such file*"])


def test_a_machine_that_never_came_up_is_not_tried_again(inner: Inner) -> None:
    inner.fake("Session.acquire_errors = [errors.BootError('kgdb was never entered')]")
    inner.pytester.makepyfile(
        """
        import pytest
        def test_a(kgdb): pass
        def test_b(kgdb): pass
        @pytest.mark.kgdb(smp=2)
        def test_other_machine(kgdb): pass
        """
    )
    result = inner.run()
    result.assert_outcomes(errors=2, passed=1)
    assert inner.events("release") == ["release"]
    result.stdout.fnmatch_lines(
        [
            "kgdb was never entered",
            "BootError: kgdb was never entered (reported in full above: *test_a)",
        ]
    )


def test_a_machine_that_may_have_more_time_is_tried_again(inner: Inner) -> None:
    inner.fake("Session.acquire_errors = [errors.BootError('kgdb was not reached in 60 s')]")
    inner.pytester.makepyfile(
        """
        import pytest
        @pytest.mark.kgdb(timeout=1.5)
        def test_a(kgdb): pass
        def test_b(kgdb): pass
        @pytest.mark.kgdb(timeout=90)
        def test_c(kgdb): pass
        """
    )
    inner.run().assert_outcomes(errors=2, passed=1)


def test_a_machine_that_once_booted_is_tried_twice(inner: Inner) -> None:
    inner.fake(
        "Session.acquire_errors = [None] + [errors.BootError(f'try {n}') for n in (1, 2, 3)]"
    )
    inner.pytester.makepyfile(
        """
        import pytest
        @pytest.mark.parametrize("n", range(5))
        def test_a(kgdb, n): pass
        """
    )
    result = inner.run()
    result.assert_outcomes(errors=4, passed=1)
    result.stdout.fnmatch_lines(["try 1", "try 2"])
    assert "try 3" not in result.stdout.str()
    assert result.stdout.str().count("BootError: try 2 (reported in full above") == 2


def test_the_shared_machine_is_mended_before_each_test(inner: Inner) -> None:
    inner.pytester.makepyfile(
        """
        import pytest
        @pytest.mark.kgdb(smp=2)
        def test_two_cpus(kgdb): pass
        def test_a(kgdb_session): pass
        def test_b(kgdb_session): pass
        @pytest.mark.kgdb(at="kgdbwait")
        def test_c(kgdb): pass
        def test_d(kgdb_session): pass
        """
    )
    inner.run().assert_outcomes(passed=5)
    assert inner.events()[2:] == [
        "boot distro:6.1 2 256 ",
        "acquire ready snapshot 60.0",
        "release",
        "boot distro:6.1 1 256 ",
        "acquire ready snapshot 60.0",
        "shared",
        "shared",
        "acquire kgdbwait snapshot 60.0",
        "release",
        "acquire ready snapshot 60.0",
        "close distro:6.1",
    ]


def test_a_shared_machine_that_does_not_come_back(inner: Inner) -> None:
    inner.fake("""
def handle(self):
    event("shared")
    if len(EVENTS.read_text().split("shared")) > 2:
        Handle().fail(errors.BootError("it will not"))
    return Handle()
Session.handle = property(handle)
""")
    inner.pytester.makepyfile(
        """
        import pytest
        @pytest.mark.parametrize("n", range(5))
        def test_a(kgdb_session, n): pass
        """
    )
    result = inner.run()
    result.assert_outcomes(passed=2, errors=3)
    assert result.stdout.str().count("BootError: it will not (reported in full above") == 1
    assert len(inner.events("shared")) == 3


# -- reports --------------------------------------------------------------------------------------


def test_a_failure_has_sections(inner: Inner) -> None:
    inner.pytester.makepyfile(
        "def test_a(kgdb): assert False\ndef test_b(kgdb): pass\ndef test_plain(): assert 0"
    )
    result = inner.run()
    result.assert_outcomes(failed=2, passed=1)
    result.stdout.fnmatch_lines(["*- kgdb console -*", "Linux version 6.1 red", "ready"])
    assert result.stdout.str().count("kgdb console") == 1
    assert "\x1b[31m" not in result.stdout.str()


def test_a_splat_fails_a_test_whose_body_passed(inner: Inner) -> None:
    inner.fake("""
Session.splats = ["the kernel reported what the test did not expect: WARNING: x\\nthe splat"]
""")
    inner.pytester.makepyfile("""
        def test_a(kgdb): pass
        def test_b(kgdb): pass
    """)
    result = inner.run()
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(
        [
            "the kernel reported what the test did not expect: WARNING: x",
            "the splat",
            "FAILED test_a_splat*::test_a - SplatError: *",
        ]
    )
    assert "check_splats" not in result.stdout.str(), "our own frames"


def test_a_splat_of_a_shared_machine_fails_the_test(inner: Inner) -> None:
    inner.fake('Session.splats = ["a splat"]')
    inner.pytester.makepyfile("""
        def test_a(kgdb_session): pass
        def test_b(kgdb_session): pass
    """)
    inner.run().assert_outcomes(passed=1, failed=1)


def test_a_splat_while_fixtures_end_is_an_error(inner: Inner) -> None:
    inner.fake("Session.splats = []")
    inner.pytester.makepyfile("""
        import pytest
        @pytest.fixture
        def mine(kgdb):
            yield
            from fake_session import Session
            Session.splats.append("a late one")
        def test_a(mine): pass
        def test_b(kgdb): pass
    """)
    result = inner.run()
    result.assert_outcomes(passed=2, errors=1)
    result.stdout.fnmatch_lines(["*a late one*"])


RERUN = """
import pytest
from _pytest.runner import runtestprotocol

@pytest.hookimpl(tryfirst=True)
def pytest_runtest_protocol(item, nextitem):
    # As pytest-rerunfailures does it.
    for last in (False, True):
        for report in runtestprotocol(item, nextitem=nextitem, log=False):
            if not last and report.failed:
                report.outcome = "rerun"
            item.ihook.pytest_runtest_logreport(report=report)
            if report.outcome == "rerun":
                break
        else:
            break
    return True

def pytest_report_teststatus(report):
    if report.outcome == "rerun":
        return "rerun", "R", "RERUN"
"""


def test_a_test_that_is_run_again_is_judged_and_shown_again(inner: Inner) -> None:
    inner.fake(RERUN + "Session.splats = []")
    inner.pytester.makepyfile("""
        import pytest
        runs = []
        @pytest.fixture
        def mine(kgdb):
            yield
            from fake_session import Session
            if len(runs) == 2:
                Session.splats.append("a late one")
        def test_fails(kgdb):
            assert 1 == 2
        def test_passes(mine):
            runs.append(1)
            assert len(runs) == 2, "the first time"
        def test_is_well(kgdb):
            runs.append(1)
            assert len(runs) > 3, "the first time"
    """)
    result = inner.run("--kgdb-report=page")
    result.assert_outcomes(passed=2, failed=1, errors=1)
    result.stdout.fnmatch_lines(["*a late one*"])
    assert result.stdout.str().count("- kgdb: to run it again -") == 1
    outcomes = re.findall(r'class="outcome">(\w+)<.*?::(\w+)<.*?· run 2', page_of(inner), re.DOTALL)
    assert {test: outcome for outcome, test in outcomes} == {
        "test_fails": "failed", "test_passes": "failed", "test_is_well": "passed",
    }  # fmt: skip


def test_a_report_is_made_whatever_is_broken(inner: Inner) -> None:
    inner.fake("Session.report_sections = lambda self: Handle().fail(RuntimeError('all is lost'))")
    inner.pytester.makepyfile("def test_a(kgdb): assert 1 == 2")
    result = inner.run()
    result.stdout.fnmatch_lines(
        ["E   assert 1 == 2", "the state of the kernel could not be read: all is lost"]
    )


def test_a_test_without_a_machine_shows_no_other_tests_kernel(inner: Inner) -> None:
    inner.pytester.makepyfile(
        """
        def test_a(kgdb): pass
        def test_b(kgdb_kernel): assert 1 == 2
        """
    )
    result = inner.run("--kgdb-artifacts=out")
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.no_fnmatch_line("*- kgdb*: *-*")
    assert not (inner.path / "out").exists()


def test_artifacts_hold_everything(inner: Inner) -> None:
    (inner.path / "console.log").write_bytes(b"\x1b[2Jraw")
    inner.pytester.makepyfile(
        test_x="""
        import pytest
        @pytest.mark.parametrize("p", ["a/b"])
        def test_a(kgdb, p): assert False
        """
    )
    result = inner.run("--kgdb-artifacts=out")
    result.stdout.fnmatch_lines(
        ["*- kgdb: to run it again -*", "artifacts: */out/test_x.py/test_a*"]
    )
    (saved,) = (inner.path / "out/test_x.py").rglob("failure.txt")
    assert "assert False" in saved.read_text()
    assert (saved.parent / "kgdb-console.txt").read_text() == "Linux version 6.1 red\nready\n"
    assert (saved.parent / "console.log").read_bytes() == b"\x1b[2Jraw"
    assert inner.events("save_artifacts") == [f"save_artifacts {saved.parent.name} False False"]
    inner.run("--kgdb-artifacts=out", "--kgdb-artifacts-dump")
    assert inner.events("save_artifacts")[1:] == [f"save_artifacts {saved.parent.name} True False"]
    result = inner.run("--kgdb-artifacts-dump")
    result.stderr.fnmatch_lines(["*--kgdb-artifacts-dump: there is no place for the dumps*"])
    result = inner.run("--kgdb-artifacts=out", "--kgdb-artifacts-machine")
    assert inner.events("save_artifacts")[2:] == [f"save_artifacts {saved.parent.name} False True"]
    result.stdout.fnmatch_lines(["the machine: pytest-kgdb attach */out/test_x.py/*machine.kgdb*"])
    result = inner.run("--kgdb-artifacts-machine")
    result.stderr.fnmatch_lines(["*--kgdb-artifacts-machine: there is no place for the machines*"])


def test_artifacts_that_cannot_be_saved_do_not_hide_the_failure(inner: Inner) -> None:
    (inner.path / "out").write_text("a file is in the way")
    inner.pytester.makepyfile("def test_a(kgdb): assert 1 == 2")
    result = inner.run("--kgdb-artifacts=out")
    result.stdout.fnmatch_lines(["E   assert 1 == 2", "artifacts: could not be saved: *"])


# -- the page of a run ----------------------------------------------------------------------------

PAGED = """
import pytest
def test_a(kgdb): assert "<b>" == "<i>"
def test_b(kgdb): print("<script>")
def test_c(kgdb): pytest.skip("<u>not now")
def test_d(kgdb_session): pass
def test_plain(): pass
"""


def page_of(inner: Inner) -> str:
    return (inner.path / "page/index.html").read_text(encoding="utf-8")


@pytest.mark.parametrize("workers", [[], ["-n2"]])
def test_the_page_of_a_run(inner: Inner, workers: list[str]) -> None:
    inner.pytester.makepyfile(PAGED)
    result = inner.subprocess("--kgdb-report=page", *workers)
    result.assert_outcomes(passed=3, failed=1, skipped=1)
    result.stdout.fnmatch_lines(["kgdb: report: */page/index.html"])
    page = page_of(inner)
    names = re.findall(r"<code>[\w.]+::(\w+)</code>", page)
    assert names[0] == "test_a"  # what failed comes first
    assert sorted(names) == ["test_a", "test_b", "test_c", "test_d"]
    assert page.count(" open>") == 1
    assert "1 failed" in page
    assert "&lt;b&gt;a line&lt;/b&gt;" in page
    assert "assert &#39;&lt;b&gt;&#39; == &#39;&lt;i&gt;&#39;" in page
    assert not re.search(r"<(script|b|i|u)>", page)
    # Nothing comes from elsewhere.
    assert not re.search(r"(?:src|href|url)\s*[=(]", page)
    assert page.count("· gw") == (4 if workers else 0)


def test_a_page_of_what_is_long_and_no_text(inner: Inner) -> None:
    inner.pytester.makepyfile("""
        import pytest
        def test_a(kgdb): pytest.fail("x" * 100_000 + "\\n" + "line\\n" * 10_000)
    """)
    inner.subprocess("--kgdb-report=page", os.fsdecode(b"--junit-prefix=not \xff"))
    page = page_of(inner)
    assert "=not \ufffd" in page
    assert "characters)" in page
    assert len(page) < 100_000


def test_a_page_of_no_kernel_test(inner: Inner) -> None:
    inner.pytester.makepyfile("def test_plain(): pass")
    inner.run("--kgdb-report=page")
    assert "No kernel test ran." in page_of(inner)


def test_a_page_that_cannot_be_written(inner: Inner) -> None:
    inner.pytester.makepyfile("def test_a(kgdb): pass")
    (inner.path / "page").write_text("a file is in the way")
    result = inner.run("--kgdb-report=page")
    result.stderr.fnmatch_lines(["*--kgdb-report: cannot make */page: File exists*"])


def test_a_page_needs_jinja2(inner: Inner, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "jinja2", None)
    result = inner.run("--kgdb-report=page")
    result.stderr.fnmatch_lines(["*--kgdb-report needs jinja2*", "hint: pip install *"])


def test_a_story_that_cannot_be_told_does_not_hide_the_failure(inner: Inner) -> None:
    inner.fake("Session.story = lambda self: Handle().fail(RuntimeError('all is lost'))")
    inner.pytester.makepyfile("def test_a(kgdb): assert 1 == 2")
    inner.run("--kgdb-report=page").assert_outcomes(failed=1)
    assert "test_a" in page_of(inner)


# -- GitHub ---------------------------------------------------------------------------------------

AT_GITHUB = """
Session.sections = [
    Section("kgdb: where the kernel is", "breakpoint\\n#0 do_open at fs/open.c:7\\n"
        "#1 ksys_read at fs/read_write.c:613 (inlined)\\n#2 x at ../../etc/passwd.c:1\\n"
        "::error::of the guest"),
    Section("kgdb: splats", " do_open+0x1/0x2  (fs/open.c:7)\\n other+0x1/0x2 (fs/open.c:9)"),
]
"""


@pytest.fixture
def github(inner: Inner, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The step's summary of a run at GitHub, whose tree has one of the kernel's files."""
    inner.fake("from pytest_kgdb.report import Section\n" + AT_GITHUB)
    (inner.path / "fs").mkdir()
    (inner.path / "fs/open.c").write_text("int x;\n" * 20)
    summary = inner.path / "summary"
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(summary))
    monkeypatch.setenv("GITHUB_WORKSPACE", str(inner.path))
    return summary


def commands(result: pytest.RunResult, name: str) -> list[str]:
    return [line for line in result.outlines if line.startswith(f"::{name}")]


@pytest.mark.parametrize("workers", [[], ["-n2"]])
def test_annotations(inner: Inner, github: Path, workers: list[str]) -> None:
    inner.pytester.makepyfile(
        test_x="def test_good(kgdb): pass\n\n\ndef test_bad(kgdb): assert 1 == 2, '50%'\n"
        "def test_plain(): assert 0\n"
    )
    result = inner.subprocess(*workers)
    title = "title=test_x.py%3A%3Atest_bad"
    (error,) = commands(result, "error")
    assert error == f"::error file=test_x.py,line=4,{title}::AssertionError: 50%25"
    warnings = commands(result, "warning")
    assert [line.partition(",title")[0] for line in warnings] == [
        *("::warning file=fs/open.c,line=7", "::warning file=fs/open.c,line=9"),
    ]
    assert commands(result, "group") == ["::group::kgdb: test_x.py::test_bad"]
    assert commands(result, "endgroup") == ["::endgroup::"]
    assert ": :error::of the guest" in result.outlines
    text = github.read_text()
    assert "### 1 failed kernel tests" in text
    assert "<details><summary>test_x.py::test_bad</summary>" in text
    assert "#1 ksys_read at fs/read_write.c:613 (inlined)" in text


def test_more_failures_than_github_shows(inner: Inner, github: Path) -> None:
    inner.pytester.makepyfile(
        "import pytest\n@pytest.mark.parametrize('n', range(30))\ndef test_a(kgdb, n): assert n < 0"
    )
    result = inner.run()
    assert len(commands(result, "error")) == 10
    assert len(commands(result, "warning")) == 2
    text = github.read_text()
    assert text.count("<details>") == 30
    assert "test\\_a\\[29\\]" in text


def test_a_summary_keeps_within_githubs_limit(
    inner: Inner, github: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_github, "_SUMMARY_BYTES", 3000)
    inner.pytester.makepyfile(
        test_x="import pytest\n@pytest.mark.parametrize('n', range(20))\n"
        "def test_a(kgdb, n): assert False, 'é' * 100"
    )
    result = inner.run("-q")
    text = github.read_text()
    assert "<details>" not in text
    shown = text.count("test\\_a")
    assert 5 < shown < 20
    assert len(text.encode()) < 3100
    assert text.endswith(f"\n\n{20 - shown} more are not shown.\n")
    assert len(commands(result, "error")) == 10


def test_a_summary_that_cannot_be_written(inner: Inner, github: Path) -> None:
    github.mkdir()
    inner.pytester.makepyfile("def test_a(kgdb): assert 0")
    inner.run().stdout.fnmatch_lines(["kgdb: the step's summary cannot be written: *"])


@pytest.mark.parametrize("workers", [[], ["-n2"]])
def test_gitlabs_code_quality(inner: Inner, github: Path, workers: list[str]) -> None:
    inner.pytester.makepyfile(
        test_x="def test_good(kgdb): pass\n\n\ndef test_bad(kgdb): assert 1 == 2, '\\x1b[1mbad'\n"
    )
    inner.subprocess("--kgdb-gitlab=quality.json", *workers)
    issues = json.loads((inner.path / "quality.json").read_text())
    assert [
        (issue["severity"], issue["location"]["path"], issue["location"]["lines"]["begin"])
        for issue in issues
    ] == [("major", "test_x.py", 4), ("info", "fs/open.c", 7), ("info", "fs/open.c", 9)]
    assert issues[0]["description"] == "test_x.py::test_bad: AssertionError: bad"
    assert len({issue["fingerprint"] for issue in issues}) == 3


def test_a_code_quality_report_of_a_good_run_is_empty(inner: Inner) -> None:
    inner.pytester.makepyfile("def test_a(kgdb): pass")
    inner.run("--kgdb-gitlab=quality.json")
    assert json.loads((inner.path / "quality.json").read_text()) == []
    result = inner.run("--kgdb-gitlab=none/quality.json")
    result.stdout.fnmatch_lines(["kgdb: --kgdb-gitlab cannot be written: *"])


def test_elsewhere_there_are_no_annotations(inner: Inner) -> None:
    inner.pytester.makepyfile("def test_a(kgdb): assert 0")
    result = inner.run()
    assert not commands(result, "")


# -- other reports --------------------------------------------------------------------------------


@pytest.mark.parametrize("workers", [[], ["-n2"]])
@pytest.mark.parametrize("logging", ["all", "no"])
def test_junits_xml_has_the_sections(inner: Inner, workers: list[str], logging: str) -> None:
    inner.pytester.makepyfile("import sys\ndef test_a(kgdb): print('printed'); assert 1 == 2")
    inner.subprocess("--junitxml=junit.xml", "-o", f"junit_logging={logging}", *workers)
    (case,) = ElementTree.parse(inner.path / "junit.xml").iter("testcase")
    text = "".join(case.itertext())
    assert "Linux version 6.1 red\nready" in text
    assert "--kgdb-kernel=distro:6.1" in text
    assert "py::test_a\nlogs: " in text
    assert ("printed" in text.replace("print('printed')", "")) == (logging == "all")
    assert {element.tag for element in case} <= {"failure", "system-out", "system-err"}
    (failure,) = case.iter("failure")
    assert "assert 1 == 2" in (failure.get("message") or "")


@pytest.mark.parametrize("workers", [[], ["-n2"]])
def test_pytest_html_has_the_sections(inner: Inner, workers: list[str]) -> None:
    pytest.importorskip("pytest_html")
    inner.pytester.makepyfile("def test_a(kgdb): assert 1 == 2")
    inner.subprocess("--html=out.html", "--self-contained-html", *workers)
    assert "Linux version 6.1 red" in (inner.path / "out.html").read_text()


# -- the terminal ---------------------------------------------------------------------------------


@pytest.mark.parametrize("capture", ["fd", "sys", "no"])
def test_progress_is_seen_at_once_and_once(inner: Inner, capture: str) -> None:
    inner.pytester.makepyfile("def test_a(kgdb): print('mine')\ndef test_b(kgdb): assert False")
    result = inner.subprocess(f"--capture={capture}")
    text = result.stdout.str()
    assert text.count("pytest-kgdb: building distro:6.1") == 1
    assert text.count("pytest-kgdb: kernel 6.1, QEMU 7.2 with TCG, gdb 13.1") == 1
    # On lines of their own, and not in any test's captured output.
    result.stdout.fnmatch_lines(["pytest-kgdb: building distro:6.1", "*FAILURES*"])


def test_attach(inner: Inner) -> None:
    inner.pytester.makepyfile(
        "def test_a(kgdb): assert 1 == 2\ndef test_b(kgdb): pass\ndef test_plain(): assert 0"
    )
    result = inner.run("--kgdb-attach", "-s")
    result.assert_outcomes(failed=2, passed=1)
    assert inner.events()[3:6] == ["acquire ready snapshot 60.0", "attach", "release"]
    assert inner.events("attach") == ["attach"]
    result.stdout.fnmatch_lines(["*test_a failed: gdb on its kernel*", "E *assert 1 == 2"])


def test_the_end_of_the_run_at_the_prompt(inner: Inner) -> None:
    inner.fake("Session.ends_at_prompt = True")
    inner.pytester.makepyfile("def test_a(kgdb): assert 1 == 2\ndef test_b(kgdb): pass")
    result = inner.run("--kgdb-attach", "-s")
    assert inner.events("attach") == ["attach"]
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*ended at gdb's prompt*"])


def test_attach_without_a_terminal(inner: Inner) -> None:
    inner.fake(
        "Session.attach = lambda self, tests: Handle().fail(errors.ConfigError('no terminal'))"
    )
    inner.pytester.makepyfile("def test_a(kgdb): assert 1 == 2")
    result = inner.run("--kgdb-attach")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["pytest-kgdb: --kgdb-attach: no terminal", "E   assert 1 == 2"])


# -- the end --------------------------------------------------------------------------------------


def test_ctrl_c_closes_the_session(inner: Inner) -> None:
    inner.pytester.makepyfile("def test_a(kgdb): raise KeyboardInterrupt\ndef test_b(kgdb): pass")
    result = inner.subprocess()
    assert result.ret == pytest.ExitCode.INTERRUPTED
    assert inner.events()[-2:] == ["release", "close distro:6.1"]


def test_ctrl_c_in_the_boot_closes_the_session(inner: Inner) -> None:
    inner.fake("Session.acquire_errors = [KeyboardInterrupt()]")
    inner.pytester.makepyfile("def test_a(kgdb): pass")
    result = inner.subprocess()
    assert result.ret == pytest.ExitCode.INTERRUPTED
    assert inner.events()[-1] == "close distro:6.1"


# -- pytest-xdist ---------------------------------------------------------------------------------


def test_workers(inner: Inner) -> None:
    pytest.importorskip("xdist")
    inner.pytester.makepyfile(
        """
        import pytest
        from pytest_kgdb.errors import MachineDied
        @pytest.mark.parametrize("n", range(6))
        def test_a(kgdb, n): pass
        def test_lost(kgdb): kgdb.fail(MachineDied("QEMU is gone"))
        """
    )
    result = inner.subprocess("-n2", "--kgdb-require")
    result.assert_outcomes(passed=6, errors=1)
    assert result.stdout.str().count("kgdb: kernel distro:6.1") == 1
    assert len(inner.events("session")) == len(inner.events("close")) == 2
    result.stderr.fnmatch_lines(["pytest-kgdb: [[]gw[01]] building distro:6.1"])
    result.stdout.fnmatch_lines(["*- kgdb console -*"])


def test_workers_tell_of_what_cannot_be_built(inner: Inner) -> None:
    pytest.importorskip("xdist")
    inner.fake("build_errors[:] = [errors.BuildError('cc found an error')]")
    inner.pytester.makepyfile(THREE)
    result = inner.subprocess("-n1")
    result.assert_outcomes(passed=1, errors=2)
    result.stdout.fnmatch_lines(["cc found an error", "ERROR *::test_one - BuildError: cc*"])


def test_workers_in_which_nothing_ran(inner: Inner) -> None:
    pytest.importorskip("xdist")
    inner.pytester.makepyfile(
        """
        import pytest
        @pytest.mark.xfail(run=False)
        def test_known(kgdb): pass
        def test_plain(): pass
        """
    )
    result = inner.subprocess("-n2", "--kgdb-require")
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(["kgdb: --kgdb-require: of 1 kernel tests none ran"])


def test_workers_tell_of_bad_markers(inner: Inner) -> None:
    pytest.importorskip("xdist")
    inner.pytester.makepyfile(
        """
        import pytest
        @pytest.mark.kgdb(cpus=2)
        def test_unknown(kgdb): pass
        def test_good(kgdb): pass
        """
    )
    result = inner.subprocess("-n2")
    assert result.ret != pytest.ExitCode.OK
    result.assert_outcomes(errors=1, passed=1)
    assert result.stdout.str().count("::test_unknown: marker kgdb(cpus=…): no such argument") == 1


def test_workers_have_no_terminal_for_gdb(inner: Inner) -> None:
    pytest.importorskip("xdist")
    result = inner.subprocess("-n2", "--kgdb-attach")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*--kgdb-attach: gdb needs the terminal*"])
