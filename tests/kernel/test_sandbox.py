"""QEMU's sandbox: what somebody who broke out of the guest into QEMU could not do."""

from __future__ import annotations

import contextlib
import re
import time
from pathlib import Path

import pytest

from pytest_kgdb.deadline import Deadline, WaitLimit
from pytest_kgdb.errors import KgdbError
from pytest_kgdb.handle import attachment_of
from pytest_kgdb.kernel import Kernel
from pytest_kgdb.machine import Machine, MachineSpec


def thread_statuses(pid: int) -> list[str]:
    return [path.read_text() for path in Path(f"/proc/{pid}/task").glob("*/status")]


def test_every_thread_is_confined(kgdb) -> None:
    statuses = thread_statuses(attachment_of(kgdb).machine.pid)
    assert len(statuses) > 1
    for status in statuses:
        assert re.search(r"^Seccomp:\t2$", status, re.MULTILINE), status
        assert re.search(r"^NoNewPrivs:\t1$", status, re.MULTILINE), status


@pytest.mark.kgdb(qemu_arg="-device virtio-net-pci")
def test_no_device_and_no_network_but_those_asked_for(kgdb) -> None:
    machine = attachment_of(kgdb).machine
    # The user's card is there, and leads nowhere.
    assert "virtio-net-pci" in machine.monitor.human("info network")
    assert "type=user" not in machine.monitor.human("info network")
    assert "VGA" not in machine.monitor.human("info pci")


def has_failed(machine: Machine) -> bool:
    """Whether the migration has failed, or has ended QEMU."""
    if not machine.alive:
        return True
    with contextlib.suppress(KgdbError):
        return machine.monitor.execute("query-migrate").get("status") in ("failed", None)
    return not machine.alive


@pytest.mark.parametrize(("arguments", "starts"), [((), False), (("-sandbox", "off"), True)])
def test_qemu_starts_no_program(
    kgdb_kernel: Kernel, tmp_path: Path, arguments: tuple[str, ...], starts: bool
) -> None:
    """QEMU itself can run a command, to migrate through it.

    The sandbox ends QEMU 7 instead; QEMU 10 is refused the process, and says that it has failed.
    """
    evidence = tmp_path / "evidence"
    spec = MachineSpec(kgdb_kernel.arch, kgdb_kernel.image, None, memory=32, qemu_arg=arguments)
    with Machine(spec, waits=WaitLimit(30)) as machine:
        with contextlib.suppress(KgdbError):
            machine.monitor.execute("migrate", uri=f"exec:cat >{evidence}")
        deadline = Deadline(30)
        while not (has_failed(machine) or evidence.exists()) and not deadline.expired:
            time.sleep(0.02)
        assert (has_failed(machine), evidence.exists()) == (not starts, starts)


def test_the_machines_files_are_the_users_alone(kgdb) -> None:
    machine = attachment_of(kgdb).machine
    assert machine.stub_socket.is_socket()
    assert machine.directory.stat().st_mode & 0o777 == 0o700
    assert machine.log_dir.parent.stat().st_mode & 0o777 == 0o700
