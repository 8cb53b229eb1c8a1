"""C expressions as gdb compiles them for a target that evaluates them by itself.

gdb's `maintenance agent-eval` compiles an expression for its tracepoints and breakpoint conditions
(gdb manual, "The GDB Agent Expression Mechanism"): arguments are located by the debug info, and
types, members and casts worked out. What is left to do is a small stack machine.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from ..arch import X86_64
from ..errors import KgdbError
from ._registers import Readable

__all__ = ["AgentExpression", "parse_agent_expression"]

_MASK: Final = (1 << 64) - 1
_SIGN: Final = 1 << 63
# Operations until an expression is taken for endless: gdb makes no loops, only forward jumps.
_LIMIT: Final = 10_000

# The registers by the numbers that gdb uses in expressions, those of the remote protocol.
_REGISTERS: Final = tuple(name for name, _ in X86_64.registers.gdb)


def _signed(value: int) -> int:
    return value - (1 << 64) if value & _SIGN else value


def _divide(one: int, other: int) -> int:
    """Divide as C does, towards zero."""
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
# `no_cpu` is none of gdb's: what per_cpu() comes to where there is no such CPU.
_SIMPLE: Final = frozenset({"dup", "pop", "swap", "rot", "end", "no_cpu"})
_WITH_OPERAND: Final = _CONSTANTS | {"reg", "ext", "zero_ext", "if_goto", "goto", "pick"}
_OPERATIONS: Final = (
    frozenset(_BINARY) | frozenset(_UNARY) | frozenset(_REFS) | _SIMPLE | _WITH_OPERAND
)


@dataclass(frozen=True)
class AgentExpression:
    """A compiled expression."""

    operations: tuple[tuple[str, int], ...]
    """Operations and their operands; a jump's operand is an index in here."""

    @property
    def compares_signed(self) -> bool:
        """Whether it compares signed numbers, which tells whether a type is signed."""
        return any(name == "less_signed" for name, _ in self.operations)

    @property
    def constants(self) -> frozenset[int]:
        """The numbers in it, as 64 bits without a sign."""
        return frozenset(operand & _MASK for name, operand in self.operations if name in _CONSTANTS)

    def run(self, registers: Readable, read: Callable[[int, int], bytes]) -> int:
        """Return the value, as 64 bits without a sign.

        :param registers: by the names of `struct pt_regs`.
        :param read: reads guest memory (address, size).
        :raises KgdbError: it needs memory or a register that there is not.
        """
        stack: list[int] = []
        at = 0
        for _ in range(_LIMIT):
            name, operand = self.operations[at]
            at += 1
            if name in _CONSTANTS:
                stack.append(operand & _MASK)
            elif name == "reg":
                stack.append(_register(registers, operand) & _MASK)
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


def _register(registers: Readable, number: int) -> int:
    name = _REGISTERS[number]
    try:
        return registers[name]
    except KeyError:
        raise KgdbError(
            f"an expression needs the register {name}, which kgdb does not send"
        ) from None


def _shuffle(name: str, operand: int, stack: list[int]) -> None:
    if name == "dup":
        stack.append(stack[-1])
    elif name == "pop":
        stack.pop()
    elif name == "swap":
        stack[-1], stack[-2] = stack[-2], stack[-1]
    elif name == "pick":
        stack.append(stack[-1 - operand])
    elif name == "no_cpu":
        raise KgdbError(f"there is no CPU {_signed(stack[-1])}")
    else:  # rot: a b c => c a b
        stack.insert(-2, stack.pop())


def parse_agent_expression(text: str) -> AgentExpression:
    """Parse gdb's listing of one expression (gdb/ax-general.c, `ax_print`).

    :raises KgdbError: it uses what only a tracepoint has, or a register that is not sent.
    """
    operations: list[tuple[str, int]] = []
    indices: dict[int, int] = {}  # of operations, by their offsets in the listing
    for line in text.splitlines():
        words = line.split()
        if not words or not words[0].isdigit():
            continue
        name = words[1]
        if name not in _OPERATIONS:
            raise KgdbError(f"it needs gdb's '{name}', which is not supported here")
        operand = int(words[2]) if len(words) > 2 else 0
        if name == "reg" and operand >= len(_REGISTERS):
            raise KgdbError(f"it needs gdb's register {operand}, which the target does not send")
        indices[int(words[0])] = len(operations)
        operations.append((name, operand))
    if not operations:
        raise KgdbError("gdb compiled it to nothing")
    return AgentExpression(
        tuple(
            (name, indices[operand] if name in ("goto", "if_goto") else operand)
            for name, operand in operations
        )
    )
