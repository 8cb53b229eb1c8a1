"""gdb's remote serial protocol: a relay between gdb and the kernel, with a backend per door."""

from __future__ import annotations

from ._agent_expression import AgentExpression, parse_agent_expression
from ._backend import Backend
from ._hooks import CONTINUE, STOP, Action, Event, Hook, Return
from ._kgdb import KgdbBackend
from ._line_kgdb import LineKgdbBackend
from ._packets import Decoder, encode
from ._qemu import QemuStubBackend
from ._qemu_stub import QemuStub
from ._recorded_code import RecordedCode
from ._refusal import Refusal
from ._relay import Relay
from ._split import LineSplitter
from ._stop_context import GuestMemory
from ._vcpus import Vcpus

__all__ = [
    "CONTINUE",
    "STOP",
    "Action",
    "AgentExpression",
    "Backend",
    "Decoder",
    "Event",
    "GuestMemory",
    "Hook",
    "KgdbBackend",
    "LineKgdbBackend",
    "LineSplitter",
    "QemuStub",
    "QemuStubBackend",
    "RecordedCode",
    "Refusal",
    "Relay",
    "Return",
    "Vcpus",
    "encode",
    "parse_agent_expression",
]
