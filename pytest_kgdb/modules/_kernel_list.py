"""The modules that the kernel has loaded: its own list, read from its memory."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from copy import copy
from dataclasses import dataclass
from typing import Final

from ..debugger import Constants, GdbError
from ..elf import build_id_of
from ..errors import KgdbError
from ..trace import FreedMemory

__all__ = ["STATES", "KernelModules", "Loaded"]

# include/linux/module.h, enum module_state.
STATES: Final = ("live", "coming", "going", "unformed")
_UNFORMED: Final = 3

# include/linux/moduleparam.h, MODULE_NAME_LEN: 64 - sizeof(unsigned long).
_NAME_BYTES: Final = 56
_SECTION_NAME: Final = 128
_MOST_MODULES: Final = 10_000  # a list that is longer has lost its way
_MOST_SECTIONS: Final = 1_000
_MASK: Final = (1 << 64) - 1

_BUILD_ID: Final = ".note.gnu.build-id"
# elf(5), "Notes": three words, the name "GNU" with its end, then the id, of SHA-1 by default.
_NOTE_BYTES: Final = 12 + 4 + 20

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


# kernel/module/main.c, percpu_modalloc.
_PER_CPU: Final = tuple(
    f"(unsigned long)&((struct module *)0)->{member}" for member in ("percpu", "percpu_size")
)


# include/linux/module.h: the memory of all of a module, and of its init, which starts and sizes are
# of; since 6.4 a piece of each sort (enum mod_mem_type), those of the init last.
_MEMORY: Final = tuple(
    f"(unsigned long)&((struct module *)0)->{layout}.{member}"
    for layout in ("core_layout", "init_layout")
    for member in ("base", "size")
)
_MEMORY_6_4: Final = (
    "(unsigned long)&((struct module *)0)->mem",
    "(unsigned long)sizeof(struct module_memory)",
    "(unsigned long)&((struct module_memory *)0)->base",
    "(unsigned long)&((struct module_memory *)0)->size",
    "(unsigned long)MOD_INIT_TEXT",
    "(unsigned long)MOD_MEM_NUM_TYPES",
)


@dataclass(frozen=True)
class _Memory:
    """Offsets in `struct module` of where a piece of its memory begins, and of its size."""

    base: int
    size: int
    init: bool


@dataclass(frozen=True)
class _ModuleLayout:
    """Offsets in `struct module`, and the address of the list of modules."""

    head: int
    list: int
    name: int
    state: int


@dataclass(frozen=True)
class _SectionLayout:
    """Offsets of the addresses of a module's sections."""

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


class KernelModules:
    """Reads the kernel's list of modules (kernel/module/main.c, `modules`) while it is stopped.

    :param constants: knows the offsets in its structures.
    :param read: reads the kernel's memory: address and size.
    """

    def __init__(self, constants: Constants, read: Callable[[int, int], bytes]) -> None:
        self._constants = constants
        self._read = read
        self._module_layout: _ModuleLayout | None = None
        self._section_layout: _SectionLayout | None = None
        self._per_cpu: list[int] | None = None
        self._memory: list[_Memory] | None = None

    def prepare(self) -> None:
        """Ask gdb for everything that it is asked for, once."""
        self._where()
        self._where_sections()
        self._per_cpu_numbers()

    def prepare_memory(self) -> None:
        """Ask gdb for everything that :meth:`freed` needs.

        :raises GdbError: this kernel does not say where a module's memory is.
        """
        self._where()
        self._where_memory()
        self._per_cpu_numbers()

    def freed(self, address: int, read: Callable[[int, int], bytes]) -> FreedMemory:
        """Return what is about to be freed of a `struct module`: all, or its init if it is live.

        :param read: reads the kernel's memory, in place of what this was made with.
        """
        other = copy(self)
        other._read = read
        return other._freed(address)

    def _freed(self, address: int) -> FreedMemory:
        name = self.name_at(address)
        is_live = STATES[self._number(address + self._where().state)] == "live"
        starts = [
            (self._word(address + piece.base), self._number(address + piece.size))
            for piece in self._where_memory()
            if piece.init or not is_live
        ]
        memory = tuple((start, start + size) for start, size in starts if size)
        if is_live:
            return FreedMemory.of_module_init(name, memory)
        per_cpu: tuple[tuple[int, int], ...] = ()
        base = self._per_cpu_base(address)
        if base is not None:
            size = self._number(address + self._per_cpu_numbers()[1])
            per_cpu = ((base, base + size),)
        return FreedMemory.of_module(name, memory, per_cpu)

    def listing(self) -> Iterator[Loaded]:
        """Yield the modules in the kernel's list, the latest first."""
        layout = self._where()
        entry = self._word(layout.head)
        for _ in range(_MOST_MODULES):
            if entry in (layout.head, 0):
                return
            address = entry - layout.list
            state = self._number(address + layout.state)
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
            most = self._number(attributes + layout.count)
        sections: dict[str, int] = {}
        for index in range(most):
            attribute = attributes + layout.attrs + index * layout.stride
            name = self._word(attribute + layout.name)
            if name == 0:
                break
            sections[self._text(name, _SECTION_NAME)] = self._word(attribute + layout.address)
        base = self._per_cpu_base(address)
        if base is not None:
            # The kernel clears the section's flag SHF_ALLOC, so that sysfs has no file of it
            # (kernel/module/main.c, layout_and_allocate).
            sections[".data..percpu"] = base
        return sections

    def build_id(self, sections: Mapping[str, int]) -> str:
        """Return the build id of a module whose sections these are; "" where it is not known."""
        if (note := sections.get(_BUILD_ID)) is None:
            return ""
        with contextlib.suppress(KgdbError):
            return build_id_of(self._read(note, _NOTE_BYTES))
        return ""

    def _per_cpu_base(self, address: int) -> int | None:
        """Return where a module's per-CPU variables are, as a per-CPU address; None without."""
        if not (numbers := self._per_cpu_numbers()):
            return None
        base, size = numbers
        return self._word(address + base) if self._number(address + size) else None

    def _per_cpu_numbers(self) -> list[int]:
        if self._per_cpu is None:
            try:
                self._per_cpu = self._numbers(_PER_CPU)
            except GdbError:
                self._per_cpu = []  # without CONFIG_SMP they are variables like any other
        return self._per_cpu

    def _number(self, address: int) -> int:
        """Return an unsigned int, or an enumerator."""
        return int.from_bytes(self._read(address, 4), "little")

    def _word(self, address: int) -> int:
        return int.from_bytes(self._read(address, 8), "little")

    def _text(self, address: int, most: int) -> str:
        with contextlib.suppress(KgdbError):
            return self._read(address, most).partition(b"\0")[0].decode(errors="replace")
        # At the end of what is mapped.
        left = 4096 - address % 4096
        return self._read(address, left).partition(b"\0")[0].decode(errors="replace")

    def _where(self) -> _ModuleLayout:
        if self._module_layout is None:
            self._module_layout = _ModuleLayout(*self._numbers(_LIST))
        return self._module_layout

    def _where_memory(self) -> list[_Memory]:
        if self._memory is None:
            try:
                base, size, init_base, init_size = self._numbers(_MEMORY)
                self._memory = [_Memory(base, size, False), _Memory(init_base, init_size, True)]
            except GdbError:
                first, stride, base, size, init, count = self._numbers(_MEMORY_6_4)
                self._memory = [
                    _Memory(
                        first + sort * stride + base, first + sort * stride + size, sort >= init
                    )
                    for sort in range(count)
                ]
        return self._memory

    def _where_sections(self) -> _SectionLayout:
        if self._section_layout is None:
            try:
                self._section_layout = _SectionLayout(*self._numbers(_SECTIONS))
            except GdbError:
                try:
                    self._section_layout = _SectionLayout(*self._numbers(_SECTIONS_6_14))
                except GdbError as error:
                    raise KgdbError(
                        "this kernel does not say where the sections of a module are, "
                        f"so that gdb cannot have its symbols: {error.message}",
                        hint="build it with CONFIG_KALLSYMS=y and CONFIG_SYSFS=y",
                    ) from error
        return self._section_layout

    def _numbers(self, expressions: tuple[str, ...]) -> list[int]:
        return [number & _MASK for number in self._constants.numbers(expressions)]
