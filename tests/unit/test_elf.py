"""ELF files, made up byte by byte and as this host's compiler writes them."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest
from fake_guest import BUILD_ID, Image, note

from pytest_kgdb.elf import ElfFile
from pytest_kgdb.errors import ConfigError
from pytest_kgdb.process import run


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "file"


def compiled(path: Path, *options: str) -> Path:
    source = path.with_suffix(".c")
    source.write_text("int answer = 42;\nint twice(int x) { return 2 * x; }\n")
    run(["gcc", *options, "-Wl,--build-id=sha1", "-o", path, source], timeout=60)
    return path


def test_a_program(path: Path) -> None:
    with ElfFile(compiled(path, "-nostdlib", "-static", "-Wl,-e,twice")) as elf:
        assert elf.machine == "EM_X86_64"
        assert not elf.is_dynamic
        assert len(elf.build_id) == 40
        assert "twice" in list(elf.functions())
        assert "answer" not in list(elf.functions())
        assert elf.contents(elf.need("answer"), 4) == (42).to_bytes(4, "little")
        assert elf.section_sizes()[".data"] == 4
        assert elf.without_section_addresses() != path.read_bytes()


def test_a_relocatable_file(path: Path) -> None:
    with ElfFile(compiled(path, "-c")) as elf:
        assert elf.segments == []
        assert elf.symbol("answer") == 0
        assert elf.without_section_addresses() is None
        assert elf.section_bytes(".data") == (42).to_bytes(4, "little")
        assert elf.section_bytes(".bss") == elf.section_bytes(".nothing") == b""


def test_a_dynamic_program(path: Path) -> None:
    compiled(path, "-nostartfiles", "-Wl,-e,twice")
    with ElfFile(path) as elf:
        assert elf.is_dynamic
    run(["strip", path], timeout=60)
    stripped = ElfFile(path)
    assert list(stripped.functions()) == []
    with pytest.raises(ConfigError, match="was it stripped"):
        stripped.symbol("twice")


def test_a_build_id_without_segments(path: Path) -> None:
    image = Image()
    image.section(".note.other", note(1, b"Linux\0", b"data"), kind=7)
    image.section(".note.gnu.build-id", note(3, b"GNU\0", BUILD_ID), kind=7)
    assert ElfFile(image.write(path)).build_id == BUILD_ID.hex()
    assert ElfFile(path.with_name("absent"), path.read_bytes()).build_id == BUILD_ID.hex()


def test_closed_and_read_again(path: Path) -> None:
    elf = ElfFile(compiled(path, "-c"))
    value = elf.symbol("twice")
    elf.close()
    elf.close()
    assert elf.symbol("twice") == value
    assert elf.symbol("none") is None


def test_more_sections_than_the_header_can_count(path: Path) -> None:
    image = Image()
    image.section(".data", b"content")
    data = bytearray(image.write(path).read_bytes())
    headers = struct.unpack_from("<Q", data, 40)[0]
    count, names = struct.unpack_from("<HH", data, 60)
    struct.pack_into("<HH", data, 60, 0, 0xFFFF)
    struct.pack_into("<QI", data, headers + 32, count, names)
    path.write_bytes(data)
    assert ElfFile(path).section_bytes(".data") == b"content"


def test_the_machine_of_other_classes(path: Path) -> None:
    for data, machine in (
        (b"\x7fELF\x01\x01".ljust(18, b"\0") + b"\x03\0", "EM_386"),
        (b"\x7fELF\x02\x02".ljust(18, b"\0") + b"\0\x16", "EM_S390"),
        (b"\x7fELF\x02\x01".ljust(18, b"\0") + b"\xff\x0f", "EM_4095"),
    ):
        path.write_bytes(data)
        elf = ElfFile(path)
        assert elf.machine == machine
        with pytest.raises(ConfigError, match="not a 64-bit little-endian ELF file"):
            _ = elf.sections


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "it is empty"),
        (b"#!/bin/sh\n", "it is not an ELF file"),
        (b"\x7fELF\x02\x01", "not a 64-bit little-endian"),
    ],
)
def test_what_is_no_elf_file(path: Path, data: bytes, why: str) -> None:
    path.write_bytes(data)
    with pytest.raises(ConfigError, match=f"cannot read the ELF file .*{why}"):
        _ = ElfFile(path).build_id
    with pytest.raises(ConfigError, match="cannot read the ELF file"):
        _ = ElfFile(path).machine


def test_what_is_cut_off(path: Path) -> None:
    whole = compiled(path, "-nostdlib", "-static", "-Wl,-e,twice").read_bytes()
    with pytest.raises(ConfigError, match="No such file"):
        _ = ElfFile(path.with_name("absent")).machine
    path.write_bytes(whole[:-70])
    with pytest.raises(ConfigError, match="section headers are cut off"):
        _ = ElfFile(path).sections
    path.write_bytes(whole[:80])
    with pytest.raises(ConfigError, match="program headers are cut off"):
        _ = ElfFile(path).segments
