"""C's words and types, inside gdb.

Written for Python 3.6 and gdb 12, as gdb_agent.py.
"""

import re

import gdb

MASK = (1 << 64) - 1
TOKEN = re.compile(
    r"""\s*(?:
    (?P<char>(?:u8|[uUL])?'(?:\\(?:[0-7]{1,3}|x[0-9a-fA-F]+|.)|[^\\'])')
  | (?P<file>'[^']+'(?=\s*::))
  | (?P<text>"(?:\\.|[^"\\])*")
  | (?P<float>(?:\d+\.\d*|\.\d+)(?:[eE][+-]?\d+)?[fFlL]?|\d+[eE][+-]?\d+)
  | (?P<number>0[xX][0-9a-fA-F]+[uUlL]*|0[bB][01]+[uUlL]*|\d+[uUlL]*)
  | (?P<register>\$\w*)
  | (?P<name>[A-Za-z_]\w*)
  | (?P<operator><<=|>>=|->|\+\+|--|<<|>>|<=|>=|==|!=|&&|\|\||::|[-+*/%&|^]=
      |[-+*/%&|^~!<>=?:.,()\[\]{}@])
)""",
    re.VERBOSE,
)
QUOTED_OR_SPACE = re.compile(
    r"""\"(?:\\.|[^"\\])*"|'(?:\\.|[^'\\])*'|//[^\r\n]*|/\*.*?\*/|\s+""", re.DOTALL
)
LINE_END = re.compile(r"[\r\n\v\f]")
TYPE_WORDS = frozenset(
    [
        "void",
        "char",
        "short",
        "int",
        "long",
        "float",
        "double",
        "signed",
        "unsigned",
        "_Bool",
        "bool",
        "const",
        "volatile",
        "struct",
        "union",
        "enum",
        "__int128",
        "restrict",
        "__restrict",
    ]
)
TAGS = frozenset(("struct", "union", "enum"))
QUALIFIERS = frozenset(("const", "volatile", "restrict", "__restrict"))
# include/linux/compiler_types.h: what sparse reads, and gcc does not.
ANNOTATIONS = frozenset(("__user", "__iomem", "__percpu", "__rcu", "__force", "__kernel"))
KEYWORDS = TYPE_WORDS | {"sizeof", "alignof", "_Alignof", "__typeof__", "typeof"}
# Words of C that are macros in the kernel (include/linux/stddef.h).
WORDS = {"true": 1, "false": 0, "NULL": 0}
ESCAPES = {"n": 10, "t": 9, "r": 13, "0": 0, "a": 7, "b": 8, "f": 12, "v": 11, "e": 27}

INTEGERS = (
    gdb.TYPE_CODE_INT,
    gdb.TYPE_CODE_CHAR,
    gdb.TYPE_CODE_ENUM,
    gdb.TYPE_CODE_BOOL,
)
FRACTIONS = (gdb.TYPE_CODE_FLT, gdb.TYPE_CODE_COMPLEX, gdb.TYPE_CODE_DECFLOAT)
INT_BITS = 32
COMPOUND = (gdb.TYPE_CODE_STRUCT, gdb.TYPE_CODE_UNION)


class Refused(Exception):
    """An expression cannot be compiled: why, and what works instead."""

    def __init__(self, why, hint=None):
        super().__init__(why)
        self.why = why
        self.hint = hint


class Token:
    """A word of an expression, and where it stands."""

    __slots__ = ("end", "kind", "start", "text")

    def __init__(self, kind, text, start, end):
        self.kind, self.text, self.start, self.end = kind, text, start, end


def tokens_of(text):
    """Split an expression; raises Refused where it is no C."""
    tokens, at = [], 0
    stripped = text.rstrip()
    while at < len(stripped):
        match = TOKEN.match(stripped, at)
        if match is None:
            raise Refused(f"'{stripped[at:].strip()[:20]}' is no C")
        kind = match.lastgroup
        tokens.append(Token(kind, match.group(kind), match.start(kind), match.end(kind)))
        at = match.end()
    return tokens


def one_line(text):
    """An expression as one line, without comments: gdb takes what follows for a command.

    :raises Refused: a line ends within a text.
    """

    def piece(match):
        word = match.group()
        if word[0] not in "\"'":
            return " "
        if LINE_END.search(word):
            raise Refused(f"a line ends within {word.split()[0]}…", "a newline in a text is \\n")
        return word

    return QUOTED_OR_SPACE.sub(piece, text).strip()


def expanded(text):
    """An expression with macros replaced: `current`, `per_cpu()`, the kernel's own with -g3."""
    text = one_line(text)
    output = gdb.execute("macro expand " + text, to_string=True)
    return output.partition("expands to: ")[2].strip() or text


def plain(kind):
    return kind.strip_typedefs().unqualified()


def is_integer(kind):
    return plain(kind).code in INTEGERS


def is_pointer(kind):
    return plain(kind).code in (gdb.TYPE_CODE_PTR, gdb.TYPE_CODE_REF)


def is_signed(kind):
    """Whether a type's numbers have a sign, as C sees it."""
    kind = plain(kind)
    if kind.code == gdb.TYPE_CODE_BOOL or kind.code in (gdb.TYPE_CODE_PTR, gdb.TYPE_CODE_REF):
        return False
    if kind.code == gdb.TYPE_CODE_ENUM:
        return any(field.enumval < 0 for field in kind.fields())
    try:
        return kind.is_signed
    except (AttributeError, ValueError):  # gdb 12.0 had no such member
        return not str(kind).startswith("unsigned")


def find_member(kind, name):
    """A member's place in bits, its width in bits (0: a whole type) and type; None if not there.

    A member of an anonymous member is one of the structure's own (C11 6.7.2.1).
    """
    for field in plain(kind).fields():
        if not hasattr(field, "bitpos"):
            continue
        if field.name == name:
            return field.bitpos, field.bitsize, field.type
        if not field.name and plain(field.type).code in COMPOUND:
            match = find_member(field.type, name)
            if match is not None:
                return field.bitpos + match[0], match[1], match[2]
    return None


def member_names(kind):
    """The names by which a structure's members are reached."""
    names = []
    for field in plain(kind).fields():
        if field.name:
            names.append(field.name)
        elif plain(field.type).code in COMPOUND:
            names.extend(member_names(field.type))
    return names


def pointed_size(kind):
    target = plain(plain(kind).target())
    if target.code in (gdb.TYPE_CODE_VOID, gdb.TYPE_CODE_FUNC):
        return 1  # as gcc has it
    return target.sizeof or 1


def integer_type(words):
    """The type that the words of C name."""
    if not words:
        raise Refused("a type is missing")
    signs = [word for word in words if word in ("signed", "unsigned")]
    rest = [word for word in words if word not in ("signed", "unsigned")]
    longs = rest.count("long")
    if "void" in rest:
        return gdb.lookup_type("void")
    if "_Bool" in rest:
        return gdb.lookup_type("_Bool")
    if "__int128" in rest:
        # gcc's name for it, which is not C's.
        return gdb.lookup_type("__int128 unsigned" if "unsigned" in signs else "__int128")
    if "float" in rest or "double" in rest:
        raise Refused("the kernel has no fractions")
    base = "char" if "char" in rest else "short" if "short" in rest else "long" if longs else "int"
    if base != "char" and signs[:1] == ["signed"]:
        signs = []  # as it is anyway; gdb has no such name
    return gdb.lookup_type(" ".join([*signs[:1], base]))


def promotion(kind, width=None):
    """C's integer promotion of a type, or of a bit-field of that width: a type, and a width.

    The width is None unless fewer bits than the type has count. A bit-field of more bits than an
    int keeps its own (gcc/c/c-typeck.cc, perform_integral_promotions).
    """
    kind = plain(kind)
    bits = width or 8 * kind.sizeof
    if bits < INT_BITS or kind.code == gdb.TYPE_CODE_BOOL:
        return integer_type(["int"]), None
    if width is None and kind.code != gdb.TYPE_CODE_ENUM:
        return kind, None
    return sized(bits, is_signed(kind))


def conversion(one, other):
    """C's usual arithmetic conversions of two numbers, each as :func:`promotion` has it."""
    operands = [(kind, width or 8 * kind.sizeof) for kind, width in (one, other)]
    bits = max(length for _, length in operands)
    longest = [kind for kind, length in operands if length == bits]
    if bits > 64:
        return longest[0], None
    return sized(bits, all(map(is_signed, longest)))


def sized(bits, signed):
    """An integer type for that many bits, and how many of them count if not all do."""
    words = [] if signed else ["unsigned"]
    if bits <= INT_BITS:
        return integer_type([*words, "int"]), None
    return integer_type([*words, "long"]), bits if bits < 64 else None


def char_of(text):
    body = text[text.index("'") + 1 : -1]
    if not body.startswith("\\"):
        number = ord(body)
        return number - 256 if 127 < number < 256 else number
    if body[1] == "x":
        number = int(body[2:], 16)
    elif body[1] in "01234567":
        number = int(body[1:], 8)
    else:
        return ESCAPES.get(body[1], ord(body[1]))
    return number - 256 if number > 127 else number


CHARACTER = re.compile(r"\\(?:[0-7]{1,3}|x[0-9a-fA-F]+|.)|[^\\]")


def text_size(text):
    """The bytes of a text in quotes, without its NUL."""
    pieces = CHARACTER.findall(text[1:-1])
    return sum(1 if piece[0] == "\\" else len(piece.encode()) for piece in pieces)


TAGGED = {
    "struct": gdb.TYPE_CODE_STRUCT,
    "union": gdb.TYPE_CODE_UNION,
    "enum": gdb.TYPE_CODE_ENUM,
}
TAG = re.compile(r"(?:struct|union|enum)\s+(\w+)$")


def type_named(name, block):
    """The type that a name stands for in a block; raises gdb.error for none."""
    if block is not None:
        tag = TAG.match(name)
        if tag is not None:
            # For a tag, lookup_type() pays no attention to the block; another file may have one.
            symbol = gdb.lookup_symbol(tag.group(1), block, gdb.SYMBOL_STRUCT_DOMAIN)[0]
            if symbol is not None and symbol.type.code == TAGGED[name.split()[0]]:
                return symbol.type
        try:
            return gdb.lookup_type(name, block)
        except gdb.error:
            pass
    return gdb.lookup_type(name)


def lookup(name, block):
    """gdb's symbol of a name, or None."""
    if block is not None:
        return gdb.lookup_symbol(name, block)[0]
    return gdb.lookup_global_symbol(name) or gdb.lookup_static_symbol(name)
