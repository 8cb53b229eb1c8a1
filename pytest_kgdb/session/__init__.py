"""Machine, debugger and handle put together; usable without pytest."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

from ..debugger import gdb_version
from ._accel import Accelerator, qemu_version
from ._index import symbol_index
from ._session import Session

if TYPE_CHECKING:
    from ._board_session import BoardSession
    from ._saved_session import SavedSession

__all__ = [
    "Accelerator",
    "BoardSession",
    "SavedSession",
    "Session",
    "gdb_version",
    "qemu_version",
    "symbol_index",
]

# These have much that a machine of a test run starts without.
_MODULE_OF: Final = {"BoardSession": "_board_session", "SavedSession": "_saved_session"}


def __getattr__(name: str) -> Any:
    module = _MODULE_OF.get(name)
    if module is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{module}", __name__), name)
