"""Source lines for the addresses in a splat."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from ..klog import SplatFrame

if TYPE_CHECKING:
    import drgn


def symbolise(
    program: drgn.Program, frames: Sequence[SplatFrame], source: Path | None
) -> list[SplatFrame]:
    """Return frames with file, line and inlining, where the debug information has them.

    :param source: the directory of the kernel's source in the debug information.
    """
    return [_placed(program, frame, source) for frame in frames]


def _placed(program: drgn.Program, frame: SplatFrame, source: Path | None) -> SplatFrame:
    for start in _starts(program, frame):
        # A return address is behind its call, and may be behind the end of the function.
        address = start + frame.offset - (1 if frame.is_call else 0)
        try:
            inner, *outer = program.source_location(address)
        except (LookupError, ValueError):
            continue
        return replace(
            frame,
            file=relative(inner.filename, source),
            line=inner.line,
            inlined_in=tuple(f"{relative(call.filename, source)}:{call.line}" for call in outer),
        )
    return frame


def _starts(program: drgn.Program, frame: SplatFrame) -> Iterable[int]:
    """Return the addresses where the function may begin, the likeliest first.

    Static functions of different files may share a name. The kernel takes the distance to the
    next symbol for a function's size (kernel/kallsyms.c), which is a little more than the size in
    vmlinux.
    """
    candidates = []
    for symbol in program.symbols(frame.function):
        module = _module(program, symbol.address)
        if module is None or module != (frame.module or "kernel").replace("-", "_"):
            continue
        spare = frame.size - symbol.size
        candidates.append((spare < 0, abs(spare), symbol.address))
    return [address for *_, address in sorted(candidates)]


def _module(program: drgn.Program, address: int) -> str | None:
    try:
        return str(program.module(address).name)
    except LookupError:
        return None


def relative(name: str, source: Path | None) -> str:
    """Return the path of a file in the kernel's tree."""
    if source is not None and name.startswith(f"{source}/"):
        return name[len(str(source)) + 1 :]
    return name
