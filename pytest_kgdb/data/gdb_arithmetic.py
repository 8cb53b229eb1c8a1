"""Where gdb computes otherwise than C does, and how it is to be told what C means.

To gdb, `sizeof` is a signed int, `?:` has the type of the operand that it takes, two bools have no
sum, and an enumerator and a narrow bit-field are unsigned (gdb/eval.c, gdb/valarith.c). A cast says
what C has: C11 6.5.3.4, 6.5.15, 6.3.1.1 and 6.4.4.3. Of a bit-field of more bits than an int has, C
leaves the type to the compiler, and gcc computes with so many bits as it has (gdb_types.promotion);
gdb, with all of its type.

Written for Python 3.6 and gdb 12, as gdb_agent.py.
"""

import functools
from operator import mod, truediv

import gdb
from gdb_operands import (
    INT_MAX,
    INT_MIN,
    Node,
    Typed,
    common,
    cut,
    element_of,
    int_type,
    member_of,
    of_width,
    result,
    shrinking_target,
    shrinks,
    target_of,
    task_pointer,
    type_of_number,
)
from gdb_types import (
    ANNOTATIONS,
    KEYWORDS,
    QUALIFIERS,
    TAGS,
    TYPE_WORDS,
    WORDS,
    Refused,
    integer_type,
    is_integer,
    is_pointer,
    is_signed,
    lookup,
    plain,
    type_named,
)

# The binary operators that bind less than others come first.
LEVELS = ("||", "&&", "|", "^", "&", "== !=", "< > <= >=", "<< >>", "+ -", "* / %")
LEVEL_OF = {
    operator: level for level, operators in enumerate(LEVELS) for operator in operators.split()
}
TRUTH = ("||", "&&")
EQUALITY = ("==", "!=")
RELATIONAL = ("<", ">", "<=", ">=")
SIZES = ("sizeof", "_Alignof")
# Operators that are also those of a pointer or of a type's name.
AMBIGUOUS = ("*", "&")
COMPUTING = frozenset(["|", "^", "<", ">", "<=", ">=", "<<", ">>", "+", "-", "/", "%", "?", "~"])
# By what gdb divides where it could die of it.
DIVIDING = {"/": "$_divided", "%": "$_remainder"}
# What may be less than the least number of a type by more than all that it has.
WRAPPING = ("*", "<<")
ASSIGNING = ("=", "+=", "-=", "*=", "/=", "%=", "&=", "|=", "^=", "<<=", ">>=")


@functools.lru_cache(maxsize=None)  # noqa: UP033 # since Python 3.9
def loses_signs():
    """Whether gdb has the wrong bits of a product that is below -(1 << 32).

    gdb 16.3 has, gdb 13.1 has not: of what is still negative when one period of the type is added,
    it takes the bits of the absolute value.
    """
    return int(gdb.parse_and_eval("-2000000000 * 5")) != -1410065408


class Division(gdb.Function):
    """$_divided(A, B), $_remainder(A, B): `A / B` and `A % B`, of which gdb 13 does not die."""

    def __init__(self, name, divide):
        super().__init__(name)
        self.divide = divide

    def invoke(self, one, other):
        are_integers = is_integer(one.type) and is_integer(other.type)
        if are_integers and int(one) == -(1 << 63) and int(other) == -1:
            raise gdb.GdbError(f"{int(one)} divided by -1 is more than a long holds")
        return self.divide(one, other)


Division("_divided", truediv)
Division("_remainder", mod)


def may_overflow(one, other):
    """Whether a quotient may be more than its type holds: the processor then has an exception."""
    if other.literal or None in (one.promoted, other.promoted):
        return not other.literal
    kind, _ = common(one, other)
    return is_signed(kind) and kind.sizeof == 8


class Unread(Exception):
    """An expression is not read here: it has what C has not, or too little of it."""


def may_differ(tokens):
    """Whether an expression computes: a name, a member, an element and a cast do not.

    Equality is as C has it, but of bit-fields.
    """
    has_member = any(token.text in (".", "->") for token in tokens)
    has_element = any(token.text == "[" for token in tokens)
    for index, token in enumerate(tokens):
        if token.text in (COMPUTING if token.kind == "operator" else SIZES):
            return True
        if token.text in ASSIGNING[1:] or (has_member and token.text in EQUALITY):
            return True
        if (has_member or has_element) and token.text in ("&", "per_cpu"):
            return True
        if token.text in AMBIGUOUS and 0 < index < len(tokens) - 1:
            before, after = tokens[index - 1], tokens[index + 1]
            is_cast = before.text == ")" and tokens[index - 2].text == "*"
            follows = before.kind != "operator" or before.text in (")", "]")
            if follows and not is_cast and after.text not in (")", "*"):
                return True
    return False


class Reader:
    """Reads an expression as C does, and notes what gdb must be told.

    :param find: returns the symbol that a name means, or None.
    :param block: from where names are seen.
    :ivar edits: (start, end, text before, text after) of operands, inner ones first; text after
        is None of what the text before replaces.
    :ivar operands: (operand, operator) of all that have to be numbers or pointers.
    """

    def __init__(self, tokens, find, block):
        self.tokens, self.find, self.block = tokens, find, block
        self.at = 0
        self.edits = []
        self.operands = []

    def read(self):
        """The whole expression.

        :raises Unread: it is not read here.
        """
        node = self.sequence()
        if self.at < len(self.tokens):
            raise Unread
        return node

    # Tokens

    def peek(self, *texts):
        token = self.tokens[self.at] if self.at < len(self.tokens) else None
        return token is not None and token.kind == "operator" and token.text in texts

    def take(self, *texts):
        if not self.peek(*texts):
            return None
        self.at += 1
        return self.tokens[self.at - 1].text

    def need(self, text):
        if self.take(text) is None:
            raise Unread

    def name(self):
        token = self.tokens[self.at] if self.at < len(self.tokens) else None
        if token is None or token.kind != "name":
            raise Unread
        self.at += 1
        return token.text

    def node(self, first, typed, **what):
        return Node(first, self.at - 1, typed, **what)

    # Edits

    def surround(self, node, before, after):
        start, end = self.tokens[node.first].start, self.tokens[node.last].end
        self.edits.append((start, end, before, after))

    def convert(self, node, kind, width=None):
        self.surround(node, *cut(kind, width))

    def promote(self, node):
        """Have gdb compute with the type with which C does."""
        if node.exact or node.typed is None:
            return
        if node.typed.needs_cast or node.width is not None:
            self.convert(node, node.kind)

    def promote_both(self, operator, one, other):
        """Have gdb compute with the types with which C does; the result's, if bits do not count.

        :return: a type and its width; None where all bits count.
        """
        pairs = one.promoted, other.promoted
        shifts = operator in ("<<", ">>")
        if None in pairs or not (one.width or other.width):
            kind, width = None, None
        else:
            kind, width = pairs[0] if shifts else common(one, other)
        if shifts or kind is None or kind.sizeof > 8:
            self.promote(one)
            self.promote(other)
        else:
            for node, pair in ((one, pairs[0]), (other, pairs[1])):
                if not (node.exact and str(pair[0]) == str(kind) and pair[1] == width):
                    self.convert(node, kind, width)
        return (kind, width) if width is not None else None

    def compute_unsigned(self, operator, node, one, other):
        """Have gdb compute with unsigned numbers, and take the bits for a signed one."""
        kind = node.kind
        if kind is None or kind.sizeof > 8 or not is_signed(kind):
            return
        if one.literal and other.literal:
            return
        for operand in (one,) if operator == "<<" else (one, other):
            self.surround(operand, f"(unsigned {kind})(", ")")
        self.surround(node, f"({kind})(", ")")

    def scale(self, operator, one, other):
        """Have pointers be moved, and be counted apart, by the size that C has of their targets."""
        targets = shrinking_target(one), shrinking_target(other)
        if targets[0] is not None and targets[1] is not None:
            if operator == "-":
                self.surround(one, "(((long)(", ")")
                self.surround(other, "(long)(", f")) / {targets[0].sizeof})")
        elif targets[0] is not None:
            if operator == "-" and other.typed is None:
                text = " ".join(token.text for token in self.tokens[other.first : other.last + 1])
                raise Refused(
                    f"whether {text} is a pointer or a number is not known here",
                    f"a cast says it: (long)({text})",
                )
            self.surround(one, f"(({self.name_of(targets[0])} *)((unsigned long)(", ")")
            self.surround(other, "(long)(", f") * {targets[0].sizeof}))")
        elif targets[1] is not None and operator == "+":
            self.surround(
                one, f"(({self.name_of(targets[1])} *)((long)(", f") * {targets[1].sizeof}"
            )
            self.surround(other, "(unsigned long)(", ")))")

    def index(self, node, opening, index):
        """Have an element be where C has it, of what a pointer points at."""
        target = shrinking_target(node)
        if target is None or not is_pointer(node.typed.type):
            return
        closing = self.tokens[self.at - 1]
        self.surround(node, f"(*(({self.name_of(target)} *)((unsigned long)(", ")")
        self.edits.append((opening.start, opening.end, "+", None))
        self.surround(index, "(long)(", f") * {target.sizeof}")
        self.edits.append((closing.start, closing.end, ")))", None))

    # Operators, by their precedence

    def sequence(self):
        first, node = self.at, self.assignment()
        while self.take(","):
            last = self.assignment()
            typed = lambda last=last: last.typed  # noqa: E731 # as the others
            node = self.node(first, typed, member=last.member, passes_on=last.passes_on)
        return node

    def assignment(self):
        """What is assigned to gdb's own variables."""
        first, node = self.at, self.conditional()
        operator = self.take(*ASSIGNING)
        if operator is None:
            return node
        value = self.assignment()
        if operator != "=":
            self.promote(value)
        return self.node(first, None)

    def conditional(self):
        first, test = self.at, self.binary(0)
        if not self.take("?"):
            return test
        self.operands.append((test, "?"))
        if self.peek(":"):
            raise Unread  # gdb has no `a ?: b`
        one = self.sequence()
        self.need(":")
        other = self.conditional()
        return self.node(first, self.common(one, other), computed=True, passes_on=True)

    def common(self, one, other):
        """The type of two operands of which one is taken."""
        if one.typed is None or other.typed is None:
            return None
        kinds = one.kind, other.kind
        if None in kinds:
            pointers = [node.typed for node in (one, other) if is_pointer(node.typed.type)]
            if not pointers:
                return one.typed
            name = str(pointers[0].type)
            for node, kind in ((one, kinds[0]), (other, kinds[1])):
                if kind is not None and "{" not in name:
                    self.convert(node, name)
            return pointers[0]
        same = str(one.typed.type) == str(other.typed.type)
        if same and not (one.typed.bits or other.typed.bits):
            constant = one.typed.constant and other.typed.constant
            return Typed(one.typed.type, constant=constant)
        kind, width = common(one, other)
        for node in (one, other):
            if str(plain(node.typed.type)) != str(kind) or node.typed.bits or node.typed.constant:
                self.convert(node, kind, width)
        return of_width(kind, width)

    def binary(self, level):
        first, node = self.at, self.unary()
        while self.at < len(self.tokens):
            operator = self.tokens[self.at].text
            its = LEVEL_OF.get(operator, -1)
            if its < level or self.tokens[self.at].kind != "operator":
                break
            self.at += 1
            other = self.binary(its + 1)
            self.operands += [(node, operator), (other, operator)]
            typed, width = int_type, None
            if operator not in TRUTH and (operator not in EQUALITY or has_bits(node, other)):
                width = self.promote_both(operator, node, other)
            if operator not in (*TRUTH, *EQUALITY, *RELATIONAL):
                typed = result(operator, node, other)
            operands = node, other
            if operator in ("+", "-"):
                self.scale(operator, node, other)
            if operator in DIVIDING and may_overflow(node, other):
                self.surround(node, f"{DIVIDING[operator]}(", "")
                sign = self.tokens[node.last + 1]
                self.edits.append((sign.start, sign.end, ",", None))
                self.surround(other, "", ")")
            node = self.node(first, typed, exact=True, computed=True)
            if operator in WRAPPING and loses_signs():
                self.compute_unsigned(operator, node, *operands)
            if width is not None and typed is not int_type:
                self.convert(node, *width)
        return node

    def unary(self):
        first = self.at
        operator = self.take("!", "-", "+", "~", "*", "&", "++", "--")
        if operator is None:
            token = self.tokens[self.at] if self.at < len(self.tokens) else None
            if token is not None and token.kind == "name" and token.text in SIZES:
                return self.sizeof()
            if self.peek("(") and self.type_ahead(self.at + 1):
                self.at += 1
                kind = self.type_name()
                self.need(")")
                self.unary()
                return self.node(first, lambda: Typed(kind()), passes_on=True)
            return self.postfix()
        node = self.unary()
        if operator == "!":
            self.operands.append((node, operator))
            return self.node(first, int_type, exact=True, computed=True)
        if operator in ("-", "+", "~"):
            self.operands.append((node, operator))
            self.promote(node)
            typed = lambda: node.promoted and of_width(*node.promoted)  # noqa: E731 # as the others
            computed = self.node(first, typed, exact=True, computed=True)
            if node.width is not None and operator != "+":
                self.convert(computed, node.kind, node.width)
            return computed
        if operator == "*":
            return self.node(first, lambda: Typed(target_of(node.typed.type)))
        if operator == "&":
            self.refuse_bit_field(node)
            pointer = self.node(first, lambda: Typed(node.typed.type.pointer()))
            if node.typed is not None and shrinks(node.typed.type):
                self.surround(pointer, f"(({self.name_of(node.typed.type)} *)", ")")
            return pointer
        return self.node(first, lambda: node.typed)

    def sizeof(self):
        first = self.at
        self.at += 1
        edits = len(self.edits)
        if self.peek("(") and self.type_ahead(self.at + 1):
            self.at += 1
            self.type_name()
            self.need(")")
            operand = None
        else:
            operand = self.unary()
        node = self.node(first, lambda: Typed(integer_type(["unsigned", "long"])), exact=True)
        if is_bit_field(operand):
            raise Refused("it takes the sizeof of a bit-field, and C has none")
        its = operand.typed if operand is not None else None
        if its is not None and (operand.computed or shrinks(its.type)):
            del self.edits[edits:]
            kind = operand.kind or its.type
            self.surround(node, f"((unsigned long){kind.sizeof})", None)
        else:
            self.surround(node, "((unsigned long)", ")")
        return node

    def name_of(self, kind):
        """The name of a structure's type, which means that type here."""
        name = str(kind.unqualified())
        if "{" in name or type_named(name, self.block).sizeof != kind.sizeof:
            raise Refused(
                f"it computes with the address of a {name}, for whose flexible array gdb has "
                "another size",
                "take that of a member",
            )
        return name

    def refuse_bit_field(self, node):
        """Refuse the address of a bit-field, for which gdb has that of the word."""
        if node.member is not None and is_bit_field(node):
            raise Refused(f"it takes the address of {node.member[1]}, a bit-field, which has none")

    def postfix(self):
        first, node = self.at, self.primary()
        while True:
            if self.take("["):
                opening = self.tokens[self.at - 1]
                index = self.sequence()
                self.need("]")
                self.index(node, opening, index)
                node = self.node(first, element_of(node, index))
            elif self.take("("):
                while not self.take(")"):
                    self.assignment()
                    self.take(",")
                node = self.node(first, None, passes_on=True)
            elif self.take(".", "->"):
                parent, name = node, self.name()
                node = self.node(first, member_of(parent, name), member=(parent, name))
            elif self.take("++", "--"):
                node = self.node(first, lambda node=node: node.typed)
            else:
                return node

    def primary(self):
        first = self.at
        if self.take("("):
            inner = self.sequence()
            self.need(")")
            its = {
                name: getattr(inner, name)
                for name in ("exact", "computed", "literal", "member", "passes_on")
            }
            return self.node(first, lambda: inner.typed, **its)
        if self.at >= len(self.tokens):
            raise Unread
        token = self.tokens[self.at]
        self.at += 1
        if token.kind == "number":
            kind = lambda: Typed(type_of_number(token.text))  # noqa: E731 # as the others
            return self.node(first, kind, exact=True, literal=True)
        if token.kind == "char":
            # To gdb it is a char (C11 6.4.4.4).
            return self.node(first, int_type, exact=True, computed=True)
        if token.kind == "file":
            self.need("::")
            name = self.name()
            return self.node(first, lambda: self.variable(f"{token.text}::{name}"))
        if token.kind in ("text", "register", "float"):
            return self.node(first, None, passes_on=token.kind == "register")
        if token.kind != "name" or token.text in KEYWORDS:
            raise Unread
        if token.text == "current":
            return self.node(first, task_pointer)
        if token.text in ("per_cpu", "per_cpu_ptr") and self.take("("):
            variable = self.conditional()
            self.refuse_bit_field(variable)
            self.need(",")
            self.conditional()
            self.need(")")
            return self.node(first, lambda: variable.typed)
        if self.take("::"):
            self.name()
            return self.node(first, None)
        return self.node(first, lambda: self.variable(token.text))

    def variable(self, name):
        symbol = self.find(name)
        if symbol is None:
            return Typed(integer_type(["int"])) if name in WORDS else None
        if symbol.addr_class == gdb.SYMBOL_LOC_TYPEDEF:
            return None
        kind = symbol.type
        constant = False
        if symbol.addr_class == gdb.SYMBOL_LOC_CONST and plain(kind).code == gdb.TYPE_CODE_ENUM:
            constant = INT_MIN <= int(symbol.value()) <= INT_MAX
        return Typed(kind, constant=constant)

    # Types

    def type_ahead(self, at):
        token = self.tokens[at] if at < len(self.tokens) else None
        if token is None or token.kind != "name":
            return False
        if token.text in TYPE_WORDS | ANNOTATIONS | {"typeof", "__typeof__"}:
            return True
        after = self.tokens[at + 1].text if at + 1 < len(self.tokens) else ""
        if after not in ("*", ")") and after not in QUALIFIERS | ANNOTATIONS:
            return False
        symbol = lookup(token.text, self.block)
        return symbol is not None and symbol.addr_class == gdb.SYMBOL_LOC_TYPEDEF

    def type_name(self):
        """The tokens of a type up to its parenthesis; what tells which one it is."""
        first, depth = self.at, 0
        while not (depth == 0 and self.peek(")")):
            if self.at >= len(self.tokens):
                raise Unread
            depth += {"(": 1, "[": 1, ")": -1, "]": -1}.get(self.tokens[self.at].text, 0)
            self.at += 1
        words = [token.text for token in self.tokens[first : self.at]]
        words = [word for word in words if word not in QUALIFIERS | ANNOTATIONS]
        return lambda: self.type_of(words)

    def type_of(self, words):
        stars = 0
        while words and words[-1] == "*":
            stars += 1
            words = words[:-1]
        if words[0] in TAGS and len(words) == 2:
            kind = type_named(" ".join(words), self.block)
        elif all(word in TYPE_WORDS for word in words):
            kind = integer_type(["_Bool" if word == "bool" else word for word in words])
        elif len(words) == 1:
            kind = type_named(words[0], self.block)
        else:
            raise Refused("a type that is not read here")
        for _ in range(stars):
            kind = kind.pointer()
        return kind


def is_bit_field(node):
    """Whether an operand is a bit-field itself, and not computed with one."""
    if node is None or node.computed or node.typed is None:
        return False
    return node.typed.bits > 0


def has_bits(*nodes):
    return any(node.typed is not None and node.typed.bits for node in nodes)


def edits_for(tokens, find, block):
    """What gdb must be told of an expression besides its names: a list as :class:`Reader` has."""
    if not may_differ(tokens):
        return []
    reader = Reader(tokens, find, block)
    try:
        reader.read()
    except Unread:
        return []
    return reader.edits


def edited(text, edits):
    """A text after edits, the inner ones first; what is inside of one that is replaced is gone."""
    before, after, replaced = {}, {}, {}
    for start, end, opening, closing in edits:
        if closing is None:
            replaced[start] = max(replaced.get(start, (0, "")), (end, opening))
        else:
            before[start] = opening + before.get(start, "")
            after[end] = after.get(end, "") + closing
    pieces, at = [], 0
    for place in sorted({*before, *after, *replaced}):
        if place < at:
            continue
        pieces += [text[at:place], after.get(place, ""), before.get(place, "")]
        at = place
        if place in replaced:
            at, spelled = replaced[place]
            pieces.append(spelled)
            pieces.append(after.get(at, ""))
            after.pop(at, None)
    return "".join([*pieces, text[at:]])
