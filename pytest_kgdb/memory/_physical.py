"""Physical memory, for tests."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..errors import KgdbError
from ._pagetable import PAGE_SIZE, PageTable
from ._user import virtual_address

if TYPE_CHECKING:
    import drgn

    from ._backing import Backing

_PHYSICAL_END = 1 << 52  # Intel SDM 3, 4.1.4: MAXPHYADDR is at most 52


@dataclass(frozen=True)
class PageOwner:
    """A process that maps a physical address."""

    pid: int
    """The process id, as in ps(1)."""

    comm: str
    """Its name, as in ps(1): at most 15 bytes."""

    address: int
    """The user address at which it is mapped."""

    task: drgn.Object
    """The `struct task_struct *` of the thread group's leader."""


class PhysicalMemory:
    """The guest's physical memory.

    :param backing: returns the kernel's memory; raises StaleError while the kernel runs.
    :param program: returns the drgn program.
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

        QEMU does not notice such a write, so it would go on executing instructions that it has
        translated before. The handle's `write` goes through the debugger and has no such limit.

        :raises KgdbError: not all of the range is RAM.
        :raises StaleError: the kernel is running.
        """
        self._backing().physical.write(address, data)

    def find(self, pattern: bytes, start: int = 0, end: int | None = None) -> Iterator[int]:
        """Yield each physical address from `start` to `end` at which the bytes are.

        A pattern that spans several pages is found only where these are successive in physical
        memory.

        :raises StaleError: the kernel is running, at each step.
        """
        # Not a generator itself: errors are raised by the call, not by the first step.
        return self._steps(self._backing().physical.find(bytes(pattern), start, end))

    def _steps(self, matches: Iterator[int]) -> Iterator[int]:
        while True:
            self._backing()
            address = next(matches, None)
            if address is None:
                return
            yield address

    def virt_to_phys(self, address: int) -> int:
        """Translate a kernel virtual address.

        :raises KgdbError: it is not mapped.
        :raises StaleError: the kernel is running.
        """
        return self._backing().table.translate(virtual_address(address))[0]

    def phys_to_virt(self, address: int) -> int:
        """Return the address of a physical address in the kernel's direct map.

        :raises KgdbError: it is not RAM.
        :raises StaleError: the kernel is running.
        """
        backing = self._backing()
        if not backing.physical.holds(address):
            raise KgdbError(f"physical address {address:#x} is not RAM")
        return backing.placement.page_offset + address

    def page_owners(self, address: int) -> list[PageOwner]:
        """Return the processes whose page tables map a physical address, in the order of pids.

        There are none for the kernel's own memory, for file contents that no process maps, and
        for memory that was freed and not yet overwritten.

        :raises KgdbError: that is no physical address.
        :raises StaleError: the kernel is running.
        """
        from drgn.helpers.linux.pid import for_each_task

        if not 0 <= address < _PHYSICAL_END:
            raise KgdbError(f"{address:#x} is not a physical address")
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
