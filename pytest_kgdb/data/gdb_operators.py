"""C's operators on the parts of an expression, compiled inside gdb.

Written for Python 3.6 and gdb 12, as gdb_agent.py.
"""

import gdb
from gdb_items import (
    Item,
    as_bool,
    common_type,
    const,
    described,
    extend,
    low_word,
    promoted,
    rvalue,
    truth,
)
from gdb_types import (
    COMPOUND,
    Refused,
    find_member,
    integer_type,
    is_integer,
    is_pointer,
    is_signed,
    plain,
    pointed_size,
    sized,
)


def condition(item):
    item = rvalue(item)
    if not is_integer(item.type) and not is_pointer(item.type):
        raise Refused(f"{described(item)} is no truth value")
    return truth(item)


def arithmetic(operator, one, other):
    if "text" in (one.where, other.where):
        raise Refused(
            f"it compares text with '{operator}', which in C compares addresses",
            "collect the text and compare it in Python (`when` may be a function of the "
            'call); a breakpoint condition has $_streq(a, "b")',
        )
    one, other = rvalue(one), rvalue(other)
    for item in (one, other):
        if not is_integer(item.type) and not is_pointer(item.type):
            raise Refused(f"{described(item)} is no number")
    if is_pointer(one.type) or is_pointer(other.type):
        return pointer_arithmetic(operator, one, other)
    if operator in ("<<", ">>"):
        kind, width = promoted(one)
        one = convert(one, kind, width)
        name = "lsh" if operator == "<<" else "rsh_signed" if is_signed(kind) else "rsh_unsigned"
        code = [*one.code, *low_word(other).code, [name, 0]]
        return Item(kind, "value", code + extend(kind, width), width=width)
    kind, width = common_type(one, other)
    one, other = convert(one, kind, width), convert(other, kind, width)
    return operation(operator, one, other, kind, width)


def operation(operator, one, other, kind, width=None):
    sign = "_signed" if is_signed(kind) else "_unsigned"
    both = [*one.code, *other.code]
    if operator in ("==", "!="):
        negate = [["log_not", 0]] if operator == "!=" else []
        return Item(integer_type(["int"]), "value", [*both, ["equal", 0], *negate])
    if operator in ("<", ">", "<=", ">="):
        if operator in (">", "<="):
            both = [*other.code, *one.code]
        negate = [["log_not", 0]] if operator in ("<=", ">=") else []
        return Item(integer_type(["int"]), "value", [*both, ["less" + sign, 0], *negate])
    name = {"+": "add", "-": "sub", "*": "mul", "&": "bit_and", "|": "bit_or", "^": "bit_xor"}
    word = name.get(operator) or {"/": "div", "%": "rem"}[operator] + sign
    return Item(kind, "value", [*both, [word, 0], *extend(kind, width)], width=width)


def pointer_arithmetic(operator, one, other):
    one, other = low_word(one), low_word(other)
    if operator in ("==", "!=", "<", ">", "<=", ">="):
        return operation(operator, one, other, integer_type(["unsigned", "long"]))
    if operator == "-" and is_pointer(one.type) and is_pointer(other.type):
        long = integer_type(["long"])
        size = pointed_size(one.type)
        code = [*one.code, *other.code, ["sub", 0], const(size), ["div_signed", 0]]
        return Item(long, "value", code)
    if operator == "+" and is_integer(one.type):
        one, other = other, one
    if operator not in ("+", "-") or not is_integer(other.type):
        raise Refused(f"a pointer has no '{operator}'")
    scaled = [*other.code, const(pointed_size(one.type)), ["mul", 0]]
    return Item(one.type, "value", [*one.code, *scaled, ["add" if operator == "+" else "sub", 0]])


def prefix(operator, item):
    if operator == "&":
        return address_of(item)
    if operator == "*":
        return dereference(item)
    item = rvalue(item)
    if operator == "!":
        code = [*condition(item), ["log_not", 0]]
        return Item(integer_type(["int"]), "value", code)
    if not is_integer(item.type):
        raise Refused(f"{described(item)} has no '{operator}'")
    kind, width = promoted(item)
    code = convert(item, kind, width).code
    if operator == "-":
        code = [const(0), *code, ["sub", 0], *extend(kind, width)]
    elif operator == "~":
        code = [*code, ["bit_not", 0], *extend(kind, width)]
    return Item(kind, "value", code, width=width)


def cast(item, kind):
    target = plain(kind)
    if item.where == "nodebug" and (is_integer(kind) or is_pointer(kind)):
        # gdb, too, takes a cast for the type of what has none.
        return Item(kind, "memory", item.code, what=item.what)
    item = rvalue(item)
    if target.code == gdb.TYPE_CODE_VOID:
        raise Refused("a void has no value")
    if not (is_integer(kind) or is_pointer(kind)):
        raise Refused(f"a cast to {kind} is not understood")
    if not (is_integer(item.type) or is_pointer(item.type)):
        raise Refused(f"{described(item)} is no number")
    return convert(item, kind)


def convert(item, kind, width=None):
    item = rvalue(item)
    if plain(kind).sizeof > 8:
        raise Refused(
            f"it computes with a {kind} of {8 * plain(kind).sizeof} bits, and only 64 are "
            "computed here",
            "it can be collected alone; compute with it in Python",
        )
    if plain(kind).code == gdb.TYPE_CODE_BOOL:
        return Item(kind, "value", as_bool(truth(item)))
    return Item(kind, "value", low_word(item).code + extend(kind, width), width=width)


def address_of(item):
    if item.bits is not None:
        raise Refused("%s is a bit-field, which has no address" % (item.what or "it"))
    if item.where not in ("memory", "nodebug"):
        raise Refused(f"{item.what or 'it'} lies in a register at the entry, which has no address")
    kind = item.type if item.type is not None else gdb.lookup_type("void")
    return Item(kind.pointer(), "value", item.code)


def dereference(item):
    item = rvalue(item)
    kind = plain(item.type)
    if not is_pointer(kind):
        raise Refused(f"{described(item)} is no pointer")
    target = kind.target()
    if plain(target).code == gdb.TYPE_CODE_VOID:
        raise Refused(
            "%s is a void *: what it points at has no type" % (item.what or "it"),
            "cast it: *(struct NAME *)%s" % (item.what or "…"),
        )
    return Item(target, "memory", item.code, what="*" + (item.what or "…"))


def member(item, arrow, token):
    if token.kind != "name":
        raise Refused(f"'{token.text}' is no member's name")
    if plain(item.type).code in (gdb.TYPE_CODE_PTR, gdb.TYPE_CODE_ARRAY):
        item = dereference(item)
    elif arrow == "->":
        raise Refused(f"{described(item)} is no pointer")
    kind = plain(item.type)
    if kind.code not in COMPOUND:
        raise Refused(f"{described(item)} has no members")
    if not kind.fields():
        raise Refused(f"what is in a {kind} is not known here: it is only declared")
    match = find_member(kind, token.text)
    if match is None:
        raise Refused(f"{kind} has no member {token.text}")
    position, width, member = match
    what = "{}{}{}".format(item.what or "…", arrow, token.text)
    if item.where == "parts":
        return part(item, position, width, member, what)
    code = item.code
    if width:
        bits = (item.bits[0] if item.bits else 0) + position
        return Item(member, "memory", code, (bits, width), what, item.offset)
    if position:
        code = [*code, const(position // 8), ["add", 0]]
    return Item(member, "memory", code, None, what, item.offset)


def element(item, index):
    """An element of an array that lies in registers."""
    kind = plain(item.type)
    if kind.code != gdb.TYPE_CODE_ARRAY:
        raise Refused(f"{described(item)} has no elements")
    if index.where != "value" or [name for name, _ in index.code] != ["const64"]:
        raise Refused(f"{described(item)} lies in registers", "a constant index is understood")
    number, size = index.code[0][1], 8 * kind.target().sizeof
    if number > kind.range()[1]:
        raise Refused(f"{described(item)} has no [{number}]")
    return part(item, number * size, 0, kind.target(), f"{item.what or '…'}[{number}]")


def part(item, position, width, member, what):
    """A member of a structure that lies in registers; the code is a list of (code, bytes)."""
    begin, pieces = 0, []
    bits = width or 8 * plain(member).sizeof
    for code, size in item.code:
        low, high = max(begin, position), min(begin + 8 * size, position + bits)
        if low < high:
            shift = low - begin
            shifted = [*code, *([const(shift), ["rsh_unsigned", 0]] if shift else [])]
            pieces.append((shifted, high - low))
        begin += 8 * size
    is_wide = plain(member).sizeof > 8 and not width
    if plain(member).code in (*COMPOUND, gdb.TYPE_CODE_ARRAY) or is_wide:
        return Item(member, "parts", [(code, count // 8) for code, count in pieces], what=what)
    if len(pieces) != 1:
        raise Refused(f"{what} lies in more than one register")
    code = pieces[0][0]
    if plain(member).sizeof > 8:
        member = sized(width, is_signed(member))[0]
    name = "ext" if is_signed(member) else "zero_ext"
    code = [*code, [name, bits]] if bits < 64 else code
    return Item(member, "value", code, what=what, width=width or None)
