"""Copies of a function that gcc specialised or split, inside gdb.

Such a copy has the function's name with a suffix. `.constprop`: a parameter has one value at all
its calls (gcc/ipa-cp.cc). `.isra`: parameters that it does not need are removed, or what a pointer
points at is passed in its place, and what no caller uses is not returned (gcc/ipa-sra.cc). `.part`:
the less likely part of a function, whose beginning is inlined in its callers (gcc/ipa-split.cc).
`.cold` is no function, but unlikely instructions of one, moved away (gcc/bb-reorder.cc).

Written for Python 3.6 and gdb 12, as gdb_agent.py.
"""

import re

import gdb
from gdb_types import (
    Refused,
)

SUFFIXES = re.compile(r"((?:\.(?:constprop|isra|part|cold)(?:\.\d+)?)+)$")
KIND = re.compile(r"\.([a-z]+)")


def base_name(name):
    """A function's name without what gcc appends to that of a copy."""
    return SUFFIXES.sub("", name)


def kinds_of(name):
    """How gcc has made the copy that has a name: `constprop`, `isra`, `part`, `cold`."""
    match = SUFFIXES.search(name)
    return frozenset(KIND.findall(match.group(1))) if match else frozenset()


def symbol_at(address):
    """The linker's name of what begins at an address; None where nothing does.

    gdb takes `name.isra.0` for Ada, and would drop the number.
    """
    output = gdb.execute(f"with print demangle off -- info symbol {address:#x}", to_string=True)
    name = output.partition(" in section")[0].strip()
    return None if output.startswith("No symbol") or " + " in name else name


def refuse_cold(name):
    """Refuse the name of instructions that are no function."""
    if "cold" in kinds_of(name):
        raise Refused(
            f"{name} is no function: gcc has moved unlikely instructions of {base_name(name)} "
            "there",
            f"take {base_name(name)}",
        )


def has_inlined(address, function, name):
    """Whether a function is inlined at an address into another, at whose entry that is.

    :param function: the block of the function that is entered there.
    """
    if function.function.name == name:
        return False
    block = gdb.block_for_pc(address)
    while block is not None and block.superblock is not None:
        if block.function is not None and block.function.name == name:
            return True
        block = block.superblock
    return False


def removed(name, function, copy, error):
    """What is said of a parameter that a copy of a function does not have at its entry.

    :param error: gdb's.
    """
    why = f"gcc removed the parameter `{name}` of {function} ({copy})"
    hint = f"its callers have it: spy on one, or stop at {function} and look at the caller's frame"
    if "parameter_ref" in error:
        return Refused(why, hint)
    if "piece" in error:
        return Refused(f"gcc removed a part of the parameter `{name}` of {function} ({copy})", hint)
    return Refused(
        f"{why}, or passes it in another form: the debug info has no place for it at the entry",
        hint,
    )
