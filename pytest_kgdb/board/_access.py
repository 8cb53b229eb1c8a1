"""How a board is reached: its lines, and what resets it."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import BootError, TimeoutError
from ..process import CommandFailed, run, which
from ..settings import SerialLine

if TYPE_CHECKING:
    from ..settings import Settings

__all__ = ["BoardAccess", "Reset"]

Reset = Callable[[Path, float], None]
"""Resets a board: the file for what that says, and how many seconds it may take.

It raises BootError where the board could not be reset.
"""


@dataclass(frozen=True)
class BoardAccess:
    """A board, as somebody else has set it up.

    :ivar target: kgdb's line.
    :ivar console: the console's; None where it is kgdb's, too.
    :ivar origins: what has named the two, for messages.
    :ivar reset: None where it cannot be reset.
    """

    target: SerialLine
    console: SerialLine | None
    origins: tuple[str, str]
    reset: Reset | None

    @classmethod
    def of(cls, settings: Settings) -> BoardAccess:
        """Return the board that the options name."""
        assert isinstance(settings.target, SerialLine)
        reset = None
        if settings.reset is not None:
            reset = _command(settings.reset, settings.origin("reset"))
        origins = settings.origin("target"), settings.origin("console")
        return cls(settings.target, settings.console, origins, reset)

    def describe(self) -> str:
        """Return the lines, for the first line of a run."""
        if self.console is None or self.console.where == self.target.where:
            return str(self.target)
        return f"{self.target}, console {self.console}"


def _command(command: str, origin: str) -> Reset:
    """Return what runs a command without a shell.

    :param origin: the option that named it, for messages.
    """

    def reset(log: Path, seconds: float) -> None:
        argv = shlex.split(command)
        argv[0] = which(argv[0], package="?") if "/" not in argv[0] else argv[0]
        try:
            run(argv, timeout=seconds, log=log)
        except (CommandFailed, TimeoutError, OSError) as error:
            raise BootError(f"{origin}: the board could not be reset: {error}", log=log) from error

    return reset
