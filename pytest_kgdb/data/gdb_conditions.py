"""The conditions of breakpoints, as gdb must have them.

gdb takes a name for that of a function that gcc inlined at an address.

Written for Python 3.6 and gdb 12, as gdb_agent.py.
"""

import re

import gdb
from gdb_frames import (
    function_of,
    is_inlined,
    own_symbol,
    symbol_of,
    typed,
    value_of,
)
from gdb_names import (
    MACROS,
)
from gdb_places import (
    is_same_block,
)
from gdb_symbols import (
    entry_of,
    function_block,
    named_block,
)
from gdb_types import (
    KEYWORDS,
    TAGS,
    Refused,
    tokens_of,
)


class Of(gdb.Function):
    """$_of("FUNCTION", "NAME"): a variable of the function around the selected frame's pc.

    gdb takes a name for that of a function that gcc inlined there.
    """

    def __init__(self):
        super().__init__("_of")

    def invoke(self, function, name):
        frame = gdb.selected_frame()
        block = named_block(frame.pc(), function.string())
        if block is None:
            raise gdb.GdbError(f"the frame is not in {function.string()}()")
        return value_in(frame, function, name, symbol_of(block, name.string()))


class In(gdb.Function):
    """$_in("FUNCTION", "NAME"): what a name means at the selected frame's pc, in a function.

    In the frame of one that is inlined gdb may read another value: see gdb_frames.py.
    """

    def __init__(self):
        super().__init__("_in")

    def invoke(self, function, name):
        frame = gdb.selected_frame()
        symbol = own_symbol(frame.pc(), function.string(), name.string())
        return value_in(frame, function, name, symbol)


def value_in(frame, function, name, symbol):
    if symbol is None:
        raise gdb.GdbError(f"{function.string()}() has no {name.string()}")
    return value_of(symbol, frame)


Of()
In()


def refuse_calls(text):
    """Refuse a condition that gdb cannot evaluate: it calls a function, or compares text."""
    try:
        tokens = tokens_of(text)
    except Refused:
        return
    for index, token in enumerate(tokens):
        before = tokens[index - 1] if index else None
        after = tokens[index + 1] if index + 1 < len(tokens) else None
        if (
            token.kind == "name"
            and (after is not None and after.text == "(")
            and token.text not in KEYWORDS | MACROS
            and not (before is not None and before.text in TAGS)
        ):
            raise Refused(
                f"it calls {token.text}(), and gdb calls nothing in a stopped kernel",
                string_hint(token.text)
                or "compute it from the variables, or in Python at the stop",
            )
        if token.kind == "text":
            for other in (before, after):
                if other is not None and other.text in ("==", "!=", "<", ">", "<=", ">="):
                    raise Refused(
                        f"in C '{other.text}' compares the address of a text",
                        'gdb has functions for that: $_streq(a, "b"), $_regex(a, "b.*")',
                    )


def string_hint(function):
    if function in ("strcmp", "strncmp", "strcasecmp", "memcmp", "strstr", "strchr", "streq"):
        return 'gdb has functions for text: $_streq(a, "b"), $_memeq(a, b, n), $_regex(a, "b.*")'
    if function == "strlen":
        return "gdb has $_strlen(text)"
    return None


def has(block, name):
    """Whether a block has a variable of a name."""
    return symbol_of(block, name) is not None


def is_misread_in(block, name, address):
    """Whether gdb may read another value than that of a block's variable at an address."""
    symbol = symbol_of(block, name)
    if not symbol.needs_frame or not is_inlined(block):
        return False
    try:
        # It compiles what lies in registers and in memory, and nothing that the caller gave.
        gdb.execute(f"maint agent -at *{address:#x},{name}", to_string=True)
    except gdb.error:
        return True
    return False


def visible_in(name, address):
    """The innermost block at an address that has a name, as far out as gdb looks; or None."""
    block = gdb.block_for_pc(address)
    while block is not None and not block.is_static and not block.is_global:
        if has(block, name):
            return block
        if block.function is not None:
            return None
        block = block.superblock
    return None


def is_within(block, function):
    """Whether a block is a function's own, or one in it that is not inlined."""
    while block is not None and block.function is None:
        block = block.superblock
    return block is not None and is_same_block(block, function)


LINE = re.compile(r"(?:^|:)\s*[-+]?\d+\s*$")


def condition_block(address, location):
    """The function at whose entry a breakpoint is, as a block; None for any other place."""
    if LINE.search(location):
        return None
    if location.lstrip().startswith("*"):
        block = function_block(address)
        return block if block is not None and entry_of(block) == address else None
    name = location.rpartition(":")[2].strip()
    return named_block(address, name) or function_block(address)


def condition_for(text, location, addresses, names):
    """A breakpoint's condition as gdb must have it: names are those of the function's own.

    :param addresses: where the breakpoint is.
    """
    refuse_calls(text)
    blocks = [(address, condition_block(address, location)) for address in addresses]

    def own(name):
        """How gdb is to be told a name; None if it takes it for what it is."""
        spelled = None
        for address, block in blocks:
            match = visible_in(name, address)
            if (
                match is not None
                and (block is None or is_same_block(match, block))
                and is_misread_in(match, name, address)
            ):
                function = function_of(match).function.name
                spelled = typed(f'$_in("{function}", "{name}")', symbol_of(match, name))
            if block is None:
                continue
            if has(block, name):
                if match is None or not is_same_block(match, block):
                    call = f'$_of("{block.function.name}", "{name}")'
                    spelled = typed(call, symbol_of(block, name))
            elif match is not None and not is_within(match, block):
                # Of what is inlined there: at the function's entry, C sees no such thing.
                symbol, spelled = names.meaning(name, block)
                if symbol is None:
                    raise Refused(f"{block.function.name}() has no {name}")
                spelled = spelled or f"'{symbol.symtab.filename}'::{name}"
        return spelled

    block = blocks[0][1] if blocks else None
    if block is None and blocks:
        block = gdb.block_for_pc(blocks[0][0])
    return names.checked(text, block, own)
