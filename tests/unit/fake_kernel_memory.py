"""A kernel's memory with what a test puts there: types, variables and objects, read by drgn."""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from typing import Any

import drgn

__all__ = ["FakeMemory"]

BASE = 0xFFFF888000000000
SIZE = 1 << 20
PER_CPU_DISTANCE = 0x10000


class FakeMemory:
    """Memory of a kernel, without any type or variable that a test does not define."""

    def __init__(self) -> None:
        self.program = drgn.Program(drgn.Platform(drgn.Architecture.X86_64))
        self.types: dict[str, drgn.Type] = {}
        self.variables: dict[str, drgn.Object] = {}
        self.absent: set[str] = set()
        """Variables and members that this kernel does not have."""
        self._symbols: dict[str, drgn.Symbol] = {}
        self._bytes = bytearray(SIZE)
        self._next = BASE + 0x1000
        self.program.add_memory_segment(BASE, SIZE, self._read)
        self.program.register_type_finder("fake", self._find_type, enable_index=0)
        self.program.register_object_finder("fake", self._find_object, enable_index=0)
        self.program.register_symbol_finder("fake", self._find_symbol, enable_index=0)
        self.struct("list_head", next="struct list_head *", prev="struct list_head *")

    def struct(self, tag: str, size: int | None = None, /, **members: str) -> None:
        """Define a struct; its members' types are in C, an array as `int [2]`."""
        offset = 0
        defined: list[drgn.TypeMember] = []
        type_: Any
        for name, words in members.items():
            if name in self.absent:
                continue
            if words.endswith("*"):
                # A struct may have pointers to itself.
                type_, width = (lambda words=words: self.program.type(words)), 8
            else:
                type_ = self._member(words)
                width = drgn.sizeof(type_)
            align = min(8, width & -width)
            offset = -(-offset // align) * align
            defined.append(drgn.TypeMember(type_, name, bit_offset=8 * offset))
            offset += width
        whole = size if size is not None else -(-offset // 8) * 8
        self.types[f"struct {tag}"] = self.program.struct_type(tag, whole, defined)

    def enum(self, tag: str, /, **values: int) -> None:
        enumerators = [drgn.TypeEnumerator(name, value) for name, value in values.items()]
        int_ = self.program.type("unsigned int")
        self.types[f"enum {tag}"] = self.program.enum_type(tag, int_, enumerators)

    def _member(self, words: str) -> drgn.Type:
        if words.endswith("]"):
            element, _, number = words.removesuffix("]").partition(" [")
            return self.program.array_type(self._member(element), int(number))
        return self.program.type(words)

    def new(self, words: str, /, *, aligned: int = 64, **values: int | drgn.Object) -> drgn.Object:
        """Put an object of a type into memory; its members by name: `a__b` is the member `a.b`."""
        type_ = self._member(words)
        address = -(-self._next // aligned) * aligned
        self._next = address + -(-drgn.sizeof(type_) // 64) * 64 + 64
        new = drgn.Object(self.program, type_, address=address)
        self.set(new, **values)
        return new

    def variable(self, name: str, words: str, /, **values: int | drgn.Object) -> drgn.Object:
        """Put a variable into memory."""
        self.variables[name] = new = self.new(words, **values)
        self.symbol(name, new.address_, drgn.sizeof(new))
        return new

    def symbol(self, name: str, address: int, size: int = 16) -> None:
        binding, kind = drgn.SymbolBinding.GLOBAL, drgn.SymbolKind.OBJECT
        self._symbols[name] = drgn.Symbol(name, address, size, binding, kind)

    def function(self, name: str) -> int:
        """Return the address of a function."""
        if name in self._symbols:
            return int(self._symbols[name].address)
        self._next += 64
        self.symbol(name, self._next - 64)
        return self._next - 64

    def set(self, target: drgn.Object, /, **values: int | drgn.Object) -> None:
        for path, value in values.items():
            if self.absent.intersection(path.split("__")):
                continue
            member = target
            for name in path.split("__"):
                member = member.member_(name) if not name.isdigit() else member[int(name)]
            self.write(member, value)

    def write(self, target: drgn.Object, value: int | drgn.Object) -> None:
        size = drgn.sizeof(target)
        number = value if isinstance(value, int) else address_of(value)
        start = target.address_ - BASE
        self._bytes[start : start + size] = (number % (1 << 8 * size)).to_bytes(size, "little")

    def link(self, *nodes: drgn.Object) -> None:
        """Make a list of some `struct list_head`, the first being its head."""
        for node, after in zip(nodes, [*nodes[1:], nodes[0]], strict=True):
            self.set(node, next=after)
            self.set(after, prev=node)

    def per_cpu(self, name: str, words: str, cpus: int = 2) -> list[drgn.Object]:
        """Put a per-CPU variable into memory, and return that of each CPU."""
        first = self.variable(name, words)
        if "__per_cpu_offset" not in self.variables:
            self.variable("__per_cpu_offset", f"unsigned long [{cpus}]")
            self.write(self.variable("nr_cpu_ids", "unsigned int"), cpus)
            self.struct("cpumask", bits="unsigned long [1]")
            for mask in ("__cpu_possible_mask", "__cpu_online_mask"):
                self.variable(mask, "struct cpumask", bits__0=(1 << cpus) - 1)
            for cpu in range(cpus):
                offset = self.variables["__per_cpu_offset"][cpu]
                self.write(offset, cpu * PER_CPU_DISTANCE)
        return [
            drgn.Object(self.program, first.type_, address=first.address_ + cpu * PER_CPU_DISTANCE)
            for cpu in range(cpus)
        ]

    def words(self, address: int, values: Mapping[int, int]) -> None:
        """Write words at offsets of an address."""
        for offset, value in values.items():
            start = address - BASE + offset
            self._bytes[start : start + 8] = struct.pack("<Q", value)

    def _read(self, address: int, count: int, offset: int, physical: bool) -> bytes:
        return bytes(self._bytes[offset : offset + count])

    def _find_type(
        self, program: drgn.Program, kinds: Any, name: str, filename: str | None
    ) -> drgn.Type | None:
        for prefix in ("struct ", "enum ", "union ", ""):
            type_ = self.types.get(prefix + name)
            if type_ is not None and type_.kind in kinds:
                return type_
        return None

    def _find_object(
        self, program: drgn.Program, name: str, flags: Any, filename: str | None
    ) -> drgn.Object | None:
        return self.variables.get(name) if name not in self.absent else None

    def _find_symbol(
        self, program: drgn.Program, name: str | None, address: int | None, one: bool
    ) -> list[drgn.Symbol]:
        matches: Callable[[drgn.Symbol], bool] = lambda symbol: (  # noqa: E731 # read once
            (name is None or symbol.name == name)
            and (address is None or symbol.address <= address < symbol.address + symbol.size)
        )
        return [symbol for symbol in self._symbols.values() if matches(symbol)]


def address_of(value: drgn.Object) -> int:
    """Return a pointer's value, or where an object is."""
    if value.type_.kind == drgn.TypeKind.POINTER:
        return int(value.value_())
    assert value.address_ is not None
    return int(value.address_)
