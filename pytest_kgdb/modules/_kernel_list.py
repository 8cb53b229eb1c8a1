"""The modules that the kernel has loaded: its own list, read from its memory."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

from ..debugger import Constants, GdbError
from ..errors import KgdbError

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

    def prepare(self) -> None:
        """Ask gdb for everything that it is asked for, once."""
        self._where()
        self._where_sections()
        self._per_cpu_numbers()

    def listing(self) -> Iterator[Loaded]:
        """Yield the modules in the kernel's list, the latest first."""
        layout = self._where()
        entry = self._word(layout.head)
        for _ in range(_MOST_MODULES):
            if entry in (layout.head, 0):
                return
            address = entry - layout.list
            state = int.from_bytes(self._read(address + layout.state, 4), "little")
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
            most = int.from_bytes(self._read(attributes + layout.count, 4), "little")
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

    def _per_cpu_base(self, address: int) -> int | None:
        """Return where a module's per-CPU variables are, as a per-CPU address; None without."""
        if not (numbers := self._per_cpu_numbers()):
            return None
        base, size = numbers
        length = int.from_bytes(self._read(address + size, 4), "little")
        return self._word(address + base) if length else None

    def _per_cpu_numbers(self) -> list[int]:
        if self._per_cpu is None:
            try:
                self._per_cpu = self._numbers(_PER_CPU)
            except GdbError:
                self._per_cpu = []  # without CONFIG_SMP they are variables like any other
        return self._per_cpu

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
