"""The registry of modules: their files, their names, where they are."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import pytest
from fake_module import elf, registry, write_module

from pytest_kgdb.errors import ConfigError
from pytest_kgdb.kernel import Built, read_module
from pytest_kgdb.modules import LoadedModule, ModuleRegistry
from pytest_kgdb.modules._parameters import arguments
from pytest_kgdb.modules._registry import ModuleSource
from pytest_kgdb.process import run

# Files


def test_what_a_test_names_is_not_for_the_next(tmp_path: Path) -> None:
    provided = write_module(tmp_path / "provided", "provided")
    named = write_module(tmp_path, "demo")
    modules = registry(provided=[provided])
    assert modules.watched == {"provided"}
    assert modules.add(named) == [named]
    assert (modules.find("demo"), modules.is_known("demo")) == (named, True)
    assert modules.watched == {"provided", "demo"}
    modules.reset()
    assert (modules.find("demo"), modules.is_known("demo")) == (None, False)
    assert modules.watched == {"provided"}
    assert modules.find("provided") == provided


def test_a_path_of_no_user() -> None:
    with pytest.raises(ConfigError, match="there is no module ~nobody-here/demo"):
        registry().resolve("~nobody-here/demo")


def test_what_is_tested_instead_of_a_path(tmp_path: Path) -> None:
    revision = write_module(tmp_path / "revision", "demo")
    edited = write_module(tmp_path / "driver", "demo")
    modules = registry(instead=lambda path: revision if path == edited else path)
    source = modules.resolve(edited)
    assert source.info is not None
    assert source.info.path == revision
    assert modules.add(edited) == [revision]


def test_one_that_was_named_goes_before_the_trees(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    in_tree = write_module(tree / "drivers" / "net", "demo")
    modules = registry(tree)
    assert modules.candidates("demo") == [in_tree]
    named = write_module(tmp_path, "demo")
    modules.add(named)
    assert modules.candidates("demo") == [named, in_tree]
    assert modules.find("demo") == named
    modules.reset()
    assert modules.find("demo") == in_tree


def test_the_version_changes_with_the_files(tmp_path: Path) -> None:
    modules = registry()
    versions = [modules.version]

    def step() -> bool:
        versions.append(modules.version)
        return versions[-1] != versions[-2]

    demo = write_module(tmp_path, "demo")
    modules.add(demo)
    assert step()
    modules.add(demo)
    assert not step()
    modules.add(write_module(tmp_path / "other", "demo"))
    assert step()
    modules.reset()
    assert step()
    modules.reset()
    assert not step()


def test_a_hyphen_is_an_underscore_to_the_kernel(tmp_path: Path) -> None:
    path = tmp_path / "third-one.ko"
    path.write_bytes(elf(b"vermagic=6.1.192 \0"))
    modules = registry()
    modules.add(path)
    assert modules.is_known("third-one")
    assert modules.find("third_one") == path


SOURCE = """\
#include "demo.h"
__attribute__((section(".modinfo"), used))
static const char modinfo[] = "vermagic=6.1.192 \\0name=demo";
int sink;

/* same.constprop.0: y is 5 at all calls. */
static __attribute__((noinline)) int same(int x, int y)
{
	sink += y;
	return x * y;
}

int demo_init(int x)
{
	return same(x, 5) + same(x + 1, 5) + doubled(x);
}
"""
HEADER = """\
static inline int doubled(int x)
{
	extern int sink;
	sink = x;
	return x * 2;
}
"""


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A module's file as gcc makes it, with debug information."""
    directory = tmp_path_factory.mktemp("compiled") / "src"
    directory.mkdir()
    (directory / "demo.c").write_text(SOURCE)
    (directory / "demo.h").write_text(HEADER)
    module = directory / "demo.ko"
    run(["gcc", "-g", "-O2", "-c", "-o", module, directory / "demo.c"], timeout=60)
    return module


def test_what_a_registered_module_has(compiled: Path) -> None:
    modules = registry()
    modules.add(compiled)
    for location in (
        "demo_init",
        "*demo_init",
        "*demo_init + 4",
        "same",
        "demo.c:same",
        "src/demo.c:demo_init",
        "doubled",
        "demo.c:15",
        "src/demo.c:12",
        "demo.h:5",
    ):
        assert modules.expects(location), location
    for location in (
        "demo_exit",
        "other.c:12",
        "other.c:demo_init",
        "demo.c",
        "demo.c:99",
        "demo.h:99",
        "demo.c:x",
        "*0xffffffffa0005000",
        "15",
        "-function demo_init",
        "",
    ):
        assert not modules.expects(location), location
    assert set(modules.functions()) == {"demo_init", "same"}


def test_a_module_without_debug_information_has_functions_only(tmp_path: Path) -> None:
    modules = registry()
    modules.add(write_module(tmp_path, "demo"))
    assert modules.expects("demo_init")
    assert not modules.expects("demo.c:12")
    assert modules.explain("demo.c:12") is None


def test_files_that_had_the_name_before_are_candidates(tmp_path: Path) -> None:
    modules = registry()
    first, second = (write_module(tmp_path / name, "demo") for name in ("first", "second"))
    for path in (first, second, second):
        modules.add(path)
    assert modules.candidates("demo") == [second, first]
    modules.reset()
    assert modules.candidates("demo") == []


def test_gdb_itself_knows_what_is_loaded(compiled: Path) -> None:
    modules = registry()
    modules.add(compiled)
    modules.loaded["demo"] = LoadedModule("demo", 0, compiled, {}, [])
    assert not modules.expects("demo_init")
    modules.loaded["demo"].file = compiled.with_name("older.ko")
    assert modules.expects("demo_init")


def test_why_nothing_is_at_a_location(compiled: Path) -> None:
    modules = registry()
    modules.add(compiled)
    reason, hint = modules.explain("same") or ("", "")
    assert reason == "module demo has it, and is not loaded"
    assert hint.startswith("load_stopped() first")
    reason, hint = modules.explain("demo.c:99") or ("", "")
    assert reason == "demo.c has no code at line 99, nor behind it"
    assert re.fullmatch(r"the last line with code in module demo: 1[56]", hint)
    modules.loaded["demo"] = LoadedModule("demo", 0, compiled, {}, [])
    reason, hint = modules.explain("src/demo.c:12") or ("", "")
    assert reason == "src/demo.c has no code at line 12"
    assert re.fullmatch(r"the lines next to it with code in module demo: 1[01] and 1[34]", hint)
    assert modules.explain("nosuch") is None
    assert modules.explain("other.c:12") is None
    other_build = ("module demo has it, and the demo that the kernel has loaded is another build",)
    modules.loaded["demo"].file = compiled.with_name("older.ko")
    assert modules.explain("same") == (*other_build, "unload it, and load this one")
    del modules.loaded["demo"]
    modules.unlike.add("demo")
    assert modules.explain("same") == (*other_build, "unload it, and load this one")


# What is to be loaded


def test_by_name(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    in_tree = write_module(tree / "kernel" / "fs", "ext4", depends="jbd2,mbcache")
    provided = write_module(tmp_path, "demo", depends="other")
    modules = registry(tree, [provided])
    directory = "/lib/modules/6.1.192"
    info = read_module(provided)
    assert modules.resolve("demo") == ModuleSource(
        "demo", info, f"{directory}/extra/demo.ko", ("other",)
    )
    ext4 = modules.resolve("ext4")
    assert ext4 == ModuleSource(
        "ext4", read_module(in_tree), f"{directory}/kernel/fs/ext4.ko", ("jbd2", "mbcache")
    )


def test_by_a_path_on_the_host(tmp_path: Path) -> None:
    demo = write_module(tmp_path, "demo")
    modules = registry(build=lambda path, variables: Built([demo], []))
    for path in (demo, tmp_path, str(demo)):
        assert modules.resolve(path) == ModuleSource("demo", read_module(demo), None, ())
    assert modules.resolve("demo").in_guest is None, "by its name from now on"


def test_a_directory_with_several(tmp_path: Path) -> None:
    files = [write_module(tmp_path, name) for name in ("one", "two")]
    (tmp_path / "Makefile").touch()
    modules = registry(build=lambda path, variables: Built(files if path.is_dir() else [path], []))
    with pytest.raises(ConfigError, match=r"(?s)builds one\.ko, two\.ko.*name one of them"):
        modules.resolve(tmp_path)
    assert modules.resolve(tmp_path / "two.ko").name == "two"
    with pytest.raises(ConfigError, match=r"builds one\.ko, two\.ko, and no three"):
        modules.resolve(tmp_path / "three.ko")


def test_neighbours_whose_symbols_it_needs(tmp_path: Path) -> None:
    user, core = write_module(tmp_path, "user"), write_module(tmp_path, "core")
    asked: list[tuple[Path, list[str]]] = []

    def build(path: Path, variables: Sequence[str]) -> Built:
        asked.append((path, list(variables)))
        return Built([user], [core])

    for add in (registry(build=build).add, registry(build=build).resolve):
        add(tmp_path, ["DEBUG=1"])
    assert asked == [(tmp_path, ["DEBUG=1"])] * 2, "make gets the variables"
    modules = registry(build=build)
    assert modules.add(tmp_path) == [user]
    assert modules.resolve("core").name == "core"
    own = write_module(tmp_path / "own", "core")
    modules = registry(build=lambda path, variables: Built([path], []))
    modules.add(own)
    modules._build = build
    modules.add(tmp_path)
    assert modules.find("core") == own, "one that was named stays"


def test_by_a_path_in_the_guest(tmp_path: Path) -> None:
    modules = registry()
    assert modules.resolve("/run/demo.ko") == ModuleSource("demo", None, "/run/demo.ko")


def test_one_that_nobody_knows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # where no Makefile builds it
    modules = registry(provided=[write_module(tmp_path, "demo")])
    with pytest.raises(ConfigError, match=r"(?s)there is no module nosuch.*known are demo"):
        modules.resolve("nosuch")
    with pytest.raises(ConfigError, match="name its directory"):
        registry().resolve("nosuch.ko")


def test_parameters(tmp_path: Path) -> None:
    path = tmp_path / "demo.ko"
    path.write_bytes(elf())
    info = read_module(path)
    words = arguments(info, "demo", {"answer": 42, "label": "two words", "only_set": "x"})
    assert words == ["answer=42", 'label="two words"', "only_set=x"]
    words = arguments(info, "demo", {"dyndbg": "+p", "async_probe": True})
    assert words == ["dyndbg=+p", "async_probe=1"]
    assert arguments(None, "x", {"a": True, "b": [1, False, "c"], "d": -1}) == [
        "a=1",
        "b=1,0,c",
        "d=-1",
    ]
    with pytest.raises(ConfigError, match=r"(?s)no parameter 'answr'.*answer, label, only_set"):
        arguments(info, "demo", {"answr": 1})


@pytest.mark.parametrize(
    ("value", "word"),
    [
        ("", "p="),
        ("a=b", "p=a=b"),
        ("a\tb\nc", 'p="a\tb\nc"'),
        ("voilà", 'p="voilà"'),  # isspace() takes its last byte for a blank
        ('"q"', 'p=""q""'),
        ('a"b c"d', 'p=a"b c"d'),
        ('a "b" c', 'p="a "b" c"'),
        (["a b", "c"], 'p="a b,c"'),
        (["a", True, 3], "p=a,1,3"),
        ("\udcff", "p=\udcff"),
    ],
)
def test_a_value_that_the_kernel_reads_as_it_is(value: object, word: str) -> None:
    assert arguments(None, "x", {"p": value}) == [word]


@pytest.mark.parametrize("value", ['a"b', '"', 'x " y" z', "a\0b", '"a', ['"', "b"]])
def test_a_value_that_the_kernel_would_misread(value: object) -> None:
    with pytest.raises(ConfigError, match=r"parameter p cannot be .* would read another value"):
        arguments(None, "x", {"p": value})


def test_an_element_with_a_comma() -> None:
    with pytest.raises(ConfigError, match="cannot have 'a,b' as one element"):
        arguments(None, "x", {"p": ["a,b"]})


# What the kernel has loaded


@pytest.fixture
def loaded() -> ModuleRegistry:
    modules = registry()
    ranges = [(100, 200, False), (300, 400, True)]
    modules.loaded["demo"] = LoadedModule("demo", 0, Path("demo.ko"), {}, ranges)
    return modules


def test_memory_that_a_module_has(loaded: ModuleRegistry) -> None:
    module = loaded.loaded["demo"]
    assert module.holds(150)
    assert not module.holds(150, init=True)
    assert module.holds(399, init=True)
    assert not module.holds(400)
    assert loaded.at(150) == (module, False)
    assert loaded.at(350) == (module, False)
    assert loaded.at(400) is None


def test_an_init_whose_memory_is_freed_takes_no_breakpoint(loaded: ModuleRegistry) -> None:
    assert [loaded.refusal(address) for address in (150, 350, 450)] == [None, None, None]
    loaded.loaded["demo"].init_freed = True
    assert loaded.refusal(150) is None
    assert loaded.refusal(450) is None
    assert "is in .init.text of module demo" in (loaded.refusal(350) or "")


def test_a_machine_that_ended_has_loaded_nothing(loaded: ModuleRegistry, tmp_path: Path) -> None:
    loaded.unloaded.append(loaded.loaded["demo"])
    loaded.add(write_module(tmp_path, "demo"))
    loaded.detach()
    assert (loaded.loaded, loaded.unloaded, loaded.find("demo")) == ({}, [], None)
