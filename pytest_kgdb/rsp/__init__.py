"""The relay between gdb and kgdb: gdb's remote serial protocol, most of it answered here."""

from __future__ import annotations

from ._layout import Layout
from ._relay import GuestMemory, Power, Relay
from ._stub import Stub

__all__ = ["GuestMemory", "Layout", "Power", "Relay", "Stub"]
