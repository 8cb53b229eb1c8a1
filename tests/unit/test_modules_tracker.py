"""What the kernel does with its modules, followed by breakpoints that no test sees."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from fake_gdb import Parts
from fake_hooks import INIT as INIT_DATA
from fake_hooks import SYMBOLS, HookedRelay, compiled, freeing
from fake_module import COMING, LIVE, KernelList, ModuleGdb, registry, write_module

from pytest_kgdb.debugger import Restored, StopRecord
from pytest_kgdb.modules import ModuleRegistry, ModuleSymbols, ModuleTracker
from pytest_kgdb.trace import Instruments

KERNEL: dict[str, int | list[int]] = {
    "do_init_module": 0xFFFFFFFF810B3DC0,
    "trim_init_extable": 0xFFFFFFFF810B2000,
    "free_module": 0xFFFFFFFF810B3000,
    "do_sys_openat2": 0xFFFFFFFF811B09C0,
}
FUNCTIONS = {
    "demo.ko": {"demo_init": (".init.text", 0x14), "demo_add": (".text", 0x0)},
    "other.ko": {"other_add": (".text", 0x0)},
}
TEXT, INIT, STRUCT = 0xFFFFFFFFA0000000, 0xFFFFFFFFA0005000, 0xFFFFFFFFA0001000


class World:
    """A kernel that loads modules, and a tracker that follows it."""

    def __init__(self, directory: Path, *, enabled: bool = True) -> None:
        self.gdb = ModuleGdb(KERNEL, FUNCTIONS)
        self.parts = parts = Parts(directory, self.gdb, expects=lambda name: name == "demo_init")
        self.kernel = KernelList()
        self.registers: dict[str, int] = {}
        self.registry: ModuleRegistry = registry()
        self.files = {name: write_module(directory / name, name) for name in ("demo", "other")}
        self.relay = HookedRelay()
        self.instruments = Instruments(
            parts.debugger,
            parts.run_control,
            self.relay,
            parts.locations,
            SimpleNamespace(name=str),  # the source
            memory := freeing(self.relay),
            SimpleNamespace(),  # type: ignore[arg-type] # how functions fail
        )
        kernel: Any = self.kernel
        self.symbols = ModuleSymbols(parts.debugger, parts.table, kernel, self.registry, directory)
        self.tracker = ModuleTracker(
            parts.run_control,
            parts.table,
            self.instruments,
            kernel=kernel,
            registry=self.registry,
            symbols=self.symbols,
            freeing=memory,
            register=lambda name: self.registers[name],
            enabled=enabled,
        )
        self.gdb.agent["function"] = self._function

    def _function(
        self, location: str, expressions: list[str], conditions: int, cpu: str
    ) -> dict[str, Any]:
        (address,) = self.gdb.address_of(location)
        codes = [compiled("const8 0") for _ in expressions]
        place = {"name": location, "address": address, "inlined": False, "file": "a.c", "line": 1,
                 "returns": None, "arguments": [], "expressions": codes}  # fmt: skip
        return {"places": [place]}

    def spy(self, function: str) -> Any:
        return self.instruments.spy(function, (), returns=False, keep=10)

    @property
    def internal(self) -> set[str]:
        """The functions in which there is a breakpoint that no test sees."""
        mine = {row.number for row in self.parts.table.rows()}
        return {row.original for row in self.gdb.rows.values() if row.number not in mine}

    def at(self, function: str, module: int) -> None:
        """Have the kernel come to a function of its loader, with a module as its argument."""
        self.registers["di"] = module
        number = next(
            row.number for row in self.gdb.rows.values() if row.original == f"*{function}"
        )
        self.gdb.hit(number)

    def load(self, name: str = "demo", at: int = 0, state: int = COMING) -> int:
        self.kernel.load(name, STRUCT + at, state=state, text=TEXT + at, init_text=INIT + at)
        return STRUCT + at

    def known(self, name: str = "demo") -> None:
        self.registry.add(self.files[name])


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    world = World(tmp_path)
    yield world
    world.parts.close()


# Which breakpoints there are


def test_without_modules_there_is_none(world: World) -> None:
    world.parts.table.insert("do_sys_openat2")
    world.spy("do_sys_openat2")
    assert world.internal == set()


def test_a_breakpoint_that_waits_has_the_loader_watched(world: World) -> None:
    world.parts.table.insert("demo_init")
    assert world.internal == {"*do_init_module"}
    world.tracker.watch()
    assert len(world.gdb.sent("-break-insert")) == 2


@pytest.mark.parametrize("what", ["breakpoint", "spy"])
@pytest.mark.parametrize("freed", [False, True])
def test_what_is_in_a_module_has_its_end_watched(world: World, what: str, freed: bool) -> None:
    world.known()
    world.load(state=LIVE if freed else COMING)
    world.symbols.sync(None)
    if what == "breakpoint":
        world.parts.table.insert("demo_add")
    else:
        world.spy("demo_add")
    assert world.internal == ({"*free_module"} if freed else {"*free_module", "*trim_init_extable"})


def test_what_is_elsewhere_has_not(world: World) -> None:
    world.known()
    world.load()
    world.symbols.sync(None)
    world.parts.table.insert("do_sys_openat2")
    assert world.internal == set()


def test_a_kernel_without_one_of_these_functions_goes_unguarded(world: World) -> None:
    del world.gdb.symbols["trim_init_extable"], world.gdb.symbols["free_module"]
    world.known()
    world.load()
    world.symbols.sync(None)
    world.parts.table.insert("demo_add")
    assert world.internal == set()


# A module comes


def test_its_symbols_are_known_before_its_init(world: World) -> None:
    world.known()
    waiting = world.parts.table.insert("demo_init")

    def loads() -> None:
        module = world.load()
        world.gdb.on_resume = lambda: world.gdb.hit(waiting.number)
        world.at("do_init_module", module)

    stop = world.parts.stop_by(loads)
    assert stop.breakpoint is waiting, "the first is not seen to stop"
    assert waiting.address == INIT + 0x14
    assert set(world.registry.loaded) == {"demo"}
    assert "*free_module" in world.internal, "and its end is watched from now on"


def test_one_that_nobody_named_is_known_too(world: World) -> None:
    world.tracker.watch()
    world.registry._named = {"demo": world.files["demo"]}  # a file of the kernel's own tree, say

    def loads() -> None:
        module = world.load()
        world.gdb.on_resume = lambda: world.gdb.interrupt()
        world.parts.run_control._interrupting = True
        world.at("do_init_module", module)

    world.parts.stop_by(loads)
    assert set(world.registry.loaded) == {"demo"}


def test_stopping_before_its_init(world: World) -> None:
    world.known()
    world.known("other")
    world.tracker.watch()
    with world.tracker.stopping_at("demo"):

        def loads() -> None:
            other = world.load("other", 0x10000)
            world.gdb.on_resume = lambda: world.at("do_init_module", world.load())
            world.at("do_init_module", other)

        assert not world.tracker.arrived
        stop = world.parts.stop_by(loads)
        assert world.tracker.arrived
    assert (stop.reason, stop.breakpoint) == ("breakpoint", None)
    assert set(world.registry.loaded) == {"demo", "other"}


def test_it_stops_once(world: World) -> None:
    world.known()
    world.tracker.watch()
    opened = world.parts.table.insert("do_sys_openat2")
    with world.tracker.stopping_at("demo"):
        world.parts.stop_by(lambda: world.at("do_init_module", world.load()))

        def again() -> None:
            world.gdb.on_resume = lambda: world.gdb.hit(opened.number)
            world.at("do_init_module", world.load())

        assert world.parts.stop_by(again).breakpoint is opened


# Its init ends


def test_what_is_in_a_freed_init_ends(world: World) -> None:
    world.known()
    module = world.load()
    world.symbols.sync(None)
    init = world.parts.table.insert("demo_init")
    add = world.parts.table.insert("demo_add")
    in_init, in_text = world.spy("demo_init"), world.spy("demo_add")

    def ends() -> None:
        world.gdb.on_resume = lambda: world.gdb.hit(add.number)
        world.kernel.set_state("demo", LIVE)  # kernel/module/main.c, do_init_module
        world.at("trim_init_extable", module)

    world.parts.stop_by(ends)
    rows = world.gdb.rows
    assert [rows[one.number].places[0].enabled for one in (init, add)] == [False, True]
    assert (in_init.active, in_text.active) == (False, True)
    assert world.registry.loaded["demo"].init_freed


# It goes


def test_what_is_in_a_freed_module_ends(world: World) -> None:
    world.known()
    module = world.load(state=LIVE)
    world.symbols.sync(None)
    added = world.parts.table.insert("demo_add")
    opened = world.parts.table.insert("do_sys_openat2")
    spy = world.spy("demo_add")

    def goes() -> None:
        world.gdb.on_resume = lambda: world.gdb.hit(opened.number)
        world.at("free_module", module)
        world.kernel.unload("demo")

    world.parts.stop_by(goes)
    assert (added.address, added.enabled, spy.active) == (None, True, False)
    assert world.registry.loaded == {}
    assert [one.name for one in world.registry.unloaded] == ["demo"]


def watch(world: World, address: int) -> Any:
    world.gdb.numbers |= {"(unsigned long)&(total)": address, "sizeof(total)": 4}
    return world.parts.table.watch("total", "write")


def test_what_is_at_an_address_ends_too(world: World) -> None:
    """It would be in the memory of the module that is loaded there next."""
    world.known()
    module = world.load(state=LIVE)
    world.symbols.sync(None)
    point = world.parts.table.insert(f"*{TEXT + 3:#x}")
    elsewhere = world.parts.table.insert(f"*{KERNEL['do_sys_openat2']:#x}")
    watched, other = watch(world, TEXT + 0x10), watch(world, TEXT + 0x20000)
    assert world.internal == {"*free_module"}

    def goes() -> None:
        world.gdb.on_resume = lambda: world.gdb.hit(elsewhere.number)
        world.at("free_module", module)
        world.kernel.unload("demo")

    world.parts.stop_by(goes)
    ones = (point, watched, elsewhere, other)
    assert [one.enabled for one in ones] == [False, False, True, True]
    assert [one.number in world.gdb.rows for one in ones] == [False, False, True, True]
    why = "is deleted: module demo is not loaded any more"
    assert world.parts.table.awaited().endswith(
        f"; watchpoint {watched.number} at total {why}"
        f"; breakpoint {point.number} at {point.location} {why}"
    )
    world.parts.table.clear()
    assert world.parts.table.awaited() == ", having no breakpoint to stop at"


def test_a_watchpoint_alone_has_the_modules_end_watched(world: World) -> None:
    world.known()
    world.load(state=LIVE)
    world.symbols.sync(None)
    watch(world, TEXT + 0x10)
    assert world.internal == {"*free_module"}


def test_so_does_what_was_made_at_the_prompt(world: World) -> None:
    world.known()
    world.load(state=LIVE)
    world.symbols.sync(None)
    world.parts.prompt(f"break *{TEXT + 3:#x}")
    assert world.internal == set()
    world.parts.table.announce_others()
    assert world.internal == {"*free_module"}
    sent = len(world.gdb.sent("-break-list"))
    world.parts.table.announce_others()
    assert len(world.gdb.sent("-break-list")) == sent


def test_watchpoints_in_a_freed_init_end(world: World) -> None:
    world.known()
    module = world.load()
    world.symbols.sync(None)
    opened = world.parts.table.insert("do_sys_openat2")
    in_init, in_text = watch(world, INIT + 8), watch(world, TEXT + 8)

    def ends() -> None:
        world.gdb.on_resume = lambda: world.gdb.hit(opened.number)
        world.kernel.set_state("demo", LIVE)
        world.at("trim_init_extable", module)

    world.parts.stop_by(ends)
    assert (in_init.enabled, in_text.enabled) == (False, True)


def test_a_module_that_gdb_has_no_symbols_of_is_left(world: World) -> None:
    world.known()
    world.load(state=LIVE)
    world.symbols.sync(None)
    world.parts.table.insert("demo_add")
    opened = world.parts.table.insert("do_sys_openat2")

    def goes() -> None:
        world.gdb.on_resume = lambda: world.gdb.hit(opened.number)
        world.at("free_module", 0xFFFFFFFFA00F0000)

    world.parts.stop_by(goes)
    assert set(world.registry.loaded) == {"demo"}


# At stops


def record(reason: Any, **fields: Any) -> StopRecord:
    return StopRecord({}, reason=reason, **fields)


def test_a_stop_makes_symbols_equal_to_what_is_loaded(world: World) -> None:
    world.known()
    world.load()
    world.load("other", 0x10000)
    world.tracker.stopped(record("breakpoint", internal=True))
    assert world.registry.loaded == {}, "the tracker has just done so"
    world.tracker.stopped(record("breakpoint"))
    assert set(world.registry.loaded) == {"demo"}, "those that are watched"


@pytest.mark.parametrize("reason", ["oops", "panic"])
def test_trouble_may_be_in_any_module(world: World, tmp_path: Path, reason: str) -> None:
    world.registry._named["other"] = world.files["other"]
    world.load("other", 0x10000)
    world.tracker.stopped(record("breakpoint"))
    assert world.registry.loaded == {}
    world.tracker.stopped(record(reason))
    assert set(world.registry.loaded) == {"other"}


def test_damaged_memory_hides_no_stop(world: World) -> None:
    from pytest_kgdb.errors import KgdbError

    def broken() -> Iterator[Any]:
        raise KgdbError("not mapped")

    world.known()
    world.kernel.listing = broken  # type: ignore[method-assign]
    world.tracker.stopped(record("oops"))


def test_a_kernel_without_modules_is_not_asked(tmp_path: Path) -> None:
    world = World(tmp_path, enabled=False)
    world.known()
    world.load()
    world.tracker.stopped(record("breakpoint"))
    assert world.registry.loaded == {}
    world.parts.close()


# Restores


def test_another_test_knows_only_its_own(world: World) -> None:
    world.known()
    world.load(state=LIVE)
    world.symbols.sync(None)
    world.kernel.unload("demo")
    world.tracker.restored(Restored(keep_breakpoints=False))
    assert (world.registry.loaded, world.registry.unloaded) == ({}, [])
    assert world.registry.find("demo") is None
    assert world.gdb.files == {}


def test_a_tests_own_restore_follows_the_kernel(world: World) -> None:
    world.known()
    world.load(state=LIVE)
    world.symbols.sync(None)
    world.load()  # the snapshot is of before its init
    with world.tracker.stopping_at("other"):
        world.tracker.restored(Restored(keep_breakpoints=True))
        assert world.tracker.arrived, "nothing is waited for any more"
    assert not world.registry.loaded["demo"].init_freed
    assert world.registry.is_known("demo")


# What is read of a module


def test_what_a_condition_reads_has_its_end_watched(world: World) -> None:
    world.known()
    module = world.load(state=LIVE)
    world.symbols.sync(None)
    addresses = {"demo_total == 3": TEXT + 0x80, "jiffies == 3": 1}
    world.gdb.agent["condition"] = lambda text, location: {
        "condition": text,
        "addresses": [addresses[text]],
    }
    opened = world.parts.table.insert("do_sys_openat2", condition="jiffies == 3")
    assert world.internal == set()
    opened.condition = "demo_total == 3"
    assert world.internal == {"*free_module"}

    def goes() -> None:
        world.gdb.on_resume = lambda: world.gdb.hit(opened.number)
        world.at("free_module", module)
        world.kernel.unload("demo")

    world.parts.stop_by(goes)
    condition = world.gdb.rows[opened.number].condition
    assert condition == '$_gone("module demo is not loaded any more")'


def test_what_a_condition_reads_of_init_data_has_its_end_watched(world: World) -> None:
    world.gdb.symbols["0xffffffff8158f700"] = SYMBOLS["free_initmem"]
    world.gdb.agent["condition"] = lambda text, location: {
        "condition": text,
        "addresses": [INIT_DATA],
    }
    opened = world.parts.table.insert("do_sys_openat2", condition="boot_command_line[0] == 0")
    assert world.internal == {"*0xffffffff8158f700"}

    def goes() -> None:
        world.gdb.on_resume = lambda: world.gdb.hit(opened.number)
        world.at("0xffffffff8158f700", 0)

    world.parts.stop_by(goes)
    condition = world.gdb.rows[opened.number].condition
    assert condition == '$_gone("the kernel has freed its init memory")'
