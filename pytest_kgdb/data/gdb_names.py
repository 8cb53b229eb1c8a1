"""What a name means in the kernel, inside gdb: scopes, per-CPU variables, freed init data.

gdb looks a name up in the scope of an address, then among the globals, and then takes whichever
file has a static of that name. The kernel has hundreds of statics called `state`, some in memory
that was freed after boot, and its per-CPU variables have addresses at which nothing lies.

Written for Python 3.6 and gdb 12, as gdb_agent.py, which imports it.
"""

import re

import gdb
from gdb_arithmetic import edited, edits_for
from gdb_per_cpu import check_constants, variables
from gdb_symbols import (
    UNSIGNED,
    address_of,
    block_objfile,
    constant,
    is_file,
    is_local,
    is_module,
    is_unmade,
    objfile_of,
    own_variable,
    section_of,
    sees,
    short,
    statics,
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
        own = own_variable(name, block)
        if own is not None:
            if not addressed and own.addr_class != gdb.SYMBOL_LOC_OPTIMIZED_OUT:
                self.check(name, own)
            return own, None
        self.expand_modules()
        others = statics(name)
        here = [other for other in others if block is not None and sees(block, other)]
        if not here and gdb.lookup_global_symbol(name) is None and others:
            symbol, spelled = self.choose(name, others, block, addressed)
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
            directory = directory_of(objfile)
            if directory:
                gdb.execute("maint expand-symtabs " + re.escape(directory) + "/", to_string=True)

    def choose(self, name, others, block, addressed=False):
        """Of the statics of a name that other files have, the one that is meant.

        :param addressed: as for :meth:`meaning`.
        """
        if len({constant(other) for other in others}) == 1 and constant(others[0]) is not None:
            return others[0], None
        live = [
            other
            for other in others
            if address_of(other) is None or not self.is_freed(other, address_of(other))
        ]
        if not live and addressed:
            live = others
        if not live:
            files = ", ".join(dict.fromkeys(short(other) for other in others))
            raise Refused(
                f"{name} is init data ({files}), whose memory the kernel has freed by now",
                before_freeing(others[0]),
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
                "of a variable that is never written the value is the initial one, in the source; "
                "one that is never read has none",
            )
        if symbol.addr_class in VARIABLES and not symbol.needs_frame:
            address = address_of(symbol)
            if address is not None and self.is_freed(symbol, address):
                raise Refused(
                    f"{name} is init data ({short(symbol)}), whose memory the kernel has freed "
                    "by now",
                    before_freeing(symbol),
                )

    def check_value(self, name, symbol):
        """Refuse a function's own variable whose value cannot be read without more."""
        if is_local(symbol) or symbol.addr_class not in VARIABLES:
            return
        self.check(name, symbol)
        address = address_of(symbol)
        if address is not None and self.is_per_cpu(address):
            raise without_cpu(name)

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
        edits = []
        for index, token in enumerate(tokens):
            if token.kind == "file" and "." in token.text and index + 2 < len(tokens):
                last = tokens[index + 2]
                symbol, spelled = self.of_file(token.text, last.text)
                if self.check_per_cpu(tokens, index, last.text, symbol) and is_unmade(symbol):
                    spelled = at_its_address(symbol, spelled, tokens, index)
                edits.append((token.start, last.end, spelled, None))
                continue
            if token.kind != "name" or not is_free(tokens, index):
                continue
            spelled = own(token.text) if own is not None else None
            if spelled is None:
                spelled = self.spelling(tokens, index, block)
            if spelled is not None:
                edits.append((token.start, token.end, spelled, None))
        self.check_shared(tokens, block)
        edits += edits_for(tokens, lambda name: self.symbol(name, block), block)
        check_constants(text, tokens, lambda name: self.is_constant(name, block))
        return edited(text, edits)

    def symbol(self, name, block):
        """The symbol that a name means in an expression that has been checked; None for none."""
        file, _, last = name.rpartition("::")
        if file:
            return self.of_file(file, last)[0]
        symbol = gdb.lookup_symbol(name, block)[0] if block is not None else None
        if symbol is not None and (is_local(symbol) or own_variable(name, block) is not None):
            return symbol
        if self.verdicts.get(name) == "plain":
            return gdb.lookup_global_symbol(name)
        return self.meaning(name, block, addressed=True)[0]

    def is_constant(self, name, block):
        """Whether a name is an enumerator's, or one of C's words."""
        symbol = self.symbol(name, block)
        return name in WORDS if symbol is None else constant(symbol) is not None

    def check_shared(self, tokens, block):
        """Refuse a CPU's own of a variable of which there is one for all.

        What would be read lies as far from it as the CPU's memory from the kernel's.
        """
        if self.bound("__per_cpu_offset") is None:
            return
        for name in variables(tokens):
            symbol = self.symbol(name, block)
            if symbol is None or symbol.addr_class not in VARIABLES:
                continue
            address = address_of(symbol)
            if address is not None and not self.is_per_cpu(address):
                is_pointer = symbol.type.strip_typedefs().code == gdb.TYPE_CODE_PTR
                raise Refused(
                    f"{name} is no per-CPU variable: all CPUs have the same one",
                    f"of what it points at: per_cpu_ptr({name}, CPU)" if is_pointer else None,
                )

    def check_per_cpu(self, tokens, index, name, symbol):
        """Whether a name is a per-CPU variable's; it is refused where the CPU is missing."""
        address = address_of(symbol) if symbol.addr_class in VARIABLES else None
        if address is None or not self.is_per_cpu(address):
            return False
        if not takes_address(tokens, index) or reads_pointer(tokens, index, symbol):
            raise without_cpu(name)
        return True

    def spelling(self, tokens, index, block):
        """How gdb is to be told a name; None as it is."""
        name = tokens[index].text
        own = own_variable(name, block)
        verdict = self.verdicts.get(name) if own is None else None
        if verdict is None or not (verdict == "plain" or takes_address(tokens, index)):
            symbol, spelled = self.meaning(name, block, takes_address(tokens, index))
            if symbol is None:
                return str(WORDS[name]) if name in WORDS else None
            if is_local(symbol):
                return None
            if reads_pointer(tokens, index, symbol):
                self.check(name, symbol)
            address = address_of(symbol) if symbol.addr_class in VARIABLES else None
            per_cpu = self.check_per_cpu(tokens, index, name, symbol)
            if per_cpu and is_unmade(symbol):
                return at_its_address(symbol, spelled or name, tokens, index)
            if (
                not per_cpu
                and own is None
                and spelled is None
                and gdb.lookup_global_symbol(name) is not None
                and not (address and self.within(address, "__init_begin", "__init_end"))
            ):
                self.verdicts[name] = "plain"
            return spelled
        return None


def at_its_address(symbol, spelled, tokens, index):
    """A pointer for gdb that gdb cannot make the value of; its address and type it can tell."""
    address = f"(__typeof__(&{spelled})){address_of(symbol):#x}"
    at = before_parentheses(tokens, index)
    alone = [token.text for token in tokens[index + 1 : index + 2]] in ([], [")"])
    if at >= 0 and tokens[at].text == "sizeof" and alone:
        return f"({address})"  # of the same size
    return f"(*{address})"


def before_freeing(symbol):
    """How a test comes to where init data is still there."""
    if is_module(objfile_of(symbol)):
        return "kgdb.modules.load_stopped() stops before the module's init runs"
    return 'a test with @pytest.mark.kgdb(at="kgdbwait") comes before that'


def without_cpu(name):
    return Refused(
        f"{name} is a per-CPU variable, of which each CPU has its own",
        f'say whose: per_cpu({name}, CPU) in an expression, kgdb.per_cpu("{name}", cpu)',
    )


def directory_of(objfile):
    """The directory of a module's source; "" if its debug info does not say.

    The file of `__this_module` is mostly a header (include/linux/export.h), which every file of
    the kernel includes: gdb would read the debug info of them all.
    """
    this = objfile.lookup_global_symbol("__this_module")
    if this is None:
        return ""
    files = [this.symtab.filename]
    for block in (this.symtab.static_block(), this.symtab.global_block()):
        files += [symbol.symtab.filename for symbol in block if symbol.symtab is not None]
    return next((file.rpartition("/")[0] for file in files if file.endswith(".c")), "")


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
    at = before_parentheses(tokens, index)
    if at < 0:
        return False
    word = tokens[at].text
    if word in UNREAD:
        return True
    if word != "&" or not (at == 0 or is_unary(tokens, at)):
        return False
    # What is at the address is read after all by *&x, (&x)->y and (&x)[1].
    star = before_parentheses(tokens, at)
    if star >= 0 and tokens[star].text == "*" and (star == 0 or is_unary(tokens, star)):
        first = before_parentheses(tokens, star)
        return first >= 0 and tokens[first].text in UNREAD
    behind = index + 1
    while behind < len(tokens) and tokens[behind].text == ")":
        behind += 1
    return behind in (index + 1, len(tokens)) or tokens[behind].text not in ("->", "[")


def reads_pointer(tokens, index, symbol):
    """Whether the address of what a pointer leads to is asked for: &p->member, &p[1]."""
    at = before_parentheses(tokens, index)
    if at < 0 or tokens[at].text != "&" or index + 1 >= len(tokens):
        return False
    is_pointer = symbol.type.strip_typedefs().code == gdb.TYPE_CODE_PTR
    return is_pointer and tokens[index + 1].text in ("->", "[")


UNREAD = ("sizeof", "typeof", "__typeof__", "per_cpu", "per_cpu_ptr")


def before_parentheses(tokens, index):
    """Where the token is that is before one, and before the parentheses that it is in."""
    at = index - 1
    while at >= 0 and tokens[at].text == "(":
        at -= 1
    return at


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


names = Names()
