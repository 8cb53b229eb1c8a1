"""Loading and unloading, as a test asks for it: the guest's commands, and the kernel's reasons."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from fake_module import COMING, LIVE, KernelList, registry, write_module

from pytest_kgdb.actions import ActionLog
from pytest_kgdb.console import Result
from pytest_kgdb.debugger import RunControl
from pytest_kgdb.errors import ConfigError, GuestCommandError, KernelPanic, KgdbError
from pytest_kgdb.modules import Modules
from pytest_kgdb.modules._modules import _new_lines


class Control:
    """Run control, as far as modules ask it."""

    def __init__(self) -> None:
        self.stopped = True
        self.reason: Any = "interrupt"
        self.message: str | None = None
        self.frame: Any = None
        self.calls: list[str] = []

    @property
    def stop(self) -> Any:
        return self if self.stopped else None

    def __repr__(self) -> str:
        return f"<Stop {self.reason}>"

    def require_stopped(self, what: str) -> None:
        assert self.stopped, what

    kept_stopped = RunControl.kept_stopped
    _console = SimpleNamespace(log=Path("console.log"))

    @property
    def _stopped(self) -> bool:
        return self.stopped

    def interrupt(self) -> Any:
        self.calls.append("interrupt")
        self.stopped = True
        return self

    def resume(self) -> None:
        self.calls.append("resume")
        self.stopped = False


class Where(str):
    """A frame of a stop."""

    __slots__ = ()
    function = "demo_init"
    file = "demo.c"
    inlined = False


class World:
    def __init__(self, directory: Path) -> None:
        self.control = Control()
        self.kernel = KernelList()
        self.registry = registry(provided=[])
        self.directory = directory
        self.commands: list[str] = []
        self.log = ""
        self.answers: dict[str, Callable[[], Result]] = {}
        self.put: list[str] = []
        self.synced: list[set[str]] = []
        self.watches = 0
        self.awaited: str | None = None
        self.initialised: set[str] = set()
        self.arrives = True
        parts: Any = self
        self.modules = Modules(
            parts.control,
            parts,
            SimpleNamespace(put=lambda local, remote, hint: self.put.append(remote)),  # type: ignore[arg-type]
            parts,
            kernel=parts.kernel,
            registry=self.registry,
            symbols=parts,
            tracker=parts,
            refusal=None,
            actions=ActionLog(),
        )

    # The shell

    console = SimpleNamespace(log=Path("console.log"))

    def forget_init(self, name: str) -> None:
        self.initialised.discard(name)

    def ran_init(self, name: str) -> bool:
        return name in self.initialised

    def run(
        self,
        command: str,
        timeout: float | None = None,
        *,
        check: Any = lambda: None,
        hint: str = "",
    ) -> Result:
        assert hint == "a larger kgdb.timeout, if it only needs longer"
        self.commands.append(command)
        for start, answer in self.answers.items():
            if command.startswith(start):
                return answer()
        if command.startswith("insmod") and self.awaited is not None and self.arrives:
            self.awaited = None
            self.control.reason = "breakpoint"
            check()
        name = Path(command.split()[1]).stem
        if command.startswith("rmmod"):
            self.kernel.unload(name)
        else:
            self.kernel.load(name, 0x1000 + len(self.commands), state=LIVE)
        return Result(0, "")

    # The log, the symbols, the tracker

    def dmesg(self) -> str:
        return self.log

    def dmesg_end(self) -> str:
        return self.log[self.log.rfind("\n", 0, -1) + 1 :]

    def sync(self, names: set[str]) -> None:
        self.synced.append(set(names))

    def watch(self) -> None:
        self.watches += 1

    def stopping_at(self, name: str) -> Any:
        import contextlib

        @contextlib.contextmanager
        def stopping() -> Iterator[None]:
            self.awaited = name
            yield
            self.awaited = None

        return stopping()

    @property
    def arrived(self) -> bool:
        return self.awaited is None

    def refuse(self, *lines: str, output: str = "") -> Result:
        for line in lines:
            self.log += f"[    {len(self.log)}.0] {line}\n"
        return Result(1, output)


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    monkeypatch.setattr("pytest_kgdb.modules._registry.run", lambda *_, **__: None)  # strip
    return World(tmp_path)


# Loading


def test_from_the_host(world: World) -> None:
    demo = write_module(world.directory, "demo")
    module = world.modules.load(demo, answer=42)
    assert (module.name, module.state, module.loaded, module.file) == ("demo", "live", True, demo)
    assert world.put == ["/run/demo.ko"]
    assert world.commands == ["insmod /run/demo.ko answer=42"]
    assert world.synced == [{"demo"}]
    assert world.watches == 1
    assert world.control.calls == []


def test_a_parameter_that_it_does_not_have(world: World) -> None:
    demo = write_module(world.directory, "demo")
    with pytest.raises(ConfigError, match="no parameter 'answr'"):
        world.modules.load(demo, answr=42)
    assert world.commands == []


def test_what_it_needs_is_loaded_before(world: World) -> None:
    other = write_module(world.directory, "other")
    demo = write_module(world.directory, "demo", depends="crc16,other")
    world.modules.known(other)
    world.modules.load(demo)
    assert world.commands == ["modprobe crc16", "insmod /run/other.ko", "insmod /run/demo.ko"]
    world.modules.unload("demo")
    world.modules.load("demo")
    assert world.commands[3:] == ["rmmod demo", "insmod /run/demo.ko"]


def test_a_running_kernel_runs_on(world: World) -> None:
    demo = write_module(world.directory, "demo")
    world.control.stopped = False
    world.modules.load(demo)
    assert world.control.calls == ["interrupt", "resume"]


@pytest.mark.parametrize("way", ["load", "load_stopped", "unload"])
def test_a_kernel_that_comes_to_a_breakpoint_first_stays_there(world: World, way: str) -> None:
    demo = write_module(world.directory, "demo")
    world.modules.load(demo)
    done = len(world.commands)
    world.control.stopped, world.control.reason = False, "breakpoint"
    with pytest.raises(GuestCommandError, match=r"oading .*was not begun.*<Stop breakpoint>"):
        getattr(world.modules, way)("demo")
    assert world.control.calls == ["interrupt"]
    assert len(world.commands) == done


def test_the_kernels_reason(world: World) -> None:
    demo = write_module(world.directory, "demo")
    world.log = "[    0.5] before\n"
    world.answers["insmod"] = lambda: world.refuse(
        "demo: no", "sysrq: DEBUG", "demo: no", output="insmod: can't insert: File exists\n"
    )
    for stopped in (True, False):
        world.control.stopped = stopped
        with pytest.raises(GuestCommandError) as error:
            world.modules.load(demo)
        assert world.control.stopped is stopped
        assert error.value.message == (
            "loading demo failed: insmod: can't insert: File exists\nthe kernel said:\n    demo: no"
        )


@pytest.mark.parametrize("ran", [True, False])
def test_an_error_that_its_init_returned(world: World, ran: bool) -> None:
    words = "unknown symbol in module, or unknown parameter"

    def fail() -> Result:
        if ran:
            world.initialised.add("demo")
        return world.refuse(output=f"insmod: can't insert 'demo.ko': {words}\n")

    world.initialised.add("demo")  # an earlier time
    world.answers["insmod"] = fail
    with pytest.raises(GuestCommandError) as error:
        world.modules.load(write_module(world.directory, "demo"))
    said = "its init returned -ENOENT" if ran else words
    assert error.value.message == f"loading demo failed: insmod: can't insert 'demo.ko': {said}"


def test_an_oops_in_its_init(world: World) -> None:
    demo = write_module(world.directory, "demo")

    def oops() -> Result:
        world.control.reason, world.control.message = "oops", "kernel NULL pointer dereference"
        world.control.frame = Where("#2 demo_init at demo.c:25")
        raise GuestCommandError("'insmod' did not end")

    def panic() -> Result:
        world.control.reason, world.control.message = "panic", "no more"
        raise GuestCommandError("'insmod' did not end")

    world.answers["insmod"] = oops
    with pytest.raises(KernelPanic) as error:
        world.modules.load(demo)
    assert error.value.message == (
        "loading demo: the kernel oopsed in demo_init at demo.c:25: kernel NULL pointer dereference"
    )
    world.answers["insmod"] = panic
    with pytest.raises(
        KernelPanic, match=r"the kernel panicked in demo_init at demo\.c:25: no more"
    ):
        world.modules.load(demo)


def test_a_breakpoint_in_its_init(world: World) -> None:
    demo = write_module(world.directory, "demo")

    def hit() -> Result:
        world.control.reason = "breakpoint"
        raise GuestCommandError("'insmod' did not end")

    world.answers["insmod"] = hit
    with pytest.raises(GuestCommandError) as error:
        world.modules.load(demo)
    assert error.value.message == (
        "loading demo did not end: the kernel stopped meanwhile, <Stop breakpoint>"
    )
    assert "load_stopped(), then cont()" in (error.value.hint or "")


# Up to its init


@pytest.mark.parametrize("name", ["load_stopped", "begin"])
@pytest.mark.parametrize("stopped", [True, False])
def test_up_to_its_init(world: World, name: str, stopped: bool) -> None:
    demo = write_module(world.directory, "demo")
    world.control.stopped = stopped
    module = getattr(world.modules, name)(demo, answer=1)
    assert module.name == "demo"
    assert world.control.stopped
    assert world.control.calls == ([] if stopped else ["interrupt"])


def test_one_that_never_comes_to_its_init(world: World) -> None:
    demo = write_module(world.directory, "demo")
    world.arrives = False
    world.answers["insmod"] = lambda: world.refuse("demo: disagrees about version")
    world.control.stopped = False
    with pytest.raises(
        GuestCommandError, match=r"(?s)loading demo failed.*disagrees about version"
    ):
        world.modules.load_stopped(demo)
    assert not world.control.stopped, "as it was"


# Unloading


def test_unloading(world: World) -> None:
    module = world.modules.load(write_module(world.directory, "demo"))
    module.unload()
    assert world.commands[-1] == "rmmod demo"
    assert len(world.synced) == 2
    assert (module.loaded, module.state) == (False, None)
    assert repr(module) == "<Module demo: not loaded>"
    with pytest.raises(KgdbError, match="module demo is not loaded; these are: none"):
        _ = module.address


def test_one_that_is_in_use(world: World) -> None:
    world.answers["rmmod"] = lambda: world.refuse(output="rmmod: Module demo is in use\n")
    with pytest.raises(
        GuestCommandError, match="unloading demo_x failed: rmmod: Module demo is in"
    ):
        world.modules.unload("demo-x")


# The mapping


def test_what_is_loaded(world: World) -> None:
    world.kernel.load("demo", 0x1000, state=LIVE, text=0x5000)
    world.kernel.load("third_one", 0x2000, state=COMING)
    modules = world.modules
    assert [module.name for module in modules] == ["third_one", "demo"]
    assert len(modules) == 2
    assert "third-one" in modules
    assert "other" not in modules
    assert modules["third-one"].state == "coming"
    assert world.synced == [{"third_one"}], "with its symbols"
    assert (modules["demo"].address, modules["demo"].sections) == (0x1000, {".text": 0x5000})
    with pytest.raises(KeyError, match="other is not loaded; these are: third_one, demo"):
        modules["other"]


def test_a_kernel_without_modules(world: World) -> None:
    world.modules._refusal = ConfigError("the kernel has no modules")
    for use in (
        lambda: len(world.modules),
        lambda: world.modules.load("demo"),
        lambda: world.modules.unload("demo"),
        lambda: world.modules["demo"],
    ):
        with pytest.raises(ConfigError, match="has no modules"):
            use()


def test_the_new_lines_of_a_log() -> None:
    before = "[    0.1] one\n[    0.2] two\n"
    after = before + "[    0.3] demo: no\n[    0.3] sysrq: DEBUG\n[    0.4] demo: no\n"
    assert _new_lines(before, after) == ["demo: no"]
    assert _new_lines("", "[    0.1] one\n") == ["one"]
    assert _new_lines("[ 0.1] gone from the ring\n", "[ 0.2] later\n") == ["later"]
    assert _new_lines(before, before) == []


def test_one_that_is_not_loaded_though_insmod_reports_no_error(world: World) -> None:
    world.answers["insmod"] = lambda: Result(0, "")
    world.log = "[    1.0] demo: fails\n"
    with pytest.raises(GuestCommandError, match=r"no error, and the kernel has no module") as error:
        world.modules.load(write_module(world.directory, "demo"))
    assert "-4095" in (error.value.hint or "")


def test_a_file_in_the_guest_of_another_name_than_its_modules(world: World) -> None:
    world.modules.load(write_module(world.directory, "first"))

    def insmod() -> Result:
        world.kernel.load("demo", 0x3000, state=LIVE)
        return Result(0, "")

    world.answers["insmod"] = insmod
    module = world.modules.load("/tmp/renamed.ko")
    assert (module.name, module.loaded) == ("demo", True)
    assert "demo" in world.synced[-1]
