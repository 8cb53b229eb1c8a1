"""Physical memory as a test sees it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..errors import KgdbError
from ._pagetable import PAGE_SIZE, PageTable

if TYPE_CHECKING:
    import drgn

    from ._backing import Backing


@dataclass(frozen=True)
class PageOwner:
    """A process that maps a physical address."""

    pid: int
    """Of the thread group, as ps(1) shows it."""

    comm: str
    """Its name, as ps(1) shows it: at most 15 bytes."""

    address: int
    """The user address at which the process sees it."""

    task: drgn.Object
    """The `struct task_struct *` of the group's leader."""


class PhysicalMemory:
    """The guest's physical memory.

    :param backing: gives the memory; refuses while the kernel runs.
    :param program: gives the drgn program, for what takes knowing the kernel's types.
    """

    def __init__(self, backing: Callable[[], Backing], program: Callable[[], drgn.Program]) -> None:
        self._backing = backing
        self._program = program

    def read(self, address: int, size: int) -> bytes:
        """Read RAM.

        :raises KgdbError: not all of the range is RAM.
        :raises StaleError: the kernel is running.
        """
        return self._backing().physical.read(address, size)

    def write(self, address: int, data: bytes) -> None:
        """Write to RAM: data only.

        Not instructions: QEMU's translator does not see such a write, and goes on with what it
        translated before. The handle's `write` goes through the kernel and has no such limit.

        :raises KgdbError: not all of the range is RAM.
        :raises StaleError: the kernel is running.
        """
        self._backing().physical.write(address, data)

    def find(self, pattern: bytes, start: int = 0, end: int | None = None) -> Iterator[int]:
        """Yield each physical address from `start` to `end` at which the bytes are.

        What lies in several pages of virtual memory is found only where these follow each other
        in physical memory too.

        :raises StaleError: the kernel is running, at each step.
        """
        # Not a generator itself: what is wrong is said at the call, not at the first step.
        return self._steps(self._backing().physical.find(bytes(pattern), start, end))

    def _steps(self, found: Iterator[int]) -> Iterator[int]:
        while True:
            self._backing()
            address = next(found, None)
            if address is None:
                return
            yield address

    def virt_to_phys(self, address: int) -> int:
        """Translate a kernel virtual address.

        :raises KgdbError: it is not mapped.
        :raises StaleError: the kernel is running.
        """
        return self._backing().table.translate(address)[0]

    def phys_to_virt(self, address: int) -> int:
        """Return where the kernel's map of all memory has a physical address.

        :raises KgdbError: it is not RAM.
        :raises StaleError: the kernel is running.
        """
        backing = self._backing()
        if not backing.physical.holds(address):
            raise KgdbError(f"physical address {address:#x} is not RAM")
        return backing.placement.page_offset + address

    def page_owners(self, address: int) -> list[PageOwner]:
        """Return the processes whose page tables map a physical address, by pid.

        None for the kernel's own memory, for file contents that no process maps, and for memory
        that was freed but not yet overwritten.

        :raises StaleError: the kernel is running.
        """
        from drgn.helpers.linux.pid import for_each_task

        backing, program = self._backing(), self._program()
        inside = address % PAGE_SIZE
        owners = []
        for task in for_each_task(program):
            if task.pid != task.tgid or not task.mm:
                continue  # a further thread, a kernel thread
            table = PageTable(
                backing.physical,
                backing.table.translate(task.mm.pgd.value_())[0],
                backing.placement.levels,
            )
            comm = task.comm.string_().decode(errors="replace")
            owners += [
                PageOwner(task.pid.value_(), comm, mapped + inside, task)
                for mapped in table.user_mappings(address - inside)
            ]
        return sorted(owners, key=lambda owner: (owner.pid, owner.address))
