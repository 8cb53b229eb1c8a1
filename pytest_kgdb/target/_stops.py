"""Stops, and the frames of the stack at a stop."""

from __future__ import annotations

import linecache
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

from ..errors import KgdbError
from ._link import Link
from ._values import Task, Value, evaluate

if TYPE_CHECKING:
    from ._breakpoints import Breakpoint

__all__ = [
    "Frame",
    "Reason",
    "Stop",
    "Variables",
    "classify",
    "cpu_expression",
    "define_current",
    "select_frame",
    "trap_name",
]

Reason = Literal[
    "breakpoint", "watchpoint", "step", "interrupt", "int3", "panic", "oops", "finished"
]

# A kernel's stack is 16 KiB (arch/x86/include/asm/page_64_types.h, THREAD_SIZE); a walk that
# goes deeper than this has lost its way.
_DEPTH: Final = 128

# A sysrq `g` ends in sysrq_handle_dbg (kernel/debug/debug_core.c), whose last call gcc may have
# made a jump: then its caller (drivers/tty/sysrq.c) stands next on the stack.
_SYSRQ: Final = frozenset({"sysrq_handle_dbg", "__handle_sysrq"})
# A panic's way into the debugger (kernel/debug/debug_core.c, kernel/panic.c).
_PANIC: Final = frozenset({"kgdb_panic", "panic", "vpanic"})
# The die notifier's signal for an oops (arch/x86/kernel/dumpstack.c, __die).
_OOPS_SIGNALS: Final = frozenset({"SIGSEGV", "SIGBUS", "SIGILL", "SIGFPE"})


class Variables(Mapping[str, Value]):
    """A frame's variables by name, read when first looked at."""

    def __init__(self, link: Link, level: int, arguments: bool, what: str) -> None:
        self._link = link
        self._moment = link.moment
        self._level = level
        self._arguments = arguments
        self._what = what
        self._found: dict[str, dict[str, Any]] | None = None

    def _read(self) -> dict[str, dict[str, Any]]:
        self._link.check(self._moment, self._what)
        if self._found is None:
            self._found = self._link.ask("variables", frame=self._level, arguments=self._arguments)
        return self._found

    def __getitem__(self, name: str) -> Value:
        found = self._read()
        if name not in found:
            raise KeyError(f"{self._what} have no '{name}'; they have {', '.join(found) or 'none'}")
        if "error" in found[name]:
            raise KgdbError(f"'{name}' cannot be read here: {found[name]['error']}")
        return Value(self._link, found[name], name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._read())

    def __len__(self) -> int:
        return len(self._read())

    def __repr__(self) -> str:
        if self._moment != self._link.moment:
            return f"<{self._what}: stale>"
        shown = (
            f"{name}={known.get('text', known.get('error', '…'))}"
            for name, known in self._read().items()
        )
        return "{" + ", ".join(shown) + "}"


class Frame:
    """One frame of the stack at a stop; level 0 is the innermost.

    Used after the kernel moved on it raises :class:`~pytest_kgdb.errors.StaleError`.
    """

    def __init__(self, link: Link, record: Mapping[str, Any], source: Path | None) -> None:
        self._link = link
        self._moment = link.moment
        self._record = record
        self._source = source
        self.level: int = int(record["level"])

    def _get(self, name: str) -> Any:
        self._link.check(self._moment, f"frame {self.level}")
        return self._record.get(name)

    @property
    def function(self) -> str | None:
        """The function's name; None where there is no symbol."""
        name = self._get("function")
        return None if name is None else str(name)

    @property
    def file(self) -> str | None:
        """The source file, relative to the kernel's tree where it can be."""
        name = self._get("file")
        return None if name is None else _relative(str(name), self._source)

    @property
    def line(self) -> int | None:
        """The line in :attr:`file`, from 1."""
        line = self._get("line")
        return None if line is None else int(line)

    @property
    def address(self) -> int:
        """The program counter."""
        return int(self._get("address"))

    @property
    def args(self) -> Variables:
        """The function's arguments by name."""
        self._link.check(self._moment, f"frame {self.level}")
        return Variables(self._link, self.level, True, f"the arguments of frame {self.level}")

    @property
    def locals(self) -> Variables:
        """The local variables by name, inner blocks' first."""
        self._link.check(self._moment, f"frame {self.level}")
        return Variables(self._link, self.level, False, f"the locals of frame {self.level}")

    def evaluate(self, expression: str) -> Value:
        """Evaluate an expression in this frame."""
        self._link.check(self._moment, f"frame {self.level}")
        return evaluate(self._link, expression, frame=self.level)

    def up(self) -> Frame:
        """Return the caller's frame.

        :raises KgdbError: this is the outermost.
        """
        self._link.check(self._moment, f"frame {self.level}")
        frames = self._link.ask("frames", limit=self.level + 2)["frames"]
        if len(frames) <= self.level + 1:
            raise KgdbError(f"frame {self.level} ({self.function}) is the outermost")
        return Frame(self._link, frames[self.level + 1], self._source)

    def source(self, context: int = 5) -> str:
        """Return the source around the line, numbered, the line itself marked.

        :param context: lines before and after.
        :raises KgdbError: there is no line, or the file is not where the build left it.
        """
        path, line = self._get("fullname"), self.line
        if path is None or line is None:
            raise KgdbError(f"frame {self.level} ({self.function}) has no source line")
        lines = linecache.getlines(str(path)) or (
            linecache.getlines(str(self._source / str(self.file))) if self._source else []
        )
        if not lines:
            raise KgdbError(
                f"the source {path} cannot be read", hint="is the kernel's tree still there?"
            )
        first = max(1, line - context)
        shown = lines[first - 1 : line + context]
        return "\n".join(
            f"{'>' if number == line else ' '}{number:6d}  {text.rstrip()}"
            for number, text in enumerate(shown, first)
        )

    def __str__(self) -> str:
        where = f" at {self.file}:{self.line}" if self.file else ""
        return f"#{self.level} {self.function or hex(self.address)}{where}"

    def __repr__(self) -> str:
        if self._moment != self._link.moment:
            return f"<Frame {self.level}: stale>"
        return f"<Frame {self}>"


def _relative(file: str, source: Path | None) -> str:
    if source is not None and file.startswith(f"{source}/"):
        return file[len(str(source)) + 1 :]
    # A tree built in place, or with O= below it, names its files "./…" or "../…".
    return re.sub(r"^(?:\.{1,2}/)+", "", file)


class Stop:
    """Why and where the kernel stopped.

    `reason` and `breakpoint` may be asked at any time; the rest belongs to the moment of the
    stop and raises :class:`~pytest_kgdb.errors.StaleError` once the kernel moved on.
    """

    def __init__(
        self,
        link: Link,
        reason: Reason,
        *,
        breakpoint: Breakpoint | None = None,
        signal: str | None = None,
        message: str | None = None,
        result: str | None = None,
        watched: Mapping[str, str] | None = None,
        source: Path | None = None,
        level: int = 0,
    ) -> None:
        self._link = link
        self._moment = link.moment
        self.reason: Reason = reason
        self.breakpoint = breakpoint
        self.signal = signal
        self.message = message
        """What the kernel said of a panic or an oops."""
        told = watched or {}
        self.old = _number(told.get("old"))
        """What a watchpoint's memory held before the access, as a number."""
        self.new = _number(told.get("new", told.get("value")))
        """What it holds since; of a read, what was read."""
        self._result = result
        self._source = source
        self._level = level
        self._frames: list[Frame] = []

    def _check(self) -> None:
        self._link.check(self._moment, f"the stop ({self.reason})")

    @property
    def frame(self) -> Frame:
        """The frame in which the kernel stopped."""
        self._check()
        return self._read(self._level + 1)[self._level]

    def _read(self, limit: int) -> list[Frame]:
        if len(self._frames) < limit:
            # Behind a breakpoint that is compiled in, the next line may begin.
            answer = self._link.ask("frames", limit=limit, behind=self.reason == "int3")
            records = answer["frames"]
            self._frames = [Frame(self._link, record, self._source) for record in records]
        return self._frames

    def backtrace(self, limit: int = _DEPTH) -> list[Frame]:
        """Return the frames, innermost first.

        :param limit: frames at the most.
        """
        self._check()
        return self._read(limit)[:limit]

    @property
    def cpu(self) -> int:
        """The CPU that stopped (kernel/debug/debug_core.c, `kgdb_active`)."""
        self._check()
        return int(self._link.ask("evaluate", expression=cpu_expression(self._link))["int"])

    @property
    def task(self) -> Task:
        """The task that was on that CPU, the kernel's `current`."""
        self._check()
        return Task(self._link, self._link.ask("evaluate", expression="current"), "current")

    @property
    def registers(self) -> Mapping[str, int]:
        """The general registers in the stop's frame, by gdb's names; those that are known."""
        self._check()
        answer: dict[str, int] = self._link.ask("registers", frame=self._level)["registers"]
        return answer

    @property
    def taint(self) -> str:
        """The letters of what the kernel is tainted by (kernel/panic.c, `taint_flags`)."""
        self._check()
        mask = int(self._link.ask("evaluate", expression="tainted_mask")["int"])
        bits = [bit for bit in range(mask.bit_length()) if mask >> bit & 1]
        letters = self._link.ask(
            "numbers", expressions=[f"taint_flags[{bit}].c_true" for bit in bits]
        )
        return "".join(sorted(map(chr, letters["numbers"])))

    @property
    def return_value(self) -> Value | None:
        """What the function returned, after `finish()`; None for a void one."""
        self._check()
        if self._result is None:
            return None
        answer = self._link.ask("evaluate", expression=self._result)
        return Value(self._link, answer, self._result)

    def __repr__(self) -> str:
        if self._moment != self._link.moment:
            return f"<Stop {self.reason}: stale>"
        said = f": {self.message}" if self.message else ""
        try:
            return f"<Stop {self.reason} in {self.frame}{said}>"
        except KgdbError:
            return f"<Stop {self.reason}{said}>"


def define_current(link: Link) -> None:
    """Have gdb take `current` for the task of the CPU that it has selected on QEMU's stub.

    The agent has defined it for kgdb's stops.
    """
    expression = _of_this_cpu(link, "current_task", "struct task_struct *")
    link.console(f"macro define current ({expression})")


def cpu_expression(link: Link) -> str:
    """Return an expression for the number of the CPU that stopped."""
    if link.by_qemu:
        return _of_this_cpu(link, "cpu_number", "int")
    return "kgdb_active.counter"


def _of_this_cpu(link: Link, name: str, kind: str) -> str:
    """Return an expression for a variable of the CPU that gdb has selected on QEMU's stub.

    They are relative to the base of GS, which is the user's while a program runs
    (arch/x86/include/asm/percpu.h, current.h).
    """
    hot = "pcpu_hot." if link.ask("symbol", name="pcpu_hot").get("address") is not None else ""
    base = "((long)$gs_base < 0 ? (long)$gs_base : (long)$k_gs_base)"
    return f"*({kind} *)({base} + (long)&{hot}{name})"


def _number(text: str | None) -> int | None:
    """Return the number in what gdb says of an integer: `65 'A'` for a char."""
    found = re.match(r"-?\d+", text or "")
    return int(found[0]) if found else None


# arch/x86/include/asm/trapnr.h, with the words of arch/x86/kernel/traps.c
_TRAPS: Final = {
    0: "divide error",
    4: "overflow",
    5: "bounds",
    6: "invalid opcode",
    8: "double fault",
    10: "invalid TSS",
    11: "segment not present",
    12: "stack segment",
    13: "general protection fault",
    14: "page fault",
    16: "fpu exception",
    17: "alignment check",
    19: "simd exception",
}

# From a panic back to where the trouble was: the panic itself, what led there from an exception
# (arch/x86/kernel/dumpstack.c, traps.c, arch/x86/mm/fault.c, kernel/panic.c, lib/bug.c), and the
# exception's entry.
_ENTRY: Final = re.compile(r"asm_(?:exc|sysvec|common)_\w+$")
_ON_THE_WAY: Final = re.compile(
    r"(?:__)?die\w*$|oops_\w+$|page_fault_oops$|kernelmode_fixup_or_oops$|(?:__)?bad_area\w*$|"
    r"do_(?:kern|user)_addr_fault$|handle_page_fault$|(?:__)?exc_\w+$|handle_bug$|report_bug$|"
    r"(?:__)?report_bug$|__warn$|warn_slowpath\w*$|check_panic_on_warn$|do_trap$|"
    r"do_error_trap$|make_task_dead$|rewind_stack\w*$|nmi_panic$|watchdog_\w+$"
)
_DEEP: Final = 40


def trap_name(link: Link) -> str | None:
    """Return the exception that the kernel stopped for, where it has not said anything yet."""
    expression = "kgdb_info[kgdb_active.counter].task->thread.trap_nr"
    try:
        return _TRAPS.get(link.ask("numbers", expressions=[expression])["numbers"][0])
    except KgdbError:
        return None


def select_frame(link: Link, reason: Reason) -> int:
    """Select the frame that a stop is about, and return its level: not the debugger's own."""
    if reason not in ("panic", "int3"):
        return 0
    frames = link.ask("frames", limit=_DEEP if reason == "panic" else 2)["frames"]
    names = [frame["function"] or "" for frame in frames]
    level = 0
    if reason == "int3":
        level = int(names[:1] == ["kgdb_breakpoint"])
    else:
        for number, name in enumerate(names[:6]):
            if name in _PANIC:
                level = number + 1
        after = level
        while after < len(names) and _ON_THE_WAY.match(names[after]):
            after += 1
        # gdb cannot always see beyond the entry, which has no unwind information of its own.
        if after + 1 < len(names) and _ENTRY.match(names[after]):
            level = after + 1
    if not 0 < level < len(names):
        return 0
    link.ask("select", frame=level)
    return level


def classify(
    record: Mapping[str, Any], names: Callable[[], list[str | None]]
) -> tuple[Reason, str | None]:
    """Tell from gdb's stop record, and where that is not enough from the stack, why it stopped.

    :param names: returns the functions on the stack, innermost first.
    """
    why = record.get("reason")
    if why == "breakpoint-hit":
        return "breakpoint", None
    if why in ("watchpoint-trigger", "read-watchpoint-trigger", "access-watchpoint-trigger"):
        return "watchpoint", None
    if why == "function-finished":
        return "finished", None
    if why in ("end-stepping-range", "location-reached"):
        return "step", None
    signal = str(record.get("signal-name", "")) or None
    if signal == "SIGINT":
        return "interrupt", signal  # QEMU's stub, asked to
    if signal in _OOPS_SIGNALS:
        return "oops", signal
    stack = names()
    if stack[:1] == ["kgdb_breakpoint"] and _SYSRQ.intersection(stack[1:2]):
        return "interrupt", signal
    if _PANIC.intersection(stack[:4]):
        return "panic", signal
    return "int3", signal
