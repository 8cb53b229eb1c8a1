"""The agent inside gdb: one MI command, `-kgdb`, that answers in JSON.

gdb runs this file in its own Python, so it imports nothing of the package, and is written for
Python 3.6 and gdb 12 (gdb manual, "Extending gdb using Python").
"""

import functools
import json
import re

import gdb

# kernel/debug/debug_core.c: the task on the CPU whose stop this is. In the kernel's own source the
# word is a macro, too (arch/x86/include/asm/current.h), but one for code that runs.
gdb.execute("macro define current kgdb_info[kgdb_active.counter].task")

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
    if code in ("ptr", "array"):
        record["target"] = target_of(kind)
    if code in ("struct", "union"):
        record["members"] = [field.name for field in kind.fields() if field.name]
    if code in SCALARS:
        if code == "flt":
            record["float"] = float(value)
        else:
            record["int"] = int(value)
        record["text"] = text(value)
    address = value.address
    if address is not None:
        record["address"] = int(address)
    return record


def target_of(kind):
    """What is pointed at, or what an array has: `char` for any type of one byte."""
    target = kind.target().strip_typedefs()
    if target.code == gdb.TYPE_CODE_INT and target.sizeof == 1 and "char" in str(target):
        return "char"
    return CODES.get(target.code, "other")


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
    return {
        "level": level,
        "function": frame.name(),
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


def op_evaluate(expression, frame=None):
    return in_frame(frame, lambda: describe(gdb.parse_and_eval(expression)))


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
    "asm_",
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
    _, sals = gdb.decode_line(location)
    return {
        "locations": [
            {"address": sal.pc, "file": sal.symtab and sal.symtab.filename, "line": sal.line}
            for sal in sals or ()
        ]
    }


def kind_of(kind):
    """How a type's values are to be read."""
    plain = kind.strip_typedefs()
    code = CODES.get(plain.code, "other")
    record = {"type": str(kind), "size": plain.sizeof, "kind": code, "signed": False}
    if code in ("int", "char", "enum"):
        record["kind"] = "int"
        record["signed"] = plain.is_signed
    elif code == "ptr":
        target = plain.target().strip_typedefs()
        record["kind"] = "string" if is_char(target) else "ptr"
    return record


def is_char(kind):
    return kind.sizeof == 1 and kind.unqualified().name in ("char", "unsigned char", "signed char")


CHARS = re.compile(r"^(?:(?:const|volatile|unsigned|signed) )*char (\*|\[(\d*)\])(?: ?const)?$")


def compiled(expression):
    """An expression as an agent expression, in the scope of the present pc."""
    kind = None
    try:
        output = gdb.execute("whatis " + expression, to_string=True).strip()
        kind = output.partition("type = ")[2]
        record = {"type": kind, "kind": "int", "signed": False}
        chars = CHARS.match(kind)
        if chars and chars.group(1) == "*":
            record["kind"] = "string"
        elif chars:
            record["kind"], record["size"] = "chars", int(chars.group(2) or 0)
            expression = f"&({expression})[0]"
        elif kind in ("bool", "_Bool"):
            record["kind"] = "bool"
        elif kind.endswith("*"):
            record["kind"] = "ptr"
        record["code"] = gdb.execute("maint agent-eval " + expression, to_string=True)
        if record["kind"] == "int":
            # gdb tells a type's sign only of a value; how it compares shows it, too.
            compared = gdb.execute(f"maint agent-eval ({expression}) < 1", to_string=True)
            record["signed"] = "less_signed" in compared.rpartition("const8 1")[2]
        return record
    except gdb.error as error:
        return {"error": str(error), "type": kind}


def function_around(address):
    """The function that has an address, not one inlined there; None without debug info."""
    block, function = gdb.block_for_pc(address), None
    while block is not None:
        if block.function is not None:
            function = block
        block = block.superblock
    return function


def op_function(location, expressions):
    """Where a function is, what it takes and returns, and expressions compiled for its entry."""
    _, sals = gdb.decode_line(location)
    places = []
    for sal in sals or ():
        block = function_around(sal.pc)
        place = {"address": sal.pc, "line": sal.line, "inlined": False, "arguments": []}
        place["file"] = sal.symtab and sal.symtab.filename
        places.append(place)
        if block is None:
            name, _, offset = (
                gdb.execute(f"info symbol {sal.pc:#x}", to_string=True)
                .partition(" in section")[0]
                .partition(" + ")
            )
            place.update(name=name, address=sal.pc - int(offset or 0), returns=None)
        else:
            place["name"] = block.function.name
            place["inlined"] = int(block.function.value().address) != sal.pc
            target = block.function.type.target()
            # Of a function in assembler the debug info says that it returns nothing.
            has_type = target is not None and not (place["file"] or "").endswith(".S")
            place["returns"] = kind_of(target) if has_type else None
        if not place["inlined"]:
            work = functools.partial(fill, place, block, expressions)
            in_scope(place["address"], work)
    return {"places": places}


def fill(place, block, expressions):
    if block is not None:
        for symbol in block:
            if symbol.is_argument:
                record = compiled(symbol.name)
                record.update(kind_of(symbol.type))
                place["arguments"].append([symbol.name, record])
    place["expressions"] = [compiled(expression) for expression in expressions]


def in_scope(address, work):
    """Do something as if the kernel had stopped at an address."""
    here = int(gdb.parse_and_eval("(unsigned long)$pc"))
    gdb.execute(f"set var $pc = {address:#x}")
    try:
        work()
    finally:
        gdb.execute(f"set var $pc = {here:#x}")


def op_numbers(expressions):
    return {"numbers": [int(gdb.parse_and_eval(expression)) for expression in expressions]}


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
        except KeyError as error:
            raise Refusal(f"gdb has no {error}") from None
        except gdb.MemoryError as error:
            raise Refusal(str(error)) from None
        except (gdb.error, ValueError, RuntimeError) as error:
            raise Refusal(str(error)) from None
        return {"json": json.dumps(answer)}


Agent()
