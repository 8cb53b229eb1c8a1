"""What a name means in the kernel, inside gdb: scopes, per-CPU variables, freed init data.

gdb looks a name up in the scope of an address, then among the globals, and then takes whichever
file has a static of that name. The kernel has hundreds of statics called `state`, some in memory
that was freed after boot, and its per-CPU variables have addresses at which nothing lies.

Written for Python 3.6 and gdb 12, as gdb_agent.py, which imports it.
"""

import re

import gdb
from gdb_places import (
    is_same_block,
)
from gdb_types import (
    KEYWORDS,
    TAGS,
    WORDS,
    Refused,
    tokens_of,
)

# Macros that the agent has made (and the kernel's source has them, too), and what of their
# arguments is a per-CPU variable.
MACROS = frozenset(("current", "per_cpu", "per_cpu_ptr"))
# include/linux/kernel.h, enum system_states: init memory is freed from here on.
FREEING_INITMEM = 2
# include/linux/module.h, enum module_state: of a module in whose init the kernel is.
COMING = 1
# Linked at zero, per-CPU variables have offsets for addresses, which are small
# (arch/x86/kernel/vmlinux.lds.S, until v6.15).
LOW = 1 << 31
UNSIGNED = (1 << 64) - 1

VARIABLES = tuple(
    getattr(gdb, name)
    for name in ("SYMBOL_LOC_STATIC", "SYMBOL_LOC_COMPUTED", "SYMBOL_LOC_UNRESOLVED")
)


class Names:
    """The kernel's names.

    :ivar cpu: an expression for the number of the CPU that stopped.
    """

    def __init__(self):
        self.cpu = "kgdb_active.counter"
        self.bounds = {}
        self.verdicts = {}  # of names that mean the same everywhere
        self.expanded = False
        for event in ("new_objfile", "clear_objfiles", "free_objfile"):
            registry = getattr(gdb.events, event, None)
            if registry is not None:
                registry.connect(self.forget)

    def forget(self, _event=None):
        self.bounds.clear()
        self.verdicts.clear()
        self.expanded = False

    # Where variables lie

    def bound(self, symbol):
        """The address of one of the linker's symbols; None on a kernel without it."""
        if symbol not in self.bounds:
            try:
                address = int(gdb.parse_and_eval(f"(unsigned long)&{symbol}"))
            except gdb.error:
                address = None
            self.bounds[symbol] = address
        return self.bounds[symbol]

    def within(self, address, low, high):
        low, high = self.bound(low), self.bound(high)
        return low is not None and high is not None and low <= address < high

    def is_per_cpu(self, address):
        """Whether that is where the linker has put a per-CPU variable."""
        address &= UNSIGNED
        start, end = self.bound("__per_cpu_start"), self.bound("__per_cpu_end")
        if start is None or start == end or self.bound("__per_cpu_offset") is None:
            return False  # one CPU, and variables like any other
        if start == 0:
            return address < LOW
        return start <= address < end or section_of(address) == ".data..percpu"

    def is_freed(self, symbol, address):
        """Whether a variable was init data, whose memory is another's by now."""
        if self.within(address, "__init_begin", "__init_end") and not self.is_per_cpu(address):
            return int(gdb.parse_and_eval("(int)system_state")) >= FREEING_INITMEM
        objfile = objfile_of(symbol)
        if objfile is None or not is_module(objfile):
            return False
        if not section_of(address, objfile).startswith(".init"):
            return False
        this = objfile.lookup_global_symbol("__this_module")
        return this is None or int(this.value()["state"]) != COMING

    # What a name means

    def find(self, name, block):
        """The symbol that a name means outside of functions; None where gdb has none.

        :raises Refused: several files have it; it was freed.
        """
        return self.meaning(name, block)[0]

    def meaning(self, name, block, addressed=False):
        """A symbol, and how gdb is to be told which, if it would take another one.

        :param block: from where it is seen; None for nowhere.
        :param addressed: whether only its address is asked for, which may be freed memory's.
        """
        if block is not None:
            symbol = gdb.lookup_symbol(name, block)[0]
        else:
            symbol = gdb.lookup_global_symbol(name) or gdb.lookup_static_symbol(name)
        if symbol is not None and (symbol.addr_class == gdb.SYMBOL_LOC_TYPEDEF or is_local(symbol)):
            return symbol, None
        self.expand_modules()
        others = statics(name)
        here = [other for other in others if block is not None and sees(block, other)]
        if not here and gdb.lookup_global_symbol(name) is None and others:
            symbol, spelled = self.choose(name, others, block)
        elif symbol is None:
            return None, None
        else:
            symbol, spelled = (here or [symbol])[0], None
        if not addressed:
            self.check(name, symbol)
        return symbol, spelled

    def expand_modules(self):
        """Have gdb read all of the modules' debug info, once.

        Its index has no variables that were optimised out: another file's would be taken.
        """
        if self.expanded:
            return
        self.expanded = True
        for objfile in gdb.objfiles():
            if not is_module(objfile) or not objfile.is_valid():
                continue
            this = objfile.lookup_global_symbol("__this_module")
            directory = this.symtab.filename.rpartition("/")[0] if this is not None else ""
            if directory:
                gdb.execute("maint expand-symtabs " + re.escape(directory) + "/", to_string=True)

    def choose(self, name, others, block):
        """Of the statics of a name that other files have, the one that is meant."""
        if len({constant(other) for other in others}) == 1 and constant(others[0]) is not None:
            return others[0], None
        live = [
            other
            for other in others
            if address_of(other) is None or not self.is_freed(other, address_of(other))
        ]
        if not live:
            files = ", ".join(dict.fromkeys(short(other) for other in others))
            raise Refused(
                f"{name} is init data ({files}), whose memory the kernel has freed by now",
                'a test with @pytest.mark.kgdb(at="kgdbwait") comes before that',
            )
        chosen = live
        if len(live) > 1:
            mine = block_objfile(block)
            chosen = [other for other in live if mine is not None and objfile_of(other) == mine]
            if not (chosen and is_module(mine)):
                chosen = [other for other in live if is_module(objfile_of(other))]
        if len(chosen) != 1:
            files = list(dict.fromkeys(short(other) for other in live))
            raise Refused(
                "several files have a '{}': {}".format(name, ", ".join(files[:12]))
                + (f" and {len(files) - 12} more" if len(files) > 12 else ""),
                "say which: {}".format(" or ".join(f"'{file}'::{name}" for file in files[:2])),
            )
        return chosen[0], f"'{chosen[0].symtab.filename}'::{name}"

    def of_file(self, file, name):
        """The variable or function of a file: `'FILE.c'::NAME`, and how gdb is to be told.

        gdb takes another file's of that name where the first file that it finds has none.
        """
        self.expand_modules()
        others = statics(name)
        match = gdb.lookup_global_symbol(name)
        if match is not None:
            others.append(match)
        file = file.strip("'")
        matching = [other for other in others if is_file(other.symtab.filename, file)]
        if len(matching) != 1:
            files = list(dict.fromkeys(short(other) for other in matching or others))
            raise Refused(
                f"{'several' if matching else 'no'} {file} has a '{name}'"
                + (f": {', '.join(files[:12])}" if matching else ""),
                "say which: " + " or ".join(f"'{other}'::{name}" for other in files[:2])
                if files
                else None,
            )
        self.check(name, matching[0])
        return matching[0], f"'{matching[0].symtab.filename}'::{name}"

    def check(self, name, symbol):
        """Refuse a variable that cannot be read."""
        if symbol.addr_class == gdb.SYMBOL_LOC_OPTIMIZED_OUT:
            raise Refused(
                f"{name} ({short(symbol)}) was optimised out by the compiler: it has no memory",
                "a variable that is never written is its initial value, in the source",
            )
        if symbol.addr_class in VARIABLES and not symbol.needs_frame:
            address = address_of(symbol)
            if address is not None and self.is_freed(symbol, address):
                raise Refused(
                    f"{name} is init data ({short(symbol)}), whose memory the kernel has freed "
                    "by now",
                    'a test with @pytest.mark.kgdb(at="kgdbwait") comes before that',
                )

    # Expressions for gdb

    def checked(self, text, block, own=None):
        """An expression for gdb, with each name told so that gdb takes the one that is meant.

        :param own: returns for a name of a function's own how gdb is to be told; None otherwise.
        :raises Refused: a name means nothing that can be read there.
        """
        try:
            tokens = tokens_of(text)
        except Refused:
            return text  # what is no C is gdb's own
        pieces, end = [], 0
        for index, token in enumerate(tokens):
            if token.kind == "file" and "." in token.text and index + 2 < len(tokens):
                last = tokens[index + 2]
                symbol, spelled = self.of_file(token.text, last.text)
                self.check_per_cpu(tokens, index, last.text, symbol)
                pieces += [text[end : token.start], spelled]
                end = last.end
                continue
            if token.kind != "name" or not is_free(tokens, index):
                continue
            spelled = own(token.text) if own is not None else None
            if spelled is None:
                spelled = self.spelling(tokens, index, block)
            if spelled is not None:
                pieces += [text[end : token.start], spelled]
                end = token.end
        return "".join([*pieces, text[end:]])

    def check_per_cpu(self, tokens, index, name, symbol):
        """Whether a name is a per-CPU variable's; it is refused where the CPU is missing."""
        address = address_of(symbol) if symbol.addr_class in VARIABLES else None
        if address is None or not self.is_per_cpu(address):
            return False
        if not takes_address(tokens, index):
            raise Refused(
                f"{name} is a per-CPU variable, of which each CPU has its own",
                f'say whose: per_cpu({name}, CPU) in an expression, kgdb.per_cpu("{name}", cpu)',
            )
        return True

    def spelling(self, tokens, index, block):
        """How gdb is to be told a name; None as it is."""
        name = tokens[index].text
        verdict = self.verdicts.get(name)
        if verdict is None or not (verdict == "plain" or takes_address(tokens, index)):
            symbol, spelled = self.meaning(name, block, takes_address(tokens, index))
            if symbol is None:
                return str(WORDS[name]) if name in WORDS else None
            if is_local(symbol):
                return None
            address = address_of(symbol) if symbol.addr_class in VARIABLES else None
            per_cpu = self.check_per_cpu(tokens, index, name, symbol)
            if (
                not per_cpu
                and spelled is None
                and gdb.lookup_global_symbol(name) is not None
                and not (address and self.within(address, "__init_begin", "__init_end"))
            ):
                self.verdicts[name] = "plain"
            return spelled
        return None


names = Names()


def is_file(filename, file):
    """Whether a path ends with another, as a whole name."""
    return ("/" + filename).endswith("/" + file.lstrip("/"))


def is_free(tokens, index):
    """Whether a word is a name that has a meaning of its own: no member, no type's, no macro."""
    token = tokens[index]
    before = tokens[index - 1].text if index else ""
    after = tokens[index + 1].text if index + 1 < len(tokens) else ""
    if before in (".", "->", "::") or before in TAGS or after == "::":
        return False
    return token.text not in KEYWORDS and token.text not in MACROS


def takes_address(tokens, index):
    """Whether only the address, the size or the type of a variable is asked for."""
    at = index - 1
    while at >= 0 and tokens[at].text == "(":
        at -= 1
    if at < 0:
        return False
    word = tokens[at].text
    if word in ("sizeof", "typeof", "__typeof__", "per_cpu", "per_cpu_ptr"):
        return True
    if word != "&":
        return False
    return at == 0 or is_unary(tokens, at)


def is_unary(tokens, at):
    """Whether an operator has nothing before it that it could join: `(unsigned long)&x` has not."""
    before = tokens[at - 1]
    if before.kind != "operator" or before.text == "]":
        return False
    if before.text != ")":
        return True
    depth, opening = 0, at - 1
    while opening >= 0:
        depth += {")": 1, "(": -1}.get(tokens[opening].text, 0)
        if depth == 0:
            break
        opening -= 1
    if opening > 0 and tokens[opening - 1].text == "sizeof":
        return False
    first = tokens[opening + 1]
    if first.text in KEYWORDS and first.text != "sizeof":
        return True
    if first.kind != "name" or tokens[at - 2].text not in ("*", first.text):
        return False
    symbol = gdb.lookup_static_symbol(first.text) or gdb.lookup_global_symbol(first.text)
    return symbol is not None and symbol.addr_class == gdb.SYMBOL_LOC_TYPEDEF


def is_local(symbol):
    return symbol.needs_frame


def statics(name):
    """The files' own variables and functions of a name, and enumerators."""
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
    except (gdb.error, TypeError):
        return None
    return None if address is None else int(address) & UNSIGNED


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
    for mark in ("/src/", "/linux/"):
        if mark in name:
            return name.rpartition(mark)[2]
    return name.lstrip("./")


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


class Of(gdb.Function):
    """$_of("FUNCTION", "NAME"): a variable of the function around the selected frame's pc.

    gdb takes a name for that of a function that gcc inlined there.
    """

    def __init__(self):
        super().__init__("_of")

    def invoke(self, function, name):
        frame = gdb.selected_frame()
        block = named_block(frame.pc(), function.string())
        if block is None:
            raise gdb.GdbError(f"the frame is not in {function.string()}()")
        variable = name.string()
        for symbol in block:
            if symbol.name == variable and symbol.addr_class != gdb.SYMBOL_LOC_LABEL:
                return symbol.value(frame) if symbol.needs_frame else symbol.value()
        raise gdb.GdbError(f"{function.string()}() has no {variable}")


Of()


def refuse_calls(text):
    """Refuse a condition that gdb cannot evaluate: it calls a function, or compares text."""
    try:
        tokens = tokens_of(text)
    except Refused:
        return
    for index, token in enumerate(tokens):
        before = tokens[index - 1] if index else None
        after = tokens[index + 1] if index + 1 < len(tokens) else None
        if (
            token.kind == "name"
            and (after is not None and after.text == "(")
            and token.text not in KEYWORDS | MACROS
            and not (before is not None and before.text in TAGS)
        ):
            raise Refused(
                f"it calls {token.text}(), and gdb calls nothing in a stopped kernel",
                string_hint(token.text)
                or "compute it from the variables, or in Python at the stop",
            )
        if token.kind == "text":
            for other in (before, after):
                if other is not None and other.text in ("==", "!=", "<", ">", "<=", ">="):
                    raise Refused(
                        f"in C '{other.text}' compares the address of a text",
                        'gdb has functions for that: $_streq(a, "b"), $_regex(a, "b.*")',
                    )


def string_hint(function):
    if function in ("strcmp", "strncmp", "strcasecmp", "memcmp", "strstr", "strchr", "streq"):
        return 'gdb has functions for text: $_streq(a, "b"), $_memeq(a, b, n), $_regex(a, "b.*")'
    if function == "strlen":
        return "gdb has $_strlen(text)"
    return None


def has(block, name):
    """Whether a block has a variable of a name."""
    return any(
        symbol.name == name and symbol.addr_class != gdb.SYMBOL_LOC_LABEL for symbol in block
    )


def visible_in(name, address):
    """The innermost block at an address that has a name, as far out as gdb looks; or None."""
    block = gdb.block_for_pc(address)
    while block is not None and not block.is_static and not block.is_global:
        if has(block, name):
            return block
        if block.function is not None:
            return None
        block = block.superblock
    return None


def is_within(block, function):
    """Whether a block is a function's own, or one in it that is not inlined."""
    while block is not None and block.function is None:
        block = block.superblock
    return block is not None and is_same_block(block, function)


LINE = re.compile(r"(?:^|:)\s*[-+]?\d+\s*$")


def condition_block(address, location):
    """The function at whose entry a breakpoint is, as a block; None for any other place."""
    if LINE.search(location):
        return None
    if location.lstrip().startswith("*"):
        block = function_block(address)
        return block if block is not None and entry_of(block) == address else None
    name = location.rpartition(":")[2].strip()
    return named_block(address, name) or function_block(address)


def condition_for(text, location, addresses, names):
    """A breakpoint's condition as gdb must have it: names are those of the function's own.

    :param addresses: where the breakpoint is.
    """
    refuse_calls(text)
    blocks = [(address, condition_block(address, location)) for address in addresses]

    def own(name):
        """How gdb is to be told a name; None if it takes it for what it is."""
        spelled = None
        for address, block in blocks:
            if block is None:
                continue
            match = visible_in(name, address)
            if has(block, name):
                if match is None or not is_same_block(match, block):
                    spelled = f'$_of("{block.function.name}", "{name}")'
            elif match is not None and not is_within(match, block):
                # Of what is inlined there: at the function's entry, C sees no such thing.
                symbol, spelled = names.meaning(name, block)
                if symbol is None:
                    raise Refused(f"{block.function.name}() has no {name}")
                spelled = spelled or f"'{symbol.symtab.filename}'::{name}"
        return spelled

    block = blocks[0][1] if blocks else None
    if block is None and blocks:
        block = gdb.block_for_pc(blocks[0][0])
    return names.checked(text, block, own)
