"""Test the Linux kernel from the inside: pytest, QEMU, kgdb and gdb put together."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .errors import (
        BootError,
        BuildError,
        CacheError,
        ConfigError,
        DebuggerDied,
        GuestCommandError,
        KernelPanic,
        KgdbError,
        MachineDied,
        SplatError,
        StaleError,
        TimeoutError,
    )
    from .target import Breakpoint, Frame, Kgdb, Stop, Task, Value, Watchpoint

__all__ = [
    "BootError",
    "Breakpoint",
    "BuildError",
    "CacheError",
    "ConfigError",
    "DebuggerDied",
    "Frame",
    "GuestCommandError",
    "KernelPanic",
    "Kgdb",
    "KgdbError",
    "MachineDied",
    "SplatError",
    "StaleError",
    "Stop",
    "Task",
    "TimeoutError",
    "Value",
    "Watchpoint",
]

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """Import a public name on first use, as pytest imports this package in every run."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from . import errors

    if hasattr(errors, name):
        return getattr(errors, name)
    from . import target

    return getattr(target, name)
