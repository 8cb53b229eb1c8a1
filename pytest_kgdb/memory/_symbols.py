"""Source lines for the addresses in a splat."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import KgdbError
from ..klog import SplatFrame
from ._module_files import ModuleLookup
from ._module_lines import program_of_file

if TYPE_CHECKING:
    import drgn


def symbolise(
    program: drgn.Program,
    frames: Sequence[SplatFrame],
    source: Path | None,
    modules: ModuleLookup,
) -> list[SplatFrame]:
    """Return frames with file, line and inlining, where the debug information has them.

    :param source: the directory of the kernel's source in the debug information.
    :param modules: has the files of modules that are gone, or whose init is.
    """
    placed = []
    for frame in frames:
        new = _placed(program, frame, source)
        if new.file is None and frame.module is not None:
            new = _placed_by_file(frame, source, modules)
        placed.append(new)
    return placed


def _placed_by_file(frame: SplatFrame, source: Path | None, modules: ModuleLookup) -> SplatFrame:
    assert frame.module is not None
    name = frame.module.replace("-", "_")
    for path in modules.candidates(name):
        try:
            new = _placed(program_of_file(path, name), frame, source)
        except (OSError, KgdbError):
            continue
        if new.file is not None:
            return new
    return frame


def _placed(program: drgn.Program, frame: SplatFrame, source: Path | None) -> SplatFrame:
    for start in _starts(program, frame):
        # A return address is behind its call, and may be behind the end of the function.
        address = start + frame.offset - (1 if frame.is_call else 0)
        try:
            *inner, own = program.source_location(address)
        except (LookupError, ValueError):
            continue
        return replace(
            frame,
            file=relative(own.filename, source),
            line=own.line,
            inlined=tuple(f"{relative(call.filename, source)}:{call.line}" for call in inner),
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
