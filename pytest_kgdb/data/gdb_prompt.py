"""What a test types at gdb's prompt: which commands it is, and what it has done to gdb.

A part of the agent: gdb runs this file in the same namespace as gdb_agent.py, behind it.
"""

# ruff: noqa: F821 # what gdb_agent.py defines

import contextlib
import re

import gdb
from gdb_conditions import is_convenience
from gdb_lvalues import read_right

# gdb/cli/cli-decode.c, find_command_name_length
WORD = re.compile(r"\s*(?:server\s+)?([!|]|[\w.-]+)\s*(.*)", re.S)
# Commands whose first argument is another command, if it is one.
PREFIXES = ("info", "set", "show", "thread", "frame", "target", "maintenance", "kill", "compile",
            "unset", "record", "tui", "monitor", "macro")  # fmt: skip
# Before the command that these run: threads, levels, options.
APPLIED = re.compile(r"(?:(?:all|level|[-$\d.]\S*)\s+)*(.*)", re.S)
APPLIES = ("thread apply", "frame apply", "taas", "faas", "tfaas", "with", "pipe")
DEPTH = 8  # of commands that are defined by others


def help_on(words):
    try:
        return gdb.execute("help " + words, to_string=True)
    except (gdb.error, RuntimeError):
        return None


def full_name(words):
    """The command's whole name, whatever alias or beginning of it the words are."""
    text = help_on(words)
    if text is None:
        return None
    names = text.partition("\n")[0].split(", ")
    above = words.split(" ")[:-1]
    if len(names) > 1 and all(name.split(" ")[:-1] == above for name in names):
        return names[0]
    for name in gdb.execute("complete " + words, to_string=True).splitlines():
        if help_on(name) == text:
            return name
    return words


def resolved(line, depth=0):
    """The commands that a line is: [full name, arguments] of each, the outermost first."""
    match = WORD.match(line)
    if match is None or depth > DEPTH:
        return []
    word, rest = match.groups()
    text = help_on(word)
    if text is None:
        return []  # gdb says why, if it runs it
    default = re.search(rf"^  alias {re.escape(word)} = (.*)$", text, re.M)
    if default is not None:
        return resolved(default.group(1) + " " + rest, depth + 1)
    name = full_name(word)
    if name in PREFIXES:
        inner = WORD.match(rest)
        below = f"{name} {inner.group(1)}" if inner is not None else name
        # Help on an argument that is no subcommand is that on the command.
        if help_on(below) not in (None, help_on(name)):
            name, rest = full_name(below), inner.group(2)
    commands = [[name, rest.strip()]]
    if name in APPLIES:
        commands += resolved(applied(name, rest), depth + 1)
    else:
        for inner_line in definition(word):
            commands += resolved(inner_line, depth + 1)
    return commands


def definition(word):
    """The lines of a command that was made by `define`."""
    try:
        return gdb.execute("show user " + word, to_string=True).splitlines()[1:]
    except gdb.error:
        return []


def applied(name, rest):
    if name == "with":
        return rest.partition(" -- ")[2]
    if name == "pipe":
        marked = re.match(r"-d\s+(\S+)\s+(.*)", rest, re.S)
        if marked is not None:
            return marked.group(2).partition(marked.group(1))[0]
        return rest.partition("|")[0]
    return APPLIED.match(rest).group(1)


class Prompt:
    """What the test's last command has left: the thread that it has chosen, what it wrote."""

    def __init__(self):
        self.stopped_at = None  # the thread that stopped
        self.chosen = None  # another one, and its frame, for the next command
        self.wrote = self.resumed = False
        gdb.events.memory_changed.connect(self.on_write)
        gdb.events.register_changed.connect(self.on_write)
        gdb.events.cont.connect(self.on_resume)

    def on_write(self, _event):
        self.wrote = True

    def on_resume(self, _event):
        self.resumed = True
        self.chosen = None


prompt = Prompt()


def level_of_frame():
    try:
        return gdb.selected_frame().level()
    except gdb.error:
        return 0


def select(thread, level):
    if thread is None or not thread.is_valid():
        return False
    thread.switch()
    with contextlib.suppress(gdb.error, Refusal):
        frame_at(level).select()
    return True


def op_prompt_resolve(lines):
    return {"commands": [resolved(line) for line in lines]}


def op_prompt_frame(level):
    """A frame's line in a backtrace, as gdb prints those that are no trampoline's."""
    frame = frame_at(level)
    sal = frame.find_sal()
    place = f" at {sal.symtab.filename}:{sal.line}" if sal.symtab is not None else ""
    return {"line": f"#{level:<3}{frame.pc():#018x} in {frame.name()} (){place}"}


def op_prompt_checked(line):
    """A command with an expression, with what gdb would read wrong told as gdb must have it."""
    word, rest = WORD.match(line).groups()
    head = re.match(r"(?:/\w+\s*|-\S+\s+)*", rest).end()
    try:
        return {"line": f"{word} {rest[:head]}{read_right(rest[head:])}"}
    except (gdb.error, Refused):
        return {"line": line}


def op_prompt_begin():
    prompt.stopped_at = gdb.selected_thread(), level_of_frame()
    prompt.wrote = prompt.resumed = False
    if prompt.chosen is not None:
        select(*prompt.chosen)
    return {}


def op_prompt_end():
    """Give the handle the thread that stopped; say what has happened."""
    inferior = gdb.selected_inferior()
    here = gdb.selected_thread()
    stopped, level = prompt.stopped_at or (None, 0)
    # Not threads(), at which gdb asks for those that there are, and forgets the others.
    connected = inferior.num == 1 and inferior.pid != 0
    if connected and not prompt.resumed and stopped is not None:
        if here is not None and here.num != stopped.num:
            prompt.chosen = here, level_of_frame()
            connected = select(stopped, level)
        else:
            prompt.chosen = None
    return {"connected": connected, "wrote": prompt.wrote}


def op_is_convenience(name):
    """Whether a name behind a $ is none of a register."""
    return {"convenience": is_convenience(name)}
