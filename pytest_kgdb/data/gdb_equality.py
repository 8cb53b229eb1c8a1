"""Whether two values are the same, inside gdb: all of them, of which gdb prints a part.

Written for Python 3.6 and gdb 12, as gdb_agent.py.
"""

import gdb
from gdb_lvalues import number_of
from gdb_types import (
    COMPOUND,
    INTEGERS,
    MASK,
    Refused,
    plain,
)

# What is one number; TYPE_CODE_FLAGS is that of $eflags.
NUMBERS = (*INTEGERS, gdb.TYPE_CODE_PTR, gdb.TYPE_CODE_FLAGS)
SCALARS = (*NUMBERS, gdb.TYPE_CODE_FLT)


def difference(one, other):
    """The way to where two values differ first, as names and indices; None if they are the same.

    The bytes between a structure's members are no part of it.

    :raises Refused: they are the same as far as they can be compared.
    """
    path = compared(one, other)
    is_one = one.address is not None and one.address == other.address
    if path is None and not is_one:
        refuse_flexible(plain(one.type))
    return path


def compared(one, other):
    kind, its = plain(one.type), plain(other.type)
    if kind.code in SCALARS and its.code in SCALARS:
        return None if same_scalar(one, other, kind, its) else []
    if kind.code != its.code:
        return []
    if kind.code == gdb.TYPE_CODE_ARRAY:
        return compared_arrays(one, other, kind, its)
    if kind.code in COMPOUND:
        return compared_members(one, other, kind, its)
    if kind.code == gdb.TYPE_CODE_FUNC:
        return None if one.address == other.address else []
    raise Refused(f"a {one.type} is not compared", "compare what it points at, or a member of it")


def same_scalar(one, other, kind, its):
    if kind.code in NUMBERS and its.code in NUMBERS:
        return number_of(one) == number_of(other)
    return bool(one == other)


def compared_arrays(one, other, kind, its):
    low, high = kind.range()
    if (low, high, kind.sizeof == 0) != (*its.range(), its.sizeof == 0):
        return []
    if kind.sizeof == 0:
        return None  # to gdb, a flexible array has one element
    target = plain(kind.target())
    size = target.sizeof
    if size and size == plain(its.target()).sizeof:
        mine, theirs = bytes_of(one, kind), bytes_of(other, kind)
        if mine is not None and mine == theirs:
            return None
        if mine and theirs and target.code in NUMBERS and str(target) == str(plain(its.target())):
            return [next(at for at in range(len(mine)) if mine[at] != theirs[at]) // size]
    for index in range(low, high + 1):
        path = compared(one[index], other[index])
        if path is not None:
            return [index, *path]
    return None


def bytes_of(value, kind):
    """A value's bytes in memory; None of one that is in no memory."""
    address = value.address
    if address is None:
        return None
    return gdb.selected_inferior().read_memory(int(address) & MASK, kind.sizeof).tobytes()


def compared_members(one, other, kind, its):
    fields, others = data_fields(kind), data_fields(its)
    if kind.name != its.name or list(map(place_of, fields)) != list(map(place_of, others)):
        return []  # of two types
    for at, field in enumerate(fields):
        if is_flexible(field, kind):
            continue
        path = compared(one[field], other[others[at]])
        if path is not None:
            return [field.name, *path] if field.name else path
    return None


def data_fields(kind):
    return [field for field in kind.fields() if hasattr(field, "bitpos")]


def place_of(field):
    its = plain(field.type)
    return field.name, field.bitpos, field.bitsize, its.code, its.name, its.sizeof


def is_flexible(field, kind):
    """Whether a member is an array of no length behind the others: it has as many as it has."""
    return has_no_length(plain(field.type)) and data_fields(kind)[-1].name == field.name


def has_no_length(kind):
    return kind.code == gdb.TYPE_CODE_ARRAY and not kind.sizeof and kind.target().sizeof > 0


def refuse_flexible(kind):
    """Refuse what only the kernel knows the length of."""
    name = flexible_in(kind, ())
    if name is not None:
        raise Refused(
            f"all that its type tells of it is the same, and {name or 'it'} is a flexible array, "
            "whose length the kernel has in another member, if at all",
            "compare the members, and as many elements as there are",
        )


def flexible_in(kind, path):
    """The name of a flexible array in a type; None where there is none."""
    if has_no_length(kind):
        return ".".join(path)
    if kind.code == gdb.TYPE_CODE_ARRAY:
        return flexible_in(plain(kind.target()), path)
    if kind.code not in COMPOUND:
        return None
    for field in data_fields(kind):
        its = plain(field.type)
        if has_no_length(its) and not is_flexible(field, kind):
            continue  # it marks a place between members
        if its.code in (*COMPOUND, gdb.TYPE_CODE_ARRAY):
            name = flexible_in(its, (*path, field.name) if field.name else path)
            if name is not None:
                return name
    return None
