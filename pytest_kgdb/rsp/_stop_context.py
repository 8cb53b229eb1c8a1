"""What hooks and steps need of the CPU that has stopped."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Protocol

from ._registers import RegisterFile

__all__ = ["FIRST_KERNEL_ADDRESS", "GuestMemory", "StopContext"]

FIRST_KERNEL_ADDRESS: Final = 1 << 63
"""Below are the addresses of user programs (Documentation/arch/x86/x86_64/mm.rst)."""


class GuestMemory(Protocol):
    """The guest's memory, where it is ours."""

    def read(self, address: int, size: int) -> bytes:
        """Read virtual memory; raises KgdbError where it is not RAM."""

    def check_mapped(self, address: int, size: int) -> None:
        """Raise KgdbError if not all of a range is mapped, to RAM or to a device."""

    def translate(self, address: int) -> tuple[int, int]:
        """Return the physical address, and how many bytes from there on are in the same page."""

    def write(self, address: int, data: bytes) -> None:
        """Write virtual memory behind the guest's back, which must not be instructions."""

    def read_user(self, task: int, address: int, size: int) -> bytes:
        """Read a user program's memory, given its task; raises KgdbError where there is none."""

    def open_user(self, task: int, address: int, size: int) -> list[tuple[int, int]]:
        """Return where in the kernel's memory to write a user program's: addresses and sizes."""


@dataclass
class StopContext:
    """The CPU that has stopped at a trap."""

    thread: bytes
    """The target's number of the thread."""

    registers: RegisterFile

    read: Callable[[int, int], bytes]
    """Reads virtual memory (address, size); raises KgdbError where there is none."""

    emulate: Callable[[], bool]
    """Executes the instruction at the program counter without the CPU; False if it cannot."""

    task: Callable[[], bytes]
    """Returns what tells the task from others; empty where that is not known."""

    breakpoint: int | None
    """Where the breakpoint is that may have been hit; None where a single step has ended."""

    interrupted_step: bool = False
    """Whether an interrupt came instead of the single step from there, which is still due."""

    late: bool = False
    """Whether the CPU came to this instruction together with another, and has waited until now."""

    spurious: bool = False
    """Whether there is no reason for the stop, and the target is to go on."""

    displace: Callable[[], bool] = lambda: False
    """Has the next step execute the instruction at the program counter while its breakpoint stays
    inserted; False if the breakpoint must be removed for it."""
