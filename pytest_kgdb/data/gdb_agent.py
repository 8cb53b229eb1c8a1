"""The agent inside gdb: one MI command, `-kgdb`, that answers in JSON.

gdb runs this file in its own Python, so it imports nothing of the package, and is written for
Python 3.6 and gdb 12 (gdb manual, "Extending gdb using Python"). Its parts lie beside it.
"""

import json
import pathlib
import sys

import gdb

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
import gdb_assign
import gdb_equality
import gdb_functions
import gdb_shapes
import gdb_watches
from gdb_bit_fields import COMPUTED, as_number, field_of, source_of
from gdb_conditions import (
    condition_for,
)
from gdb_frames import hides_inlined, value_of
from gdb_functions import (
    CODES,
    function_places,
)
from gdb_lines import own_place
from gdb_lvalues import (
    checked,
    number_of,
    selected_block,
)
from gdb_names import (
    names,
)
from gdb_places import (
    has_fractions,
    in_memory,
)
from gdb_results import unproven_result
from gdb_symbols import is_kernels, without_offsets
from gdb_types import (
    COMPOUND,
    INTEGERS,
    MASK,
    Refused,
    member_names,
    one_line,
    plain,
    type_named,
)
from gdb_unwinder import unwinder  # it lies beside this file

unwinder.load(gdb.parameter("index-cache directory"))

# kernel/debug/debug_core.c: the task on the CPU whose stop this is. In the kernel's own source the
# word is a macro, too (arch/x86/include/asm/current.h), but one for code that runs.
gdb.execute("macro define current kgdb_info[kgdb_active.counter].task")

values = {}  # id -> gdb.Value, until the kernel is resumed
bit_fields = {}  # id -> BitField, of those that are some
counter = 0
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


def describe(value, bit_field=None):
    """What the other side needs of a value at once."""
    record = {"id": keep(value), **describe_type(value.type)}
    if value.is_optimized_out:
        record["optimized_out"] = True
        return record
    if record["code"] in SCALARS:
        if record["code"] == "flt":
            record["float"] = float(value)
        else:
            record["int"] = number_of(value)
        record["text"] = text(value)
    if bit_field is not None:
        bit_fields[record["id"]] = bit_field
        record.update(bits=bit_field.width, container=bit_field.container)
        return record
    address = value.address
    if address is not None:
        record["address"] = int(address)
    return record


def describe_type(its_type):
    """What the other side needs of a type."""
    kind = its_type.strip_typedefs()
    code = CODES.get(kind.code, "other")
    record = {"type": str(its_type), "code": code}
    if code == "array":
        low, high = kind.range()
        record["length"] = max(0, high - low + 1)
        if kind.sizeof == 0:
            record["flexible"] = True
    if code in ("ptr", "array"):
        record["target"] = target_of(kind)
    if code in ("struct", "union"):
        record["members"] = member_names(kind)
    return record


def target_of(kind):
    """What is pointed at, or what an array has: `char` for any type of one byte."""
    target = kind.target().strip_typedefs()
    if target.code == gdb.TYPE_CODE_INT and target.sizeof == 1 and "char" in str(target):
        return "char"
    return CODES.get(target.code, "other")


def op_symbols_around(addresses):
    """The symbol before each address; "" for one that is not the kernel's."""
    symbols = []
    for address in addresses:
        output = gdb.execute(f"info symbol {address:#x}", to_string=True)
        name = output.partition(" in section")[0].partition(" + ")[0]
        symbols.append(name if is_kernels(address) else "")
    return {"symbols": symbols}


def op_symbol_at(address):
    """The symbol that stands exactly there."""
    if not is_kernels(address):
        return {"symbol": None}
    output = gdb.execute(f"info symbol {address:#x}", to_string=True)
    name = output.split(" ")[0]
    if output.startswith("No symbol") or " + " in output.partition(" in section")[0]:
        return {"symbol": None}
    return {"symbol": name}


def text(value, limit=200):
    return without_offsets(value.format_string(max_elements=limit, repeat_threshold=16))


def frame_at(level):
    frame = gdb.newest_frame()
    for _ in range(level):
        frame = frame.older()
        if frame is None:
            raise Refusal(f"there is no frame {level}")
    return frame


def function_name(frame):
    """The name of a frame's function; None where the CPU has jumped out of the kernel: to NULL."""
    return frame.name() if is_kernels(frame.pc()) else None


def frame_record(frame, level, behind=False):
    sal = gdb.find_pc_line(frame.pc() - 1) if behind else frame.find_sal()
    function = function_name(frame)
    interrupted = bool(level) and unwinder.is_interrupted(frame)
    if interrupted:
        # gdb takes the pc for a return address, and looks at the instruction before.
        sal = gdb.find_pc_line(frame.pc())
        function = op_symbol_at(frame.pc())["symbol"] or function
    record = {
        "level": level,
        "function": function,
        "address": frame.pc(),
        "file": sal.symtab.filename if sal.symtab else None,
        "fullname": sal.symtab.fullname() if sal.symtab else None,
        "line": sal.line or None,
        "inline": frame.type() == gdb.INLINE_FRAME,
    }
    own = own_place(frame, sal, interrupted)
    if own is not None:
        record["own"] = own
    return record


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
    return in_frame(frame, lambda: evaluated(expression))


def evaluated(expression):
    value = gdb.parse_and_eval(checked(expression))
    if value.address is None:
        return describe(value)
    source = source_of(expression, value)
    if source is COMPUTED:
        return describe(as_number(value))
    return describe(value, source)


def op_condition(text, location):
    """A breakpoint's condition as gdb must have it."""
    try:
        addresses = [address for address, *_ in function_places(location)]
    except gdb.error:
        addresses = []  # a module's that is not loaded
    checked, named = condition_for(one_line(text), location, addresses, names)
    return {"condition": checked, "addresses": named}


def op_child(id, how, argument=None):
    value = values[id]
    if how == "member":
        kind = value.type.strip_typedefs()
        if kind.code == gdb.TYPE_CODE_PTR:
            value = value.dereference()
        child = value[argument]
        is_number = plain(child.type).code in INTEGERS
        return describe(child, field_of(value, argument) if is_number else None)
    if how == "index":
        return describe(value[argument])
    if how == "dereference":
        return describe(value.dereference())
    if how == "cast":
        return describe((as_number(value) if id in bit_fields else value).cast(find_type(argument)))
    raise Refusal(f"no such child: {how}")


def find_type(name):
    stars = len(name) - len(name.rstrip("* "))
    base = name.rstrip("* ").strip()
    kind = type_named(base, selected_block())
    for _ in range(name[len(name) - stars :].count("*")):
        kind = kind.pointer()
    return kind


def op_returned(variable):
    """What a function returned that has just been finished, in the variable that gdb made."""
    copy = unproven_result(gdb.newest_frame().pc())
    if copy is not None:
        raise Refusal(f"gcc may have removed what {copy} returns: no caller is seen to use it")
    value = gdb.parse_and_eval(variable)
    if is_returned_in_registers(value.type):
        # gdb 13 takes a number of 128 bits, also in a structure, for one in memory, or for zero.
        frame = gdb.newest_frame()
        words = [int(frame.read_register(name)) & MASK for name in ("rax", "rdx")]
        raw = b"".join(word.to_bytes(8, "little") for word in words)
        value = gdb.Value(raw[: value.type.sizeof], value.type)
    return describe(value)


def is_returned_in_registers(kind):
    """Whether a value of more than one word, or a structure, is in %rax and %rdx (psABI, 3.2.3)."""
    bare = plain(kind)
    if bare.code not in COMPOUND and bare.sizeof <= 8:
        return False  # gdb has those
    return bare.sizeof > 0 and not in_memory(bare) and not has_fractions(bare)


def op_refresh(id):
    """The value as memory has it now; only for what lies there."""
    if id in bit_fields:
        bit_field = bit_fields[id].reread()
        return describe(bit_field.value, bit_field)
    return describe(values[id].address.dereference())


def op_text(id, whole=False):
    """What gdb prints of a value: the first 200 elements of its arrays, or all."""
    return {"text": text(values[id], 0) if whole else text(values[id])}


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

# Where the kernel was entered, or a thread of its own began: what lies beyond is no frame. All are
# assembler; since 6.6, ret_from_fork() is a function that ret_from_fork_asm calls.
OUTERMOST = ("entry_SYSCALL", "ret_from_fork", "secondary_startup", "start_cpu")


def op_select(frame):
    frame_at(frame).select()
    return {}


def op_show_inlined():
    """Have gdb show the frames of what is inlined where an exception was: none is to be entered.

    gdb forgets what it hides when it finds the pc elsewhere (gdb/inline-frame.c,
    find_inline_frame_state).
    """
    try:
        frame = gdb.newest_frame()
        if hides_inlined(frame):
            gdb_functions.in_scope(frame.pc() + 1, lambda: gdb.newest_frame().type())
            gdb.newest_frame().select()
    except gdb.error:
        pass  # the stack cannot be read
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


def is_outermost(record):
    """Whether a frame has no caller."""
    return (record["function"] or "").startswith(OUTERMOST) and (
        record["file"] is None or record["file"].endswith(".S")
    )


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
        if is_outermost(record):
            break
        try:
            frame = frame.older()
        except gdb.error:
            break
    return {"frames": frames}


def describe_variable(symbol, frame):
    """A variable in a frame; with the reason if it cannot be read."""
    try:
        names.check_value(symbol.name, symbol)
        return describe(value_of(symbol, frame))
    except Refused as refused:
        reason = {"error": refused.why, "hint": refused.hint}
    except gdb.error as error:
        reason = {"error": str(error)}
    return {**describe_type(symbol.type), **reason}


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
                    records[symbol.name] = describe_variable(symbol, selected)
            if block.function is not None:
                break
            block = block.superblock
        return records

    return in_frame(frame, work)


def op_stack_names():
    names = []
    frame = gdb.newest_frame()
    while frame is not None and len(names) < STACK_NAMES:
        names.append(function_name(frame))
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


def op_difference(id, other):
    """The way to where two values differ first; None where they are the same."""
    return {"path": gdb_equality.difference(values[id], values[other])}


def op_shape(id):
    return gdb_shapes.shape_of(values[id].type)


def op_type_files(id, expression):
    return {"files": gdb_shapes.type_files(values[id].type, expression)}


def op_numbers(expressions):
    return {"numbers": [int(gdb.parse_and_eval(checked(expression))) for expression in expressions]}


def drop_values(_event):
    """The kernel is resumed: no value is read any more, and gdb need not keep them."""
    values.clear()
    bit_fields.clear()


gdb.events.cont.connect(drop_values)


class Agent(gdb.MICommand):
    """`-kgdb "{\\"op\\": …}"` answers `json="…"`."""

    def __init__(self):
        super().__init__("-kgdb")

    def invoke(self, arguments):
        request = json.loads(arguments[0])
        name = "op_" + request.pop("op")
        operation = globals().get(name) or getattr(gdb_functions, name, None)
        operation = operation or getattr(gdb_watches, name, None) or getattr(gdb_assign, name)
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
