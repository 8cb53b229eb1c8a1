"""Machines that do not come up: the kernel, its initrd or its parameters are to blame."""

from __future__ import annotations

import re
import stat
from pathlib import Path

import pytest
from inner_run import InnerRun, Outcome, message, no_traceback_of_ours

from pytest_kgdb.initrd import Member, archive

# Each on a machine of its own. The last two want the same machine: it is tried once.
TESTS = r"""
import pytest


@pytest.mark.slow
@pytest.mark.kgdb(append="initcall_blacklist=init_kgdboc")
def test_never_reaches_kgdb(kgdb):
    pass


@pytest.mark.kgdb(append="initcall_blacklist=init_kgdboc rdinit=/none root=/dev/none")
def test_panics_before_kgdb(kgdb):
    pass


@pytest.mark.kgdb(append="rdinit=/none root=/dev/none")
def test_panics_on_the_way(kgdb):
    pass


@pytest.mark.kgdb(append="rdinit=/none root=/dev/none")
def test_again(kgdb):
    pass


@pytest.mark.kgdb(append="rdinit=/none root=/dev/none", at="kgdbwait")
def test_early_boot_of_the_same(kgdb):
    assert kgdb.evaluate("linux_banner").string().startswith("Linux version")


def test_a_good_one(kgdb):
    assert kgdb.run("echo fine").output == "fine\n"
"""


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory, session_options: list[str]) -> Outcome:
    """The run, at whose end no process and no file was left."""
    return InnerRun(tmp_path_factory.mktemp("boot"), TESTS, session_options).end()


def error_text(ran: Outcome, test: str) -> str:
    report = ran.failure(test)
    assert report.when == "setup", ran.output
    assert report.lost
    no_traceback_of_ours(report.text)
    assert len(report.text.splitlines()) < 30
    return report.text


def log_of(text: str) -> Path:
    (line,) = [line for line in text.splitlines() if line.startswith("log: ")]
    return Path(line.removeprefix("log: "))


def test_never_reaches_kgdb(ran: Outcome) -> None:
    text = error_text(ran, "test_never_reaches_kgdb")
    assert text.startswith("the kernel started init without having waited for a debugger\n")
    assert "the console's last lines are:\n" in text
    assert "hint: something in its parameters (--kgdb-append)" in text
    assert "Linux version" in log_of(text).read_text()


def test_panics_before_kgdb(ran: Outcome) -> None:
    text = error_text(ran, "test_panics_before_kgdb")
    assert text.startswith("the kernel panicked before kgdb was up: VFS: Unable to mount root fs")
    assert "Kernel panic" in log_of(text).read_text()


def test_panics_on_the_way(ran: Outcome) -> None:
    text = error_text(ran, "test_panics_on_the_way")
    assert text.startswith("the kernel panicked on its way to the shell: VFS: Unable to mount root")
    assert "hint: " in text
    assert "Kernel panic" in log_of(text).read_text()


def test_the_same_failure_is_reported_once(ran: Outcome) -> None:
    text = ran.failure("test_again").text
    assert "reported in full above" in text
    assert "test_panics_on_the_way" in text
    assert len(text.splitlines()) == 1


def test_other_machines_come_up(ran: Outcome) -> None:
    assert ran.passed("test_early_boot_of_the_same"), ran.output
    assert ran.passed("test_a_good_one"), ran.output


# Before the kernel has a console.
EARLY = r"""
import pytest


@pytest.mark.kgdb(append="memmap=exactmap memmap=4M@16M")
def test_no_memory_map(kgdb):
    pass


@pytest.mark.kgdb(append="memmap=256M$0")
def test_no_memory(kgdb):
    pass


@pytest.mark.kgdb(append="log_buf_len=1M mem=8M")
def test_no_room_for_the_log(kgdb):
    pass


@pytest.mark.kgdb(memory=32)
def test_a_reset(kgdb):
    pass


def test_a_good_one(kgdb):
    assert kgdb.run("echo fine").output == "fine\n"
"""


@pytest.fixture(scope="module", params=["kgdb", "qemu"])
def early(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    session_options: list[str],
) -> Outcome:
    """The run with one stub; nothing waits for its limit."""
    options = [*session_options, f"--kgdb-stub={request.param}", "--kgdb-timeout=600"]
    return InnerRun(tmp_path_factory.mktemp("early"), EARLY, options).end()


@pytest.mark.parametrize(
    ("test", "reason", "function"),
    [
        ("test_no_memory_map", "Invalid user supplied memory map", "e820__finish_early_params"),
        ("test_no_memory", "alloc_low_pages: can not alloc memory", "alloc_low_pages"),
        (
            "test_no_room_for_the_log",
            r".*\w: Failed to allocate \d+ bytes align=0x\w+",
            "setup_arch",
        ),
    ],
)
def test_panic_before_the_console(early: Outcome, test: str, reason: str, function: str) -> None:
    report = early.failure(test)
    assert report.when == "setup", early.output
    no_traceback_of_ours(report.text)
    first, *lines = report.text.splitlines()
    assert re.fullmatch(rf"the kernel panicked (before|on its way to) .*?: {reason}", first)
    assert lines[0] == "not on its console, but in its memory, the kernel's last lines are:"
    assert any(re.search(rf"\] Kernel panic - not syncing: {reason}$", line) for line in lines)
    assert any(f" {function}+0x" in line for line in lines), "the stack is part of it"
    # With QEMU's stub the kernel is stopped in the middle of it.
    stopped = "on its way" in first
    assert any("---[ end Kernel panic" in line for line in lines) != stopped
    assert early.seconds < 300


def test_reset_before_the_console(early: Outcome) -> None:
    text = early.failure("test_a_reset").text
    no_traceback_of_ours(text)
    ended = r"QEMU ended before the kernel reached \w+: exit status 0, after a triple fault\n"
    assert re.match(ended, text)
    assert "hint: the kernel has reset the machine" in text


def test_others_come_up_then(early: Outcome) -> None:
    assert early.passed("test_a_good_one"), early.output


MUTE_INIT = b"#!/bin/sh\necho this initrd keeps quiet\nexec /bin/sleep 100000\n"
INITRD_TESTS = """
def test_it(kgdb):
    pass


def test_another(kgdb):
    pass
"""


def make_initrd(directory: Path, init: bytes) -> Path:
    names = ("sh", "sleep", "reboot")
    members = [
        Member("dev", stat.S_IFDIR | 0o755),
        Member("dev/console", stat.S_IFCHR | 0o600, device=(5, 1)),
        Member("bin", stat.S_IFDIR | 0o755),
        Member("bin/busybox", stat.S_IFREG | 0o755, Path("/bin/busybox").read_bytes()),
        *(Member(f"bin/{name}", stat.S_IFLNK | 0o777, b"busybox") for name in names),
        Member("init", stat.S_IFREG | 0o755, init),
    ]
    initrd = directory / "own.cpio"
    initrd.write_bytes(archive(members))
    return initrd


@pytest.mark.slow
def test_an_initrd_that_never_says_ready(tmp_path: Path, session_options: list[str]) -> None:
    initrd = make_initrd(tmp_path, MUTE_INIT)
    options = [*session_options, f"--kgdb-initrd={initrd}", "--kgdb-timeout=15"]
    ran = InnerRun(tmp_path / "tests", INITRD_TESTS, options).end()
    text = error_text(ran, "test_it")
    first = text.splitlines()[0]
    assert re.fullmatch(
        r"the guest's init did not say that it is ready within 15 s: waiting: sleep\[\d+\] in .*",
        first,
    )
    assert "this initrd keeps quiet" in text
    assert "hint: an initrd of your own must print 'pytest-kgdb: ready'" in text
    assert log_of(text).exists()
    assert "reported in full above" in ran.failure("test_another").text
    assert ran.seconds < 60


def test_a_slow_host(tmp_path: Path, session_options: list[str]) -> None:
    ran = InnerRun(
        tmp_path, INITRD_TESTS, [*session_options, "--kgdb-isolation=reboot", "--kgdb-timeout=0.05"]
    ).end()
    text = ran.failure("test_it").text
    no_traceback_of_ours(text)
    assert " 0.05 s" in text
    assert "log: " in text
    assert ran.seconds < 30


def test_an_initrd_that_switches_the_machine_off(
    tmp_path: Path, session_options: list[str]
) -> None:
    initrd = make_initrd(tmp_path, b"#!/bin/sh\necho bye now\n/bin/reboot -f\n")
    options = [*session_options, f"--kgdb-initrd={initrd}"]
    ran = InnerRun(tmp_path / "tests", INITRD_TESTS, options).end()
    text = error_text(ran, "test_it")
    ended = "QEMU ended on the kernel's way to the shell: exit status 0, after the guest has "
    assert text.startswith(f"{ended}reset the machine")
    assert log_of(text).exists()


# Kernels that hang on their way, before kgdb and after it.
HANGING = """
import pytest


@pytest.mark.kgdb(append="initcall_blacklist=init_kgdboc rdinit=/none root=/dev/none rootwait")
def test_before_kgdb(kgdb):
    pass


@pytest.mark.kgdb(append="rdinit=/none root=/dev/none rootwait")
def test_after_kgdb(kgdb):
    pass


@pytest.mark.kgdb(append="rdinit=/none root=/dev/none rootwait", at="kgdbwait", timeout=20)
def test_with_a_breakpoint(kgdb):
    kgdb.breakpoint("run_init_process")
    kgdb.cont(timeout=10)
"""


@pytest.mark.slow
def test_boots_that_hang(tmp_path: Path, session_options: list[str]) -> None:
    ran = InnerRun(tmp_path, HANGING, [*session_options, "--kgdb-timeout=20"]).end()
    polls = r"polling: swapper/0\[1\] in \w+ \(init/do_mounts\.c:\d+\), waiting for a timer"
    for test, what in (
        ("test_before_kgdb", "the kernel did not reach kgdb in 20 s"),
        ("test_after_kgdb", "the guest's init did not say that it is ready within 20 s"),
    ):
        text = error_text(ran, test)
        assert re.fullmatch(f"{what}: {polls}", text.splitlines()[0]), text
        assert "Waiting for root device /dev/none" in text
        assert "CPU 0, task 0 (swapper/0), idle" in text
    error = message(ran.failure("test_with_a_breakpoint").text)
    assert re.search(rf"did not stop in 10 s at run_init_process \(0 hits\): {polls}\n", error)
