"""The relay's mapping of guest memory."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from ..errors import KgdbError
from ..kernel import Vmlinux
from ._backing import RamBacking
from ._console_log import ConsoleLog
from ._pagetable import Translation
from ._ram import Ram, ram_layout
from ._user import UserMemory

if TYPE_CHECKING:
    from ..kernel import StopLayout

__all__ = ["RelayMemory"]


class RelayMemory:
    """The kernel's virtual memory, read and written without a check that the kernel is stopped.

    :class:`KernelMemory` has that check for its users. The relay itself knows whether the kernel
    is stopped, and reads in another thread, so it has a mapping of its own.

    :param vmlinux: the kernel with its symbols.
    :param ram: the file of the guest's RAM.
    :param memory_bytes: the size of the RAM.
    :param machine: QEMU's machine type, which determines where in the guest the RAM is.
    :param layout: where the kernel has a task's memory; None where that is not known.
    :raises KgdbError: the kernel is not in the RAM.
    """

    def __init__(
        self,
        vmlinux: Path,
        ram: BinaryIO,
        memory_bytes: int,
        machine: str,
        layout: StopLayout | None = None,
    ) -> None:
        self._ram = Ram(ram, ram_layout(memory_bytes, machine))
        self._backing = RamBacking(Vmlinux(vmlinux), self._ram)
        self._backing.refresh()
        self._user = None if layout is None else UserMemory(self._backing, layout)
        self.console_log = None if layout is None else ConsoleLog(self._backing, layout)
        """What the kernel has printed on its console; None where that is not known."""

    def refresh(self) -> None:
        """Find the kernel again, which was booted or restored."""
        self._backing.refresh()

    def read(self, address: int, size: int) -> bytes:
        """Read virtual memory.

        :raises KgdbError: not all of it is mapped RAM.
        """
        return self._backing.read(address, size)

    def check_mapped(self, address: int, size: int) -> None:
        """Check that all of a range is mapped, to RAM or to a device.

        :raises KgdbError: it is not; the message names the first address that is not.
        """
        end = address + size
        while address < end:
            address += self.translate(address)[1]

    def write(self, address: int, data: bytes) -> None:
        """Write virtual memory: data only, as QEMU does not notice and translate code again.

        :raises KgdbError: not all of it is mapped RAM.
        """
        while data:
            physical, mapped = self.translate(address)
            self._ram.write(physical, data[:mapped])
            data, address = data[mapped:], address + mapped

    # Behind the page tables

    @property
    def page_offset(self) -> int:
        """Virtual address of physical address 0."""
        return self._backing.placement.page_offset

    @property
    def image_offset(self) -> int:
        """What KASLR added to every address of the image."""
        return self._backing.placement.offset

    def symbol(self, name: str) -> int | None:
        """Return the address of a symbol of the kernel's in this boot; None if it has none."""
        linked = self._backing.vmlinux.symbol(name)
        return None if linked is None else linked + self._backing.placement.offset

    def translate(self, address: int) -> tuple[int, int]:
        """Return the physical address, and how many bytes from there on are in the same page.

        :raises KgdbError: it is not mapped; the message names it.
        """
        return self._backing.table.translate(address)

    def walk(self, address: int) -> Translation:
        """Return where a virtual address leads.

        :raises KgdbError: it is not mapped; the message names it.
        """
        return self._backing.table.walk(address)

    def read_physical(self, address: int, size: int) -> bytes:
        """Read RAM.

        :raises KgdbError: not all of it is RAM.
        """
        return self._ram.read(address, size)

    def write_physical(self, address: int, data: bytes) -> None:
        """Write RAM: data, or code that has not run, as QEMU does not notice.

        :raises KgdbError: not all of it is RAM.
        """
        self._ram.write(address, data)

    def ram_offset(self, address: int, size: int) -> int:
        """Return where a range of physical memory is in the file of the RAM.

        :raises KgdbError: not all of it is RAM.
        """
        return self._ram.offset(address, size)

    def read_user(self, task: int, address: int, size: int) -> bytes:
        """Read the memory of a user program.

        :param task: the address of its `struct task_struct`.
        :raises KgdbError: not all of it is mapped; the message names the address that is not.
        """
        return self._need_user().read(task, address, size)

    def open_user(self, task: int, address: int, size: int) -> list[tuple[int, int]]:
        """Return where in the kernel's memory to write a user program's: addresses and sizes.

        :raises KgdbError: not all of it is mapped, or the program itself may not write there.
        """
        return self._need_user().open_for_write(task, address, size)

    def _need_user(self) -> UserMemory:
        if self._user is None:
            raise KgdbError("where the kernel has the memory of its tasks is not known")
        return self._user

    def close(self) -> None:
        """Unmap the RAM. Idempotent."""
        self._ram.close()
