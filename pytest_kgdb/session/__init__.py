"""Machine, debugger and handle put together; usable without pytest."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..debugger import gdb_version
from ._accel import qemu_version
from ._session import Session

if TYPE_CHECKING:
    from ._board_session import BoardSession

__all__ = ["BoardSession", "Session", "gdb_version", "qemu_version"]


def __getattr__(name: str) -> Any:
    if name != "BoardSession":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from ._board_session import BoardSession  # with all that a machine in QEMU starts without

    return BoardSession
