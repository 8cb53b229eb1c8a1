"""Which line a frame is at, where gdb's table says one of another function's, inside gdb.

Of several rows of a line table at one address, the instruction is the last one's (DWARF 5, 6.2.5).
gdb keeps those at which a statement begins, and leaves out one behind them that is of another file
and begins none (gdb/dwarf2/read.c, lnp_state_machine::record_line). So what gcc has moved up to a
function's entry, or to a call, from a function that is inlined further down, gives its file and
line to the entry and to the call.

Written for Python 3.6 and gdb 12, as gdb_agent.py.
"""

import gdb
from gdb_symbols import UNSIGNED


def own_place(frame, sal, interrupted):
    """Where a frame is in its own function, if gdb's place is none there; None otherwise.

    :param sal: gdb's place.
    :param interrupted: whether it is that of the pc, though the frame is no innermost one.
    :return: `file` and `fullname` of the function; and `line`, or the `address` of the instruction
        whose line has to be looked up elsewhere.
    """
    newer = frame.newer()
    if frame.type() != gdb.NORMAL_FRAME or sal.symtab is None:
        return None
    if newer is not None and newer.type() == gdb.INLINE_FRAME:
        return None  # the place is that of the call, from the function's own record of it
    function = frame.function()
    if function is None or function.symtab is None or not function.line:
        return None
    if sal.symtab.filename == function.symtab.filename and sal.line >= function.line:
        return None
    place = {"file": function.symtab.filename, "fullname": function.symtab.fullname()}
    calls = not (newer is None or interrupted or newer.type() == gdb.SIGTRAMP_FRAME)
    if frame.pc() == int(function.value().address) & UNSIGNED and not calls:
        place["line"] = function.line
    elif newer is not None:
        place["address"] = frame.pc() - calls
    else:
        return None  # a breakpoint may have been set on that very line
    return place
