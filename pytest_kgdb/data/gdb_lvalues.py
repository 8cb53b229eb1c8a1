"""Expressions in the selected frame, inside gdb.

Written for Python 3.6 and gdb 12, as gdb_agent.py.
"""

import gdb
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
    is_signed,
    one_line,
    plain,
    tokens_of,
)


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
