"""gdb's symbols of modules: equal to what the kernel has loaded, whatever it did meanwhile."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fake_gdb import Parts
from fake_module import COMING, LIVE, KernelList, ModuleGdb, registry, write_module

from pytest_kgdb.debugger import GdbError
from pytest_kgdb.errors import KgdbError
from pytest_kgdb.modules import ModuleRegistry, ModuleSymbols
from pytest_kgdb.modules._symbols import _overlap
from pytest_kgdb.trace import FreedMemory

TEXT, INIT, STRUCT = 0xFFFFFFFFA0000000, 0xFFFFFFFFA0005000, 0xFFFFFFFFA0001000
FUNCTIONS = {
    "demo.ko": {"demo_init": (".init.text", 0x14), "demo_add": (".text", 0x0)},
    "other.ko": {"other_init": (".init.text", 0x8), "other_add": (".text", 0x10)},
}


class World:
    """A kernel with modules, gdb, and what keeps them equal."""

    def __init__(self, directory: Path) -> None:
        self.gdb = ModuleGdb({"do_init_module": 0xFFFFFFFF810B3DC0}, FUNCTIONS)
        self.parts = Parts(directory, self.gdb)
        self.kernel = KernelList()
        self.files = {name: write_module(directory / name, name) for name in ("demo", "other")}
        self.registry: ModuleRegistry = registry()
        for path in self.files.values():
            self.registry.add(path)
        copies = directory / "copies"
        copies.mkdir()
        kernel: Any = self.kernel
        self.symbols = ModuleSymbols(
            self.parts.debugger, self.parts.table, kernel, self.registry, copies
        )

    def sync(self) -> None:
        self.symbols.sync(None)

    @property
    def added(self) -> dict[str, dict[str, int]]:
        """The symbol files that gdb has, by their modules."""
        return {Path(path).stem: sections for path, sections in self.gdb.files.items()}


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    world = World(tmp_path)
    yield world
    world.parts.close()


def load(world: World, name: str = "demo", at: int = 0, **fields: int) -> None:
    fields = {"text": TEXT + at, "init_text": INIT + at, **fields}
    world.kernel.load(name, STRUCT + at, **fields)


# Coming and going


def test_one_that_was_loaded(world: World) -> None:
    load(world, symtab=0x1, strtab=0x2)
    world.kernel._sections[STRUCT]["__versions"] = 3
    world.sync()
    assert world.added == {"demo": {".text": TEXT, ".init.text": INIT}}
    module = world.registry.loaded["demo"]
    assert (module.name, module.address, module.init_freed) == ("demo", STRUCT, False)
    assert module.ranges == [(TEXT, TEXT + 0x100, False), (INIT, INIT + 0x80, True)]
    world.sync()
    assert len(world.gdb.sent("console")) == 3, "gdb is told once"


def test_an_index_of_gdbs_would_hold_the_addresses_of_another_time(world: World) -> None:
    load(world)
    world.sync()
    lines = [command.arguments[0] for command in world.gdb.sent("console")]
    assert [line.split('"')[0] for line in lines] == [
        "set index-cache enabled off",
        "add-symbol-file ",
        "set index-cache enabled on",
    ]


def test_one_without_a_file_has_no_symbols(world: World) -> None:
    load(world, "unknown")
    world.sync()
    assert world.added == {}
    assert world.registry.loaded == {}


def test_only_those_that_are_asked_for(world: World) -> None:
    load(world)
    load(world, "other", 0x10000)
    world.symbols.sync({"other"})
    assert set(world.added) == {"other"}
    world.symbols.sync(())
    assert set(world.added) == {"other"}, "what is there stays"


def test_one_that_was_unloaded(world: World) -> None:
    load(world)
    world.sync()
    world.kernel.unload("demo")
    world.sync()
    assert world.added == {}
    assert world.registry.loaded == {}
    assert [module.name for module in world.registry.unloaded] == ["demo"]
    world.symbols.remove("demo")
    assert len(world.registry.unloaded) == 1


@pytest.mark.parametrize("seen_live", [False, True])
def test_one_that_was_loaded_again_elsewhere(world: World, seen_live: bool) -> None:
    load(world)
    world.sync()
    if seen_live:
        world.kernel.set_state("demo", LIVE)
        world.sync()
    load(world, at=0x20000)
    world.sync()
    assert world.added["demo"][".text"] == TEXT + 0x20000
    assert world.registry.loaded["demo"].address == STRUCT + 0x20000
    assert not world.registry.loaded["demo"].init_freed
    assert [module.address for module in world.registry.unloaded] == [STRUCT]


def test_one_that_was_loaded_again_at_the_same_place(world: World) -> None:
    load(world)
    world.sync()
    world.kernel.set_state("demo", LIVE)
    world.sync()
    assert world.registry.loaded["demo"].init_freed
    world.kernel.set_state("demo", COMING)
    world.kernel.load("demo", STRUCT, text=TEXT, init_text=INIT + 0x4000)
    world.sync()
    assert world.added["demo"][".init.text"] == INIT + 0x4000
    assert not world.registry.loaded["demo"].init_freed


def test_another_file_of_the_same_name(world: World, tmp_path: Path) -> None:
    load(world)
    world.sync()
    newer = write_module(tmp_path / "newer", "demo", text=0x200)
    world.registry.add(newer)
    world.sync()
    assert list(world.gdb.files) == [str(newer)]
    assert world.registry.loaded["demo"].ranges[0] == (TEXT, TEXT + 0x200, False)


def test_a_file_of_the_same_name_that_is_not_what_is_loaded(world: World, tmp_path: Path) -> None:
    older, newer = (
        write_module(tmp_path / build.decode(), "twin", text=text, build_id=build * 20)
        for build, text in ((b"o", 0x180), (b"n", 0x200))
    )
    world.registry.add(older)
    world.kernel.loaded_build_id = b"o" * 20
    load(world, "twin")
    world.sync()
    world.registry.add(newer)
    world.sync()
    assert list(world.gdb.files) == [str(older)]
    # It is exchanged for the other, at the same addresses.
    world.kernel.loaded_build_id = b"n" * 20
    world.sync()
    assert list(world.gdb.files) == [str(newer)]
    # It is exchanged for one of which there is no file.
    world.registry.add(older)
    world.kernel.loaded_build_id = b"?" * 20
    world.sync()
    assert world.gdb.files == {}
    assert world.registry.unlike == {"twin"}
    world.registry.reset()
    world.sync()
    assert world.registry.unlike == set()


def test_a_file_that_was_built_anew(world: World) -> None:
    load(world)
    world.sync()
    world.kernel.unload("demo")
    world.sync()
    write_module(world.files["demo"].parent, "demo", text=0x300)
    load(world)
    world.sync()
    assert world.registry.loaded["demo"].ranges[0] == (TEXT, TEXT + 0x300, False)


def test_a_file_that_gdb_does_not_take(world: World) -> None:
    load(world)
    world.gdb.replies["console"] = lambda command: (
        ['^error,msg="not in executable format"']
        if command.arguments[0].startswith("add")
        else ["^done"]
    )
    with pytest.raises(KgdbError, match=r"does not take the symbols of demo.*executable format"):
        world.sync()
    assert world.registry.loaded == {}
    last = world.gdb.sent("console")[-1]
    assert last.arguments == ("set index-cache enabled on",)


# Breakpoints in modules


def test_a_breakpoint_follows_its_module(world: World) -> None:
    table, gdb = world.parts.table, world.gdb
    added = table.insert("demo_add", pending=True)
    assert added.address is None
    load(world)
    world.sync()
    assert added.address == TEXT
    world.kernel.unload("demo")
    world.sync()
    assert (added.address, added.enabled, gdb.rows[1].enabled) == (None, True, True)
    load(world, at=0x20000)
    world.sync()
    assert added.address == TEXT + 0x20000


def test_it_is_taken_from_the_target_before_its_symbols_go(world: World) -> None:
    table, gdb = world.parts.table, world.gdb
    load(world)
    world.sync()
    inside, outside = table.insert("demo_add"), table.insert("do_init_module")
    before = len(gdb.commands)
    world.kernel.unload("demo")
    world.sync()
    names = [
        " ".join([command.name, *command.arguments[:1]]).split('"')[0].strip()
        for command in gdb.commands[before:]
        if command.name != "-break-list"
    ]
    assert names == ["-break-disable 1", "console remove-symbol-file", "-break-enable 1"]
    assert (inside.enabled, outside.enabled) == (True, True)


def test_one_that_was_disabled_stays_so(world: World) -> None:
    load(world)
    world.sync()
    added = world.parts.table.insert("demo_add")
    added.enabled = False
    world.kernel.unload("demo")
    world.sync()
    load(world)
    world.sync()
    assert (added.enabled, world.gdb.rows[1].enabled) == (False, False)


def test_symbols_that_gdb_does_not_remove_leave_breakpoints_enabled(world: World) -> None:
    load(world)
    world.sync()
    world.parts.table.insert("demo_add")
    world.kernel.unload("demo")
    world.gdb.replies["console"] = lambda command: ['^error,msg="No symbol file found"']
    with pytest.raises(GdbError):
        world.sync()
    assert world.gdb.rows[1].enabled


def test_those_in_an_init_that_is_freed(world: World) -> None:
    table, gdb = world.parts.table, world.gdb
    load(world)
    world.sync()
    table.insert("demo_init")
    table.insert("demo_add")
    world.symbols.init_ended(world.registry.loaded["demo"])
    assert [row.places[0].enabled for row in gdb.rows.values()] == [False, True]
    assert world.registry.loaded["demo"].disabled == {"1.1"}
    world.symbols.init_ended(world.registry.loaded["demo"])
    assert len([one for one in gdb.sent("-break-disable") if one.arguments == ("1.1",)]) == 1
    # Unloaded, it waits for the next load; and is a breakpoint like any other there.
    world.kernel.unload("demo")
    world.sync()
    assert gdb.rows[1].places == []
    load(world)
    world.sync()
    assert gdb.rows[1].places[0].enabled
    assert gdb.rows[1].enabled


def test_one_made_in_a_freed_init_is_not_enabled_by_a_restore(world: World) -> None:
    load(world)
    world.sync()
    once = world.parts.table.insert("demo_init")
    world.symbols.init_ended(world.registry.loaded["demo"])
    assert not world.gdb.rows[once.number].places[0].enabled
    with world.parts.table.restoring(keep=True) as remove:
        remove()
    assert not world.gdb.rows[once.number].places[0].enabled


# An init's memory that is another module's


def test_symbols_of_a_freed_init_make_room(world: World) -> None:
    load(world)
    world.sync()
    world.kernel.set_state("demo", LIVE)
    world.sync()
    # The other's code lies where demo had its init.
    load(world, "other", 0x10000, text=INIT)
    world.sync()
    demo, other = world.registry.loaded["demo"], world.registry.loaded["other"]
    assert world.added["other"][".text"] == INIT
    assert world.added["demo"][".text"] == TEXT
    moved = world.added["demo"][".init.text"]
    assert moved == 0xFFFFFFFFFFE00000, "Documentation/x86/x86_64/mm.rst: an unused hole"
    assert demo.ranges[1] == (moved, moved + 0x80, True)
    assert world.registry.at(INIT) == (other, False)
    assert world.registry.refusal(INIT) is None


def test_breakpoints_in_it_move_along_disabled(world: World) -> None:
    table, gdb = world.parts.table, world.gdb
    load(world)
    world.sync()
    init = table.insert("demo_init")
    world.symbols.init_ended(world.registry.loaded["demo"])
    world.kernel.set_state("demo", LIVE)
    load(world, "other", 0x10000, text=INIT)
    world.sync()
    (place,) = gdb.rows[init.number].places
    assert (place.address, place.enabled) == (0xFFFFFFFFFFE00014, False)
    assert world.registry.loaded["demo"].disabled == {f"{init.number}.1"}
    assert gdb.rows[init.number].enabled


def test_a_freed_init_elsewhere_stays(world: World) -> None:
    load(world)
    world.sync()
    world.kernel.set_state("demo", LIVE)
    load(world, "other", 0x10000)
    world.sync()
    assert world.added["demo"][".init.text"] == INIT


def test_an_init_that_runs_is_not_moved(world: World) -> None:
    load(world)
    world.sync()
    load(world, "other", 0x10000, text=INIT)  # which cannot be, so long as it is not freed
    world.sync()
    assert world.added["demo"][".init.text"] == INIT


def test_the_unused_addresses_are_used_again(world: World) -> None:
    load(world)
    world.sync()
    world.kernel.set_state("demo", LIVE)
    world.symbols._unused = 0xFFFFFFFFFFF80000
    load(world, "other", 0x10000, text=INIT)
    world.sync()
    assert world.symbols._unused == 0xFFFFFFFFFFE00000


def test_memory_that_two_modules_had() -> None:
    kept, init = (100, 200, False), (300, 400, True)
    assert _overlap([kept, init], [(350, 360, False)])
    assert not _overlap([kept, init], [(150, 160, False), (400, 500, False)])


def test_a_file_that_gdb_would_not_relocate(world: World, tmp_path: Path) -> None:
    from fake_module import elf

    path = world.files["demo"]
    path.write_bytes(elf(b"name=demo\0vermagic=6.1.192 \0", address=0x18))
    load(world)
    world.sync()
    ((copy, _),) = world.gdb.files.items()
    assert copy == str(tmp_path / "copies" / "0-demo.ko")
    assert Path(copy).read_bytes() == elf(b"name=demo\0vermagic=6.1.192 \0")
    world.kernel.unload("demo")
    world.sync()
    assert world.gdb.files == {}


# What is found to be freed


@pytest.fixture
def freed(world: World) -> list[FreedMemory]:
    """Memory that is reported as freed."""
    freed: list[FreedMemory] = []
    world.symbols.on_freed(freed.append)
    return freed


def test_memory_of_one_that_is_gone(world: World, freed: list[FreedMemory]) -> None:
    load(world)
    world.sync()
    assert freed == []
    world.kernel.unload("demo")
    load(world, "other")
    world.sync()
    (memory,) = freed
    assert memory.why == "module demo is not loaded any more"
    assert all(map(memory.holds, (TEXT, INIT)))
    world.sync()
    assert len(freed) == 1


def test_memory_of_an_init_that_has_run(world: World, freed: list[FreedMemory]) -> None:
    load(world)
    world.sync()
    world.kernel.set_state("demo", LIVE)
    world.sync()
    world.sync()
    (memory,) = freed
    assert (memory.holds(TEXT), memory.holds(INIT)) == (False, True)
    world.kernel.unload("demo")
    world.sync()
    assert not freed[1].holds(INIT), "it may be another's"


def test_one_that_was_loaded_at_its_place_again(world: World, freed: list[FreedMemory]) -> None:
    load(world)
    world.sync()
    world.registry.loaded["demo"].init_freed = True
    world.sync()
    assert len(world.gdb.sent("console")) == 7
    assert freed == []
    load(world, text=TEXT + 0x1000)
    world.registry.loaded["demo"].init_freed = True
    world.sync()
    assert [memory.holds(TEXT) for memory in freed] == [True]
