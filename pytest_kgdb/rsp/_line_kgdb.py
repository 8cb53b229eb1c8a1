"""kgdb on somebody else's machine, behind a serial line, as the target."""

from __future__ import annotations

import socket
from collections.abc import Callable, Sequence
from typing import Final

from ..deadline import WaitLimit
from ._connection import KGDB_BYTES, KgdbConnection
from ._kgdb import KgdbBackend
from ._line_connection import LineConnection
from ._refusal import Refusal

__all__ = ["LineKgdbBackend"]

_HARDWARE: Final = (b"Z1", b"Z2", b"Z3", b"Z4")


class LineKgdbBackend(KgdbBackend):
    """kgdb on a serial line, without the help of QEMU.

    :param connect: returns a socket connected to the line.
    :param check: raises what is behind it if kgdb does not answer.
    """

    hardware_refusal = (
        "kgdb accepts watchpoints and hardware breakpoints, and they never fire; those of a guest "
        "in QEMU do"
    )

    def __init__(
        self,
        connect: Callable[[], socket.socket],
        *,
        waits: WaitLimit,
        check: Callable[[], None],
    ) -> None:
        self._check = check
        super().__init__(connect, waits=waits)

    def _open(self, connect: Callable[[], socket.socket], waits: WaitLimit) -> KgdbConnection:
        return LineConnection(connect, waits=waits, check=self._check)

    def receive(self, ready: Sequence[object]) -> bool:
        """See :meth:`Backend.receive`; the end of a stop reply may have been lost."""
        if not super().receive(ready):
            return False
        # The relay looks every few seconds where nothing comes.
        return bool(ready) or self.detached or self._connection.receive()

    def reply(self, payload: bytes) -> bytes:
        """See :meth:`Backend.reply`; hardware breakpoints are refused.

        kgdb accepts them, and they never fire: it has no handler for the exception that they
        cause outside of a single step (arch/x86/kernel/kgdb.c, __kgdb_notify).
        """
        if payload[:2] in _HARDWARE:
            self._handlers.refusal = Refusal(self.hardware_refusal)
            return b"E01"
        return super().reply(payload)

    def _stay_at_reboot(self) -> None:
        """Leave the kernel as its owner has it."""

    def read_kernel(self, address: int, size: int) -> bytes:
        """Read the kernel's memory by packets.

        :raises KgdbError: kgdb cannot read all of it.
        """
        return self._connection.read(address, size)

    def write_kernel(self, address: int, data: bytes) -> None:
        """Write the kernel's memory by packets.

        :raises KgdbError: kgdb cannot.
        """
        for start in range(0, len(data), KGDB_BYTES):
            self._connection.write(address + start, data[start : start + KGDB_BYTES])

    def leave(self) -> None:
        """Let the stopped kernel run without a debugger; its breakpoints are removed.

        That is a packet of kgdb's (kernel/debug/gdbstub.c, gdb_cmd_detachkill).
        """
        self._connection.request(b"D")
