"""Where a function's arguments are at its entry, inside gdb.

gdb is asked: its `maintenance agent-eval` compiles an expression for a target that evaluates it by
itself (gdb manual, "The GDB Agent Expression Mechanism"), and `info address` says what it does not
compile.

Written for Python 3.6 and gdb 12, as gdb_agent.py.
"""

import re

import gdb
from gdb_clones import (
    kinds_of,
    symbol_at,
)
from gdb_symbols import (
    entry_of,
    function_block,
)
from gdb_types import (
    COMPOUND,
    FRACTIONS,
    MASK,
    plain,
)

# Code is a list of [operation, operand]; a jump's operand is a label, ["label", number] its place.
labels = 0


def new_label():
    global labels
    labels += 1
    return labels


def parse_listing(listing):
    """gdb's listing of agent code (gdb/ax-general.c, ax_print) as code."""
    lines = [line.split() for line in listing.splitlines()]
    lines = [words for words in lines if len(words) > 1 and words[0].isdigit()]
    targets = {words[2]: new_label() for words in lines if words[1] in ("goto", "if_goto")}
    code = []
    for offset, name, *operand in lines:
        if offset in targets:
            code.append(["label", targets[offset]])
        if name in ("goto", "if_goto"):
            code.append([name, targets[operand[0]]])
        elif name != "end":
            code.append([name, int(operand[0]) if operand else 0])
    return code


def listing_of(code):
    """Code as gdb would list it."""
    places, number = {}, 0
    for name, operand in code:
        if name == "label":
            places[operand] = number
        else:
            number += 1
    lines, number = [], 0
    for name, operand in [*code, ["end", 0]]:
        if name == "label":
            continue
        if name in ("goto", "if_goto"):
            operand = places[operand]
        lines.append(f"{number} {name} {operand}")
        number += 1
    return "\n".join(lines)


class Scope:
    """Where an expression's names are looked up: at a function's entry.

    :param entry: the address; gdb's target must be there.
    :param block: the function's outermost block; None without debug info.
    """

    def __init__(self, entry, block, statics):
        self.entry = entry
        self.block = block
        self.statics = statics
        self.own = {}
        self.arguments = {}  # some copies of a function have one twice
        self.registers = None
        self.copy = (symbol_at(entry) or "") if block is not None else ""
        self.kinds = kinds_of(self.copy)
        for symbol in block or ():
            if symbol.addr_class == gdb.SYMBOL_LOC_LABEL:
                continue  # it may have the name of an argument
            if symbol.is_argument:
                self.arguments.setdefault(symbol.name, []).append(symbol)
            self.own.setdefault(symbol.name, symbol)

    def own_name(self, name):
        """A name of the function's own as gdb finds it, though something be inlined there.

        None if gdb takes another copy of the function for it.
        """
        function, depth = self.block.function.name, depth_of(self.block)
        block, plain_name = gdb.block_for_pc(self.entry), True
        while depth_of(block) > depth:
            if any(symbol.name == function for symbol in block):
                return None
            inlined = block.function is not None
            if inlined and block.function.name == function:
                return None  # gcc has inlined a part of it into itself
            if inlined or any(symbol.name == name for symbol in block):
                plain_name = False
            block = block.superblock
        if plain_name:
            return name
        match = gdb.lookup_symbol(function, self.block)[0]
        if match is None or int(match.value().address) & MASK != self.entry:
            return None
        return f"{function}::{name}"

    def registers_of(self, name):
        """The registers in which the psABI has an argument at the entry: none if on the stack.

        None for a copy that gcc has specialised: `.constprop`, `.isra`, `.part`.
        """
        if self.registers is None:
            self.registers = {} if "." in self.copy else argument_registers(self.block)
        return self.registers.get(name)


# gdb's numbers of the registers that arguments are in (System V psABI, 3.2.3, "Passing").
ARGUMENT_REGISTERS = (5, 4, 3, 2, 8, 9)
STACK_POINTER = 7
# The canonical frame address at the entry: what the caller has on the stack begins there.
CANONICAL = [["reg", STACK_POINTER], ["const8", 8], ["add", 0]]


def in_words(registers, size):
    """Where something lies that is in some registers: code and size of each word."""
    return [
        ([["reg", register]], min(8, size - 8 * index)) for index, register in enumerate(registers)
    ]


def reads_memory(code):
    return any(name.startswith("ref") for name, _ in code)


def is_on_stack(code):
    """Whether gdb has an argument in memory where its caller put it.

    gcc may give one place for all of a function, of its own frame: nothing is there yet.
    """
    if code[:3] != CANONICAL:
        return all(name != "reg" for name, _ in code)
    rest = [name for name, _ in code[3:5]]
    # gdb extends the sign of what is below (gdb/ax-general.c, ax_const_l).
    return not rest or rest[0].startswith("ref") or rest[1] == "add"


def argument_registers(block):
    """The registers of each of a function's arguments; none of one that is on the stack.

    Of 16 bytes each 8 take the next register. Nothing is said of a function with fractions, which
    some of the kernel's have, between kernel_fpu_begin() and kernel_fpu_end().
    """
    free, registers = list(ARGUMENT_REGISTERS), {}
    result = block.function.type.target()
    kinds = [symbol.type for symbol in block if symbol.is_argument]
    if any(map(has_fractions, kinds if result is None else [*kinds, result])):
        return {}
    if result is not None and in_memory(result):
        free.pop(0)  # where the caller wants it
    for symbol in block:
        if not symbol.is_argument:
            continue
        words = -(-plain(symbol.type).sizeof // 8)
        if in_memory(symbol.type) or words > len(free):
            words = 0
        registers[symbol.name] = tuple(free[:words])
        del free[:words]
    return registers


def in_memory(kind):
    """Whether values of a type are passed and returned in memory (System V psABI, 3.2.3).

    Those of more than 16 bytes, and those with unaligned fields.
    """
    return plain(kind).sizeof > 16 or is_unaligned(kind, 0)


def has_fractions(kind):
    """Whether a value of a type has what is passed in vector registers (psABI, 3.2.3, "SSE")."""
    kind = plain(kind)
    if kind.code in COMPOUND:
        return any(has_fractions(field.type) for field in kind.fields() if hasattr(field, "bitpos"))
    if kind.code == gdb.TYPE_CODE_ARRAY:
        return "vector_size" in str(kind) or has_fractions(kind.target())
    return kind.code in FRACTIONS


def is_unaligned(kind, bit):
    """Whether a scalar in what begins at a bit is not at a multiple of its size.

    Bit-fields do not count, and of an array gcc looks at the first element
    (gcc/config/i386/i386.cc, classify_argument).
    """
    kind = plain(kind)
    if kind.code in COMPOUND:
        return any(
            is_unaligned(field.type, bit + field.bitpos)
            for field in kind.fields()
            if hasattr(field, "bitpos") and not field.bitsize
        )
    if kind.sizeof and kind.code == gdb.TYPE_CODE_ARRAY:
        return is_unaligned(kind.target(), bit)
    return bool(kind.sizeof) and bit % (8 * kind.sizeof) != 0


def entry_registers(symbol, address):
    """The registers that an argument of a function is in at its entry; () of all else.

    :param symbol: one of the function at the address, or of what is inlined there.
    """
    block = function_block(address)
    if not symbol.is_argument or block is None or entry_of(block) != address:
        return ()
    if not any(is_same_symbol(symbol, other) for other in block):
        return ()
    return Scope(address, block, None).registers_of(symbol.name) or ()


def is_same_symbol(one, other):
    """Whether two symbols are the same: gdb has no identity of them."""
    return (one.name, one.line, one.symtab.filename) == (
        other.name,
        other.line,
        other.symtab.filename,
    )


def is_elsewhere(symbol, address):
    """Whether gdb would read an argument at a function's entry where it is only later on."""
    registers = entry_registers(symbol, address)
    if not registers:
        return False
    try:
        listing = gdb.execute(f"info scope *{address:#x}", to_string=True)
    except gdb.error:
        return True  # gdb 13 takes the debug info of a structure in one register for corrupt
    texts = {match.group(1): match.group(2) for match in IN_SCOPE.finditer(listing)}
    parts = parts_in(texts.get(symbol.name, ""), plain(symbol.type), address)
    return parts is None or [code[0][1] for code, _ in parts] != list(registers)


def is_same_block(one, other):
    """Whether two blocks around one address are the same: gdb has no identity of them."""
    return other is not None and depth_of(one) == depth_of(other)


def depth_of(block):
    depth = 0
    while block is not None:
        block = block.superblock
        depth += 1
    return depth


RANGE = re.compile(r"Range (0x[0-9a-f]+)-(0x[0-9a-f]+): (.*)")
IN_SCOPE = re.compile(r"^Symbol (\w+) is (.*?), length \d+\.$", re.MULTILINE | re.DOTALL)
PIECE = re.compile(r"a variable in \$(\w+) \[(\d+)-byte piece\](?:, and )?")
WHOLE = re.compile(r"a variable in \$(\w+)\.?$")
MASK_LINE = re.compile(r"^Reg mask: ([0-9a-f ]+)$", re.MULTILINE)
# As gdb numbers them for agents, and in the remote protocol (gdb/features/i386/64bit-core.xml).
NAMES = ("rax", "rbx", "rcx", "rdx", "rsi", "rdi", "rbp", "rsp")
NUMBERS = (*NAMES, *(f"r{number}" for number in range(8, 16)))


def outer_frame():
    """The frame of the function at whose entry the target is, not of what is inlined there."""
    frame = gdb.newest_frame()
    while frame.type() == gdb.INLINE_FRAME:
        frame = frame.older()
    return frame


def register_parts(name, kind, entry, own):
    """Where something lies that is in registers at a function's entry; None for all else.

    :param own: the name as :meth:`Scope.own_name` gives it.
    """
    try:
        # It looks in the selected frame.
        outer_frame().select()
        text = gdb.execute("info address " + name, to_string=True)
    except gdb.error:
        return None if own is None else register_mask(own, kind)
    finally:
        gdb.newest_frame().select()
    return parts_in(text.partition(" is ")[2], kind, entry)


def parts_in(text, kind, entry):
    """The registers of which gdb's text says that a variable is in them at a function's entry."""
    if "multi-location" in text:
        ranges = [RANGE.search(line) for line in text.splitlines()]
        at_entry = [
            match.group(3)
            for match in ranges
            if match and holds(entry, int(match.group(1), 16), int(match.group(2), 16))
        ]
        text = at_entry[0] if at_entry else ""
    parts = PIECE.findall(text)
    whole = WHOLE.search(text.strip())
    if whole and not parts:
        parts = [(whole.group(1), str(kind.sizeof))]
    elif PIECE.sub("", text).strip(" .\n"):
        return None
    if not parts or not all(register in NUMBERS for register, _ in parts):
        return None
    return [([["reg", NUMBERS.index(register)]], int(size)) for register, size in parts]


def holds(entry, low, high):
    """Whether a range has a function's entry: one that is empty there is of the entry alone."""
    return low <= entry < high or low == entry == high


def register_mask(name, kind):
    """The one register that a tracepoint would record of a variable, if it is in one.

    `info address` calls such a location corrupt where a structure has it (gdb 13).
    """
    if kind.sizeof > 8:
        return None
    try:
        listing = gdb.execute("maint agent " + name, to_string=True)
    except gdb.error:
        return None
    match = MASK_LINE.search(listing)
    mask = int.from_bytes(bytes.fromhex(match.group(1)), "little") if match else 0
    if "trace" in listing or mask == 0 or mask & (mask - 1) or mask.bit_length() > 16:
        return None
    return [([["reg", mask.bit_length() - 1]], kind.sizeof)]
