"""The operands of an expression with their types, as C has them: for gdb_arithmetic.py.

Written for Python 3.6 and gdb 12, as gdb_agent.py.
"""

import gdb
from gdb_types import (
    COMPOUND,
    INT_BITS,
    Refused,
    conversion,
    find_member,
    integer_type,
    is_integer,
    is_pointer,
    is_signed,
    plain,
    promotion,
)

INT_MIN, INT_MAX = -(1 << 31), (1 << 31) - 1


class Typed:
    """What C knows of an operand.

    :param bits: the width of a bit-field, or of what is computed with one of more bits than an
        int has.
    :param constant: whether it is an enumerator that an int can hold.
    """

    def __init__(self, kind, bits=0, constant=False):
        self.type, self.bits, self.constant = kind, bits, constant

    @property
    def needs_cast(self):
        """Whether gdb would compute with another type than C does."""
        kind = plain(self.type)
        if self.bits and kind.sizeof >= 4:
            signed_int = kind.sizeof == 4 and is_signed(kind)
            whole_int = kind.sizeof == 4 and self.bits == INT_BITS
            return self.bits <= INT_BITS and not (signed_int or whole_int)
        return kind.code in (gdb.TYPE_CODE_BOOL, gdb.TYPE_CODE_ENUM)

    @property
    def promoted(self):
        """The type with which C computes, and its width, as gdb_types.promotion has them.

        None for what is no number.
        """
        kind = plain(self.type)
        if not is_integer(kind):
            return None
        if self.constant:
            return integer_type(["int"]), None
        if kind.sizeof > 8 and not 0 < self.bits <= 64:
            return kind, None  # gdb refuses to compute with it, or has enough bits (gdb 16)
        return promotion(kind, self.bits or None)


class Node:
    """A part of an expression: its tokens, and its type, which is asked for only if it matters.

    :param exact: whether gdb has its type as C has it.
    :param computed: whether it is what an operator gives, or a character.
    :param literal: whether it is a number that is written down.
    :param member: what a member is taken of, as a node, and its name.
    :param passes_on: whether gdb may give an operand for it, which C takes the value of.
    """

    def __init__(
        self,
        first,
        last,
        typed,
        exact=False,
        computed=False,
        literal=False,
        member=None,
        passes_on=False,
    ):
        self.first, self.last, self._typed, self._asked = first, last, typed, False
        self.exact, self.computed, self.literal = exact, computed, literal
        self.member, self.passes_on = member, passes_on

    @property
    def typed(self):
        """None where it is not known here."""
        if not self._asked:
            self._asked = True
            try:
                self._typed = self._typed() if callable(self._typed) else self._typed
            except (gdb.error, Refused, AttributeError, ValueError):
                self._typed = None
        return self._typed

    @property
    def promoted(self):
        """What :attr:`Typed.promoted` is; None where that is not known, or no number."""
        return self.typed.promoted if self.typed is not None else None

    @property
    def kind(self):
        """The type with which C computes; None where that is not known, or no number."""
        promoted = self.promoted
        return promoted[0] if promoted is not None else None

    @property
    def width(self):
        """Of the type with which C computes, how many bits count; None if all do."""
        promoted = self.promoted
        return promoted[1] if promoted is not None else None


def int_type():
    return Typed(integer_type(["int"]))


def result(operator, one, other):
    """What tells the type that an operator gives of two operands."""

    def typed():
        if one.promoted is not None and other.promoted is not None:
            shifts = operator in ("<<", ">>")
            return of_width(*(one.promoted if shifts else common(one, other)))
        pointers = [pointer_of(node.typed.type) for node in (one, other) if node.kind is None]
        return Typed(integer_type(["long"]) if len(pointers) == 2 else pointers[0])

    return typed


def shrinks(kind):
    """Whether gdb has another size for a value of a type than C has.

    Once it is read from memory, what has a flexible array ends with its last member to gdb, without
    the padding (gdb/gdbtypes.c, resolve_dynamic_struct). The type by its name has the right size.
    """
    kind = plain(kind)
    return kind.code in COMPOUND and has_flexible(kind) and bytes_read(kind) != kind.sizeof


def shrinking_target(node):
    """What a pointer, or an array, has elements of if gdb has another size for them than C."""
    if node.typed is None or node.kind is not None:
        return None
    try:
        target = pointer_of(node.typed.type).target()
    except Refused:
        return None
    return target if shrinks(target) else None


def has_flexible(kind):
    """Whether a type has an array without a length in it, to its last member."""
    if kind.code == gdb.TYPE_CODE_ARRAY:
        return not kind.sizeof or has_flexible(plain(kind.target()))
    if kind.code not in COMPOUND:
        return False
    return any(has_flexible(plain(field.type)) for field in members_of(kind))


def bytes_read(kind):
    """The size of a value of a type to gdb, once it is read."""
    if kind.code not in COMPOUND or not has_flexible(kind):
        return kind.sizeof
    ends = [
        field.bitpos + (field.bitsize or 8 * bytes_read(plain(field.type)))
        for field in members_of(kind)
    ]
    return (max(ends, default=0) + 7) // 8


def members_of(kind):
    return [field for field in kind.fields() if hasattr(field, "bitpos")]


def of_width(kind, width):
    """What is of a type of which only some bits count, if there is a width."""
    return Typed(kind, bits=width or 0)


def common(one, other):
    """The type with which C computes with two numbers, and its width."""
    return conversion(one.promoted, other.promoted)


def cut(kind, width):
    """What is before and behind an expression that has only so many bits of a type, for gdb."""
    if width is None:
        return f"({kind})(", ")"
    if not is_signed(kind):
        return f"(({kind})(", f") & {(1 << width) - 1:#x})"
    rest = 8 * kind.sizeof - width
    return f"(({kind})((unsigned {kind})(", f") << {rest}) >> {rest})"


def pointer_of(kind):
    """A pointer, or what an array is in an expression; raises Refused for anything else."""
    kind = plain(kind)
    if kind.code == gdb.TYPE_CODE_ARRAY:
        return kind.target().pointer()
    if not is_pointer(kind):
        raise Refused("no pointer")
    return kind


def task_pointer():
    return Typed(gdb.lookup_type("struct task_struct").pointer())


def target_of(kind):
    """What a pointer points at, or an array has; raises Refused for anything else."""
    kind = plain(kind)
    if kind.code in (gdb.TYPE_CODE_PTR, gdb.TYPE_CODE_ARRAY):
        return kind.target()
    raise Refused("no pointer")


def element_of(one, other):
    """What `one[other]` is, in which either may be the number."""

    def typed():
        pointer = other if is_integer(one.typed.type) else one
        return Typed(target_of(pointer.typed.type))

    return typed


def member_of(node, name):
    def typed():
        kind = plain(node.typed.type)
        if kind.code in (gdb.TYPE_CODE_PTR, gdb.TYPE_CODE_ARRAY):
            kind = plain(kind.target())
        if kind.code not in COMPOUND:
            return None
        try:
            field = kind[name]  # without those before it, of which a task has hundreds
            return Typed(field.type, bits=field.bitsize)
        except KeyError:
            match = find_member(kind, name)
            return match and Typed(match[2], bits=match[1])

    return typed


def type_of_number(text):
    """The type of a number that is written down (C11 6.4.4.1)."""
    digits = text.rstrip("uUlL")
    suffix = text[len(digits) :].lower()
    base = 10
    if digits[:2].lower() in ("0x", "0b"):
        base = 0
    elif digits.startswith("0"):
        base = 8
    value = int(digits, base)
    for words, bits in ((["int"], 32), (["long"], 64)):
        if "l" in suffix and bits == INT_BITS:
            continue
        if "u" not in suffix and value < 1 << (bits - 1):
            return integer_type(words)
        if ("u" in suffix or base != 10) and value < 1 << bits:
            return integer_type(["unsigned", *words])
    return integer_type(["unsigned", "long"])
