"""The agent inside gdb: one MI command, `-kgdb`, that answers in JSON.

gdb runs this file in its own Python, so it imports nothing of the package, and is written for
Python 3.6 and gdb 12 (gdb manual, "Extending gdb using Python").
"""

import contextlib
import functools
import json
import pathlib
import re
import sys

import gdb

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
from gdb_expressions import (
    Compiler,
    rvalue,
)
from gdb_names import Names, condition_for, entry_of, function_block, statics
from gdb_places import (
    Scope,
    listing_of,
)
from gdb_types import (
    COMPOUND,
    INTEGERS,
    Refused,
    find_member,
    is_signed,
    member_names,
    plain,
    tokens_of,
)
from gdb_unwinder import unwinder  # it lies beside this file

# kernel/debug/debug_core.c: the task on the CPU whose stop this is. In the kernel's own source the
# word is a macro, too (arch/x86/include/asm/current.h), but one for code that runs.
gdb.execute("macro define current kgdb_info[kgdb_active.counter].task")
# include/linux/percpu-defs.h, where they are macros, too, that end in an instruction.
gdb.execute(
    "macro define per_cpu_ptr(ptr, cpu) "
    "((__typeof__(ptr))((unsigned long)(ptr) + __per_cpu_offset[cpu]))"
)
gdb.execute("macro define per_cpu(var, cpu) (*per_cpu_ptr(&(var), cpu))")

names = Names()

values = {}  # id -> gdb.Value, until the kernel is resumed
counter = 0

CODES = {
    getattr(gdb, name): name[len("TYPE_CODE_") :].lower()
    for name in dir(gdb)
    if name.startswith("TYPE_CODE_")
}
SCALARS = ("int", "ptr", "enum", "bool", "char", "ref", "flt", "flags")
# From a stop's innermost frame outwards, how many names are given: enough to tell who called
# kgdb_breakpoint. Each frame costs gdb milliseconds.
STACK_NAMES = 6


class Refusal(gdb.GdbError):
    """An answer of `^error`, its text shown as it is."""


def keep(value):
    global counter
    counter += 1
    values[counter] = value
    return counter


def describe(value):
    """What the other side needs of a value at once."""
    kind = value.type.strip_typedefs()
    code = CODES.get(kind.code, "other")
    record = {"id": keep(value), "type": str(value.type), "code": code}
    if value.is_optimized_out:
        record["optimized_out"] = True
        return record
    if code == "array":
        low, high = kind.range()
        record["length"] = max(0, high - low + 1)
        if kind.sizeof == 0:
            record["flexible"] = True
    if code in ("ptr", "array"):
        record["target"] = target_of(kind)
    if code in ("struct", "union"):
        record["members"] = member_names(kind)
    if code in SCALARS:
        if code == "flt":
            record["float"] = float(value)
        else:
            record["int"] = number_of(value)
        record["text"] = text(value)
    address = value.address
    if address is not None:
        record["address"] = int(address)
    return record


def number_of(value):
    """A number of any size: gdb gives Python those of up to 64 bits (before gdb 14)."""
    kind = plain(value.type)
    if kind.sizeof <= 8:
        return int(value)
    number = int(value.format_string(format="z"), 16)
    bits = 8 * kind.sizeof
    return number - (1 << bits) if is_signed(kind) and number >> (bits - 1) else number


def target_of(kind):
    """What is pointed at, or what an array has: `char` for any type of one byte."""
    target = kind.target().strip_typedefs()
    if target.code == gdb.TYPE_CODE_INT and target.sizeof == 1 and "char" in str(target):
        return "char"
    return CODES.get(target.code, "other")


def op_symbols_around(addresses):
    """The symbol before each address."""
    symbols = []
    for address in addresses:
        output = gdb.execute(f"info symbol {address:#x}", to_string=True)
        symbols.append(output.partition(" in section")[0].partition(" + ")[0])
    return {"symbols": symbols}


def op_symbol_at(address):
    """The symbol that stands exactly there."""
    output = gdb.execute(f"info symbol {address:#x}", to_string=True)
    name = output.split(" ")[0]
    if output.startswith("No symbol") or " + " in output.partition(" in section")[0]:
        return {"symbol": None}
    return {"symbol": name}


def text(value):
    return value.format_string(max_elements=200, repeat_threshold=16)


def frame_at(level):
    frame = gdb.newest_frame()
    for _ in range(level):
        frame = frame.older()
        if frame is None:
            raise Refusal(f"there is no frame {level}")
    return frame


def frame_record(frame, level, behind=False):
    sal = gdb.find_pc_line(frame.pc() - 1) if behind else frame.find_sal()
    function = frame.name()
    if level and unwinder.is_interrupted(frame):
        # gdb takes the pc for a return address, and looks at the instruction before.
        sal = gdb.find_pc_line(frame.pc())
        function = op_symbol_at(frame.pc())["symbol"] or function
    return {
        "level": level,
        "function": function,
        "address": frame.pc(),
        "file": sal.symtab.filename if sal.symtab else None,
        "fullname": sal.symtab.fullname() if sal.symtab else None,
        "line": sal.line or None,
        "inline": frame.type() == gdb.INLINE_FRAME,
    }


def in_frame(level, work):
    """Do something with a frame selected, and put the selection back."""
    if level is None:
        return work()
    before = gdb.selected_frame()
    frame_at(level).select()
    try:
        return work()
    finally:
        if before.is_valid():
            before.select()


def selected_block():
    """Where the selected frame is; None where the debug info knows nothing of it."""
    try:
        return gdb.selected_frame().block()
    except (gdb.error, RuntimeError):
        return None


def checked(expression):
    """An expression for gdb in which each name means what it means in the selected frame."""
    return names.checked(expression, selected_block())


def op_evaluate(expression, frame=None):
    return in_frame(frame, lambda: describe(gdb.parse_and_eval(checked(expression))))


def op_condition(text, location):
    """A breakpoint's condition as gdb must have it."""
    try:
        addresses = [address for address, *_ in function_places(location)]
    except gdb.error:
        addresses = []  # a module's that is not loaded
    return {"condition": condition_for(text, location, addresses, names)}


def op_child(id, how, argument=None):
    value = values[id]
    if how == "member":
        kind = value.type.strip_typedefs()
        if kind.code == gdb.TYPE_CODE_PTR:
            value = value.dereference()
        return describe(value[argument])
    if how == "index":
        return describe(value[argument])
    if how == "dereference":
        return describe(value.dereference())
    if how == "cast":
        return describe(value.cast(find_type(argument)))
    raise Refusal(f"no such child: {how}")


def find_type(name):
    stars = len(name) - len(name.rstrip("* "))
    base = name.rstrip("* ").strip()
    kind = gdb.lookup_type(base)
    for _ in range(name[len(name) - stars :].count("*")):
        kind = kind.pointer()
    return kind


def is_parenthesised(tokens):
    """Whether the first token is a parenthesis that the last one closes."""
    if len(tokens) < 3 or tokens[0].text != "(":
        return False
    depth = 0
    for token in tokens[:-1]:
        depth += {"(": 1, ")": -1}.get(token.text, 0)
        if depth == 0:
            return False
    return True


def bit_field(expression):
    """The width in bits and the type of a bit-field; None of anything else."""
    try:
        tokens = tokens_of(expression)
    except Refused:
        return None
    while is_parenthesised(tokens):
        tokens = tokens[1:-1]
    if len(tokens) < 3 or tokens[-1].kind != "name" or tokens[-2].text not in (".", "->"):
        return None
    if tokens[0].kind == "operator" and tokens[0].text != "(":
        return None  # an operator on the member
    try:
        parent = gdb.parse_and_eval(checked(expression[tokens[0].start : tokens[-2].start]))
    except gdb.error:
        return None  # no member of one thing
    kind = plain(parent.type)
    if kind.code == gdb.TYPE_CODE_PTR:
        kind = plain(kind.target())
    member = find_member(kind, tokens[-1].text)
    return (member[1], member[2]) if member is not None and member[1] else None


def op_watchable(expression):
    """The address and size of an lvalue that a watchpoint can watch."""
    value = gdb.parse_and_eval(checked(expression))
    if bit_field(expression) is not None:
        raise Refused(
            f"{expression} is a bit-field, and a processor watches whole bytes",
            "watch a member beside it, or the bytes: *(char *)&(…)",
        )
    if value.address is None:
        raise Refused(
            f"{expression} is a value not located in memory",
            "an lvalue of the kernel's memory can be watched: a variable, a member",
        )
    return {"address": int(value.address) & MASK, "size": value.type.sizeof}


# include/linux/err.h: a pointer may be an error.
MAX_ERRNO = 4095


def op_assign(expression, value):
    """Assign a number or what a C expression says; one that does not fit is refused."""
    left = checked(expression)
    target = gdb.parse_and_eval(left)
    kind = plain(target.type)
    if isinstance(value, str):
        right = checked(value)
        source = gdb.parse_and_eval(right)
        numeric = plain(source.type).code in (*INTEGERS, gdb.TYPE_CODE_PTR)
        number = number_of(source) if numeric else None
    else:
        right, number = str(value), value
    if number is not None and kind.code in (*INTEGERS, gdb.TYPE_CODE_PTR):
        field = bit_field(expression)
        bits = field[0] if field is not None else 8 * kind.sizeof
        low, high = limits(kind, bits)
        if expression.strip().startswith("$"):
            low, high = -(1 << (bits - 1)), (1 << bits) - 1  # a register has no sign
        if not low <= number <= high:
            raise Refused(
                f"{expression} is a {target.type}{f' of {bits} bits' if field else ''}, which "
                f"cannot hold {number}: it holds {low} to {high}"
            )
        if kind.sizeof > 8:
            if target.address is None:
                raise Refused(f"{expression} lies in no memory")
            data = (number & (1 << bits) - 1).to_bytes(kind.sizeof, "little")
            gdb.selected_inferior().write_memory(int(target.address) & MASK, data)
            return {}
        if not isinstance(value, str):
            right = str(number) if number >= 0 else f"({number})"
    gdb.execute(f"set var {left} = {right}", to_string=True)
    return {}


def limits(kind, bits):
    """The least and the greatest number that a type holds."""
    if kind.code == gdb.TYPE_CODE_BOOL:
        return 0, 1
    if kind.code == gdb.TYPE_CODE_PTR:
        return -MAX_ERRNO, (1 << bits) - 1
    return (-(1 << (bits - 1)), (1 << (bits - 1)) - 1) if is_signed(kind) else (0, (1 << bits) - 1)


def op_returned(variable):
    """What a function returned that has just been finished, in the variable that gdb made."""
    value = gdb.parse_and_eval(variable)
    kind = plain(value.type)
    if kind.code == gdb.TYPE_CODE_INT and kind.sizeof == 16:
        # Which gdb 13 looks for in memory; it is in %rax and %rdx (System V psABI, 3.2.3).
        frame = gdb.newest_frame()
        words = [int(frame.read_register(name)) & MASK for name in ("rax", "rdx")]
        raw = b"".join(word.to_bytes(8, "little") for word in words)
        value = gdb.Value(raw, value.type)
    return describe(value)


def op_refresh(id):
    """The value as memory has it now; only for one with an address."""
    return describe(values[id].address.dereference())


def op_text(id):
    return {"text": text(values[id])}


def op_string(id, length=None):
    value = values[id]
    kind = value.type.strip_typedefs()
    if kind.code == gdb.TYPE_CODE_ARRAY and kind.range()[1] <= kind.range()[0]:
        # `char name[]`: only the NUL knows where it ends.
        value = value.address.cast(kind.target().pointer())
    if length is None:
        return {"string": value.string("utf-8", "replace")}
    return {"string": value.string("utf-8", "replace", length=length)}


# Image and modules lie above it (Documentation/arch/x86/x86_64/mm.rst).
KERNEL_TEXT = 0xFFFFFFFF80000000

# Where the kernel was entered, or a thread of its own began: what lies beyond is no frame.
OUTERMOST = (
    "entry_SYSCALL",
    "ret_from_fork",
    "secondary_startup",
    "x86_64_start",
    "start_cpu",
)


def op_select(frame):
    frame_at(frame).select()
    return {}


def op_registers(frame):
    """The general registers in a frame, as far as they are known there."""
    selected = frame_at(frame)
    values_by_name = {}
    for register in selected.architecture().registers("general"):
        try:
            values_by_name[register.name] = int(selected.read_register(register)) & (1 << 64) - 1
        except (gdb.error, ValueError):
            continue  # the callers of this frame's callees did not save it
    return {"registers": values_by_name}


def op_frames(limit, behind=False):
    """The stack.

    :param behind: whether the innermost frame's line is that of the instruction before.
    """
    frames = []
    frame = gdb.newest_frame()
    while frame is not None and len(frames) < limit:
        record = frame_record(frame, len(frames), behind and not frames)
        if frames and (record["address"] == 0 or record["function"] is None):
            if record["address"] >= KERNEL_TEXT:
                frames.append(record)  # a module that gdb has no symbols of; it knows no further
            break
        frames.append(record)
        if (record["function"] or "").startswith(OUTERMOST):
            break
        try:
            frame = frame.older()
        except gdb.error:
            break
    return {"frames": frames}


def op_variables(frame, arguments):
    """The arguments, or the other variables, of a frame, inner blocks' names first."""

    def work():
        records = {}
        selected = gdb.selected_frame()
        try:
            block = selected.block()
        except RuntimeError:
            return records
        while block is not None:
            for symbol in block:
                matches = symbol.is_argument if arguments else symbol.is_variable
                if matches and symbol.name not in records:
                    try:
                        records[symbol.name] = describe(symbol.value(selected))
                    except gdb.error as error:
                        records[symbol.name] = {"error": str(error)}
            if block.function is not None:
                break
            block = block.superblock
        return records

    return in_frame(frame, work)


def op_stack_names():
    names = []
    frame = gdb.newest_frame()
    while frame is not None and len(names) < STACK_NAMES:
        names.append(frame.name())
        try:
            frame = frame.older()
        except gdb.error:
            break
    return {"names": names, "pc": gdb.newest_frame().pc()}


def op_symbol(name):
    """Where a function or variable of that name is, if there is one."""
    symbol = gdb.lookup_global_symbol(name) or gdb.lookup_static_symbol(name)
    if symbol is not None and symbol.type.code == gdb.TYPE_CODE_FUNC:
        return {"kind": "function", "address": int(symbol.value().address)}
    try:
        return {"kind": "symbol", "address": int(gdb.parse_and_eval(f"(long)&{name}"))}
    except gdb.error:
        return {"kind": None}


def op_locations(location):
    """Where a breakpoint there would be inserted; nothing is inserted."""
    places = function_places(location)
    return {
        "locations": [
            {"address": address, "file": file, "line": line} for address, file, line, _ in places
        ],
        # gdb itself finds nothing there.
        "hidden": any(is_hidden for *_, is_hidden in places),
    }


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


def compiled(expression, scope):
    """An expression as agent code for the present pc, and how its value is to be read."""
    try:
        return reading(Compiler(expression, scope).compile())
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
        if kind.code == gdb.TYPE_CODE_ARRAY and is_char(plain(kind.target())):
            record["kind"], record["size"] = "chars", kind.sizeof
            record["code"] = listing_of(item.address)
            return record
        if kind.sizeof > 8 or kind.code in (*COMPOUND, gdb.TYPE_CODE_ARRAY):
            record["kind"], record["layout"] = "memory", layout_of(kind)
            record["code"] = listing_of(item.address)
            return record
    if item.where == "parts":
        record["kind"], record["layout"] = "parts", layout_of(kind)
        record["parts"] = [[listing_of(code), size] for code, size in item.code]
        return record
    item = rvalue(item)
    record = kind_of(item.type)
    record["code"] = listing_of(item.code)
    return record


# How deep and how large a structure is that is recorded as a whole.
LAYOUT_DEPTH = 4
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
        if is_char(plain(kind.target())):
            record["kind"] = "chars"
    elif record["kind"] not in ("int", "bool", "ptr", "string"):
        raise Refused(f"it has a {kind}", "name a member of it")
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


def op_function(location, expressions, cpu):
    """Where a function is, what it takes and returns, and expressions compiled for its entry."""
    names.cpu = cpu
    places = []
    for address, file, line, _ in function_places(location):
        block = function_block(address)
        place = {"address": address, "line": line, "inlined": False, "arguments": []}
        place["file"] = file
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
            place["inlined"] = entry_of(block) != address
            target = block.function.type.target()
            # Of a function in assembler the debug info says that it returns nothing.
            has_type = target is not None and not (file or "").endswith(".S")
            place["returns"] = returned(target) if has_type else None
        if not place["inlined"]:
            work = functools.partial(fill, place, block, expressions)
            in_scope(place["address"], work)
    return {"places": places}


MASK = (1 << 64) - 1


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


def returned(kind):
    """How what a function returns is read (System V psABI, 3.2.3, "Returning of Values").

    In %rax and %rdx what has at most 16 bytes, as the kernel has no fractions; more is in memory
    that the caller gave, to which %rax points then.
    """
    record = kind_of(kind)
    bare = plain(kind)
    if bare.code in COMPOUND or bare.sizeof > 8:
        with contextlib.suppress(Refused):  # the call's return_value says it
            record["layout"] = layout_of(kind)
    return record


def fill(place, block, expressions):
    scope = Scope(place["address"], block, names)
    if block is not None:
        for symbol in block:
            if symbol.is_argument:
                record = compiled(symbol.name, scope)
                place["arguments"].append([symbol.name, record])
    place["expressions"] = [single(compiled(expression, scope)) for expression in expressions]


def single(record):
    """What is collected is one value: a number, a pointer, a text."""
    layout = record.get("layout", {})
    if "members" in layout or "element" in layout:
        return {"error": "it is a " + record["type"], "hint": "name a member of it"}
    return record


def in_scope(address, work):
    """Do something as if the kernel had stopped at an address."""
    here = int(gdb.parse_and_eval("(unsigned long)$pc"))
    gdb.execute(f"set var $pc = {address:#x}")
    try:
        work()
    finally:
        gdb.execute(f"set var $pc = {here:#x}")


def op_numbers(expressions):
    return {"numbers": [int(gdb.parse_and_eval(checked(expression))) for expression in expressions]}


def drop_values(_event):
    """The kernel is resumed: no value is read any more, and gdb need not keep them."""
    values.clear()


gdb.events.cont.connect(drop_values)


class Agent(gdb.MICommand):
    """`-kgdb "{\\"op\\": …}"` answers `json="…"`."""

    def __init__(self):
        super().__init__("-kgdb")

    def invoke(self, arguments):
        request = json.loads(arguments[0])
        operation = globals()["op_" + request.pop("op")]
        try:
            answer = operation(**request)
        except Refused as refused:
            answer = {"refused": refused.why, "hint": refused.hint}
        except KeyError as error:
            raise Refusal(f"gdb has no {error}") from None
        except gdb.MemoryError as error:
            raise Refusal(str(error)) from None
        except (gdb.error, ValueError, RuntimeError) as error:
            raise Refusal(str(error)) from None
        return {"json": json.dumps(answer)}


Agent()
