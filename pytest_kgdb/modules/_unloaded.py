"""Addresses in modules that the kernel has no more."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..klog import SplatFrame
from ._registry import LoadedModule, ModuleRegistry

if TYPE_CHECKING:
    import drgn

__all__ = ["frame_in", "frame_of_unloaded", "name_of_unloaded"]


def frame_of_unloaded(registry: ModuleRegistry, address: int) -> SplatFrame | None:
    """Return what an address was in a module, or in an init, whose memory is freed."""
    # busybox, being refused, loads a module by another system call, to the same addresses.
    inits = [module for module in registry.loaded.values() if module.holds(address, init=True)]
    unloaded = [module for module in reversed(registry.unloaded) if module.holds(address)]
    return next((frame_in(module, address) for module in (*inits, *unloaded)), None)


def name_of_unloaded(registry: ModuleRegistry, address: int) -> str | None:
    """Return what was at an address in a module that is gone; None where there was none."""
    if registry.at(address) is not None:
        return None
    for module in reversed(registry.unloaded):
        if module.holds(address):
            try:
                symbol = _program(module).symbol(address)
            except LookupError:
                return f"in module {module.name}, unloaded"
            return f"{symbol.name}+{address - symbol.address:#x} of module {module.name}, unloaded"
    return None


def _program(module: LoadedModule) -> drgn.Program:
    """Return a program with a module where it was."""
    import drgn

    program = drgn.Program(drgn.Platform(drgn.Architecture.X86_64))
    debug_info = program.relocatable_module(module.name, module.address, create=True)
    for name, start in module.sections.items():
        debug_info.section_addresses[name] = start
    debug_info.address_ranges = [(start, end) for start, end, _ in module.ranges]
    debug_info.try_file(module.file)
    return program


def frame_in(module: LoadedModule, address: int) -> SplatFrame | None:
    """Return the call that returns to an address, by the memory that a module had."""
    program = _program(module)
    try:
        symbol = program.symbol(address - 1)
        *inner, own = program.source_location(address - 1)
    except (LookupError, ValueError):
        return None
    return SplatFrame(
        # An init has two names, and that of the source is the one to know it by.
        own.name() or symbol.name,
        address - symbol.address,
        symbol.size,
        module.name,
        file=own.filename,
        line=own.line,
        inlined=tuple(f"{place.filename}:{place.line}" for place in inner),
    )
