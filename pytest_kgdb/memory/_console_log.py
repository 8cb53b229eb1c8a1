"""Which of the kernel's messages its console driver has printed, read while the kernel runs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..errors import KgdbError
from ..klog import LogLine
from ._printk import PrintkLayout, PrintkRing
from ._vmcoreinfo import parse, vmcoreinfo

if TYPE_CHECKING:
    from ..kernel import StopLayout
    from ._backing import Backing

__all__ = ["ConsoleLog"]


class ConsoleLog:
    """The records of the kernel's log that a console has printed.

    They are read while the kernel runs: what has been printed does not change, unless it is
    overwritten, which the numbers of the records show.
    """

    def __init__(self, backing: Backing, layout: StopLayout) -> None:
        self._backing = backing
        self._kernel = layout
        self._layout: PrintkLayout | None = None

    def position(self) -> int | None:
        """Return the number of the record that is printed next; None if that is not known."""
        driver, seq = self._kernel.console_driver, self._kernel.console_seq
        if driver is None or seq is None:
            return None
        try:
            return self._u64(self._u64(driver) + seq) or None
        except KgdbError:
            return None  # the console has no driver yet

    def printed(self, since: int) -> list[LogLine] | None:
        """Return the lines of the records printed since a position; None if they are not known."""
        try:
            end = self.position()
            if end is None or end < since:
                return None
            ring, limit = self._ring(), self._level_limit()
            # The last one may be printed, and not be counted yet.
            lines = [
                line
                for record in ring.records(since)
                if record.seq <= end and record.level < limit
                for line in record.lines()
            ]
            return lines if self._ring().first_seq() <= since else None
        except KgdbError:
            return None

    def _ring(self) -> PrintkRing:
        backing = self._backing
        if self._layout is None:
            info = vmcoreinfo(backing.vmlinux, backing.placement, backing.read)
            self._layout = PrintkLayout.from_vmcoreinfo(parse(info))
            if self._layout is None:
                raise KgdbError("VMCOREINFO does not describe the kernel's log")
        return PrintkRing(backing.read, self._u64(self._need("prb")), self._layout)

    def _level_limit(self) -> int:
        """Return the level from which on records are not printed (kernel/printk/printk.c,
        suppress_message_printing).
        """
        ignored = self._backing.vmlinux.symbol("ignore_loglevel")
        if ignored is not None and any(self._read(ignored, 1)):
            return 8
        return int.from_bytes(self._read(self._need("console_printk"), 4), "little", signed=True)

    def _need(self, symbol: str) -> int:
        address = self._backing.vmlinux.symbol(symbol)
        if address is None:
            raise KgdbError(f"the kernel has no {symbol}")
        return address

    def _read(self, linked: int, size: int) -> bytes:
        return self._backing.read(linked + self._backing.placement.offset, size)

    def _u64(self, address: int) -> int:
        return int.from_bytes(self._backing.read(address, 8), "little")
