"""Addresses in modules that the kernel has no more."""

from __future__ import annotations

from ..klog import SplatFrame
from ._module_symbols import Symbols


def frame_in(module: Symbols, address: int) -> SplatFrame | None:
    """Return the call that returns to an address, by what the module's memory was."""
    import drgn

    program = drgn.Program(drgn.Platform(drgn.Architecture.X86_64))
    made = program.relocatable_module(module.name, module.address, create=True)
    for name, start in module.sections.items():
        made.section_addresses[name] = start
    made.address_ranges = [(start, end) for start, end, _ in module.ranges]
    made.try_file(module.file)
    try:
        symbol = program.symbol(address - 1)
        inner, *outer = program.source_location(address - 1)
    except (LookupError, ValueError):
        return None
    return SplatFrame(
        # An init has two names, and that of the source is the one to know it by.
        (outer[-1] if outer else inner).name() or symbol.name,
        address - symbol.address,
        symbol.size,
        module.name,
        file=inner.filename,
        line=inner.line,
        inlined_in=tuple(f"{each.filename}:{each.line}" for each in outer),
    )
