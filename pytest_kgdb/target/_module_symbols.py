"""Loaded modules as the kernel has them, and their symbols in gdb."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from ..errors import KgdbError
from ..kernel import without_addresses
from ._link import GdbError, Link

if TYPE_CHECKING:
    from ..memory import KernelMemory

__all__ = ["Loaded", "ModuleSymbols", "Symbols"]

# include/linux/module.h, enum module_state.
STATES: Final = ("live", "coming", "going", "unformed")
_UNFORMED: Final = 3

# include/linux/moduleparam.h, MODULE_NAME_LEN: 64 - sizeof(unsigned long).
_NAME_BYTES: Final = 56
_SECTION_NAME: Final = 128
_MOST_MODULES: Final = 10_000  # a list that is longer has lost its way
_MOST_SECTIONS: Final = 1_000
_MASK: Final = (1 << 64) - 1

# Documentation/x86/x86_64/mm.rst: the last 2 MiB of addresses are an unused hole.
_GRAVES: Final = 0xFFFFFFFFFFE00000
_GRAVES_END: Final = 0xFFFFFFFFFFF80000
_GRAVE: Final = 4096  # between one and the next

# Only while the file is being loaded is there memory behind these.
_NOT_KEPT: Final = (".symtab", ".strtab", ".modinfo", "__versions")

_LIST: Final = (
    "(unsigned long)&modules",
    *(f"(unsigned long)&((struct module *)0)->{member}" for member in ("list", "name", "state")),
)
# kernel/module/sysfs.c: an array of a structure of the file's own, counted; since 6.14 an array
# of bin_attribute behind a list that ends with NULL.
_SECTIONS: Final = tuple(
    f"(unsigned long){expression}"
    for expression in (
        "&((struct module *)0)->sect_attrs",
        "&((struct module_sect_attrs *)0)->attrs",
        "sizeof(struct module_sect_attr)",
        "&((struct module_sect_attr *)0)->battr.attr.name",
        "&((struct module_sect_attr *)0)->address",
        "&((struct module_sect_attrs *)0)->nsections",
    )
)
_SECTIONS_6_14: Final = tuple(
    f"(unsigned long){expression}"
    for expression in (
        "&((struct module *)0)->sect_attrs",
        "&((struct module_sect_attrs *)0)->attrs",
        "sizeof(struct bin_attribute)",
        "&((struct bin_attribute *)0)->attr.name",
        "&((struct bin_attribute *)0)->private",
    )
)


@dataclass(frozen=True)
class _Layout:
    """Where `struct module` keeps what we look at."""

    head: int
    list: int
    name: int
    state: int


@dataclass(frozen=True)
class _Sections:
    """Where it keeps its sections' addresses."""

    sect_attrs: int
    attrs: int
    stride: int
    name: int
    address: int
    count: int | None = None
    """Offset of the number of sections; None where a NULL ends them."""


@dataclass(frozen=True)
class Loaded:
    """A module as the kernel has it."""

    name: str
    address: int
    """Of its `struct module`."""
    state: int


@dataclass
class Symbols:
    """A module whose symbols gdb has."""

    name: str
    address: int
    file: Path
    sections: dict[str, int]
    ranges: list[tuple[int, int, bool]]
    """Start, end, and whether the memory goes when its init has run."""
    init_gone: bool = False
    asleep: set[str] = field(default_factory=set)
    """Locations of breakpoints in init memory that is gone, as gdb numbers them."""

    def holds(self, address: int, *, init: bool = False) -> bool:
        """Whether an address is in its memory, or in what it has for its init only."""
        return any(
            start <= address < end and (kind or not init) for start, end, kind in self.ranges
        )


class ModuleSymbols:
    """Keeps gdb's symbols of modules equal to what the kernel has loaded.

    :param find: returns a module's file on the host; None where there is none.
    :param directory: for what gdb is to read and cannot as it is.
    """

    def __init__(
        self, link: Link, state: KernelMemory, find: Callable[[str], Path | None], directory: Path
    ) -> None:
        self._link = link
        self._directory = directory
        self._state = state
        self._find = find
        self._layout: _Layout | None = None
        self._sections: _Sections | None = None
        self._graves = _GRAVES
        self._copies: dict[Path, Path] = {}
        self.have: dict[str, Symbols] = {}
        self.gone: list[Symbols] = []
        """Modules that were unloaded, or never came to be, the latest last."""

    # What the kernel has

    def listing(self) -> Iterator[Loaded]:
        """Yield the modules in the kernel's list, the latest first."""
        layout = self._where()
        entry = self._word(layout.head)
        for _ in range(_MOST_MODULES):
            if entry in (layout.head, 0):
                return
            address = entry - layout.list
            state = int.from_bytes(self._state.read(address + layout.state, 4), "little")
            if state != _UNFORMED:
                yield Loaded(self.name_at(address), address, state)
            entry = self._word(entry)

    def name_at(self, address: int) -> str:
        """Return the name of a `struct module`."""
        return self._text(address + self._where().name, _NAME_BYTES)

    def sections(self, address: int) -> dict[str, int]:
        """Return where the sections of a module are, by name."""
        layout = self._where_sections()
        attributes = self._word(address + layout.sect_attrs)
        if attributes == 0:
            return {}
        most = _MOST_SECTIONS
        if layout.count is not None:
            most = int.from_bytes(self._state.read(attributes + layout.count, 4), "little")
        found: dict[str, int] = {}
        for index in range(most):
            each = attributes + layout.attrs + index * layout.stride
            name = self._word(each + layout.name)
            if name == 0:
                break
            found[self._text(name, _SECTION_NAME)] = self._word(each + layout.address)
        return found

    def _word(self, address: int) -> int:
        return int.from_bytes(self._state.read(address, 8), "little")

    def _text(self, address: int, most: int) -> str:
        with contextlib.suppress(KgdbError):
            return self._state.read(address, most).partition(b"\0")[0].decode(errors="replace")
        # At the end of what is mapped.
        left = 4096 - address % 4096
        return self._state.read(address, left).partition(b"\0")[0].decode(errors="replace")

    def _where(self) -> _Layout:
        if self._layout is None:
            self._layout = _Layout(*self._numbers(_LIST))
        return self._layout

    def _where_sections(self) -> _Sections:
        if self._sections is None:
            try:
                self._sections = _Sections(*self._numbers(_SECTIONS))
            except GdbError:
                try:
                    self._sections = _Sections(*self._numbers(_SECTIONS_6_14))
                except GdbError as error:
                    raise KgdbError(
                        "this kernel does not tell where the sections of a module are, "
                        f"so that its symbols cannot be known: {error.message}",
                        hint="build it with CONFIG_KALLSYMS=y and CONFIG_SYSFS=y",
                    ) from error
        return self._sections

    def _numbers(self, expressions: Collection[str]) -> list[int]:
        answer = self._link.ask("numbers", expressions=list(expressions))
        return [int(number) & _MASK for number in answer["numbers"]]

    # What gdb has

    def sync(self, wanted: Collection[str] | None) -> None:
        """Add the symbols of modules that were loaded, and remove those of what is gone.

        :param wanted: names; None for every module that has a file.
        """
        loaded = {each.name: each for each in self.listing()}
        for symbols in list(self.have.values()):
            present = loaded.get(symbols.name)
            if present is None or self._is_another(present, symbols):
                self.remove(symbols.name)
            elif STATES[present.state] == "live":
                symbols.init_gone = True
        for each in loaded.values():
            if each.name not in self.have and (wanted is None or each.name in wanted):
                self.add(each)

    def _is_another(self, present: Loaded, symbols: Symbols) -> bool:
        """Whether a module was unloaded, and loaded again, since gdb got its symbols."""
        again = symbols.init_gone and STATES[present.state] == "coming"
        moved = present.address != symbols.address
        return again or moved or self._find(symbols.name) != symbols.file

    def add(self, module: Loaded) -> None:
        """Give gdb a module's symbols, all sections; one without a file has none."""
        file = self._find(module.name)
        if file is None:
            return
        sections = {
            name: address
            for name, address in self.sections(module.address).items()
            if not name.startswith(_NOT_KEPT)
        }
        ranges = _ranges(file, sections)
        for other in list(self.have.values()):
            # Memory that one module had for its init only may be another one's now.
            if other.init_gone and _overlap(other.ranges, ranges):
                self._bury(other)
        self.have[module.name] = symbols = Symbols(
            module.name,
            module.address,
            file,
            sections,
            ranges,
            init_gone=STATES[module.state] == "live",
        )
        try:
            self._tell(symbols)
        except GdbError as error:
            del self.have[module.name]
            raise KgdbError(
                f"gdb does not take the symbols of {module.name} from {file}: {error.message}",
                hint="is that the file that the guest has loaded, whole and not stripped?",
            ) from error

    def _tell(self, symbols: Symbols) -> None:
        words = [f'add-symbol-file "{self._readable(symbols.file)}"']
        words += [f"-s {name} {address:#x}" for name, address in symbols.sections.items()]
        # An index holds the addresses of the place where the module was when it was made, and
        # gdb finds it by the build id, wherever the module is now.
        self._link.console("set index-cache enabled off")
        try:
            self._link.console(" ".join(words))
        finally:
            self._link.console("set index-cache enabled on")

    def _readable(self, file: Path) -> Path:
        """Return a module's file as gdb can read it."""
        if file not in self._copies:
            data = without_addresses(file)
            copy = self._directory / f"{len(self._copies)}-{file.name}"
            if data is not None:
                copy.write_bytes(data)
            self._copies[file] = file if data is None else copy
        return self._copies[file]

    def remove(self, name: str) -> None:
        """Take a module's symbols out of gdb; breakpoints in it wait for it to come again."""
        symbols = self.have.pop(name, None)
        if symbols is not None:
            self.gone.append(symbols)
            with self._removed(symbols):
                pass

    @contextlib.contextmanager
    def _removed(self, symbols: Symbols) -> Iterator[None]:
        """Take symbols out of gdb, with the breakpoints at them disabled until the end."""
        waiting = [
            each
            for each in self.breakpoints()
            if any(symbols.holds(address) for _, address, _ in each.locations)
        ]
        # gdb takes these for removed with the symbols, and does not tell kgdb.
        for each in waiting:
            self._link.command(f"-break-disable {each.number}")
        for number in symbols.asleep:
            with contextlib.suppress(GdbError):
                self._link.command(f"-break-enable {number}")
        symbols.asleep.clear()
        self._link.console(f'remove-symbol-file "{self._readable(symbols.file)}"')
        yield
        for each in waiting:
            if each.enabled:
                self._link.command(f"-break-enable {each.number}")

    def _bury(self, symbols: Symbols) -> None:
        """Have a module's init, which is gone, where nothing is: its memory is another's now."""
        with self._removed(symbols):
            for name in symbols.sections:
                if name.startswith(".init"):
                    symbols.sections[name] = self._graves
                    self._graves += _section_sizes(symbols.file)[name] + _GRAVE
            if self._graves > _GRAVES_END:
                self._graves = _GRAVES
            symbols.ranges = _ranges(symbols.file, symbols.sections)
            self._tell(symbols)
            self.init_ended(symbols)

    def init_ended(self, symbols: Symbols) -> None:
        """A module's init has run: take the breakpoints out of memory that is about to go."""
        symbols.init_gone = True
        for each in self.breakpoints():
            for number, address, enabled in each.locations:
                if enabled and number not in symbols.asleep and symbols.holds(address, init=True):
                    self._link.command(f"-break-disable {number}")
                    symbols.asleep.add(number)

    def at(self, address: int) -> tuple[Symbols, bool] | None:
        """Return the module that an address is in, and whether in memory that is gone by now."""
        for symbols in self.have.values():
            if symbols.holds(address):
                gone = symbols.init_gone and symbols.holds(address, init=True)
                return symbols, gone
        return None

    def breakpoints(self) -> list[_Planted]:
        """Return gdb's breakpoints and where each is planted."""
        table = self._link.command("-break-list")["BreakpointTable"]
        return [_Planted.read(row) for row in table["body"]]


@dataclass(frozen=True)
class _Planted:
    number: int
    enabled: bool
    locations: list[tuple[str, int, bool]]
    """gdb's number of it, the address, whether it is enabled."""

    @classmethod
    def read(cls, row: dict[str, Any]) -> _Planted:
        number = row["number"]
        places = row.get("locations") or [{**row, "number": f"{number}.1", "enabled": "y"}]
        return cls(
            int(number),
            row.get("enabled") == "y",
            [
                (place["number"], int(place["addr"], 16), place.get("enabled") == "y")
                for place in places
                if str(place.get("addr", "")).startswith("0x")
            ],
        )


def _ranges(file: Path, sections: dict[str, int]) -> list[tuple[int, int, bool]]:
    """Return the memory that a module's sections have."""
    sizes = _section_sizes(file)
    return [
        (start, start + sizes[name], name.startswith(".init"))
        for name, start in sections.items()
        if sizes.get(name) and name != ".data..percpu"  # which is no address
    ]


@lru_cache(maxsize=64)
def _section_sizes(file: Path) -> dict[str, int]:
    from elftools.elf.elffile import ELFFile

    with file.open("rb") as stream:
        return {each.name: each["sh_size"] for each in ELFFile(stream).iter_sections()}


def _overlap(ones: list[tuple[int, int, bool]], others: list[tuple[int, int, bool]]) -> bool:
    return any(
        kind and start < other_end and other_start < end
        for start, end, kind in ones
        for other_start, other_end, _ in others
    )
