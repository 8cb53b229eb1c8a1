"""Watchpoints on a stack, inside gdb: the relay is told in which function's frame each lies.

gdb ends the watchpoint of a local variable by a breakpoint behind the call, and one of an address
not at all. On a kernel's stack the next exception comes sooner, which the processor writes to the
memory that the function has left: QEMU 7.2 fails in that if the memory is watched (softmmu/cpus.c,
qemu_mutex_lock_iothread_impl, from cpu_check_watchpoint). So the relay is told where the function
frees its stack, and watches the return address as well, which `ret` reads.

Written for Python 3.6 and gdb 12, as gdb_agent.py.
"""

import re

import gdb
from gdb_frames import physical
from gdb_symbols import entry_of, function_block
from gdb_types import MASK, Refused, expanded

WATCHPOINTS = (
    gdb.BP_WATCHPOINT,
    gdb.BP_HARDWARE_WATCHPOINT,
    gdb.BP_READ_WATCHPOINT,
    gdb.BP_ACCESS_WATCHPOINT,
)

# rsp/_stack_watches.py, STACK_FRAMES
PACKET = b"qKgdbStack:"

# Frames that the relay is told of: a packet of gdb's has 16 KiB.
FRAMES = 100

# Instructions of a function's beginning that are looked at.
PROLOGUE = 40

ROOM = re.compile(r"\$(0x[0-9a-f]+),%rsp$")

# lea -0x28(%rbp),%rsp
MOVED = re.compile(r"(-?0x[0-9a-f]+)?\(%r(sp|bp)\),%rsp$")

# Instructions that are read at once, and places where a function frees stack: gcc's longest
# functions have some hundred.
CHUNK = 64
EXITS = 400

# include/linux/types.h: atomic_t, atomic64_t, atomic_long_t.
ATOMIC = re.compile(r"atomic(64|_long)?_t$")

# gdb's word in a watchpoint's expression (gdb manual, "Set Watchpoints").
LOCATION = "-location "

# What `watchpoint()` has gdb watch.
ADDRESS = re.compile(r"\*\([a-z ]+ \*\)0x[0-9a-f]+$")

# The kernel's image: the only stack in it is the first task's (Documentation/x86/x86_64/mm.rst).
IMAGE = 0xFFFFFFFF80000000

# arch/x86/include/asm/page_64_types.h; KASAN makes it twice that (KASAN_STACK_ORDER), and has
# tasks have a member of its own.
THREAD_SIZE = 4 * 4096

# Above the entry's registers there may be some (arch/x86/include/asm/thread_info.h,
# TOP_OF_KERNEL_STACK_PADDING, since 6.9).
PADDING = 16


def read_word(address):
    """Eight bytes of memory as a number; 0 where there are none."""
    try:
        return int.from_bytes(gdb.selected_inferior().read_memory(address, 8), "little")
    except gdb.error:
        return 0


def frames_of_stack(address=0):
    """The frames of the selected thread that are left by `ret`, innermost first.

    Each is (its lowest address, where its return address lies, that address, 0, exits). The last is
    that of the entry from user space, which the processor writes nothing to: it has no return
    address.

    :param address: what is to be in a frame, the only one that has its exits. If the innermost
        function has still to make room for it, its frame begins there, and the last number is the
        instruction behind that.
    """
    frames = []
    frame = None
    try:
        frame = physical(gdb.newest_frame())
        while frame is not None and len(frames) < FRAMES:
            older = frame.older()
            if older is None:
                break
            caller = physical(older)
            low, high = stack_pointer(frame), stack_pointer(caller)
            if low < high and read_word(high - 8) == caller.pc():
                begins = 0 if frames or address >= low else body_of(frame, address)
                lowest = address if begins else low
                exits = exits_of(frame) if lowest <= address < high else []
                frames.append((lowest, high - 8, caller.pc(), begins, exits))
            frame = caller
    except gdb.error:
        pass  # a stack that cannot be read to its end
    if frame is not None:
        size = stack_size()
        top = (stack_pointer(frame) | (size - 1)) + 1
        entry = gdb.lookup_type("struct pt_regs").sizeof + PADDING
        frames.append((top - entry, top - 8, 0, 0, []))
    return frames


def body_of(frame, address):
    """Where the code goes on that lowers the stack pointer to an address; 0 if none does at once.

    gcc saves registers and makes room before anything that uses it.
    """
    low = stack_pointer(frame)
    for instruction in frame.architecture().disassemble(frame.pc(), count=PROLOGUE):
        name, _, operands = instruction["asm"].strip().partition(" ")
        room = ROOM.match(operands.strip())
        if name.startswith("push"):
            low -= 8
        elif name.startswith("sub") and room is not None:
            low -= int(room.group(1), 16)
        elif name[:1] == "j" or name.startswith(("call", "ret", "int", "ud2")):
            break
        if low <= address:
            return instruction["addr"] + instruction["length"]
    return 0


def stack_pointer(frame):
    return int(frame.read_register("rsp")) & MASK


def exits_of(frame):
    """The instructions of a frame's function that free stack: (address, register, offset).

    All of them, or none where they are not known. The stack pointer is then the register plus the
    offset: `s` is the stack pointer itself, `b` the frame pointer.
    """
    block = function_block(frame.pc())
    if block is None:
        return []
    exits, entry, end = [], entry_of(block), 0
    for part in (None, cold_part):
        if part is not None and block.start == entry and block.end == end:
            break  # gcc has not split it
        start = entry if part is None else part(block.function)
        while start:
            for instruction in frame.architecture().disassemble(start, count=CHUNK):
                address = instruction["addr"]
                around = function_block(address)  # gdb before 14 cannot compare blocks
                if around is None or entry_of(around) != entry:
                    start = 0
                    break
                if len(exits) >= EXITS:
                    return []  # some would do no good
                freed = freed_by(instruction["asm"].strip())
                if freed is not None:
                    exits.append((address, *freed))
                start = end = address + instruction["length"]
    return exits


def cold_part(function):
    """Where gcc has put what is unlikely to run; 0 if it has not."""
    try:
        return int(gdb.parse_and_eval(f"(unsigned long)&'{function.linkage_name}.cold'")) & MASK
    except gdb.error:
        return 0


def freed_by(text):
    """What an instruction sets the stack pointer to, if that frees stack: (register, offset)."""
    name, _, operands = text.partition(" ")
    operands = operands.strip()
    if name.startswith("pop"):
        return "s", 8
    if name.startswith("leave"):
        return "b", 8
    if name.startswith("mov") and operands == "%rbp,%rsp":
        return "b", 0
    room = ROOM.match(operands)
    if room is not None and name.startswith(("add", "sub")):
        number = int(room.group(1), 16)
        number = number - (1 << 64) if number >> 63 else number
        number = number if name.startswith("add") else -number
        return ("s", number) if number > 0 else None
    moved = MOVED.match(operands) if name.startswith("lea") else None
    if moved is not None:
        return moved.group(2)[0], int(moved.group(1) or "0", 16)
    return None


def check_address(expression, address):
    """Check that watched memory is no stack that its owner may leave unseen.

    :raises Refused: it is one.
    """
    if not may_be_stack(address):
        return
    if any(low <= address <= slot + 7 for low, slot, *_ in frames_of_stack(address)):
        return
    owner = owner_of(address)
    if owner is None:
        return
    stopped = int(gdb.parse_and_eval(expanded("current"))) & MASK
    if owner == stopped:
        raise Refused(
            f"{expression} lies on the stack of the task that stopped, and in no function's frame",
            "a local variable can be watched from where its function has made room for it (next()) "
            "until it returns",
        )
    task = gdb.Value(owner).cast(gdb.lookup_type("struct task_struct").pointer())
    raise Refused(
        f"{expression} lies on the stack of {task['comm'].string()}[{int(task['pid'])}], which is "
        "not the task that stopped: when its function returns, it is other functions' memory",
        "watch it when that task has stopped, where the function is in its backtrace",
    )


def owner_of(address):
    """The task on whose stack an address lies, as a number; None for none."""
    first, size = first_task(), stack_size()
    stack = offset(gdb.lookup_type("struct task_struct"), "stack")
    for task in every_task(first) if address < IMAGE else [first]:
        if read_word(task + stack) <= address < read_word(task + stack) + size:
            return task
    return None


def first_task():
    return int(gdb.parse_and_eval("(unsigned long)&init_task")) & MASK


def may_be_stack(address):
    """Whether memory may be a task's stack, without looking at all tasks.

    With CONFIG_VMAP_STACK no stack but the first task's is in the image, or mapped linearly.
    """
    first = first_task()
    task_type = gdb.lookup_type("struct task_struct")
    tasks, stack = offset(task_type, "tasks"), offset(task_type, "stack")
    if address >= IMAGE:
        low = read_word(first + stack)
        return low <= address < low + stack_size()
    try:
        vmalloc = int(gdb.parse_and_eval("vmalloc_base")) & MASK
    except gdb.error:
        return True  # without CONFIG_DYNAMIC_MEMORY_LAYOUT
    others = read_word(read_word(first + tasks) - tasks + stack)
    return not address < vmalloc <= others < IMAGE


def stack_size():
    """The bytes of a task's stack."""
    fields = gdb.lookup_type("struct task_struct").fields()
    return THREAD_SIZE << any(field.name == "kasan_depth" for field in fields)


def every_task(first):
    """All tasks, threads included, as numbers (include/linux/sched/signal.h, for_each_thread)."""
    task_type = gdb.lookup_type("struct task_struct")
    tasks, node, signal = (offset(task_type, name) for name in ("tasks", "thread_node", "signal"))
    head = offset(gdb.lookup_type("struct signal_struct"), "thread_head")
    for leader in entries_of(first + tasks):
        yield leader - tasks
        threads = read_word(leader - tasks + signal) + head
        for entry in entries_of(threads):
            if entry != threads and entry - node != leader - tasks:
                yield entry - node


def entries_of(head):
    """The entries of a list, its head first; those of a broken one as far as it goes."""
    entry, seen = head, set()
    while entry and entry not in seen:
        seen.add(entry)
        yield entry
        entry = read_word(entry)


def offset(kind, name):
    for field in kind.fields():
        if field.name == name:
            return field.bitpos // 8
    raise Refused(f"this kernel's {kind} has no member {name}")


def is_atomic(address):
    """Whether what lies on the stack at an address has a type for atomic instructions.

    They are `atomic_t` and its kin (include/linux/types.h), of which counters and locks are made.
    """
    frame = gdb.newest_frame()
    for _ in range(FRAMES):
        for symbol in variables_of(frame):
            try:
                value = symbol.value(frame)
                low = int(value.address or 0) & MASK
            except (gdb.error, RuntimeError, ValueError):
                continue  # it is nowhere
            if low <= address < low + value.type.sizeof:
                return has_atomic(value.type, address - low)
        try:
            frame = frame.older()
        except gdb.error:
            frame = None
        if frame is None:
            break
    return False


def variables_of(frame):
    """The variables and arguments of a frame's function."""
    try:
        block = frame.block()
    except RuntimeError:  # code without debug information
        return
    while block is not None and not (block.is_static or block.is_global):
        for symbol in block:
            if symbol.is_variable or symbol.is_argument:
                yield symbol
        block = block.superblock


def has_atomic(kind, at):
    """Whether a type has something atomic at an offset."""
    while kind.code == gdb.TYPE_CODE_TYPEDEF:
        if ATOMIC.match(kind.name or ""):
            return True
        kind = kind.target()
    kind = kind.unqualified()
    if kind.code == gdb.TYPE_CODE_ARRAY:
        return has_atomic(kind.target(), at % (kind.target().sizeof or 1))
    if kind.code not in (gdb.TYPE_CODE_STRUCT, gdb.TYPE_CODE_UNION):
        return False
    return any(
        has_atomic(field.type, at - field.bitpos // 8)
        for field in kind.fields()
        if not field.bitsize and 0 <= at - field.bitpos // 8 < field.type.sizeof
    )


def as_text(frame):
    """A frame as the relay takes it: numbers, and behind a colon each of its exits."""
    exits = ["{:x},{},{:x}".format(*way) for way in frame[4]]
    return ":".join(["{:x},{:x},{:x},{:x}".format(*frame), *exits])


class Watches:
    """Knows where each watchpoint lies; what is no address to begin with is in no frame."""

    def __init__(self):
        self.addresses = {}
        self.fixed = set()  # the numbers of those that stay where they are, whatever is there
        gdb.events.breakpoint_created.connect(self.on_created)
        gdb.events.breakpoint_deleted.connect(self.on_deleted)

    def on_created(self, watchpoint):
        """Tell the relay of the stack, for it is as it is now that the watchpoint is of it."""
        if watchpoint.type not in WATCHPOINTS:
            return
        before, at, after = (watchpoint.expression or "").partition(LOCATION)
        expression = after if at and not before else before + at + after
        alone = bool(at) or ADDRESS.match(expression)  # `a[i]` has gdb watch the index, too
        try:
            value = gdb.parse_and_eval(expression)
            address = self.addresses[watchpoint.number] = int(value.address or 0) & MASK
            if alone:
                self.fixed.add(watchpoint.number)
            if alone and not may_be_stack(address):
                return
            frames = frames_of_stack(address)
            first = f"{address:x},{int(is_atomic(address))}"
            text = ";".join([first, *map(as_text, frames)])
            gdb.selected_inferior().connection.send_packet(PACKET + text.encode())
        except (gdb.error, RuntimeError, AttributeError):
            pass  # the relay refuses what is on the stack, then

    def on_deleted(self, watchpoint):
        self.addresses.pop(watchpoint.number, None)
        self.fixed.discard(watchpoint.number)

    def at(self, addresses):
        """The numbers of the watchpoints of some addresses."""
        return sorted(number for number, at in self.addresses.items() if at in addresses)


watches = Watches()


def op_watchpoints_at(addresses):
    return {"numbers": watches.at(addresses)}


def op_watchpoint_places():
    """Of each watchpoint: its number, its address, whether it stays there whatever moves."""
    places = sorted(watches.addresses.items())
    return {"places": [[number, at, number in watches.fixed] for number, at in places]}
