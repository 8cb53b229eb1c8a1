"""Emulated instructions, held to what this host's own processor does."""

from __future__ import annotations

import ctypes
import itertools
import mmap
import platform

import pytest

from pytest_kgdb.errors import KgdbError
from pytest_kgdb.rsp._emulate import emulate

ORDER = (
    "ax", "cx", "dx", "bx", "bp", "si", "di", "r8", "r9", "r10", "r11", "r12", "r13", "r14",
    "r15", "flags",
)  # fmt: skip
STATUS = 0x8D5
AUX = 0x10  # undefined after what is no sum
TEXT = 0xFFFFFFFF81000000
STACK = 0xFFFFC90000004000


class Guest:
    """Registers and memory of a kernel that is about to execute some bytes."""

    def __init__(self, code: bytes, **registers: int) -> None:
        self.registers = dict.fromkeys((*ORDER, "sp", "ip"), 0)
        self.registers.update(ip=TEXT, sp=STACK, flags=0x202, **registers)
        self.memory = {TEXT: code + bytes(16), STACK - 64: bytes(range(192))}

    def read(self, address: int, size: int) -> bytes:
        for start, data in self.memory.items():
            if start <= address and address + size <= start + len(data):
                return data[address - start : address - start + size]
        raise KgdbError("not mapped")

    def write(self, address: int, data: bytes) -> None:
        for start, old in self.memory.items():
            if start <= address and address + len(data) <= start + len(old):
                at = address - start
                self.memory[start] = old[:at] + data + old[at + len(data) :]
                return
        raise KgdbError("not mapped")

    def step(self) -> bool:
        return emulate(self.registers, self.read, self.write, STACK)


# Registers only, of every operation and width; not sp, nor what jumps.
CODES = [
    bytes.fromhex(words)
    for words in (
        "01d8 4801d8 664101c0 00d8 02e1 03c1 05ffffffff 480500000080 0410",
        "09d8 4809d8 0ac1 0d00000001 21d8 4821d8 22c1 25f0f0f0f0 2408",
        "29d8 4829d8 2ac4 2bc1 2d01000000 2c7f 31c0 4831d8 6631d8 30e1 33c1 4531db",
        "39d8 4839d8 38c8 3bc1 3d00000080 483dffffff7f 3c80 4d39c1 6639c8",
        "83c001 4883c0ff 4883e8ff 83e00f 83c8f0 83f0ff 83f800 4883f87f 81c178563412 80c17f 80f9ff",
        "85c0 4885c0 84c9 6685d2 a801 a900000080 48a9ff000000 f6c101 f7c1000000ff 48f7c700000080",
        "89c1 4889c1 6689c1 88c1 88e1 4088c6 8bd9 498bd8 8ac8 8acc c7c178563412 48c7c0ffffffff",
        "c6c17f",
        "b878563412 48b8efcdab8967452301 b17f b47f 41b80a000000 66b83412 40b601",
        "4863c8 4898 98 6698 0fb6c1 0fb6c5 0fb7c1 480fbec1 0fbfc1 480fb7d1 660fb6c1 400fb6c6",
        "f7d8 48f7db f6d9 0f44c1 480f45d9 0f4cc8 0f9fc0 0f92c1 400f95c7 90 0f1f00 0f1f4000",
        "488d0419 488d440b10 8d4101 488d0c8d00000000 4d8d440510 660f1f440000 f30f1efa",
    )
    for words in words.split()
]
VALUES = (
    {"ax": 0, "cx": 0, "bx": 0, "dx": 0},
    {"ax": 1, "cx": (1 << 64) - 1, "bx": 1 << 63, "dx": 0x8000, "si": 0x1234, "di": 0xFF},
    {"ax": 0x7FFFFFFFFFFFFFFF, "cx": 0x80, "bx": 1, "dx": 0xFFFF, "r8": 0xFFFFFFFF},
    {"ax": 0xFEDCBA9876543210, "cx": 0x80000000, "bx": 0x0F0F0F0F0F0F0F0F, "r13": 77, "r9": 9},
)


def on_this_processor(code: bytes, registers: dict[str, int]) -> dict[str, int]:
    """Execute an instruction for real; every register but sp goes in and comes out."""
    numbers = (0, 1, 2, 3, 5, 6, 7, *range(8, 16))
    stub = bytes.fromhex("53 55 4154 4155 4156 4157 9c 57")  # save; the array is in rdi
    stub += b"\xff\x77\x78\x9d"  # push 0x78(%rdi); popf
    order = [n for n in numbers if n != 7] + [7]
    for number in order:  # mov disp8(%rdi), reg; rdi last
        offset = 8 * numbers.index(number)
        stub += bytes([0x48 | (number >= 8) << 2, 0x8B, 0x47 | (number & 7) << 3, offset])
    stub += code
    stub += b"\x9c\x57\x48\x8b\x7c\x24\x10"  # pushf; push rdi; mov 16(%rsp), rdi
    for number in numbers:
        if number != 7:
            offset = 8 * numbers.index(number)
            stub += bytes([0x48 | (number >= 8) << 2, 0x89, 0x47 | (number & 7) << 3, offset])
    stub += b"\x8f\x47" + bytes([8 * numbers.index(7)])  # pop the rdi that it left
    stub += b"\x8f\x47\x78"  # pop the flags
    stub += bytes.fromhex("5f 9d 415f 415e 415d 415c 5d 5b c3")
    array = (ctypes.c_uint64 * 16)(*(registers[name] for name in ORDER))
    area = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    area.write(stub)
    address = ctypes.addressof(ctypes.c_char.from_buffer(area))
    ctypes.CFUNCTYPE(None, ctypes.c_void_p)(address)(ctypes.addressof(array))
    return dict(zip(ORDER, array, strict=True))


@pytest.mark.skipif(platform.machine() != "x86_64", reason="needs the processor that is emulated")
@pytest.mark.parametrize("code", CODES, ids=bytes.hex)
def test_the_processor_agrees(code: bytes) -> None:
    for values, flags in itertools.product(VALUES, (0x202, 0x202 | STATUS)):
        guest = Guest(code, **values)
        guest.registers["flags"] = flags
        before = dict(guest.registers)
        assert guest.step()
        assert guest.registers["ip"] == TEXT + len(code)
        emulated = {name: guest.registers[name] for name in ORDER}
        real = on_this_processor(code, before)
        for registers in (emulated, real):
            registers["flags"] &= STATUS & ~AUX
        assert emulated == real


def test_memory_is_read_and_the_stack_used() -> None:
    guest = Guest(bytes.fromhex("415e"))  # pop r14
    assert guest.step()
    assert guest.registers["r14"] == int.from_bytes(bytes(range(64, 72)), "little")
    assert guest.registers["sp"] == STACK + 8
    guest = Guest(b"\x53", bx=0x1122334455667788)  # push rbx
    assert guest.step()
    assert guest.read(STACK - 8, 8) == bytes.fromhex("8877665544332211")
    guest = Guest(bytes.fromhex("8b442404"))  # mov 4(%rsp), eax
    assert guest.step()
    assert guest.registers["ax"] == 0x47464544
    guest = Guest(bytes.fromhex("9c"))  # pushf, without the debugger's own flag
    guest.registers["flags"] = 0x346
    assert guest.step()
    assert guest.read(STACK - 8, 2) == b"\x46\x02"
    guest = Guest(bytes.fromhex("488b05f9ffffff"))  # mov -7(%rip), rax
    assert guest.step()
    assert guest.registers["ax"] == int.from_bytes(bytes.fromhex("488b05f9ffffff00"), "little")
    guest = Guest(bytes.fromhex("803df9ffffff80"))  # cmpb $0x80, -7(%rip): an immediate follows
    assert guest.step()
    assert guest.registers["flags"] & 0x40


@pytest.mark.parametrize(
    ("code", "written"),
    [
        ("48894310", "8877665544332211"),  # mov rax, 16(%rbx)
        ("89442410", "88776655"),  # mov eax, 16(%rsp)
        ("6689442410", "8877"),
        ("88442410", "88"),
        ("48c7442410ffffff7f", "ffffff7f00000000"),
        ("c644241007", "07"),
        ("0f95442410", "01"),  # setne
    ],
)
def test_stores_to_the_stack(code: str, written: str) -> None:
    guest = Guest(bytes.fromhex(code), ax=0x1122334455667788, bx=STACK)
    assert guest.step()
    data = bytes.fromhex(written)
    assert guest.read(STACK + 16, len(data)) == data
    assert guest.read(STACK + 8, 8) == bytes(range(72, 80)), "what is before it"
    assert guest.read(STACK + 16 + len(data), 8) == bytes(range(80 + len(data), 88 + len(data)))
    assert guest.registers["ip"] == TEXT + len(code) // 2


@pytest.mark.parametrize("address", [STACK - 8, STACK + 0x4000, STACK + 0x3FFC, TEXT, 0x1000])
def test_other_stores_are_left_to_the_processor(address: int) -> None:
    guest = Guest(bytes.fromhex("488907"), di=address)
    guest.memory |= {STACK + 0x3FF0: bytes(64), 0x1000: bytes(16)}
    before = dict(guest.registers)
    assert not guest.step()
    assert guest.registers == before


def test_a_watchpoint_sees_each_access() -> None:
    for code in ("48894310", "488b4310"):  # mov rax, 16(%rbx), and the other way
        guest = Guest(bytes.fromhex(code), bx=STACK)
        assert not emulate(guest.registers, guest.read, guest.write, STACK, operands=False)
        assert guest.step()


@pytest.mark.parametrize(
    ("code", "flags", "distance"),
    [
        ("eb10", 0, 0x12), ("ebf0", 0, -0xE), ("e900010000", 0, 0x105), ("7410", 0x40, 0x12),
        ("7410", 0, 2), ("7510", 0, 0x12), ("0f8400010000", 0x40, 0x106), ("7c02", 0x80, 4),
        ("7c02", 0x880, 2), ("7702", 0, 4), ("7702", 1, 2), ("7e02", 0x40, 4),
    ],
)  # fmt: skip
def test_jumps(code: str, flags: int, distance: int) -> None:
    guest = Guest(bytes.fromhex(code))
    guest.registers["flags"] = flags
    assert guest.step()
    assert guest.registers["ip"] == TEXT + distance


def test_calls_and_returns() -> None:
    guest = Guest(bytes.fromhex("e800010000"))
    assert guest.step()
    assert guest.registers["ip"] == TEXT + 0x105
    assert int.from_bytes(guest.read(guest.registers["sp"], 8), "little") == TEXT + 5
    guest.memory[TEXT + 0x105] = b"\xc3" + bytes(16)
    assert guest.step()
    assert guest.registers["ip"] == TEXT + 5
    assert guest.registers["sp"] == STACK


@pytest.mark.parametrize(
    "code",
    [
        "0f0b", "cc", "65488b042500000000", "f0480fb10f", "0fa2", "f3a4", "cf", "fa", "fbf4", "9d",
        "488907", "48c70700000000", "480107", "0f01d0", "f4", "11d8", "ff10",
        "0f05", "66c3",
    ],
)  # fmt: skip
def test_the_rest_is_left_to_the_processor(code: str) -> None:
    guest = Guest(bytes.fromhex(code), di=STACK - 64)
    before = dict(guest.registers)
    assert not guest.step()
    assert guest.registers == before


def test_interrupts_are_enabled() -> None:
    guest = Guest(bytes.fromhex("fb"))
    guest.registers["flags"] = 0x46
    assert guest.step()
    assert guest.registers["flags"] == 0x246
    assert guest.registers["ip"] == TEXT + 1


def test_a_push_stays_within_the_gap() -> None:
    guest = Guest(b"\x53" * 8)
    assert [guest.step() for _ in range(6)] == [True] * 5 + [False]
