"""Stacks beneath interrupts and exceptions: an unwinder for gdb, by the kernel's ORC tables.

The entry code has no call frame information, and a function that switches stacks has wrong one: gdb
would end there. The kernel unwinds them by tables of its own
(Documentation/arch/x86/orc-unwinder.rst, arch/x86/kernel/unwind_orc.c), which vmlinux has in
sections. They say where the caller's stack pointer and frame pointer are, or that the CPU's
registers were saved there; of other registers they know nothing. So they are used only where gdb's
own way fails.

Where the registers were saved, what was interrupted is the caller: gdb_entry_frames.py.

gdb runs this file; see gdb_agent.py.
"""

import array
import mmap
import pathlib
import struct

import gdb
import gdb.unwinder
import gdb_entry_frames

MASK = (1 << 64) - 1
KERNEL_TEXT = 0xFFFFFFFF80000000

# arch/x86/include/asm/orc_types.h
ORC_REG_UNDEFINED = 0
ORC_REG_PREV_SP = 1
ORC_REG_DX = 2
ORC_REG_DI = 3
ORC_REG_BP = 4
ORC_REG_SP = 5
ORC_REG_R10 = 6
ORC_REG_R13 = 7
ORC_REG_BP_INDIRECT = 8
ORC_REG_SP_INDIRECT = 9
REGISTERS = {
    ORC_REG_DX: "rdx",
    ORC_REG_DI: "rdi",
    ORC_REG_BP: "rbp",
    ORC_REG_SP: "rsp",
    ORC_REG_R10: "r10",
    ORC_REG_R13: "r13",
    ORC_REG_BP_INDIRECT: "rbp",
    ORC_REG_SP_INDIRECT: "rsp",
}
CALL, REGS, REGS_PARTIAL = "call", "regs", "partial"

PT_REGS = tuple(name for name, _ in gdb_entry_frames.PT_REGS)
IRET_FRAME = PT_REGS.index("rip")
HALVES = ("cs", "eflags", "ss")  # of 4 bytes (gdb/features/i386/64bit-core.xml)
# System V ABI, AMD64 supplement: what a called function leaves as it was.
PRESERVED = ("rbx", "r12", "r13", "r14", "r15")

# Frame ids on a stack that lies below the one that was left for it: gdb takes a caller's stack
# pointer that is less than its callee's for a sign of a corrupt stack. These are above all stacks
# and below the kernel's image (Documentation/arch/x86/x86_64/mm.rst).
FIRST_ID = 0xFFFFFFFF00000000
ID_RANGE = 1 << 20


class FrameId:
    """What gdb knows a frame by."""

    def __init__(self, sp, pc):
        self.sp = gdb.Value(sp)
        self.pc = gdb.Value(pc)


class Table:
    """Entries in the order of their addresses.

    :param address: of the first `orc_unwind_ip`, each of which is relative to itself.
    """

    def __init__(self, address, ips, entries):
        self.address = address
        self.ips = array.array("i", ips)
        self.entries = entries

    def ip(self, index):
        """The address from which on an entry holds."""
        return self.address + 4 * index + self.ips[index]

    def find(self, pc):
        """The index of the entry for an address; None for one that is elsewhere."""
        low, high = 0, len(self.ips)
        if not high or not self.ip(0) <= pc < self.ip(high - 1):
            return None
        while high - low > 1:
            middle = (low + high) // 2
            if self.ip(middle) <= pc:
                low = middle
            else:
                high = middle
        return low


class Orc:
    """The tables of a kernel and of its modules.

    The kernel's are read from the file of vmlinux when they are first needed, which takes a
    millisecond; the modules' from the kernel's memory, at each stop at which they are needed.
    """

    def __init__(self):
        self.kernel = self.modules = None

    def forget(self):
        """The kernel is resumed: it may load modules."""
        self.modules = None

    def load(self):
        """Read the kernel's; there are none where it has another unwinder, or no debug info."""
        self.kernel = Table(0, b"", b"")
        try:
            with pathlib.Path(gdb.objfiles()[0].filename).open("rb") as file:
                data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            with data:
                sections = elf_sections(data)
            kind = gdb.lookup_type("struct orc_entry").strip_typedefs()
            fields = {field.name: field for field in kind.fields()}
            self.size = kind.sizeof
            self.type_shift = fields["type"].bitpos % 16
            self.type_mask = (1 << fields["type"].bitsize) - 1
            # arch/x86/include/asm/orc_types.h; 6.4 (commit fb799447ae29 "x86,objtool: Split
            # UNWIND_HINT_EMPTY in two") made a type of `end`.
            first = 0 if "end" in fields else 2
            self.types = {first: CALL, first + 1: REGS, first + 2: REGS_PARTIAL}
            address = int(gdb.parse_and_eval("(unsigned long)&__start_orc_unwind_ip")) & MASK
            self.kernel = Table(address, sections[".orc_unwind_ip"], sections[".orc_unwind"])
        except (gdb.error, KeyError, IndexError, OSError, ValueError):
            pass

    def load_modules(self):
        """Read those of the modules (arch/x86/include/asm/module.h, struct mod_arch_specific)."""
        self.modules = []
        try:
            head = gdb.parse_and_eval("&modules")
            module = gdb.lookup_type("struct module")
            offset = next(field.bitpos // 8 for field in module.fields() if field.name == "list")
            node = head["next"]
            while node != head:
                arch = (node.cast(gdb.lookup_type("char").pointer()) - offset).cast(
                    module.pointer()
                )["arch"]
                count = int(arch["num_orcs"])
                address = int(arch["orc_unwind_ip"]) & MASK
                ips = read(address, 4 * count)
                entries = read(int(arch["orc_unwind"]), self.size * count)
                self.modules.append(Table(address, ips, entries))
                node = node["next"]
        except (gdb.error, StopIteration):
            pass  # no modules, or a damaged list

    def find(self, pc):
        """The rule at an address: the stack pointer's offset, the frame pointer's, their bases and
        the type; None where there is none.
        """
        if self.kernel is None:
            self.load()
        table, index = self.kernel, self.kernel.find(pc)
        if index is None and self.kernel.ips:
            if self.modules is None:
                self.load_modules()
            for table in self.modules:
                index = table.find(pc)
                if index is not None:
                    break
        if index is None:
            return None
        sp_offset, bp_offset, flags = struct.unpack_from("<hhH", table.entries, index * self.size)
        kind = self.types.get(flags >> self.type_shift & self.type_mask)
        if kind is None or flags & 15 not in REGISTERS:
            return None
        return sp_offset, bp_offset, flags & 15, flags >> 4 & 15, kind

    def find_start(self, pc):
        """From which address on the kernel's rule at an address holds; None where there is none."""
        index = self.kernel.find(pc)
        return None if index is None else self.kernel.ip(index)

    def saved_registers(self):
        """Addresses, lengths and stack pointer's offsets of the entry code with saved registers."""
        try:
            bounds = [
                int(gdb.parse_and_eval("(unsigned long)&__entry_text_" + end)) & MASK
                for end in ("start", "end")
            ]
        except gdb.error:
            return []
        if self.kernel is None:
            self.load()
        table = self.kernel
        first, last = (table.find(address) for address in bounds)
        if first is None or last is None:
            return []
        rules = []
        for index in range(first, last):
            start, end = table.ip(index), table.ip(index + 1)
            rule = self.find(start)
            if rule is not None and rule[2] == ORC_REG_SP and rule[4] == REGS and rule[0] >= 0:
                rules.append((start, end - start, rule[0]))
        return rules

    def find_call(self, pc):
        """The rule at an address that may be a return address: the call may end the function."""
        return self.find(pc - 1 if follows_call(pc) else pc)


def elf_sections(data):
    """The contents of an ELF file's sections with the tables, by name."""
    (offset,) = struct.unpack_from("<Q", data, 0x28)
    size, count, names = struct.unpack_from("<HHH", data, 0x3A)
    headers = [struct.unpack_from("<IIQQQQ", data, offset + size * n) for n in range(count)]
    strings = headers[names][4]
    sections = {}
    for name, _, _, _, start, length in headers:
        begin = strings + name
        text = data[begin : data.find(b"\0", begin)].decode()
        if text.startswith(".orc_unwind"):
            sections[text] = data[start : start + length]
    return sections


class OrcUnwinder(gdb.unwinder.Unwinder):
    """Unwinds frames of the entry code, of assembler, and of what switches stacks."""

    def __init__(self):
        super().__init__("pytest-kgdb")
        self.orc = Orc()
        self.rules = {}  # by pc: None where gdb needs no help
        self.entries = {}  # stack pointer's offsets by address, where gdb knows the registers
        self.exact = set()  # (pc, sp) of frames whose pc is no return address, as gdb sees, too
        self.interrupted = set()  # those of which gdb does not see it
        self.shifts = {}  # by (pc, sp): what is added to frame ids from there on
        gdb.events.cont.connect(self.forget)

    def forget(self, _event=None):
        """The kernel is resumed: other stacks will be at the same addresses."""
        self.exact.clear()
        self.interrupted.clear()
        self.shifts.clear()
        self.orc.forget()

    def load(self, directory):
        """Have gdb know where interrupts and exceptions enter.

        :param directory: for a file that says so.
        """
        rules = self.orc.saved_registers()
        gdb_entry_frames.load(directory, rules)
        self.entries = {start: offset for start, _, offset in rules}

    def is_interrupted(self, frame):
        """Whether gdb takes a frame's pc for a return address, and an interrupt came there."""
        if not self.interrupted:
            return False
        return (frame.pc(), int(frame.read_register("rsp")) & MASK) in self.interrupted

    def __call__(self, pending):
        pc = int(pending.read_register("rip")) & MASK
        if pc < KERNEL_TEXT:
            return None
        try:
            rule, marked = self.rules[pc]
        except KeyError:
            rule, marked = self.rules[pc] = self.rule_at(pc)
        if rule is None and not (self.exact or self.interrupted or self.shifts):
            return None
        frame = pc, int(pending.read_register("rsp")) & MASK
        try:
            if frame in self.exact:
                rule = self.needed(pc, self.orc.find(pc))
            elif frame in self.interrupted:
                rule = self.orc.find(pc)
                # gdb looks at the instruction before, as before a return address. That makes a
                # difference only where the stack pointer has just been moved.
                if rule == self.orc.find(pc - 1) and frame not in self.shifts:
                    return None
            elif marked and pending.level() and self.leave_to_gdb(frame, rule):
                return None
            elif rule is None and frame in self.shifts:
                rule = self.orc.find_call(pc)
            if rule is not None:
                return self.unwind(pending, *frame, rule=rule)
            return self.end(pending, *frame) if frame in self.shifts else None
        except (gdb.error, ValueError):
            return None

    def rule_at(self, pc):
        """The rule at an address where gdb needs it, and whether gdb has it, too."""
        rule = self.needed(pc, self.orc.find_call(pc))
        marked = (
            rule is not None
            and (rule[2], rule[4]) == (ORC_REG_SP, REGS)
            and self.entries.get(self.orc.find_start(pc - 1)) == rule[0]
        )
        return rule, marked

    def needed(self, pc, rule):
        """A rule, if gdb has none at the address."""
        if rule is None:
            return None
        _, _, base, _, kind = rule
        if kind != CALL or base not in (ORC_REG_SP, ORC_REG_BP):
            return rule
        symtab = gdb.find_pc_line(pc).symtab
        return rule if symtab is not None and symtab.filename.endswith(".S") else None

    def leave_to_gdb(self, frame, rule):
        """Whether gdb can go on: what was interrupted is the kernel."""
        address = frame[1] + rule[0]
        ip, cs, _flags, sp = struct.unpack("<4Q", read(address + 8 * IRET_FRAME, 32))
        if cs & 3:
            return False
        self.exact.add((ip, sp))
        return True

    def unwind(self, pending, pc, sp, rule):
        """The caller's registers, as gdb takes them."""
        sp_offset, bp_offset, base, bp_base, kind = rule
        cfa = int(pending.read_register(REGISTERS[base])) & MASK
        if base == ORC_REG_SP_INDIRECT:
            cfa = read_word(cfa) + sp_offset
        elif base == ORC_REG_BP_INDIRECT:
            cfa = read_word(cfa + sp_offset)
        else:
            cfa += sp_offset
        shift = shifted(self.shifts.get((pc, sp), 0), sp, cfa)
        info = pending.create_unwind_info(FrameId(identifier(cfa, shift), start_of(pc)))
        if kind == CALL:
            caller = read_word(cfa - 8), cfa
            save(info, "rip", caller[0])
            save(info, "rsp", cfa)
            self.save_bp(info, pending, cfa, bp_offset, bp_base)
            if (base, sp_offset) == (ORC_REG_SP, 8):  # nothing has been pushed
                for name in PRESERVED:
                    keep(info, pending, name)
        else:
            caller = self.save_regs(info, cfa, kind, shift)
            self.interrupted.add(caller)
        shift = shifted(shift, cfa, caller[1])
        if shift:
            self.shifts[caller] = shift
        return info

    def end(self, pending, pc, sp):
        """Nothing lies beyond."""
        info = pending.create_unwind_info(
            FrameId(identifier(sp, self.shifts[pc, sp]), start_of(pc))
        )
        save(info, "rip", 0)
        save(info, "rsp", self.top(sp, self.shifts[pc, sp]))
        return info

    def top(self, sp, shift):
        """A stack pointer for what is no frame any more, which gdb reads all the same."""
        return self.orc.kernel.address if shift else sp

    def save_bp(self, info, pending, cfa, offset, base):
        if base == ORC_REG_PREV_SP:
            save(info, "rbp", read_word(cfa + offset))
        elif base == ORC_REG_BP:
            save(info, "rbp", read_word(int(pending.read_register("rbp")) + offset))
        else:
            keep(info, pending, "rbp")

    def save_regs(self, info, address, kind, shift):
        """The registers of what was interrupted; returns its pc and stack pointer."""
        first = 0 if kind == REGS else IRET_FRAME
        words = struct.unpack(
            "<%dQ" % (len(PT_REGS) - first),  # noqa: UP031 # Python 3.6
            read(address, 8 * (len(PT_REGS) - first)),
        )
        values = dict(zip(PT_REGS[first:], words))  # noqa: B905 # Python 3.6
        if values["cs"] & 3:
            # A user program: the kernel's stack ends here.
            # gdb reads a word at the stack pointer, and behind the registers the stack ends.
            values["rip"], values["rsp"] = 0, self.top(address + 8 * (len(words) - 1), shift)
        for name, value in values.items():
            if name is not None:
                save(info, name, value)
        return values["rip"], values["rsp"]


def shifted(shift, sp, caller):
    """What is added to frame ids behind a change of the stack pointer."""
    if caller < sp or (shift and caller // ID_RANGE != sp // ID_RANGE):
        return shift + ID_RANGE if shift else FIRST_ID
    return shift


def identifier(cfa, shift):
    """The stack pointer of a frame's id."""
    return shift + cfa % ID_RANGE if shift else cfa


def read(address, size):
    return bytes(gdb.selected_inferior().read_memory(address & MASK, size))


def follows_call(pc):
    """Whether an address is one that a call returns to."""
    try:
        return read(pc - 5, 1) == b"\xe8"  # call rel32 (SDM volume 2)
    except gdb.error:
        return False


def read_word(address):
    return struct.unpack("<Q", read(address, 8))[0]


def save(info, name, value):
    kind = "unsigned int" if name in HALVES else "unsigned long"
    info.add_saved_register(name, gdb.Value(value & MASK).cast(gdb.lookup_type(kind)))


def keep(info, pending, name):
    """The caller's register is this frame's, if that is known."""
    value = pending.read_register(name)
    if not value.is_optimized_out:  # gdb ends the backtrace with an error otherwise
        info.add_saved_register(name, value)


def start_of(pc):
    """The address of the function, by which gdb tells frames apart."""
    block = gdb.block_for_pc(pc)
    while block is not None and block.function is None:
        block = block.superblock
    while block is not None and block.superblock is not None and block.superblock.function:
        block = block.superblock
    return pc if block is None else block.start


unwinder = OrcUnwinder()
gdb.unwinder.register_unwinder(None, unwinder, replace=True)
