"""C expressions, compiled inside gdb.

gdb compiles expressions for a target that evaluates them by itself, but not all that C has: no
enumerators' comparison, no anonymous members, no structure in registers; and it takes names for
those of the function that is inlined at an address. So it is asked only where a variable is, and
the rest is made here, from gdb's types.

Written for Python 3.6 and gdb 12, as gdb_agent.py.
"""

import re

import gdb
from gdb_items import (
    Item,
    common_type,
    const,
    is_wide,
    number_item,
    rvalue,
)
from gdb_operators import (
    arithmetic,
    cast,
    condition,
    convert,
    dereference,
    element,
    member,
    pointer_arithmetic,
    prefix,
)
from gdb_per_cpu import (
    POSSIBLE,
    check_constants,
    checked_cpu,
)
from gdb_places import (
    new_label,
)
from gdb_types import (
    ANNOTATIONS,
    QUALIFIERS,
    TAGS,
    TYPE_WORDS,
    Refused,
    char_of,
    expanded,
    integer_type,
    is_integer,
    is_pointer,
    lookup,
    one_line,
    plain,
    text_size,
    tokens_of,
    type_named,
)
from gdb_variables import (
    Variables,
)


class Compiler:
    """Compiles an expression for a function's entry."""

    def __init__(self, text, scope):
        self.scope = scope
        text = one_line(text)
        check_constants(
            text, tokens_of(text), lambda name: scope.statics.is_constant(name, scope.block)
        )
        scope.statics.check_shared(tokens_of(text), scope.block)
        self.tokens = tokens_of(expanded(text))
        self.at = 0
        self.variables = Variables(scope, lambda other: Compiler(other, scope).compile())

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
                kind = self.type_of_operand("typeof", self.conditional)
                self.need(")")
            elif token.text in TAGS:
                self.at += 1
                kind = type_named(f"{token.text} {self.take().text}", self.scope.block)
            elif token.text in TYPE_WORDS:
                self.at += 1
                words.append("_Bool" if token.text == "bool" else token.text)
            elif kind is None and not words:
                self.at += 1
                kind = type_named(token.text, self.scope.block)
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
            if size.kind != "number":
                raise Refused(f"'{size.text}' is no number: an array's type has one in its []")
            self.need("]")
            kind = kind.array(number_item(size.text).code[0][1] - 1)
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
        is_short = self.peek(":")
        one = rvalue(item if is_short else self.conditional())
        self.need(":")
        two = rvalue(self.conditional())
        test = condition(item)
        if is_short and not is_wide(one):
            # `a ?: b` has `a` evaluated once (gcc manual, "Conditionals"): it is on the stack.
            test = [*one.code, ["dup", 0]]
            one = Item(one.type, "value", [], what=one.what, width=one.width)
        if is_integer(one.type) and is_integer(two.type):
            kind, width = common_type(one, two)
            one, two = convert(one, kind, width), convert(two, kind, width)
        elif one.where != two.where or one.where == "parts":
            raise Refused("'?' takes one of two values that lie in different places")
        elif one.where == "memory" and str(plain(one.type)) != str(plain(two.type)):
            raise Refused(f"'?' takes one of a {one.type} and a {two.type}")
        codes = [item.address if item.where == "memory" else item.code for item in (one, two)]
        drop = [["pop", 0]] if is_short else []
        code = [*test, ["log_not", 0], ["if_goto", other], *codes[0], ["goto", end]]
        code += [["label", other], *drop, *codes[1], ["label", end]]
        kind = one.type if is_pointer(one.type) else two.type
        return Item(kind, one.where, code, width=two.width)

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
                item = arithmetic(token.text, item, other)

    def logic(self, operator, one, other):
        short, end = new_label(), new_label()
        test = [] if operator == "||" else [["log_not", 0]]
        code = [*condition(one), *test, ["if_goto", short]]
        code += [*condition(other), *test, ["if_goto", short]]
        code += [const(operator == "&&"), ["goto", end]]
        code += [["label", short], const(operator == "||"), ["label", end]]
        return Item(integer_type(["int"]), "value", code)

    def unary(self):
        token = self.take("!", "-", "+", "~", "*", "&", "++", "--")
        if token is not None:
            if token.text in ("++", "--"):
                raise Refused("it assigns; nothing is changed by reading")
            return prefix(token.text, self.unary())
        token = self.peek()
        if token is not None and token.text in ("sizeof", "alignof", "_Alignof"):
            return self.sizeof()
        if self.peek("(") and self.type_ahead(self.at + 1):
            self.at += 1
            kind = self.take_type()
            self.need(")")
            return cast(self.unary(), kind)
        return self.postfix(self.primary())

    def sizeof(self):
        word = self.take().text
        if word != "sizeof":
            raise Refused(f"{word} is not understood")
        if self.peek("(") and self.type_ahead(self.at + 1):
            self.at += 1
            kind = self.take_type()
            self.need(")")
        else:
            kind = self.type_of_operand(word, self.unary)
        return Item(integer_type(["unsigned", "long"]), "value", [const(kind.sizeof)])

    def type_of_operand(self, word, operand):
        """The type that `sizeof` or `typeof` means."""
        if word == "typeof" and self.type_ahead(self.at):
            return self.take_type()
        around, self.variables.only_types = self.variables.only_types, True
        item = operand()
        self.variables.only_types = around
        if item.bits is not None:
            raise Refused(f"it takes the {word} of a bit-field, and C has none")
        return item.type

    def postfix(self, item):
        while True:
            if self.take("["):
                index = self.conditional()
                self.need("]")
                if item.where == "parts":
                    item = element(item, index)
                else:
                    item = dereference(pointer_arithmetic("+", rvalue(item), rvalue(index)))
            elif self.peek(".", "->"):
                arrow = self.take().text
                item = member(item, arrow, self.take())
            elif self.peek("("):
                raise Refused(
                    "it calls %s, and nothing can be called there" % (item.what or "a function"),
                    "collect what is to be looked at, and compute with it in Python",
                )
            elif self.peek("++", "--"):
                raise Refused("it assigns; nothing is changed by reading")
            else:
                return item

    # Names and constants

    def cpu_number(self):
        """The CPU of a per_cpu()."""
        self.need("(")
        item = self.conditional()
        self.need(")")
        return checked_cpu(item)

    def primary(self):
        token = self.take()
        if token.kind == "number":
            return number_item(token.text)
        if token.kind == "char":
            return Item(integer_type(["int"]), "value", [const(char_of(token.text))])
        if token.kind == "text":
            size = text_size(token.text)
            while self.peek() is not None and self.peek().kind == "text":
                size += text_size(self.take().text)
            return Item(gdb.lookup_type("char").array(size), "text", [], what=token.text)
        if token.kind == "float":
            raise Refused(f"the kernel has no fractions: {token.text}")
        if token.kind == "register":
            if token.text == POSSIBLE:
                return self.cpu_number()
            if self.peek("("):
                raise Refused(
                    f"{token.text}() is gdb's, and gdb does not see the call",
                    "collect what is to be looked at, and compute with it in Python",
                )
            return self.variables.register(token.text)
        if token.kind == "file":
            self.need("::")
            return self.variables.qualified([token.text, self.take().text])
        if token.kind == "name":
            names = [token.text]
            while self.take("::"):
                names.append(self.take().text)
            if self.peek("("):
                raise Refused(
                    f"it calls {token.text}(), and nothing can be called there",
                    "collect what is to be looked at, and compute with it in Python",
                )
            return (
                self.variables.qualified(names)
                if len(names) > 1
                else self.variables.variable(token.text)
            )
        if token.text == "(":
            item = self.conditional()
            self.need(")")
            return item
        raise Refused(f"'{token.text}' is not understood there")
