"""A splat and the frames of its call traces."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Final, NamedTuple

from ._log import LogSource

__all__ = ["Splat", "SplatFrame", "SplatKey", "frame_of", "in_source"]

_FRAME: Final = re.compile(
    r"^(?:RIP: [0-9a-f]{4}:|kmemleak: |[0-9a-f]{16} \(.*\)\{.*\}-\{\d+:\d+\}, at: )?"
    r"\s*(?:\[<[^>]+>\])?\s*(?P<doubt>\? )?"
    r"(?P<function>[A-Za-z_][\w.$]*)\+0x(?P<offset>[0-9a-f]+)/0x(?P<size>[0-9a-f]+)"
    r"(?: \[(?P<module>[\w-]+)[^\]]*\])?"
)
# lib/vsprintf.c, symbol_string: an address without a name, in a module that was unloaded.
_NAMELESS: Final = re.compile(r"^(?:kmemleak: )?\s*\[<[^>]+>\] (?P<function>0x[0-9a-f]+)$")
# Kinds whose headlines name where they are reported (lib/refcount.c, lib/list_debug.c), or but a
# task, a CPU or an irq (kernel/hung_task.c, kernel/watchdog.c, kernel/rcu/tree_stall.h,
# kernel/sched, kernel/irq/spurious.c).
_BY_REPORTER: Final = frozenset(
    {
        *("refcount", "list corruption", "hung task", "soft lockup", "hard lockup", "RCU stall"),
        *("atomic", "interrupt"),
    }
)
# The suffixes that gcc gives to parts and copies of a function.
_PART: Final = re.compile(r"(?:\.(?:cold|part|isra|constprop|llvm)(?:\.\d+)*)+$")


@dataclass(frozen=True)
class SplatFrame:
    """One line of a splat's call trace, or its RIP."""

    function: str
    offset: int
    """Bytes from the start of the function."""
    size: int
    """Bytes of the function, by the kernel's own symbols."""
    module: str | None = None
    reliable: bool = True
    """False for an address with a `?` before it: one that was merely found on the stack."""
    is_call: bool = True
    """Whether it is a return address, which is behind the call; RIP is not."""
    file: str | None = None
    """The file of the line in the function itself."""
    line: int | None = None
    """That line, from 1; it is where something was inlined if `inlined` says so."""
    inlined: tuple[str, ...] = ()
    """`file:line` in the functions that are inlined there, innermost first."""

    @property
    def places(self) -> tuple[str, ...]:
        """`file:line` in each function, the innermost of those inlined first."""
        return () if self.file is None else (*self.inlined, f"{self.file}:{self.line}")

    @property
    def where(self) -> str:
        """`file:line`, and where that was inlined; "" where the line is not known."""
        return ", inlined at ".join(self.places)

    def __str__(self) -> str:
        module = f" [{self.module}]" if self.module else ""
        place = f" at {self.where}" if self.where else ""
        return f"{self.function}+{self.offset:#x}{module}{place}"


class SplatKey(NamedTuple):
    """What distinguishes a splat from all others of a log: its place, and its headline."""

    source: LogSource
    seq: int
    title: str


@dataclass(frozen=True)
class Splat:
    """A report of the kernel about a fault of its own: a WARN, an oops, a lockup, a leak, …"""

    kind: str
    """One of `KINDS`."""
    title: str
    """Its headline, as the kernel printed it."""
    message: str
    """The message of a WARN; the headline of all others."""
    text: str
    """All its lines, without time and caller."""
    time: float | None = None
    """Seconds since the boot, of its first line; None where lines have no time."""
    cpu: int | None = None
    pid: int | None = None
    comm: str | None = None
    taint: str = ""
    """The kernel's taint flags (Documentation/admin-guide/tainted-kernels.rst)."""
    function: str | None = None
    """The function at fault, by the report."""
    file: str | None = None
    line: int | None = None
    frames: tuple[SplatFrame, ...] = ()
    """RIP and the call trace in the order of the text, the innermost first."""
    seq: int = field(default=0, compare=False)
    """The place of its first line in its source (:attr:`LogLine.seq`)."""
    source: LogSource = field(default="ring", compare=False)
    is_fatal: bool = False
    """Whether it killed a task or the kernel: an oops, a BUG, a panic."""
    addresses: tuple[tuple[str, str], ...] = field(default=(), compare=False)
    """Addresses in its text, as they are printed, with what was there in a module that is gone."""

    @property
    def key(self) -> SplatKey:
        """What it is recognised by when the log is read again, until the log is set back."""
        return SplatKey(self.source, self.seq, self.title)

    @cached_property
    def symbolised(self) -> str:
        """The text, with file and line after each address."""
        places = iter(self.frames)
        lines = []
        for line in self.text.splitlines():
            where = next(places).where if frame_of(line) else ""
            where = where or "; ".join(name for word, name in self.addresses if word in line)
            lines.append(f"{line}  ({where})" if where else line)
        return "\n".join(lines)

    @property
    def summary(self) -> str:
        """In one line: the headline, what a WARN or a BUG says, and who is at fault.

        The headline of some does not name them.
        """
        words = self.title
        message = self.message.partition("\n")[0]
        if message and self.message != self.title:
            words += f": {message}"
        if self.kind in _BY_REPORTER and self.function is not None:
            place = f" at {self.file}:{self.line}" if self.file else ""
            words = f"{words.rstrip('.:')}, in {self.function}{place}"
        return words

    @property
    def headline_and_rip(self) -> str:
        """The lines that say where a fault was: those up to the registers."""
        lines = self.text.splitlines()
        last = next((n for n, line in enumerate(lines) if line.startswith("RIP:")), 0)
        return "\n".join(lines[: last + 1])

    def with_addresses(self, names: Mapping[str, str]) -> Splat:
        """Return the splat with names for addresses in its text."""
        return replace(self, addresses=tuple(names.items())) if names else self

    def with_frames(self, frames: Sequence[SplatFrame]) -> Splat:
        """Return the splat with these frames, and with file and line of the function at fault."""
        function, file, line = self.function, self.file, self.line
        if file is None and function is not None:
            own = [frame for frame in frames if in_source(frame.function) == function]
            if own:
                nearest = min(own, key=lambda frame: not frame.reliable)
                file, line = nearest.file, nearest.line
        elif file is not None:
            # UBSAN names the file that was compiled, which for a module is a copy of the source.
            end = f"{file.rpartition('/')[2]}:{line}"
            places = (place for frame in frames for place in frame.places)
            match = next((place for place in places if place.rpartition("/")[2] == end), None)
            file = file if match is None else match.rpartition(":")[0]
        return replace(self, frames=tuple(frames), file=file, line=line)

    def __str__(self) -> str:
        return self.symbolised

    def __repr__(self) -> str:
        when = f" at {self.time:.6f}" if self.time is not None else ""
        return f"<Splat {self.kind}{when}: {self.title}>"


def frame_of(text: str) -> SplatFrame | None:
    """Return the frame in a line of a call trace, or in RIP's; None for other lines."""
    match = _FRAME.match(text)
    if match is None:
        nameless = _NAMELESS.match(text)
        return SplatFrame(nameless["function"], 0, 0) if nameless else None
    return SplatFrame(
        function=match["function"],
        offset=int(match["offset"], 16),
        size=int(match["size"], 16),
        module=match["module"],
        reliable=not match["doubt"],
        is_call=not text.startswith("RIP:"),
    )


def in_source(function: str) -> str:
    """Return the name of a function in the source, without gcc's suffixes."""
    return _PART.sub("", function)
