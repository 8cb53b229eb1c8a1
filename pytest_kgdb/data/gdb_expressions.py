"""C expressions, compiled inside gdb.

gdb compiles expressions for a target that evaluates them by itself, but not all that C has: no
enumerators' comparison, no anonymous members, no structure in registers; and it takes names for
those of the function that is inlined at an address. So it is asked only where a variable is, and
the rest is made here, from gdb's types.

Written for Python 3.6 and gdb 12, as gdb_agent.py.
"""

import re

import gdb
from gdb_places import (
    NUMBERS,
    new_label,
    parse_listing,
    register_parts,
)
from gdb_types import (
    ANNOTATIONS,
    COMPOUND,
    INTEGERS,
    MASK,
    QUALIFIERS,
    TAGS,
    TYPE_WORDS,
    WORDS,
    Refused,
    char_of,
    common_type,
    expanded,
    find_member,
    integer_type,
    is_integer,
    is_pointer,
    is_signed,
    lookup,
    plain,
    pointed_size,
    promoted,
    tokens_of,
)


class Item:
    """What a part of an expression is: its type, where it is, and the code that gets there."""

    def __init__(self, kind, where, code, bits=None, what=None, offset=None):
        self.type = kind
        # `value`: the code leaves it; `memory`: its address; `parts`: it lies in several places
        self.where = where
        self.code = code
        self.bits = bits  # of a bit-field: its first bit from the address, and its width
        self.what = what  # what it is called, for messages
        self.offset = offset  # of a per-CPU variable: returns code for what is added to the address

    @property
    def address(self):
        """The code that leaves the address of what lies in memory: on this CPU."""
        return self.code if self.offset is None else [*self.code, *self.offset(), ["add", 0]]


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
        match = find_member(kind, token.text)
        if match is None:
            raise Refused(f"{kind} has no member {token.text}")
        position, width, member = match
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
            # Only where it is read: the CPU's number may be one itself, found by its address.
            item.offset = self.cpu_offset
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
                parts = register_parts(symbol.name, kind, self.scope.entry, name)
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
        parts = register_parts(symbol.name, kind, self.scope.entry, name)
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
