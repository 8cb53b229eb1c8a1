"""A vmlinux that somebody has made to run code in gdb, or to have it eat the host."""

from __future__ import annotations

import contextlib
import re
import subprocess
import zlib
from dataclasses import dataclass
from pathlib import Path

import pytest

from pytest_kgdb.deadline import Deadline, WaitLimit
from pytest_kgdb.debugger._memory_limit import memory_limit
from pytest_kgdb.debugger._mi import Gdb
from pytest_kgdb.debugger._process import GdbProcess, command_line, launch_gdb
from pytest_kgdb.errors import KgdbError


@dataclass(frozen=True)
class Sources:
    directory: Path


@dataclass(frozen=True)
class Files:
    """What gdb must know of a kernel."""

    vmlinux: Path
    sources: Sources
    debug_source: Path | None = None
    source_prefixes: tuple[str, ...] = ()


def kernel(directory: Path, source: str, *options: str) -> Files:
    (directory / "main.c").write_text(source)
    argv = ["gcc", "-g", "-nostdlib", "-static", *options, "-o", "vmlinux", "main.c"]
    subprocess.run(argv, cwd=directory, check=True, timeout=60)
    return Files(directory / "vmlinux", Sources(directory))


def gdb_on(files: Files, directory: Path) -> Gdb:
    process = launch_gdb(files, index_cache=directory / "index", log=directory / "gdb.stderr")
    return Gdb(process, transcript=directory / "transcript", waits=WaitLimit(60))


# As gcc and the kernel have it (include/linux/…): the section names a script, or holds one, which
# gdb runs (gdb manual, "dotdebug_gdb_scripts section").
SCRIPTS = r"""
asm(".pushsection \".debug_gdb_scripts\", \"MS\",@progbits,1\n"
    ".byte 4\n.ascii \"inlined\\n\"\n"
    ".ascii \"open('EVIDENCE.section', 'w')\\n\"\n.byte 0\n.popsection");
void _start(void) {}
"""


@pytest.mark.parametrize("trusted", [False, True])
def test_no_code_of_the_trees_is_run_in_gdb(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trusted: bool
) -> None:
    """Beside vmlinux, in it, in the present directory and at home; gdb alone runs all of it."""
    evidence = tmp_path / "evidence"
    files = kernel(tmp_path, SCRIPTS.replace("EVIDENCE", str(evidence)))
    for place in ("vmlinux-gdb.py", "vmlinux-gdb.gdb", ".gdbinit", ".config/gdb/gdbinit"):
        path = tmp_path / place
        path.parent.mkdir(parents=True, exist_ok=True)
        target = f"{evidence}{place.replace('/', '-')}"
        code = f"open({target!r}, 'w')"
        path.write_text(code if place.endswith(".py") else f"python {code}\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    if trusted:
        argv = ["gdb", "-q", "-batch", "-iex", "set auto-load safe-path /", "vmlinux"]
        subprocess.run(argv, check=True, timeout=60, capture_output=True)
        assert len(list(tmp_path.glob("evidence*"))) >= 4, "gdb runs such scripts no more"
        return
    with gdb_on(files, tmp_path) as gdb:
        assert "main.c" in gdb.console("info line _start")
    assert list(tmp_path.glob("evidence*")) == []


def test_gdb_asks_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DEBUGINFOD_URLS", "http://127.0.0.1:1")
    files = kernel(tmp_path, "void _start(void) {}")
    with gdb_on(files, tmp_path) as gdb:
        assert "off" in gdb.console("show debuginfod enabled")
        for kind in ("gdb-scripts", "python-scripts", "local-gdbinit", "libthread-db"):
            assert " is off" in gdb.console(f"show auto-load {kind}")


def test_gdbs_memory_is_bounded(tmp_path: Path) -> None:
    files = kernel(tmp_path, "void _start(void) {}")
    assert 4 << 30 <= memory_limit() < 1 << 50
    with gdb_on(files, tmp_path) as gdb:
        with pytest.raises(KgdbError, match="MemoryError"):
            gdb.console(f"python x = bytearray({memory_limit()})")
        # And is a gdb as before.
        assert "main.c" in gdb.console("info line _start")
        limits = Path(f"/proc/{gdb.pid}/limits").read_text()
    (line,) = (line for line in limits.splitlines() if line.startswith("Max address space"))
    assert line.split()[3:5] == [str(memory_limit())] * 2


def bomb(files: Files, section: str, size: int) -> None:
    """Compress a section of nothing but zeros (gABI, "Section Compression", Elf64_Chdr)."""
    content = files.vmlinux.with_name("bomb")
    packer = zlib.compressobj(9)
    header = (1).to_bytes(8, "little") + size.to_bytes(8, "little") + (1).to_bytes(8, "little")
    with content.open("wb") as file:
        file.write(header)
        for _ in range(size >> 20):
            file.write(packer.compress(bytes(1 << 20)))
        file.write(packer.flush())
    argv = ["objcopy", "--remove-section", section, "--add-section", f"{section}={content}"]
    argv += ["--set-section-flags", f"{section}=readonly,debug", str(files.vmlinux)]
    subprocess.run(argv, check=True, timeout=60)
    # SHF_COMPRESSED cannot be given to objcopy.
    data = bytearray(files.vmlinux.read_bytes())
    headers = int.from_bytes(data[40:48], "little")
    size_of, count, names = (int.from_bytes(data[at : at + 2], "little") for at in (58, 60, 62))
    strings = int.from_bytes(data[headers + names * size_of + 24 :][:8], "little")
    for number in range(count):
        at = headers + number * size_of
        name = strings + int.from_bytes(data[at : at + 4], "little")
        if data[name:].startswith(section.encode() + b"\0"):
            data[at + 9] |= 0x08
    files.vmlinux.write_bytes(data)


@pytest.mark.parametrize("section", [".debug_info", ".debug_line"])
def test_a_section_that_is_compressed_a_thousandfold(tmp_path: Path, section: str) -> None:
    """BFD refuses what is compressed to less than a tenth; our bound need not help."""
    files = kernel(tmp_path, "int x; void _start(void) { x = 1; }")
    bomb(files, section, 1 << 30)
    assert files.vmlinux.stat().st_size < 4 << 20
    argv = ["readelf", "-tW", str(files.vmlinux)]
    assert "COMPRESSED" in subprocess.run(argv, check=True, capture_output=True, text=True).stdout
    with gdb_on(files, tmp_path) as gdb:
        with contextlib.suppress(KgdbError):
            gdb.console("info line _start")
        status = Path(f"/proc/{gdb.pid}/status").read_text()
    (peak,) = re.findall(r"^VmPeak:\s+(\d+) kB", status, re.MULTILINE)
    assert int(peak) < 900 << 10


@pytest.mark.parametrize("cut", [64, 100, 0.1, 0.3, 0.5, 0.7, 0.9, 0.99])
def test_a_truncated_one(tmp_path: Path, cut: float) -> None:
    """gdb says what is wrong with it, or shows what there is; it answers in any case."""
    files = kernel(tmp_path, "int x; void _start(void) { x = 1; }")
    data = files.vmlinux.read_bytes()
    files.vmlinux.write_bytes(data[: cut if cut > 1 else int(cut * len(data))])
    with gdb_on(files, tmp_path) as gdb:
        with contextlib.suppress(KgdbError):
            gdb.console("info line _start")
        assert gdb.console("echo alive") == "alive"


# DWARF 4, by hand: a typedef of itself, an array of itself, a structure that is its own parent.
CYCLES = r"""
    .section .debug_abbrev,"",@progbits
    .uleb128 1; .uleb128 0x11; .byte 1; .uleb128 0x13; .uleb128 0x05; .uleb128 0x03; .uleb128 0x08
    .byte 0, 0
    .uleb128 2; .uleb128 0x16; .byte 0; .uleb128 0x03; .uleb128 0x08; .uleb128 0x49; .uleb128 0x13
    .byte 0, 0
    .uleb128 3; .uleb128 0x34; .byte 0; .uleb128 0x03; .uleb128 0x08; .uleb128 0x49; .uleb128 0x13
    .uleb128 0x02; .uleb128 0x18; .byte 0, 0
    .uleb128 4; .uleb128 0x01; .byte 0; .uleb128 0x49; .uleb128 0x13; .byte 0, 0
    .uleb128 5; .uleb128 0x13; .byte 1; .uleb128 0x03; .uleb128 0x08; .uleb128 0x0b; .uleb128 0x0b
    .byte 0, 0
    .uleb128 6; .uleb128 0x1c; .byte 0; .uleb128 0x49; .uleb128 0x13; .byte 0, 0
    .byte 0
    .section .debug_info,"",@progbits
begin:
    .long end - start
start:
    .value 4; .long .debug_abbrev; .byte 8
    .uleb128 1; .value 12; .string "cycles.c"
typedef:
    .uleb128 2; .string "own_t"; .long typedef - begin
array:
    .uleb128 4; .long array - begin
struct:
    .uleb128 5; .string "own"; .byte 8
    .uleb128 6; .long struct - begin
    .byte 0
    .uleb128 3; .string "one"; .long typedef - begin; .uleb128 9; .byte 3; .quad one
    .uleb128 3; .string "two"; .long array - begin; .uleb128 9; .byte 3; .quad one
    .uleb128 3; .string "three"; .long struct - begin; .uleb128 9; .byte 3; .quad one
    .byte 0
end:
    .data
one: .quad 1
    .globl _start
    .text
_start: ret
"""


@pytest.mark.parametrize("name", ["one", "two", "three"])
def test_types_that_refer_to_themselves(tmp_path: Path, name: str) -> None:
    (tmp_path / "cycles.s").write_text(CYCLES)
    argv = ["gcc", "-nostdlib", "-static", "-o", "vmlinux", "cycles.s"]
    subprocess.run(argv, cwd=tmp_path, check=True, timeout=60)
    files = Files(tmp_path / "vmlinux", Sources(tmp_path))
    process = GdbProcess(command_line(files, tmp_path / "index"), log=tmp_path / "log")
    gdb = Gdb(process, transcript=tmp_path / "transcript", waits=WaitLimit(20))
    deadline = Deadline(60)
    with contextlib.suppress(KgdbError):  # it may die of it, or never end: that is an error of its
        gdb.console(f"whatis {name}")
    gdb.close()
    assert not deadline.expired
    assert not Path(f"/proc/{process.pid}").exists()
