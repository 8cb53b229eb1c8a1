"""C expressions as gdb compiles them for a target that evaluates them by itself.

gdb's `maintenance agent-eval` turns an expression into the bytecode of its tracepoints and
breakpoint conditions (gdb manual, "The GDB Agent Expression Mechanism"): arguments found by the
debug info, types, members and casts worked out. What is left is a small stack machine.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from ..errors import KgdbError
from ._hooks import Readable

__all__ = ["Bytecode", "parse"]

_MASK: Final = (1 << 64) - 1
_SIGN: Final = 1 << 63
# A loop has no place in an expression; gdb makes forward jumps only.
_STEPS: Final = 10_000

# gdb's numbers of the registers (gdb, features/i386/64bit-core.xml).
_REGISTERS: Final = (
    "ax", "bx", "cx", "dx", "si", "di", "bp", "sp", "r8", "r9", "r10", "r11", "r12", "r13",
    "r14", "r15", "ip", "flags", "cs", "ss",
)  # fmt: skip


def _signed(value: int) -> int:
    return value - (1 << 64) if value & _SIGN else value


def _divide(one: int, other: int) -> int:
    """Divide as C does: towards zero."""
    if other == 0:
        raise KgdbError("division by zero in an expression")
    quotient = abs(one) // abs(other)
    return quotient if (one < 0) == (other < 0) else -quotient


_BINARY: Final[Mapping[str, Callable[[int, int], int]]] = {
    "add": lambda a, b: a + b,
    "sub": lambda a, b: a - b,
    "mul": lambda a, b: a * b,
    "div_signed": lambda a, b: _divide(_signed(a), _signed(b)),
    "div_unsigned": lambda a, b: _divide(a, b),
    "rem_signed": lambda a, b: _signed(a) - _signed(b) * _divide(_signed(a), _signed(b)),
    "rem_unsigned": lambda a, b: a - b * _divide(a, b),
    "lsh": lambda a, b: a << b if b < 64 else 0,
    "rsh_signed": lambda a, b: _signed(a) >> min(b, 63),
    "rsh_unsigned": lambda a, b: a >> b,
    "bit_and": lambda a, b: a & b,
    "bit_or": lambda a, b: a | b,
    "bit_xor": lambda a, b: a ^ b,
    "equal": lambda a, b: int(a == b),
    "less_signed": lambda a, b: int(_signed(a) < _signed(b)),
    "less_unsigned": lambda a, b: int(a < b),
}
_UNARY: Final[Mapping[str, Callable[[int], int]]] = {
    "log_not": lambda a: int(a == 0),
    "bit_not": lambda a: ~a,
}
_REFS: Final = {"ref8": 1, "ref16": 2, "ref32": 4, "ref64": 8}
_CONSTANTS: Final = frozenset({"const8", "const16", "const32", "const64"})
_SIMPLE: Final = frozenset({"dup", "pop", "swap", "rot", "end"})
_WITH_OPERAND: Final = _CONSTANTS | {"reg", "ext", "zero_ext", "if_goto", "goto", "pick"}
_KNOWN: Final = frozenset(_BINARY) | frozenset(_UNARY) | frozenset(_REFS) | _SIMPLE | _WITH_OPERAND


@dataclass(frozen=True)
class Bytecode:
    """A compiled expression."""

    steps: tuple[tuple[str, int], ...]
    """Operations and their operands; a jump's operand is an index in here."""

    @property
    def compares_signed(self) -> bool:
        """Whether it holds a comparison of signed numbers: how a type's sign is found out."""
        return any(name == "less_signed" for name, _ in self.steps)

    def run(self, registers: Readable, read: Callable[[int, int], bytes]) -> int:
        """Return the value, as 64 bits without a sign.

        :param registers: by the names of `struct pt_regs`.
        :param read: reads guest memory.
        :raises KgdbError: memory that it needs is not there.
        """
        stack: list[int] = []
        at = 0
        for _ in range(_STEPS):
            name, operand = self.steps[at]
            at += 1
            if name in _CONSTANTS:
                stack.append(operand & _MASK)
            elif name == "reg":
                stack.append(registers[_REGISTERS[operand]] & _MASK)
            elif name == "ext":
                value = stack.pop() & ((1 << operand) - 1)
                sign = value >> (operand - 1)
                stack.append((value - (sign << operand)) & _MASK)
            elif name == "zero_ext":
                stack.append(stack.pop() & ((1 << operand) - 1))
            elif name in _REFS:
                stack.append(int.from_bytes(read(stack.pop(), _REFS[name]), "little"))
            elif name in _BINARY:
                second = stack.pop()
                stack.append(_BINARY[name](stack.pop(), second) & _MASK)
            elif name == "if_goto":
                at = operand if stack.pop() else at
            elif name == "goto":
                at = operand
            elif name == "end":
                return stack[-1]
            elif name in _UNARY:
                stack.append(_UNARY[name](stack.pop()) & _MASK)
            else:
                _shuffle(name, operand, stack)
        raise KgdbError("an expression does not come to its end")


def _shuffle(name: str, operand: int, stack: list[int]) -> None:
    if name == "dup":
        stack.append(stack[-1])
    elif name == "pop":
        stack.pop()
    elif name == "swap":
        stack[-1], stack[-2] = stack[-2], stack[-1]
    elif name == "pick":
        stack.append(stack[-1 - operand])
    else:  # rot: a b c => c a b
        stack.insert(-2, stack.pop())


def parse(text: str) -> Bytecode:
    """Read gdb's listing of one expression (gdb/ax-general.c, `ax_print`).

    :raises KgdbError: it uses what only a tracepoint has.
    """
    found: list[tuple[str, int]] = []
    index: dict[int, int] = {}
    for line in text.splitlines():
        words = line.split()
        if not words or not words[0].isdigit():
            continue
        name = words[1]
        if name not in _KNOWN:
            raise KgdbError(f"it needs gdb's '{name}', which cannot be done here")
        operand = int(words[2]) if len(words) > 2 else 0
        if name == "reg" and operand >= len(_REGISTERS):
            raise KgdbError(f"it needs gdb's register {operand}, which kgdb does not tell")
        index[int(words[0])] = len(found)
        found.append((name, operand))
    if not found:
        raise KgdbError("gdb compiled it to nothing")
    steps = tuple(
        (name, index[operand] if name in ("goto", "if_goto") else operand)
        for name, operand in found
    )
    return Bytecode(steps)
