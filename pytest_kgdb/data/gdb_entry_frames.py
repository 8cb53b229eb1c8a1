"""What makes gdb take the entry code for what it is: interrupts and exceptions enter there.

gdb takes a caller's pc for a return address and looks up block, line and variables at the
instruction before, but for the caller of a signal trampoline (gdb/frame.c,
get_frame_address_in_block). What was interrupted has its pc at an instruction that has not been
executed: at the one before, variables may lie elsewhere, and what is inlined may be another's. An
unwinder in Python cannot say of a frame that it is a trampoline's. Call frame information can, by
the augmentation "S" (gdb/dwarf2/frame.c, decode_frame_entry_1), and so gdb is given a file that
holds nothing else, made from the kernel's ORC tables.

gdb runs this file; see gdb_agent.py.
"""

import hashlib
import pathlib
import struct
import tempfile

import gdb

# arch/x86/include/asm/ptrace.h, struct pt_regs: gdb's names, and DWARF's numbers (System V ABI,
# AMD64 supplement, figure 3.36; 16 is the return address). orig_ax is not the CPU's.
PT_REGS = (
    ("r15", 15), ("r14", 14), ("r13", 13), ("r12", 12), ("rbp", 6), ("rbx", 3), ("r11", 11),
    ("r10", 10), ("r9", 9), ("r8", 8), ("rax", 0), ("rcx", 2), ("rdx", 1), ("rsi", 4), ("rdi", 5),
    (None, None), ("rip", 16), ("cs", 51), ("eflags", 49), ("rsp", 7), ("ss", 52),
)  # fmt: skip
RSP, RETURN_ADDRESS = 7, 16

# DWARF 4, 7.23 and 6.4.1
DW_CFA_OFFSET = 0x80
DW_CFA_DEF_CFA = 0x0C
DW_CFA_NOP = 0x00
CIE_ID = 0xFFFFFFFF
VERSION = 3

# ELF-64 Object File Format, version 1.5
HEADER = struct.Struct("<16sHHIQQQIHHHHHH")
SECTION = struct.Struct("<IIQQQQIIQQ")
ET_EXEC, EM_X86_64 = 2, 62
SHT_PROGBITS, SHT_STRTAB, SHT_NOBITS = 1, 3, 8
SHF_ALLOC, SHF_EXECINSTR = 2, 4
NAMES = b"\0.text\0.debug_frame\0.shstrtab\0"
# gdb wants a section .text (gdb/objfiles.h, SECT_OFF_TEXT). No memory has this address: it is not
# canonical (Documentation/arch/x86/x86_64/mm.rst).
NOWHERE = 1 << 47


def entries_file(directory, rules):
    """Write the file for some rules, unless it is there; returns its path.

    :param rules: addresses, lengths, and what lies between the stack pointer and the saved
        registers there.
    """
    data = elf(frame_section(rules))
    path = pathlib.Path(directory) / f"entry-{hashlib.sha256(data).hexdigest()[:32]}.frames"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=str(path.parent), delete=False) as file:
            file.write(data)
        pathlib.Path(file.name).replace(path)
    return path


def load(directory, rules):
    """Have gdb know them."""
    if rules:
        gdb.execute(f'add-symbol-file "{entries_file(directory, rules)}"', to_string=True)


def uleb(value):
    """An unsigned number as DWARF has them (7.6)."""
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def entry(body):
    """One of the section's, filled up to a multiple of 8."""
    body += bytes([DW_CFA_NOP]) * (-(4 + len(body)) % 8)
    return struct.pack("<I", len(body)) + body


def frame_section(rules):
    """The contents of .debug_frame."""
    saved = b""
    for index, (_, number) in enumerate(PT_REGS):
        if number is not None:
            saved += bytes([DW_CFA_OFFSET | number]) + uleb(index)
    # The canonical frame address is that of the registers, each of which takes 8 bytes.
    head = struct.pack("<IB", CIE_ID, VERSION) + b"S\0" + uleb(1) + uleb(8) + uleb(RETURN_ADDRESS)
    section = entry(head + bytes([DW_CFA_DEF_CFA]) + uleb(RSP) + uleb(0) + saved)
    for address, length, offset in rules:
        section += entry(
            struct.pack("<IQQ", 0, address, length)
            + bytes([DW_CFA_DEF_CFA])
            + uleb(RSP)
            + uleb(offset)
        )
    return section


def elf(frames):
    """An ELF file of a section .text, which is empty, and .debug_frame."""
    start = HEADER.size
    names = start + len(frames)
    table = names + len(NAMES)
    sections = (
        ("", 0, 0, 0, 0, 0),
        (".text", SHT_NOBITS, SHF_ALLOC | SHF_EXECINSTR, NOWHERE, start, 1),
        (".debug_frame", SHT_PROGBITS, 0, 0, start, len(frames)),
        (".shstrtab", SHT_STRTAB, 0, 0, names, len(NAMES)),
    )
    header = HEADER.pack(
        b"\x7fELF\x02\x01\x01", ET_EXEC, EM_X86_64, 1, 0, 0, table, 0, HEADER.size, 0, 0,
        SECTION.size, len(sections), len(sections) - 1,
    )  # fmt: skip
    return (
        header
        + frames
        + NAMES
        + b"".join(
            SECTION.pack(NAMES.index(name.encode()), kind, flags, address, place, size, 0, 0, 1, 0)
            for name, kind, flags, address, place, size in sections
        )
    )
