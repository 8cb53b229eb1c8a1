"""Executes an instruction in place of the CPU, so that a breakpoint can stay inserted.

For the CPU to step over a breakpoint, it must be removed; the CPU first runs an interrupt handler
that is pending, and then traps a second time, while another CPU may pass the place unseen.
Functions, and what follows a call, nearly always begin with one of few instructions, which change
registers and flags, read memory, and write to the stack (Intel SDM volume 2 describes them).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from ..arch import X86_64
from ..errors import KgdbError
from ._registers import RegisterFile

__all__ = ["emulate"]

_NAMES: Final = X86_64.registers.instruction
_CF, _PF, _AF, _ZF, _SF, _TF, _IF, _OF = 0x1, 0x4, 0x10, 0x40, 0x80, 0x100, 0x200, 0x800
_STATUS: Final = _CF | _PF | _AF | _ZF | _SF | _OF
_MASK: Final = (1 << 64) - 1
_HLT: Final = b"\xf4"

# Bytes. The int3 entry leaves this gap between the interrupted stack and pt_regs, so that the
# kernel can emulate pushes (arch/x86/entry/entry_64.S, macro idtentry: six words, of which the
# entry itself may need one for alignment).
_GAP: Final = 5 * 8

# Of what is in the same piece of this size, and above the stack pointer, the stack consists: a
# task's, or an interrupt's (arch/x86/include/asm/page_64_types.h, THREAD_SIZE, IRQ_STACK_SIZE).
_STACK: Final = 4 * 4096

# The operations that opcodes 00 to 3f and 80 to 83 number; adc and sbb are not emulated.
_ADD, _OR, _AND, _SUB, _XOR, _CMP = 0, 1, 4, 5, 6, 7

Read = Callable[[int, int], bytes]
Write = Callable[[int, bytes], None]


class _NotEmulated(Exception):
    """An instruction that is left to the CPU."""


def emulate(
    registers: RegisterFile, read: Read, write: Write, floor: int, *, operands: bool = True
) -> bool:
    """Execute the instruction at the program counter, if it is one that can be emulated.

    :param read: reads guest memory; raises KgdbError where there is none.
    :param write: writes it.
    :param floor: the stack pointer at the stop; pushes may go as far below it as the gap.
    :param operands: whether memory operands may be read and written, which a watchpoint does not
        see.
    :return: whether it was executed.
    """
    try:
        _Instruction(registers, read, write, floor, operands).execute()
    except (_NotEmulated, KgdbError):
        return False
    return True


def _signed(value: int, bits: int) -> int:
    value &= (1 << bits) - 1
    return value - (1 << bits) if value >> (bits - 1) else value


class _Instruction:
    def __init__(
        self, registers: RegisterFile, read: Read, write: Write, floor: int, operands: bool
    ) -> None:
        self._operands = operands
        self._registers = registers
        self._read = read
        self._write = write
        self._floor = floor
        self._at = registers["ip"]
        self._rex = 0
        self._bits = 32
        self._modrm = 0
        self._address: int | None = None  # of a memory operand

    # Decoding

    def _fetch(self, size: int) -> int:
        data = self._read(self._at, size)
        self._at += size
        return int.from_bytes(data, "little")

    def _immediate(self, bits: int) -> int:
        return _signed(self._fetch(bits // 8), bits)

    def _decode_modrm(self, after: int = 0) -> None:
        """Read ModRM, SIB and displacement; `after` bytes of an immediate follow."""
        self._modrm = modrm = self._fetch(1)
        mode, low = modrm >> 6, modrm & 7
        if mode == 3:
            return
        if low == 4:
            sib = self._fetch(1)
            index, base = (sib >> 3 & 7) | (self._rex & 2) << 2, sib & 7
            address = 0 if index == 4 else self._registers[_NAMES[index]] << (sib >> 6)
            if mode == 0 and base == 5:
                address += self._immediate(32)
            else:
                address += self._registers[_NAMES[base | (self._rex & 1) << 3]]
        elif mode == 0 and low == 5:
            displacement = self._immediate(32)
            address = self._at + after + displacement
        else:
            address = self._registers[_NAMES[low | (self._rex & 1) << 3]]
        if mode in (1, 2):
            address += self._immediate(8 if mode == 1 else 32)
        self._address = address & _MASK

    @property
    def _reg(self) -> int:
        return (self._modrm >> 3 & 7) | (self._rex & 4) << 1

    # Operands

    def _get(self, number: int, bits: int) -> int:
        if bits == 8 and not self._rex and number >= 4:
            return self._registers[_NAMES[number - 4]] >> 8 & 0xFF  # ah, ch, dh, bh
        return self._registers[_NAMES[number]] & ((1 << bits) - 1)

    def _set(self, number: int, value: int, bits: int) -> None:
        name, shift = _NAMES[number], 0
        if bits == 8 and not self._rex and number >= 4:
            name, shift = _NAMES[number - 4], 8
        value &= (1 << bits) - 1
        if bits < 32:  # the rest of the register stays; 32 bits clear it
            mask = ((1 << bits) - 1) << shift
            value = self._registers[name] & ~mask | value << shift
        self._registers[name] = value

    def _get_rm(self, bits: int) -> int:
        if self._address is not None:
            if not self._operands:
                raise _NotEmulated
            return int.from_bytes(self._read(self._address, bits // 8), "little")
        return self._get((self._modrm & 7) | (self._rex & 1) << 3, bits)

    def _set_rm(self, value: int, bits: int) -> None:
        if self._address is not None:
            self._store(value, bits)
            return
        self._set((self._modrm & 7) | (self._rex & 1) << 3, value, bits)

    def _store(self, value: int, bits: int) -> None:
        """Write to the stack, which is writable, and no code."""
        address, stack = self._address or 0, self._registers["sp"]
        last = address + bits // 8 - 1
        if not self._operands or address < stack or last // _STACK != stack // _STACK:
            raise _NotEmulated
        self._write(address, (value & ((1 << bits) - 1)).to_bytes(bits // 8, "little"))

    def _push(self, value: int) -> None:
        stack = self._registers["sp"] - 8
        if stack < self._floor - _GAP:
            raise _NotEmulated
        self._write(stack, (value & _MASK).to_bytes(8, "little"))
        self._registers["sp"] = stack

    def _pop(self) -> int:
        stack = self._registers["sp"]
        value = int.from_bytes(self._read(stack, 8), "little")
        self._registers["sp"] = stack + 8
        return value

    # Flags

    def _flags(self, result: int, bits: int, carry: bool, overflow: bool, aux: bool) -> None:
        result &= (1 << bits) - 1
        flags = self._registers["flags"] & ~_STATUS
        flags |= _CF if carry else 0
        flags |= _PF if (result & 0xFF).bit_count() % 2 == 0 else 0
        flags |= _AF if aux else 0
        flags |= _ZF if result == 0 else 0
        flags |= _SF if result >> (bits - 1) else 0
        flags |= _OF if overflow else 0
        self._registers["flags"] = flags

    def _compute(self, operation: int, one: int, other: int, bits: int) -> int:
        mask = (1 << bits) - 1
        one, other = one & mask, other & mask
        sign = 1 << (bits - 1)
        if operation == _ADD:
            result = one + other
            overflow = bool(~(one ^ other) & (one ^ result) & sign)
            self._flags(result, bits, result > mask, overflow, bool((one ^ other ^ result) & 16))
        elif operation in (_SUB, _CMP):
            result = one - other
            overflow = bool((one ^ other) & (one ^ result) & sign)
            self._flags(result, bits, one < other, overflow, bool((one ^ other ^ result) & 16))
        elif operation in (_OR, _AND, _XOR):
            result = {_OR: one | other, _AND: one & other, _XOR: one ^ other}[operation]
            self._flags(result, bits, False, False, False)
        else:
            raise _NotEmulated
        return result & mask

    def _holds(self, condition: int) -> bool:
        """Whether a condition is true (Intel SDM volume 1, "EFLAGS Condition Codes")."""
        flags = self._registers["flags"]
        less = bool(flags & _SF) != bool(flags & _OF)
        tests = (
            flags & _OF,
            flags & _CF,
            flags & _ZF,
            flags & (_CF | _ZF),
            flags & _SF,
            flags & _PF,
            less,
            less or flags & _ZF,
        )
        return bool(tests[condition >> 1]) != bool(condition & 1)

    # Executing

    def execute(self) -> None:
        if self._read(self._at, 4) == b"\xf3\x0f\x1e\xfa":  # endbr64
            self._registers["ip"] = self._at + 4
            return
        opcode = self._fetch(1)
        while opcode == 0x66:
            self._bits = 16
            opcode = self._fetch(1)
        if opcode & 0xF0 == 0x40:
            self._rex = opcode
            if opcode & 8:
                self._bits = 64
            opcode = self._fetch(1)
        if opcode == 0x0F:
            self._two_bytes(self._fetch(1))
        elif opcode < 0x40:
            self._arithmetic(opcode)
        elif opcode < 0x80 or opcode in (0x9C, 0xC3, 0xC9, 0xE8, 0xE9, 0xEB):
            self._stack_and_jumps(opcode)
        elif opcode in (0x80, 0x81, 0x83):
            self._group_1(opcode)
        else:
            self._moves(opcode)
        self._registers["ip"] = self._at & _MASK

    def _arithmetic(self, opcode: int) -> None:
        """`op r/m, r`, `op r, r/m` and `op a, imm`, in bytes and wider."""
        operation, form = opcode >> 3, opcode & 7
        if form > 5:
            raise _NotEmulated
        bits = self._bits if form & 1 else 8
        if form >= 4:
            other = self._immediate(min(bits, 32))
            result = self._compute(operation, self._get(0, bits), other, bits)
            if operation != _CMP:
                self._set(0, result, bits)
            return
        self._decode_modrm()
        rm, reg = self._get_rm(bits), self._get(self._reg, bits)
        if form < 2:
            if operation != _CMP and self._address is not None:
                raise _NotEmulated
            result = self._compute(operation, rm, reg, bits)
            if operation != _CMP:
                self._set_rm(result, bits)
        else:
            result = self._compute(operation, reg, rm, bits)
            if operation != _CMP:
                self._set(self._reg, result, bits)

    def _group_1(self, opcode: int) -> None:
        """`op r/m, imm`."""
        bits = 8 if opcode == 0x80 else self._bits
        wide = min(bits, 32) if opcode == 0x81 else 8
        self._decode_modrm(after=wide // 8)
        operation = self._modrm >> 3 & 7
        if operation != _CMP and self._address is not None:
            raise _NotEmulated
        result = self._compute(operation, self._get_rm(bits), self._immediate(wide), bits)
        if operation != _CMP:
            self._set_rm(result, bits)

    def _stack_and_jumps(self, opcode: int) -> None:
        number = (opcode & 7) | (self._rex & 1) << 3
        if self._bits == 16:
            raise _NotEmulated
        if 0x50 <= opcode <= 0x57:
            self._push(self._registers[_NAMES[number]])
        elif 0x58 <= opcode <= 0x5F:
            self._registers[_NAMES[number]] = self._pop()
        elif opcode == 0x63:  # movslq
            self._decode_modrm()
            self._set(self._reg, _signed(self._get_rm(32), 32), self._bits)
        elif 0x70 <= opcode <= 0x7F:
            self._jump(self._immediate(8), self._holds(opcode & 15))
        elif opcode == 0x9C:  # pushf
            self._push(self._registers["flags"] & ~_TF)
        elif opcode == 0xC3:
            self._at = self._pop()
        elif opcode == 0xC9:  # leave
            frame = self._registers["bp"]
            value = int.from_bytes(self._read(frame, 8), "little")
            self._registers["sp"] = frame + 8
            self._registers["bp"] = value
        elif opcode == 0xE8:
            distance = self._immediate(32)
            self._push(self._at)
            self._jump(distance, True)
        elif opcode in (0xE9, 0xEB):
            self._jump(self._immediate(32 if opcode == 0xE9 else 8), True)
        else:
            raise _NotEmulated

    def _jump(self, distance: int, taken: bool) -> None:
        if taken:
            self._at += distance

    def _moves(self, opcode: int) -> None:
        bits = self._bits if opcode & 1 else 8
        if opcode in (0x84, 0x85):  # test
            self._decode_modrm()
            self._compute(_AND, self._get_rm(bits), self._get(self._reg, bits), bits)
        elif opcode in (0x88, 0x89):
            self._decode_modrm()
            self._set_rm(self._get(self._reg, bits), bits)
        elif opcode in (0x8A, 0x8B):
            self._decode_modrm()
            self._set(self._reg, self._get_rm(bits), bits)
        elif opcode == 0x8D:  # lea
            self._decode_modrm()
            if self._address is None:
                raise _NotEmulated
            self._set(self._reg, self._address, self._bits)
        elif opcode == 0x90 and not self._rex:
            pass
        elif opcode == 0x98:  # cltq, cwtl, cbtw
            half = self._bits // 2
            self._set(0, _signed(self._get(0, half), half), self._bits)
        elif opcode in (0xA8, 0xA9):  # test a, imm
            other = self._immediate(min(bits, 32))
            self._compute(_AND, self._get(0, bits), other, bits)
        elif 0xB0 <= opcode <= 0xB7:
            self._set((opcode & 7) | (self._rex & 1) << 3, self._fetch(1), 8)
        elif 0xB8 <= opcode <= 0xBF:
            number = (opcode & 7) | (self._rex & 1) << 3
            self._set(number, self._fetch(self._bits // 8), self._bits)
        elif opcode in (0xC6, 0xC7):  # mov imm
            bits = 8 if opcode == 0xC6 else self._bits
            self._decode_modrm(after=min(bits, 32) // 8)
            if self._modrm & 0x38:
                raise _NotEmulated
            self._set_rm(self._immediate(min(bits, 32)), bits)
        elif opcode in (0xF6, 0xF7):  # test imm, neg
            self._group_3(bits)
        elif opcode == 0xFB:
            self._sti()
        else:
            raise _NotEmulated

    def _sti(self) -> None:
        """Enable interrupts: the CPU's own step would end behind the next instruction.

        QEMU has no trap where it takes no interrupt, since its commit f0f0136abba6 "target/i386: no
        single-step exception after MOV or POP SS". Between `sti` and `hlt` no interrupt may come:
        it would be slept over.
        """
        if self._read(self._at, 1) == _HLT:
            raise _NotEmulated
        self._registers["flags"] |= _IF

    def _group_3(self, bits: int) -> None:
        operation = self._read(self._at, 1)[0] >> 3 & 7
        self._decode_modrm(after=min(bits, 32) // 8 if operation == 0 else 0)
        if operation == 0:
            self._compute(_AND, self._get_rm(bits), self._immediate(min(bits, 32)), bits)
        elif operation == 3 and self._address is None:
            self._set_rm(self._compute(_SUB, 0, self._get_rm(bits), bits), bits)
        else:
            raise _NotEmulated

    def _two_bytes(self, opcode: int) -> None:
        if opcode == 0x1F:  # nop
            self._decode_modrm()
        elif 0x40 <= opcode <= 0x4F:  # cmov
            self._decode_modrm()
            value = self._get_rm(self._bits)
            taken = value if self._holds(opcode & 15) else self._get(self._reg, self._bits)
            self._set(self._reg, taken, self._bits)
        elif 0x80 <= opcode <= 0x8F:
            self._jump(self._immediate(32), self._holds(opcode & 15))
        elif 0x90 <= opcode <= 0x9F:  # setcc
            self._decode_modrm()
            self._set_rm(int(self._holds(opcode & 15)), 8)
        elif opcode in (0xB6, 0xB7):  # movzx
            self._decode_modrm()
            self._set(self._reg, self._get_rm(8 if opcode == 0xB6 else 16), self._bits)
        elif opcode in (0xBE, 0xBF):  # movsx
            wide = 8 if opcode == 0xBE else 16
            self._decode_modrm()
            self._set(self._reg, _signed(self._get_rm(wide), wide), self._bits)
        else:
            raise _NotEmulated
