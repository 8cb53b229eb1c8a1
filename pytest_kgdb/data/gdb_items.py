"""The parts of an expression that is compiled inside gdb: what each is, and how it is reached.

Written for Python 3.6 and gdb 12, as gdb_agent.py.
"""

import gdb
from gdb_types import (
    INTEGERS,
    MASK,
    Refused,
    conversion,
    integer_type,
    is_signed,
    plain,
    promotion,
    sized,
)


class Item:
    """What a part of an expression is: its type, where it is, and the code that gets there."""

    def __init__(self, kind, where, code, bits=None, what=None, offset=None, width=None):
        self.type = kind
        # `value`: the code leaves it; `memory`: its address; `parts`: it lies in several places
        self.where = where
        self.code = code
        self.bits = bits  # of a bit-field: its first bit from the address, and its width
        self.what = what  # what it is called, for messages
        self.offset = offset  # of a per-CPU variable: returns code for what is added to the address

        self.width = width  # of a value with fewer bits than its type: a bit-field's

    @property
    def address(self):
        """The code that leaves the address of what lies in memory: on this CPU."""
        return self.code if self.offset is None else [*self.code, *self.offset(), ["add", 0]]


def const(number):
    return ["const64", number & MASK]


def extend(kind, width=None):
    """What makes a register's 64 bits a value of a type, or of that many bits of it."""
    kind = plain(kind)
    if kind.code == gdb.TYPE_CODE_BOOL:
        return [["zero_ext", 8]]
    bits = width or 8 * kind.sizeof
    if bits >= 64:
        return []
    return [["ext" if is_signed(kind) else "zero_ext", bits]]


def as_bool(code):
    return [*code, ["log_not", 0], ["log_not", 0]]


def is_wide(item):
    """Whether it is a number of 128 bits, which agent code does not hold as one value."""
    if item.where not in ("memory", "parts") or item.bits is not None:
        return False
    return plain(item.type).code in INTEGERS and plain(item.type).sizeof > 8


def truth(item):
    """What is zero where a number is, and only there."""
    if not is_wide(item):
        return item.code
    if item.where == "parts":
        low, *others = [code for code, _ in item.code]
        return [*low, *(part for word in others for part in [*word, ["bit_or", 0]])]
    # Code has labels of its own: it cannot be there twice.
    second = [["swap", 0], const(8), ["add", 0], ["ref64", 0]]
    return [*item.address, ["dup", 0], ["ref64", 0], *second, ["bit_or", 0]]


def low_word(item):
    """The lowest 64 bits of a number."""
    if not is_wide(item):
        return item
    code = item.code[0][0] if item.where == "parts" else [*item.address, ["ref64", 0]]
    return Item(integer_type(["unsigned", "long"]), "value", code, what=item.what)


def rvalue(item):
    """The value of what lies in memory."""
    if item.where == "value":
        return item
    if item.where == "text":
        raise Refused(
            "it has a text, which lies in no memory of the kernel's",
            "collect the text and compare it in Python",
        )
    if item.where == "nodebug":
        raise Refused(f"the debug info has no type for {item.what}", f"cast it: (long){item.what}")
    kind = plain(item.type)
    if kind.code == gdb.TYPE_CODE_ARRAY:
        if item.where == "parts":
            raise Refused(f"{described(item)} lies in registers")
        return Item(kind.target().pointer(), "value", item.address, what=item.what)
    if kind.code == gdb.TYPE_CODE_FUNC:
        return Item(item.type.pointer(), "value", item.address, what=item.what)
    if item.where == "parts" or kind.code not in (*INTEGERS, gdb.TYPE_CODE_PTR):
        return item  # a structure: only a member of it is a value
    if item.bits is not None:
        code, width = bit_field(item, kind), item.bits[1]
        if kind.sizeof > 8:
            kind = sized(width, is_signed(kind))[0]
        return Item(kind, "value", code, what=item.what, width=width)
    if kind.sizeof > 8:
        return item
    code = [*item.address, [f"ref{8 * kind.sizeof}", 0], *extend(kind)]
    return Item(item.type, "value", code, what=item.what)


def described(item):
    kind = item.type
    return "{} is a {}".format(item.what or "part of it", kind)


def number_item(text):
    digits = text.rstrip("uUlL")
    suffix = text[len(digits) :].lower()
    octal = len(digits) > 1 and digits[0] == "0" and digits[1] not in "xXbB"
    if octal and set(digits) & {"8", "9"}:
        raise Refused(f"{text} begins with 0, so it is octal, and has an 8 or 9")
    number = int(digits, 8) if octal else int(digits, 0)
    decimal = digits[0] != "0"
    words = ["unsigned"] if "u" in suffix else []
    long = "l" in suffix
    if number >> 64:
        raise Refused(f"{text} has more than 64 bits")
    if number >> 63 or (
        not words and not decimal and not long and number >> 31 and not number >> 32
    ):
        words = ["unsigned"]
    if number >> (32 if words else 31):
        long = True
    return Item(integer_type([*words, "long" if long else "int"]), "value", [const(number)])


def bit_field(item, kind):
    """What reads a bit-field: the least that holds it, as a whole."""
    position, width = item.bits
    for size in (1, 2, 4, 8):
        begin = position // (8 * size) * size
        if position + width <= 8 * (begin + size):
            break
    else:
        raise Refused(f"{item.what or 'it'} is a bit-field across eight bytes")
    place = [const(begin), ["add", 0]] if begin else []
    code = [*item.address, *place, [f"ref{8 * size}", 0]]
    shift = position - 8 * begin
    if shift:
        code += [const(shift), ["rsh_unsigned", 0]]
    return [*code, ["ext" if is_signed(kind) else "zero_ext", width]]


def promoted(item):
    """C's integer promotion of a number: its type, and its width if it has fewer bits than that."""
    return promotion(item.type, item.width)


def common_type(one, other):
    """C's usual arithmetic conversions of two numbers: a type, and a width as above."""
    return conversion(promoted(one), promoted(other))
