"""Where instructions begin, inside gdb: a breakpoint anywhere else would change one of them.

Written for Python 3.6 and gdb 12, as gdb_agent.py.
"""

import re

import gdb

# gdb/printcmd.c, info_symbol_command
OFFSET = re.compile(r"\S+ \+ (\d+) in section")

# Bytes of code without lines that are looked at: the longest of the kernel's assembly has less.
LONGEST = 1 << 16


def instruction_around(address):
    """The instruction that an address is within: (its address, its text).

    None where one begins there, or nothing is known.
    """
    line = gdb.find_pc_line(address)
    start = line.pc if line.symtab is not None else symbol_before(address)
    if not 0 < address - start <= LONGEST:
        return None
    try:
        architecture = gdb.selected_inferior().architecture()
        last = architecture.disassemble(start, address)[-1]
    except (gdb.error, IndexError):
        return None  # there is no memory
    begin = last["addr"]
    if begin < address < begin + last["length"] and "(bad)" not in last["asm"]:
        return begin, " ".join(last["asm"].split())
    return None


def symbol_before(address):
    """Where the symbol before an address is; the address itself where there is none."""
    match = OFFSET.match(gdb.execute(f"info symbol {address:#x}", to_string=True))
    return address - int(match.group(1)) if match is not None else address
