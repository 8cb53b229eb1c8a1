"""A stop: why and where the kernel stopped."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final, Literal

from ..errors import KgdbError
from ._breakpoints import Breakpoint
from ._current import cpu_expression
from ._debugger import Debugger
from ._frames import Frame, SourceText
from ._values import Task, Value

__all__ = ["Reason", "Stop", "place_of"]

Reason = Literal[
    "breakpoint", "watchpoint", "step", "interrupt", "int3", "panic", "oops", "finished"
]
"""Why the kernel stopped."""

# A kernel's stack is 16 KiB (arch/x86/include/asm/page_64_types.h, THREAD_SIZE); a backtrace that
# is deeper than this has lost its way.
_DEPTH: Final = 128

# A function of a header is the same wherever it is inlined.
_HEADER: Final = re.compile(r"\.h$")
_INLINED: Final = 12  # functions that are inlined into each other, at the most

# The kernel's code for strings, lists, locks, the log and memory: a fault in it is of what it was
# given.
_HELPER: Final = re.compile(
    r"(?:arch/\w+/)?lib/|kernel/(?:locking|printk)/|"
    r"mm/(?:sl[aou]b|slab_common|util|usercopy|maccess)\.c$"
)
_DEPTH_OF_HELPERS: Final = 24  # frames of such code, at the most

# arch/x86/include/uapi/asm/processor-flags.h, X86_EFLAGS_TF
_TRAP_FLAG: Final = 0x100


class Stop:
    """Why and where the kernel stopped.

    `reason` and `breakpoint` may be asked for at any time. The rest is of the stopped kernel, and
    raises :class:`~pytest_kgdb.errors.StaleError` once the kernel has run.
    """

    def __init__(
        self,
        debugger: Debugger,
        reason: Reason,
        *,
        breakpoint: Breakpoint | None = None,
        signal: str | None = None,
        message: str | None = None,
        result: str | None = None,
        watched: Mapping[str, str] | None = None,
        source: SourceText | None = None,
        level: int = 0,
    ) -> None:
        self._debugger = debugger
        self._generation = debugger.generation.number
        self.reason: Reason = reason
        self.breakpoint = breakpoint
        self.signal = signal
        self.message = message
        """What the kernel said of a panic or an oops; why it stopped, where that is not enough."""
        watch = watched or {}
        self.old = _number(watch.get("old"))
        """What a watchpoint's memory held before the access, as a number."""
        self.new = _number(watch.get("new", watch.get("value")))
        """What it holds since; of a read, what was read."""
        self._result = result
        self._source = source
        self._level = level
        self._frames: list[Frame] = []
        self._writes = debugger.generation.writes

    def renewed(self) -> Stop:
        """Return the same stop for the present generation (for run control).

        The kernel is there again, or still.
        """
        stop = Stop(
            self._debugger,
            self.reason,
            breakpoint=self.breakpoint,
            signal=self.signal,
            message=self.message,
            result=self._result,
            source=self._source,
            level=self._level,
        )
        stop.old, stop.new = self.old, self.new
        return stop

    def _check(self) -> None:
        self._debugger.generation.check(self._generation, f"the stop ({self.reason})")

    @property
    def frame(self) -> Frame:
        """The frame in which the kernel stopped."""
        self._check()
        return self._read(self._level + 1)[self._level]

    def _read(self, limit: int) -> list[Frame]:
        writes = self._debugger.generation.writes
        if len(self._frames) < limit or writes != self._writes:
            self._writes = writes  # registers may be others since
            # Behind a breakpoint that is compiled in, the next line may begin.
            answer = self._debugger.request("frames", limit=limit, behind=self.reason == "int3")
            records = answer["frames"]
            self._frames = [Frame(self._debugger, record, self._source) for record in records]
        return self._frames

    def backtrace(self, limit: int = _DEPTH) -> list[Frame]:
        """Return the frames, innermost first.

        :param limit: frames at the most.
        """
        self._check()
        return self._read(limit)[:limit]

    @property
    def cpu(self) -> int:
        """The number of the CPU that stopped."""
        self._check()
        record = self._debugger.request("evaluate", expression=cpu_expression(self._debugger))
        return int(record["int"])

    @property
    def task(self) -> Task:
        """The task that was on that CPU, the kernel's `current`."""
        self._check()
        return Task(
            self._debugger, self._debugger.request("evaluate", expression="current"), "current"
        )

    @property
    def registers(self) -> Mapping[str, int]:
        """The general registers in the stop's frame, by gdb's names; those that are known."""
        self._check()
        answer: dict[str, int] = self._debugger.request("registers", frame=self._level)["registers"]
        # kgdb steps by the trap flag, and leaves it set until the next resume
        # (arch/x86/kernel/kgdb.c, kgdb_arch_handle_exception). Code that sets it by itself traps at
        # once, which is no step.
        if self._debugger.door == "kgdb" and self.reason != "int3" and "eflags" in answer:
            answer["eflags"] &= ~_TRAP_FLAG
        return answer

    @property
    def taint(self) -> str:
        """The letters of what the kernel is tainted by (kernel/panic.c, `taint_flags`)."""
        self._check()
        mask = int(self._debugger.request("evaluate", expression="tainted_mask")["int"])
        bits = [bit for bit in range(mask.bit_length()) if mask >> bit & 1]
        letters = self._debugger.request(
            "numbers", expressions=[f"taint_flags[{bit}].c_true" for bit in bits]
        )
        return "".join(sorted(map(chr, letters["numbers"])))

    @property
    def return_value(self) -> Value | None:
        """What the function returned, after `finish()`; None for a void one, and an inlined one."""
        self._check()
        if self._result is None:
            return None
        answer = self._debugger.request("returned", variable=self._result)
        return Value(self._debugger, answer, self._result)

    def __repr__(self) -> str:
        if self._generation != self._debugger.generation.number:
            return f"<Stop {self.reason}: stale>"
        message = f": {self.message}" if self.message else ""
        try:
            return f"<Stop {self.reason} in #{self._level} {place_of(self)}{message}>"
        except KgdbError:
            return f"<Stop {self.reason}{message}>"


def place_of(stop: Stop) -> str:
    """Return where the kernel stopped, in words.

    Of code without a symbol its caller is named, too: a call of a function pointer that is NULL is
    told by that alone. Of a header's function, the one that it is inlined into. Of an oops where
    there is no source line, as in data, and in code that works on what it is given, as memcpy(),
    who called it.
    """
    frame = stop.frame
    place = _in_words(frame)
    if frame.function is None or (stop.reason == "oops" and frame.file is None):
        for caller in stop.backtrace(frame.level + 2)[frame.level + 1 :]:
            # Of a kernel without lines, what has a name is a function.
            if frame.function is None or caller.file is not None:
                place += f", called from {_in_words(caller)}"
        return place
    if _is_of_header(frame):
        for outer in stop.backtrace(frame.level + _INLINED)[frame.level + 1 :]:
            if not _is_of_header(outer):
                # A part of a function that gcc has split off may be inlined into the rest.
                if outer.function != frame.function:
                    place = f"{place}, inlined into {_in_words(outer)}"
                frame = outer
                break
    if stop.reason == "oops" and _HELPER.match(frame.file or ""):
        for caller in stop.backtrace(frame.level + _DEPTH_OF_HELPERS)[frame.level + 1 :]:
            if not (_is_of_header(caller) or _HELPER.match(caller.file or "")):
                return f"{place}, called from {_in_words(caller)}"
    return place


def _is_of_header(frame: Frame) -> bool:
    return frame.inlined and bool(_HEADER.search(frame.file or ""))


def _in_words(frame: Frame) -> str:
    return str(frame).partition(" ")[2]


def _number(text: str | None) -> int | None:
    """Return the number in what gdb says of an integer: `65 'A'` for a char."""
    match = re.match(r"-?\d+", text or "")
    return int(match[0]) if match else None
