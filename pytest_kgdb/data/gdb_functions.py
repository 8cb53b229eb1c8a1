"""Functions as spies and overrides need them, inside gdb: entries, arguments, what is returned.

Written for Python 3.6 and gdb 12, as gdb_agent.py.
"""

import contextlib
import functools
import posixpath
import re

import gdb
from gdb_clones import (
    base_name,
    has_inlined,
    kinds_of,
    refuse_cold,
    symbol_at,
)
from gdb_expressions import (
    Compiler,
)
from gdb_instructions import (
    instruction_around,
)
from gdb_items import (
    Item,
    described,
    rvalue,
)
from gdb_names import (
    names,
)
from gdb_operators import (
    condition,
)
from gdb_places import (
    Scope,
    has_fractions,
    in_memory,
    listing_of,
)
from gdb_results import (
    keeps_result,
)
from gdb_symbols import (
    entry_of,
    function_block,
    sees,
    statics,
)
from gdb_types import (
    COMPOUND,
    FRACTIONS,
    MASK,
    Refused,
    integer_type,
    is_signed,
    plain,
)

CODES = {
    getattr(gdb, name): name[len("TYPE_CODE_") :].lower()
    for name in dir(gdb)
    if name.startswith("TYPE_CODE_")
}


# Where functions are: gdb takes milliseconds to say, and its symbols seldom change.
decoded = {}
NAME = re.compile(r"(?:[\w./-]+:)?[A-Za-z_][\w.]*$")


def forget_places(_event):
    decoded.clear()


for registry in ("new_objfile", "clear_objfiles", "free_objfile"):
    if hasattr(gdb.events, registry):
        getattr(gdb.events, registry).connect(forget_places)


def function_places(location):
    """Addresses, files and lines of a function's copies; `file.c:function` for one of several."""
    if location in decoded:
        return decoded[location]
    if re.match(r"\s*-\D", location):
        raise gdb.error(f"{location} is no linespec")  # of -p, gdb 13 dies
    try:
        _, sals = gdb.decode_line(location)
    except gdb.error:
        symbols = hidden_functions(location)
        if not symbols:
            raise
        places = [
            (int(symbol.value().address) & MASK, symbol.symtab.filename, symbol.line, True)
            for symbol in symbols
        ]
    else:
        places = [
            (sal.pc, sal.symtab and sal.symtab.filename, sal.line, False) for sal in sals or ()
        ]
    if NAME.match(location):
        decoded[location] = places
    return places


def hidden_functions(location):
    """The functions of a name that a variable has, too: a linespec finds only the variable."""
    file, _, name = location.rpartition(":")
    if not name.isidentifier():
        return []
    return [
        symbol
        for symbol in statics(name)
        if symbol.type.code == gdb.TYPE_CODE_FUNC
        and (not file or ("/" + symbol.symtab.filename).endswith("/" + file))
    ]


def kind_of(kind):
    """How a type's values are to be read."""
    bare = plain(kind)
    code = CODES.get(bare.code, "other")
    record = {"type": str(kind), "size": bare.sizeof, "kind": code, "signed": False}
    if code in ("int", "char", "enum"):
        record["kind"] = "int"
        record["signed"] = is_signed(kind)
    elif code == "ptr":
        record["kind"] = "string" if is_char(plain(bare.target())) else "ptr"
    return record


def is_char(kind):
    return kind.sizeof == 1 and kind.unqualified().name in ("char", "unsigned char", "signed char")


def is_text(kind):
    """Whether an array's elements are characters, and not numbers of one byte, as `u8` are.

    The kernel has names of `unsigned char`, too (struct dentry, d_iname).
    """
    return plain(kind).name == "char" or kind.unqualified().name == "unsigned char"


def compiled(expression, scope, truth=False):
    """An expression as agent code for the present pc, and how its value is to be read.

    :param truth: whether it is asked only if it holds, as C's `if` has it.
    """
    try:
        item = Compiler(expression, scope).compile()
        if truth:
            item = Item(integer_type(["unsigned", "long"]), "value", condition(item))
        return reading(item)
    except Refused as refused:
        return {"error": refused.why, "hint": refused.hint}
    except gdb.error as error:
        return {"error": str(error)}


def reading(item):
    """How what was compiled is read: code, kind, size, sign."""
    if item.where in ("text", "nodebug"):
        rvalue(item)  # which says why not
    kind = plain(item.type)
    record = kind_of(item.type)
    if item.where == "memory":
        if kind.code == gdb.TYPE_CODE_ARRAY and is_text(kind.target()):
            record["kind"], record["size"] = "chars", kind.sizeof
            record["code"] = listing_of(item.address)
            return record
        is_wide = kind.sizeof > 8 and item.bits is None
        if is_wide or kind.code in (*COMPOUND, gdb.TYPE_CODE_ARRAY):
            record["kind"], record["layout"] = "memory", layout_of(kind)
            record["code"] = listing_of(item.address)
            return record
    if item.where == "parts":
        record["kind"], record["layout"] = "parts", layout_of(kind)
        record["parts"] = [[listing_of(code), size] for code, size in item.code]
        return record
    item = rvalue(item)
    if item.where != "value":
        raise unread(described(item), item.type)
    record = kind_of(item.type)
    record["code"] = listing_of(item.code)
    return record


def unread(what, kind):
    """Why what is neither a number nor a pointer is not read."""
    if plain(kind).code in FRACTIONS:
        return Refused(
            f"{what}, and the kernel computes without fractions",
            "evaluate() reads it where the kernel has stopped",
        )
    return Refused(what, "name a member of it")


# How deep and how large a structure is that is recorded as a whole.
LAYOUT_DEPTH = 8
LAYOUT_BYTES = 512


def layout_of(kind, depth=0):
    """How the bytes of a value are read: its kind and size, and its members' places in bits."""
    record = kind_of(kind)
    kind = plain(kind)
    if depth > LAYOUT_DEPTH or kind.sizeof > LAYOUT_BYTES:
        raise Refused(f"it is a {kind} of {kind.sizeof} bytes", "name a member of it")
    if kind.code in COMPOUND:
        record["members"] = members_of(kind, depth)
    elif kind.code == gdb.TYPE_CODE_ARRAY:
        low, high = kind.range()
        record["count"] = max(0, high - low + 1)
        record["element"] = layout_of(kind.target(), depth + 1)
        if is_text(kind.target()):
            record["kind"] = "chars"
    elif record["kind"] not in ("int", "bool", "ptr", "string"):
        raise unread(f"it has a {kind}", kind)
    return record


def members_of(kind, depth):
    """Each member's name, first bit, width in bits (0: a whole type) and layout."""
    members = []
    for field in kind.fields():
        if not hasattr(field, "bitpos"):
            continue
        if field.name:
            layout = layout_of(field.type, depth + 1)
            members.append([field.name, field.bitpos, field.bitsize, layout])
        elif plain(field.type).code in COMPOUND:
            for name, bit, width, layout in members_of(plain(field.type), depth + 1):
                members.append([name, field.bitpos + bit, width, layout])
    return members


def single(record):
    """What is collected is one value: a number, a pointer, a text, or bytes."""
    layout = record.get("layout", {})
    is_bytes = layout.get("kind") == "chars" or layout.get("element", {}).get("size") == 1
    if "members" in layout or ("element" in layout and not (is_bytes and layout["count"])):
        return {"error": "it is a " + record["type"], "hint": "name a member of it"}
    return record


def returned(kind):
    """How what a function returns is read (System V psABI, 3.2.3, "Returning of Values").

    In %rax and %rdx, as the kernel has no fractions, or in memory that the caller gave, to which
    %rax points then.
    """
    record = kind_of(kind)
    record["in_memory"] = in_memory(kind)
    bare = plain(kind)
    if (bare.code in COMPOUND or bare.sizeof > 8) and not has_fractions(bare):
        with contextlib.suppress(Refused):  # the call's return_value says it
            record["layout"] = layout_of(kind)
    return record


def definition_of(block, name):
    """File and line of a function of a name, as its file has it; None where that has none.

    Of what is inlined, the debug info is asked by name: gdb's own symbol of it has the call's line.
    gcc gives functions whose code is the same one address, and the debug info of one of them
    (gcc/ipa-icf.cc).

    :param block: of the function at the address, or that it is inlined in.
    """
    if block is None:
        return None
    symbol = block.function
    if name.isidentifier() and symbol.name != name:
        symbol = gdb.lookup_symbol(name, block.static_block)[0]
        if symbol is None or symbol.type.code != gdb.TYPE_CODE_FUNC:
            return None
        if gdb.lookup_global_symbol(name) is None and not sees(block, symbol):
            return None
    return [posixpath.normpath(symbol.symtab.filename), symbol.line]


def fill(place, block, expressions, conditions):
    scope = Scope(place["address"], block, names)
    if block is not None:
        for name in scope.arguments:
            place["arguments"].append([name, compiled(name, scope)])
    place["expressions"] = [
        single(compiled(expression, scope, truth=index < conditions))
        for index, expression in enumerate(expressions)
    ]


def op_function(location, expressions, conditions, cpu):
    """Where a function is, what it takes and returns, and expressions compiled for its entry.

    :param conditions: how many of the expressions, the first ones, are only asked if they hold.
    """
    names.cpu = cpu
    places = []
    requested = location.rpartition(":")[2]
    refuse_cold(requested)
    for address, file, line, _ in function_places(location):
        block = function_block(address)
        place = {"address": address, "line": line, "inlined": False, "arguments": []}
        place["file"] = file
        place["definition"] = definition_of(block, base_name(requested))
        places.append(place)
        if block is None:
            name, _, offset = (
                gdb.execute(f"info symbol {address:#x}", to_string=True)
                .partition(" in section")[0]
                .partition(" + ")
            )
            place.update(name=name, address=address - int(offset or 0), returns=None)
        else:
            place["name"] = block.function.name
            place["inlined"] = entry_of(block) != address or has_inlined(
                address, block, base_name(requested)
            )
            target = block.function.type.target()
            # Of a function in assembler the debug info says that it returns nothing.
            has_type = target is not None and not (file or "").endswith(".S")
            place["returns"] = returned(target) if has_type else None
            symbol = symbol_at(address)
            place["copy"] = symbol or place["name"]
            place["linked"] = symbol is not None or place["inlined"]
            kinds = place["kinds"] = sorted(kinds_of(place["copy"]))
            if not place["inlined"] and {"isra", "part"} & set(kinds) and has_type:
                is_void = place["returns"]["kind"] == "void"
                place["kept"] = is_void or keeps_result(address, block)
        if not place["inlined"]:
            work = functools.partial(fill, place, block, expressions, conditions)
            in_scope(place["address"], work)
    return {"places": places}


def op_locations(location):
    """Where a breakpoint there would be inserted; nothing is inserted."""
    places = function_places(location)
    at_address = location.lstrip().startswith("*")
    return {
        "locations": [
            {"address": address, "file": file, "line": line} for address, file, line, _ in places
        ],
        # gdb itself finds nothing there.
        "hidden": any(is_hidden for *_, is_hidden in places),
        "skipped": [address for address, *_ in places if is_skipped(address)],
        # Of each place: the instruction that it is within.
        "within": [instruction_around(address) for address, *_ in places] if at_address else [],
    }


def is_skipped(address):
    """Whether gdb would put a breakpoint on this function behind its first instructions.

    It does so in code of clang's (gdb/amd64-tdep.c, amd64_skip_prologue).
    """
    symtab = gdb.find_pc_line(address).symtab
    if symtab is None or "clang" not in (symtab.producer or ""):
        return False
    block = function_block(address)
    return block is not None and entry_of(block) == address


def in_scope(address, work):
    """Do something as if the kernel had stopped at an address.

    A frame that is selected stays so: of an outer one, `$pc` is on the stack, or not known.
    """
    level = gdb.selected_frame().level()
    gdb.newest_frame().select()
    here = int(gdb.parse_and_eval("(unsigned long)$pc"))
    gdb.execute(f"set var $pc = {address:#x}")
    try:
        work()
    finally:
        with contextlib.suppress(gdb.error):  # the work may have selected another one
            gdb.newest_frame().select()
        gdb.execute(f"set var $pc = {here:#x}")
        if level:
            gdb.execute(f"frame level {level}", to_string=True)
