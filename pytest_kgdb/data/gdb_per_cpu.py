"""per_cpu() and per_cpu_ptr(), inside gdb: of a CPU that the machine may have.

The kernel begins with all of __per_cpu_offset[] at the initial values of the per-CPU variables, and
sets those of possible CPUs (arch/x86/kernel/setup_percpu.c, setup_per_cpu_areas). So a CPU that
there is not has offsets to init memory, which is freed after boot.

Written for Python 3.6 and gdb 12, as gdb_agent.py.
"""

import gdb
from gdb_items import (
    Item,
    const,
    described,
    low_word,
    rvalue,
)
from gdb_places import new_label
from gdb_types import (
    TYPE_WORDS,
    Refused,
    integer_type,
    is_integer,
)

POSSIBLE = "$_possible_cpu"
PER_CPU = ("per_cpu", "per_cpu_ptr")

# include/linux/percpu-defs.h, where they are macros, too, that end in an instruction.
gdb.execute(
    "macro define per_cpu_ptr(ptr, cpu) "
    f"((__typeof__(ptr))((unsigned long)(ptr) + __per_cpu_offset[{POSSIBLE}(cpu)]))"
)
gdb.execute("macro define per_cpu(var, cpu) (*per_cpu_ptr(&(var), cpu))")


def variable(name):
    """A variable of the kernel's; None on a kernel in which it is a constant."""
    symbol = gdb.lookup_global_symbol(name)
    return symbol.value() if symbol is not None and symbol.type.code != gdb.TYPE_CODE_FUNC else None


def mask_words():
    """The words of cpu_possible_mask (kernel/cpu.c, since v4.5 a variable of this name)."""
    mask = variable("__cpu_possible_mask")
    return None if mask is None else mask["bits"]


def possible_cpus():
    """The numbers of the CPUs that the machine may have."""
    count, words = variable("nr_cpu_ids"), mask_words()
    if words is None:
        return list(range(int(count) if count is not None else 1))
    low, high = words.type.range()
    count = 64 * (high - low + 1) if count is None else int(count)
    mask = 0
    for index in range(-(-count // 64)):
        mask |= int(words[index]) << 64 * index
    return [cpu for cpu in range(count) if mask >> cpu & 1]


class Possible(gdb.Function):
    """$_possible_cpu(NUMBER): the number; an error if the machine cannot have such a CPU."""

    def __init__(self):
        super().__init__(POSSIBLE[1:])
        self.numbers = set()  # possible CPUs become more, while the kernel boots

    def check(self, number):
        """Check that there is a CPU of a number.

        :raises Refused: there is none.
        """
        if number in self.numbers:
            return
        cpus = possible_cpus()
        if number not in cpus:
            has = len(cpus) if cpus == list(range(len(cpus))) else f"CPUs {str(cpus)[1:-1]}"
            raise Refused(f"there is no CPU {number}; the guest has {has}")
        self.numbers.add(number)

    def invoke(self, number):
        number = int(number)
        try:
            self.check(number)
        except Refused as refused:
            raise gdb.GdbError(refused.why) from None
        return number


possible = Possible()


def cpu_arguments(tokens):
    """What says the CPU, of each per_cpu() and per_cpu_ptr(): its tokens."""
    for at, token in enumerate(tokens[:-1]):
        if token.text not in PER_CPU or token.kind != "name" or tokens[at + 1].text != "(":
            continue
        depth, comma = 0, None
        for index in range(at + 1, len(tokens)):
            text = tokens[index].text
            depth += {"(": 1, "[": 1, ")": -1, "]": -1}.get(text, 0)
            if text == "," and depth == 1:
                comma = index
            if depth == 0:
                if comma is not None and comma + 1 < index:
                    yield tokens[comma + 1 : index]
                break


def variables(tokens):
    """The variables of which a CPU's own is asked for: per_cpu(NAME, …), per_cpu_ptr(&NAME, …)."""
    for at, token in enumerate(tokens):
        if token.text not in PER_CPU or token.kind != "name":
            continue
        texts = [other.text for other in tokens[at + 1 : at + 6]]
        begins = ["("] if token.text == "per_cpu" else ["(", "&"]
        if texts[: len(begins)] != begins:
            continue
        first = at + 1 + len(begins)
        if [other.kind for other in tokens[first : first + 1]] == ["name"]:
            yield tokens[first].text
        elif [other.text for other in tokens[first + 1 : first + 2]] == ["::"]:
            yield "".join(other.text for other in tokens[first : first + 3])


def check_constants(text, tokens, is_constant):
    """Check the CPUs of per_cpu() that are constants.

    :param is_constant: whether a name is a constant's.
    :raises Refused: there is no such CPU.
    """
    for argument in cpu_arguments(tokens):
        if all(
            token.kind in ("number", "char")
            or (token.kind == "operator" and token.text not in ("++", "--"))
            or (token.kind == "name" and (token.text in TYPE_WORDS or is_constant(token.text)))
            for token in argument
        ):
            possible.check(int(gdb.parse_and_eval(text[argument[0].start : argument[-1].end])))


def checked_cpu(item):
    """Code for a CPU's number that ends the expression where there is no such CPU."""
    item = rvalue(item)
    if not is_integer(item.type):
        raise Refused(f"{described(item)} is no CPU's number")
    code = [*low_word(item).code]
    count, words = variable("nr_cpu_ids"), mask_words()
    if count is not None:
        test = [["dup", 0], const(int(count.address)), ["ref32", 0], ["less_unsigned", 0]]
        code += [*test, *unless_holds()]
    if words is not None:
        word = [["dup", 0], const(6), ["rsh_unsigned", 0], const(3), ["lsh", 0]]
        word += [const(int(words.address)), ["add", 0], ["ref64", 0]]
        bit = [["pick", 1], const(63), ["bit_and", 0], ["rsh_unsigned", 0], const(1)]
        code += [*word, *bit, ["bit_and", 0], *unless_holds()]
    return Item(integer_type(["long"]), "value", code)


def unless_holds():
    holds = new_label()
    return [["if_goto", holds], ["no_cpu", 0], ["label", holds]]
