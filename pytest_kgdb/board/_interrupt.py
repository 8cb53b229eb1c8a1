"""How a running kernel of a board is made to enter kgdb."""

from __future__ import annotations

import threading
from typing import Final

from ._board import Board

__all__ = ["BoardInterrupt"]

# The kill character first: what was typed and not entered is forgotten (drivers/tty/n_tty.c).
_COMMAND: Final = b"\x15echo g >/proc/sysrq-trigger\n"

_PASS_SECONDS: Final = 2.0  # that what was sent before may take to get on the line


class BoardInterrupt:
    """Asks a running kernel to enter kgdb (drivers/tty/sysrq.c).

    By a break on the console and `g`; where the line carries no break, or the kernel does not heed
    it, by the shell on the console, which must be at its prompt.
    """

    def __init__(self, board: Board) -> None:
        self._board = board
        self.by_break = board.lines.console_line.can_break
        """Whether it is by a break; may be set."""
        self._lock = threading.Lock()

    def in_guest(self) -> bool:
        """Whether it is a command in the guest that asks."""
        return not self.by_break

    def send(self) -> None:
        """Ask, without waiting for the stop.

        :raises MachineDied: the line is lost.
        """
        lines = self._board.lines
        with self._lock:
            if not self.by_break:
                self._board.console.note_sysrq()
                self._board.console.send(_COMMAND)
                return
            # gdb has said that it resumes, and kgdb has not heard yet: on a line that both share
            # it would be kgdb that reads the break.
            if not lines.await_running(_PASS_SECONDS):
                return  # it has stopped again
            # A break is for the byte behind it: what was typed before it goes before it.
            lines.await_input_passed(_PASS_SECONDS)
            self._board.console.note_sysrq()
            lines.console_line.send_break()
            lines.console_line.write(b"g")
