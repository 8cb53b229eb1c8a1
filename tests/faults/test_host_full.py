"""The host has no room left for what a machine writes: that is reported; the next test is fine."""

from __future__ import annotations

import subprocess

import pytest
from inner_run import InnerRun, Outcome, message, no_traceback_of_ours

pytestmark = pytest.mark.slow

TESTS = """
import time

import pytest

from pytest_kgdb import MachineDied
from pytest_kgdb.machine import _machine
from pytest_kgdb.monitor import Monitor, VcpuMonitor

cont = VcpuMonitor.cont
execute = Monitor.execute


def slowly(self, command, **arguments):
    reply = execute(self, command, **arguments)
    if command == "query-status":
        time.sleep(0.05)
    return reply


@pytest.fixture(autouse=True, scope="session")
def late():
    '''QEMU is asked for its state before a restored machine runs, as on a loaded host.

    It may run by the time that the reply is read.
    '''
    patch = pytest.MonkeyPatch()
    patch.setattr(Monitor, "execute", slowly)
    patch.setattr(VcpuMonitor, "cont", lambda self: (time.sleep(0.2), cont(self)))
    patch.setattr(_machine, "_STORAGE_SECONDS", 0.0)
    yield
    patch.undo()


@pytest.fixture(autouse=True)
def good(kgdb):
    assert kgdb.run("head -c 4 /dev/vda | hexdump -C").output.split()[1:5] == ["00"] * 4


def test_the_guest_writes(kgdb):
    kgdb.run("dd if=/dev/urandom of=/dev/vda bs=1M count=200 conv=fsync")


def test_the_guest_writes_while_a_variable_is_watched(kgdb):
    kgdb.watchpoint("init_uts_ns.name.nodename[0]")
    kgdb.type("dd if=/dev/urandom of=/dev/vda bs=1M count=200 conv=fsync")
    kgdb.cont()


def test_fine(kgdb):
    kgdb.run("dd if=/dev/urandom of=/dev/vda bs=1M count=5 conv=fsync")


def test_the_test_keeps(kgdb):
    for number in range(20):
        kgdb.snapshot(f"number-{number}")


def test_fine_again(kgdb):
    kgdb.snapshot("one")
    kgdb.run("dd if=/dev/urandom of=/dev/vda bs=1M count=5 conv=fsync")
    kgdb.restore("one")


def test_back_to_its_own_snapshot(kgdb):
    kgdb.snapshot("before")
    with pytest.raises(MachineDied, match="this host has no room"):
        kgdb.run("dd if=/dev/urandom of=/dev/vda bs=1M count=200 conv=fsync")
    kgdb.restore("before")
    assert kgdb.run("head -c 4 /dev/vda | hexdump -C").output.split()[1:5] == ["00"] * 4
"""


@pytest.fixture(scope="module", params=["kgdb", "kgdb, 2 CPUs", "qemu"])
def outcome(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    session_options: list[str],
) -> Outcome:
    if subprocess.run(["unshare", "-rm", "true"], capture_output=True).returncode:
        pytest.skip("mounting a small tmpfs needs user namespaces")
    directory = tmp_path_factory.mktemp("full")
    disk = directory / "disk.qcow2"
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", str(disk), "1G"], check=True)
    options = [*session_options, f"--kgdb-disk={disk}", "--kgdb-initrd=busybox"]
    options.append("--kgdb-append=root=/dev/ram0")
    stub, _, several = request.param.partition(", ")
    options += [f"--kgdb-stub={stub}", f"--kgdb-smp={2 if several else 1}"]
    return InnerRun(directory, TESTS, options, room=130).end()


def test_what_the_guest_cannot_write(outcome: Outcome) -> None:
    report = outcome.failure("test_the_guest_writes")
    assert report.lost
    text = message(report.text)
    assert "MachineDied: QEMU has stopped the machine: this host has no room" in text
    assert "make room there" in text
    no_traceback_of_ours(report.text)
    assert outcome.passed("test_fine"), outcome.output


def test_what_it_cannot_write_is_no_stop(outcome: Outcome) -> None:
    report = outcome.failure("test_the_guest_writes_while_a_variable_is_watched")
    assert report.lost
    assert "this host has no room for what the guest writes" in message(report.text)


def test_what_cannot_be_saved(outcome: Outcome) -> None:
    report = outcome.failure("test_the_test_keeps")
    text = message(report.text)
    assert "the guest's memory could not be saved: No space left on device" in text
    assert "make room there" in text
    no_traceback_of_ours(report.text)
    assert outcome.passed("test_fine_again")


def test_a_restore_within_the_test(outcome: Outcome) -> None:
    assert outcome.passed("test_back_to_its_own_snapshot"), outcome.output
