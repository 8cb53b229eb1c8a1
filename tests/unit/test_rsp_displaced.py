"""Copies of instructions, executed elsewhere."""

from __future__ import annotations

import pytest

from pytest_kgdb.arch import X86_64
from pytest_kgdb.errors import KgdbError
from pytest_kgdb.rsp._displaced import DisplacedSteps, has_accessed

AREA = range(0xFFFFFFFF81000000, 0xFFFFFFFF81000060)
TEXT = 0xFFFFFFFF81000400
DATA = 0xFFFFFFFF81000500
ENABLED = 0x200
NOPS = 2


class Guest:
    """A kernel that is about to step off the first byte of some code."""

    def __init__(self, code: str, **registers: int) -> None:
        self.registers = dict.fromkeys(X86_64.registers.instruction, DATA)
        self.registers.update({"ip": TEXT, "cs": 0x10, "flags": 0x202, **registers})
        self.memory = bytearray(0x800)
        self.write(TEXT, bytes.fromhex(code))
        self.steps = DisplacedSteps(self.write)
        self.written = 0

    def read(self, address: int, size: int) -> bytes:
        offset = address - AREA.start
        if not 0 <= offset <= len(self.memory) - size:
            raise KgdbError("not mapped")
        return bytes(self.memory[offset : offset + size])

    def write(self, address: int, data: bytes) -> None:
        self.memory[address - AREA.start : address - AREA.start + len(data)] = data
        self.written = address

    def begin(self, thread: bytes = b"01", watched: tuple[range, ...] = ()) -> bool:
        return self.steps.begin(thread, self.registers, self.read, AREA, watched)

    def end(self, thread: bytes = b"01") -> None:
        self.steps.end(thread, self.registers, self.read, AREA)


@pytest.mark.parametrize(
    "code",
    [
        "f0ff00", "f0ff08", "0fafc7", "480fafc7", "6bc70a", "69c700010000", "48c1e004", "d1f8",
        "f0480fba2b05", "f0480fab03", "f00fb10f", "f0480fc103", "4887 03", "11d8", "488907",
        "48c70700000000", "66c7070000", "65ff0425c0ab0100", "65488b042500000000", "f3a4", "f3ab",
        "6a10", "6800100000", "f60701", "f7d8", "48f70700000000", "66f707 0100", "f390", "0f31",
        "0faee8", "48b8efcdab8967452301", "f30fb8c7", "ff37", "8f07", "c9", "0fc8",
        "488d04bd00000000", "8b047d00000081", "8a4401ff", "480fa407 05",
    ],
)  # fmt: skip
def test_a_copy(code: str) -> None:
    size = len(bytes.fromhex(code))
    guest = Guest(code, cx=0)
    if code == "8b047d00000081":
        guest.registers["di"] = 0x100
    assert guest.begin()
    copy = guest.registers["ip"]
    assert copy in AREA
    assert not guest.registers["flags"] & ENABLED, "interrupts wait"
    assert guest.read(copy, size) == bytes.fromhex(code)
    guest.registers["ip"] = copy + size
    guest.end()
    assert (guest.registers["ip"], guest.registers["flags"]) == (TEXT + size, 0x202)


@pytest.mark.parametrize(
    ("opcode", "immediate"), [("ff05", 0), ("f0ff05", 0), ("48810d", 4), ("c605", 1), ("66c705", 2)]
)
def test_an_address_relative_to_the_instruction(opcode: str, immediate: int) -> None:
    distance = DATA - (TEXT + len(opcode) // 2 + 4 + immediate)
    code = opcode + distance.to_bytes(4, "little", signed=True).hex() + "00" * immediate
    guest = Guest(code)
    assert guest.begin()
    at = guest.registers["ip"] + len(opcode) // 2
    moved = int.from_bytes(guest.read(at, 4), "little", signed=True)
    assert at + 4 + immediate + moved == DATA


@pytest.mark.parametrize("late", range(1, NOPS + 1))
def test_a_step_whose_end_was_lost(late: int) -> None:
    """It ends an instruction later."""
    guest = Guest("f0ff00")
    assert guest.begin()
    guest.registers["ip"] += 3 + late
    guest.end()
    assert (guest.registers["ip"], guest.registers["flags"]) == (TEXT + 3, 0x202)


def test_what_follows_leads_back() -> None:
    guest = Guest("f0ff00")
    assert guest.begin()
    jump = guest.registers["ip"] + 3 + NOPS
    assert guest.read(jump - NOPS, NOPS + 1) == b"\x90\x90\xe9"
    distance = int.from_bytes(guest.read(jump + 1, 4), "little", signed=True)
    assert jump + 5 + distance == TEXT + 3


def test_a_step_that_is_repeated() -> None:
    guest = Guest("f3a4")
    assert guest.begin()
    guest.end()
    assert (guest.registers["ip"], guest.registers["flags"]) == (TEXT, 0x202)


def test_interrupts_that_were_masked_stay_so() -> None:
    guest = Guest("f0ff00", flags=0x46)
    assert guest.begin()
    guest.registers["ip"] += 3
    guest.end()
    assert guest.registers["flags"] == 0x46


def test_another_relay_ends_a_step() -> None:
    """As that of a session which has loaded a saved machine."""
    guest = Guest("f0ff00")
    assert guest.begin()
    guest.registers["ip"] += 3
    guest.steps = DisplacedSteps(guest.write)
    guest.end()
    assert (guest.registers["ip"], guest.registers["flags"]) == (TEXT + 3, 0x202)


def test_a_copy_is_written_once() -> None:
    guest = Guest("f0ff00")
    for _ in range(3):
        guest.registers["ip"], guest.written = TEXT, 0
        assert guest.begin()
        guest.registers["ip"] += 3
        guest.end()
    assert guest.written == 0


def test_copies_in_use_are_not_overwritten() -> None:
    guest = Guest("f0ff00")
    places = []
    threads = range(len(AREA) // 23)
    for number in threads:
        guest.registers["ip"] = TEXT + 16 * number
        guest.write(TEXT + 16 * number, bytes.fromhex("f0ff00"))
        assert guest.begin(b"%x" % number)
        places.append(guest.registers["ip"])
    assert len(set(places)) == len(threads)
    guest.registers["ip"] = TEXT + 0x80
    guest.write(TEXT + 0x80, bytes.fromhex("f0ff00"))
    assert not guest.begin(b"ff")
    guest.registers["ip"] = places[1] + 3
    guest.end(b"1")
    assert guest.registers["ip"] == TEXT + 16 + 3
    guest.registers["ip"] = TEXT + 0x80
    assert guest.begin(b"ff")
    assert guest.registers["ip"] == places[1]


@pytest.mark.parametrize(
    "code",
    [
        "cc", "0f0b", "f4", "fa", "fb", "9d", "9c", "cf", "0f05", "0f01d0", "0f30", "0f22c0",
        "8ed8", "e800000000", "ff10", "ff20", "c3", "eb10", "7410", "0f8400000000", "f7f7", "f6f7",
        "0f00d0", "0fae17", "0fb8c7", "ec", "ee", "cd80", "648b042500000000", "ffff", "c5f877",
    ],
)  # fmt: skip
def test_what_is_executed_where_it_is(code: str) -> None:
    guest = Guest(code)
    before = dict(guest.registers)
    assert not guest.begin()
    assert guest.registers == before
    assert guest.written == 0


@pytest.mark.parametrize("address", [0, 0x400000, DATA + 0x10000])
def test_memory_that_may_fault(address: int) -> None:
    for code in ("f0ff07", "f3a4", "488b07"):
        assert not Guest(code, di=address).begin()


def test_a_program_is_left_alone() -> None:
    assert not Guest("f0ff00", cs=0x33).begin()


def test_what_is_watched_is_accessed_by_the_original() -> None:
    area = range(DATA + 4, DATA + 8)
    for code in ("48ff07", "ff4704", "50", "65ff0425c0ab0100", "0fab07", "f3a4"):
        registers = {"di": DATA + 4} if code == "f3a4" else {}
        assert not Guest(code, **registers).begin(watched=(area,)), code
        assert Guest(code, **registers).begin(), code
    for code in ("ff07", "ff4708", "0fafc7"):
        assert Guest(code).begin(watched=(area,)), code


def test_code_that_cannot_be_written() -> None:
    def refuse(address: int, data: bytes) -> None:
        raise KgdbError("read-only")

    guest = Guest("f0ff00")
    guest.steps = DisplacedSteps(refuse)
    assert not guest.begin()
    assert (guest.registers["ip"], guest.registers["flags"]) == (TEXT, 0x202)


def test_without_an_area() -> None:
    guest = Guest("f0ff00")
    assert not guest.steps.begin(b"01", guest.registers, guest.read, range(0))
    guest.steps.end(b"01", guest.registers, guest.read, range(0))
    assert guest.registers["ip"] == TEXT


@pytest.mark.parametrize(
    ("code", "accessed"),
    [
        ("8907", DATA), ("48890424", DATA), ("8b4710", DATA + 0x10), ("f0ff0f", DATA),
        ("f00fb10f", DATA), ("4887 03", DATA), ("c60701", DATA), ("f3a4", DATA), ("0fb607", DATA),
        ("488b04bd00000081", 0xFFFFFFFF81000000 + (DATA << 2)), ("8d07", None), ("89c7", None),
        ("0f1f00", None), ("41ff07", None), ("65ff07", None), ("8d476487 07", DATA), ("ffff", None),
    ],
)  # fmt: skip
def test_what_the_instruction_before_has_accessed(code: str, accessed: int | None) -> None:
    guest = Guest(code, r15=0x77)
    guest.registers["ip"] = TEXT + len(bytes.fromhex(code))
    for address in (DATA, DATA + 0x10, DATA - 8, 0xFFFFFFFF81000000 + (DATA << 2)):
        expected = accessed is not None and abs((accessed - address) % (1 << 64)) < 8
        assert has_accessed(guest.registers, guest.read, address % (1 << 64)) == expected
