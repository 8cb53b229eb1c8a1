"""Waits for a `struct percpu_rw_semaphore` (kernel/locking/percpu-rwsem.c, as since 5.7)."""

from __future__ import annotations

import contextlib
from collections.abc import Collection
from typing import TYPE_CHECKING, Final

from ._locks import in_lockdep, lock_name, task_name
from ._records import WAIT_QUEUE, RecordSearch, Tasks
from ._wait import Wait, holder_of

if TYPE_CHECKING:
    import drgn

__all__ = ["percpu_rwsem_wait"]

_KIND: Final = "percpu_rw_semaphore"
_INT: Final = 1 << 32


def percpu_rwsem_wait(
    tasks: Tasks, task: drgn.Object, search: RecordSearch, names: Collection[str]
) -> Wait:
    """Return the wait of a task that has called percpu_down_read() or percpu_down_write().

    A writer first bars all others (`block`), then waits for the readers, of which there is but a
    number; as long as it does, it is the semaphore's `writer`. Who it is, is not recorded later.

    :param names: of the functions on its stack.
    """
    import drgn

    writes = "percpu_down_write" in names
    mode = "to write" if writes else "to read"
    words = f"a percpu_rwsem ({mode})"
    with contextlib.suppress(AttributeError, LookupError, drgn.FaultError):
        queued = search.find(WAIT_QUEUE)
        lock = _queued_at(tasks.program, queued.address) if queued else _writer_of(task, search)
        if lock is None:
            return Wait(words)
        address = lock.address_
        name = lock_name(tasks.program, address, _KIND)
        words = f"the percpu_rwsem {name} ({mode})"
        barred = bool(lock.block.counter.value_())
        if not queued:
            return _with_holders(tasks, words, lock, {task.value_()}, _readers(lock))
        writer = tasks.get(lock.writer.task.value_())
        if barred and writer is not None and writer.value_() != task.value_():
            words = f"the percpu_rwsem {name} ({mode}, behind the writer {task_name(writer)})"
            return Wait(words, address, (holder_of(writer),), names_holders=True)
        return _with_holders(
            tasks, words, lock, queued.waiters, "held by a writer" if barred else ""
        )
    return Wait(words)


def _with_holders(
    tasks: Tasks, words: str, lock: drgn.Object, waiters: Collection[int], holding: str
) -> Wait:
    import drgn

    with contextlib.suppress(AttributeError, LookupError, drgn.FaultError):
        holders = in_lockdep(tasks.program, tasks.by_address, _KIND, lock.address_, waiters)
        return Wait(words, lock.address_, tuple(map(holder_of, holders)), holding)
    return Wait(words, lock.address_, (), holding)


def _queued_at(program: drgn.Program, queue: int) -> drgn.Object:
    """Return the semaphore that has a wait queue."""
    import drgn

    kind = program.type(f"struct {_KIND}")
    return drgn.Object(program, kind, address=queue - drgn.offsetof(kind, "waiters"))


def _writer_of(task: drgn.Object, search: RecordSearch) -> drgn.Object | None:
    """Return the semaphore whose writer a task is, by the address that it has on its stack."""
    import drgn

    kind = search.program.type(f"struct {_KIND}")
    matches: dict[int, drgn.Object] = {}
    for word in search.words():
        lock = drgn.Object(search.program, kind, address=word)
        with contextlib.suppress(drgn.FaultError, OverflowError):
            if (
                lock.writer.task.value_() == task.value_()
                and lock.block.counter.value_() == 1
                and search.linked(lock.waiters.head.address_of_())
            ):
                matches[word] = lock
    return matches.popitem()[1] if len(matches) == 1 else None


def _readers(lock: drgn.Object) -> str:
    """Return how many readers there are; one may have left on another CPU than it came on."""
    import drgn
    from drgn.helpers.linux.cpumask import for_each_possible_cpu
    from drgn.helpers.linux.percpu import per_cpu_ptr

    program = lock.prog_
    with contextlib.suppress(AttributeError, LookupError, drgn.FaultError):
        number = sum(
            int(per_cpu_ptr(lock.read_count, cpu)[0].value_())
            for cpu in for_each_possible_cpu(program)
        )
        readers = (number + _INT // 2) % _INT - _INT // 2
        if readers > 0:
            return f"held by {readers} reader{'s' * (readers > 1)}"
    return ""
