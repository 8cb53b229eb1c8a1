"""A gdb handle on a pristine, stopped, live kernel for every test.

The public types are here for annotations and editors; each is imported when it is first used, as
pytest imports this package on every run.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from .console import Console, Result
    from .debugger import Breakpoint, Frame, GdbError, Reason, Stop, Task, Value, Watchpoint
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
        StubError,
        TimeoutError,
    )
    from .handle import Kgdb
    from .kernel import Kernel
    from .klog import Splat, SplatFrame
    from .modules import Module, Modules
    from .recipes import FailEach, KunitCase, KunitSuite, Outcome, PatchExit, PatchFailures
    from .splats import ExpectedSplat
    from .trace import Call, Cost, Override, Spy, TaskAtCall

__version__ = "0.1.0"

__all__ = [
    "BootError",
    "Breakpoint",
    "BuildError",
    "CacheError",
    "Call",
    "ConfigError",
    "Console",
    "Cost",
    "DebuggerDied",
    "ExpectedSplat",
    "FailEach",
    "Frame",
    "GdbError",
    "GuestCommandError",
    "Kernel",
    "KernelPanic",
    "Kgdb",
    "KgdbError",
    "KunitCase",
    "KunitSuite",
    "MachineDied",
    "Module",
    "Modules",
    "Outcome",
    "Override",
    "PatchExit",
    "PatchFailures",
    "Reason",
    "Result",
    "Splat",
    "SplatError",
    "SplatFrame",
    "Spy",
    "StaleError",
    "Stop",
    "StubError",
    "Task",
    "TaskAtCall",
    "TimeoutError",
    "Value",
    "Watchpoint",
    "__version__",
]

_PACKAGE_OF: Final = {
    "Console": "console",
    "Result": "console",
    "Breakpoint": "debugger",
    "Frame": "debugger",
    "GdbError": "debugger",
    "Reason": "debugger",
    "Stop": "debugger",
    "Task": "debugger",
    "Value": "debugger",
    "Watchpoint": "debugger",
    "BootError": "errors",
    "BuildError": "errors",
    "CacheError": "errors",
    "ConfigError": "errors",
    "DebuggerDied": "errors",
    "GuestCommandError": "errors",
    "KernelPanic": "errors",
    "KgdbError": "errors",
    "MachineDied": "errors",
    "SplatError": "errors",
    "StaleError": "errors",
    "StubError": "errors",
    "TimeoutError": "errors",
    "Kgdb": "handle",
    "Kernel": "kernel",
    "Splat": "klog",
    "SplatFrame": "klog",
    "Module": "modules",
    "Modules": "modules",
    "FailEach": "recipes",
    "KunitCase": "recipes",
    "KunitSuite": "recipes",
    "Outcome": "recipes",
    "PatchExit": "recipes",
    "PatchFailures": "recipes",
    "ExpectedSplat": "splats",
    "Call": "trace",
    "Cost": "trace",
    "Override": "trace",
    "Spy": "trace",
    "TaskAtCall": "trace",
}


def __getattr__(name: str) -> Any:
    """Import a public name from the package that has it (PEP 562)."""
    package = _PACKAGE_OF.get(name)
    if package is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(importlib.import_module(f".{package}", __name__), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
