"""gdb's prompt: commands as a test types them, run so that the handle stays right about gdb."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Final, NoReturn, Protocol

from ..deadline import WaitLimit
from ..debugger import BreakpointTable, Debugger, Door, GdbError, RunControl
from ..errors import DebuggerDied, KgdbError, MachineDied, StubError, TimeoutError
from ..rsp import Refusal
from ._refused import refused

__all__ = ["Prompt", "PromptRelay"]

# gdb's whole names of commands (gdb manual), with what to do instead. Aliases and beginnings of
# them are resolved by gdb itself (data/gdb_prompt.py).
_TARGET: Final = "it would take gdb off this machine, and the handle with it"
_NO_REPLACEMENT: Final = (
    "each test gets a machine, connected and stopped, and nothing else is needed"
)
_EXECUTION: Final = (
    "the kernel is not a program that gdb starts",
    "the marker kgdb(at='kgdbwait', isolation='reboot') boots it anew",
)
_HISTORY: Final = (
    "kgdb records no execution",
    "snapshot() and restore() go back to an earlier state of the whole machine",
)
_TERMINAL: Final = ("there is no terminal behind it", "pytest --kgdb-attach gives you gdb on one")
_TRACEPOINTS: Final = (
    "kgdb has no tracepoints",
    "spy() records a function's calls without a visible stop",
)
_CALLS: Final = (
    "a function that is called in a stopped kernel may sleep, or take a lock that is held",
    "run() has the guest do something; override() changes what a function returns",
)
_EVENTS: Final = (
    "the kernel's debugger reports no such events, and it would wait for ever",
    "break on what the kernel does for it: '__x64_sys_execve', 'kernel_clone', 'load_module'",
)
_INFERIORS: Final = ("there is one kernel, and gdb is on it", "")
_REFUSED: Final[dict[str, tuple[str, str]]] = {
    "detach": (_TARGET, "resume() lets the kernel run"),
    "disconnect": (_TARGET, "resume() lets the kernel run"),
    "kill": (_TARGET, "the machine ends with the session; restore() brings back a snapshot"),
    "quit": ("the next command would find no gdb", "a test ends by returning"),
    "target": (_TARGET, _NO_REPLACEMENT),
    "file": (_TARGET, _NO_REPLACEMENT),
    "exec-file": (_TARGET, _NO_REPLACEMENT),
    "core-file": (_TARGET, _NO_REPLACEMENT),
    "symbol-file": ("gdb would forget the kernel's symbols", "add-symbol-file adds some"),
    "attach": (_TARGET, _NO_REPLACEMENT),
    "load": ("the kernel is there already", "restore FILE binary writes memory"),
    "run": _EXECUTION,
    "start": _EXECUTION,
    "starti": _EXECUTION,
    "checkpoint": _HISTORY,
    "restart": _HISTORY,
    "record": _HISTORY,
    "reverse-continue": _HISTORY,
    "reverse-finish": _HISTORY,
    "reverse-next": _HISTORY,
    "reverse-nexti": _HISTORY,
    "reverse-step": _HISTORY,
    "reverse-stepi": _HISTORY,
    "inferior": _INFERIORS,
    "add-inferior": _INFERIORS,
    "clone-inferior": _INFERIORS,
    "remove-inferiors": _INFERIORS,
    "interpreter-exec": ("the handle speaks MI with gdb itself", "use its methods"),
    "new-ui": ("the handle speaks MI with gdb itself", "use its methods"),
    "interrupt": ("the kernel is stopped; kgdb would not hear it", "use interrupt()"),
    "catch": _EVENTS,
    "tcatch": _EVENTS,
    "tstart": _TRACEPOINTS,
    "tstop": _TRACEPOINTS,
    "tstatus": _TRACEPOINTS,
    "tfind": _TRACEPOINTS,
    "trace": _TRACEPOINTS,
    "ftrace": _TRACEPOINTS,
    "strace": _TRACEPOINTS,
    "edit": _TERMINAL,
    "tui": _TERMINAL,
    "layout": _TERMINAL,
    "focus": _TERMINAL,
    "python-interactive": _TERMINAL,
    "guile-repl": _TERMINAL,
    "compile": _CALLS,
    "set may-call-functions": _CALLS,
    "set confirm": ("gdb would ask questions that nobody answers", ""),
    "set non-stop": ("kgdb stops all CPUs or none", ""),
    "set mi-async": ("the handle relies on it", ""),
    "set logging": ("gdb's log is kept anyway", "the transcript is gdb.log in the run's logs"),
}
_KGDB_ONLY: Final[dict[str, tuple[str, str]]] = {
    "monitor": (
        "kgdb takes no commands but kdb's, which act behind gdb's back",
        "QEMU's stub has QEMU's monitor; on_cpus() and physical ask QEMU, too",
    ),
}

# Of QEMU's monitor (QEMU manual, "QEMU Monitor"): gdb would not know of it.
_MONITOR_ACTS: Final = frozenset(
    {
        "c", "cont", "s", "stop", "q", "quit", "loadvm", "savevm", "delvm", "migrate",
        "migrate_incoming", "snapshot_blkdev", "system_reset", "system_powerdown",
        "system_wakeup", "gdbserver", "commit", "sync-profile", "exit_preconfig",
    }
)  # fmt: skip

# Those that read further lines until `end`; the second if they have no argument.
_MORE_LINES: Final = frozenset(
    {"commands", "define", "document", "if", "while", "while-stepping", "actions"}
)
_MORE_LINES_ALONE: Final = frozenset({"python", "guile"})

_BREAKS: Final = frozenset({"break", "tbreak", "hbreak", "thbreak", "dprintf"})
# gdb/linespec.c, symbol_not_found_error and symtabs_from_filename.
_NO_PLACE: Final = re.compile(r'Function ".*" not defined|No source file named')

_CONTINUE: Final = frozenset({"continue", "jump", "signal", "fg"})
_STEP: Final = frozenset({"step", "stepi", "next", "nexti", "finish", "until", "advance"})
_SHELL: Final = frozenset({"shell", "make", "pipe"})

# After these gdb may hold other values of the kernel's than were read; gdb tells of an assignment.
_WRITES: Final = frozenset({"python", "guile", "source", "restore", "return", "load", "define"})

_THREADS: Final = ("info threads", "thread", "taas", "tfaas")

# These leave nothing in gdb that another test could find, but where _LEAVES or _NUMBERED says so.
_HARMLESS: Final = frozenset(
    {
        *_CONTINUE, *_STEP, "info", "help", "apropos", "complete", "show", "backtrace", "whatis",
        "ptype", "echo", "break", "tbreak", "hbreak", "thbreak", "delete", "clear", "enable",
        "disable", "condition", "ignore", "watch", "rwatch", "awatch", "up", "down", "frame",
        "thread",
    }
)  # fmt: skip

# These do: finish a number of the value history; the others of info, where `x` goes on, and $_.
_LEAVES: Final = frozenset(
    {"finish", "thread name", "info breakpoints", "info watchpoints", "info line"}
)
# These leave nothing where it is breakpoints that they change, which end with the test: by numbers,
# behind some words. There are pretty-printers, unwinders, displays, memory regions, too.
_NUMBERED: Final[dict[str, tuple[str, ...]]] = {
    "enable": ("breakpoints", "once", "count", "delete"),
    "disable": ("breakpoints",),
    "delete": ("breakpoints",),
}
_NUMBER: Final = re.compile(r"[\d.,-]+")

# These evaluate an expression, in which gdb reads some variables of inlined functions wrong
# (data/gdb_frames.py).
_EXPRESSION: Final = frozenset({"print", "output", "x", "printf", "call", "inspect"})

# These show no source lines; of info, all but two.
_NO_SOURCE: Final = frozenset(
    {
        "apropos", "backtrace", "break", "call", "clear", "complete", "condition", "delete",
        "disable", "display", "echo", "enable", "hbreak", "help", "ignore", "info", "output",
        "print", "printf", "ptype", "set", "show", "tbreak", "thbreak", "whatis", "x",
    }
)  # fmt: skip
_SOURCE: Final = frozenset({"info source", "info line"})

# gdb/stack.c, print_frame_info
_TRAMPOLINE: Final = re.compile(r"^#(\d+) +<signal handler called>$", re.MULTILINE)
_SOURCED: Final = re.compile(r"^.*?:\d+: Error in sourced command file:\n")


class PromptRelay(Protocol):
    """The part of the relay that is used here."""

    list_all_threads: bool

    @property
    def door(self) -> Door:
        """Whose stub gdb is behind."""

    def take_refusal(self) -> Refusal | None:
        """Why a write or a breakpoint was refused last."""


class Prompt:
    """Runs commands of gdb's command line.

    :param waits: how long a command may take.
    :param wrote: is called when memory or registers may have been changed.
    :param spoiled: is called before a command that may leave something in gdb.
    :param lost: is called when gdb is not on the machine any more; returns the error.
    :param unpack_sources: is called before a command that may show source lines, and told whether
        what is not on this host is to be downloaded for it.
    :param directory: where a file for gdb may be made.
    """

    def __init__(
        self,
        debugger: Debugger,
        run_control: RunControl,
        breakpoints: BreakpointTable,
        relay: PromptRelay,
        *,
        waits: WaitLimit,
        wrote: Callable[[], None],
        spoiled: Callable[[], None],
        lost: Callable[[str], KgdbError],
        unpack_sources: Callable[[bool], None],
        directory: Path,
    ) -> None:
        self._debugger = debugger
        self._run_control = run_control
        self._breakpoints = breakpoints
        self._relay = relay
        self._waits = waits
        self._wrote = wrote
        self._spoiled = spoiled
        self._lost = lost
        self._unpack_sources = unpack_sources
        self._directory = directory

    def execute(self, text: str, timeout: float | None = None) -> str:
        """Run one command, or several lines; return what gdb, and what it started, has printed.

        :param timeout: seconds for the command, and for the stop of one that resumes the kernel.
        :raises KgdbError: gdb refused it, or the handle did.
        :raises TimeoutError: it did not end.
        """
        __tracebackhide__ = True
        lines = text.strip().splitlines()
        if not lines:
            return ""
        commands = self._resolve(lines)
        for line, (name, arguments) in commands:
            self._check(line, name, arguments, single=len(lines) == 1)
        first = commands[0][1] if commands else ("", "")
        names = {name for _, (name, _) in commands}
        if not self._leaves_nothing(commands):
            self._spoiled()
        if len(lines) == 1 and first == ("delete", ""):
            self._breakpoints.delete_all()
            return ""
        if any(name.split(" ")[0] not in _NO_SOURCE or name in _SOURCE for name in names):
            self._unpack_sources("list" in names)
        self._relay.list_all_threads = any(name.startswith(_THREADS) for name in names)
        self._relay.take_refusal()
        self._breakpoints.unreported()  # of what is older
        self._debugger.request("prompt_begin")
        output, responds = "", True
        try:
            output = self._run(lines, first, commands, timeout)
            if words := self._breakpoints.unreported():
                raise GdbError(words, log=self._debugger.transcript)
            self._breakpoints.check_others()
        except GdbError as error:
            output = self._not_inserted(text, error, single=len(lines) == 1)
        except (TimeoutError, DebuggerDied, MachineDied):
            responds = False  # and another error would hide this one
            raise
        finally:
            self._relay.list_all_threads = False
            if responds and self._run_control.is_known_stopped:
                self._sync(text, names)
        return output

    def _resolve(self, lines: list[str]) -> list[tuple[str, tuple[str, str]]]:
        """Return each command with its line; those in another language's block are none."""
        answer = self._debugger.request("prompt_resolve", lines=lines)["commands"]
        commands: list[tuple[str, tuple[str, str]]] = []
        foreign = False
        for line, names in zip(lines, answer, strict=True):
            if foreign:
                foreign = line.strip() != "end"
                continue
            commands += [(line, (str(name), str(arguments))) for name, arguments in names]
            foreign = bool(names) and (
                names[0][0] == "document" or (names[0][0] in _MORE_LINES_ALONE and not names[0][1])
            )
        return commands

    def _check(self, line: str, name: str, arguments: str, *, single: bool) -> None:
        table = _REFUSED if self._relay.door == "qemu" else _REFUSED | _KGDB_ONLY
        words = name.split(" ")
        for command in (name, words[0]):
            if command in table:
                if command in _KGDB_ONLY:
                    why, hint = _KGDB_ONLY[command]
                    raise StubError(f"'{line.strip()}' was not given to gdb: {why}", hint=hint)
                self._refuse(line, *table[command])
        if name == "monitor" and _MONITOR_ACTS.intersection(arguments.split()[:1]):
            self._refuse(
                line,
                "it acts on the machine behind gdb's back",
                "cont(), interrupt(), snapshot() and restore() do it with gdb's knowledge",
            )
        if words[0] in _CONTINUE | _STEP and arguments.endswith("&"):
            self._refuse(line, "the handle would not know of the stop", "use resume() and wait()")
        if single and (name in _MORE_LINES or (name in _MORE_LINES_ALONE and not arguments)):
            self._refuse(
                line,
                f"{name} wants more lines",
                f"give them all in one text: execute('{line.strip()}\\\\n…\\\\nend')",
            )
        if name == "shell" and not arguments:
            self._refuse(line, *_TERMINAL)

    @staticmethod
    def _refuse(line: str, why: str, hint: str) -> NoReturn:
        __tracebackhide__ = True
        raise KgdbError(f"'{line.strip()}' was not given to gdb: {why}", hint=hint or None)

    @staticmethod
    def _leaves_nothing(commands: list[tuple[str, tuple[str, str]]]) -> bool:
        return all(
            name.split(" ")[0] in _HARMLESS
            and name not in _LEAVES
            and "$" not in arguments.replace("$pc", "")
            and (name not in _NUMBERED or _is_numbered(name, arguments.split()))
            for _, (name, arguments) in commands
        )

    def _run(
        self,
        lines: list[str],
        first: tuple[str, str],
        commands: list[tuple[str, tuple[str, str]]],
        timeout: float | None,
    ) -> str:
        __tracebackhide__ = True
        name, arguments = first
        names = {command for _, (command, _) in commands}
        if len(lines) > 1:
            script = self._directory / "prompt.gdb"
            script.write_text("\n".join(lines) + "\n")
            command = f"source {script}"
        elif name in _SHELL:
            return self._run_shell(lines[0], name, arguments, timeout)
        elif len(commands) == 1 and name in _CONTINUE | _STEP:
            return self._run_control.run_at_prompt(
                lines[0], stepping=name in _STEP, timeout=timeout
            )
        elif name in _EXPRESSION:
            command = self._debugger.request("prompt_checked", line=lines[0].strip())["line"]
        else:
            command = lines[0].strip()
        try:
            text = self._console(command, lines, timeout)
            text = _TRAMPOLINE.sub(self._entry, text)
            text += self._run_control.adopt_resume(timeout) or ""
        except GdbError as error:
            words, hint = _SOURCED.sub("", error.message), error.hint
            if hint is None and _NO_PLACE.search(words) and not _BREAKS.isdisjoint(names):
                hint = "breakpoint(…, pending=True) waits for a module that has it"
            if (words, hint) == (error.message, error.hint):
                raise
            raise GdbError(words, log=error.log, hint=hint) from error
        # gdb 16 says it in words (gdb/symtab.c, rbreak_command), gdb 13 not at all.
        if name == "rbreak" and text in ("", "No breakpoints made.\n"):
            raise KgdbError(f"no function matches '{arguments}'")
        return text

    def _console(self, command: str, lines: list[str], timeout: float | None) -> str:
        """Have gdb run a command that stands for the test's own."""
        __tracebackhide__ = True
        try:
            return self._debugger.console(command, timeout=timeout, messages=True)
        except TimeoutError as error:
            self._spoiled()
            more = " …" if len(lines) > 1 else ""
            raise TimeoutError(
                f"'{lines[0].strip()}{more}' did not end in {self._waits.of(timeout):g} s",
                log=error.log,
                hint="gdb is still at it, and answers nothing; the next test gets another one",
            ) from error

    def _entry(self, match: re.Match[str]) -> str:
        """Return the line of a frame in the entry code, which is a signal's trampoline to gdb."""
        line: str = self._debugger.request("prompt_frame", level=int(match[1]))["line"]
        return line

    def _run_shell(self, line: str, name: str, arguments: str, timeout: float | None) -> str:
        """Run a shell command apart from gdb's own input and output, which are the handle's."""
        before = ""
        if name == "make":
            arguments = f"make {arguments}"
        elif name == "pipe":
            marked = re.match(r"-d\s+(\S+)\s+(.*)", arguments, re.S)
            marker, rest = (marked[1], marked[2]) if marked else ("|", arguments)
            before, _, arguments = rest.partition(marker)
        script, output = self._directory / "prompt.sh", self._directory / "prompt.out"
        script.write_text(f"{arguments}\n")
        shell = f'"${{SHELL:-/bin/sh}}" {script} >{output} 2>&1'
        command = f"pipe {before}| {shell}" if name == "pipe" else f"shell {shell} </dev/null"
        text = self._console(command, [line], timeout)
        return text + output.read_text(errors="replace")

    def _not_inserted(self, line: str, error: GdbError, *, single: bool) -> str:
        """Forget a breakpoint that gdb has made and could not insert, but for where it can.

        That is everywhere else, where a function has been inlined into code that is freed by now:
        for a single command. Of several lines gdb has left out those after the error.

        It is an error at once where nothing is mapped. Where kgdb takes none, in noinstr code, the
        command is what gdb's manual has it be: gdb's words are returned, and the next resume is
        refused, once.
        """
        __tracebackhide__ = True
        refusal = self._relay.take_refusal()
        try:
            if single and (words := self._breakpoints.leave_out_freed(error.message)):
                return f"{words}\n"
        except GdbError as other:  # of the rest
            error, refusal = other, self._relay.take_refusal()
        forgotten = self._breakpoints.forget_not_inserted(error.message)
        if refusal is None and forgotten:
            next_refusal = GdbError(
                f"the kernel was not resumed: kgdb does not take {forgotten}, deleted since\n"
                f"gdb's words: {error.message.strip()}",
                log=self._debugger.transcript,
                hint="it refuses what is on the kprobe blocklist, noinstr code among it; take a "
                "caller, or a function that it calls",
            )
            self._run_control.refuse_next(next_refusal)
            return f"{error.message.strip()}\n{next_refusal.message.splitlines()[0]}\n"
        if refusal is None:
            raise error
        what = f"{forgotten or repr(line.strip())} is refused"
        raise refused(what, refusal, error, self._debugger.transcript) from error

    def _sync(self, line: str, names: set[str]) -> None:
        """Have gdb where the handle takes it to be, and notice what was changed."""
        answer = self._debugger.request("prompt_end")
        if not answer["connected"]:
            raise self._lost(line)
        self._breakpoints.repair_internal()
        self._breakpoints.announce_others()
        if answer["wrote"] or names & _WRITES:
            self._wrote()


def _is_numbered(name: str, words: list[str]) -> bool:
    """Return whether it is breakpoints that a command changes: all, or by their numbers."""
    others = [word for word in words if not _NUMBER.fullmatch(word)]
    return all(any(full.startswith(word) for full in _NUMBERED[name]) for word in others)
