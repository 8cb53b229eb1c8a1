"""gdb's prompt for a person, on a terminal: with a test that failed, without one, on a file."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator

import pexpect
import pytest

from pytest_kgdb.settings import from_pytest

FAILING = """
def test_fails(kgdb):
    kgdb.breakpoint("do_filp_open")
    kgdb.type("cat /proc/version")
    kgdb.cont()
    assert kgdb.stop.frame.function == "do_exit"

def test_passes(kgdb):
    assert kgdb.run("echo fine").output == "fine\\n"
"""


@pytest.fixture
def terminal(kgdb_kernel, pytestconfig, tmp_path) -> Iterator[Callable[..., pexpect.spawn]]:
    """Starts a Python program on a terminal, with this run's kernel."""
    settings = from_pytest(pytestconfig)
    options = [f"--kgdb-kernel={kgdb_kernel.spec}", f"--kgdb-cache-dir={settings.cache_dir}"]
    children = []

    def start(*words: str) -> pexpect.spawn:
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "COLUMNS": "200"}
        child = pexpect.spawn(
            sys.executable,
            ["-m", *words, *options],
            env=environment,
            cwd=str(tmp_path),
            encoding="utf-8",
            timeout=90,
            dimensions=(60, 200),
        )
        children.append(child)
        return child

    yield start
    for child in children:
        child.close(force=True)


def ended(child: pexpect.spawn) -> int:
    child.expect(pexpect.EOF)
    child.close()
    return child.exitstatus


def test_a_test_that_failed(terminal, tmp_path):
    (tmp_path / "test_x.py").write_text(FAILING)
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    child = terminal(
        "pytest", "-q", "--color=no", "-p", "no:cacheprovider", "--kgdb-attach", "test_x.py"
    )
    child.expect(r"gdb on Linux \S+, stopped: breakpoint 1 in do_filp_open at fs/namei.c:\d+")
    child.expect(r"Ctrl-\]\s+leave gdb; the tests go on")
    child.expect(r"Ctrl-\\\s+leave gdb, and end the tests")
    child.expect(r"Ctrl-T\s+the guest's console")
    # Arguments, and the file's name without the path of the host that has built the kernel.
    child.expect(r"#0 +do_filp_open \(dfd=\S*-100, .*op=\S*0x[0-9a-f]+\) at namei.c:\d+")
    child.sendline("delete")
    child.sendline("continue")
    child.expect("Continuing.")
    child.send("\x14")
    child.expect("the guest's console; Ctrl-T: gdb")
    child.expect("Linux version")  # also if it came before the console was shown
    child.send("echo $((6 * 7)) typed\r")
    child.expect("42 typed")
    child.send("\x14")
    child.expect(r"\[gdb; Ctrl-T")
    child.send("\x03")
    child.expect("kgdb_breakpoint")
    child.sendline("print 6 * 7")
    child.expect(r"\$\d+ = 42")
    child.send("\x1d")
    child.expect("1 failed, 1 passed")
    assert ended(child) == 1


def test_the_end_of_the_run(terminal, tmp_path):
    (tmp_path / "test_x.py").write_text(FAILING)
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    child = terminal(
        "pytest", "-q", "--color=no", "-p", "no:cacheprovider", "--kgdb-attach", "test_x.py"
    )
    child.expect(r"Ctrl-\\\s+leave gdb, and end the tests")
    child.expect("#0 ")
    child.send("\x1c")
    child.expect("ended at gdb's prompt")
    child.expect("1 failed")
    assert "passed" not in child.before
    assert ended(child) == 2


def test_without_a_test(terminal):
    child = terminal(
        *("pytest_kgdb.cli", "attach", "--break", "do_filp_open", "--run", "cat /proc/version")
    )
    child.expect(r"Ctrl-\]\s+leave gdb, and end the machine")
    child.expect(r"Breakpoint \d+, do_filp_open \(dfd=\S*-100, ")
    child.sendline("info breakpoints")
    child.expect("already hit 1 time")
    child.send("\x14")
    child.expect("the kernel is stopped, and reads it later")
    child.send("\x1d")
    assert ended(child) == 0


def test_a_breakpoint_that_cannot_be(terminal):
    child = terminal("pytest_kgdb.cli", "attach", "--break", "no_such_function")
    child.expect("error: .*no_such_function")
    assert ended(child) == 2


def test_the_kernels_own_commands(terminal):
    child = terminal("pytest_kgdb.cli", "attach", "--kgdb-trust-scripts")
    child.expect(r"lx-\S* commands: .*vmlinux-gdb.py")
    child.expect("#0 ")
    child.sendline("lx-ps")
    child.expect(r"0x[0-9a-f]+\s+1\s+init")
    child.sendline("lx-version")
    child.expect(r"Linux version \d")
    child.send("\x1d")
    assert ended(child) == 0
