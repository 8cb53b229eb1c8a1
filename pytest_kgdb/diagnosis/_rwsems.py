"""Semaphores of readers and writers: who holds one, as far as its memory tells, and who waits."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import TYPE_CHECKING, Final

from ._locks import Holding, owner_of, task_name

if TYPE_CHECKING:
    from collections.abc import Mapping

    import drgn

__all__ = ["rwsem_holding", "rwsem_mode"]

# kernel/locking/rwsem.c, of the count (since 5.3): RWSEM_WRITER_LOCKED, RWSEM_READER_SHIFT and
# RWSEM_FLAG_READFAIL, which is the sign.
_WRITER_LOCKED: Final = 1 << 0
_READER_SHIFT: Final = 8
_READ_FAIL: Final = 1 << 63
# Of the owner: RWSEM_READER_OWNED and RWSEM_NONSPINNABLE; until 5.10 there was one of the latter
# for readers and one for writers (617f3ef95177 "locking/rwsem: Remove reader optimistic
# spinning", in v5.11). What they leave is the address of an aligned struct task_struct.
_READER_OWNED: Final = 1 << 0
_OWNER_FLAGS: Final = 0x7
_WAITING_FOR_WRITE: Final = 0  # enum rwsem_waiter_type
_MAX_WAITERS: Final = 1000


def rwsem_holding(lock: drgn.Object, tasks: Mapping[int, drgn.Object]) -> Holding:
    """Return who holds a `struct rw_semaphore`.

    A writer is recorded as long as it holds it. Of readers the lock has but the number, and the
    last one that has taken it, which may have released it since ("The owner field … may not be
    the real owner", kernel/locking/rwsem.c).
    """
    count = _word(lock.count)
    owner = _word(lock.owner)
    if count & _WRITER_LOCKED:
        # Between the count and the owner there is an instruction, or more.
        if owner & _READER_OWNED or not owner & ~_OWNER_FLAGS:
            return Holding(words="held by a writer")
        return owner_of(tasks, owner & ~_OWNER_FLAGS)
    readers = (count & ~_READ_FAIL) >> _READER_SHIFT
    if not readers:
        return Holding()
    last = tasks.get(owner & ~_OWNER_FLAGS) if owner & _READER_OWNED else None
    return Holding(words=f"held by {readers} reader{'s' * (readers > 1)}", last=last)


def rwsem_mode(lock: drgn.Object, task: drgn.Object) -> str:
    """Return whether a task waits for a `struct rw_semaphore` to read or to write, in words.

    A reader waits for readers, too, if a writer has come before it.
    """
    ahead: list[drgn.Object] = []
    for waiter in _waiters(lock):
        writes = waiter.type.value_() == _WAITING_FOR_WRITE
        if waiter.task.value_() == task.value_():
            if writes:
                return " (to write)"
            by_writer = _word(lock.count) & _WRITER_LOCKED
            behind = f", behind the writer {task_name(ahead[0])}" if ahead and not by_writer else ""
            return f" (to read{behind})"
        if writes:
            ahead.append(waiter.task)
    return ""


def _waiters(lock: drgn.Object) -> Iterator[drgn.Object]:
    from drgn.helpers.linux.list import list_for_each_entry

    head = lock.wait_list.address_of_()
    return islice(list_for_each_entry("struct rwsem_waiter", head, "list"), _MAX_WAITERS)


def _word(value: drgn.Object) -> int:
    """Return an `atomic_long_t` as unsigned."""
    return int(value.counter.value_()) & (1 << 64) - 1
