"""Modules without a kernel: files that look like some, a kernel's list of them, gdb's symbols."""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from fake_gdb import FakeGdb, Place, Row
from scripted_gdb import Command

from pytest_kgdb.kernel import Built
from pytest_kgdb.modules import ModuleRegistry
from pytest_kgdb.modules._kernel_list import Loaded

MODINFO = (
    b"license=GPL\0parmtype=answer:int\0parm=answer:what it is\0parmtype=label:charp\0"
    b"depends=other,third-one\0name=demo\0vermagic=6.1.192 SMP preempt mod_unload \0"
)

LIVE, COMING, GOING = range(3)
"""include/linux/module.h, enum module_state"""


def elf(
    modinfo: bytes = MODINFO,
    *,
    address: int = 0,
    name: str = "demo",
    init: int = 0,
    text: int = 4,
    build_id: bytes = b"",
) -> bytes:
    """Return a relocatable file (elf(5)) with .modinfo, some symbols, and an address for its .text.

    It has the parameters whose types or descriptions .modinfo has, and `only_set`, which has none.

    :param init: bytes of .init.text, which there is none of without.
    """
    strings = b"\0" + f"{name}.c\0{name}_init\0".encode()
    symbols = struct.pack("<IBBHQQ", 0, 0, 0, 0, 0, 0)
    symbols += struct.pack("<IBBHQQ", 1, 4, 0, 0xFFF1, 0, 0)  # STT_FILE, SHN_ABS
    symbols += struct.pack("<IBBHQQ", len(name) + 4, 2, 0, 2, 0, 4)  # STT_FUNC
    symbols += struct.pack("<IBBHQQ", 0, 3, 0, 6, 0, 0)  # STT_SECTION, .rodata
    code = b"\x90" * (text - 1) + b"\xc3"
    parameters = dict.fromkeys(
        (*re.findall(rb"parm(?:type)?=(\w+)", modinfo), b"only_set") if b"parm" in modinfo else ()
    )
    read_only, relocations = b"\0", b""
    for index, parameter in enumerate(parameters):  # struct kernel_param: name, mod, ops, …
        for offset, place in ((0, len(read_only)), (16, 0)):
            relocations += struct.pack("<QQq", 40 * index + offset, 3 << 32 | 1, place)
        read_only += parameter + b"\0"
    sections: list[tuple[str, int, bytes, int, int, int, int]] = [
        ("", 0, b"", 0, 0, 0, 0),
        (".modinfo", 1, modinfo, 0, 0, 0, 0),
        (".text", 1, code, 0, 0, 0, address),
        (".symtab", 2, symbols, 4, 2, 24, 0),
        (".strtab", 3, strings, 0, 0, 0, 0),
        ("__param", 1, bytes(40 * len(parameters)), 0, 0, 0, 0),
        (".rodata", 1, read_only, 0, 0, 0, 0),
        (".rela__param", 4, relocations, 3, 5, 24, 0),
    ]
    if init:
        sections.append((".init.text", 1, b"\x90" * init, 0, 0, 0, 0))
    if build_id:
        sections.append((".note.gnu.build-id", 7, note(build_id), 0, 0, 0, 0))
    names = b"\0" + b"".join(f"{each[0]}\0".encode() for each in sections[1:]) + b".shstrtab\0"
    sections.append((".shstrtab", 3, names, 0, 0, 0, 0))
    body, headers = b"", b""
    for label, kind, data, link, info, entry, where in sections:
        headers += struct.pack(
            "<IIQQQQIIQQ",
            names.index(f"\0{label}\0".encode()) + 1 if label else 0,
            kind, 0, where, 64 + len(body), len(data), link, info, 1, entry,
        )  # fmt: skip
        body += data
    ident = b"\x7fELF\x02\x01\x01" + bytes(9)
    header = ident + struct.pack(
        "<HHIQQQIHHHHHH",
        1, 62, 1, 0, 0, 64 + len(body), 0, 64, 0, 0, 64, len(sections), len(sections) - 1,
    )  # fmt: skip
    return header + body + headers


def note(build_id: bytes) -> bytes:
    """Return a note (elf(5), "Notes") with a build id."""
    return struct.pack("<III4s", 4, len(build_id), 3, b"GNU\0") + build_id


def write_module(
    directory: Path,
    name: str,
    *,
    depends: str = "",
    text: int = 0x100,
    init: int = 0x80,
    build_id: bytes = b"",
) -> Path:
    """Write a module's file."""
    modinfo = f"name={name}\0depends={depends}\0vermagic=6.1.192 SMP \0parm=answer:what\0".encode()
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / f"{name}.ko"
    path.write_bytes(elf(modinfo, name=name, text=text, init=init, build_id=build_id))
    return path


def as_given(path: Path, variables: Sequence[str]) -> Built:  # it builds nothing
    """Take a `.ko` as it is."""
    return Built([path], [])


def registry(
    tree: Path | None = None,
    provided: list[Path] | None = None,
    build: Any = as_given,
    instead: Callable[[Path], Path] = lambda path: path,
) -> ModuleRegistry:
    """Return a registry of a kernel with modules of its own in a tree."""
    kernel: Any = SimpleNamespace(modules_dir=tree, release="6.1.192")
    return ModuleRegistry(kernel, provided or [], build, instead)


class KernelList:
    """The modules that a kernel has loaded: what :class:`KernelModules` reads."""

    def __init__(self) -> None:
        self.loaded: list[Loaded] = []
        self._sections: dict[int, dict[str, int]] = {}
        self.loaded_build_id = b""
        """Of every module that is loaded."""

    def load(
        self, name: str, address: int, *, state: int = COMING, **sections: int
    ) -> dict[str, int]:
        """Load a module; `text=0x…` is where its .text is, `init_text` its .init.text."""
        self.unload(name)
        self.loaded.insert(0, Loaded(name, address, state))
        named = {f".{label.replace('_', '.')}": start for label, start in sections.items()}
        self._sections[address] = named
        return named

    def set_state(self, name: str, state: int) -> None:
        self.loaded = [
            Loaded(one.name, one.address, state) if one.name == name else one for one in self.loaded
        ]
        if state == LIVE:  # its init is freed
            for one in self.loaded:
                if one.name == name:
                    sections = self._sections[one.address]
                    self._sections[one.address] = {
                        label: start
                        for label, start in sections.items()
                        if not label.startswith(".init")
                    }

    def unload(self, name: str) -> None:
        self.loaded = [one for one in self.loaded if one.name != name]

    # As KernelModules

    def listing(self) -> Iterator[Loaded]:
        yield from self.loaded

    def name_at(self, address: int) -> str:
        return next(one.name for one in self.loaded if one.address == address)

    def sections(self, address: int) -> dict[str, int]:
        return dict(self._sections[address])

    def build_id(self, sections: Mapping[str, int]) -> str:
        return self.loaded_build_id.hex()


class ModuleGdb(FakeGdb):
    """A gdb that takes symbol files, and moves its breakpoints with them, as gdb does.

    :param functions: of each module, by the name of its file: section and offset.
    """

    def __init__(
        self,
        symbols: Mapping[str, int | list[int]] | None = None,
        functions: Mapping[str, Mapping[str, tuple[str, int]]] | None = None,
    ) -> None:
        super().__init__(symbols)
        self.functions = functions or {}
        self.files: dict[str, dict[str, int]] = {}
        """The symbol files that gdb has, and where their sections are."""

    def _doconsole(self, command: Command) -> list[str] | None:
        (line,) = command.arguments
        if match := re.match(r'(add|remove)-symbol-file "([^"]+)"', line):
            path = match[2]
            if match[1] == "add":
                sections = {
                    name: int(start, 16) for name, start in re.findall(r"-s (\S+) (\S+)", line)
                }
                assert path not in self.files, f"{path} is there already"
                self.files[path] = sections
            else:
                del self.files[path]
            return [*self._resolve(path, match[1] == "add"), "^done"]
        return super()._doconsole(command)

    def _resolve(self, path: str, added: bool) -> list[str]:
        records = []
        for name, (section, offset) in self.functions.get(Path(path).name, {}).items():
            start = self.files.get(path, {}).get(section)
            if added and start is not None:
                self.symbols[name] = start + offset
            else:
                self.symbols.pop(name, None)
            for row in self.rows.values():
                if row.original == name:
                    row.places = [Place(start + offset)] if added and start is not None else []
                    records.append(f"=breakpoint-modified,{row.record()}")
        return records


__all__ = [
    "COMING",
    "GOING",
    "LIVE",
    "MODINFO",
    "KernelList",
    "ModuleGdb",
    "Row",
    "elf",
    "registry",
    "write_module",
]
