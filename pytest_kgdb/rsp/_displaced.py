"""Steps an instruction elsewhere, so that its breakpoint can stay inserted.

That is gdb's displaced stepping (gdb manual, "Maintenance Commands"), and what kprobes do (Linux
Documentation/trace/kprobes.rst). kgdb lets the other CPUs go while one single-steps (x86 never sets
`kgdb_single_step`, kernel/debug/debug_core.c), and they pass unseen where the breakpoint has been
removed for the step. A copy is executed in memory that the kernel has no use for any more.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from typing import Final

from ..arch import X86_64
from ..errors import KgdbError
from ._registers import Readable, RegisterFile
from ._stop_context import FIRST_KERNEL_ADDRESS

__all__ = ["DisplacedSteps", "has_accessed"]

_PC: Final = X86_64.registers.pc
_FLAGS: Final = X86_64.registers.flags
_NAMES: Final = X86_64.registers.instruction
_IF: Final = 1 << 9  # the interrupt flag (Intel SDM volume 1, "EFLAGS Register")
_USER: Final = 3  # in CS: the privilege level of a program
_MASK: Final = (1 << 64) - 1
_GS: Final = 0x65  # the only prefix of the kernel's that has an operand elsewhere
_REX_ADDRESS: Final = 3  # REX.X and REX.B, of the registers of an address
_OPERAND: Final = 8  # bytes, at the most, of those that are decoded

# A copy: the instruction, some nops, a jump back behind the original, and a byte that says how long
# the instruction is and whether interrupts were enabled. So all that is needed at the end of a step
# is in the guest, and a snapshot that has a task within a step keeps it.
#
# A step may take an instruction more: kgdb loses its end if it rounds the CPU up, by an NMI, before
# the exception's handler has read DR6, which it then sets (arch/x86/kernel/hw_breakpoint.c,
# hw_breakpoint_restore).
_LONGEST: Final = 15
_NOPS: Final = 2
_JUMP: Final = 5  # bytes: e9 and a distance
_TRAILER: Final = _LONGEST + _NOPS + _JUMP
_COPY: Final = _TRAILER + 1
_ENABLED: Final = 0x80

_PREFIXES: Final = frozenset(b"\x66\xf0\xf2\xf3\x65")  # of segments gs only, the kernel's per-CPU

Read = Callable[[int, int], bytes]


def _opcodes(text: str) -> frozenset[int]:
    """Return opcodes given as hexadecimal numbers and ranges of them."""
    numbers: set[int] = set()
    for word in text.split():
        first, _, last = word.partition("-")
        numbers.update(range(int(first, 16), int(last or first, 16) + 1))
    return frozenset(numbers)


# Instructions (Intel SDM volume 2, appendix A) that go on behind themselves, leave the interrupt
# flag alone, and fault for nothing but memory that is not there. `f6`, `f7` and `ff` have more of
# each. The second table's come after `0f`.
_ARITHMETIC: Final = " ".join(f"{base:x}-{base + 3:x}" for base in range(0, 0x40, 8))
_BARE: Final = _opcodes("50-5f 90-99 9e 9f c9 f5 f8 f9 fc fd")
_STRING: Final = _opcodes("a4-a7 aa-af")
_MODRM: Final = _opcodes(f"{_ARITHMETIC} 63 69 6b 80 81 83-8b 8d 8f c0 c1 c6 c7 d0-d3 f6 f7 fe ff")
_BYTE: Final = _opcodes("4 c 14 1c 24 2c 34 3c 6a 6b 80 83 a8 b0-b7 c0 c1 c6")
_WIDE: Final = _opcodes("5 d 15 1d 25 2d 35 3d 68 69 81 a9 b8-bf c7")
_BARE_2: Final = _opcodes("31 a2 c8-cf")
_MODRM_2: Final = _opcodes("d 18-1f 40-4f 90-9f a3-a5 ab-ad af b0 b1 b3 b6-b8 ba-bf c0 c1 c3 ae")
_BYTE_2: Final = _opcodes("a4 ac ba")
_STACK: Final = _opcodes("50-5f 68 6a 8f c9")  # those that use the stack, and `ff /6`
_BIT: Final = _opcodes("a3 ab b3 bb")  # bt and its kin, with the bit's number in a register
_NO_ACCESS: Final = 0x8D  # lea
_NO_ACCESS_2: Final = _opcodes("d 18-1f")  # prefetches and nops


class _NotDisplaced(Exception):
    """An instruction that is to be executed where it is."""


class DisplacedSteps:
    """Has CPUs execute copies of instructions, with interrupts masked.

    An interrupt would come before the copy, and whoever looks at the stack from its handler would
    find the copy's address there.

    :param write: writes instructions of the kernel's; raises KgdbError if it cannot.
    """

    def __init__(self, write: Callable[[int, bytes], None]) -> None:
        self._write = write
        self.reset()

    def reset(self) -> None:
        """Take note that the machine has been replaced."""
        self._copies: dict[int, bytes] = {}  # what has been written, and where
        self._steps: dict[bytes, int] = {}  # the copy that a thread is to execute

    def begin(
        self,
        thread: bytes,
        registers: RegisterFile,
        read: Read,
        area: range,
        watched: Sequence[range] = (),
    ) -> bool:
        """Lead the CPU that stopped to a copy; the target must single-step it next.

        :param read: reads memory; raises KgdbError where there is none.
        :param area: where copies may be.
        :param watched: what has watchpoints, whose hits are to be at the originals.
        :return: whether the instruction is one of which a copy does the same.
        """
        try:
            instruction = _Instruction(registers, read, watched)
            copy = self._prepare(thread, instruction, area, bool(registers[_FLAGS] & _IF))
        except (_NotDisplaced, KgdbError):
            return False
        registers[_FLAGS] &= ~_IF
        registers[_PC] = copy
        self._steps[thread] = copy
        return True

    def _prepare(self, thread: bytes, instruction: _Instruction, area: range, enabled: bool) -> int:
        """Return where a copy of an instruction is, written if it is not there yet."""
        self._steps.pop(thread, None)
        places = range(area.start, area.stop - _COPY + 1, _COPY)
        copies = {place: instruction.copied_to(place, enabled=enabled) for place in places}
        for place, copy in copies.items():
            if self._copies.get(place) == copy:
                return place
        free = [place for place in places if place not in self._steps.values()]
        if not free:
            raise _NotDisplaced
        # The one that was written first, or has not been yet.
        order = list(self._copies)
        place = min(free, key=lambda at: order.index(at) if at in self._copies else -1)
        self._copies.pop(place, None)
        self._write(place, copies[place])
        self._copies[place] = copies[place]
        return place

    def end(self, thread: bytes, registers: RegisterFile, read: Read, area: range) -> None:
        """Lead the CPU that stopped back to the original, if it is at a copy."""
        self._steps.pop(thread, None)
        offset = registers[_PC] - area.start
        if not 0 <= offset < len(area) // _COPY * _COPY or registers["cs"] & _USER:
            return
        start = area.start + offset // _COPY * _COPY
        copy = read(start, _COPY)
        size = copy[_TRAILER] & ~_ENABLED
        executed = registers[_PC] - start
        jump = size + _NOPS
        if executed and not size <= executed <= jump:
            return
        distance = int.from_bytes(copy[jump + 1 : jump + _JUMP], "little", signed=True)
        behind = start + jump + _JUMP + distance
        registers[_PC] = (behind if executed else behind - size) & _MASK
        if copy[_TRAILER] & _ENABLED:
            registers[_FLAGS] |= _IF


class _Instruction:
    """The instruction at the program counter, decoded as far as to copy it.

    :raises _NotDisplaced: it does not do the same elsewhere, or may fault.
    :raises KgdbError: it cannot be read, or is about memory that is not there.
    """

    def __init__(self, registers: Readable, read: Read, watched: Sequence[range]) -> None:
        if registers["cs"] & _USER:
            raise _NotDisplaced
        self._watched = watched
        self._registers = registers
        self._read = read
        self._start = self._at = registers[_PC]
        self._code = read(self._start, _LONGEST)
        self._rex = 0
        self._prefixes = bytearray()
        self._relative: tuple[int, int] | None = None  # a displacement's offset, and its target
        self._decode()
        if self._at - self._start > _LONGEST:
            raise _NotDisplaced
        self._bytes = self._code[: self._at - self._start]

    def copied_to(self, place: int, *, enabled: bool) -> bytes:
        """Return a copy for an address, with what follows it."""
        code, size = bytearray(self._bytes), len(self._bytes)
        if self._relative is not None:
            at, target = self._relative
            code[at : at + 4] = _distance(target - (place + size))
        code += b"\x90" * _NOPS
        behind = place + size + _NOPS + _JUMP
        code += b"\xe9" + _distance(self._at - behind)
        code += bytes(_TRAILER - len(code))
        return bytes(code) + bytes([size | (_ENABLED if enabled else 0)])

    def _peek(self) -> int:
        offset = self._at - self._start
        if offset >= len(self._code):
            raise _NotDisplaced
        return self._code[offset]

    def _opcode(self) -> int:
        opcode = self._peek()
        self._at += 1
        return opcode

    def _displacement(self, size: int) -> int:
        offset = self._at - self._start
        self._at += size
        return int.from_bytes(self._code[offset : offset + size], "little", signed=True)

    def _decode(self) -> None:
        opcode = self._opcode()
        while opcode in _PREFIXES:
            self._prefixes.append(opcode)
            opcode = self._opcode()
        if opcode & 0xF0 == 0x40:
            self._rex = opcode
            opcode = self._opcode()
        bare, modrm, byte, wide = _BARE | _STRING, _MODRM, _BYTE, _WIDE
        second = opcode == 0x0F
        if second:
            opcode = self._opcode()
            bare, modrm, byte, wide = _BARE_2, _MODRM_2, _BYTE_2, frozenset()
        if opcode not in bare | modrm | byte | wide:
            raise _NotDisplaced
        if self._watched and not second and opcode in _STACK:
            raise _NotDisplaced
        immediate = 1 if opcode in byte else 0
        if opcode in wide:
            immediate = 2 if 0x66 in self._prefixes and not self._rex & 8 else 4
            if 0xB8 <= opcode <= 0xBF and self._rex & 8:
                immediate = 8
        if opcode in modrm:
            number = self._peek() >> 3 & 7
            if second:
                self._check_second(opcode)
            elif opcode in (0xF6, 0xF7):
                if number >= 6:
                    raise _NotDisplaced  # div, which has an exception of its own
                if number < 2:  # test
                    immediate = 1 if opcode == 0xF6 else 2 if 0x66 in self._prefixes else 4
            elif (opcode == 0xFF and number not in (0, 1, 6)) or (opcode == 0xFE and number > 1):
                raise _NotDisplaced  # calls and jumps
            elif opcode == 0xFF and number == 6 and self._watched:
                raise _NotDisplaced
            elif opcode in (0x8F, 0xC6, 0xC7) and number:
                raise _NotDisplaced  # of other meanings
            accesses = opcode not in _NO_ACCESS_2 if second else opcode != _NO_ACCESS
            self._decode_modrm(immediate, accesses=accesses)
        elif not second and opcode in _STRING:
            self._check_string(opcode)
        self._at += immediate

    def _check_second(self, opcode: int) -> None:
        modrm = self._peek()
        if opcode == 0xAE and modrm < 0xE8:
            raise _NotDisplaced  # none of the fences
        if opcode == 0xB8 and 0xF3 not in self._prefixes:
            raise _NotDisplaced  # not popcnt
        if self._watched and opcode in _BIT and modrm < 0xC0:
            raise _NotDisplaced  # the bit may be anywhere
        if opcode == 0xBA and modrm >> 3 & 7 < 4:
            raise _NotDisplaced

    def _decode_modrm(self, immediate: int, *, accesses: bool) -> None:
        registers = self._registers
        modrm = self._opcode()
        mode, low = modrm >> 6, modrm & 7
        if mode == 3:
            return
        address = 0
        if low == 4:
            sib = self._opcode()
            index, low = (sib >> 3 & 7) | (self._rex & 2) << 2, sib & 7
            if index != 4:
                address = registers[_NAMES[index]] << (sib >> 6)
            if mode == 0 and low == 5:
                address += self._displacement(4)
            else:
                address += registers[_NAMES[low | (self._rex & 1) << 3]]
        elif mode == 0 and low == 5:
            at = self._at - self._start
            displacement = self._displacement(4)
            address = self._at + immediate + displacement
            self._relative = at, address
        else:
            address = registers[_NAMES[low | (self._rex & 1) << 3]]
        if mode in (1, 2):
            address += self._displacement(1 if mode == 1 else 4)
        if not accesses:
            return
        if 0x65 not in self._prefixes:
            self._check_memory(address & _MASK)
        elif self._watched:
            raise _NotDisplaced  # the base of gs is not known here

    def _check_string(self, opcode: int) -> None:
        if opcode in _opcodes("a4-a7 ac ad"):
            self._check_memory(self._registers["si"])
        if opcode not in (0xAC, 0xAD):
            self._check_memory(self._registers["di"])

    def _check_memory(self, address: int) -> None:
        """Check that memory is the kernel's, and there.

        A fault at a copy would not find what the kernel's tables have for the original
        (arch/x86/mm/extable.c).
        """
        if address < FIRST_KERNEL_ADDRESS:
            raise _NotDisplaced
        for area in self._watched:
            size = 8 if self._rex & 8 else 4  # or less
            if address < area.stop and area.start < address + size:
                raise _NotDisplaced
        self._read(address, 8)


class _Operands(_Instruction):
    """The addresses of an instruction's operands in memory, as far as they are known."""

    def __init__(self, registers: Readable, read: Read) -> None:
        self.addresses: list[int] = []
        super().__init__(registers, read, ())
        self.size = self._at - self._start

    def _check_memory(self, address: int) -> None:
        self.addresses.append(address)


def _changes_address(byte: int) -> bool:
    """Whether a byte before an instruction, as its prefix, would have it about other memory."""
    rex = byte & 0xF0 == 0x40
    return byte == _GS or (rex and bool(byte & _REX_ADDRESS))


class _At:
    """Registers with another program counter."""

    def __init__(self, registers: Readable, pc: int) -> None:
        self._registers, self._pc = registers, pc

    def __getitem__(self, name: str) -> int:
        return self._pc if name == _PC else self._registers[name]


def has_accessed(registers: Readable, read: Read, address: int) -> bool:
    """Whether the instruction before the program counter has an operand at an address, for sure.

    Not where the instruction has changed what its address is made of.

    :param registers: those of the kernel's, as they are behind it.
    """
    pc = registers[_PC]
    for size in range(1, _LONGEST + 1):
        with contextlib.suppress(_NotDisplaced, KgdbError):
            if _changes_address(read(pc - size - 1, 1)[0]):
                continue
            operands = _Operands(_At(registers, pc - size), read)
            if operands.size == size and any(
                abs(operand - address) < _OPERAND for operand in operands.addresses
            ):
                return True
    return False


def _distance(value: int) -> bytes:
    try:
        return value.to_bytes(4, "little", signed=True)
    except OverflowError:
        raise _NotDisplaced from None
