"""Lines and boards that are not as they should be: each with an error that says so."""

from __future__ import annotations

import socket
import subprocess
import time

import pytest
from boards import Open, Start, Started

import pytest_kgdb.session._board_vm as board_vm
from pytest_kgdb.errors import BootError, ConfigError, KgdbError, MachineDied, TimeoutError
from pytest_kgdb.handle import Kgdb

# As a getty: it asks for a name, and is not interrupted.
GETTY = b"trap '' INT; while :; do printf 'board login: '; read name; done\n"


def test_a_tty_that_is_in_use(start: Start, open_session: Open) -> None:
    machine = start()
    with subprocess.Popen(["cat", str(machine.kgdb)], stdout=subprocess.DEVNULL) as cat:
        try:
            time.sleep(0.2)
            with pytest.raises(ConfigError, match=rf"in use by cat \(process {cat.pid}\)"):
                _ = open_session(machine).handle
        finally:
            cat.kill()
    assert open_session(machine).handle.stopped


def test_the_wrong_speed(start: Start, open_session: Open) -> None:
    machine = start()
    lines = {
        "target": f"serial:{machine.kgdb},9600",
        "console": f"{machine.console},9600",
        "timeout": 20,
    }
    began = time.monotonic()
    with pytest.raises(ConfigError, match="is no text: ") as error:
        _ = open_session(**lines).handle
    assert time.monotonic() - began < 60
    assert "another one than 9600 baud" in str(error.value.hint)


def test_a_board_that_never_answers(start: Start, open_session: Open) -> None:
    machine = start()
    machine.ask("stop")
    with pytest.raises(TimeoutError, match=r"does not answer: nothing came in 3 s on .*console"):
        _ = open_session(machine, timeout=3).handle


def test_a_login_prompt(start: Start, open_session: Open) -> None:
    machine = start()
    with socket.create_connection(("127.0.0.1", machine.ports["console"]["tcp"])) as console:
        console.settimeout(50)
        text = b""
        while b"pytest-kgdb: ready" not in text:
            text += console.recv(4096)
        console.sendall(GETTY)
        while b"board login: " not in text:
            text += console.recv(4096)
    with pytest.raises(ConfigError, match="wants a login:") as error:
        _ = open_session(machine).handle
    assert "board login:" in error.value.message
    assert "agetty --autologin root" in str(error.value.hint)


def test_missing_parameters(start: Start, open_session: Open) -> None:
    with pytest.raises(BootError, match="was booted without rodata=off"):
        _ = open_session(start("--without=rodata=off")).handle


def test_another_kernel(start: Start, open_session: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    class Other(board_vm.Vmlinux):
        banner = b"Linux version 5.0 "

    session = open_session(start())
    with monkeypatch.context() as patch:
        patch.setattr(board_vm, "Vmlinux", Other)
        with pytest.raises(BootError, match=r"is not that of .*vmlinux"):
            _ = session.handle
    assert session.handle.stopped


@pytest.fixture
def running(start: Start, open_session: Open) -> tuple[Started, Kgdb]:
    machine = start()
    return machine, open_session(machine).handle


def work(kgdb: Kgdb) -> None:
    """Ask kgdb for some 10 kB, and have it stop a few times."""
    address = int(kgdb.evaluate("&init_task"))
    whole = kgdb.read(address, 2000)
    assert kgdb.read(address, 2000) == whole
    with kgdb.breakpoint("do_sys_openat2"):
        kgdb.type("cat /proc/version /proc/uptime /proc/loadavg")
        for _ in range(3):
            assert kgdb.cont().frame.function == "do_sys_openat2"
            assert kgdb.evaluate("init_task.comm").string() == "swapper/0"


def test_line_noise(running: tuple[Started, Kgdb]) -> None:
    """A byte in 2,000, to the board and from it, of kgdb's line."""
    machine, kgdb = running
    for direction in ("in", "out"):
        machine.ask("faults", line="kgdb", direction=direction, noise=2000)
    work(kgdb)
    for direction in ("in", "out"):
        machine.ask("faults", line="kgdb", direction=direction)
    assert kgdb.run("echo alive").output == "alive\n"


def test_dropped_bytes(running: tuple[Started, Kgdb]) -> None:
    machine, kgdb = running
    for direction in ("in", "out"):
        drop = list(range(40, 20_000, 457))
        machine.ask("faults", line="kgdb", direction=direction, drop=drop)
    work(kgdb)
    for direction in ("in", "out"):
        machine.ask("faults", line="kgdb", direction=direction)
    assert kgdb.run("echo alive").output == "alive\n"


def test_a_reset_in_the_middle_of_a_packet(start: Start, open_session: Open) -> None:
    machine = start()
    session = open_session(machine, timeout=40)
    kgdb = session.handle
    machine.ask("faults", line="kgdb", direction="out", drop=list(range(20, 100_000)))
    machine.ask("reset")
    with pytest.raises(KgdbError, match="has reset, and boots: Linux version"):
        kgdb.read(int(kgdb.evaluate("&init_task")), 512)
    machine.ask("faults", line="kgdb", direction="out")
    again = session.acquire(session.settings.for_marker({}, "the next test"))
    assert again.run("echo again").output == "again\n"


@pytest.mark.short
def test_what_a_panic_prints_behind_a_reset(start: Start, open_session: Open) -> None:
    """The line is slow: the kernel's last words come when the next one is expected already."""
    machine = start("--wait")
    session = open_session(machine, reset=machine.reset_command)
    kgdb = session.handle
    kgdb.type("echo c > /proc/sysrq-trigger")
    assert kgdb.cont().reason == "panic"
    again = session.acquire(session.settings.for_marker({}, "the next test"))
    assert "sysrq triggered crash" not in again.dmesg()
    assert again.run("echo alive").output == "alive\n"


def test_a_reset_of_a_running_kernel(start: Start, open_session: Open) -> None:
    machine = start()
    kgdb = open_session(machine).handle
    kgdb.resume()
    machine.ask("reset")
    with pytest.raises(MachineDied, match="has reset, and boots: Linux version"):
        kgdb.wait(timeout=50)


def test_dmesg_is_no_reset(running: tuple[Started, Kgdb]) -> None:
    _, kgdb = running
    time.sleep(1)
    assert "Linux version" in kgdb.run("dmesg").output
    kgdb.resume()
    with pytest.raises(TimeoutError, match="did not stop in 4 s"):
        kgdb.wait(timeout=4)
    assert kgdb.interrupt().reason == "interrupt"


def test_the_line_is_lost(start: Start, open_session: Open) -> None:
    machine = start()
    kgdb = open_session(machine).handle
    kgdb.resume()
    machine.child.kill()
    with pytest.raises(MachineDied, match=r"the line .* is lost"):
        kgdb.wait(timeout=30)
