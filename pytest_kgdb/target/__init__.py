"""The handle: run control, breakpoints, values, the guest's shell."""

from __future__ import annotations

from ._breakpoints import Access, Breakpoint, Watchpoint
from ._fail_each import FailEach, Outcome
from ._handle import Kgdb
from ._link import agent_path
from ._module import Module
from ._modules import Modules
from ._override import Override
from ._spy import Call, Cost, Spy, TaskAtCall
from ._stops import Frame, Reason, Stop
from ._values import Task, Value

__all__ = [
    "Access",
    "Breakpoint",
    "Call",
    "Cost",
    "FailEach",
    "Frame",
    "Kgdb",
    "Module",
    "Modules",
    "Outcome",
    "Override",
    "Reason",
    "Spy",
    "Stop",
    "Task",
    "TaskAtCall",
    "Value",
    "Watchpoint",
    "agent_path",
]
