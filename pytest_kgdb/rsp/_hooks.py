"""What a test has done at an address, without gdb noticing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from ._registers import RegisterFile

__all__ = ["CONTINUE", "STOP", "Action", "Event", "Hook", "Return"]


@dataclass
class Event:
    """A CPU that has come to a hooked address, before the instruction there."""

    address: int
    registers: RegisterFile
    read: Callable[[int, int], bytes]
    """Reads virtual memory (address, size); raises KgdbError where there is none."""
    gap: float
    """Seconds since a hook's CPU was last resumed; a trap takes at most that long."""
    decided: bool = False
    """Whether a newer hook has the function return already."""
    took: Callable[[float], object] | None = None
    """To be set by a hook: is called with the seconds that the whole stop took here."""


@dataclass(frozen=True)
class Continue:
    """Let the CPU go on."""


@dataclass(frozen=True)
class StopKernel:
    """Stop the kernel: gdb sees a stop at a breakpoint there."""


@dataclass(frozen=True)
class Return:
    """Return at once from the function whose first instruction this is."""

    value: int | None
    """What is left in the register of the return value, 64 bits; None to leave it as it is."""
    stop: bool = False
    """Whether the kernel stops first; the function then returns when gdb resumes."""


Action = Continue | StopKernel | Return
CONTINUE: Final = Continue()
STOP: Final = StopKernel()

Hook = Callable[[Event], Action]
"""Called in the relay's thread while the kernel is stopped; it must not use the handle."""
