"""Instructions with an int3 in them that neither gdb nor the kernel's debugger is to see."""

from __future__ import annotations

from typing import Protocol

__all__ = ["RecordedCode"]


class RecordedCode(Protocol):
    """Addresses whose first arrival is recorded in the guest, by an int3 that is there until then.

    What a method returns is the byte to be written at the address through the target, which QEMU
    notices; None if there is nothing to write.
    """

    @property
    def active(self) -> bool:
        """Whether there are any."""

    def give(self, address: int) -> bytes | None:
        """Leave an address to the debugger, for a breakpoint of its own."""

    def take_back(self, address: int) -> bytes | None:
        """Undo that, when the debugger has removed its breakpoint."""

    def reached(self, address: int) -> bytes | None:
        """Record an arrival that no int3 tells of: the debugger executes the instruction."""

    def skipped(self, address: int) -> None:
        """Forget an arrival at an int3 of the debugger's: the instruction is not executed."""

    def written(self, address: int, size: int) -> None:
        """Leave addresses to whoever writes other instructions there."""

    def write(self, address: int, byte: bytes) -> None:
        """Write a byte that the target has refused to, as kgdb does where code is read-only.

        QEMU does not notice. It does so when the target next inserts or removes a breakpoint there,
        or when the int3 is executed.
        """

    def original(self, address: int, data: bytes) -> bytes:
        """Return the contents of memory as they are without the int3s."""
