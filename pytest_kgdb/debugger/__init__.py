"""gdb as a library: the process and MI, values, frames, stops, breakpoints, run control.

:class:`RunControl` is the only source of whether the kernel is stopped, :class:`BreakpointTable`
the only writer of `-break-*`, :class:`Generation` the one counter of stops.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from ._breakpoint_table import BreakpointTable
    from ._breakpoints import Access, Breakpoint, BreakpointLocation, BreakpointRow, Watchpoint
    from ._constants import Constants, Remember
    from ._current import cpu_expression, define_current
    from ._debugger import Debugger, Door
    from ._deletable import Deletable
    from ._errnos import MAX_ERRNO, errno_name, errno_of
    from ._evaluate import evaluate
    from ._first_cause import FirstCause, MachineLife
    from ._frames import Frame, SourceText, Variables, source_path
    from ._generation import Generation
    from ._locations import Locations, NoSuchLocation
    from ._mi import Gdb, GdbError, MiTransport, Record, c_string
    from ._numbers import number_of
    from ._objects import check_type, expression_of, object_of, per_cpu
    from ._process import (
        GdbProcess,
        agent_paths,
        gdb_version,
        launch_gdb,
        launch_template,
    )
    from ._run_control import RunControl
    from ._stop import Reason, Stop, place_of
    from ._stop_line import in_a_line
    from ._subscribers import Restored, Resumed, StopRecord, StopSubscriber
    from ._symbol_index import SymbolIndex
    from ._template import ForkedGdb, GdbTemplate
    from ._values import Task, Value, difference, summary_of

__all__ = [
    "MAX_ERRNO",
    "Access",
    "Breakpoint",
    "BreakpointLocation",
    "BreakpointRow",
    "BreakpointTable",
    "Constants",
    "Debugger",
    "Deletable",
    "Door",
    "FirstCause",
    "ForkedGdb",
    "Frame",
    "Gdb",
    "GdbError",
    "GdbProcess",
    "GdbTemplate",
    "Generation",
    "Locations",
    "MachineLife",
    "MiTransport",
    "NoSuchLocation",
    "Reason",
    "Record",
    "Remember",
    "Restored",
    "Resumed",
    "RunControl",
    "SourceText",
    "Stop",
    "StopRecord",
    "StopSubscriber",
    "SymbolIndex",
    "Task",
    "Value",
    "Variables",
    "Watchpoint",
    "agent_paths",
    "c_string",
    "check_type",
    "cpu_expression",
    "define_current",
    "difference",
    "errno_name",
    "errno_of",
    "evaluate",
    "expression_of",
    "gdb_version",
    "in_a_line",
    "launch_gdb",
    "launch_template",
    "number_of",
    "object_of",
    "per_cpu",
    "place_of",
    "source_path",
    "summary_of",
]

# Each name is imported when it is first used: QEMU and gdb are started by parts that need few of
# the others, which are imported while these start.
_MODULE_OF: Final = {
    "BreakpointTable": "_breakpoint_table",
    "Access": "_breakpoints",
    "Breakpoint": "_breakpoints",
    "BreakpointLocation": "_breakpoints",
    "BreakpointRow": "_breakpoints",
    "Watchpoint": "_breakpoints",
    "Constants": "_constants",
    "Remember": "_constants",
    "cpu_expression": "_current",
    "define_current": "_current",
    "Debugger": "_debugger",
    "Door": "_debugger",
    "Deletable": "_deletable",
    "MAX_ERRNO": "_errnos",
    "errno_name": "_errnos",
    "errno_of": "_errnos",
    "FirstCause": "_first_cause",
    "MachineLife": "_first_cause",
    "Frame": "_frames",
    "SourceText": "_frames",
    "Variables": "_frames",
    "source_path": "_frames",
    "Generation": "_generation",
    "Locations": "_locations",
    "NoSuchLocation": "_locations",
    "Gdb": "_mi",
    "GdbError": "_mi",
    "MiTransport": "_mi",
    "Record": "_mi",
    "c_string": "_mi",
    "number_of": "_numbers",
    "check_type": "_objects",
    "expression_of": "_objects",
    "object_of": "_objects",
    "per_cpu": "_objects",
    "GdbProcess": "_process",
    "agent_paths": "_process",
    "gdb_version": "_process",
    "launch_gdb": "_process",
    "launch_template": "_process",
    "GdbTemplate": "_template",
    "ForkedGdb": "_template",
    "in_a_line": "_stop_line",
    "Restored": "_subscribers",
    "Resumed": "_subscribers",
    "RunControl": "_run_control",
    "StopRecord": "_subscribers",
    "StopSubscriber": "_subscribers",
    "Reason": "_stop",
    "Stop": "_stop",
    "place_of": "_stop",
    "SymbolIndex": "_symbol_index",
    "Task": "_values",
    "difference": "_values",
    "Value": "_values",
    "evaluate": "_evaluate",
    "summary_of": "_values",
}


def __getattr__(name: str) -> Any:
    module = _MODULE_OF.get(name)
    if module is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(importlib.import_module(f".{module}", __name__), name)
    return value
