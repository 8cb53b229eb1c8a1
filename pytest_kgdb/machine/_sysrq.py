"""The break on the console at which a running kernel enters kgdb."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

from ..console import Console
from ..monitor import Monitor

__all__ = ["SysrqBreak"]

_READ_SECONDS: Final = 2.0
"""How long a break waits for the kernel to read any more of what was sent before."""

_FIRST_LOOK: Final = 0.0005
_LONGEST_LOOK: Final = 0.02

_U32: Final = (1 << 32) - 1


class SysrqBreak:
    """Asks a running kernel to enter kgdb: a break and `g` (drivers/tty/sysrq.c).

    The break is not a byte in the stream: QEMU marks with it the next byte that the kernel reads
    (hw/char/serial.c, serial_receive_break). So what was sent before must have been read by then.

    :param alive: whether QEMU runs.
    :param characters_read: returns how many characters, breaks included, the console's driver has
        read; 32 bits, as the kernel counts them (include/linux/serial_core.h, uart_icount). None
        where that is not known: then only what QEMU has read is waited for.
    """

    def __init__(
        self,
        monitor: Monitor,
        console: Console,
        *,
        alive: Callable[[], bool],
        characters_read: Callable[[], int] | None,
    ) -> None:
        self._monitor = monitor
        self._console = console
        self._alive = alive
        self._characters_read = characters_read
        self.restart()

    def restart(self) -> None:
        """Count from here, with a stopped kernel: the console was just connected."""
        self._breaks = 0
        # A kernel that a break has stopped has read everything; one whose console is not up yet
        # has read nothing.
        self._start = 0 if self._characters_read is None else self._characters_read()

    def send(self) -> None:
        """Send it, as soon as what was sent before has been read, or no more of it in two seconds.

        Sent earlier, it would make a key of the next character of that: `b` reboots.

        :raises MachineDied: QEMU is gone.
        """
        look, before = _FIRST_LOOK, (-1, -1)
        deadline = time.monotonic()
        while (unread := self._unread()) != (0, 0) and self._alive():
            if unread != before:
                before, deadline = unread, time.monotonic() + _READ_SECONDS
            elif time.monotonic() >= deadline:
                break
            time.sleep(look)
            look = min(2 * look, _LONGEST_LOOK)
        self._console.note_sysrq()
        self._monitor.execute("chardev-send-break", id="console")
        self._console.input.send_at_once(b"g")
        self._breaks += 1

    def _unread(self) -> tuple[int, int]:
        """Return how much QEMU has not read, and how many characters the kernel has not."""
        by_qemu = self._console.input.unread()
        if self._characters_read is None:
            return by_qemu, 0
        read = self._characters_read() - self._start & _U32
        return by_qemu, max(0, self._console.input.sent + self._breaks - read)
