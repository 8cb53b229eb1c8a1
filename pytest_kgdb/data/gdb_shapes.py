"""What a type consists of, inside gdb: several files may have another one of the same name.

Written for Python 3.6 and gdb 12, as gdb_agent.py.
"""

import hashlib
import json

import gdb
from gdb_lvalues import selected_block
from gdb_names import names
from gdb_types import (
    COMPOUND,
    MASK,
    Refused,
    is_signed,
    tokens_of,
)

KINDS = {
    gdb.TYPE_CODE_INT: "int",
    gdb.TYPE_CODE_CHAR: "int",
    gdb.TYPE_CODE_BOOL: "bool",
    gdb.TYPE_CODE_FLT: "float",
}


def core_of(kind):
    """What a pointer, an array and a typedef are of in the end."""
    kind = kind.strip_typedefs().unqualified()
    while kind.code in (gdb.TYPE_CODE_PTR, gdb.TYPE_CODE_ARRAY):
        kind = kind.target().strip_typedefs().unqualified()
    return kind


def shape(kind):
    """What a type consists of, as debugger/_shapes.py has it of drgn's."""
    kind = kind.strip_typedefs().unqualified()
    if kind.code in COMPOUND:
        fields = [field for field in kind.fields() if hasattr(field, "bitpos")]
        members = [
            [field.name or "", field.bitpos, field.bitsize, shape(field.type)] for field in fields
        ]
        return ["compound", 0 if is_open(members) else kind.sizeof, members]
    if kind.code == gdb.TYPE_CODE_ARRAY:
        return ["array", kind.sizeof, shape(kind.target())]
    if kind.code == gdb.TYPE_CODE_PTR:
        target = kind.target().strip_typedefs()
        return ["pointer", (target.name or "") if target.code in COMPOUND else ""]
    if kind.code == gdb.TYPE_CODE_ENUM:
        return ["enum", kind.sizeof, [[one.name, one.enumval & MASK] for one in kind.fields()]]
    if kind.code in KINDS:
        signed = kind.code != gdb.TYPE_CODE_FLT and is_signed(kind)
        return [KINDS[kind.code], kind.sizeof, signed]
    return ["other"]


def is_open(members):
    """Whether there is a flexible array, of a structure of which gdb leaves out what pads it."""
    return any(its[0] in ("array", "compound") and its[1] == 0 for *_, its in members)


def digest(kind):
    """The same, as short; None of what is only declared."""
    kind = core_of(kind)
    if kind.code in COMPOUND and not kind.fields():
        return None
    return hashlib.sha256(json.dumps(shape(kind)).encode()).hexdigest()


def shape_of(kind):
    """What a type consists of, as a digest, and how many bytes it has."""
    return {"digest": digest(kind), "size": core_of(kind).sizeof}


def type_files(kind, expression):
    """The files in which a value's type may be declared: those that its expression names."""
    while kind.code in (gdb.TYPE_CODE_PTR, gdb.TYPE_CODE_ARRAY):
        kind = kind.unqualified().target()
    name = kind.unqualified().name
    domain = (
        gdb.SYMBOL_VAR_DOMAIN if kind.code == gdb.TYPE_CODE_TYPEDEF else (gdb.SYMBOL_STRUCT_DOMAIN)
    )
    files = []
    for block in blocks_of(expression):
        symbol = gdb.lookup_symbol(name, block, domain)[0] if name else None
        if symbol is not None and digest(symbol.type) == digest(kind):
            files.append(symbol.symtab.filename)
    return list(dict.fromkeys(files))


def blocks_of(expression):
    """Where the names of an expression are seen from."""
    block = selected_block()
    try:
        tokens = tokens_of(expression)
    except Refused:
        tokens = []
    for index, token in enumerate(tokens):
        try:
            if token.kind == "file" and index + 2 < len(tokens):
                symbol = names.of_file(token.text, tokens[index + 2].text)[0]
            elif token.kind == "name":
                symbol = names.symbol(token.text, block)
            else:
                continue
        except (Refused, gdb.error):
            continue
        if symbol is not None and symbol.symtab is not None:
            yield symbol.symtab.static_block()
    if block is not None:
        yield block
