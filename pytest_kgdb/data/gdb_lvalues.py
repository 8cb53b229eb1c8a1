"""Expressions in the selected frame, and what is written to, inside gdb.

Written for Python 3.6 and gdb 12, as gdb_agent.py.
"""

import math
import re

import gdb
from gdb_conditions import is_convenience
from gdb_frames import (
    is_at_entry,
    is_misread,
    typed,
    value_of,
)
from gdb_names import (
    is_free,
    names,
)
from gdb_types import (
    INTEGERS,
    MASK,
    Refused,
    find_member,
    is_signed,
    one_line,
    plain,
    tokens_of,
)
from gdb_watches import check_address


def selected_block():
    """Where the selected frame is; None where the debug info knows nothing of it."""
    try:
        return gdb.selected_frame().block()
    except (gdb.error, RuntimeError):
        return None


def checked(expression):
    """An expression for gdb in which each name means what it means in the selected frame."""
    block = selected_block()
    return names.checked(one_line(expression), block, given_in(block))


def read_right(expression):
    """An expression as it is, but for names of which gdb would read another value.

    :raises Refused: it is no C.
    """
    own = given_in(selected_block())
    if own is None:
        return expression
    pieces, end = [], 0
    tokens = tokens_of(expression)
    for index, token in enumerate(tokens):
        spelled = own(token.text) if token.kind == "name" and is_free(tokens, index) else None
        if spelled is not None:
            pieces += [expression[end : token.start], spelled]
            end = token.end
    return "".join([*pieces, expression[end:]])


class Given(gdb.Function):
    """$_given(NUMBER): the value of a variable of which gdb would read another one's."""

    def __init__(self):
        super().__init__("_given")
        self.values = []
        gdb.events.cont.connect(lambda _event: self.values.clear())

    def add(self, value):
        """Keep a value until the kernel is resumed; returns how gdb is to be told it."""
        self.values.append(value)
        return f"$_given({len(self.values) - 1})"

    def invoke(self, number):
        return self.values[int(number)]


given = Given()


def given_in(block):
    """What tells how gdb must have a name of a block's, if it may read another value."""
    if block is None:
        return None
    frame = gdb.selected_frame()
    if frame.type() != gdb.INLINE_FRAME and not is_at_entry(frame):
        return None

    def own(name):
        """What gdb would read wrong, as a variable of gdb's own; None for all else."""
        symbol = gdb.lookup_symbol(name, block)[0]
        if symbol is None or not is_misread(symbol, frame):
            return None
        return typed(given.add(value_of(symbol, frame)), symbol)

    return own


def number_of(value):
    """A number of any size: gdb gives Python those of up to 64 bits (before gdb 14)."""
    kind = plain(value.type)
    if kind.sizeof <= 8:
        return int(value)
    number = int(value.format_string(format="z"), 16)
    bits = 8 * kind.sizeof
    return number - (1 << bits) if is_signed(kind) and number >> (bits - 1) else number


def is_parenthesised(tokens):
    """Whether the first token is a parenthesis that the last one closes."""
    if len(tokens) < 3 or tokens[0].text != "(":
        return False
    depth = 0
    for token in tokens[:-1]:
        depth += {"(": 1, ")": -1}.get(token.text, 0)
        if depth == 0:
            return False
    return True


def bit_field(expression):
    """The width in bits and the type of a bit-field; None of anything else."""
    try:
        tokens = tokens_of(expression)
    except Refused:
        return None
    while is_parenthesised(tokens):
        tokens = tokens[1:-1]
    if len(tokens) < 3 or tokens[-1].kind != "name" or tokens[-2].text not in (".", "->"):
        return None
    if tokens[0].kind == "operator" and tokens[0].text != "(":
        return None  # an operator on the member
    try:
        parent = gdb.parse_and_eval(checked(expression[tokens[0].start : tokens[-2].start]))
    except gdb.error:
        return None  # no member of one thing
    kind = plain(parent.type)
    if kind.code == gdb.TYPE_CODE_PTR:
        kind = plain(kind.target())
    member = find_member(kind, tokens[-1].text)
    return (member[1], member[2]) if member is not None and member[1] else None


def op_watchable(expression):
    """The address and size of an lvalue that a watchpoint can watch, and whether it has a sign."""
    value = gdb.parse_and_eval(checked(expression))
    if bit_field(expression) is not None:
        raise Refused(
            f"{expression} is a bit-field, and a processor watches whole bytes",
            "watch a member beside it, or the bytes: *(char *)&(…)",
        )
    if value.address is None:
        raise Refused(
            f"{expression} is a value not located in memory",
            "an lvalue of the kernel's memory can be watched: a variable, a member",
        )
    address = int(value.address) & MASK
    check_address(expression, address)
    return {
        "address": address,
        "size": value.type.sizeof,
        "signed": is_signed(value.type),
    }


# include/linux/err.h: a pointer may be an error.
MAX_ERRNO = 4095


def op_assign(expression, value):
    """Assign a number or what a C expression says; one that does not fit is refused."""
    left = checked(expression)
    target = gdb.parse_and_eval(left)
    if "$_given(" in left and target.address is None:
        if is_at_entry(gdb.selected_frame()):
            raise Refused(
                f"{expression} is stored nowhere yet at the function's entry",
                "assign the register that it is in ($rdi, …), or stop some lines further on",
            )
        raise Refused(
            f"{expression} lies nowhere any more: it is known from what the caller gave",
            "stop at the function's entry, where it is in a register",
        )
    kind = plain(target.type)
    if kind.code == gdb.TYPE_CODE_FLT and isinstance(value, int):
        value = as_float(expression, target.type, value)
    right, number = source_of(value)
    is_number = kind.code in (*INTEGERS, gdb.TYPE_CODE_PTR) and not is_gdbs_own(expression)
    if isinstance(number, float):
        if kind.code == gdb.TYPE_CODE_FLT:
            check_float(expression, target.type, number)
        elif is_number:
            number = whole(expression, target.type, number)
            right = parenthesised(number)
    if isinstance(number, int) and is_number:
        field = bit_field(expression)
        bits = field[0] if field is not None else 8 * kind.sizeof
        low, high = limits(kind, bits)
        if expression.strip().startswith("$"):
            low, high = -(1 << (bits - 1)), (1 << bits) - 1  # a register has no sign
        if not low <= number <= high:
            raise Refused(
                f"{expression} is a {target.type}{f' of {bits} bits' if field else ''}, which "
                f"cannot hold {number}: it holds {low} to {high}"
            )
        if kind.sizeof > 8:
            if target.address is None:
                raise Refused(f"{expression} lies in no memory")
            data = (number & (1 << bits) - 1).to_bytes(kind.sizeof, "little")
            gdb.selected_inferior().write_memory(int(target.address) & MASK, data)
            return {}
    gdb.execute(f"set var {left} = {right}", to_string=True)
    return {}


def source_of(value):
    """What is assigned, as gdb is to be told, and as a number; None for what is none."""
    if isinstance(value, float):
        return given.add(gdb.Value(value)), value
    if not isinstance(value, str):
        return parenthesised(value), value
    right = checked(value)
    source = gdb.parse_and_eval(right)
    code = plain(source.type).code
    if code == gdb.TYPE_CODE_FLT:
        return right, float(source)
    return right, number_of(source) if code in (*INTEGERS, gdb.TYPE_CODE_PTR) else None


def as_float(expression, its_type, number):
    try:
        return float(number)
    except OverflowError:
        raise Refused(f"{expression} is a {its_type}, which cannot hold {number}") from None


def parenthesised(number):
    return str(number) if number >= 0 else f"({number})"


def whole(expression, its_type, number):
    """A fraction's number as an integer; one that is not whole is refused."""
    if not number.is_integer():
        raise Refused(
            f"{expression} is a {its_type}, which cannot hold {number}: it holds no fractions",
            "round it: int(…) in Python, a cast to `long` in a C expression",
        )
    return int(number)


# IEEE 754: the largest number of 32 bits.
FLOAT_MAX = (2 - 2**-23) * 2.0**127


def check_float(expression, its_type, number):
    """Refuse a number that would become infinite."""
    if plain(its_type).sizeof == 4 and math.isfinite(number) and abs(number) > FLOAT_MAX:
        raise Refused(
            f"{expression} is a {its_type}, which cannot hold {number}: it holds up to {FLOAT_MAX}"
        )


def is_gdbs_own(expression):
    """Whether what is assigned to is a variable of gdb's own, which takes any type."""
    name = expression.strip()
    return re.fullmatch(r"\$[A-Za-z_]\w*", name) is not None and is_convenience(name[1:])


def limits(kind, bits):
    """The least and the greatest number that a type holds."""
    if kind.code == gdb.TYPE_CODE_BOOL:
        return 0, 1
    if kind.code == gdb.TYPE_CODE_PTR:
        return -MAX_ERRNO, (1 << bits) - 1
    return (-(1 << (bits - 1)), (1 << (bits - 1)) - 1) if is_signed(kind) else (0, (1 << bits) - 1)
