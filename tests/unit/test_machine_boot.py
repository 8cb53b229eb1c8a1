"""What is said of a kernel that does not come up."""

from __future__ import annotations

import re
from types import SimpleNamespace
from typing import Any

import pytest

from pytest_kgdb.deadline import WaitLimit
from pytest_kgdb.errors import BootError, MachineDied, TimeoutError
from pytest_kgdb.machine import boot_death, boot_to_kgdbwait, check_boot, last_lines

PANIC = "Kernel panic - not syncing: no memory"
END = f"---[ end {PANIC} ]---"


class FakeConsole:
    """A console that has shown some text, and shows nothing more."""

    log = None

    def __init__(self, text: bytes) -> None:
        self.text = text

    def since(self, mark: int = 0) -> bytes:
        return self.text[mark:]

    def tail(self, lines: int) -> str:
        return "\n".join(f"    {line}" for line in self.text.decode().splitlines()[-lines:])

    def wait_for(self, pattern: Any, *, mark: int, timeout: float, meanwhile: Any = None) -> None:
        if meanwhile is not None:
            meanwhile()
        if re.search(pattern, self.since(mark)) is None:
            raise TimeoutError("no")


class FakeLog:
    """A log in the guest's memory."""

    def __init__(self, *lines: str) -> None:
        self.text = lines

    def panic(self) -> str | None:
        match = re.search(r"not syncing: (.*)", "\n".join(self.text))
        return None if match is None else match[1]

    def lines(self) -> list[str]:
        return [f"[    0.000000] {line}" for line in self.text]


def machine(console: bytes = b"", status: int | None = None, *, early: bool = False) -> Any:
    spec = SimpleNamespace(image="bzImage", boot_area=None, stub="kgdb", begins_early=early)
    return SimpleNamespace(
        alive=status is None,
        console=FakeConsole(console),
        spec=spec,
        waits=WaitLimit(1.0),
        cont=lambda: None,
        child=SimpleNamespace(poll=lambda: status),
        death=lambda what: MachineDied(f"{what}: exit status {status}", hint="this host"),
    )


def test_panic_that_no_console_shows() -> None:
    log = FakeLog("Linux version", PANIC, "Call Trace:", END)
    with pytest.raises(BootError) as caught:
        boot_to_kgdbwait(machine(), 1.0, log)
    assert caught.value.message.splitlines() == [
        "the kernel panicked before kgdb was up: no memory",
        "not on its console, but in its memory, the kernel's last lines are:",
        *(f"    [    0.000000] {line}" for line in log.text),
    ]
    assert (caught.value.by_kernel, caught.value.late) == (True, False)


def test_panic_that_both_show() -> None:
    text = f"[    0.1] {PANIC}\r\n[    0.1] {END}\r\n".encode()
    with pytest.raises(BootError) as caught:
        check_boot(machine(text), FakeLog(PANIC, END), "on its way")
    assert caught.value.message.startswith(
        "the kernel panicked on its way: no memory\nthe console's last lines are:\n"
    )


def test_hang_before_the_console() -> None:
    with pytest.raises(BootError) as caught:
        boot_to_kgdbwait(machine(), 1.0, FakeLog("Linux version", "BIOS-e820: none"))
    assert caught.value.message.splitlines() == [
        "the kernel did not reach kgdb in 1 s",
        "not on its console, but in its memory, the kernel's last lines are:",
        "    [    0.000000] Linux version",
        "    [    0.000000] BIOS-e820: none",
    ]
    assert (caught.value.by_kernel, caught.value.late) == (False, True)


WAITS = "KGDB: Waiting for connection from remote gdb..."


def test_a_boot_console_is_kgdbs() -> None:
    boot_to_kgdbwait(machine(early=True), 1.0, FakeLog("Linux version", WAITS))


def test_hang_before_a_boot_console() -> None:
    with pytest.raises(BootError, match=r"(?s)did not reach kgdb in 0\.1 s.*Linux version"):
        boot_to_kgdbwait(machine(early=True), 0.1, FakeLog("Linux version"))


def test_end_before_a_boot_console() -> None:
    with pytest.raises(MachineDied, match="QEMU ended before the kernel reached kgdb"):
        boot_to_kgdbwait(machine(status=1, early=True), 1.0, FakeLog("Linux version"))


def test_hang_with_a_console() -> None:
    shown = last_lines(machine(b"[    0.1] hello\r\n"), FakeLog("hello", "and more"))
    assert shown == "the console's last lines are:\n    [    0.1] hello"


@pytest.mark.parametrize("log", [None, FakeLog()])
def test_log_that_cannot_be_read(log: FakeLog | None) -> None:
    assert last_lines(machine(), log) == "the console's last lines are:\n"


def test_control_characters_of_a_log() -> None:
    assert "\x1b" not in last_lines(machine(), FakeLog("a\x1b[2Jb"))


def test_reset() -> None:
    error = boot_death(machine(status=0), "QEMU ended", FakeLog("Linux version"))
    assert error.message.startswith("QEMU ended: exit status 0\nnot on its console, but in")
    assert error.hint is not None
    assert "has reset the machine" in error.hint
    assert boot_death(machine(status=1), "QEMU ended", None).hint == "this host"


@pytest.mark.parametrize(
    "line",
    [
        "KGDB: Waiting for connection from remote gdb...",
        "KGDB: Waiting for conn from remote gdb...",
        "KGDB: Waiting for connection from remo...",
        "KGting for connection from remote gdb...",
    ],
)
def test_a_console_that_loses_characters(line: str) -> None:
    """As on a host that is so busy that QEMU does not take them in time."""
    boot_to_kgdbwait(machine(f"[    0.607165] {line}\r\n".encode()), 1.0)
    with pytest.raises(BootError, match="did not reach kgdb"):
        boot_to_kgdbwait(machine(f"[    0.607165] {line}".encode()), 1.0)
