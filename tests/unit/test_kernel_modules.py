"""Modules' files: what they say of themselves, and where a project builds them."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from fake_module import MODINFO, elf

from pytest_kgdb.errors import ConfigError
from pytest_kgdb.kernel import read_module, without_addresses
from pytest_kgdb.kernel._modules import _directories, _for_compiler


@pytest.fixture
def demo(tmp_path: Path) -> Path:
    path = tmp_path / "demo.ko"
    path.write_bytes(elf())
    return path


def test_what_a_file_says(demo: Path) -> None:
    info = read_module(demo)
    assert info.name == "demo"
    assert info.vermagic == "6.1.192 SMP preempt mod_unload"
    assert info.depends == ("other", "third-one")
    # One that module_param_cb() makes is in no .modinfo.
    assert info.parameters == {"answer", "label", "only_set"}
    assert info.functions == {"demo_init"}


def test_a_file_that_changed_is_read_again(demo: Path) -> None:
    assert "more" not in read_module(demo).parameters
    demo.write_bytes(elf(MODINFO + b"parmtype=more:int\0"))
    assert "more" in read_module(demo).parameters


def test_a_description_is_no_parameter(demo: Path) -> None:
    """MODULE_PARM_DESC of what does not exist: the kernel ignores it, but for a line in its log."""
    demo.write_bytes(elf(MODINFO).replace(b"parm=answer:", b"parm=anwser:"))
    assert "anwser" not in read_module(demo).parameters


@pytest.mark.parametrize("data", [b"", b"#!/bin/sh\n", elf(b"license=GPL\0")])
def test_what_is_no_module(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "demo.ko"
    path.write_bytes(data)
    with pytest.raises(ConfigError, match="is not a module"):
        read_module(path)


def test_addresses_that_mean_nothing_are_taken_out(demo: Path) -> None:
    assert without_addresses(demo) is None
    demo.write_bytes(elf(address=0x18))
    assert without_addresses(demo) == elf()
    demo.write_bytes(b"no ELF file, and long enough for one" * 4)
    assert without_addresses(demo) is None


def write(directory: Path, **files: str) -> Path:
    for name, text in files.items():
        path = directory / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return directory


@pytest.mark.parametrize(
    ("files", "directories"),
    [
        ({"Makefile": "obj-m += a.o\n"}, ["."]),
        ({"Kbuild": "obj-$(CONFIG_A) := a.o\n", "Makefile": "all:\n"}, ["."]),
        ({"Makefile": "ifneq ($(KERNELRELEASE),)\n  obj-m := a.o\nendif\n"}, ["."]),
        ({"Makefile": "all:\n\tmake M=src\n", "src__Kbuild": "obj-m := a.o\n"}, ["src"]),
        ({"Makefile": "include x.mk\n"}, ["."]),
        ({"driver__linux__Makefile": "obj-m:=a.o\n", "README": ""}, ["driver/linux"]),
        (
            {"Makefile": "all:\n", "a__Makefile": "obj-m:=a.o\n", "b__Kbuild": "obj-m:=b.o\n"},
            ["a", "b"],
        ),
    ],
)
def test_where_a_project_builds_its_modules(
    tmp_path: Path, files: dict[str, str], directories: list[str]
) -> None:
    assert _directories(write(tmp_path, **files)) == [tmp_path / name for name in directories]


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (
            {"a__Makefile": "obj-m:=a.o\n", "b__Makefile": "obj-m:=b.o\n"},
            r"has no Makefile; modules are built in a, b\n.*name one of them: .*/a",
        ),
        ({".git__Makefile": "obj-m:=a.o\n"}, "is not the source of a module"),
        ({}, "is not the source of a module"),
    ],
)
def test_where_it_builds_none(tmp_path: Path, files: dict[str, str], message: str) -> None:
    with pytest.raises(ConfigError, match=f"(?s){message}"):
        _directories(write(tmp_path, **files))


def test_compiler_of_the_kernel() -> None:
    clang: Any = SimpleNamespace(config={"CC_IS_CLANG": "y"}, is_shipped=True)
    gcc: Any = SimpleNamespace(config={"CC_IS_GCC": "y"}, is_shipped=False)
    assert list(_for_compiler(clang, ["DEBUG=1"])) == ["LLVM=1", "DEBUG=1"]
    assert list(_for_compiler(clang, ["LLVM=-15"])) == ["LLVM=-15"]
    assert list(_for_compiler(clang, ["CC=clang-16"])) == ["CC=clang-16"]
    assert list(_for_compiler(gcc, [])) == []


@pytest.mark.parametrize(
    ("compiler", "variables"),
    [
        ("gcc-12 (Debian 12.2.0-14+deb12u1) 12.2.0", ["CC=gcc-12"]),
        ("x86_64-linux-gnu-gcc-13 (Ubuntu 13.3.0) 13.3.0", ["CC=x86_64-linux-gnu-gcc-13"]),
        ("gcc (GCC) 14.2.1 20240912", ["CC=gcc"]),
        ("Debian clang version 19", []),
        ("", []),
    ],
)
def test_compiler_of_a_shipped_kernel(compiler: str, variables: list[str]) -> None:
    kernel: Any = SimpleNamespace(config={}, is_shipped=True, compiler=compiler)
    assert list(_for_compiler(kernel, [])) == variables
    assert list(_for_compiler(kernel, ["CC=gcc-11"])) == ["CC=gcc-11"]
