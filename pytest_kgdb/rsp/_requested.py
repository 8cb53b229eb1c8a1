"""The breakpoints and watchpoints that gdb asks for, and why one is refused."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Final

from ..errors import KgdbError
from ._backend import Backend
from ._breakpoints import InsertedBreakpoints
from ._refusal import Refusal
from ._stack_watches import StackWatches

__all__ = ["RequestedBreakpoints"]

_SOFTWARE: Final = (b"Z0,", b"z0,")
_HARDWARE: Final = (b"Z1,", b"z1,")

# Watchpoints: of writes, reads and both (gdb manual, "Packets").
_WATCHPOINT: Final = (b"Z2,", b"Z3,", b"Z4,", b"z2,", b"z3,", b"z4,")

_FAULT: Final = b"E0e"  # EFAULT

# kgdb's -E2BIG to a Z0 (kernel/debug/debug_core.c, dbg_set_sw_break).
_NO_ROOM: Final = b"E07"
_TABLE_FULL: Final = Refusal(
    "kgdb's table of breakpoints is full (include/linux/kgdb.h, KGDB_MAX_BREAKPOINTS), and each "
    "place where a function has been inlined takes one",
    "delete some, take a function with fewer places, or --kgdb-stub=qemu, which has no such limit",
)


class RequestedBreakpoints:
    """Does what gdb's `Z` and `z` packets ask, and keeps why one of them was refused."""

    def __init__(
        self, backend: Backend, breakpoints: InsertedBreakpoints, watches: StackWatches
    ) -> None:
        self._backend = backend
        self._breakpoints = breakpoints
        self._watches = watches
        self.code_refusal: Callable[[int], str | None] = lambda _: None
        """Returns why gdb is to have no breakpoint at an address; may be set."""
        self._refusal: Refusal | None = None
        self._refused: set[int] = set()

    def reply(self, payload: bytes) -> bytes | None:
        """Do what a packet asks, and return the reply; None if it is not for this class."""
        kind = payload[:3]
        if kind in _SOFTWARE:
            return self._insert_or_remove(payload)
        if kind in _HARDWARE and self._breakpoints.request_hardware is not None:
            return self._insert_or_remove_hardware(payload)
        if kind in _WATCHPOINT and self._backend.hardware_refusal is None:
            return self._insert_or_remove_watchpoint(payload)
        return None

    def take_refusal(self) -> Refusal | None:
        """Return, once, why a breakpoint was refused last, if that is known."""
        refusal, self._refusal = self._refusal, None
        return refusal

    def take_refused(self) -> frozenset[int]:
        """Return, once, the addresses at which gdb was refused a breakpoint."""
        refused = frozenset(self._refused)
        self._refused.clear()
        return refused

    def _insert_or_remove(self, payload: bytes) -> bytes:
        if self._backend.detached:
            return b"OK"
        address = _address(payload)
        if payload[:1] == b"Z":
            reply = self._refuse_freed(address) or self._breakpoints.insert(address)
            if reply[:1] == b"E":
                self._refused.add(address)
            if reply == _NO_ROOM:
                self._refusal = _TABLE_FULL
            return reply
        self._breakpoints.remove(address)
        return b"OK"

    def _refuse_freed(self, address: int) -> bytes | None:
        """Refuse a breakpoint in code that the kernel has freed: it would be another's memory.

        That of a handle is refused before gdb has it; gdb's prompt has others.
        """
        if (why := self.code_refusal(address)) is not None:
            self._refusal = Refusal(f"{address:#x}: {why}")
            return _FAULT
        _, layout = self._backend.guest_memory_used
        with contextlib.suppress(KgdbError):
            if layout is not None and layout.has_freed(address, self._backend.read):
                self._refusal = Refusal(
                    f"{address:#x} is in .init.text, which the kernel has freed by now",
                    "breakpoint() leaves out the copies of a function that are there; a test with "
                    '@pytest.mark.kgdb(at="kgdbwait") comes before that',
                )
                return _FAULT
        return None

    def _insert_or_remove_hardware(self, payload: bytes) -> bytes:
        if self._backend.detached:
            return self._backend.reply(payload)
        if payload[:1] == b"Z":
            return self._refuse_freed(_address(payload)) or self._breakpoints.insert_hardware(
                payload
            )
        return self._breakpoints.remove_hardware(payload)

    def _insert_or_remove_watchpoint(self, payload: bytes) -> bytes:
        if self._backend.detached:
            return self._backend.reply(payload)
        if payload[:1] == b"Z":
            return self._watches.insert(payload, self._backend.stack_pointer)
        return self._watches.remove(payload)


def _address(payload: bytes) -> int:
    return int(payload.split(b",")[1], 16)
