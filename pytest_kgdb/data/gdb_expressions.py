"""C expressions, read and compiled inside gdb.

gdb compiles expressions for a target that evaluates them by itself (gdb manual, "The GDB Agent
Expression Mechanism"), but not all that C has: no enumerators' comparison, no anonymous members, no
structure in registers; and it takes names for those of the function that is inlined at an address.
So it is asked only where a variable is, and the rest is made here, from gdb's types.

Written for Python 3.6 and gdb 12, as gdb_agent.py, which imports it.
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


def expanded(text):
    """An expression with macros replaced: `current`, `per_cpu()`, the kernel's own with -g3."""
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
            found = find_member(field.type, name)
            if found is not None:
                return field.bitpos + found[0], found[1], found[2]
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


class Item:
    """What a part of an expression is: its type, where it is, and the code that gets there."""

    def __init__(self, kind, where, code, bits=None, what=None, offset=None):
        self.type = kind
        # `value`: the code leaves it; `memory`: its address; `parts`: it lies in several places
        self.where = where
        self.code = code
        self.bits = bits  # of a bit-field: its first bit from the address, and its width
        self.what = what  # what it is called, for messages
        self.offset = offset  # of a per-CPU variable: code for what is added to the address

    @property
    def address(self):
        """The code that leaves the address of what lies in memory: on this CPU."""
        return self.code if self.offset is None else [*self.code, *self.offset, ["add", 0]]


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
        self.twofold = set()
        self.registers = None
        for symbol in block or ():
            if symbol.addr_class == gdb.SYMBOL_LOC_LABEL:
                continue  # it may have the name of an argument
            if symbol.is_argument and symbol.name in self.own:
                self.twofold.add(symbol.name)
            self.own.setdefault(symbol.name, symbol)

    def lookup_type(self, name):
        if self.block is not None:
            try:
                return gdb.lookup_type(name, self.block)
            except gdb.error:
                pass
        return gdb.lookup_type(name)

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
        found = gdb.lookup_symbol(function, self.block)[0]
        if found is None or int(found.value().address) & MASK != self.entry:
            return None
        return f"{function}::{name}"

    def register_of(self, name):
        """The register in which the psABI has an argument at the entry; None where it has none.

        None, too, for a copy that gcc has specialised: `.constprop`, `.isra`, `.part`.
        """
        if self.registers is None:
            self.registers = {}
            symbol = gdb.execute(f"info symbol {self.entry:#x}", to_string=True)
            if "." not in symbol.partition(" in section")[0]:
                self.registers = argument_registers(self.block)
        return self.registers.get(name)


# gdb's numbers of the registers that arguments are in (System V psABI, 3.2.3, "Passing").
ARGUMENT_REGISTERS = (5, 4, 3, 2, 8, 9)


def argument_registers(block):
    """The registers of a function's arguments, as far as one register holds one of them.

    The kernel has no fractions, so that of 16 bytes each 8 take the next register.
    """
    free, registers = list(ARGUMENT_REGISTERS), {}
    result = block.function.type.target()
    if result is not None and plain(result).sizeof > 16:
        free.pop(0)  # where the caller wants it
    for symbol in block:
        if not symbol.is_argument:
            continue
        words = -(-plain(symbol.type).sizeof // 8)
        if 1 <= words <= min(2, len(free)):
            if words == 1:
                registers[symbol.name] = free[0]
            del free[:words]
    return registers


def is_same_block(one, other):
    """Whether two blocks around one address are the same: gdb has no identity of them."""
    return other is not None and depth_of(one) == depth_of(other)


def depth_of(block):
    depth = 0
    while block is not None:
        block = block.superblock
        depth += 1
    return depth


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


def const(number):
    return ["const64", number & MASK]


def extend(kind):
    """What makes a register's 64 bits a value of a type."""
    kind = plain(kind)
    if kind.code == gdb.TYPE_CODE_BOOL:
        return [["zero_ext", 8]]
    if kind.sizeof >= 8:
        return []
    return [["ext" if is_signed(kind) else "zero_ext", 8 * kind.sizeof]]


def as_bool(code):
    return [*code, ["log_not", 0], ["log_not", 0]]


class Compiler:
    """Compiles an expression for a function's entry."""

    def __init__(self, text, scope):
        self.scope = scope
        self.tokens = tokens_of(expanded(text))
        self.at = 0

    # Reading

    def peek(self, *texts):
        token = self.tokens[self.at] if self.at < len(self.tokens) else None
        if not texts:
            return token
        return token is not None and token.kind == "operator" and token.text in texts

    def take(self, *texts):
        """The next token if it is one of those; without any, whatever it is."""
        token = self.peek()
        if token is None:
            if texts:
                return None
            raise Refused("it ends too early")
        if texts and (token.kind != "operator" or token.text not in texts):
            return None
        self.at += 1
        return token

    def need(self, text):
        if self.take(text) is None:
            token = self.peek()
            raise Refused(
                "'{}' expected {}".format(text, f"before '{token.text}'" if token else "at its end")
            )

    def compile(self):
        item = self.conditional()
        token = self.peek()
        if token is not None:
            if token.text in ("=", "++", "--") or re.match(r"[^=!<>]=$", token.text):
                raise Refused("it assigns; nothing is changed by reading")
            raise Refused(f"'{token.text}' is not understood there")
        return item

    # Types

    def type_ahead(self, at):
        """Whether a type begins at a token."""
        token = self.tokens[at] if at < len(self.tokens) else None
        if token is None or token.kind != "name":
            return False
        if token.text in TYPE_WORDS or token.text in ANNOTATIONS:
            return True
        if token.text in ("typeof", "__typeof__"):
            return True
        if token.text in self.scope.own:
            return False
        symbol = lookup(token.text, self.scope.block)
        return symbol is not None and symbol.addr_class == gdb.SYMBOL_LOC_TYPEDEF

    def take_type(self):
        words, kind = [], None
        while True:
            token = self.peek()
            if token is None or token.kind != "name":
                break
            if token.text in QUALIFIERS or token.text in ANNOTATIONS:
                self.at += 1
            elif token.text in ("typeof", "__typeof__"):
                self.at += 1
                self.need("(")
                kind = self.take_type() if self.type_ahead(self.at) else self.conditional().type
                self.need(")")
            elif token.text in TAGS:
                self.at += 1
                kind = self.scope.lookup_type(f"{token.text} {self.take().text}")
            elif token.text in TYPE_WORDS:
                self.at += 1
                words.append("_Bool" if token.text == "bool" else token.text)
            elif kind is None and not words:
                self.at += 1
                kind = self.scope.lookup_type(token.text)
            else:
                break
        if kind is None:
            kind = integer_type(words)
        while self.peek("*") or self.is_qualifier():
            if self.take("*"):
                kind = kind.pointer()
            else:
                self.at += 1
        if self.peek("("):
            raise Refused(
                "a cast to a pointer to a function is not understood", "cast it to `long`"
            )
        while self.take("["):
            size = self.take()
            self.need("]")
            kind = kind.array(int(size.text, 0) - 1)
        return kind

    def is_qualifier(self):
        token = self.peek()
        return token is not None and token.text in QUALIFIERS | ANNOTATIONS

    # Operators, by their precedence

    def conditional(self):
        item = self.binary(0)
        if not self.take("?"):
            return item
        other, end = new_label(), new_label()
        one = None if self.peek(":") else rvalue(self.conditional())
        self.need(":")
        two = rvalue(self.conditional())
        test = self.condition(item)
        if one is None:
            one = rvalue(item)
        if is_integer(one.type) and is_integer(two.type):
            kind = common_type(one.type, two.type)
            one, two = self.convert(one, kind), self.convert(two, kind)
        code = [*test, ["log_not", 0], ["if_goto", other], *one.code, ["goto", end]]
        code += [["label", other], *two.code, ["label", end]]
        return Item(one.type if is_pointer(one.type) else two.type, "value", code)

    LEVELS = (
        ("||",),
        ("&&",),
        ("|",),
        ("^",),
        ("&",),
        ("==", "!="),
        ("<", ">", "<=", ">="),
        ("<<", ">>"),
        ("+", "-"),
        ("*", "/", "%"),
    )

    def binary(self, level):
        if level == len(self.LEVELS):
            return self.unary()
        item = self.binary(level + 1)
        while True:
            token = self.take(*self.LEVELS[level])
            if token is None:
                return item
            other = self.binary(level + 1)
            if token.text in ("&&", "||"):
                item = self.logic(token.text, item, other)
            else:
                item = self.arithmetic(token.text, item, other)

    def logic(self, operator, one, other):
        short, end = new_label(), new_label()
        test = [] if operator == "||" else [["log_not", 0]]
        code = [*self.condition(one), *test, ["if_goto", short]]
        code += [*self.condition(other), *test, ["if_goto", short]]
        code += [const(operator == "&&"), ["goto", end]]
        code += [["label", short], const(operator == "||"), ["label", end]]
        return Item(integer_type(["int"]), "value", code)

    def condition(self, item):
        item = rvalue(item)
        if not is_integer(item.type) and not is_pointer(item.type):
            raise Refused(f"{described(item)} is no truth value")
        return item.code

    def arithmetic(self, operator, one, other):
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
            return self.pointer_arithmetic(operator, one, other)
        if operator in ("<<", ">>"):
            kind = promoted(one.type)
            one = self.convert(one, kind)
            name = (
                "lsh" if operator == "<<" else "rsh_signed" if is_signed(kind) else "rsh_unsigned"
            )
            code = [*one.code, *other.code, [name, 0]]
            return Item(kind, "value", code + extend(kind))
        kind = common_type(one.type, other.type)
        one, other = self.convert(one, kind), self.convert(other, kind)
        return self.operation(operator, one, other, kind)

    def operation(self, operator, one, other, kind):
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
        return Item(kind, "value", [*both, [word, 0], *extend(kind)])

    def pointer_arithmetic(self, operator, one, other):
        if operator in ("==", "!=", "<", ">", "<=", ">="):
            return self.operation(operator, one, other, integer_type(["unsigned", "long"]))
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
        return Item(
            one.type, "value", [*one.code, *scaled, ["add" if operator == "+" else "sub", 0]]
        )

    def unary(self):
        token = self.take("!", "-", "+", "~", "*", "&", "++", "--")
        if token is not None:
            if token.text in ("++", "--"):
                raise Refused("it assigns; nothing is changed by reading")
            return self.prefix(token.text, self.unary())
        token = self.peek()
        if token is not None and token.text in ("sizeof", "alignof", "_Alignof"):
            return self.sizeof()
        if self.peek("(") and self.type_ahead(self.at + 1):
            self.at += 1
            kind = self.take_type()
            self.need(")")
            return self.cast(self.unary(), kind)
        return self.postfix(self.primary())

    def prefix(self, operator, item):
        if operator == "&":
            return self.address_of(item)
        if operator == "*":
            return self.dereference(item)
        item = rvalue(item)
        if operator == "!":
            code = [*self.condition(item), ["log_not", 0]]
            return Item(integer_type(["int"]), "value", code)
        if not is_integer(item.type):
            raise Refused(f"{described(item)} has no '{operator}'")
        kind = promoted(item.type)
        code = self.convert(item, kind).code
        if operator == "-":
            code = [const(0), *code, ["sub", 0], *extend(kind)]
        elif operator == "~":
            code = [*code, ["bit_not", 0], *extend(kind)]
        return Item(kind, "value", code)

    def sizeof(self):
        word = self.take().text
        if word != "sizeof":
            raise Refused(f"{word} is not understood")
        if self.peek("(") and self.type_ahead(self.at + 1):
            self.at += 1
            kind = self.take_type()
            self.need(")")
        else:
            kind = self.unary().type
        return Item(integer_type(["unsigned", "long"]), "value", [const(kind.sizeof)])

    def cast(self, item, kind):
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
        return self.convert(item, kind)

    def convert(self, item, kind):
        item = rvalue(item)
        if plain(kind).sizeof > 8:
            raise Refused(
                f"it computes with a {kind} of {8 * plain(kind).sizeof} bits, and only 64 are "
                "computed here",
                "it can be collected alone; compute with it in Python",
            )
        if plain(kind).code == gdb.TYPE_CODE_BOOL:
            return Item(kind, "value", as_bool(item.code))
        return Item(kind, "value", item.code + extend(kind))

    def address_of(self, item):
        if item.bits is not None:
            raise Refused("%s is a bit-field, which has no address" % (item.what or "it"))
        if item.where not in ("memory", "nodebug"):
            raise Refused(
                f"{item.what or 'it'} lies in a register at the entry, which has no address"
            )
        kind = item.type if item.type is not None else gdb.lookup_type("void")
        return Item(kind.pointer(), "value", item.code)

    def dereference(self, item):
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

    def postfix(self, item):
        while True:
            if self.take("["):
                index = self.conditional()
                self.need("]")
                if item.where == "parts":
                    raise Refused(f"{described(item)} lies in registers")
                item = self.dereference(self.pointer_arithmetic("+", rvalue(item), rvalue(index)))
            elif self.peek(".", "->"):
                arrow = self.take().text
                item = self.member(item, arrow, self.take())
            elif self.peek("("):
                raise Refused(
                    "it calls %s, and nothing can be called there" % (item.what or "a function"),
                    "collect what is to be looked at, and compute with it in Python",
                )
            elif self.peek("++", "--"):
                raise Refused("it assigns; nothing is changed by reading")
            else:
                return item

    def member(self, item, arrow, token):
        if token.kind != "name":
            raise Refused(f"'{token.text}' is no member's name")
        if plain(item.type).code in (gdb.TYPE_CODE_PTR, gdb.TYPE_CODE_ARRAY):
            item = self.dereference(item)
        elif arrow == "->":
            raise Refused(f"{described(item)} is no pointer")
        kind = plain(item.type)
        if kind.code not in COMPOUND:
            raise Refused(f"{described(item)} has no members")
        if not kind.fields():
            raise Refused(f"what is in a {kind} is not known here: it is only declared")
        found = find_member(kind, token.text)
        if found is None:
            raise Refused(f"{kind} has no member {token.text}")
        position, width, member = found
        what = "{}{}{}".format(item.what or "…", arrow, token.text)
        if item.where == "parts":
            return self.part(item, position, width, member, what)
        code = item.code
        if width:
            bits = (item.bits[0] if item.bits else 0) + position
            return Item(member, "memory", code, (bits, width), what, item.offset)
        if position:
            code = [*code, const(position // 8), ["add", 0]]
        return Item(member, "memory", code, None, what, item.offset)

    def part(self, item, position, width, member, what):
        """A member of a structure that lies in registers; the code is a list of (code, bytes)."""
        begin = 0
        bits = width or 8 * plain(member).sizeof
        for code, size in item.code:
            if begin <= position and position + bits <= begin + 8 * size:
                shift = position - begin
                code = [*code, *([const(shift), ["rsh_unsigned", 0]] if shift else [])]
                if plain(member).code in COMPOUND or plain(member).code == gdb.TYPE_CODE_ARRAY:
                    return Item(member, "parts", [(code, plain(member).sizeof)], what=what)
                name = "ext" if is_signed(member) else "zero_ext"
                return Item(
                    member, "value", [*code, [name, bits]] if bits < 64 else code, what=what
                )
            begin += 8 * size
        if plain(member).code in COMPOUND and not position:
            return Item(member, "parts", item.code, what=what)
        raise Refused(f"{what} lies in more than one register")

    # Variables and constants

    def primary(self):
        token = self.take()
        if token.kind == "number":
            return number_item(token.text)
        if token.kind == "char":
            return Item(integer_type(["int"]), "value", [const(char_of(token.text))])
        if token.kind == "text":
            while self.peek() is not None and self.peek().kind == "text":
                self.at += 1
            return Item(gdb.lookup_type("char").pointer(), "text", [], what=token.text)
        if token.kind == "float":
            raise Refused(f"the kernel has no fractions: {token.text}")
        if token.kind == "register":
            return self.register(token.text)
        if token.kind == "file":
            self.need("::")
            return self.qualified([token.text, self.take().text])
        if token.kind == "name":
            names = [token.text]
            while self.take("::"):
                names.append(self.take().text)
            if self.peek("("):
                raise Refused(
                    f"it calls {token.text}(), and nothing can be called there",
                    "collect what is to be looked at, and compute with it in Python",
                )
            return self.qualified(names) if len(names) > 1 else self.variable(token.text)
        if token.text == "(":
            item = self.conditional()
            self.need(")")
            return item
        raise Refused(f"'{token.text}' is not understood there")

    def register(self, name):
        if self.peek("("):
            raise Refused(
                f"{name}() is gdb's, and gdb does not see the call",
                "collect what is to be looked at, and compute with it in Python",
            )
        kind = gdb.parse_and_eval(name).type
        if plain(kind).code == gdb.TYPE_CODE_VOID:
            raise Refused(f"there is no register {name}")
        if not (is_integer(kind) or is_pointer(kind)) or plain(kind).sizeof > 8:
            raise Refused(f"{name} is a {kind}, and general registers are read there")
        code = self.located(name)
        if is_integer(kind):
            code += extend(kind)
        return Item(kind, "value", code, what=name)

    def located(self, name):
        """Where gdb says that a variable is, or what a register holds."""
        try:
            return parse_listing(gdb.execute("maint agent-eval " + name, to_string=True))
        except gdb.error as error:
            raise Refused(str(error)) from None

    def qualified(self, names):
        """`'file.c'::name`, `function::name`."""
        text = "::".join(names)
        if len(names) == 2 and names[0].startswith("'") and "." in names[0]:
            return self.global_item(self.scope.statics.of_file(*names)[0], names[1])
        block = self.scope.block
        if (
            block is not None
            and names[:-1] == [block.function.name]
            and names[-1] in self.scope.own
        ):
            return self.variable(names[-1])
        try:
            value = gdb.parse_and_eval(text)
            address = value.address
        except gdb.error as error:
            raise Refused(str(error)) from None
        if value.is_optimized_out:
            raise Refused(f"{text} was optimised out by the compiler")
        if address is None:
            raise Refused(f"{text} lies in no memory")
        return Item(value.type, "memory", [const(int(address))], what=text)

    def variable(self, name):
        symbol = self.scope.own.get(name)
        if name in self.scope.twofold:
            raise Refused(
                f"gcc has specialised this copy of the function, and its debug info has {name} "
                "twice"
            )
        if symbol is None:
            symbol = self.scope.statics.find(name, self.scope.block)
            if symbol is None:
                return self.without_debug_info(name)
        if symbol.addr_class == gdb.SYMBOL_LOC_OPTIMIZED_OUT:
            raise Refused(f"{name} was optimised out by the compiler")
        if symbol.addr_class == gdb.SYMBOL_LOC_TYPEDEF:
            raise Refused(f"{name} is a type")
        if symbol.needs_frame:
            return self.local(symbol)
        return self.global_item(symbol, name)

    def global_item(self, symbol, name):
        """A variable or function that is the same everywhere, or a constant."""
        value = symbol.value()
        address = value.address
        if address is None:
            if value.is_optimized_out:
                raise Refused(f"{name} was optimised out by the compiler")
            return Item(value.type, "value", [const(int(value))], what=name)
        item = Item(value.type, "memory", [const(int(address))], what=name)
        is_function = value.type.code == gdb.TYPE_CODE_FUNC
        if self.scope.statics.is_per_cpu(int(address)) and not is_function:
            item.offset = self.cpu_offset()
        return item

    def cpu_offset(self):
        """This CPU's offset of per-CPU variables, __per_cpu_offset[cpu] (mm/percpu.c)."""
        text = f"__per_cpu_offset[{self.scope.statics.cpu}]"
        return rvalue(Compiler(text, self.scope).compile()).code

    def local(self, symbol):
        """A variable of the function's own."""
        name = self.scope.own_name(symbol.name)
        kind = plain(symbol.type)
        if kind.code in (*INTEGERS, gdb.TYPE_CODE_PTR) and kind.sizeof <= 8:
            if name is None:
                parts = register_parts(symbol.name, kind, self.scope.entry)
                code = parts[0][0] if parts is not None and len(parts) == 1 else None
            else:
                code = self.located(name)
            if code is None:
                raise Refused(
                    f"gdb does not find {symbol.name} of this copy of the function, and something "
                    "else is inlined at its first instruction"
                )
            self.check_register(symbol, code)
            return Item(symbol.type, "value", code + extend(kind), what=symbol.name)
        error = "gdb does not find this copy of the function"
        if name is not None:
            try:
                code = parse_listing(gdb.execute("maint agent-eval &" + name, to_string=True))
                return Item(symbol.type, "memory", code, what=symbol.name)
            except gdb.error as refusal:
                error = str(refusal)
        parts = register_parts(symbol.name, kind, self.scope.entry)
        if parts is None or sum(size for _, size in parts) != kind.sizeof:
            raise Refused(f"{symbol.name}, a {symbol.type}: {error}")
        return Item(symbol.type, "parts", parts, what=symbol.name)

    def check_register(self, symbol, code):
        """Refuse an argument of which the debug info has only where it is later on.

        gcc may give one register for all of a function (seen of 6.1's ip_rt_update_pmtu).
        """
        if not symbol.is_argument or not code or code[0][0] != "reg" or len(code) > 2:
            return
        expected = self.scope.register_of(symbol.name)
        if expected is not None and code[0][1] != expected:
            raise Refused(
                f"the debug info has {symbol.name} in {NUMBERS[code[0][1]]}, where a caller does "
                f"not put it: in {NUMBERS[expected]}",
                f"at the entry it is (({symbol.type})${NUMBERS[expected]})",
            )

    def without_debug_info(self, name):
        if name in WORDS:
            kind = gdb.lookup_type("void").pointer() if name == "NULL" else integer_type(["int"])
            return Item(kind, "value", [const(WORDS[name])])
        try:
            address = int(gdb.parse_and_eval(f"(unsigned long)&{name}"))
        except gdb.error as error:
            raise Refused(str(error)) from None
        return Item(None, "nodebug", [const(address)], what=name)


def rvalue(item):
    """The value of what lies in memory."""
    if item.where == "value":
        return item
    if item.where == "text":
        raise Refused(
            "it has a text, which lies in no memory of the kernel's",
            "collect the text and compare it in Python",
        )
    if item.where == "nodebug":
        raise Refused(f"the debug info has no type for {item.what}", f"cast it: (long){item.what}")
    kind = plain(item.type)
    if kind.code == gdb.TYPE_CODE_ARRAY:
        if item.where == "parts":
            raise Refused(f"{described(item)} lies in registers")
        return Item(kind.target().pointer(), "value", item.address, what=item.what)
    if kind.code == gdb.TYPE_CODE_FUNC:
        return Item(item.type.pointer(), "value", item.address, what=item.what)
    if item.where == "parts" or kind.code not in (*INTEGERS, gdb.TYPE_CODE_PTR):
        return item  # a structure: only a member of it is a value
    if kind.sizeof > 8:
        return item
    if item.bits is not None:
        return Item(kind, "value", bit_field(item, kind), what=item.what)
    code = [*item.address, [f"ref{8 * kind.sizeof}", 0], *extend(kind)]
    return Item(item.type, "value", code, what=item.what)


def described(item):
    kind = item.type
    return "{} is a {}".format(item.what or "part of it", kind)


def described_name(symbol):
    return f"{symbol.name}, a {symbol.type}"


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
    return gdb.lookup_type(" ".join([*signs[:1], base]))


def promoted(kind):
    """C's integer promotion."""
    kind = plain(kind)
    if kind.sizeof < 4 or kind.code == gdb.TYPE_CODE_BOOL:
        return integer_type(["int"])
    if kind.code == gdb.TYPE_CODE_ENUM:
        words = ["long"] if kind.sizeof > 4 else ["int"]
        return integer_type(words if is_signed(kind) else ["unsigned", *words])
    return kind


def common_type(one, other):
    """C's usual arithmetic conversions."""
    one, other = promoted(one), promoted(other)
    size = max(one.sizeof, other.sizeof)
    if size > 8:
        return one if one.sizeof == size else other
    unsigned = any(kind.sizeof == size and not is_signed(kind) for kind in (one, other))
    return integer_type([*(["unsigned"] if unsigned else []), "long" if size == 8 else "int"])


def number_item(text):
    digits = text.rstrip("uUlL")
    suffix = text[len(digits) :].lower()
    octal = len(digits) > 1 and digits[0] == "0" and digits[1] not in "xXbB"
    number = int(digits, 8) if octal else int(digits, 0)
    decimal = digits[0] != "0"
    words = ["unsigned"] if "u" in suffix else []
    long = "l" in suffix
    if number >> 64:
        raise Refused(f"{text} has more than 64 bits")
    if number >> 63 or (
        not words and not decimal and not long and number >> 31 and not number >> 32
    ):
        words = ["unsigned"]
    if number >> (32 if words else 31):
        long = True
    return Item(integer_type([*words, "long" if long else "int"]), "value", [const(number)])


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


def bit_field(item, kind):
    """What reads a bit-field: the least that holds it, as a whole."""
    position, width = item.bits
    for size in (1, 2, 4, 8):
        begin = position // (8 * size) * size
        if position + width <= 8 * (begin + size):
            break
    else:
        raise Refused(f"{item.what or 'it'} is a bit-field across eight bytes")
    place = [const(begin), ["add", 0]] if begin else []
    code = [*item.address, *place, [f"ref{8 * size}", 0]]
    shift = position - 8 * begin
    if shift:
        code += [const(shift), ["rsh_unsigned", 0]]
    return [*code, ["ext" if is_signed(kind) else "zero_ext", width]]


RANGE = re.compile(r"Range (0x[0-9a-f]+)-(0x[0-9a-f]+): (.*)")
PIECE = re.compile(r"a variable in \$(\w+) \[(\d+)-byte piece\](?:, and )?")
WHOLE = re.compile(r"a variable in \$(\w+)\.?$")
MASK_LINE = re.compile(r"^Reg mask: ([0-9a-f ]+)$", re.MULTILINE)
# As gdb numbers them for agents, and in the remote protocol (gdb/features/i386/64bit-core.xml).
NUMBERS = [
    "rax",
    "rbx",
    "rcx",
    "rdx",
    "rsi",
    "rdi",
    "rbp",
    "rsp",
    "r8",
    "r9",
    "r10",
    "r11",
    "r12",
    "r13",
    "r14",
    "r15",
]


def outer_frame():
    """The frame of the function at whose entry the target is, not of what is inlined there."""
    frame = gdb.newest_frame()
    while frame.type() == gdb.INLINE_FRAME:
        frame = frame.older()
    return frame


def register_parts(name, kind, entry):
    """Where something lies that is in registers at a function's entry; None for all else."""
    try:
        # It looks in the selected frame.
        outer_frame().select()
        text = gdb.execute("info address " + name, to_string=True)
    except gdb.error:
        return register_mask(name, kind)
    finally:
        gdb.newest_frame().select()
    if "multi-location" in text:
        ranges = [RANGE.search(line) for line in text.splitlines()]
        at_entry = [
            match.group(3)
            for match in ranges
            if match and int(match.group(1), 16) <= entry < int(match.group(2), 16)
        ]
        text = at_entry[0] if at_entry else ""
    else:
        text = text.partition(" is ")[2]
    parts = PIECE.findall(text)
    whole = WHOLE.search(text.strip())
    if whole and not parts:
        parts = [(whole.group(1), str(kind.sizeof))]
    elif PIECE.sub("", text).strip(" .\n"):
        return None
    if not parts or not all(register in NUMBERS for register, _ in parts):
        return None
    return [([["reg", NUMBERS.index(register)]], int(size)) for register, size in parts]


def register_mask(name, kind):
    """The one register that a tracepoint would record of a variable, if it is in one.

    `info address` calls such a location corrupt where a structure has it (gdb 13).
    """
    inlined = gdb.newest_frame().type() == gdb.INLINE_FRAME
    if kind.sizeof > 8 or inlined:
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


def lookup(name, block):
    """gdb's symbol of a name, or None."""
    if block is not None:
        return gdb.lookup_symbol(name, block)[0]
    return gdb.lookup_global_symbol(name) or gdb.lookup_static_symbol(name)
