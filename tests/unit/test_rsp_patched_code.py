"""Which instructions the kernel patches as it runs, by its tables of them."""

from __future__ import annotations

import struct

import pytest

from pytest_kgdb.errors import KgdbError
from pytest_kgdb.kernel import PatchedSites, SiteTable
from pytest_kgdb.rsp._patched_code import PatchedCode

TEXT, END, LABELS, CALLS = 0xFFFF_8000, 0xFFFF_9000, 0xFFFF_A000, 0xFFFF_B000
MODULES, MODULE, MODULE_TABLE, MODULE_TEXT = 0xFFFF_C000, 0xFFFF_D000, 0xFFFF_E000, 0xFFFF_F000
LIST = 8  # the offset of a module's list

SITES = PatchedSites(
    text=TEXT,
    text_end=END,
    tables=(
        SiteTable(start=LABELS, end=LABELS + 32, stride=16, module_start=24, module_count=32),
        SiteTable(start=CALLS, end=CALLS + 8, stride=8, module_start=40, module_count=48),
    ),
    modules=MODULES,
    module_list=LIST,
)


class Memory:
    """Holds one module, with one jump label and no static call."""

    def __init__(self) -> None:
        self.parts: dict[int, bytes] = {
            LABELS: struct.pack("<iiq", TEXT + 5 - LABELS, 1, 2)
            + struct.pack("<iiq", TEXT + 0x100 - LABELS - 16, 1, 2),
            CALLS: struct.pack("<ii", TEXT + 0x200 - CALLS, 1),
            MODULES: struct.pack("<Q", MODULE + LIST),
            MODULE + LIST: struct.pack("<Q", MODULES),
            MODULE + 24: struct.pack("<Q", MODULE_TABLE),
            MODULE + 32: struct.pack("<I", 1),
            MODULE + 48: struct.pack("<I", 0),
            MODULE_TABLE: struct.pack("<iiq", MODULE_TEXT + 7 - MODULE_TABLE, 1, 2),
        }
        self.reads: list[int] = []

    def read(self, address: int, size: int) -> bytes:
        self.reads.append(address)
        if len(self.parts.get(address, b"")) != size:
            raise KgdbError(f"{address:#x} is not mapped")
        return self.parts[address]


@pytest.mark.parametrize(
    ("address", "patched"),
    [
        (TEXT, False),
        (TEXT + 5, True),
        (TEXT + 6, False),
        (TEXT + 0x100, True),
        (TEXT + 0x200, True),
        (MODULE_TEXT, False),
        (MODULE_TEXT + 7, True),
    ],
)
def test_sites(address: int, patched: bool) -> None:
    assert PatchedCode().is_patched(address, SITES, Memory().read) == patched


def test_the_tables_of_the_image_are_read_once() -> None:
    code, memory = PatchedCode(), Memory()
    assert code.is_patched(TEXT + 5, SITES, memory.read)
    assert code.is_patched(TEXT + 0x200, SITES, memory.read)
    assert memory.reads == [LABELS, CALLS]


def test_modules_come_and_go() -> None:
    code, memory = PatchedCode(), Memory()
    assert code.is_patched(MODULE_TEXT + 7, SITES, memory.read)
    memory.parts[MODULES] = struct.pack("<Q", MODULES)
    assert not code.is_patched(MODULE_TEXT + 7, SITES, memory.read)


@pytest.mark.parametrize("lost", [LABELS, MODULES, MODULE_TABLE])
def test_memory_that_is_not_there(lost: int) -> None:
    memory = Memory()
    del memory.parts[lost]
    address = TEXT + 5 if lost == LABELS else MODULE_TEXT + 7
    assert not PatchedCode().is_patched(address, SITES, memory.read)


def test_a_list_that_never_ends() -> None:
    memory = Memory()
    memory.parts[MODULE + LIST] = struct.pack("<Q", MODULE + LIST)
    memory.parts[MODULE + 32] = struct.pack("<I", 0)
    assert not PatchedCode().is_patched(MODULE_TEXT + 7, SITES, memory.read)
    assert len(memory.reads) < 1_000_000
