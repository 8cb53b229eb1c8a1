"""What is assigned to, and what is watched, inside gdb.

Written for Python 3.6 and gdb 12, as gdb_agent.py.
"""

import math
import re

import gdb
from gdb_bit_fields import COMPUTED, BitField, source_of
from gdb_conditions import is_convenience
from gdb_frames import is_at_entry
from gdb_lvalues import (
    checked,
    given,
    number_of,
)
from gdb_types import (
    INTEGERS,
    MASK,
    Refused,
    is_signed,
    plain,
)
from gdb_watches import check_address


def op_watchable(expression):
    """The address and size of an lvalue that a watchpoint can watch, and whether it has a sign."""
    value = gdb.parse_and_eval(checked(expression))
    source = source_of(expression, value)
    if isinstance(source, BitField):
        raise Refused(
            f"{expression} is a bit-field, and a processor watches whole bytes",
            "watch a member beside it, or the bytes: *(char *)&(…)",
        )
    if value.address is None or source is COMPUTED:
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
    source = source_of(expression, target)
    if source is COMPUTED:
        raise Refused(f"{expression} is computed, and nothing that is assigned to")
    kind = plain(target.type)
    if kind.code == gdb.TYPE_CODE_FLT and isinstance(value, int):
        value = as_float(expression, target.type, value)
    right, number = assigned(value)
    is_number = kind.code in (*INTEGERS, gdb.TYPE_CODE_PTR) and not is_gdbs_own(expression)
    if isinstance(number, float):
        if kind.code == gdb.TYPE_CODE_FLT:
            check_float(expression, target.type, number)
        elif is_number:
            number = whole(expression, target.type, number)
            right = parenthesised(number)
    if isinstance(number, int) and is_number:
        is_field = isinstance(source, BitField)
        bits = source.width if is_field else 8 * kind.sizeof
        low, high = limits(kind, bits)
        if expression.strip().startswith("$"):
            low, high = -(1 << (bits - 1)), (1 << bits) - 1  # a register has no sign
        if not low <= number <= high:
            raise Refused(
                f"{expression} is of type {target.type}{f' of {bits} bits' if is_field else ''}, "
                f"which cannot hold {number}: it holds {low} to {high}"
            )
        if kind.sizeof > 8:
            if target.address is None:
                raise Refused(f"{expression} lies in no memory")
            data = (number & (1 << bits) - 1).to_bytes(kind.sizeof, "little")
            gdb.selected_inferior().write_memory(int(target.address) & MASK, data)
            return {}
    gdb.execute(f"set var {left} = {right}", to_string=True)
    return {}


def assigned(value):
    """What is assigned, as gdb is to be told, and as a number; None for what is none."""
    if isinstance(value, float):
        return given.add(gdb.Value(value)), value
    if not isinstance(value, str):
        return parenthesised(value), value
    right = checked(value)
    meant = gdb.parse_and_eval(right)
    code = plain(meant.type).code
    if code == gdb.TYPE_CODE_FLT:
        return right, float(meant)
    return right, number_of(meant) if code in (*INTEGERS, gdb.TYPE_CODE_PTR) else None


def as_float(expression, its_type, number):
    try:
        return float(number)
    except OverflowError:
        raise Refused(f"{expression} is of type {its_type}, which cannot hold {number}") from None


def parenthesised(number):
    return str(number) if number >= 0 else f"({number})"


def whole(expression, its_type, number):
    """A fraction's number as an integer; one that is not whole is refused."""
    if not number.is_integer():
        raise Refused(
            f"{expression} is of type {its_type}, which has no fractions: it cannot hold {number}",
            "round it: int(…) in Python, a cast to `long` in a C expression",
        )
    return int(number)


# IEEE 754: the largest number of 32 bits.
FLOAT_MAX = (2 - 2**-23) * 2.0**127


def check_float(expression, its_type, number):
    """Refuse a number that would become infinite."""
    if plain(its_type).sizeof == 4 and math.isfinite(number) and abs(number) > FLOAT_MAX:
        raise Refused(
            f"{expression} is of type {its_type}, which cannot hold {number}: "
            f"it ends at {FLOAT_MAX}"
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
