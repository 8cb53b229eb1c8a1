"""What insmod says of an error that a module's init has returned."""

from __future__ import annotations

import pytest

from pytest_kgdb.modules._insmod import init_failed

BUSYBOX = "insmod: can't insert '/run/demo.ko': "
KMOD = "insmod: ERROR: could not insert module /run/demo.ko: "


@pytest.mark.parametrize(
    ("output", "words", "said"),
    [
        (BUSYBOX, "unknown symbol in module, or unknown parameter", "its init returned -ENOENT"),
        (BUSYBOX, "module has wrong symbol version", "its init returned -ESRCH"),
        (BUSYBOX, "invalid module format", "its init returned -ENOEXEC"),
        (BUSYBOX, "kernel does not support requested operation", "its init returned -ENOSYS"),
        (BUSYBOX, "No such device", "No such device (its init returned -ENODEV)"),
        (BUSYBOX, "Unknown error 517", "its init returned -EPROBE_DEFER"),
        (BUSYBOX, "Unknown error 1234", "its init returned -1234"),
        (KMOD, "Unknown symbol in module", "its init returned -ENOENT"),
        (KMOD, "Invalid parameters", "its init returned -EINVAL"),
        (KMOD, "Invalid module format", "its init returned -ENOEXEC"),
        (KMOD, "Cannot allocate memory", "Cannot allocate memory (its init returned -ENOMEM)"),
        (KMOD, "words of another insmod", "words of another insmod"),
        ("", "killed", "killed"),
    ],
)  # fmt: skip
def test_the_error(output: str, words: str, said: str) -> None:
    assert init_failed(f"{output}{words}\n") == output + said


def test_further_lines_are_kept() -> None:
    assert init_failed(f"a line\n{BUSYBOX}No such device") == (
        f"a line\n{BUSYBOX}No such device (its init returned -ENODEV)"
    )
