"""A machine that somebody else started: a board on serial lines."""

from __future__ import annotations

from ._access import BoardAccess
from ._board import Board
from ._interrupt import BoardInterrupt
from ._labgrid import labgrid_access
from ._take_up import await_kgdb, await_shell, stop_running, take_up

__all__ = [
    "Board",
    "BoardAccess",
    "BoardInterrupt",
    "await_kgdb",
    "await_shell",
    "labgrid_access",
    "stop_running",
    "take_up",
]
