"""gdb's agent expressions, as the relay runs them."""

from __future__ import annotations

import pytest

from pytest_kgdb.errors import KgdbError
from pytest_kgdb.rsp import parse_agent_expression

NAMES = "ax bx cx dx si di bp sp r8 r9 r10 r11 r12 r13 r14 r15 ip flags cs ss"
REGISTERS = dict.fromkeys(NAMES.split(" "), 0)
MEMORY = bytes(range(256))


def read(address: int, size: int) -> bytes:
    if address + size > len(MEMORY):
        raise KgdbError("not mapped")
    return MEMORY[address : address + size]


def run(*lines: str, **registers: int) -> int:
    text = "Scope: 0xffffffff811b25a0\nReg mask: 28\n"
    text += "".join(f"{number:3d}  {line}\n" for number, line in enumerate(lines))
    return parse_agent_expression(text).run(REGISTERS | registers, read)


def test_a_condition_on_two_arguments() -> None:
    # count == 17 && file->f_flags & 3, as gdb 13 lists it
    text = """Scope: 0xffffffff811b25a0
Reg mask: 28
  0  reg 3
  3  zero_ext 64
  5  const8 17
  7  zero_ext 64
  9  equal
 10  if_goto 16
 13  goto 41
 16  reg 5
 19  zero_ext 64
 21  const8 64
 23  add
 24  ref32
 25  const8 3
 27  zero_ext 32
 29  bit_and
 30  if_goto 36
 33  goto 41
 36  const8 1
 38  goto 43
 41  const8 0
 43  end
"""
    expression = parse_agent_expression(text)
    assert expression.run(REGISTERS | {"dx": 17, "di": 1}, read) == 1  # 0x41 & 3
    assert expression.run(REGISTERS | {"dx": 17, "di": 0}, read) == 0  # 0x40 & 3
    assert expression.run(REGISTERS | {"dx": 16, "di": 1 << 40}, read) == 0, (
        "what is behind && is not read"
    )
    with pytest.raises(KgdbError, match="not mapped"):
        expression.run(REGISTERS | {"dx": 17, "di": 1 << 40}, read)


@pytest.mark.parametrize(
    ("operation", "one", "other", "result"),
    [
        ("add", -1, 1, 0), ("sub", 1, 2, -1), ("mul", -3, 5, -15), ("div_signed", -7, 2, -3),
        ("div_unsigned", 7, 2, 3), ("rem_signed", -7, 2, -1), ("rem_unsigned", 7, 2, 1),
        ("lsh", 1, 63, 1 << 63), ("lsh", 1, 64, 0), ("rsh_signed", -8, 1, -4),
        ("rsh_unsigned", -8, 60, 15), ("bit_and", 12, 10, 8), ("bit_or", 12, 10, 14),
        ("bit_xor", 12, 10, 6), ("equal", 3, 3, 1), ("less_signed", -1, 0, 1),
        ("less_unsigned", -1, 0, 0),
    ],
)  # fmt: skip
def test_operations(operation: str, one: int, other: int, result: int) -> None:
    value = run(f"const64 {one}", f"const64 {other}", operation, "end")
    assert value == result & ((1 << 64) - 1)


def test_the_rest_of_the_machine() -> None:
    assert run("const8 255", "ext 8", "end") == (1 << 64) - 1
    assert run("const16 511", "zero_ext 8", "end") == 255
    assert run("reg 5", "ref16", "end", di=2) == 0x0302
    assert run("const8 0", "log_not", "end") == 1
    assert run("const8 0", "bit_not", "end") == (1 << 64) - 1
    assert run("const8 1", "const8 2", "swap", "sub", "end") == 1
    assert run("const8 1", "dup", "add", "end") == 2
    assert run("const8 7", "const8 2", "pick 1", "end") == 7
    assert run("const8 1", "const8 2", "pop", "end") == 1
    assert run("const8 1", "const8 2", "const8 3", "rot", "end") == 2


def test_what_cannot_be_run() -> None:
    for text, message in (
        ("0  getv 3", "needs gdb's 'getv'"),
        ("0  reg 60", "register 60, which the target does not send"),
        ("", "compiled it to nothing"),
    ):
        with pytest.raises(KgdbError, match=message):
            parse_agent_expression(text)
    with pytest.raises(KgdbError, match="needs the register gs_base, which kgdb does not send"):
        run("reg 25", "end")
    with pytest.raises(KgdbError, match="division by zero"):
        run("const8 1", "const8 0", "div_signed", "end")
    with pytest.raises(KgdbError, match="does not come to its end"):
        run("goto 0")
