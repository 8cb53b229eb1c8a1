"""The guest's shell: a stopped kernel runs for a command, and what may come in between."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from fake_gdb import FakeGdb, Parts

from pytest_kgdb.console import Result
from pytest_kgdb.deadline import Deadline
from pytest_kgdb.debugger import GdbError, StopSubscriber
from pytest_kgdb.diagnosis import Diagnosis
from pytest_kgdb.errors import (
    ConfigError,
    DebuggerDied,
    GuestCommandError,
    KernelPanic,
    MachineDied,
    TimeoutError,
)
from pytest_kgdb.guest import Shell, ssh_command_line

PRINTED: Any = object()
"""What knows the kernel's words on the console."""


class Console:
    """A console whose shell takes some looks to answer."""

    log = Path("console.log")

    def __init__(self) -> None:
        self.commands: list[tuple[str, float]] = []
        self.left = 0.0
        self.looks = 3
        self.on_look: Callable[[int], None] = lambda number: None
        self.error: BaseException | None = None

    def run(
        self,
        command: str,
        *,
        deadline: Deadline,
        meanwhile: Callable[[], None],
        printed: object,
        own: bool,
        hint: str,
    ) -> Result:
        assert printed is PRINTED
        self.commands.append((command, deadline.seconds))
        self.left = deadline.left
        for number in range(1, self.looks + 1):
            self.on_look(number)
            meanwhile()
        if self.error is not None:
            raise self.error
        return Result(0, "done\n")


class World(StopSubscriber):
    def __init__(self, parts: Parts, gdb: FakeGdb) -> None:
        self.parts, self.gdb = parts, gdb
        self.control = parts.run_control
        self.console = Console()
        self.wants_oops = False
        console: Any = self.console
        oopses: Any = SimpleNamespace(wants_oops=lambda: self.wants_oops)
        self.shell = Shell(
            parts.run_control,
            console,
            causes=parts.causes,
            oopses=oopses,
            waits=parts.waits,
            printed=PRINTED,
        )

        self.deaf = False
        self.control.subscribe(self)

    def diagnose(self) -> Diagnosis:
        assert not self.control.is_known_stopped, "an interrupt's own stack would be there"
        return Diagnosis("waiting: cat[71] in demo_read", "CPU 0, idle", deaf=self.deaf)

    def at(self, number: int, event: Callable[[], None]) -> None:
        """Have something happen before a look, and be taken note of."""

        def on_look(look: int) -> None:
            if look == number:
                event()
                self.gdb.wait_read()

        self.console.on_look = on_look


@pytest.fixture
def world(parts: Parts, gdb: FakeGdb) -> World:
    return World(parts, gdb)


# A command


def test_one_for_a_shell_that_is_still_to_come(world: World) -> None:
    waited: list[float] = []

    def wait(timeout: float, meanwhile: Callable[[], None]) -> None:
        meanwhile()
        assert world.gdb.running
        assert world.console.commands == []
        waited.append(timeout)
        time.sleep(0.05)

    there = SimpleNamespace(is_there=False, wait=wait)
    ready: Any = there
    world.shell._ready = ready
    world.shell.run("true", 4.0)
    assert world.console.left < 4.0 - 0.04, "of all of its time"
    there.is_there = True
    world.shell.run("true", 4.0)
    assert world.console.left > 4.0 - 0.04
    assert waited == [4.0]
    assert world.console.commands == [("true", 4.0)] * 2


def test_a_stop_before_there_is_a_shell(world: World) -> None:
    def wait(_timeout: float, meanwhile: Callable[[], None]) -> None:
        world.gdb.interrupt()
        world.gdb.wait_read()
        meanwhile()

    ready: Any = SimpleNamespace(is_there=False, wait=wait)
    world.shell._ready = ready
    with pytest.raises(GuestCommandError, match="'true' did not end: the kernel stopped"):
        world.shell.run("true")
    assert world.console.commands == []


def test_a_stopped_kernel_runs_for_it(world: World) -> None:
    states: list[bool] = []
    world.console.on_look = lambda _: states.append(world.gdb.running)
    generation = world.control.generation
    assert world.shell.run("true") == Result(0, "done\n")
    assert states == [True, True, True]
    assert world.control.stopped
    assert world.control.stop is not None
    assert world.control.stop.reason == "interrupt"
    assert world.control.generation == generation + 1


def test_a_running_kernel_runs_on(world: World) -> None:
    world.control.resume()
    world.shell.run("true")
    assert not world.control.stopped


def test_the_guest_may_become_idle_before_it_is_stopped(world: World) -> None:
    waits: list[bool] = []

    def wait(ended: Callable[[], bool]) -> None:
        assert world.gdb.running
        waits.append(ended())

    idle: Any = SimpleNamespace(wait=wait)
    world.shell._idle = idle
    world.shell.run("true")
    assert waits == [False]
    assert world.control.stopped
    world.control.resume()
    world.shell.run("true")
    assert waits == [False], "it is not stopped"


def test_a_breakpoint_while_the_guest_becomes_idle(world: World) -> None:
    world.parts.table.insert("vfs_read")

    def wait(ended: Callable[[], bool]) -> None:
        world.gdb.hit(1)
        world.gdb.wait_read()
        assert ended()

    idle: Any = SimpleNamespace(wait=wait)
    world.shell._idle = idle
    assert world.shell.run("true").status == 0
    assert world.control.stop is not None
    assert world.control.stop.reason == "breakpoint"


def test_a_command_has_the_limit_of_its_time(world: World) -> None:
    world.shell.run("a")
    world.parts.waits.set(9.0)
    world.shell.run("b")
    world.shell.run("c", 2.0)
    assert world.console.commands == [("a", 5.0), ("b", 9.0), ("c", 2.0)]


def test_a_check_may_end_the_wait(world: World) -> None:
    class Arrived(Exception):
        pass

    def check() -> None:
        raise Arrived

    with pytest.raises(Arrived):
        world.shell.run("insmod demo.ko", check=check)


def test_stops_that_no_test_sees(world: World) -> None:
    served: list[int] = []
    world.parts.table.insert_internal("do_init_module", lambda: bool(served.append(1)))
    world.at(2, lambda: world.gdb.hit(1))
    assert world.shell.run("insmod demo.ko").status == 0
    assert served == [1]


# What comes in between


def test_a_breakpoint(world: World) -> None:
    world.parts.table.insert("do_sys_openat2")
    world.at(2, lambda: world.gdb.hit(1))
    with pytest.raises(GuestCommandError) as error:
        world.shell.run("cat /proc/version")
    assert error.value.message == (
        "'cat /proc/version' did not end: the kernel stopped meanwhile, "
        "<Stop breakpoint in #0 do_sys_openat2>"
    )
    assert "cont() to the breakpoint" in (error.value.hint or "")
    assert world.control.stopped, "and it stays there"
    assert world.control.stop is not None
    assert world.control.stop.reason == "breakpoint"


@pytest.mark.parametrize(
    ("reason", "by_test"),
    [("There is no member named x.", True), ("Cannot access memory at address 0x8", False)],
)
def test_a_condition_that_cannot_be_evaluated(world: World, reason: str, by_test: bool) -> None:
    row = world.parts.table.insert("do_sys_openat2", condition="dfd == 1")

    def hit() -> None:
        world.gdb.say(f'&"Error in testing condition for breakpoint {row.number}:\\n"')
        world.gdb.say(f'&"{reason}\\n"')
        world.gdb.hit(row.number)

    world.at(2, hit)
    with pytest.raises(GuestCommandError, match=f"could not evaluate.*{reason}") as error:
        world.shell.run("cat /proc/version")
    assert error.value.by_test == by_test


def test_an_oops(world: World) -> None:
    world.at(2, lambda: world.gdb.signal("SIGSEGV", "demo_crash"))
    with pytest.raises(GuestCommandError, match="<Stop oops in #0 demo_crash>") as error:
        world.shell.run("cat /proc/demo")
    assert "expect_splat" in (error.value.hint or "")


def test_an_oops_that_the_test_expects_is_gone_on_from(world: World) -> None:
    world.wants_oops = True
    world.at(2, lambda: world.gdb.signal("SIGSEGV", "demo_crash"))
    assert world.shell.run("cat /proc/demo").status == 0
    assert world.control.stop is not None
    assert world.control.stop.reason == "interrupt"
    names = [command.name for command in world.gdb.sent("-exec-continue")]
    assert len(names) == 2


def test_a_panic(world: World) -> None:
    world.console.on_look = lambda number: (
        world.gdb.signal("SIGTRAP", "kgdb_breakpoint", "kgdb_panic", "panic", "sysrq_handle_crash")
        if number == 2
        else world.gdb.wait_read()
    )
    with pytest.raises(KernelPanic, match=r"^the kernel panicked during 'echo c > /proc/sysrq'"):
        world.shell.run("echo c > /proc/sysrq")
    assert world.control.stopped


def test_a_panic_past_the_debugger(world: World) -> None:
    world.at(
        2,
        lambda: world.parts.console.show(
            "[    0.9] Kernel panic - not syncing: no more\n"
            "[    0.9] ---[ end Kernel panic - not syncing: no more ]---\n"
        ),
    )
    with pytest.raises(KernelPanic, match="panicked and halted: no more"):
        world.shell.run("cat /proc/demo")


def test_a_resume_that_gdb_gives_up(world: World) -> None:
    def give_up() -> None:
        resume = world.gdb.commands[-1]
        world.gdb.say(
            r'&"Cannot insert breakpoint 9.\n"', f'{resume.token}^error,msg="Command aborted."'
        )

    world.at(2, give_up)
    with pytest.raises(GdbError, match="did not let the kernel run"):
        world.shell.run("true")
    assert world.control.stopped


def test_a_command_that_does_not_end(world: World) -> None:
    world.console.error = TimeoutError("'cat' did not end in 5 s")
    with pytest.raises(TimeoutError) as error:
        world.shell.run("cat")
    assert error.value.message == (
        "'cat' did not end in 5 s: waiting: cat[71] in demo_read\n"
        "what the kernel does:\nCPU 0, idle"
    )
    assert error.value.__cause__ is world.console.error
    assert world.control.stopped, "as it was"
    world.control.resume()
    with pytest.raises(TimeoutError):
        world.shell.run("cat")
    assert not world.control.stopped


def test_a_kernel_that_hears_no_interrupt_is_not_waited_for(world: World) -> None:
    world.console.error = TimeoutError("'cat' did not end in 5 s")
    world.deaf = True
    with pytest.raises(TimeoutError, match="demo_read") as error:
        world.shell.run("cat")
    assert not world.control.stopped
    assert "restore()" in str(error.value.hint)


def test_a_kernel_that_proves_deaf_is_not_waited_for_long(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a storm of interrupts, say, that are served before the console's."""
    monkeypatch.setattr("pytest_kgdb.guest._shell._STOP_SECONDS", 0.05)
    world.console.error = TimeoutError("'cat' did not end in 5 s")
    world.control._send_interrupt = lambda: None
    with pytest.raises(TimeoutError, match="demo_read") as error:
        world.shell.run("cat")
    assert error.value.message.startswith("'cat' did not end in 5 s: ")
    assert "restore()" in str(error.value.hint)
    assert not world.control.stopped
    assert not world.control.hears_interrupts, "nor is it asked again"


def test_a_shell_that_has_ended(world: World) -> None:
    world.console.error = GuestCommandError("the guest's shell ended during 'cat'")
    with pytest.raises(GuestCommandError, match="shell ended"):
        world.shell.run("cat")
    assert world.control.stopped, "as it was"
    world.control.resume()
    with pytest.raises(GuestCommandError):
        world.shell.run("cat")
    assert not world.control.stopped


def test_qemus_end(world: World) -> None:
    world.console.error = MachineDied("the console is closed")

    def end() -> None:
        world.parts.machine.ending = True

    world.at(3, end)
    with pytest.raises(MachineDied, match="QEMU ended while a test was using it") as error:
        world.shell.run("poweroff -f")
    assert error.value.__cause__ is world.console.error


def test_gdbs_end(world: World) -> None:
    world.at(2, world.parts.end_gdb)
    with pytest.raises(DebuggerDied):
        world.shell.run("true")


# ssh


@pytest.fixture
def disk() -> Any:
    return SimpleNamespace(ssh_key=Path("/cache/key"), ssh_host_key="ssh-ed25519 AAAA")


def test_ssh_knows_the_guest_by_its_key(tmp_path: Path, disk: Any) -> None:
    forwards: Any = [
        SimpleNamespace(proto="udp", host=1, guest=22),
        SimpleNamespace(proto="tcp", host=4022, guest=22),
    ]
    argv = ssh_command_line(forwards, tmp_path, disk)
    assert argv[-1] == "root@127.0.0.1"
    assert argv[argv.index("-p") + 1] == "4022"
    assert argv[argv.index("-i") + 1] == "/cache/key"
    assert argv[argv.index("-F") + 1] == "none", "nothing of the user's"
    assert {"-oStrictHostKeyChecking=yes", "-oBatchMode=yes"} <= set(argv)
    assert (tmp_path / "known_hosts").read_text() == "guest ssh-ed25519 AAAA\n"


def test_ssh_without_a_way_or_a_key(tmp_path: Path, disk: Any) -> None:
    with pytest.raises(ConfigError, match="guest's port 22") as error:
        ssh_command_line([], tmp_path, disk)
    assert error.value.hint == "--kgdb-forward=tcp:0:22"
    forwards: Any = [SimpleNamespace(proto="tcp", host=4022, guest=22)]
    for without in (None, SimpleNamespace(ssh_key=None, ssh_host_key="x")):
        missing: Any = without
        with pytest.raises(ConfigError, match="has a key only for a Debian"):
            ssh_command_line(forwards, tmp_path, missing)
