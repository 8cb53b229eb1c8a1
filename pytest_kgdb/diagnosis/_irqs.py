"""Waits for the handlers of an interrupt to return (kernel/irq/manage.c)."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterator
from typing import TYPE_CHECKING, Final

from ._events import kthread_of
from ._locks import task_name
from ._records import WAIT_QUEUE, RecordSearch, Tasks
from ._wait import Wait, holder_of

if TYPE_CHECKING:
    import drgn

__all__ = ["HANDLER_WAITS", "awaited_handler", "irq_wait"]

# For threads of handlers to sleep (`wait_for_threads`); since 6.2 the second one does it.
_THREADS: Final = frozenset({"synchronize_irq", "__synchronize_irq"})
# For a handler on another CPU, in a loop.
HANDLER_WAITS: Final = frozenset({"__synchronize_hardirq"})
_THREAD: Final = "irq_thread"


def irq_wait(tasks: Tasks, search: RecordSearch, names: Collection[str]) -> Wait | None:
    """Return the wait for the threads of an interrupt's handlers, if it is one.

    :param names: of the functions on the task's stack.
    """
    import drgn

    if not _THREADS.intersection(names):
        return None
    with contextlib.suppress(AttributeError, LookupError, drgn.FaultError):
        queue = search.find(WAIT_QUEUE)
        if queue is None:
            return None
        kind = tasks.program.type("struct irq_desc")
        offset = drgn.offsetof(kind, "wait_for_threads")
        irq = drgn.Object(tasks.program, kind, address=queue.address - offset).irq_data.irq
        number = irq.value_()
        threads = list(_threads(tasks, number))
        if len(threads) == 1:
            words = f"the thread {task_name(threads[0])} of irq {number}"
            return Wait(words, queue.address, (holder_of(threads[0]),), names_holders=True)
        return Wait(f"the threads of irq {number}", queue.address)
    return None


def _threads(tasks: Tasks, irq: int) -> Iterator[drgn.Object]:
    """Yield the threads of an interrupt's handlers (irq_thread(), whose data is its irqaction)."""
    import drgn

    for task in tasks.by_address.values():
        with contextlib.suppress(AttributeError, LookupError, drgn.FaultError):
            kthread = kthread_of(tasks.program, task)
            if kthread is None or not kthread.data:
                continue
            if tasks.program.symbol(kthread.threadfn.value_()).name != _THREAD:
                continue
            if drgn.cast("struct irqaction *", kthread.data).irq.value_() == irq:
                yield task


def awaited_handler(trace: drgn.StackTrace) -> str | None:
    """Return the interrupt whose handler a CPU waits for, in words; None where it is not known.

    :param trace: the CPU's stack.
    """
    import drgn

    for frame in trace:
        if frame.name in HANDLER_WAITS:
            with contextlib.suppress(AttributeError, LookupError, ValueError, drgn.FaultError):
                desc = frame["desc"]
                if not desc.absent_:
                    return f"the handlers of irq {desc.irq_data.irq.value_()}"
    return None
