"""The kernel's list of modules, read from its memory."""

from __future__ import annotations

import struct
from collections.abc import Callable

import pytest
from fake_gdb import FakeGdb, Parts
from fake_module import note

from pytest_kgdb.debugger import Constants
from pytest_kgdb.errors import KgdbError
from pytest_kgdb.modules import KernelModules
from pytest_kgdb.modules._kernel_list import (
    _LIST,
    _MEMORY,
    _MEMORY_6_4,
    _PER_CPU,
    _SECTIONS,
    _SECTIONS_6_14,
)

HEAD = 0xFFFFFFFF81F4F6A0  # of the list, in Linux 6.1; its offsets in struct module:
LIST, NAME, STATE, SECT_ATTRS = 8, 24, 0, 0x1A0


class Memory:
    """Pages of the kernel's memory; others are not mapped."""

    def __init__(self) -> None:
        self.pages: dict[int, bytearray] = {}

    def put(self, address: int, data: bytes) -> None:
        for offset, byte in enumerate(data):
            page, at = divmod(address + offset, 4096)
            self.pages.setdefault(page, bytearray(4096))[at] = byte

    def word(self, address: int, value: int) -> None:
        self.put(address, struct.pack("<Q", value))

    def read(self, address: int, size: int) -> bytes:
        data = bytearray()
        for place in range(address, address + size):
            page, at = divmod(place, 4096)
            if page not in self.pages:
                raise KgdbError(f"{place:#x} is not mapped")
            data.append(self.pages[page][at])
        return bytes(data)


@pytest.fixture
def memory() -> Memory:
    memory = Memory()
    memory.word(HEAD, HEAD)
    return memory


@pytest.fixture
def kernel(parts: Parts, gdb: FakeGdb, memory: Memory) -> KernelModules:
    signed = [HEAD - (1 << 64), LIST, NAME, STATE]  # as gdb gives addresses
    gdb.numbers.update(zip(_LIST, signed, strict=True))
    constants = Constants(parts.debugger, lambda _, compute: compute())
    return KernelModules(constants, memory.read)


def link(memory: Memory, *modules: tuple[int, bytes, int]) -> None:
    """Put modules in the list: address, name, state."""
    entry = HEAD
    for address, name, state in modules:
        memory.word(entry, address + LIST)
        memory.put(address + STATE, struct.pack("<I", state))
        memory.put(address + NAME, name + b"\0")
        entry = address + LIST
    memory.word(entry, HEAD)


ONE, TWO = 0xFFFFFFFFA0001000, 0xFFFFFFFFA0009000


def test_no_module(kernel: KernelModules, gdb: FakeGdb) -> None:
    assert list(kernel.listing()) == []
    assert list(kernel.listing()) == []
    assert len(gdb.requests("numbers")) == 1, "where the list is does not change"


def test_modules(kernel: KernelModules, memory: Memory) -> None:
    link(memory, (TWO, b"other", 1), (0xFFFFFFFFA000C000, b"half", 3), (ONE, b"demo", 0))
    loaded = [(one.name, one.address, one.state) for one in kernel.listing()]
    assert loaded == [("other", TWO, 1), ("demo", ONE, 0)], "one that is unformed has no name yet"
    assert kernel.name_at(ONE) == "demo"


def test_a_list_that_has_lost_its_way(
    kernel: KernelModules, memory: Memory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pytest_kgdb.modules._kernel_list._MOST_MODULES", 5)
    link(memory, (ONE, b"demo", 0))
    memory.word(ONE + LIST, ONE + LIST)
    assert len(list(kernel.listing())) == 5
    memory.word(ONE + LIST, 0)
    assert len(list(kernel.listing())) == 1


def test_a_name_at_the_end_of_what_is_mapped(kernel: KernelModules, memory: Memory) -> None:
    address = 0xFFFFFFFFA0001FD0  # its name is in the last 24 bytes of a page
    memory.put(address + NAME, b"demo\0")
    assert kernel.name_at(address) == "demo"


Attributes = Callable[..., None]


def put_attributes(memory: Memory, *, stride: int, count: int | None, **sections: int) -> None:
    attributes = 0xFFFF888003000000
    memory.word(ONE + SECT_ATTRS, attributes)
    if count is not None:
        memory.put(attributes + 24, struct.pack("<I", count))
    memory.put(attributes + 32, bytes((len(sections) + 1) * stride))
    for index, (label, address) in enumerate(sections.items()):
        name = 0xFFFF888003001000 + 64 * index
        memory.put(name, f".{label.replace('_', '.')}\0".encode())
        memory.word(attributes + 32 + index * stride, name)
        memory.word(attributes + 32 + index * stride + 56, address)
    memory.put(0xFFFF888003002000, b"\0" * 8)


def test_sections(kernel: KernelModules, memory: Memory, gdb: FakeGdb) -> None:
    gdb.numbers.update(zip(_SECTIONS, [SECT_ATTRS, 32, 72, 0, 56, 24], strict=True))
    put_attributes(memory, stride=72, count=2, text=0x1000, init_text=0x2000, gone=0x3000)
    assert kernel.sections(ONE) == {".text": 0x1000, ".init.text": 0x2000}
    memory.word(TWO + SECT_ATTRS, 0)
    assert kernel.sections(TWO) == {}, "it has none yet"


def test_sections_since_6_14(kernel: KernelModules, memory: Memory, gdb: FakeGdb) -> None:
    gdb.numbers.update(zip(_SECTIONS_6_14, [SECT_ATTRS, 32, 80, 0, 56], strict=True))
    put_attributes(memory, stride=80, count=None, text=0x1000, init_text=0x2000)
    assert kernel.sections(ONE) == {".text": 0x1000, ".init.text": 0x2000}


def test_a_build_id(kernel: KernelModules, memory: Memory) -> None:
    memory.put(0x1000, note(bytes(range(20))))
    assert kernel.build_id({".note.gnu.build-id": 0x1000}) == bytes(range(20)).hex()
    assert kernel.build_id({".note.gnu.build-id": 0x7000}) == "", "it is not mapped"
    assert kernel.build_id({".text": 0x1000}) == ""


def test_a_kernel_that_does_not_say(kernel: KernelModules) -> None:
    with pytest.raises(KgdbError, match="does not say where the sections of a module are") as error:
        kernel.sections(ONE)
    assert error.value.hint == "build it with CONFIG_KALLSYMS=y and CONFIG_SYSFS=y"


# What is freed of one

PIECES = (0x140, 0x148, 0x190, 0x198)  # core_layout and init_layout: base, size
PER_CPU = (0x1F0, 0x1F8)


def numbers(gdb: FakeGdb, expressions: tuple[str, ...], values: tuple[int, ...]) -> None:
    gdb.numbers.update(zip(expressions, values, strict=True))


def module_with_memory(memory: Memory, state: int) -> None:
    link(memory, (ONE, b"demo", state))
    for offset, start in zip(PIECES[::2], (0xFFFFFFFFA0000000, 0xFFFFFFFFA0005000), strict=True):
        memory.word(ONE + offset, start)
    for offset, size in zip(PIECES[1::2], (0x4000, 0x1000), strict=True):
        memory.put(ONE + offset, struct.pack("<I", size))
    memory.word(ONE + PER_CPU[0], 0x24000)
    memory.put(ONE + PER_CPU[1], struct.pack("<I", 8))


@pytest.mark.parametrize("state", [0, 2])
@pytest.mark.parametrize("release", ["6.1", "6.4"])
def test_memory_that_is_freed(
    kernel: KernelModules, memory: Memory, gdb: FakeGdb, state: int, release: str
) -> None:
    if release == "6.1":
        numbers(gdb, _MEMORY, PIECES)
    else:
        numbers(gdb, _MEMORY_6_4, (PIECES[0], PIECES[2] - PIECES[0], 0, 8, 1, 2))
    numbers(gdb, _PER_CPU, PER_CPU)
    module_with_memory(memory, state)
    kernel.prepare_memory()
    gdb.agent.clear()
    others = Memory()
    assert others.pages == {}
    read, kernel._read = memory.read, others.read
    freed = kernel.freed(ONE, read)
    init = (0xFFFFFFFFA0005000, 0xFFFFFFFFA0006000)
    if state == 0:
        assert (freed.ranges, freed.per_cpu) == ((init,), ())
        assert freed.why == "the init of module demo has run, and its memory is freed"
    else:
        assert freed.ranges == ((0xFFFFFFFFA0000000, 0xFFFFFFFFA0004000), init)
        assert freed.per_cpu == ((0x24000, 0x24008),)
        assert freed.why == "module demo is not loaded any more"


def test_no_init_is_freed_twice(kernel: KernelModules, memory: Memory, gdb: FakeGdb) -> None:
    numbers(gdb, _MEMORY, PIECES)
    module_with_memory(memory, 2)
    memory.put(ONE + PIECES[3], bytes(4))
    freed = kernel.freed(ONE, memory.read)
    assert freed.ranges == ((0xFFFFFFFFA0000000, 0xFFFFFFFFA0004000),)
    assert freed.per_cpu == (), "this kernel has one CPU"
