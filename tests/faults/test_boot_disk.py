"""Disks that nothing boots from: reported with what a disk may want."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from inner_run import InnerRun, message, no_traceback_of_ours

TEST = "def test_it(kgdb):\n    pass\n"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("append", "timeout", "headline", "hint"),
    [
        pytest.param("", 60, "panicked on its way to the shell", "/dev/vda1", id="no file system"),
        pytest.param(
            *("root=/dev/vdb rootwait", 8, "did not say that it is ready", "/dev/vda is the disk"),
            id="no such device",
        ),
    ],
)
def test_no_root_file_system(
    tmp_path: Path, session_options: list[str], append: str, timeout: int, headline: str, hint: str
) -> None:
    disk = tmp_path / "empty.qcow2"
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", str(disk), "16M"], check=True)
    options = [*session_options, f"--kgdb-disk={disk}", f"--kgdb-timeout={timeout}"]
    if append:
        options.append(f"--kgdb-append={append}")
    report = InnerRun(tmp_path / "inner", TEST, options).end().failure("test_it")
    assert report.lost
    text = message(report.text)
    assert headline in text
    assert hint in text
    assert "--kgdb-append=root=" in text
    no_traceback_of_ours(report.text)
