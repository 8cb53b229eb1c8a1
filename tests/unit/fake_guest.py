"""A kernel that never ran: a small vmlinux, and guest RAM that looks as if it had."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from pathlib import Path

GIB = 1 << 30
START_KERNEL_MAP = 0xFFFFFFFF80000000
BANNER = b"Linux version 6.1.192-fake (nobody@nowhere) #1 SMP\n\0"
BUILD_ID = bytes(range(20))

PRESENT, HUGE = 1, 1 << 7


class Image:
    """Sections of an ELF file, and what their symbols are called."""

    def __init__(self) -> None:
        self.sections: list[tuple[str, int, int, bytes, int, int]] = []
        self.symbols: list[tuple[str, int, int]] = []

    def section(self, name: str, contents: bytes, address: int = 0, kind: int = 1) -> None:
        self.sections.append((name, kind, address, contents, 0, len(contents)))

    def symbol(self, name: str, value: int, binding: int = 1) -> None:
        self.symbols.append((name, value, binding))

    def write(self, path: Path, *, stripped: bool = False, merge: bool = True) -> Path:
        """Write it; `merge` stores names inside longer ones, as the linker does."""
        sections = [("", 0, 0, b"", 0, 0), *self.sections]
        if not stripped:
            strings = b"\0"
            entries = [struct.pack("<IBBHQQ", 0, 0, 0, 0, 0, 0)]
            offsets: dict[str, int] = {}
            for name in sorted({s[0] for s in self.symbols}, key=len, reverse=True):
                at = strings.find(name.encode() + b"\0") if merge else -1
                if at < 0:
                    at = len(strings)
                    strings += name.encode() + b"\0"
                offsets[name] = at
            for name, value, binding in sorted(self.symbols, key=lambda s: s[2]):
                entries.append(struct.pack("<IBBHQQ", offsets[name], binding << 4, 0, 1, value, 8))
            sections.append((".symtab", 2, 0, b"".join(entries), len(sections) + 1, 0))
            sections.append((".strtab", 3, 0, strings, 0, 0))
        names = b""
        starts: dict[str, int] = {}
        for name in [*(s[0] for s in sections), ".shstrtab"]:
            starts[name] = len(names)
            names += name.encode() + b"\0"
        sections.append((".shstrtab", 3, 0, names, 0, 0))
        body, headers = b"", b""
        for name, kind, address, contents, link, _ in sections:
            headers += struct.pack(
                "<IIQQQQIIQQ",
                starts[name], kind, 0, address, 64 + len(body), len(contents), link, 0, 1, 0,
            )  # fmt: skip
            body += contents
        header = struct.pack(
            "<16sHHIQQQIHHHHHH",
            b"\x7fELF\x02\x01\x01", 2, 62, 1, 0, 0, 64 + len(body), 0, 64, 0, 0, 64,
            len(sections), len(sections) - 1,
        )  # fmt: skip
        path.write_bytes(header + body + headers)
        return path


def note(kind: int, name: bytes, contents: bytes) -> bytes:
    def padded(data: bytes) -> bytes:
        return data + bytes(-len(data) % 4)

    head = struct.pack("<III", len(name), len(contents), kind)
    return head + padded(name) + padded(contents)


class FakeGuest:
    """Guest RAM with a kernel in it: image, direct map, page tables.

    :param shift: how far the image is from where it was linked, in physical memory.
    :param offset: how far it is in virtual memory.
    """

    # Link addresses: 16 MiB is where x86-64 kernels are.
    TEXT = START_KERNEL_MAP + (16 << 20)
    SYMBOLS: Mapping[str, int] = {
        "_text": 0,
        "linux_banner": 0x1000,
        "phys_base": 0x2000,
        "page_offset_base": 0x2008,
        "pgdir_shift": 0x2010,
        "vmcoreinfo_data": 0x2018,
        "vmcoreinfo_size": 0x2020,
        "prb": 0x2028,
        "console_printk": 0x2030,
        "ignore_loglevel": 0x2034,
        "some_text": 0x2100,
        "init_top_pgt": 0x3000,
        "_end": 0x200000,
    }

    def __init__(
        self,
        directory: Path,
        *,
        levels: int = 5,
        shift: int = 0,
        offset: int = 0,
        memory: int = 64 << 20,
    ) -> None:
        self.levels = levels
        self.memory = memory
        self.page_offset = 0xFF11000000000000 if levels == 5 else 0xFFFF888000000000
        self.offset = offset
        self.image = self.TEXT - START_KERNEL_MAP + shift
        self.path = directory / "guest.ram"
        with self.path.open("wb") as file:
            file.truncate(memory)
        self._free = self.image + 0x400000
        self.poke(self.phys("linux_banner"), BANNER)
        self.poke_u64(self.phys("phys_base"), shift - offset)
        self.poke_u64(self.phys("page_offset_base"), self.page_offset)
        self.poke(self.phys("pgdir_shift"), struct.pack("<I", 48 if levels == 5 else 39))
        self.poke(self.phys("some_text"), b"some text")
        self.root = self.phys("init_top_pgt")
        self.map(self.TEXT + offset, self.image, 21)
        for start in range(0, memory, 1 << 21):
            self.map(self.page_offset + start, start, 21)
        self.vmlinux = self._write_vmlinux(directory / "vmlinux")

    def _write_vmlinux(self, path: Path) -> Path:
        image = Image()
        image.section(".rodata", BANNER + b"more", self.address("linux_banner", linked=True))
        image.section(".notes", note(7, b"Xen\0", b"x") + note(3, b"GNU\0", BUILD_ID), kind=7)
        for name in self.SYMBOLS:
            image.symbol(name, self.address(name, linked=True))
        return image.write(path)

    def phys(self, name: str) -> int:
        return self.image + self.SYMBOLS[name]

    def address(self, name: str, *, linked: bool = False) -> int:
        return self.TEXT + self.SYMBOLS[name] + (0 if linked else self.offset)

    def poke(self, physical: int, data: bytes) -> None:
        with self.path.open("r+b") as file:
            file.seek(physical)
            file.write(data)

    def poke_u64(self, physical: int, value: int) -> None:
        self.poke(physical, struct.pack("<Q", value % (1 << 64)))

    def peek_u64(self, physical: int) -> int:
        with self.path.open("rb") as file:
            file.seek(physical)
            return int(struct.unpack("<Q", file.read(8))[0])

    def page(self, count: int = 1) -> int:
        """Return the physical address of so many unused pages."""
        self._free += 0x1000 * count
        return self._free - 0x1000 * count

    def map(self, virtual: int, physical: int, shift: int = 12, root: int | None = None) -> None:
        """Map one page of 4 KiB (12), 2 MiB (21) or 1 GiB (30)."""
        table = self.root if root is None else root
        for level in (48, 39, 30, 21, 12)[5 - self.levels :]:
            entry = table + (virtual >> level & 511) * 8
            if level == shift:
                self.poke_u64(entry, physical | PRESENT | (HUGE if level > 12 else 0))
                return
            if not self.peek_u64(entry):
                self.poke_u64(entry, self.page() | PRESENT)
            table = self.peek_u64(entry) & ~0xFFF
