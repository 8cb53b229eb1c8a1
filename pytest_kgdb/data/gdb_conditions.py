"""The conditions of breakpoints, as gdb must have them.

gdb takes a name for that of a function that gcc inlined at an address.

Written for Python 3.6 and gdb 12, as gdb_agent.py.
"""

import re

import gdb
from gdb_arithmetic import Reader, Unread
from gdb_clones import base_name
from gdb_frames import (
    function_of,
    is_inlined,
    own_symbol,
    symbol_of,
    typed,
    value_of,
)
from gdb_items import number_item
from gdb_names import (
    MACROS,
    is_free,
)
from gdb_places import (
    is_elsewhere,
    is_same_block,
)
from gdb_symbols import (
    FIRST_KERNEL_ADDRESS,
    address_of,
    entry_of,
    function_block,
    is_local,
    named_block,
    unassigned,
)
from gdb_types import (
    COMPOUND,
    KEYWORDS,
    TAGS,
    Refused,
    member_names,
    plain,
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


class Gone(gdb.Function):
    """$_gone("WHY"): what a condition is that names something in memory which is another's now."""

    def __init__(self):
        super().__init__("_gone")

    def invoke(self, why):
        raise gdb.GdbError(why.string())


Of()
In()
Gone()


# C11 6.5.16
ASSIGNMENT = re.compile(r"(<<|>>|[-+*/%&|^])?=")


def refuse_assignments(text, tokens):
    """Refuse a condition that changes the kernel; a convenience variable of gdb's may change."""
    for index, token in enumerate(tokens):
        if token.kind != "operator":
            continue
        before, after = tokens[:index], tokens[index + 1 :]
        match = ASSIGNMENT.fullmatch(token.text)
        if match is not None and not is_counter(before[-1:], before[-2:-1], ("(", ",")):
            meant = match.group(1) or "=="
            raise Refused(
                f"it assigns ('{token.text}'), and a condition changes nothing in the kernel",
                f"'{meant}' {'computes' if match.group(1) else 'compares'}: "
                f"{text[: token.start]}{meant}{text[token.end :]}",
            )
        if token.text not in ("++", "--") or is_counter(before[-1:]):
            continue
        if not is_counter(after[:1]) or [one.text for one in after[1:2]] in (["->"], ["."], ["["]):
            raise Refused(
                f"it assigns ('{token.text}'), and a condition changes nothing in the kernel",
                f"a variable of gdb's own may count: $calls{token.text}; `ignore_count` ignores "
                "so many hits",
            )


def refuse_void(tokens):
    """Refuse a condition on a variable of gdb's own that there is not: most tests of it are false.

    One that the condition itself assigns to is none of those.
    """
    for index, token in enumerate(tokens):
        if token.kind != "register" or is_sized(tokens, index):
            continue
        if any(
            one.text == token.text and tokens[at + 1].text == "="
            for at, one in enumerate(tokens[:-1])
        ):
            continue
        try:
            kind = gdb.parse_and_eval(token.text).type
        except gdb.error:
            continue  # one whose value is not there; gdb says so
        if kind.code != gdb.TYPE_CODE_VOID:
            continue
        if tokens[index + 1 : index + 2] and tokens[index + 1].text == "(":
            raise Refused(f"gdb has no function {token.text}()")
        raise Refused(
            f"{token.text} is void: it is no register, and gdb has no variable of that name",
            f"make it first: execute('set {token.text} = 0')" if len(token.text) > 1 else None,
        )


def is_counter(tokens, before=(), allowed=()):
    """Whether a token is a convenience variable of gdb's.

    :param before: the token before it, if there is one, which must be one of those allowed.
    """
    if not tokens or tokens[0].kind != "register" or not is_convenience(tokens[0].text[1:]):
        return False
    return not before or before[0].text in allowed


def is_convenience(name):
    """Whether a name behind a $ is none of a register, or of a register's part (`eax`, `al`)."""
    try:
        gdb.selected_frame().read_register(name)
    except ValueError:  # architecture().registers() has no parts
        return True
    except gdb.error:
        pass  # one whose value is not there
    return False


def refuse_wholes(text, tokens, reader):
    """Refuse a condition that asks for a structure as a whole, which gdb takes for true."""
    try:
        condition = reader.read()
    except Unread:
        return
    for operand, operator in [*reader.operands, (condition, None)]:
        kind = plain(operand.typed.type) if operand.typed is not None else None
        if kind is None or kind.code not in (*COMPOUND, gdb.TYPE_CODE_VOID):
            continue
        whole = text[tokens[operand.first].start : tokens[operand.last].end]
        takes = "is no truth value" if operator is None else f"has no '{operator}'"
        members = member_names(kind) if kind.code in COMPOUND else []
        raise Refused(
            f"{whole} is a {kind}, which {takes}",
            f"take a member: {whole}.{members[0]}"
            if members
            else "say what lies there: *(struct NAME *)…",
        )


def refuse_calls(tokens):
    """Refuse a condition that gdb cannot evaluate: it calls a function, or compares text."""
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
    if not is_inlined(block):
        return is_elsewhere(symbol, address)
    if not symbol.needs_frame:
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


def refuse_unassigned(tokens, location, blocks):
    """Refuse a condition on a function's local variable where the function begins.

    :param blocks: the breakpoint's addresses, and what :func:`condition_block` has for each.
    """
    entered = [(address, block, entered_at(address, block, location)) for address, block in blocks]
    for index, token in enumerate(tokens):
        qualifier = tokens[index - 2].text if index > 1 and tokens[index - 1].text == "::" else None
        if token.kind != "name" or is_sized(tokens, index):
            continue
        if qualifier is None and not is_free(tokens, index):
            continue
        for address, block, function in entered:
            if function is None or qualifier not in (None, function.function.name):
                continue
            match = visible_in(token.text, address)
            if (block is not None or qualifier is not None) and has(function, token.text):
                match = function
            if match is not None and is_within(match, function):
                symbol = symbol_of(match, token.text)
                if is_local(symbol) and not symbol.is_argument:
                    raise unassigned(token.text, function)


def entered_at(address, block, location):
    """The function that begins where a breakpoint is, inlined or not; None for a place within.

    :param block: as :func:`condition_block` has it.
    """
    name = base_name(location.rpartition(":")[2].strip())
    if block is not None and block.function.name == name:
        return block
    return begun_at(address)


def begun_at(address):
    """The function whose first instruction is at an address, as a block; None for none."""
    block = function_block(address)
    return block if block is not None and entry_of(block) == address else None


def is_sized(tokens, index):
    """Whether a variable is the operand of a `sizeof`, which is not evaluated."""
    at = index - 1
    while at >= 0 and tokens[at].text == "(":
        at -= 1
    return at >= 0 and tokens[at].text in ("sizeof", "typeof", "__typeof__")


LINE = re.compile(r"(?:^|:)\s*[-+]?\d+\s*$")


def condition_block(address, location):
    """The function at whose entry a breakpoint is, as a block; None for any other place."""
    if LINE.search(location):
        return None
    if location.lstrip().startswith("*"):
        return begun_at(address)
    name = location.rpartition(":")[2].strip()
    return named_block(address, name) or function_block(address)


def condition_for(text, location, addresses, names):
    """A breakpoint's condition as gdb must have it: names are those of the function's own.

    :param addresses: where the breakpoint is.
    :return: the condition, and the addresses of what it names.
    """
    try:
        tokens = tokens_of(text)
    except Refused:
        tokens = []  # gdb says why, or has an extension of C's
    refuse_assignments(text, tokens)
    refuse_calls(tokens)
    refuse_void(tokens)
    blocks = [(address, condition_block(address, location)) for address in addresses]
    refuse_unassigned(tokens, location, blocks)

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
    checked = names.checked(text, block, own)
    refuse_wholes(text, tokens, Reader(tokens, lambda name: names.symbol(name, block), block))
    return checked, sorted(addresses_named(tokens, block, names))


def addresses_named(tokens, block, names):
    """The addresses of the variables and functions that a condition names, and those in figures."""
    addresses = set()
    for index, token in enumerate(tokens):
        symbol = None
        if token.kind == "file" and "." in token.text and index + 2 < len(tokens):
            symbol = names.of_file(token.text, tokens[index + 2].text)[0]
        elif token.kind == "name" and is_free(tokens, index):
            symbol = names.symbol(token.text, block)
        elif token.kind == "number":
            number = int(number_item(token.text).code[0][1])
            if number >= FIRST_KERNEL_ADDRESS:
                addresses.add(number)
        address = address_of(symbol) if symbol is not None else None
        if address is not None:
            addresses.add(address)
    return addresses
