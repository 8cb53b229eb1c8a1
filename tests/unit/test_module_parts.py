"""Modules without a kernel: their files, their parameters, what a log has new."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from pytest_kgdb.errors import ConfigError
from pytest_kgdb.kernel import read_module, without_addresses
from pytest_kgdb.kernel._modules import _subdirectory
from pytest_kgdb.target._module_errors import _news
from pytest_kgdb.target._module_files import _FUNCTION, _LINE, arguments
from pytest_kgdb.target._module_symbols import Symbols, _overlap, _Planted

MODINFO = (
    b"license=GPL\0parmtype=answer:int\0parm=answer:what it is\0parmtype=label:charp\0"
    b"depends=other,third-one\0name=demo\0vermagic=6.1.192 SMP preempt mod_unload \0"
)


def elf(modinfo: bytes = MODINFO, *, address: int = 0) -> bytes:
    """A relocatable file (elf(5)) with .modinfo, two symbols, and an address for its .text."""
    names = b"\0.modinfo\0.text\0.symtab\0.strtab\0.shstrtab\0"
    strings = b"\0demo.c\0demo_init\0"
    symbols = struct.pack("<IBBHQQ", 0, 0, 0, 0, 0, 0)
    symbols += struct.pack("<IBBHQQ", 1, 4, 0, 0xFFF1, 0, 0)  # STT_FILE, SHN_ABS
    symbols += struct.pack("<IBBHQQ", 8, 2, 0, 2, 0, 4)  # STT_FUNC
    sections = [
        ("", 0, b"", 0, 0, 0, 0),
        (".modinfo", 1, modinfo, 0, 0, 0, 0),
        (".text", 1, b"\x90\x90\x90\xc3", 0, 0, 0, address),
        (".symtab", 2, symbols, 4, 2, 24, 0),
        (".strtab", 3, strings, 0, 0, 0, 0),
        (".shstrtab", 3, names, 0, 0, 0, 0),
    ]
    body, headers = b"", b""
    for name, kind, data, link, info, entry, where in sections:
        headers += struct.pack(
            "<IIQQQQIIQQ",
            names.index(name.encode() + b"\0") if name else 0,
            kind, 0, where, 64 + len(body), len(data), link, info, 1, entry,
        )  # fmt: skip
        body += data
    ident = b"\x7fELF\x02\x01\x01" + bytes(9)
    header = ident + struct.pack(
        "<HHIQQQIHHHHHH", 1, 62, 1, 0, 0, 64 + len(body), 0, 64, 0, 0, 64, len(sections), 5
    )
    return header + body + headers


@pytest.fixture
def demo(tmp_path: Path) -> Path:
    path = tmp_path / "demo.ko"
    path.write_bytes(elf())
    return path


def test_what_a_file_tells(demo: Path) -> None:
    info = read_module(demo)
    assert info.name == "demo"
    assert info.vermagic == "6.1.192 SMP preempt mod_unload"
    assert info.depends == ("other", "third-one")
    assert info.parameters == {"answer", "label"}
    assert info.functions == {"demo_init"}
    assert info.sources == {"demo.c"}


def test_a_file_that_changed_is_read_again(demo: Path) -> None:
    assert read_module(demo).parameters == {"answer", "label"}
    demo.write_bytes(elf(MODINFO + b"parmtype=more:int\0"))
    assert "more" in read_module(demo).parameters


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


def test_parameters(demo: Path) -> None:
    info = read_module(demo)
    words = arguments(info, "demo", {"answer": 42, "label": "two words", "dyndbg": "+p"})
    assert words == ["answer=42", 'label="two words"', "dyndbg=+p"]
    assert arguments(None, "x", {"a": True, "b": [1, False, "c"], "d": -1}) == [
        "a=1",
        "b=1,0,c",
        "d=-1",
    ]
    with pytest.raises(ConfigError, match=r"(?s)no parameter 'answr'.*it has answer, label"):
        arguments(info, "demo", {"answr": 1})


def test_the_logs_news() -> None:
    before = "[    0.1] one\n[    0.2] two\n"
    after = before + "[    0.3] demo: no\n[    0.3] sysrq: DEBUG\n[    0.4] demo: no\n"
    assert _news(before, after) == ["demo: no"]
    assert _news("", "[    0.1] one\n") == ["one"]
    assert _news("[ 0.1] gone from the ring\n", "[ 0.2] later\n") == ["later"]
    assert _news(before, before) == []


def test_locations_of_modules() -> None:
    assert _LINE.fullmatch("src/demo.c:12")[1] == "demo.c"  # type: ignore[index]
    assert _LINE.fullmatch("demo_init") is None
    assert _FUNCTION.fullmatch("demo_init")[1] == "demo_init"  # type: ignore[index]
    assert _FUNCTION.fullmatch("*demo_init + 4")[1] == "demo_init"  # type: ignore[index]
    assert _FUNCTION.fullmatch("*0xffffffff81000000") is None


def test_gdbs_breakpoints() -> None:
    single = {"number": "3", "enabled": "n", "addr": "0xffffffffa0000000"}
    assert _Planted.read(single).locations == [("3.1", 0xFFFFFFFFA0000000, True)]
    assert not _Planted.read(single).enabled
    assert _Planted.read({"number": "4", "enabled": "y", "addr": "<PENDING>"}).locations == []
    several = {
        "number": "5",
        "enabled": "y",
        "addr": "<MULTIPLE>",
        "locations": [
            {"number": "5.1", "enabled": "y", "addr": "0x10"},
            {"number": "5.2", "enabled": "n", "addr": "0x20"},
        ],
    }
    assert _Planted.read(several).locations == [("5.1", 16, True), ("5.2", 32, False)]


def test_memory_that_two_modules_had() -> None:
    kept, init = (100, 200, False), (300, 400, True)
    module = Symbols("demo", 0, Path("demo.ko"), {}, [kept, init])
    assert module.holds(150)
    assert not module.holds(150, init=True)
    assert module.holds(399, init=True)
    assert not module.holds(400)
    assert _overlap([kept, init], [(350, 360, False)])
    assert not _overlap([kept, init], [(150, 160, False), (400, 500, False)])


def write(directory: Path, **files: str) -> Path:
    for name, text in files.items():
        path = directory / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return directory


@pytest.mark.parametrize(
    ("files", "subdirectory"),
    [
        ({"Makefile": "obj-m += a.o\n"}, "."),
        ({"Kbuild": "obj-$(CONFIG_A) := a.o\n", "Makefile": "all:\n"}, "."),
        ({"Makefile": "ifneq ($(KERNELRELEASE),)\n  obj-m := a.o\nendif\n"}, "."),
        ({"Makefile": "all:\n\tmake M=src\n", "src__Kbuild": "obj-m := a.o\n"}, "src"),
        ({"Makefile": "include x.mk\n"}, "."),
        ({"driver__linux__Makefile": "obj-m:=a.o\n", "README": ""}, "driver/linux"),
        ({"a__Makefile": "obj-m:=a.o\n", "b__Makefile": "obj-m:=b.o\n"}, None),
        ({".git__Makefile": "obj-m:=a.o\n"}, None),
        ({}, None),
    ],
)
def test_where_a_project_builds_its_module(
    tmp_path: Path, files: dict[str, str], subdirectory: str | None
) -> None:
    assert _subdirectory(write(tmp_path, **files)) == subdirectory
