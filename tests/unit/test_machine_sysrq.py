"""The break at which a running kernel enters kgdb, sent when it has read what came before."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from pytest_kgdb.machine import SysrqBreak


class Guest:
    """QEMU and the kernel: what they have read, and what they were sent."""

    def __init__(self) -> None:
        self.alive = True
        self.input = self
        self.sent = 0
        self.unread_by_qemu = 0
        self.read = 0
        self.log: list[object] = []
        self.on_look: Callable[[], None] = lambda: None
        self.looks = 0

    # The console's

    def unread(self) -> int:
        self.looks += 1
        self.on_look()
        return self.unread_by_qemu

    def send_at_once(self, data: bytes) -> None:
        self.log.append(data)
        self.sent += len(data)

    def note_sysrq(self) -> None:
        self.log.append("sysrq")

    # The monitor's

    def execute(self, command: str, **arguments: object) -> None:
        self.log.append((command, arguments))

    # The kernel's

    def characters_read(self) -> int:
        return self.read % (1 << 32)


SENT = ["sysrq", ("chardev-send-break", {"id": "console"}), b"g"]


@pytest.fixture
def guest(monkeypatch: pytest.MonkeyPatch) -> Guest:
    """Time passes only while it is slept."""
    now = 0.0

    def sleep(seconds: float) -> None:
        nonlocal now
        now += seconds

    monkeypatch.setattr("time.monotonic", lambda: now)
    monkeypatch.setattr("time.sleep", sleep)
    return Guest()


def sysrq(guest: Any, *, counts: bool = True) -> SysrqBreak:
    return SysrqBreak(
        guest,
        guest,
        alive=lambda: guest.alive,
        characters_read=guest.characters_read if counts else None,
    )


@pytest.mark.parametrize("start", [0, 77, (1 << 32) - 2])
def test_at_once_if_all_is_read(guest: Guest, start: int) -> None:
    """However many characters the kernel had read before; its count wraps."""
    guest.read = start
    request = sysrq(guest)
    for _ in range(3):
        guest.sent += 5
        guest.read += 5
        request.send()
        guest.read += 2  # the break and the `g`
        assert guest.log == SENT
        guest.log.clear()
    assert guest.looks == 3


def test_when_qemu_and_the_kernel_have_read_all(guest: Guest) -> None:
    request = sysrq(guest)
    guest.sent = 10
    guest.unread_by_qemu = 4

    def look() -> None:
        assert guest.log == []
        if guest.looks == 3:
            guest.unread_by_qemu = 0
        if guest.looks == 6:
            guest.read = 10

    guest.on_look = look
    request.send()
    assert guest.looks == 6
    assert guest.log == SENT


def test_a_kernel_that_does_not_read_gets_it_nevertheless(guest: Guest) -> None:
    request = sysrq(guest)
    guest.sent = 1
    request.send()
    assert guest.log == SENT
    assert guest.looks > 50


@pytest.mark.parametrize("counts", [True, False])
def test_a_kernel_that_reads_slowly_is_given_time(guest: Guest, counts: bool) -> None:
    """A character that is there still would be taken for the sysrq's key."""
    request = sysrq(guest, counts=counts)
    guest.sent = guest.unread_by_qemu = 1000

    def look() -> None:
        if guest.unread_by_qemu:
            assert guest.log == []
            if guest.looks % 20 == 0:
                guest.read += 10
                guest.unread_by_qemu -= 10

    guest.on_look = look
    request.send()
    assert guest.log == SENT
    assert guest.unread_by_qemu == 0


def test_a_qemu_that_ended_is_not_waited_for(guest: Guest) -> None:
    request = sysrq(guest)
    guest.sent = 1
    guest.alive = False
    request.send()
    assert guest.looks == 1


def test_without_a_count(guest: Guest) -> None:
    request = sysrq(guest, counts=False)
    guest.sent = 1
    request.send()
    assert guest.looks == 1
    assert guest.log == SENT


def test_a_fresh_connection(guest: Guest) -> None:
    request = sysrq(guest)
    guest.sent = guest.read = 5
    request.send()
    guest.read = 3  # the kernel's count went back with its memory
    guest.sent = 0  # the console's began anew
    request.restart()
    guest.looks = 0
    request.send()
    assert guest.looks == 1
