"""gdb's symbols of the kernel, and the blocks of its functions.

Written for Python 3.6 and gdb 12, as gdb_agent.py.
"""

import re

import gdb
from gdb_elf import files_with
from gdb_types import Refused

UNSIGNED = (1 << 64) - 1
# Below are no addresses of the kernel's (Documentation/arch/x86/x86_64/mm.rst). gdb has symbols for
# offsets there: of per-CPU variables, which are linked at zero until v6.15
# (arch/x86/kernel/vmlinux.lds.S), and of what a module has in its file alone.
FIRST_KERNEL_ADDRESS = 1 << 63
# gdb/printcmd.c, print_address_demangle; what is in quotes is a text, and may say the same.
SYMBOLIC = re.compile(
    r"""(?P<text>"(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*')|(?P<number>0x[0-9a-f]+)\ <[^\s<>]+>""",
    re.VERBOSE,
)

# gdb/corefile.c, memory_error_message
UNREAD = re.compile(r"Cannot access memory at address (0x[0-9a-f]+)")

# A function of the kernel's, and the file in its tree that has it.
KNOWN_FUNCTION, KNOWN_FILE = "start_kernel", "init/main.c"

# Names of which gdb has read all files that have a static.
complete = set()


def is_file(filename, file):
    """Whether a path ends with another, as a whole name."""
    return ("/" + filename).endswith("/" + file.lstrip("/"))


def is_kernels(address):
    """Whether an address is the kernel's: NULL, a small number and a user's have no symbol."""
    return address & UNSIGNED >= FIRST_KERNEL_ADDRESS


def without_offsets(text):
    """What gdb prints of a value, but for symbols behind numbers that are no kernel addresses."""

    def shown(match):
        number = match.group("number")
        return match.group() if number is None or is_kernels(int(number, 16)) else number

    return SYMBOLIC.sub(shown, text) if "<" in text else text


def is_local(symbol):
    return symbol.needs_frame


def unassigned(name, function):
    """What is said of a function's local variable where the function begins.

    Its memory is below the stack pointer there, and holds whatever other functions have left.

    :param function: the function's block.
    """
    return Refused(
        f"{name} is a local variable of {function.function.name}(), which has no value yet at the "
        "function's entry",
        'stop at a line behind its assignment: breakpoint("FILE.c:LINE")',
    )


def own_variable(name, block):
    """The function's own variable or argument that a name means in a block; None for none.

    gdb says of a static, and of what the compiler left nothing of, that it needs no frame.
    """
    while block is not None:
        for symbol in block:
            if symbol.name == name and (symbol.is_variable or symbol.is_argument):
                return symbol
        if block.function is not None:
            return None
        block = block.superblock
    return None


def statics(name):
    """The files' own variables and functions of a name, and enumerators."""
    matches = distinct(name)
    if name not in complete:
        complete.add(name)
        vmlinux = gdb.current_progspace().filename
        files = files_with(vmlinux, name)
        inside = [one for one in matches if address_of(one) and not is_module(objfile_of(one))]
        if len(files) > len(inside):
            # gdb 13's index cache has one of them at times, and which one is a matter of threads.
            for file in sorted(set(files)):  # gdb takes POSIX basic expressions
                gdb.execute(f"maint expand-symtabs /{re.escape(file)}$", to_string=True)
            matches = distinct(name)
    return matches


def distinct(name):
    """The same, as far as gdb's index knows of them."""
    matches, seen = [], set()
    for symbol in gdb.lookup_static_symbols(name):
        if symbol.addr_class in (gdb.SYMBOL_LOC_TYPEDEF, gdb.SYMBOL_LOC_UNRESOLVED):
            continue
        key = (symbol.symtab.filename, symbol.line, address_of(symbol), objfile_of(symbol).filename)
        if key not in seen:
            seen.add(key)
            matches.append(symbol)
    return matches


def address_of(symbol):
    """Where a variable or a function is; None for what is nowhere in memory."""
    if symbol.needs_frame or symbol.addr_class in (
        gdb.SYMBOL_LOC_OPTIMIZED_OUT,
        gdb.SYMBOL_LOC_CONST,
        gdb.SYMBOL_LOC_TYPEDEF,
    ):
        return None
    try:
        address = symbol.value().address
    except gdb.MemoryError as error:
        return unread_address(error)
    except (gdb.error, TypeError):
        return None
    return None if address is None else int(address) & UNSIGNED


def unread_address(error):
    """Where gdb could not read a variable; None where it does not say.

    Of a pointer to a structure that ends with an array without a length, gdb 16 reads the pointer
    to make the value of the variable, though nobody has asked for more than its address.
    """
    match = UNREAD.search(str(error))
    return int(match.group(1), 16) if match else None


def is_unmade(symbol):
    """Whether gdb cannot make a variable's value where its memory cannot be read."""
    try:
        symbol.value()
    except gdb.MemoryError as error:
        return unread_address(error) is not None
    return False


def constant(symbol):
    """The value of an enumerator or a variable that has become a constant; None for others."""
    if symbol.addr_class != gdb.SYMBOL_LOC_CONST:
        return None
    try:
        return int(symbol.value())
    except gdb.error:
        return None


def sees(block, symbol):
    """Whether a static is that of the file in which a block is."""
    mine, its = block.static_block, symbol.symtab.static_block()
    if mine is None:
        return False
    if (mine.start, mine.end) == (its.start, its.end):
        return True
    # A header's symbols have their symtab's block, which is the file's that includes it.
    match = gdb.lookup_symbol(symbol.name, mine)[0]
    return (
        match is not None
        and address_of(match) == address_of(symbol)
        and match.symtab.filename == symbol.symtab.filename
        and symbol.symtab.filename == mine_filename(block)
    )


def mine_filename(block):
    while block is not None and block.function is None:
        block = block.superblock
    return block.function.symtab.filename if block is not None else None


def objfile_of(symbol):
    return symbol.symtab.objfile


def block_objfile(block):
    while block is not None and block.function is None:
        block = block.superblock
    return block.function.symtab.objfile if block is not None else None


def is_module(objfile):
    return objfile is not None and objfile.filename != gdb.current_progspace().filename


def section_of(address, objfile=None):
    """The name of the section of a module's file that has an address; "" for none."""
    output = gdb.execute(f"info symbol {address:#x}", to_string=True)
    for line in output.splitlines():
        rest = line.partition(" in section ")[2]
        if rest and (objfile is None or rest.partition(" of ")[2] == objfile.filename):
            return rest.partition(" ")[0]
    return ""


def short(symbol):
    """A symbol's file, short enough to read and long enough for gdb to know it."""
    name = symbol.symtab.filename
    if is_module(objfile_of(symbol)):
        return name.rpartition("/")[2]
    top = kernel_top()
    name = name[len(top) if name.startswith(top) else 0 :]
    return name.removeprefix("./")  # of headers, where make has them


def kernel_top():
    """Where the kernel's tree begins in its files' names: what is before that of a known file."""
    symbol = gdb.lookup_global_symbol(KNOWN_FUNCTION)
    name = symbol.symtab.filename if symbol is not None else ""
    return name[: -len(KNOWN_FILE)] if name.endswith(KNOWN_FILE) else ""


def function_block(address):
    """The block of the function that has an address, not of one inlined there; None without."""
    block, function = gdb.block_for_pc(address), None
    while block is not None:
        if block.function is not None:
            function = block
        block = block.superblock
    return function


def entry_of(block):
    """A function's first instruction; its block may begin with a part that gcc has split off."""
    return int(block.function.value().address) & UNSIGNED


def named_block(address, name):
    """The outermost block of a function of that name, inlined or not, around an address."""
    block, match = gdb.block_for_pc(address), None
    while block is not None:
        if block.function is not None and block.function.name == name:
            match = block
        block = block.superblock
    return match
