"""`--kgdb-prove`: tests with the marker kgdb_fix, with a fake session."""

from __future__ import annotations

import pytest
from test_change import FIX, git, make_tree
from test_plugin import Inner, make_inner, needs_subtests, recorded

TESTS = """
import pytest
from pytest_kgdb.errors import *

fix = pytest.mark.kgdb_fix("patches/fix.patch")

@pytest.fixture
def late(kgdb_kernel):
    yield
    assert has_fix(kgdb_kernel)

def has_fix(kernel): return "fix.patch" in kernel

@fix
def test_proves(kgdb, kgdb_kernel): assert has_fix(kgdb_kernel)

@fix
def test_panics(kgdb, kgdb_kernel):
    if not has_fix(kgdb_kernel):
        kgdb.fail(KernelPanic("it oopsed"))

@fix
def test_late(kgdb, late): pass

@fix
def test_blind(kgdb): pass

@fix
def test_fails(kgdb): assert 1 == 2

@fix
def test_inverse(kgdb, kgdb_kernel): assert not has_fix(kgdb_kernel)

@fix
def test_wrong(kgdb, kgdb_kernel): assert has_fix(kgdb_kernel) or nonesuch

@fix
def test_lost(kgdb, kgdb_kernel):
    if not has_fix(kgdb_kernel):
        kgdb.fail(MachineDied("QEMU is gone"))

@fix
def test_skipped(kgdb): pytest.skip("not today")

def test_other(kgdb): pass

@fix
def test_without_a_kernel(): pass
"""


@pytest.fixture
def proving(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> Inner:
    inner = make_inner(pytester, monkeypatch)
    inner.pytester.makepyfile(TESTS)
    patches = inner.path / "patches"
    patches.mkdir()
    (patches / "fix.patch").write_text(FIX)
    return inner


def test_what_each_test_proves(proving: Inner) -> None:
    result = proving.run("--kgdb-prove", "--kgdb-record=record", "-v")
    lines = result.outlines[
        next(i for i, line in enumerate(result.outlines) if "- fixes -" in line) :
    ]
    words = dict(
        line.partition("::test_")[2].split(" ", 1)
        for line in lines
        if " fix.patch" in line
        if "[" not in line
    )
    assert words == {
        "proves": "proves fix.patch",
        "panics": "proves fix.patch",
        "late": "proves fix.patch",
        "blind": "does not prove fix.patch: it passes without it, too",
        "fails": "does not prove fix.patch: it fails with it, too",
        "inverse": "does not prove fix.patch: it fails with it and passes without it",
        "wrong": "cannot tell whether fix.patch is a fix: see the errors",
        "lost": "cannot tell whether fix.patch is a fix: see the errors",
        "skipped": "does not say whether fix.patch is a fix: it did not run on both kernels",
    }
    result.assert_outcomes(passed=12, failed=5, errors=1, skipped=2)
    result.stdout.fnmatch_lines(
        [
            "*::test_proves?without fix.patch? PASSED (fails without the fix)*",
            "*::test_blind?without fix.patch? FAILED (passes without the fix)*",
            "*::test_proves?with fix.patch? PASSED*",
            "it does not test the fix: it passes on the kernel without fix.patch",
        ]
    )
    statuses = recorded(proving.path / "record")
    assert statuses["proves[without fix.patch]"] == statuses["proves[with fix.patch]"] == "PASS"
    assert statuses["late[without fix.patch]"] == "PASS"
    assert statuses["blind[without fix.patch]"] == "FAIL"
    assert statuses["wrong[without fix.patch]"] == "ERROR"
    assert statuses["lost[without fix.patch]"] == "MISS"
    assert statuses["skipped[without fix.patch]"] == "SKIP"


OTHERS = """
import os
import pytest

fix = pytest.mark.kgdb_fix("patches/fix.patch")
def has_fix(kernel): return "fix.patch" in kernel

@pytest.fixture
def prepared(kgdb, kgdb_kernel):
    assert has_fix(kgdb_kernel)
    return "prepared"

@fix
def test_setup(prepared): assert prepared

@fix
@pytest.mark.kunit("suite")
def test_setup_before_kunit(prepared): pass

@fix
@pytest.mark.xfail(strict=True)
def test_strict(kgdb, kgdb_kernel): assert has_fix(kgdb_kernel)

@fix
@pytest.mark.xfail
def test_lenient(kgdb, kgdb_kernel): assert has_fix(kgdb_kernel)

@fix
@pytest.mark.xfail(strict=True)
def test_blind(kgdb): pass

@fix
@pytest.mark.xfail
def test_known(kgdb): assert 1 == 2

@fix
@pytest.mark.xfail
def test_bug(kgdb, kgdb_kernel): assert has_fix(kgdb_kernel) or nonesuch

@fix
@pytest.mark.xfail(run=False)
def test_not_run(kgdb): pass
"""


def proofs(result: pytest.RunResult) -> dict[str, str]:
    """Return what is said of each test's fix at the end."""
    return dict(
        line.partition("::test_")[2].split(" ", 1)
        for line in result.outlines
        if " fix.patch" in line and "::test_" in line and "[" not in line
    )


def test_marks_of_tests_that_prove(proving: Inner) -> None:
    proving.pytester.makepyfile(OTHERS)
    result = proving.run("--kgdb-prove", "-k", "not kunit")
    assert proofs(result) == {
        **dict.fromkeys(("setup", "strict", "lenient"), "proves fix.patch"),
        "blind": "does not prove fix.patch: it passes without it, too",
        "known": "does not prove fix.patch: it fails with it, too",
        "bug": "cannot tell whether fix.patch is a fix: see the errors",
        "not_run": "does not say whether fix.patch is a fix: it did not run on both kernels",
    }
    result.stdout.no_fnmatch_line("*KeyError*")


@needs_subtests
def test_subtests_of_tests_that_prove(proving: Inner) -> None:
    proving.pytester.makepyfile(
        """
        import pytest
        pytestmark = pytest.mark.kgdb_fix("patches/fix.patch")
        def test_some(kgdb, kgdb_kernel, subtests):
            with subtests.test("fix"): assert "fix.patch" in kgdb_kernel
            with subtests.test("other"): pytest.skip("no hardware")
        def test_none(kgdb, subtests):
            with subtests.test("fix"): pytest.skip("no hardware")
        """
    )
    assert proofs(proving.run("--kgdb-prove")) == {
        "some": "proves fix.patch",
        "none": "does not say whether fix.patch is a fix: it did not run on both kernels",
    }


def test_tests_that_cannot_run_on_both_kernels(proving: Inner) -> None:
    proving.pytester.makepyfile(
        """
        import unittest
        import pytest
        pytestmark = pytest.mark.kgdb_fix("patches/fix.patch")

        @pytest.mark.usefixtures("kgdb")
        class TestUnit(unittest.TestCase):
            def test_method(self): pass

        @pytest.mark.parametrize("n", [1, 2])
        def test_late(request, n): request.getfixturevalue("kgdb")

        def test_without_a_kernel(): pass
        """
    )
    result = proving.run("--kgdb-prove")
    result.assert_outcomes(passed=4)
    lines = [line for line in result.outlines if "does not say whether its fix is one" in line]
    names = [line.split(" ")[0].partition("::")[2] for line in lines]
    assert names == ["TestUnit::test_method", "test_late"]


def test_nothing_is_run_behind_a_setup_that_fails_as_it_should(proving: Inner) -> None:
    proving.pytester.makepyfile(OTHERS)
    result = proving.run("--kgdb-prove", "-k", "kunit and without", "--kgdb-attach", "-v")
    result.assert_outcomes(passed=1)
    assert proving.events("attach") == []


@pytest.mark.parametrize("side", ["with", "without"])
def test_a_worker_that_dies(proving: Inner, side: str) -> None:
    pytest.importorskip("xdist")
    proving.pytester.makepyfile(
        f"""
        import os, pytest
        @pytest.mark.kgdb_fix("patches/fix.patch")
        def test_it(kgdb, kgdb_kernel, request):
            if "[{side} " in request.node.nodeid: os._exit(9)
            assert "fix.patch" in kgdb_kernel
        """
    )
    result = proving.subprocess("--kgdb-prove", "-n1")
    result.stdout.fnmatch_lines(["*::test_it cannot tell whether fix.patch is a fix*"])


def test_each_kernel_is_booted_once(proving: Inner) -> None:
    result = proving.run("--kgdb-prove", "-k", "proves or late or other")
    assert len(proving.events("session distro:6.1+fix.patch")) == 1
    result.assert_outcomes(passed=5)


def test_without_the_option_it_is_one_test(proving: Inner) -> None:
    result = proving.run("-k", "blind or other")
    result.assert_outcomes(passed=2)
    result.stdout.no_fnmatch_line("*fixes*")
    proving.run("--kgdb-prove", "-k", "blind", kernel=None).assert_outcomes(skipped=1)


def test_on_several_kernels(proving: Inner) -> None:
    result = proving.run("--kgdb-prove", "--kgdb-kernel=distro:6.12", "-k", "proves", "-v")
    result.assert_outcomes(passed=4)
    for name in ("6.1-without", "6.1-with", "6.12-without", "6.12-with"):
        result.stdout.fnmatch_lines([f"*::test_proves?distro:{name} fix.patch? PASSED*"])


def test_repeated(proving: Inner) -> None:
    result = proving.run("--kgdb-prove", "--kgdb-repeat=3", "-k", "proves or blind")
    result.assert_outcomes(passed=9, failed=3)


def test_on_workers(proving: Inner) -> None:
    pytest.importorskip("xdist")
    result = proving.subprocess("--kgdb-prove", "-n2", "-k", "proves or blind")
    result.assert_outcomes(passed=3, failed=1)
    result.stdout.fnmatch_lines(["*::test_proves proves fix.patch"])


def test_the_debugger_is_not_for_what_must_fail(proving: Inner) -> None:
    proving.run("--kgdb-prove", "--kgdb-attach", "-k", "proves")
    assert proving.events("attach") == []


@pytest.mark.parametrize(
    ("mark", "message"),
    [
        ("'none.patch'", "there is no */none.patch"),
        ("", "it names one fix"),
        ("'patches/fix.patch', commit='abc'", "it names one fix"),
        ("commit='abc'", "*is no git tree*"),
        ("nonesuch=1", "it names one fix"),
    ],
)
def test_a_marker_that_cannot_be(proving: Inner, mark: str, message: str) -> None:
    proving.pytester.makepyfile(
        f"import pytest\n@pytest.mark.kgdb_fix({mark})\ndef test_it(kgdb): pass"
    )
    result = proving.run("--kgdb-prove")
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines([f"*::test_it: marker kgdb_fix: {message}*"])
    result.stdout.no_fnmatch_line("*Traceback*")


@pytest.mark.parametrize("mark", ["commit='HEAD'", "revert='HEAD'", "revert='patches/fix.patch'"])
def test_commits(proving: Inner, mark: str) -> None:
    tree = make_tree(proving.path)
    proving.pytester.makepyfile(
        f"import pytest\n@pytest.mark.kgdb_fix({mark})\ndef test_it(kgdb_kernel, kgdb): "
        "print('kernel', kgdb_kernel, end='.'); assert False"
    )
    result = proving.run("--kgdb-prove", "-rP", kernel=str(tree))
    result.assert_outcomes(passed=1, failed=1)
    name = mark.partition("'")[2].rstrip("'").rpartition("/")[2]
    result.stdout.fnmatch_lines([f"*::test_it does not prove {name}: it fails with it, too"])
    first = git(tree, "rev-parse", "HEAD~")
    expected = f"kernel linux@{first}." if "commit" in mark else "kernel linux+without-*"
    result.stdout.fnmatch_lines([expected])


def test_patches_of_the_configuration_file_are_on_both_kernels(proving: Inner) -> None:
    (proving.path / "other.patch").write_text(FIX)
    (proving.path / "pytest.ini").write_text("[pytest]\nkgdb_patch = other.patch\n")
    result = proving.run("--kgdb-prove", "-k", "proves")
    result.assert_outcomes(passed=2)
    for name in ("other.patch", "other.patch+fix.patch"):
        result.stdout.fnmatch_lines([f"pytest-kgdb: building distro:6.1+{name}"])
