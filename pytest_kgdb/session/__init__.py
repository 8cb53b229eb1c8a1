"""Machine, debugger and handle put together; usable without pytest."""

from __future__ import annotations

from ..debugger import gdb_version
from ._accel import qemu_version
from ._session import Session

__all__ = ["Session", "gdb_version", "qemu_version"]
