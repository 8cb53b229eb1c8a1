"""Guest memory for the relay, which looks at it in the midst of a stop."""

from __future__ import annotations

from pathlib import Path
from typing import BinaryIO

from ..kernel import Vmlinux
from ._backing import GuestMemory
from ._memory import Ram, ram_layout

__all__ = ["Peek"]


class Peek:
    """The kernel's virtual memory, read and written without a word about who may.

    :class:`State` guards its users against a moving kernel. The relay is who knows whether the
    kernel moves, and asks in a thread of its own; so it has a mapping of its own.
    """

    def __init__(self, vmlinux: Path, ram: BinaryIO, memory_bytes: int, machine: str) -> None:
        self._ram = Ram(ram, ram_layout(memory_bytes, machine))
        self._memory = GuestMemory(Vmlinux(vmlinux), self._ram)
        self._memory.refresh()

    def refresh(self) -> None:
        """Look anew where the kernel is."""
        self._memory.refresh()

    def read(self, address: int, size: int) -> bytes:
        """:raises KgdbError: not all of it is mapped RAM."""
        return self._memory.read(address, size)

    def write(self, address: int, data: bytes) -> None:
        """Write behind the guest's back: data only, as QEMU does not see it.

        :raises KgdbError: not all of it is mapped RAM.
        """
        while data:
            physical, mapped = self._memory.table.translate(address)
            self._ram.write(physical, data[:mapped])
            data, address = data[mapped:], address + mapped

    def close(self) -> None:
        """Let go of guest RAM."""
        self._ram.close()
