"""One splat: what it tells, and the lines of its call traces."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Final

__all__ = ["Splat", "SplatFrame", "frame_of", "in_source"]

_FRAME: Final = re.compile(
    r"^(?:RIP: [0-9a-f]{4}:|kmemleak: |[0-9a-f]{16} \(.*\)\{.*\}-\{\d+:\d+\}, at: )?"
    r"\s*(?:\[<[^>]+>\])?\s*(?P<doubt>\? )?"
    r"(?P<function>[A-Za-z_][\w.$]*)\+0x(?P<offset>[0-9a-f]+)/0x(?P<size>[0-9a-f]+)"
    r"(?: \[(?P<module>[\w-]+)[^\]]*\])?"
)
# lib/vsprintf.c, symbol_string: an address that has no name any more, in a module that is gone.
_NAMELESS: Final = re.compile(r"^(?:kmemleak: )?\s*\[<[^>]+>\] (?P<function>0x[0-9a-f]+)$")
# gcc's names for the parts that it makes of a function, and for copies.
_PART: Final = re.compile(r"(?:\.(?:cold|part|isra|constprop|llvm)(?:\.\d+)*)+$")


@dataclass(frozen=True)
class SplatFrame:
    """One line of a splat's call trace, or its RIP."""

    function: str
    offset: int
    """Bytes from the function's beginning."""
    size: int
    """Of the function, as the kernel's own symbols have it."""
    module: str | None = None
    reliable: bool = True
    """False where the kernel put a `?` before it: an address that was found on the stack."""
    is_call: bool = True
    """Whether the address is one to return to, behind a call; that in RIP is not."""
    file: str | None = None
    line: int | None = None
    inlined_in: tuple[str, ...] = ()
    """`file:line` of each place that this one was inlined at, inner first."""

    @property
    def own_place(self) -> tuple[str | None, int | None]:
        """File and line in the function itself, not in what is inlined there."""
        if not self.inlined_in:
            return self.file, self.line
        file, _, line = self.inlined_in[-1].rpartition(":")
        return file, int(line)

    @property
    def where(self) -> str:
        """`file:line`, and where it is inlined; "" where nothing is known."""
        if self.file is None:
            return ""
        own = f"{self.file}:{self.line}"
        return own + "".join(f", inlined at {each}" for each in self.inlined_in)

    def __str__(self) -> str:
        module = f" [{self.module}]" if self.module else ""
        place = f" at {self.where}" if self.where else ""
        return f"{self.function}+{self.offset:#x}{module}{place}"


@dataclass(frozen=True)
class Splat:
    """A report of the kernel's about itself: a WARN, an oops, a lockup, a leak, …"""

    kind: str
    """What it is: one of `KINDS`."""
    title: str
    """Its headline, as the kernel printed it."""
    message: str
    """What a WARN says for itself; the headline otherwise."""
    text: str
    """All its lines, without time and caller."""
    time: float | None = None
    """Seconds since the boot, of its first line; None where lines have no time."""
    cpu: int | None = None
    pid: int | None = None
    comm: str | None = None
    taint: str = ""
    """The letters of what the kernel was tainted by (Documentation, tainted-kernels)."""
    function: str | None = None
    """Where the kernel says that the trouble is."""
    file: str | None = None
    line: int | None = None
    frames: tuple[SplatFrame, ...] = ()
    """RIP and the call trace, the innermost first, as they stand in the text."""
    seq: int = field(default=0, compare=False)
    """The number of its first line in the log."""
    is_fatal: bool = False
    """Whether it killed a task or the kernel: an oops, a BUG, a panic."""

    @cached_property
    def symbolised(self) -> str:
        """The text, with file and line behind each address."""
        places = iter(self.frames)
        lines = []
        for each in self.text.splitlines():
            where = next(places).where if frame_of(each) else ""
            lines.append(f"{each}  ({where})" if where else each)
        return "\n".join(lines)

    def with_frames(self, frames: Sequence[SplatFrame]) -> Splat:
        """Return the splat with its frames' lines known."""
        function, file, line = self.function, self.file, self.line
        if file is None and function is not None:
            its = [each for each in frames if in_source(each.function) == function]
            if its:
                file, line = min(its, key=lambda each: not each.reliable).own_place
        elif file is not None:
            # UBSAN names what the compiler was given, which for a module is a copy of the source.
            told = (file.rpartition("/")[2], line)
            file = next(
                (
                    each.file
                    for each in frames
                    if each.file and (each.file.rpartition("/")[2], each.line) == told
                ),
                file,
            )
        return replace(self, frames=tuple(frames), file=file, line=line)

    def __str__(self) -> str:
        return self.symbolised

    def __repr__(self) -> str:
        when = f" at {self.time:.6f}" if self.time is not None else ""
        return f"<Splat {self.kind}{when}: {self.title}>"


def frame_of(text: str) -> SplatFrame | None:
    """Return the frame that a line of a call trace is, or RIP; None for other lines."""
    found = _FRAME.match(text)
    if found is None:
        nameless = _NAMELESS.match(text)
        return SplatFrame(nameless["function"], 0, 0) if nameless else None
    return SplatFrame(
        function=found["function"],
        offset=int(found["offset"], 16),
        size=int(found["size"], 16),
        module=found["module"],
        reliable=not found["doubt"],
        is_call=not text.startswith("RIP:"),
    )


def in_source(function: str) -> str:
    """Return the name in the source of what may be a part of a function."""
    return _PART.sub("", function)
