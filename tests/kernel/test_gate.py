"""A gate on real kernels, as a user starts it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

from pytest_kgdb.kernel import Kernel
from pytest_kgdb.settings import from_pytest

SECONDS = 600.0

# That of the kernel of the tests, of which fs/proc/version.c is a few lines.
PATCH = """\
--- a/fs/proc/version.c
+++ b/fs/proc/version.c
@@ -1,2 +1,3 @@
 // SPDX-License-Identifier: GPL-2.0
 #include <linux/fs.h>
+const char kgdb_gate_fix[] = "fixed";
"""
CONTAINED = """\
--- a/fs/proc/version.c
+++ b/fs/proc/version.c
@@ -1,5 +1,6 @@
 // SPDX-License-Identifier: GPL-2.0
 #include <linux/fs.h>
+#include <linux/init.h>
 #include <linux/kernel.h>
 #include <linux/proc_fs.h>
 #include <linux/seq_file.h>
"""
NOT_COMPILED = """\
--- /dev/null
+++ b/drivers/media/usb/gspca/kgdb.c
@@ -0,0 +1 @@
+int kgdb;
"""

TESTS = """
import random
import pytest
from pytest_kgdb import KgdbError

def test_fix(kgdb):
    try:
        assert kgdb.evaluate("kgdb_gate_fix").string() == "fixed"
    except KgdbError:
        assert False, "it is not fixed"

def test_absent(kgdb):
    assert kgdb.evaluate("kgdb_gate_fix").string() == "fixed"

def test_other(kgdb):
    assert kgdb.run("echo fine").output == "fine\\n"

def test_regression(kgdb):
    with pytest.raises(KgdbError):
        kgdb.evaluate("kgdb_gate_fix")

def test_flaky(kgdb):
    assert random.random() < 0.5

def test_misspelt(kgdb):
    kgdb.breakpoint("version_proc_shwo")

def test_plain():
    pass
"""


def gate(
    directory: Path,
    pytestconfig: pytest.Config,
    kernel: Kernel,
    *words: str,
    tests: tuple[str, ...] = ("test_gated.py",),
) -> tuple[int, str, dict[str, str]]:
    """Run a gate; return its status, its output, and the verdicts by test."""
    (directory / "test_gated.py").write_text(TESTS)
    (directory / "pytest.ini").write_text("[pytest]\n")
    settings = from_pytest(pytestconfig)
    argv = [sys.executable, "-m", "pytest_kgdb.cli", "gate", f"--kgdb-kernel={kernel.spec}"]
    argv += [f"--kgdb-cache-dir={settings.cache_dir}", "--json=out.json", *words, *tests]
    environment = os.environ | {"GITHUB_ACTIONS": "true", "GITHUB_STEP_SUMMARY": "summary.md"}
    done = subprocess.run(
        argv, cwd=directory, env=environment, capture_output=True, text=True, timeout=SECONDS
    )
    verdicts = {}
    if (directory / "out.json").exists():
        tests = json.loads((directory / "out.json").read_text()).get("tests", ())
        verdicts = {one["test"].partition("::test_")[2]: one["verdict"] for one in tests}
    return done.returncode, done.stdout + done.stderr, verdicts


@pytest.mark.slow
def test_verdicts(tmp_path: Path, pytestconfig: pytest.Config, kgdb_kernel: Kernel) -> None:
    (tmp_path / "fix.patch").write_text(PATCH)
    forms = [f"--{name}={name}.out" for name in ("junit", "sarif", "gitlab", "ktap", "markdown")]
    words = ("--patch=fix.patch", *forms)
    status, output, verdicts = gate(tmp_path, pytestconfig, kgdb_kernel, *words)
    assert verdicts == {
        "fix": "proves the fix",
        "absent": "cannot tell",
        "other": "passes both",
        "regression": "broken by the change",
        "flaky": "flaky",
        "misspelt": "cannot tell",
        "plain": "not tested",
    }, output
    assert status == 1
    assert "    AssertionError: it is not fixed" in output
    tests = json.loads((tmp_path / "out.json").read_text())["tests"]
    runs = {one["test"].partition("::test_")[2]: one["base"]["runs"] for one in tests}
    assert runs["fix"] == runs["other"] == 44
    assert 5 <= runs["flaky"] <= 44
    assert "::error file=fs/proc/version.c,line=3,endLine=3,title=pytest-kgdb gate%3A bro" in output
    suite = ElementTree.parse(tmp_path / "junit.out").getroot()
    assert [suite.attrib[name] for name in ("tests", "failures", "errors", "skipped")] == [
        *("7", "1", "2", "1"),
    ]
    (run,) = json.loads((tmp_path / "sarif.out").read_text())["runs"]
    assert {result["ruleId"] for result in run["results"]} == {"broken", "flaky", "cannot-tell"}
    assert len(json.loads((tmp_path / "gitlab.out").read_text())) == 4
    assert "\n1..7\n" in (tmp_path / "ktap.out").read_text()
    assert (tmp_path / "summary.md").read_text() == (tmp_path / "markdown.out").read_text()


def test_proven(tmp_path: Path, pytestconfig: pytest.Config, kgdb_kernel: Kernel) -> None:
    (tmp_path / "fix.patch").write_text(PATCH)
    words = ("--kgdb-patch=fix.patch", "--revert=fix.patch", "--repeat=2", "-k", "fix or other")
    status, output, verdicts = gate(tmp_path, pytestconfig, kgdb_kernel, *words)
    assert (status, verdicts) == (0, {"fix": "proves the fix", "other": "passes both"}), output
    assert "suggested trailer: Tested-by:" in output


@pytest.mark.slow
def test_each_patch_of_a_series(
    tmp_path: Path, pytestconfig: pytest.Config, kgdb_kernel: Kernel
) -> None:
    (tmp_path / "fix.patch").write_text(PATCH)
    (tmp_path / "oops.patch").write_text(PATCH.replace("const char", "oops char"))
    words = ("--patch=fix.patch", "--patch=oops.patch", "--each-commit", "--repeat=1", "-k", "fix")
    status, output, _ = gate(tmp_path, pytestconfig, kgdb_kernel, *words)
    commits = json.loads((tmp_path / "out.json").read_text())["commits"]
    assert [one["title"] for one in commits] == ["fix.patch", "oops.patch"]
    assert [one["verdict"] for one in commits] == ["proven", "not proven"], output
    assert "does not compile" in commits[1]["notes"][-1]
    assert status == 1
    assert "oops.patch  cannot tell" in output


SPIED = """
from pytest_kgdb import KgdbError

def test_calls(kgdb):
    spy = kgdb.spy("version_proc_show", returns=True)
    try:
        times = 2 if kgdb.evaluate("sizeof(kgdb_gate_fix)") == 6 else 3
    except KgdbError:
        times = 1
    for _ in range(times):
        kgdb.run("cat /proc/version")
    assert spy.count
"""


def test_what_a_change_does(
    tmp_path: Path, pytestconfig: pytest.Config, kgdb_kernel: Kernel
) -> None:
    (tmp_path / "fix.patch").write_text(PATCH)
    (tmp_path / "test_spied.py").write_text(SPIED)
    words = ("--patch=fix.patch", "--repeat=3", "--compare", "test_spied.py")
    status, output, verdicts = gate(tmp_path, pytestconfig, kgdb_kernel, *words, tests=())
    assert (status, verdicts) == (1, {"calls": "passes both"}), output
    (test,) = json.loads((tmp_path / "out.json").read_text())["tests"]
    assert test["differences"] == [
        "calls of version_proc_show(): once on the base, twice on the patched",
        "version_proc_show(m=…, v=0x1) = 0: once on the base, twice on the patched",
    ]
    assert "    differs: calls of version_proc_show(): once on the base" in output


WRITTEN = """
import time
import pytest
from pytest_kgdb import KgdbError

def fixed(kgdb):
    try:
        return kgdb.evaluate("kgdb_gate_fix").string() == "fixed"
    except KgdbError:
        return False

@pytest.mark.xfail(strict=True, reason="until the fix is in")
def test_known(kgdb):
    assert fixed(kgdb)

def test_asked_for(request):
    assert not fixed(request.getfixturevalue("kgdb"))

@pytest.mark.kgdb(timeout=1, append="kgdb_gate_cold")  # its machine is in no cache
def test_quick(kgdb):
    assert kgdb.run("echo fine").output == "fine\\n"

@pytest.mark.timeout(20)
def test_first(kgdb):
    assert fixed(kgdb)
"""


@pytest.mark.slow
def test_how_a_test_is_written_is_no_matter(
    tmp_path: Path, pytestconfig: pytest.Config, kgdb_kernel: Kernel
) -> None:
    (tmp_path / "fix.patch").write_text(PATCH)
    (tmp_path / "test_written.py").write_text(WRITTEN)
    words = ("--patch=fix.patch", "--repeat=2", "test_written.py")
    status, output, verdicts = gate(tmp_path, pytestconfig, kgdb_kernel, *words, tests=())
    assert (status, verdicts) == (
        6,
        {
            "known": "proves the fix",
            "asked_for": "cannot tell",
            "quick": "passes both",
            "first": "proves the fix",
        },
    ), output
    assert "it has 1 of 2 runs" in output
    status, output, verdicts = gate(
        tmp_path, pytestconfig, kgdb_kernel, *words, "-x", "-k", "first", tests=()
    )
    assert (status, verdicts) == (6, {"first": "cannot tell"}), output


# patch(1) finds it six lines further down.
RUNS = (
    "--- a/fs/proc/version.c\n"
    "+++ b/fs/proc/version.c\n"
    "@@ -3,6 +3,7 @@\n"
    " \n"
    " static int version_proc_show(struct seq_file *m, void *v)\n"
    " {\n"
    "+\tm->pad_until = 0;\n"
    " \tseq_printf(m, linux_proc_banner,\n"
    " \t\tutsname()->sysname,\n"
    " \t\tutsname()->release,\n"
)
# An argument on a line of its own: gcc has no row for it.
ARGUMENT = (
    "--- a/fs/proc/uptime.c\n"
    "+++ b/fs/proc/uptime.c\n"
    "@@ -33,7 +33,7 @@\n"
    ' \tseq_printf(m, "%lu.%02lu %lu.%02lu\\n",\n'
    " \t\t\t(unsigned long) uptime.tv_sec,\n"
    " \t\t\t(uptime.tv_nsec / (NSEC_PER_SEC / 100)),\n"
    "-\t\t\t(unsigned long) idle.tv_sec,\n"
    "+\t\t\t(unsigned long) idle.tv_sec | (m->count & 1),\n"
    " \t\t\t(idle.tv_nsec / (NSEC_PER_SEC / 100)));\n"
    " \treturn 0;\n"
    " }\n"
)
READS = """
def test_reads(kgdb):
    assert "Linux" in kgdb.run("cat /proc/uptime /proc/version").output

def test_other(kgdb):
    assert kgdb.run("echo fine").status == 0
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("patch", "file", "line"),
    [(RUNS, "fs/proc/version.c", 12), (ARGUMENT, "fs/proc/uptime.c", 36)],
    ids=["statement", "argument"],
)
def test_a_test_that_runs_no_line_of_the_change(
    tmp_path: Path,
    pytestconfig: pytest.Config,
    kgdb_kernel: Kernel,
    patch: str,
    file: str,
    line: int,
) -> None:
    (tmp_path / "runs.patch").write_text(patch)
    (tmp_path / "test_reads.py").write_text(READS)
    words = ("--patch=runs.patch", "--repeat=1", "test_reads.py")
    status, output, verdicts = gate(tmp_path, pytestconfig, kgdb_kernel, *words, tests=())
    assert (status, verdicts) == (1, {"reads": "passes both", "other": "passes both"}), output
    values = json.loads((tmp_path / "out.json").read_text())
    reasons = [one["reason"] for one in values["tests"]]
    assert reasons == ["", "it runs no line of the change"]
    assert values["lines"] == [{"file": file, "first": line, "last": line}]
    assert "    it runs no line of the change" in output


DRIVER = """\
#include <linux/module.h>
int gated_answer = 41;
static int __init gated_init(void)
{
	WARN_ON_ONCE(!gated_answer);
	return 0;
}
static void __exit gated_exit(void)
{
}
module_init(gated_init);
module_exit(gated_exit);
MODULE_LICENSE("GPL");
MODULE_VERSION("1");
"""
DRIVER_TESTS = """
def test_answer(kgdb):
    kgdb.modules.load("gated")
    assert kgdb.evaluate("gated_answer") == 42
"""


@pytest.mark.slow
def test_a_drivers_own_repository(
    tmp_path: Path, pytestconfig: pytest.Config, kgdb_kernel: Kernel
) -> None:
    driver = tmp_path / "driver"
    driver.mkdir()

    def git(*words: str) -> str:
        argv = ["git", "-c", "user.name=A", "-c", "user.email=a@example.org", *words]
        done = subprocess.run(argv, cwd=driver, check=True, capture_output=True, text=True)
        return done.stdout

    git("init", "-q")
    (driver / "Makefile").write_text("obj-m := gated.o\n")
    for text in (DRIVER, fixed := DRIVER.replace("41", "42"), fixed + "/* the end */\n"):
        (driver / "gated.c").write_text(text)
        git("add", ".")
        git("commit", "-q", "-m", "gated")
    (driver / "gated.c").write_text("it is being worked on\n")
    before = {path: path.read_bytes() for path in driver.rglob("*") if path.is_file()}
    words = ("--repeat=2", "test_driver.py")
    (tmp_path / "test_driver.py").write_text(DRIVER_TESTS)

    module = f"--module={driver}@HEAD~2..HEAD~1"
    status, output, verdicts = gate(tmp_path, pytestconfig, kgdb_kernel, module, *words, tests=())
    assert (status, verdicts) == (0, {"answer": "proves the fix"}), output
    values = json.loads((tmp_path / "out.json").read_text())
    assert values["lines"] == [{"file": "gated.c", "first": 2, "last": 2}]
    assert values["base"]["kernel"].startswith("driver@")

    # A comment at the end changes no code, though it does change srcversion and the build id.
    module = f"--module={driver}@HEAD~1..HEAD"
    status, output, verdicts = gate(tmp_path, pytestconfig, kgdb_kernel, module, *words, tests=())
    assert (status, verdicts) == (1, {"answer": "not tested"}), output
    assert "the change makes no difference to the driver's modules" in output
    assert {path: path.read_bytes() for path in driver.rglob("*") if path.is_file()} == before


def test_a_suite_that_proves_its_fixes(
    tmp_path: Path, pytestconfig: pytest.Config, kgdb_kernel: Kernel
) -> None:
    settings = from_pytest(pytestconfig)
    (tmp_path / "fix.patch").write_text(PATCH)
    mark = "import pytest\npytestmark = pytest.mark.kgdb_fix('fix.patch')\n"
    (tmp_path / "test_gated.py").write_text(mark + TESTS)
    argv = [sys.executable, "-m", "pytest", f"--kgdb-kernel={kgdb_kernel.spec}", "--kgdb-prove"]
    argv += [f"--kgdb-cache-dir={settings.cache_dir}", "-k", "test_fix or other or misspelt"]
    done = subprocess.run(argv, cwd=tmp_path, capture_output=True, text=True, timeout=SECONDS)
    assert done.returncode == 1
    lines = done.stdout.splitlines()
    for words in (
        "test_fix proves fix.patch",
        "test_other does not prove fix.patch: it passes without it, too",
        "test_misspelt cannot tell whether fix.patch is a fix: see the errors",
    ):
        assert f"test_gated.py::{words}" in lines, done.stdout


@pytest.mark.slow
def test_nothing_of_it_is_compiled(
    tmp_path: Path, pytestconfig: pytest.Config, kgdb_kernel: Kernel
) -> None:
    (tmp_path / "none.patch").write_text(NOT_COMPILED)
    words = ("--patch=none.patch", "--repeat=1", "-k", "other")
    status, output, verdicts = gate(tmp_path, pytestconfig, kgdb_kernel, *words)
    assert (status, verdicts) == (1, {"other": "not tested"}), output
    assert "both have the same vmlinux, image and modules" in output


@pytest.mark.parametrize(
    ("patch", "status", "says"),
    [
        (PATCH.replace("const char", "oops char"), 1, "does not compile"),
        (
            PATCH.replace("-1,2 +1,3", "-1,3 +1,3").replace("+const", "-nonesuch\n+const"),
            1,
            "does not apply to",
        ),
        (CONTAINED, 1, "the patch fix.patch is applied already: "),
    ],
    ids=["does not compile", "does not apply", "is applied already"],
)
def test_a_patched_kernel_that_cannot_be_built(
    tmp_path: Path,
    pytestconfig: pytest.Config,
    kgdb_kernel: Kernel,
    patch: str,
    status: int,
    says: str,
) -> None:
    (tmp_path / "fix.patch").write_text(patch)
    words = ("--patch=fix.patch", "--repeat=1")
    found, output, verdicts = gate(tmp_path, pytestconfig, kgdb_kernel, *words)
    assert (found, verdicts) == (status, {}), output
    assert says in output
    assert "Traceback" not in output
