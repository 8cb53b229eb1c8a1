"""A frame's variables, and a backtrace as gdb prints it.

gcc says of an argument that is in no register any more what it was at the function's entry, and of
the call what it gave (DWARF 5, 2.5.1.7 and 3.4.2). In the frame of a function that is inlined, gdb
computes that by the registers of the next frame, which is the same function's, and not of the
caller (gdb/dwarf2/expr.c, push_dwarf_reg_entry_value, up to gdb 16): it shows whatever is in the
register by now. In the frame of the function itself gdb is right, and finds the same variables.

Written for Python 3.6 and gdb 12, as gdb_agent.py.
"""

import re

import gdb
from gdb.FrameDecorator import FrameDecorator
from gdb_places import (
    NUMBERS,
    entry_registers,
)
from gdb_symbols import (
    entry_of,
    function_block,
)
from gdb_types import (
    COMPOUND,
    MASK,
    plain,
)


def physical(frame):
    """The frame of the function that a frame's is inlined in; a frame that is not, itself."""
    while frame.type() == gdb.INLINE_FRAME:
        frame = frame.older()
    return frame


def value_of(symbol, frame):
    """A variable's value in a frame."""
    if symbol.is_argument:
        registers = entry_registers(symbol, frame.pc())
        if registers:
            return value_held(registers, symbol, physical(frame))
    return symbol.value(physical(frame)) if symbol.needs_frame else symbol.value()


def is_at_entry(frame):
    """Whether a frame's function is at its first instruction."""
    block = function_block(frame.pc())
    return block is not None and entry_of(block) == frame.pc()


def value_held(registers, symbol, frame):
    """An argument at a function's entry, by the psABI: gcc may have it elsewhere later on."""
    words = [int(frame.read_register(NUMBERS[register])) & MASK for register in registers]
    raw = b"".join(word.to_bytes(8, "little") for word in words)
    return gdb.Value(raw[: symbol.type.sizeof], symbol.type)


def is_misread(symbol, frame):
    """Whether gdb reads another value than the variable's in a frame."""
    is_absent = symbol.is_argument and symbol.addr_class == gdb.SYMBOL_LOC_OPTIMIZED_OUT
    if not symbol.needs_frame and not is_absent:
        return False
    if frame.type() != gdb.INLINE_FRAME and not entry_registers(symbol, frame.pc()):
        return False
    try:
        its, right = symbol.value(frame), value_of(symbol, frame)
        if its.address is not None or right.address is not None:
            return its.address != right.address
        return as_text(its) != as_text(right)
    except gdb.error:
        return True


def as_text(value):
    return "" if value.is_optimized_out else value.format_string(raw=True, format="z")


def typed(call, symbol):
    """A call of a function of gdb's that gives a variable, with the variable's type.

    In `sizeof` and behind `&&`, `||` and `?` gdb may ask for the type alone, and takes that of any
    such call for `int` (gdb/eval.c, evaluate_funcall, of an internal function). What gdb casts
    nothing to, a structure, a number of 128 bits or what is of a type without a name, goes through
    a variable of gdb's, which keeps its type.
    """
    if plain(symbol.type).code not in COMPOUND:
        try:
            if gdb.parse_and_eval(f"({symbol.type})0").type.sizeof == symbol.type.sizeof:
                return f"(({symbol.type}){call})"
        except gdb.error:
            pass
    name = "_typed_" + re.sub(r"\W+", "_", f"{symbol.type}_{symbol.name}")
    gdb.set_convenience_variable(name, gdb.Value(bytes(symbol.type.sizeof), symbol.type))
    return f"(${name} = {call})"


def function_of(block):
    """The function that a block is in, inlined or not, as a block; None for none."""
    while block is not None and block.function is None:
        block = block.superblock
    return block


def own_blocks(block):
    """A block and those around it in the same function, inlined or not."""
    while block is not None:
        yield block
        if block.function is not None:
            return
        block = block.superblock


def own_symbol(pc, function, name):
    """What a name means at an address in a function, inlined or not; None if it has none."""
    block = gdb.block_for_pc(pc)
    while block is not None:
        around = function_of(block)
        if around is None:
            return None
        if around.function.name == function:
            symbol = symbol_of(block, name)
            if symbol is not None or block.function is not None:
                return symbol
        block = block.superblock
    return None


def symbol_of(block, name):
    """A block's own variable of a name; None for none."""
    for symbol in block:
        if symbol.name == name and symbol.addr_class != gdb.SYMBOL_LOC_LABEL:
            return symbol
    return None


def is_inlined(block):
    """Whether the function that a block is in is inlined into another."""
    around = function_of(block)
    return around is not None and function_of(around.superblock) is not None


def hides_inlined(frame):
    """Whether gdb hides functions that are inlined at the innermost frame's pc, of a stop there.

    It does where their code begins, which is right if the stop comes before that instruction: at
    a breakpoint, or of a step (gdb/inline-frame.c, skip_inline_frames).
    """
    pc, shown, inlined = frame.pc(), 0, 0
    while frame is not None and frame.type() == gdb.INLINE_FRAME:
        shown, frame = shown + 1, frame.older()
    block = gdb.block_for_pc(pc)
    while block is not None:
        if block.function is not None:
            inlined += is_inlined(block)
        block = block.superblock
    return inlined > shown


class Variable:
    """A symbol and its value, as gdb's printing of frames takes them."""

    def __init__(self, symbol, value):
        self._symbol, self._value = symbol, value

    def symbol(self):
        return self._symbol

    def value(self):
        return self._value


class Decorator(FrameDecorator):
    """What gdb would print wrong of a frame: an entry's name, an inlined function's variables."""

    def function(self):
        frame = self.inferior_frame()
        if frame.type() == gdb.SIGTRAMP_FRAME:
            return frame.name()
        return super().function()

    def frame_args(self):
        return self.variables(super().frame_args(), "is_argument")

    def frame_locals(self):
        return self.variables(super().frame_locals(), "is_variable")

    def variables(self, theirs, kind):
        """An inlined function's own, where gdb has some."""
        frame = self.inferior_frame()
        if not theirs or frame.type() != gdb.INLINE_FRAME:
            return theirs
        return [
            Variable(symbol, value_of(symbol, frame))
            for block in own_blocks(frame.block())
            for symbol in block
            if getattr(symbol, kind)
        ]


class Filter:
    """The frames of a backtrace, each with what it is decorated by.

    Where a backtrace has no values of arguments, gdb would print no locals' either, of frames that
    are filtered (gdb/python/py-framefilter.c, enumerate_locals).
    """

    def __init__(self):
        self.name, self.priority = "pytest-kgdb", 100
        gdb.frame_filters[self.name] = self

    @property
    def enabled(self):
        return gdb.parameter("print frame-arguments") not in ("none", "presence")

    @enabled.setter
    def enabled(self, value):
        pass  # gdb's `disable frame-filter`

    def filter(self, frames):
        return map(Decorator, frames)


Filter()
