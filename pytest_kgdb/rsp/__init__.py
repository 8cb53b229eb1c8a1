"""The relay between gdb and kgdb: gdb's remote serial protocol, most of it answered here."""

from __future__ import annotations

from ._bytecode import Bytecode, parse
from ._halt import GuestMemory
from ._hooks import PASS, TELL, Action, Event, Hook, Return
from ._layout import Layout
from ._power import Power
from ._qemu import QemuRelay
from ._relay import Relay
from ._stub import Stub

__all__ = [
    "PASS",
    "TELL",
    "Action",
    "Bytecode",
    "Event",
    "GuestMemory",
    "Hook",
    "Layout",
    "Power",
    "QemuRelay",
    "Relay",
    "Return",
    "Stub",
    "parse",
]
