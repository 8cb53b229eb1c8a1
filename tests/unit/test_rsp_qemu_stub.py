"""QEMU's gdb stub beside kgdb, whose machine others stop and resume, too."""

from __future__ import annotations

import select
import socket
import threading
import time

import pytest

from pytest_kgdb.deadline import WaitLimit
from pytest_kgdb.rsp._packets import encode
from pytest_kgdb.rsp._qemu_stub import QemuStub


class Qemu(threading.Thread):
    """QEMU's stub as gdbstub/gdbstub.c has it: a running machine is stopped by whatever comes."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.ours, self.theirs = socket.socketpair()
        self.runs = False
        self.unacknowledged = False
        self.others: list[str] = []
        """What others do at once, whenever the machine has stopped: `resume` it."""
        self.requests: list[bytes] = []
        self.start()

    def say(self, payload: bytes) -> None:
        self.unacknowledged = True
        self.ours.sendall(encode(payload))

    def stopped_by_another(self) -> None:
        """Have somebody stop the machine, and resume it: it tells of the stop."""
        self.say(b"T02thread:01;")

    def run(self) -> None:
        packet: bytes | None = None
        while data := self.ours.recv(1):
            if self.unacknowledged:
                if data in b"+$":
                    self.unacknowledged = False
                if data != b"$":
                    continue
            if self.runs:
                self.runs = bool(self.others) and self.others.pop() == "resume"
                self.say(b"T02thread:01;")
                packet = None
            elif data == b"$":
                packet = b""
            elif packet is not None and data != b"#":
                packet += data
            elif packet is not None:
                self.ours.recv(2)
                self.ours.sendall(b"+")
                self.answer(packet)
                packet = None

    def asked(self) -> list[bytes]:
        """Return what it was asked for, once it has been told to let the machine run."""
        deadline = time.monotonic() + 5
        while not (self.runs and self.requests[-1:] == [b"c"]):
            assert time.monotonic() < deadline, self.requests
            time.sleep(0.001)
        return self.requests

    def answer(self, packet: bytes) -> None:
        self.requests.append(packet)
        if packet == b"c":
            self.runs = True
        elif packet == b"?":
            self.say(b"T05thread:01;")
        elif packet == b"qC":
            self.say(b"QC01")
        else:
            self.say(b"OK" if packet[:1] in b"Zz" else b"")


@pytest.fixture
def qemu() -> Qemu:
    return Qemu()


@pytest.fixture
def stub(qemu: Qemu) -> QemuStub:
    stub = QemuStub(lambda: qemu.theirs, waits=WaitLimit(5.0))
    stub.stop()
    stub.cont()
    qemu.asked()
    return stub


def insert(stub: QemuStub) -> bytes:
    return stub.insert_or_remove(b"Z1,1000,1")


def test_a_machine_that_runs_is_stopped(qemu: Qemu, stub: QemuStub) -> None:
    assert insert(stub) == b"OK"
    assert not stub.watching, "a breakpoint sees no access"
    assert qemu.asked() == [b"?", b"c", b"Z1,1000,1", b"c"]
    assert stub.insert_or_remove(b"Z2,2000,8") == b"OK"
    assert stub.watching


@pytest.mark.parametrize("times", [1, 2, 3])
def test_one_that_another_resumes_meanwhile(qemu: Qemu, stub: QemuStub, times: int) -> None:
    qemu.others = ["resume"] * times
    assert insert(stub) == b"OK"
    assert qemu.asked()[-2:] == [b"Z1,1000,1", b"c"]


@pytest.mark.parametrize("times", [1, 2])
def test_news_of_an_earlier_stop(qemu: Qemu, stub: QemuStub, times: int) -> None:
    for _ in range(times):
        qemu.stopped_by_another()
    assert insert(stub) == b"OK"
    assert stub.insert_or_remove(b"z1,1000,1") == b"OK"
    assert not stub.watching


def test_it_runs_on_after_the_news_of_a_stop(qemu: Qemu, stub: QemuStub) -> None:
    qemu.stopped_by_another()
    assert stub.take_hits(kernel_runs=True) == []
    qemu.asked()
    assert insert(stub) == b"OK"
    assert qemu.asked()[-2:] == [b"Z1,1000,1", b"c"]


def fail_to_write(qemu: Qemu, stub: QemuStub) -> list[bytes]:
    """Have QEMU stop the machine for an error of a disk's file; return what it was asked before."""
    requests = list(qemu.asked())
    qemu.runs = False
    qemu.say(b"T17thread:01;")
    assert stub.socket is not None
    assert select.select([stub.socket], [], [], 5)[0]
    assert stub.take_hits(kernel_runs=True) == []
    return requests


def test_one_that_has_no_room_for_what_it_writes(qemu: Qemu, stub: QemuStub) -> None:
    """It is neither a hit, nor let run again."""
    insert(stub)
    requests = fail_to_write(qemu, stub)
    assert qemu.requests == requests
    assert stub.insert_or_remove(b"Z1,2000,1") == b"OK"


def test_no_cpu_is_stepped_where_qemu_has_stopped_the_machine_itself(
    qemu: Qemu, stub: QemuStub
) -> None:
    """It would try again what has failed, and stop for it once more."""
    stub.other_hits.self_jump = 0x1000
    stub.insert_or_remove(b"Z2,2000,8")
    requests = fail_to_write(qemu, stub)
    stub.remove_all()
    assert qemu.requests == [*requests, b"z2,2000,8"]
