"""Runs inside gdb: what the agent reads of every function's arguments, and what gdb's frames say.

`$entry_names_in` names a file of addresses, `$entry_names_out` gets a line of JSON for each.
"""

import json
import pathlib

import gdb
import gdb_agent  # noqa: F401 # it defines the macros
import gdb_functions as agent
from gdb_names import names
from gdb_places import (
    Scope,
)
from gdb_symbols import entry_of, function_block
from gdb_types import (
    INTEGERS,
    plain,
)

ENTRIES = gdb.convenience_variable("entry_names_in").string()
OUTPUT = gdb.convenience_variable("entry_names_out").string()
SCALARS = (*INTEGERS, gdb.TYPE_CODE_PTR)


def outer_frame():
    """The frame of the function itself, not of what is inlined at its first instruction."""
    frame = gdb.newest_frame()
    while frame.type() == gdb.INLINE_FRAME:
        frame = frame.older()
    return frame


def frame_value(symbol):
    """What gdb's frame has of an argument: a number, an address in memory, or why not."""
    try:
        value = symbol.value(outer_frame())
        if value.is_optimized_out:
            return {"error": "optimized out"}
        if plain(symbol.type).code in SCALARS and plain(symbol.type).sizeof <= 8:
            if value.address is not None:
                return {"address": int(value.address)}
            return {"number": int(value)}
        return {"address": None if value.address is None else int(value.address)}
    except (gdb.error, RuntimeError) as error:
        return {"error": str(error)}


def parameter(symbol, scope):
    kind = plain(symbol.type)
    return {
        "name": symbol.name,
        "type": str(symbol.type),
        "size": kind.sizeof,
        "scalar": kind.code in SCALARS,
        "record": agent.compiled(symbol.name, scope),
        "frame": frame_value(symbol),
    }


def describe(address):
    block = function_block(address)
    if block is None or entry_of(block) != address:
        return None
    result = block.function.type.target()
    inner = gdb.block_for_pc(address)
    while inner.function is None:
        inner = inner.superblock
    row = {
        "function": block.function.name,
        "linkage": gdb.execute(f"info symbol {address:#x}", to_string=True).partition(" ")[0],
        "inlined": inner.function.name
        if inner.function is not None and (inner.function.name != block.function.name)
        else None,
        "returns": 0 if result is None else plain(result).sizeof,
        "arguments": [],
    }

    def work():
        scope = Scope(address, block, names)
        row["arguments"] = [parameter(symbol, scope) for symbol in block if symbol.is_argument]

    agent.in_scope(address, work)
    return row


with pathlib.Path(ENTRIES).open() as entries, pathlib.Path(OUTPUT).open("w") as output:
    for line in entries:
        row = describe(int(line, 16))
        if row is not None:
            output.write(json.dumps(row) + "\n")
