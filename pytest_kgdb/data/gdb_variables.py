"""Where the variables of an expression are at a function's entry, inside gdb.

gdb is asked for each of the function's own; what is static has an address.

Written for Python 3.6 and gdb 12, as gdb_agent.py.
"""

import re

import gdb
from gdb_clones import (
    removed,
)
from gdb_items import (
    Item,
    const,
    extend,
    rvalue,
)
from gdb_places import (
    ARGUMENT_REGISTERS,
    NUMBERS,
    STACK_POINTER,
    in_words,
    is_on_stack,
    outer_frame,
    parse_listing,
    reads_memory,
    register_parts,
)
from gdb_symbols import (
    address_of,
    function_block,
    is_local,
    is_unmade,
    unassigned,
)
from gdb_types import (
    INTEGERS,
    MASK,
    WORDS,
    Refused,
    integer_type,
    is_integer,
    is_pointer,
    plain,
)

# gdb's other names (gdb manual, "Registers").
WHOLE_REGISTERS = {"pc": "rip", "sp": "rsp", "fp": "rbp"}


def type_of(symbol, value):
    """A variable's type; that of its value may be smaller (:func:`gdb_operands.shrinks`).

    So may what a pointer's points at, to gdb 16.
    """
    declared = value.type if symbol is None else symbol.type
    if plain(declared).code == gdb.TYPE_CODE_PTR or declared.sizeof > value.type.sizeof:
        return declared
    return value.type


class Variables:
    """The variables and registers that an expression names at a function's entry.

    :param compile_text: compiles another expression for the same entry.
    """

    def __init__(self, scope, compile_text):
        self.scope = scope
        self.compile = compile_text
        self.only_types = False  # whether it is the operand of a `sizeof`, which is not evaluated

    def register(self, name):
        kind = gdb.parse_and_eval(name).type
        if plain(kind).code == gdb.TYPE_CODE_VOID:
            raise Refused(f"there is no register {name}")
        if gdb.convenience_variable(name[1:]) is not None:
            raise Refused(
                f"{name} is a variable of gdb's, and gdb does not see the call",
                "write its value into the expression, as the test has it",
            )
        if not (is_integer(kind) or is_pointer(kind)) or plain(kind).sizeof > 8:
            raise Refused(f"{name} is a {kind}, and general registers are read there")
        try:
            code = self.located("$" + WHOLE_REGISTERS.get(name[1:], name[1:]))
        except Refused:  # in words about tracepoints
            raise Refused(
                f"{name} is not read there: registers are, as a whole",
                "cast one to its part, as in (u32)$rdx; the pc is $rip",
            ) from None
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
            # Where that function has a frame now, gdb takes the variable of that.
            outer = gdb.parse_and_eval("::".join(names[:-1]))
            other = function_block(int(outer.address or 0) & MASK)
            symbol = gdb.lookup_symbol(names[-1], other)[0] if other is not None else None
            if symbol is not None and is_local(symbol):
                raise Refused(f"{names[-1]} is a local variable or an argument of another function")
            value = gdb.parse_and_eval(text)
            address = value.address
        except gdb.error as error:
            raise Refused(str(error)) from None
        if value.is_optimized_out:
            raise Refused(f"{text} was optimised out by the compiler")
        if address is None:
            raise Refused(f"{text} lies in no memory")
        return Item(type_of(symbol, value), "memory", [const(int(address))], what=text)

    def variable(self, name):
        symbol = self.scope.own.get(name)
        if name in self.scope.arguments and self.scope.kinds:
            return self.of_copy(name)
        if len(self.scope.arguments.get(name, ())) > 1:
            raise Refused(f"the debug info of the function has {name} twice")
        if symbol is None:
            symbol = self.scope.statics.find(name, self.scope.block)
            if symbol is None:
                return self.without_debug_info(name)
        if symbol.addr_class == gdb.SYMBOL_LOC_OPTIMIZED_OUT:
            registers = self.scope.registers_of(name) if symbol.is_argument else ()
            if not registers:
                raise Refused(f"{name} was optimised out by the compiler")
            return self.given(symbol, registers)
        if symbol.addr_class == gdb.SYMBOL_LOC_TYPEDEF:
            raise Refused(f"{name} is a type")
        if is_local(symbol) and not symbol.is_argument:
            if self.only_types:
                return Item(symbol.type, "memory", [const(0)], what=name)
            raise unassigned(name, self.scope.block)
        if symbol.needs_frame:
            return self.local(symbol)
        return self.global_item(symbol, name)

    def of_copy(self, name):
        """An argument of a copy that gcc specialised or split.

        gcc gives a parameter that has one value at all calls as a constant. In other copies a
        constant would be what the function itself assigns later on.
        """
        symbols = self.scope.arguments[name]
        constants = [symbol for symbol in symbols if is_constant(symbol)]
        others = [symbol for symbol in symbols if symbol not in constants]
        function, copy = self.scope.block.function.name, self.scope.copy
        # A register of that may be there, too: the callers put the constant into it.
        if len(constants) == 1 and "constprop" in self.scope.kinds and all(map(is_there, others)):
            return self.global_item(constants[0], name)
        if len(symbols) > 1 or constants:
            raise Refused(
                f"the debug info of {copy} has the parameter `{name}` of {function} "
                + ("twice" if len(symbols) > 1 else "as a constant that is assigned later on")
            )
        if symbols[0].addr_class == gdb.SYMBOL_LOC_OPTIMIZED_OUT:
            raise removed(name, function, copy, "optimized out")
        try:
            return self.local(symbols[0])
        except Refused as refused:
            if any(word in refused.why for word in ("parameter_ref", "optimized out", "piece")):
                raise removed(name, function, copy, refused.why) from None
            raise

    def global_item(self, symbol, name):
        """A variable or function that is the same everywhere, or a constant."""
        if is_unmade(symbol):
            value, address = None, address_of(symbol)
        else:
            value = symbol.value()
            address = value.address
        if address is None:
            if value.is_optimized_out:
                raise Refused(f"{name} was optimised out by the compiler")
            kind = integer_type(["int"]) if is_int_constant(symbol) else value.type
            return Item(kind, "value", [const(int(value))], what=name)
        kind = symbol.type if value is None else type_of(symbol, value)
        item = Item(kind, "memory", [const(int(address))], what=name)
        is_function = kind.code == gdb.TYPE_CODE_FUNC
        if self.scope.statics.is_per_cpu(int(address)) and not is_function:
            # Only where it is read: the CPU's number may be one itself, found by its address.
            item.offset = self.cpu_offset
        return item

    def cpu_offset(self):
        """This CPU's offset of per-CPU variables, __per_cpu_offset[cpu] (mm/percpu.c)."""
        text = f"__per_cpu_offset[{self.scope.statics.cpu}]"
        return rvalue(self.compile(text)).code

    def given(self, symbol, registers):
        """An argument of which the debug info has no place: where a caller puts it.

        gcc has none for what it takes apart at once, as a number of 128 bits.
        """
        kind = plain(symbol.type)
        if kind.code in (*INTEGERS, gdb.TYPE_CODE_PTR) and kind.sizeof <= 8:
            code = [["reg", registers[0]], *extend(kind)]
            return Item(symbol.type, "value", code, what=symbol.name)
        return Item(symbol.type, "parts", in_words(registers, kind.sizeof), what=symbol.name)

    def local(self, symbol):
        """A variable of the function's own."""
        name = self.scope.own_name(symbol.name)
        kind = plain(symbol.type)
        registers = self.scope.registers_of(symbol.name) if symbol.is_argument else ()
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
            if registers and reads_memory(code):
                code = [["reg", registers[0]]]  # gcc stores it in the function's frame later on
            self.check_register(symbol, code)
            return Item(symbol.type, "value", code + extend(kind), what=symbol.name)
        if registers:
            return Item(symbol.type, "parts", in_words(registers, kind.sizeof), what=symbol.name)
        error = "gdb does not find this copy of the function"
        if name is not None:
            try:
                code = parse_listing(gdb.execute("maint agent-eval &" + name, to_string=True))
            except gdb.error as refusal:
                error = str(refusal)
            else:
                self.check_stack(symbol, code)
                return Item(symbol.type, "memory", code, what=symbol.name)
        parts = register_parts(symbol.name, kind, self.scope.entry, name)
        if parts is None or sum(size for _, size in parts) != kind.sizeof:
            raise Refused(f"{symbol.name}, a {symbol.type}: {error}")
        return Item(symbol.type, "parts", parts, what=symbol.name)

    def check_stack(self, symbol, code):
        """Refuse an argument that the debug info has in memory where no caller puts it."""
        if symbol.is_argument and not is_on_stack(code):
            raise Refused(
                f"the debug info has {symbol.name} in the function's own frame, where it is not "
                "stored yet at the entry"
            )

    def check_register(self, symbol, code):
        """Refuse an argument of which the debug info has only where it is later on.

        gcc may give one register for all of a function (seen of 6.1's ip_rt_update_pmtu).
        """
        if reads_memory(code):
            self.check_stack(symbol, code)
        if not symbol.is_argument or not code or code[0][0] != "reg" or len(code) > 2:
            return
        if self.scope.kinds and code[0][1] not in (*ARGUMENT_REGISTERS, STACK_POINTER):
            raise Refused(
                f"the debug info has {symbol.name} in {NUMBERS[code[0][1]]}, where no caller puts "
                "an argument"
            )
        registers = self.scope.registers_of(symbol.name)
        expected = registers[0] if registers else None
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


# From gcc 13 on, and in clang, one enumerator that is no int makes the others none.
GCC = re.compile(r"GNU C\d* (\d+)\.")
ALIKE_SINCE = 13
INTS = range(-(1 << 31), 1 << 31)


def is_int_constant(symbol):
    """Whether a constant is an enumerator that is an int (C11 6.4.4.3)."""
    kind = plain(symbol.type)
    if kind.code != gdb.TYPE_CODE_ENUM or int(symbol.value()) not in INTS:
        return False
    match = GCC.match(symbol.symtab.producer or "")
    if match is not None and int(match.group(1)) < ALIKE_SINCE:
        return True
    return all(field.enumval in INTS for field in kind.fields())


def is_constant(symbol):
    return not symbol.needs_frame and symbol.addr_class != gdb.SYMBOL_LOC_OPTIMIZED_OUT


def is_there(symbol):
    """Whether gdb finds a symbol in the outermost frame, whatever the value is."""
    try:
        return not symbol.value(outer_frame()).is_optimized_out
    except gdb.error:
        return False
