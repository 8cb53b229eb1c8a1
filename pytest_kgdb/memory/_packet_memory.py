"""Guest memory that is not ours, for the relay: by the target's packets."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

from ..kernel import Vmlinux
from ._backing import DebuggerBacking, WriteFunction
from ._placement import ReadFunction
from ._user import UserMemory

if TYPE_CHECKING:
    from ..kernel import StopLayout

__all__ = ["PacketMemory"]

_PAGE: Final = 4096  # the smallest that is mapped


class PacketMemory:
    """The kernel's virtual memory, and that of its programs through their page tables.

    It is what :class:`RelayMemory` is where the RAM is a file. Each access is a packet of the
    target's, or several.

    :param vmlinux: the kernel with its symbols.
    :param read: reads the kernel's virtual memory by packets.
    :param write: writes it.
    :param layout: where the kernel has a task's memory.
    """

    def __init__(
        self, vmlinux: Path, read: ReadFunction, write: WriteFunction, layout: StopLayout
    ) -> None:
        self._read = read
        self._write = write
        self._backing = DebuggerBacking(Vmlinux(vmlinux), read, 0, write)
        self._user = UserMemory(self._backing, layout)
        self._placed = False

    def _place(self) -> None:
        if not self._placed:
            self._backing.refresh()  # which does not change while the kernel lives
            self._placed = True

    def _users(self) -> UserMemory:
        self._place()
        return self._user

    def translate(self, address: int) -> tuple[int, int]:
        """Return the physical address, and how many bytes from there on are in the same page.

        :raises KgdbError: it is not mapped; the message names it.
        """
        self._place()
        return self._backing.table.translate(address)

    def read(self, address: int, size: int) -> bytes:
        """Read virtual memory.

        :raises KgdbError: the target cannot read all of it.
        """
        return self._read(address, size)

    def check_mapped(self, address: int, size: int) -> None:
        """Have the target read a byte of each page, which it survives wherever it is.

        :raises KgdbError: one is not mapped.
        """
        end = address + size
        for at in (address, *range((address | _PAGE - 1) + 1, end, _PAGE)):
            self._read(at, 1)

    def write(self, address: int, data: bytes) -> None:
        """Write virtual memory.

        :raises KgdbError: the target cannot.
        """
        self._write(address, data)

    def read_user(self, task: int, address: int, size: int) -> bytes:
        """Read the memory of a user program.

        :param task: the address of its `struct task_struct`.
        :raises KgdbError: not all of it is mapped; the message names the address that is not.
        """
        return self._users().read(task, address, size)

    def open_user(self, task: int, address: int, size: int) -> list[tuple[int, int]]:
        """Return where in the kernel's memory to write a user program's: addresses and sizes.

        :raises KgdbError: not all of it is mapped, or the program itself may not write there.
        """
        return self._users().open_for_write(task, address, size)

    def close(self) -> None:
        """Close the file with the symbols. Idempotent."""
        self._backing.close()
