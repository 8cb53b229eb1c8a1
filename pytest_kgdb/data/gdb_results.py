"""Whether a copy of a function returns what the function does, inside gdb.

Written for Python 3.6 and gdb 12, as gdb_agent.py.
"""

import re

import gdb
from gdb_clones import (
    kinds_of,
    symbol_at,
)
from gdb_symbols import (
    entry_of,
    function_block,
)

# What reads the return register behind a call, in gdb's AT&T syntax: as a source, or as what is
# compared. Other instructions that read it are not recognised.
READS_RESULT = re.compile(
    r"(?:(?:mov|add|or|and|lea|sub|imul|shl|sar|shr)\w*\s+[^,]*%(?:[re]ax|ax|al)\b[^,]*(?:,[^,]*)*,"
    r"|(?:test|cmp)\w*\s+.*%(?:[re]ax|ax|al)\b|c[lw]t[ql])"
)
WRITES_RESULT = re.compile(r"(?!cmp|test|push|xchg)\w+\s+(?:.*,)?%(?:[re]ax|ax|al)$")
LEAVES = re.compile(r"j|ret|call|ud2|int3")
# Behind a call, how many instructions are looked at.
STRAIGHT = 6
# call rel32.
CALL = b"\xe8"
CALL_BYTES = 5
# A file's text lies together; that of its init functions is far away.
REACH = 1 << 20


def keeps_result(address, block):
    """Whether a copy is proven to return what the function does; None if nothing tells.

    gcc says nothing of it in the debug info. If it returned nothing, no caller would read the
    register, unless the copy left it alone (-fipa-ra).
    """
    # Such a copy is local to its file.
    static = block.static_block
    start, end = max(static.start, address - REACH), min(static.end, address + REACH)
    try:
        data = bytes(gdb.selected_inferior().read_memory(start, end - start))
        for match in re.finditer(re.escape(CALL), data):
            after = match.start() + CALL_BYTES
            distance = int.from_bytes(data[after - 4 : after], "little", signed=True)
            if start + after + distance == address and is_read_at(start + after):
                return any(WRITES_RESULT.match(text) for text in body_of(address, block)) or None
    except gdb.error:
        return None
    return None


def unproven_result(after):
    """The copy of a function that was called before an address, if what it returns may be gone."""
    call = bytes(gdb.selected_inferior().read_memory(after - CALL_BYTES, CALL_BYTES))
    if call[:1] != CALL:
        return None  # through a pointer, and a copy has one name only, by which it is called
    address = after + int.from_bytes(call[1:], "little", signed=True)
    copy, block = symbol_at(address), function_block(address)
    if copy is None or block is None or not {"isra", "part"} & set(kinds_of(copy)):
        return None
    return None if keeps_result(address, block) else copy


def is_read_at(address):
    """Whether instructions that run one after another read the return register."""
    for line in gdb.selected_inferior().architecture().disassemble(address, count=STRAIGHT):
        text = line["asm"].strip()
        if READS_RESULT.match(text):
            return True
        if WRITES_RESULT.match(text) or LEAVES.match(text):
            return False
    return False


def body_of(address, block):
    """A function's instructions, a few at a time: gdb needs a while for each."""
    arch = gdb.selected_inferior().architecture()
    while is_in(address, block):
        for line in arch.disassemble(address, count=8):
            if not is_in(line["addr"], block):
                return
            yield line["asm"].strip()
            address = line["addr"] + line["length"]


def is_in(address, block):
    """Whether an address is a function's, whose block may be in several places."""
    around = function_block(address)
    return around is not None and entry_of(around) == entry_of(block)
