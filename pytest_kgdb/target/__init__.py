"""The handle: run control, breakpoints, values, the guest's shell."""

from __future__ import annotations

from ._breakpoints import Access, Breakpoint, Watchpoint
from ._handle import Kgdb
from ._link import agent_path
from ._module import Module
from ._modules import Modules
from ._stops import Frame, Reason, Stop
from ._values import Task, Value

__all__ = [
    "Access",
    "Breakpoint",
    "Frame",
    "Kgdb",
    "Module",
    "Modules",
    "Reason",
    "Stop",
    "Task",
    "Value",
    "Watchpoint",
    "agent_path",
]
