"""The lines of a kernel panic, on the console and in the log."""

from __future__ import annotations

import pytest

from pytest_kgdb.klog import PANIC, console_panic, console_panic_end, log_panic

PANICKED = b"[    1.000000] Kernel panic - not syncing: sysrq triggered crash\r\n"
ENDED = b"[    2.000000] ---[ end Kernel panic - not syncing: Fatal exception ]---\r\n"


def test_the_first_panic_on_the_console() -> None:
    assert console_panic(b"login: \r\n" + PANICKED + ENDED) == "sysrq triggered crash"
    assert console_panic(b"[    1.000000] all is well\r\n") is None


@pytest.mark.parametrize("reason", ["", "sysrq", "sysrq triggered crash"])
def test_a_line_that_has_not_ended(reason: str) -> None:
    text = PANICKED.partition(b"sysrq")[0] + reason.encode()
    assert console_panic(text) == reason
    assert console_panic(text, whole=True) is None
    assert console_panic(text + b"\r", whole=True) == reason


def test_the_last_line_is_not_the_first() -> None:
    assert console_panic(ENDED) is None
    assert console_panic_end(PANICKED) is None
    assert console_panic_end(PANICKED + ENDED) == "Fatal exception"
    assert [match[1] for match in PANIC.finditer(PANICKED + ENDED + PANICKED)] == [
        b"sysrq triggered crash"
    ] * 2


def test_bytes_that_are_not_utf_8() -> None:
    assert console_panic(b"Kernel panic - not syncing: \xff\n") == "\ufffd"


def test_a_line_of_the_log() -> None:
    assert log_panic("Kernel panic - not syncing: Fatal exception") == "Fatal exception"
    assert log_panic("---[ end Kernel panic - not syncing: Fatal exception ]---") is None
