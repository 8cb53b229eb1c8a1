"""A vmcore: the guest's memory and registers as an ELF file, as kexec's /proc/vmcore has them.

drgn and crash(8) read it. It is written from the file of the guest's RAM, so that the machine needs
no device for it (QEMU's own `dump-guest-memory` finds VMCOREINFO by `-device vmcoreinfo` only).
"""

from __future__ import annotations

import os
import re
import struct
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final

from ..errors import KgdbError
from ._ram import Ram, Segment

__all__ = ["machine_registers", "pt_regs_data", "pt_regs_values", "write_vmcore"]

# include/uapi/linux/elf.h
_EHDR: Final = struct.Struct("<16sHHIQQQIHHHHHH")
_PHDR: Final = struct.Struct("<IIQQQQQQ")
_ET_CORE: Final = 4
_EM_X86_64: Final = 62
_PT_LOAD: Final = 1
_PT_NOTE: Final = 4
_NT_PRSTATUS: Final = 1
_RWX: Final = 7
_PAGE: Final = 4096
_CHUNK: Final = 1 << 20

# struct elf_prstatus (include/linux/elfcore.h): pr_pid at 32, which is the CPU's number, from 1, as
# QEMU has it (target/i386/arch_dump.c, x86_64_write_elf64_note); pr_reg at 112, whose registers are
# struct user_regs_struct (arch/x86/include/asm/user_64.h), of which the first are struct pt_regs.
_PR_PID: Final = 32
_PR_REG: Final = 112
_PRSTATUS: Final = 336
_USER_REGS: Final = (
    *("r15", "r14", "r13", "r12", "bp", "bx", "r11", "r10", "r9", "r8", "ax", "cx", "dx", "si"),
    *("di", "orig_ax", "ip", "cs", "flags", "sp", "ss", "fs_base", "gs_base", "ds", "es", "fs"),
    "gs",
)
_PT_REGS: Final = _USER_REGS[:21]

# QEMU, target/i386/cpu-dump.c
_CPU: Final = re.compile(r"^CPU#\d+$", re.M)
_GENERAL: Final = re.compile(r"\bR(?P<name>[A-D]X|[SD]I|[BS]P|IP|FL|\d+) *=(?P<value>[0-9a-f]+)")
_SELECTOR: Final = re.compile(r"^(?P<name>[CDEFGS]S) *=(?P<value>[0-9a-f]{4}) (?P<base>[0-9a-f]+)")


def machine_registers(dump: str) -> list[dict[str, int]]:
    """Return the registers of each CPU by their names in struct user_regs_struct.

    :param dump: the output of QEMU's `info registers -a`.
    """
    cpus = []
    for text in _CPU.split(dump.replace("\r", ""))[1:]:
        values: dict[str, int] = {}
        for match in _GENERAL.finditer(text):
            name = match["name"].lower()
            name = {"fl": "flags"}.get(name, f"r{name}" if name.isdigit() else name)
            values[name] = int(match["value"], 16)
        for line in text.splitlines():
            if selector := _SELECTOR.match(line):
                name = selector["name"].lower()
                values[name] = int(selector["value"], 16)
                if name in ("fs", "gs"):
                    values[f"{name}_base"] = int(selector["base"], 16)
        cpus.append(values)
    return cpus


def pt_regs_data(registers: Mapping[str, int]) -> bytes:
    """Return a struct pt_regs with registers given by name; those that are not given are 0."""
    values = (registers.get(name, 0) & (1 << 64) - 1 for name in _PT_REGS)
    return struct.pack(f"<{len(_PT_REGS)}Q", *values)


def pt_regs_values(data: bytes) -> dict[str, int]:
    """Return the registers of a struct pt_regs by name."""
    return dict(zip(_PT_REGS, struct.unpack_from(f"<{len(_PT_REGS)}Q", data), strict=True))


def write_vmcore(
    path: Path,
    ram: Ram,
    *,
    vmcoreinfo: str,
    page_offset: int,
    cpus: Iterable[Mapping[str, int]],
) -> None:
    """Write a vmcore beside its place, and rename it there; pages of zeros become holes.

    :param page_offset: where the kernel has its map of the physical memory.
    :param cpus: each CPU's registers, by their names in struct user_regs_struct.
    :raises KgdbError: the file cannot be written.
    """
    notes = b"".join(
        _note(b"CORE", _NT_PRSTATUS, _prstatus(number, cpu)) for number, cpu in enumerate(cpus, 1)
    )
    notes += _note(b"VMCOREINFO", 0, vmcoreinfo.encode("ascii", "replace"))
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with temporary.open("xb") as file:
            _write(file.fileno(), ram, notes, page_offset)
        temporary.replace(path)
    except OSError as error:
        raise KgdbError(
            f"the dump {path} cannot be written: {error.strerror or error}",
            hint=f"it takes at most {sum(s.size for s in ram.segments) >> 20} MiB, without the "
            "pages that the guest has never used",
        ) from error
    finally:
        temporary.unlink(missing_ok=True)


def _write(fd: int, ram: Ram, notes: bytes, page_offset: int) -> None:
    headers = 1 + len(ram.segments)
    at = _EHDR.size + headers * _PHDR.size
    phdrs = [_PHDR.pack(_PT_NOTE, 0, at, 0, 0, len(notes), len(notes), 4)]
    offset = _round_up(at + len(notes))
    data: list[tuple[int, Segment]] = []
    for segment in ram.segments:
        where = page_offset + segment.start, segment.start
        phdrs.append(_PHDR.pack(_PT_LOAD, _RWX, offset, *where, segment.size, segment.size, _PAGE))
        data.append((offset, segment))
        offset += segment.size
    ident = b"\x7fELF\x02\x01\x01".ljust(16, b"\0")
    ehdr = _EHDR.pack(
        *(ident, _ET_CORE, _EM_X86_64, 1, 0, _EHDR.size, 0, 0),
        *(_EHDR.size, _PHDR.size, headers, 0, 0, 0),
    )
    os.pwrite(fd, ehdr + b"".join(phdrs) + notes, 0)
    os.ftruncate(fd, offset)
    for start, segment in data:
        for done in range(0, segment.size, _CHUNK):
            size = min(_CHUNK, segment.size - done)
            chunk = ram.read(segment.start + done, size)
            _write_pages(fd, chunk, start + done)


def _write_pages(fd: int, chunk: bytes, offset: int) -> None:
    """Write what is not zero of a piece of memory."""
    if not chunk.strip(b"\0"):
        return
    zero = bytes(_PAGE)
    begin: int | None = None
    for at in range(0, len(chunk) + _PAGE, _PAGE):
        is_data = at < len(chunk) and chunk[at : at + _PAGE] != zero
        if is_data and begin is None:
            begin = at
        elif not is_data and begin is not None:
            os.pwrite(fd, chunk[begin:at], offset + begin)
            begin = None


def _prstatus(number: int, cpu: Mapping[str, int]) -> bytes:
    prstatus = bytearray(_PRSTATUS)
    registers = (cpu.get(name, 0) & (1 << 64) - 1 for name in _USER_REGS)
    struct.pack_into(f"<{len(_USER_REGS)}Q", prstatus, _PR_REG, *registers)
    struct.pack_into("<I", prstatus, _PR_PID, number)
    return bytes(prstatus)


def _note(name: bytes, kind: int, description: bytes) -> bytes:
    header = struct.pack("<III", len(name) + 1, len(description), kind)
    return header + _padded(name + b"\0") + _padded(description)


def _padded(data: bytes) -> bytes:
    return data.ljust(-(-len(data) // 4) * 4, b"\0")


def _round_up(size: int) -> int:
    return -(-size // _PAGE) * _PAGE
