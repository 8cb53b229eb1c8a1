"""The memory of user programs, through the page tables of their tasks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from ..errors import KgdbError
from ._pagetable import PageTable

if TYPE_CHECKING:
    from ..kernel import StopLayout
    from ._backing import Backing

__all__ = ["FIRST_KERNEL_ADDRESS", "UserMemory", "user_table", "virtual_address"]

FIRST_KERNEL_ADDRESS: Final = 1 << 63
"""Below are the addresses of user programs (Documentation/arch/x86/x86_64/mm.rst)."""

_TASK_COMM_LEN: Final = 16  # include/linux/sched.h
_ABSENT: Final = (
    "no page is present there: nothing was ever mapped, or the program has not touched it yet, or "
    "it was swapped out"
)


def virtual_address(number: int) -> int:
    """Return a virtual address, which may be given as a signed number: as a `long` of C's has it.

    :raises KgdbError: it has more than 64 bits.
    """
    if not -(1 << 63) <= number < 1 << 64:
        raise KgdbError(f"{number:#x} is not an address: it has more than 64 bits")
    return number & ((1 << 64) - 1)


def user_table(backing: Backing, pgd: int, task: str) -> PageTable:
    """Return the page tables of a process.

    With page table isolation (arch/x86/mm/pti.c), these are the kernel's half of the two, which
    maps the user's memory, too.

    :param pgd: the kernel address of the top level (`mm->pgd`).
    :param task: whose they are, for messages.
    """
    root = backing.table.translate(pgd)[0]
    name = f"the page tables of {task}"
    return PageTable(backing.physical, root, backing.placement.levels, name, _ABSENT)


class UserMemory:
    """The user memory of tasks that are given by the address of their `struct task_struct`."""

    def __init__(self, backing: Backing, layout: StopLayout) -> None:
        self._backing = backing
        self._layout = layout

    def _table(self, task: int, address: int) -> PageTable:
        read, layout = self._backing.read, self._layout
        mm = int.from_bytes(read(task + layout.task_mm, 8), "little")
        pid = int.from_bytes(read(task + layout.task_pid, 4), "little")
        comm = read(task + layout.task_comm, _TASK_COMM_LEN).partition(b"\0")[0]
        name = f"task {pid} ({comm.decode(errors='replace')})"
        if not mm:
            # What its CPU has loaded is some other task's (task->active_mm).
            raise KgdbError(
                f"{address:#x} is not mapped: {name} has no user memory",
                hint="it is a kernel thread, or a task that exits; "
                "read_user(TASK, ADDRESS, SIZE) reads another one's",
            )
        pgd = int.from_bytes(read(mm + layout.mm_pgd, 8), "little")
        return user_table(self._backing, pgd, name)

    def read(self, task: int, address: int, size: int) -> bytes:
        """Read a task's user memory.

        :raises KgdbError: not all of it is mapped; the message names the address that is not.
        """
        return self._table(task, address).read(address, size)

    def open_for_write(self, task: int, address: int, size: int) -> list[tuple[int, int]]:
        """Return where a task's user memory is in the kernel's direct map: addresses and sizes.

        Its pages are noted to have been written. The caller writes there at once, by way of the
        guest, so that instructions may be among it.

        :raises KgdbError: not all of it is mapped, or the task itself may not write there.
        """
        table, kernel = self._table(task, address), self._backing.table
        page_offset = self._backing.placement.page_offset
        pieces, entries = [], []
        while size > 0:
            mapping = table.walk(address)
            if not mapping.writable:
                # The zero page, a file's, or one that is copied when it is written.
                raise KgdbError(
                    f"{address:#x} is mapped read-only in {table.name}",
                    hint="others may have the same page; physical.write() writes it for all",
                )
            alias, length = page_offset + mapping.physical, min(size, mapping.size)
            kernel.walk(alias)  # arch/x86/mm/pat/set_memory.c, set_direct_map_invalid_noflush
            pieces.append((alias, length))
            entries.append(mapping.entry)
            address += length
            size -= length
        for entry in entries:
            table.touch(entry)
        return pieces
