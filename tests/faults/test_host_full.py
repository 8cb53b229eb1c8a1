"""The host has no room left for what a machine writes: that is reported; the next test is fine."""

from __future__ import annotations

import subprocess

import pytest
from inner_run import InnerRun, Outcome, message, no_traceback_of_ours

TESTS = """
import pytest


@pytest.fixture(autouse=True)
def good(kgdb):
    assert kgdb.run("head -c 4 /dev/vda | hexdump -C").output.split()[1:5] == ["00"] * 4


def test_the_guest_writes(kgdb):
    kgdb.run("dd if=/dev/urandom of=/dev/vda bs=1M count=200 conv=fsync")


def test_fine(kgdb):
    kgdb.run("dd if=/dev/urandom of=/dev/vda bs=1M count=5 conv=fsync")


def test_the_test_keeps(kgdb):
    for number in range(20):
        kgdb.snapshot(f"number-{number}")


def test_fine_again(kgdb):
    kgdb.snapshot("one")
    kgdb.run("dd if=/dev/urandom of=/dev/vda bs=1M count=5 conv=fsync")
    kgdb.restore("one")
"""


@pytest.fixture(scope="module")
def outcome(tmp_path_factory: pytest.TempPathFactory, session_options: list[str]) -> Outcome:
    if subprocess.run(["unshare", "-rm", "true"], capture_output=True).returncode:
        pytest.skip("mounting a small tmpfs needs user namespaces")
    directory = tmp_path_factory.mktemp("full")
    disk = directory / "disk.qcow2"
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", str(disk), "1G"], check=True)
    options = [*session_options, f"--kgdb-disk={disk}", "--kgdb-initrd=busybox"]
    options.append("--kgdb-append=root=/dev/ram0")
    return InnerRun(directory, TESTS, options, room=130).end()


def test_what_the_guest_cannot_write(outcome: Outcome) -> None:
    report = outcome.failure("test_the_guest_writes")
    assert report.lost
    text = message(report.text)
    assert "MachineDied: QEMU has stopped the machine: this host has no room" in text
    assert "make room there" in text
    no_traceback_of_ours(report.text)
    assert outcome.passed("test_fine")


def test_what_cannot_be_saved(outcome: Outcome) -> None:
    report = outcome.failure("test_the_test_keeps")
    text = message(report.text)
    assert "the guest's memory could not be saved: No space left on device" in text
    assert "make room there" in text
    no_traceback_of_ours(report.text)
    assert outcome.passed("test_fine_again")
