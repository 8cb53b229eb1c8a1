"""The ELF file of a vmcore: headers, notes, memory, holes."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from pytest_kgdb.errors import KgdbError
from pytest_kgdb.memory._ram import Ram, Segment
from pytest_kgdb.memory._vmcore import machine_registers, pt_regs_values, write_vmcore

PAGE_OFFSET = 0xFFFF888000000000

# As QEMU's `info registers -a` shows it.
DUMP = """\r
CPU#0\r
RAX=0000000000000001 RBX=0000000000000002 RCX=0000000000000003 RDX=0000000000000004\r
RSI=0000000000000005 RDI=0000000000000006 RBP=0000000000000007 RSP=ffffffff81e03eb8\r
R8 =0000000000000008 R9 =0000000000000009 R10=000000000000000a R11=000000000000000b\r
R12=000000000000000c R13=000000000000000d R14=000000000000000e R15=000000000000000f\r
RIP=ffffffff81024bae RFL=00000246 [---Z-P-] CPL=0 II=0 A20=1 SMM=0 HLT=1\r
ES =0000 0000000000000000 ffffffff 00c00000\r
CS =0010 0000000000000000 ffffffff 00a09b00 DPL=0 CS64 [-RA]\r
SS =0018 0000000000000000 ffffffff 00c09300 DPL=0 DS   [-WA]\r
FS =0000 00007f0000000000 ffffffff 00c00000\r
GS =0000 ff1100000f600000 ffffffff 00c00000\r
CR0=80050033 CR2=0000000000000000 CR3=0000000001e0a000 CR4=00001ef0\r
\r
CPU#1\r
RIP=0000000000401000 RFL=00000202 [-------] CPL=3 II=0 A20=1 SMM=0 HLT=0\r
"""


def test_qemus_registers() -> None:
    first, second = machine_registers(DUMP)
    assert [first[name] for name in ("ax", "bx", "cx", "dx", "si", "di", "bp")] == list(range(1, 8))
    assert [first[f"r{number}"] for number in range(8, 16)] == list(range(8, 16))
    assert first["sp"] == 0xFFFFFFFF81E03EB8
    assert first["ip"] == 0xFFFFFFFF81024BAE
    assert first["flags"] == 0x246
    assert (first["cs"], first["ss"], first["fs_base"]) == (0x10, 0x18, 0x7F0000000000)
    assert first["gs_base"] == 0xFF1100000F600000
    assert second == {"ip": 0x401000, "flags": 0x202}


def test_pt_regs() -> None:
    values = pt_regs_values(struct.pack("<21Q", *range(21)))
    assert (values["r15"], values["bp"], values["ax"], values["orig_ax"]) == (0, 4, 10, 15)
    assert (values["ip"], values["cs"], values["flags"], values["sp"], values["ss"]) == tuple(
        range(16, 21)
    )


@pytest.fixture
def ram(tmp_path: Path) -> Ram:
    file = tmp_path / "ram"
    with file.open("wb") as stream:
        stream.truncate(4 << 20)
        for offset in (0, 0x5000, (1 << 20) - 1, 3 << 20):
            stream.seek(offset)
            stream.write(b"data")
    return Ram(file, [Segment(0, 3 << 20, 0), Segment(4 << 30, 1 << 20, 3 << 20)])


def write(path: Path, ram: Ram) -> None:
    cpus = [{"ip": 0xFFFFFFFF81000000, "ax": 7}, {}]
    write_vmcore(path, ram, vmcoreinfo="PAGESIZE=4096\n", page_offset=PAGE_OFFSET, cpus=cpus)


def test_the_file(tmp_path: Path, ram: Ram) -> None:
    path = tmp_path / "vmcore"
    write(path, ram)
    data = path.read_bytes()
    assert data[:7] == b"\x7fELF\x02\x01\x01"
    kind, machine = struct.unpack_from("<HH", data, 16)
    assert (kind, machine) == (4, 62)
    (count,) = struct.unpack_from("<H", data, 56)
    headers = [struct.unpack_from("<IIQQQQQQ", data, 64 + 56 * number) for number in range(count)]
    assert [header[0] for header in headers] == [4, 1, 1]
    for (_, _, offset, virtual, physical, size, _, align), segment in zip(
        headers[1:], ram.segments, strict=True
    ):
        assert offset % align == 0
        assert (virtual, physical, size) == (
            *(PAGE_OFFSET + segment.start, segment.start, segment.size),
        )
        assert data[offset : offset + size] == ram.read(segment.start, size)
    at, size = headers[0][2], headers[0][5]
    notes = []
    end = at + size
    while at < end:
        name, length, number = struct.unpack_from("<III", data, at)
        start = at + 12 + (name + 3) // 4 * 4
        notes.append((data[at + 12 : at + 11 + name], number, data[start : start + length]))
        at = start + (length + 3) // 4 * 4
    assert [(name, number, len(text)) for name, number, text in notes] == [
        *((b"CORE", 1, 336), (b"CORE", 1, 336), (b"VMCOREINFO", 0, 14)),
    ]
    assert struct.unpack_from("<I", notes[1][2], 32) == (2,)
    assert pt_regs_values(notes[0][2][112:])["ip"] == 0xFFFFFFFF81000000
    assert path.stat().st_blocks * 512 < 1 << 20  # zeros are holes
    assert [item.name for item in tmp_path.iterdir() if item.name.startswith(".")] == []


def test_what_cannot_be_written(tmp_path: Path, ram: Ram) -> None:
    with pytest.raises(KgdbError, match=r"none/vmcore cannot be written: No such file"):
        write(tmp_path / "none/vmcore", ram)
    (tmp_path / "directory").mkdir()
    with pytest.raises(KgdbError, match="Is a directory"):
        write(tmp_path / "directory", ram)
    assert [item.name for item in tmp_path.iterdir() if item.name.startswith(".")] == []
