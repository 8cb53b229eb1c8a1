"""Which values are bit-fields, inside gdb, which says of none that it is one.

To gdb, a bit-field has the address of the word that it is in, and so has what a cast to its type, a
`?:` or a variable of gdb's history gives of one. What is read there is the whole word.

Written for Python 3.6 and gdb 12, as gdb_agent.py.
"""

import re

import gdb
from gdb_arithmetic import ASSIGNING, Reader, Unread
from gdb_lvalues import checked, number_of, selected_block
from gdb_names import names
from gdb_types import (
    COMPOUND,
    INTEGERS,
    MASK,
    Refused,
    expanded,
    find_member,
    one_line,
    plain,
    tokens_of,
)

# `$`, `$$`, `$1`, `$$2` (gdb manual, "Value History").
HISTORY = re.compile(r"\$\$?\d*$")

# A value of which it is not known that it is what lies at its address.
COMPUTED = "computed"


class BitField:
    """A bit-field, and the structure that it is read from."""

    def __init__(self, parent, name, width):
        self.parent, self.name, self.width = parent, name, width

    @property
    def container(self):
        """Where the structure lies; None if it is in no memory."""
        address = self.parent.address
        return None if address is None else int(address) & MASK

    def reread(self):
        """The same as memory has it now."""
        return BitField(self.parent.address.dereference(), self.name, self.width)

    @property
    def value(self):
        return self.parent[self.name]


def field_of(parent, name):
    """The bit-field that a structure's member is; None for any other member."""
    kind = plain(parent.type)
    if kind.code not in COMPOUND:
        return None
    try:
        width = kind[name].bitsize  # without those before it, of which a task has hundreds
    except KeyError:
        member = find_member(kind, name)
        width = member[1] if member is not None else 0
    return BitField(parent, name, width) if width else None


def pointed(value):
    """What a member is taken of: a structure, or what is pointed at."""
    kind = plain(value.type)
    if kind.code == gdb.TYPE_CODE_ARRAY:
        return value[kind.range()[0]]
    return value.dereference() if kind.code == gdb.TYPE_CODE_PTR else value


def source_of(expression, value):
    """Where the value of an expression is from: a BitField, COMPUTED, or None: its address."""
    if plain(value.type).code not in INTEGERS:
        return None
    text = one_line(expression)
    if not has_member(text):
        text = expanded(text)
        if not has_member(text):
            return None
    computed = COMPUTED if value.address is not None else None
    tokens, block = [], selected_block()
    try:
        tokens = tokens_of(text)
        root = Reader(tokens, lambda name: names.symbol(name, block), block).read()
    except (Unread, Refused):
        return None if is_lvalue(text) else computed
    if any(token.text in ("++", "--", *ASSIGNING) for token in tokens):
        return computed  # it would be done twice
    if root.member is None:
        return computed if root.passes_on else None
    parent, name = root.member
    parent = gdb.parse_and_eval(checked(text[tokens[parent.first].start : tokens[parent.last].end]))
    return field_of(pointed(parent), name)


def has_member(text):
    return "." in text or "->" in text or "$" in text


def is_lvalue(text):
    """Whether gdb's compiler of agent expressions takes something for an lvalue, as C does.

    In it, neither a bit-field nor a cast has an address (gdb/ax-gdb.c, gen_address_of).
    """
    try:
        gdb.execute(f"maint agent-eval &({checked(text)})", to_string=True)
    except (gdb.error, Refused):
        return False
    return True


def as_number(value):
    """A number that lies nowhere."""
    size = value.type.sizeof
    data = (number_of(value) & (1 << 8 * size) - 1).to_bytes(size, "little")
    return gdb.Value(data, value.type)
