"""The recorder's table and code, in a guest's memory that is a dictionary."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import NamedTuple

import pytest

from pytest_kgdb.errors import ConfigError, KgdbError
from pytest_kgdb.rsp._breakpoints import InsertedBreakpoints
from pytest_kgdb.trace import AddressRecorder, RecorderNumbers
from pytest_kgdb.trace._trap_code import CODE_SIZE, INT3, Slot, hash_of, trap_code

MAP = 0xFFFFFFFF80000000
"""Where the image begins, at physical 0x100000 for these tests."""
IMAGE = 0x100000
DIRECT = 0xFFFF888000000000
VMEMMAP = 0xFFFFEA0000000000
IDT = MAP + 0x2000
ENTRY_END = MAP + 0x1000
HANDLER = MAP + 0x800
HERE, THERE = MAP + 0x5000, MAP + 0x5003


class Mapped(NamedTuple):
    physical: int
    writable: bool
    entry: int


class Memory:
    """A guest's."""

    page_offset = DIRECT

    def __init__(self, reserved: range = range(0x9F)) -> None:
        self.ram = bytearray(0x200000)
        self.ram[IMAGE + 0x5000 : IMAGE + 0x6000] = b"\x90" * 0x1000
        self.reserved = reserved
        gate = HANDLER.to_bytes(8, "little")
        self.ram[IMAGE + 0x2030 : IMAGE + 0x2040] = (
            gate[0:2] + b"\x10\x00\x00\x8e" + gate[2:8] + bytes(4)
        )
        self.names = {"idt_table": IDT, "__entry_text_end": ENTRY_END}
        self.writable = True

    def symbol(self, name: str) -> int | None:
        return self.names.get(name)

    def walk(self, address: int) -> Mapped:
        if address >= MAP:
            return Mapped(address - MAP + IMAGE, self.writable, 0x1F0000)
        return Mapped(address - DIRECT, True, 0x1F0008)

    def read(self, address: int, size: int) -> bytes:
        if VMEMMAP <= address < MAP:
            page = (address - VMEMMAP) // 64
            return ((page in self.reserved) << 12).to_bytes(size, "little")
        return self.read_physical(self.walk(address).physical, size)

    def read_physical(self, address: int, size: int) -> bytes:
        return bytes(self.ram[address : address + size])

    def write_physical(self, address: int, data: bytes | bytearray) -> None:
        self.ram[address : address + len(data)] = data

    def apply(self, pieces: list[tuple[int, bytes]]) -> None:
        for start, data in pieces:
            self.write_physical(start, data)

    def byte(self, address: int) -> int:
        return self.ram[self.walk(address).physical]

    def put(self, address: int, byte: bytes | bytearray | None) -> None:
        """What the relay does with what is returned."""
        if byte is not None:
            self.write_physical(self.walk(address).physical, byte)

    def trap(self, recorder: AddressRecorder, address: int) -> str:
        """What the guest's code does at an int3 (it is tested on real kernels)."""
        slot = recorder._indexes.get(address)
        if slot is None:
            return "kernel"
        at = recorder._table + 8 * slot
        if self.ram[at + Slot.GIVEN]:
            self.ram[at + Slot.HIT] = 1
            return "kernel"
        if self.ram[at + Slot.HIT] and self.byte(address) == INT3:
            return "kernel"
        self.put(address, self.ram[at + Slot.INSTRUCTION : at + Slot.INSTRUCTION + 1])
        self.ram[at + Slot.HIT] = 1
        return "ours"


def recorder_in(memory: Memory, *addresses: int, isolated: bool = False) -> AddressRecorder:
    recorder = AddressRecorder(memory, lambda: RecorderNumbers(64, 12), isolated=isolated)
    memory.apply(recorder.prepare(addresses))
    assert recorder.restored()
    return recorder


def test_the_code_is_what_the_assembler_makes_of_its_listing(tmp_path: Path) -> None:
    table, bits, original = 0x1122334455667788, 15, 0x99AABBCCDDEEFF00
    source = f"""
        endbr64
        testb $3, 8(%rsp)
        jnz pass
        push %rax; push %rcx; push %rdx
        mov 24(%rsp), %rax
        dec %rax
        movslq %eax, %rcx
        cmp %rax, %rcx
        jne miss
        imul $0x9e3779b1, %eax, %ecx
        shr ${32 - bits}, %ecx
        movabs ${table}, %rdx
    probe:
        cmp %eax, (%rdx,%rcx,8)
        je ours
        cmpl $0, (%rdx,%rcx,8)
        je miss
        inc %ecx
        and ${(1 << bits) - 1}, %ecx
        jmp probe
    ours:
        lea (%rdx,%rcx,8), %rdx
        cmpb $0, {Slot.GIVEN}(%rdx)
        jne given
        mov {Slot.INSTRUCTION}(%rdx), %cl
        cmpb $0, {Slot.HIT}(%rdx)
        je first
        cmpb $0xcc, (%rax)
        je miss
    first:
        cmpb $0, {Slot.PROTECTED}(%rdx)
        jne protected
        cmpb $0, {Slot.HIT}(%rdx)
        jne touch
        mov %cl, (%rax)
    touch:
        lock orb $0, (%rax)
    written:
        movb $1, {Slot.HIT}(%rdx)
        decq 24(%rsp)
        pop %rdx; pop %rcx; pop %rax
        iretq
    protected:
        push %rdx
        mov %cr0, %rdx
        push %rdx
        and $~0x10000, %edx
        mov %rdx, %cr0
        mov 8(%rsp), %rdx
        cmpb $0, {Slot.HIT}(%rdx)
        jne protected_touch
        mov %cl, (%rax)
    protected_touch:
        lock orb $0, (%rax)
        pop %rdx
        mov %rdx, %cr0
        pop %rdx
        jmp written
    given:
        movb $1, {Slot.HIT}(%rdx)
    miss:
        pop %rdx; pop %rcx; pop %rax
    pass:
        jmp *original(%rip)
        .balign 8
    original: .quad {original}
    """
    (tmp_path / "code.S").write_text(source)
    subprocess.run(["as", "-o", "code.o", "code.S"], cwd=tmp_path, check=True, timeout=60)
    argv = ["objcopy", "-O", "binary", "-j", ".text", "code.o", "code.bin"]
    subprocess.run(argv, cwd=tmp_path, check=True, timeout=60)
    assert trap_code(table, bits, original) == (tmp_path / "code.bin").read_bytes()


def test_what_is_written() -> None:
    memory = Memory()
    before = bytes(memory.ram)
    recorder = recorder_in(memory, HERE, THERE)
    assert (memory.byte(HERE), memory.byte(THERE), memory.byte(HERE + 1)) == (INT3, INT3, 0x90)
    gate = memory.read(IDT + 48, 16)
    address = int.from_bytes(gate[0:2] + gate[6:12], "little")
    code = memory.read(address, CODE_SIZE)
    assert code[:4] == b"\xf3\x0f\x1e\xfa"
    assert code[-8:] == HANDLER.to_bytes(8, "little")
    assert gate[2:6] == before[IMAGE + 0x2032 : IMAGE + 0x2036]
    # Nothing outside of the first MiB's free pages, the gate, and the addresses.
    changed = {at for at, byte in enumerate(memory.ram) if byte != before[at]}
    page = (address - DIRECT) // 4096
    assert page == 1
    assert {at for at in changed if at >= 0x9F000} <= {
        *range(IMAGE + 0x2030, IMAGE + 0x2040), HERE - MAP + IMAGE, THERE - MAP + IMAGE,
        *range(0x1F0008, 0x1F0010),
    }  # fmt: skip
    assert not {at for at in changed if at < 0x1000}
    assert recorder.hits() == set()


def test_pages_that_the_kernel_uses_are_left_alone() -> None:
    memory = Memory(range(0x10, 0x90))
    memory.names |= {
        "real_mode_header": MAP + 0x3000, "real_mode_blob": 0, "real_mode_blob_end": 0x5FFF,
    }  # fmt: skip
    memory.apply([(IMAGE + 0x3000, (DIRECT + 0x20000).to_bytes(8, "little"))])
    before = bytes(memory.ram)
    recorder_in(memory, HERE)
    changed = {
        at >> 12 for at, byte in enumerate(memory.ram) if byte != before[at] and at < 1 << 20
    }
    assert changed
    assert changed <= set(range(0x26, 0x90))


def test_with_page_table_isolation() -> None:
    memory = Memory()
    memory.names["__entry_text_end"] = MAP + 0x20
    memory.ram += bytes(IMAGE + 0x200000 - len(memory.ram))
    recorder_in(memory, HERE, isolated=True)
    assert memory.read(MAP + 0x200000 - 512, 4) == b"\xf3\x0f\x1e\xfa"
    memory = Memory()
    memory.ram += b"\x55" * (IMAGE + 0x200000 - len(memory.ram))
    recorder_in(memory, HERE, isolated=True)
    assert memory.read(ENTRY_END - 512, 4) == b"\xf3\x0f\x1e\xfa"
    memory = Memory()
    memory.ram += b"\x55\x48" * ((IMAGE + 0x200000 - len(memory.ram)) // 2)
    memory.apply([(IMAGE + 0xFF0, b"\x55\x48")])
    with pytest.raises(KgdbError, match="is not filled up"):
        recorder_in(memory, HERE, isolated=True)


def test_too_much_is_refused() -> None:
    memory = Memory(range(1, 6))
    with pytest.raises(ConfigError, match=r"2000 addresses: there is room for 1536"):
        recorder_in(memory, *(HERE + n for n in range(2000)))
    with pytest.raises(KgdbError, match="no room"):
        recorder_in(Memory(range(0)), HERE)


def test_an_int3_of_the_kernels_own_is_none_of_ours() -> None:
    memory = Memory()
    memory.put(THERE, b"\xcc")
    recorder = recorder_in(memory, HERE, THERE)
    assert memory.trap(recorder, THERE) == "kernel"
    assert memory.trap(recorder, HERE) == "ours"
    assert recorder.hits() == {HERE}


def test_collisions() -> None:
    bits = 13
    slot = hash_of(HERE, bits)
    same = [a for a in range(HERE, HERE + 0x1000) if hash_of(a, bits) == slot]
    memory = Memory()
    recorder = recorder_in(memory, *range(HERE, HERE + 0x1000))
    assert recorder._bits == 14
    assert len(set(recorder._indexes.values())) == 0x1000
    for address in same:
        at = hash_of(address, 14)
        while recorder._addresses.get(at) != address:
            assert at in recorder._addresses  # the search does not end before
            at += 1


def test_a_breakpoint_at_the_same_address() -> None:
    memory = Memory()
    recorder = recorder_in(memory, HERE)
    packets: list[bytes] = []

    def request(payload: bytes) -> bytes:
        packets.append(payload)
        if payload[:1] == b"M":
            memory.put(HERE, bytes.fromhex(payload.partition(b":")[2].decode()))
        return b"OK"

    breakpoints = InsertedBreakpoints(request, code=recorder)
    breakpoints.insert(HERE)
    assert packets == [b"M%x,1:90" % HERE, b"Z0,%x,1" % HERE]
    assert memory.byte(HERE) == 0x90
    # Removed before anybody came there: it is recorded again.
    breakpoints.remove(HERE)
    breakpoints.sync(set())
    assert packets[2:] == [b"z0,%x,1" % HERE, b"M%x,1:cc" % HERE]
    assert memory.trap(recorder, HERE) == "ours"
    # And one that was hit.
    breakpoints.insert(HERE)
    assert memory.trap(recorder, HERE) == "kernel"
    assert recorder.hits() == {HERE}
    breakpoints.remove(HERE)
    breakpoints.sync(set())
    assert memory.byte(HERE) == 0x90


def test_a_breakpoint_that_is_refused() -> None:
    memory = Memory()
    recorder = recorder_in(memory, HERE)

    def request(payload: bytes) -> bytes:
        if payload[:1] == b"M":
            memory.put(HERE, bytes.fromhex(payload.partition(b":")[2].decode()))
        return b"E22" if payload[:1] == b"Z" else b"OK"

    InsertedBreakpoints(request, code=recorder).insert(HERE)
    assert memory.byte(HERE) == INT3


def test_an_instruction_that_the_debugger_executes() -> None:
    memory = Memory()
    recorder = recorder_in(memory, HERE)
    memory.put(HERE, recorder.reached(HERE))
    assert memory.byte(HERE) == 0x90
    assert recorder.hits() == {HERE}
    assert recorder.reached(HERE) is None


def test_code_that_the_debugger_cannot_write() -> None:
    memory = Memory()
    recorder = recorder_in(memory, HERE)
    recorder.add([THERE])
    for address in (HERE, THERE):
        byte = recorder.give(address)
        assert byte is not None
        recorder.write(address, byte)
        assert memory.byte(address) == 0x90
    recorder.write(0xFFFFFFFF81234567, b"\x90")  # of which it knows nothing


def test_a_call_that_is_forced_to_return_has_not_run() -> None:
    memory = Memory()
    recorder = recorder_in(memory, HERE)
    memory.put(HERE, recorder.give(HERE))
    assert memory.trap(recorder, HERE) == "kernel"
    recorder.skipped(HERE)
    assert recorder.hits() == set()
    # Unless another one has.
    assert memory.trap(recorder, HERE) == "kernel"
    recorder.reached(HERE)
    assert memory.trap(recorder, HERE) == "kernel"
    recorder.skipped(HERE)
    assert recorder.hits() == {HERE}
    recorder.take_back(HERE)
    recorder.give(HERE)
    recorder.skipped(HERE)
    assert recorder.hits() == {HERE}


def test_what_is_read_is_the_code() -> None:
    memory = Memory()
    memory.put(THERE, b"\xe8")
    recorder = recorder_in(memory, HERE, THERE)
    assert memory.read(HERE, 5) == b"\xcc\x90\x90\xcc\x90"
    assert recorder.original(HERE, memory.read(HERE, 5)) == b"\x90\x90\x90\xe8\x90"
    recorder.give(HERE)  # then what is there is somebody else's
    assert recorder.original(HERE, memory.read(HERE, 1)) == b"\xcc"
    recorder.written(THERE - 2, 4)
    assert recorder.original(THERE, memory.read(THERE, 1)) == b"\xcc"


def test_a_module_comes_and_goes() -> None:
    memory = Memory()
    recorder = recorder_in(memory, HERE)
    saved = bytes(memory.ram)
    recorder.add([THERE])
    assert memory.trap(recorder, THERE) == "ours"
    assert recorder.hits() == {THERE}
    recorder.drop([THERE])
    memory.put(THERE, b"\xcc")
    assert recorder.give(THERE) is None
    assert recorder.hits() == set()  # they were to be asked for before
    # Restored to before: nothing is known of it, and it can come again.
    memory.ram[:] = saved
    assert recorder.restored()
    assert THERE not in recorder._indexes
    recorder.add([THERE])
    assert recorder.hits() == set()


def test_memory_that_lost_it() -> None:
    memory = Memory()
    recorder = recorder_in(memory, HERE)
    memory.ram[:0x9F000] = bytes(0x9F000)
    assert not recorder.restored()
