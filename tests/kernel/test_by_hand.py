"""What `--kgdb-print-commands` prints, pasted into a shell."""

from __future__ import annotations

import os
import shlex
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pytest_kgdb.kernel import Kernel
from pytest_kgdb.settings import from_pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
SECONDS = 120.0
WAITING = b"Waiting for connection from remote gdb"
TEST = "def test_on_a_kernel(kgdb): pass\n"


def printed(tmp_path: Path, config: pytest.Config, kernel: Kernel) -> list[str]:
    """The lines that a run prints for a shell."""
    (tmp_path / "test_it.py").write_text(TEST)
    settings = from_pytest(config)
    done = subprocess.run(
        [
            *(sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-q", "test_it.py"),
            *(f"--kgdb-kernel={kernel.spec}", f"--kgdb-cache-dir={settings.cache_dir}"),
            *("--kgdb-stub=kgdb", "--kgdb-print-commands"),
        ],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        text=True,
        timeout=SECONDS,
        check=True,
    )
    lines = done.stdout.splitlines()
    start = next(n for n, line in enumerate(lines) if line.startswith("# the same machine"))
    end = next(n for n, line in enumerate(lines) if line.startswith("gdb "))
    return lines[start : end + 1]


def wait_for_gdb(console: Path) -> None:
    """Read the console until kgdb waits, as the comment above gdb's line says."""
    deadline = time.monotonic() + SECONDS
    with socket.socket(socket.AF_UNIX) as line:
        while line.connect_ex(os.fspath(console)):
            assert time.monotonic() < deadline, "QEMU has no console"
            time.sleep(0.02)
        output = b""
        while WAITING not in output:
            line.settimeout(deadline - time.monotonic())
            received = line.recv(65536)
            assert received, f"QEMU has ended:\n{output.decode(errors='replace')}"
            output += received


def test_the_commands_can_be_pasted(
    tmp_path: Path, pytestconfig: pytest.Config, kgdb_kernel: Kernel
) -> None:
    if kgdb_kernel.config.get("KGDB_SERIAL_CONSOLE") != "y":
        pytest.skip("the kernel has no kgdb to wait in")
    lines = printed(tmp_path, pytestconfig, kgdb_kernel)
    machine = tmp_path / "m"  # short: sockets are in it
    machine.mkdir()
    console = next(n for n, line in enumerate(lines) if line.startswith("socat "))
    shell = subprocess.Popen(
        ["bash", "-c", "\n".join([*lines[:console], "wait"])], cwd=machine, start_new_session=True
    )
    try:
        wait_for_gdb(machine / "console")
        gdb = shlex.join([*shlex.split(lines[-1]), "-batch", "-ex", "backtrace"])
        done = subprocess.run(
            ["bash", "-c", gdb], cwd=machine, capture_output=True, text=True, timeout=SECONDS
        )
    finally:
        os.killpg(shell.pid, signal.SIGKILL)
        shell.wait(SECONDS)
    assert "kgdb_initial_breakpoint" in done.stdout, done.stdout + done.stderr
