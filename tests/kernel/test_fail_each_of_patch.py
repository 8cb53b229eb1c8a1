"""Each call in a patch's own lines failing: which calls those are, and which exits they lead to."""

from __future__ import annotations

import difflib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from pytest_kgdb.kernel import Kernel
from pytest_kgdb.settings import from_pytest

pytestmark = pytest.mark.slow

SECONDS = 600.0

FILE = "fs/proc/uptime.c"
SHOW = "static int uptime_proc_show("
BODY = "	idle_nsec = 0;\n"

# Its second kstrdup() is not checked; one call is a jump, one inlined, one said by a pointer.
FUNCTIONS = """\
#include <linux/slab.h>

static int kgdb_nothing(struct seq_file *m)
{
	return READ_ONCE(jiffies) == 1;
}

static int (*kgdb_said)(struct seq_file *m) = kgdb_nothing;

static noinline char *kgdb_copy(const char *text)
{
	return kstrdup(text, GFP_KERNEL);
}

static noinline int kgdb_try(struct seq_file *m)
{
	struct file *file;
	char *one, *two, *three;
	int err = 0;

	one = kgdb_copy("one");
	if (!one)
		return -ENOBUFS;
	two = kmalloc(seq_has_overflowed(m) + 9, GFP_KERNEL);
	if (!two) {
		err = -ENOSPC;
		goto out_one;
	}
	file = filp_open("/proc/version", O_RDONLY, 0);
	if (IS_ERR(file)) {
		err = PTR_ERR(file);
		goto out_two;
	}
	filp_close(file, NULL);
	three = kstrdup("three", GFP_KERNEL);
	WRITE_ONCE(three[0], 'T');
	kfree(three);
	if (READ_ONCE(kgdb_said)(m))
		goto out_two;
out_two:
	kfree(two);
out_one:
	kfree(one);
	return err;
}

"""
CALL = """\
	i = kgdb_try(m);
	if (i)
		return i;
"""

TESTS = """
import pytest
from pytest_kgdb import ConfigError, KgdbError

def cat(kgdb):
    return kgdb.run("cat /proc/uptime")

def test_it(kgdb, note):
    report = kgdb.fail_each.of_patch(cat)
    note(
        ok=report.ok,
        text=str(report),
        functions={one.function: [outcome.verdict for outcome in one] for one in report},
        exits=[[one.text, one.usual, one.state, list(one.failures)] for one in report.exits],
        unaimed=list(report.unaimed),
        complete=report.complete,
    )
    assert kgdb.run("cat /proc/uptime").output

def test_named(kgdb):
    report = kgdb.fail_each.of_patch(
        cat, "fix.patch", skip=["kstrdup", "kgdb_try"], returns={"filp_open": "-EIO"}
    )
    assert "filp_open" in [one.function for one in report]
    assert report.ok, report
    assert "kstrdup" not in str(report)

def test_refused(kgdb):
    with pytest.raises(KgdbError, match="the patch's lines do not call kstrdpu"):
        kgdb.fail_each.of_patch(cat, skip="kstrdpu")
    with pytest.raises(KgdbError, match="makes none of the calls"):
        kgdb.fail_each.of_patch("true")
    with pytest.raises(ConfigError, match="what the patches changed cannot be told"):
        kgdb.fail_each.of_patch(cat, "other.patch")
"""
CONFTEST = """
import json
from pathlib import Path
import pytest

@pytest.fixture
def note():
    return lambda **values: Path("out.json").write_text(json.dumps(values))
"""


def patch_of(kernel: Kernel, functions: str) -> str:
    """A patch of the kernel's source."""
    assert kernel.source is not None
    before = (kernel.source / FILE).read_text()
    after = before.replace(SHOW, functions + SHOW, 1).replace(BODY, CALL + BODY, 1)
    lines = (text.splitlines(keepends=True) for text in (before, after))
    return "".join(difflib.unified_diff(*lines, f"a/{FILE}", f"b/{FILE}"))


def run_inside(directory: Path, config: pytest.Config, kernel: Kernel, *words: str) -> Any:
    """Run the tests on a kernel with the patch; return what they noted."""
    (directory / "fix.patch").write_text(patch_of(kernel, FUNCTIONS))
    other = FUNCTIONS.replace("three", "four")
    (directory / "other.patch").write_text(patch_of(kernel, other))
    (directory / "test_it.py").write_text(TESTS)
    (directory / "conftest.py").write_text(CONFTEST)
    (directory / "pytest.ini").write_text("[pytest]\n")
    argv = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--kgdb-require"]
    argv += [f"--kgdb-kernel={kernel.spec}", f"--kgdb-cache-dir={from_pytest(config).cache_dir}"]
    argv += ["--kgdb-patch=fix.patch", *words]
    done = subprocess.run(argv, cwd=directory, capture_output=True, text=True, timeout=SECONDS)
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads((directory / "out.json").read_text())


def test_calls_and_exits(tmp_path: Path, pytestconfig: pytest.Config, kgdb_kernel: Kernel) -> None:
    out = run_inside(tmp_path, pytestconfig, kgdb_kernel)
    functions = out["functions"]
    assert functions["kgdb_copy"] == functions["filp_open"] == ["handled"], out["text"]
    # The first is called by a jump, and handled; the second is not checked.
    assert functions["kstrdup"] == ["handled", "oops"], out["text"]
    assert set(functions["kgdb_try"]) == {"handled"}
    # What kmalloc() of a size that is no constant calls, inlined.
    kmalloc = "__kmalloc" if "__kmalloc" in functions else "__kmalloc_noprof"  # since 6.10
    assert functions[kmalloc] == ["handled"], out["text"]
    assert not out["ok"]
    exits = {text: (usual, state, set(runs)) for text, usual, state, runs in out["exits"]}
    assert exits["return -ENOBUFS;"] == (
        False, "ran", {"kgdb_copy() call 1", "kstrdup() call 1"}
    ), out["text"]  # fmt: skip
    assert exits["goto out_one;"] == (False, "ran", {f"{kmalloc}() call 1"})
    assert exits["return kstrdup(text, GFP_KERNEL);"][:2] == (True, "ran")
    (by_pointer,) = out["unaimed"]
    assert "is said by a pointer" in by_pointer
    assert not out["complete"]
    assert "error exits of the patch: " in out["text"]
