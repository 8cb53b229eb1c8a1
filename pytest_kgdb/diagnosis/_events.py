"""Completions that somebody in particular completes: a thread that ends, a work that is done."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from itertools import islice
from typing import TYPE_CHECKING, Final, NamedTuple

from ._locks import task_name

if TYPE_CHECKING:
    import drgn

__all__ = ["Event", "event_of", "kthread_of", "worker_of"]

# include/linux/sched.h
_PF_WQ_WORKER: Final = 0x20
_PF_KTHREAD: Final = 0x200000
# include/linux/workqueue.h, of a work's data: WORK_STRUCT_PENDING, WORK_STRUCT_INACTIVE (until 5.14
# WORK_STRUCT_DELAYED), WORK_STRUCT_PWQ, WORK_STRUCT_LINKED
_PENDING: Final = 1 << 0
_INACTIVE: Final = 1 << 1
_PWQ: Final = 1 << 2
_LINKED: Final = 1 << 3
_BARRIER: Final = "wq_barrier_func"  # kernel/workqueue.c
_KTHREAD_FLUSH: Final = "kthread_flush_work_fn"  # kernel/kthread.c
_MAX_BARRIERS: Final = 100
_MAX_WORKS: Final = 10_000
_MAX_QUEUES: Final = 10_000


class Event(NamedTuple):
    """What a completion stands for."""

    words: str
    task: drgn.Object | None = None
    """The task that completes it, which the words name."""


def event_of(
    program: drgn.Program, tasks: Mapping[int, drgn.Object], completion: int
) -> Event | None:
    """Return what a completion stands for; None for one that is a driver's own."""
    import drgn

    for task in tasks.values():
        # A record that is damaged, or of another form, is not the one.
        with contextlib.suppress(LookupError, AttributeError, drgn.FaultError):
            if task.vfork_done.value_() == completion and not _is_kthread(task):
                return Event(f"its child {task_name(task)} to end or run another program", task)
            kthread = kthread_of(program, task)
            if kthread is None:
                continue
            if kthread.exited.address_ == completion:
                return Event(f"{task_name(task)} to end", task)
            if task.flags.value_() & _PF_WQ_WORKER and completion in _barriers(program, kthread):
                return Event(f"the work {_work_name(program, kthread)} of {task_name(task)}", task)
            if kthread.parked.address_ == completion:
                return Event(f"{task_name(task)} to park", task)
    for kind in (_queued, _flushed, _kthread_flushed):
        with contextlib.suppress(LookupError, AttributeError, drgn.FaultError):
            if event := kind(program, tasks, completion):
                return event
    return None


def _queued(
    program: drgn.Program, tasks: Mapping[int, drgn.Object], completion: int
) -> Event | None:
    """Return what a flush of a work that has not begun waits for (insert_wq_barrier()).

    Its record is in the list behind the work, perhaps with those of other tasks in between.
    """
    import drgn

    kind = program.type("struct wq_barrier")
    barrier = drgn.Object(program, kind, address=completion - drgn.offsetof(kind, "done"))
    if _function(program, barrier.work) != _BARRIER:
        return None
    work = _before(program, barrier.work)
    for _ in range(_MAX_BARRIERS):
        if _function(program, work) != _BARRIER:
            break
        work = _before(program, work)
    data = _data(work)
    pool_queue = _pool_queue(program, work)
    # What it is behind may be the list's head.
    if ~data & (_PENDING | _LINKED) or pool_queue != _pool_queue(program, barrier.work):
        return None
    name = _function(program, work)
    queue = pool_queue.wq
    with contextlib.suppress(LookupError, AttributeError, drgn.FaultError):
        active = _only_active(program, tasks, pool_queue) if data & _INACTIVE else None
        if active is not None:
            task, kthread = active
            first = _work_name(program, kthread)
            return Event(f"the work {name}, behind the work {first} of {task_name(task)}", task)
    words = queue.name.string_().decode(errors="replace")
    return Event(f"the work {name} of the workqueue {words}, which has not begun")


def _flushed(
    program: drgn.Program, tasks: Mapping[int, drgn.Object], completion: int
) -> Event | None:
    """Return what a flush of a whole workqueue waits for (struct wq_flusher), if it is one."""
    from drgn.helpers.linux.list import list_for_each_entry

    head = program["workqueues"].address_of_()
    # The list may be damaged.
    queues = islice(list_for_each_entry("struct workqueue_struct", head, "list"), _MAX_QUEUES)
    for queue in queues:
        flusher = queue.first_flusher
        if not flusher or flusher.done.address_ != completion:
            continue
        name = queue.name.string_().decode(errors="replace")
        running = [
            (task, kthread)
            for task, kthread in _workers(program, tasks)
            if _is_flushed(_worker(program, kthread), queue, flusher)
        ]
        if len(running) == 1:
            task, kthread = running[0]
            work = _work_name(program, kthread)
            return Event(f"the workqueue {name}, the work {work} of {task_name(task)}", task)
        return Event(f"the workqueue {name}")
    return None


def _kthread_flushed(
    program: drgn.Program, tasks: Mapping[int, drgn.Object], completion: int
) -> Event | None:
    """Return what a flush of a kthread_worker waits for (kernel/kthread.c, kthread_flush_work)."""
    import drgn

    kind = program.type("struct kthread_flush_work")
    flush = drgn.Object(program, kind, address=completion - drgn.offsetof(kind, "done"))
    if _function(program, flush.work) != _KTHREAD_FLUSH:
        return None
    worker = flush.work.worker
    task = tasks.get(worker.task.value_())
    if task is None:
        return None
    if worker.current_work and flush.work.node.prev == worker.work_list.address_of_():
        name = _function(program, worker.current_work)
        return Event(f"the work {name} of {task_name(task)}", task)
    return Event(f"the works of {task_name(task)}", task)


def _is_flushed(worker: drgn.Object, queue: drgn.Object, flusher: drgn.Object) -> bool:
    """Whether a worker is known to run a work of a queue that was there when a flush began."""
    if not worker.current_pwq or worker.current_pwq.wq != queue:
        return False
    # Since 5.15; before, one that has come later looks the same.
    has_color = worker.type_.type.has_member("current_color")
    return has_color and bool(worker.current_color == flusher.flush_color)


def _workers(
    program: drgn.Program, tasks: Mapping[int, drgn.Object]
) -> Iterator[tuple[drgn.Object, drgn.Object]]:
    """Yield the threads of workqueues, each with its own record."""
    for task in tasks.values():
        kthread = kthread_of(program, task) if task.flags.value_() & _PF_WQ_WORKER else None
        if kthread is not None:
            yield task, kthread


def _before(program: drgn.Program, work: drgn.Object) -> drgn.Object:
    import drgn

    kind = program.type("struct work_struct")
    address = work.entry.prev.value_() - drgn.offsetof(kind, "entry")
    return drgn.Object(program, kind, address=address)


def _data(work: drgn.Object) -> int:
    return int(work.data.counter.value_()) & (1 << 64) - 1


def _pool_queue(program: drgn.Program, work: drgn.Object) -> drgn.Object:
    """Return a work's `struct pool_workqueue *` (kernel/workqueue.c, get_work_pwq)."""
    import drgn

    data = _data(work)
    try:
        bits = program["WORK_STRUCT_PWQ_SHIFT"].value_()
    except LookupError:
        # Until 6.8 the flags' bits had the colour's among them.
        bits = program["WORK_STRUCT_FLAG_BITS"].value_()
    address = data >> bits << bits if data & _PWQ else 0
    return drgn.Object(program, "struct pool_workqueue *", value=address)


def _only_active(
    program: drgn.Program, tasks: Mapping[int, drgn.Object], pool_queue: drgn.Object
) -> tuple[drgn.Object, drgn.Object] | None:
    """Return the worker that runs the only work that may be run; None if there may be others."""
    # Since 6.9 the whole queue has it: 5797b1c18919 "workqueue: Implement system-wide nr_active
    # enforcement for unbound workqueues" (in v6.9).
    alone = pool_queue.type_.type.has_member("max_active")
    if (pool_queue if alone else pool_queue.wq).max_active.value_() != 1:
        return None
    running = []
    for task, kthread in _workers(program, tasks):
        other = _worker(program, kthread).current_pwq
        if other and (other == pool_queue if alone else other.wq == pool_queue.wq):
            running.append((other, task, kthread))
    if len(running) != 1 or running[0][0] != pool_queue:
        return None
    return running[0][1:]


def _function(program: drgn.Program, work: drgn.Object) -> str:
    name: str = program.symbol(work.func.value_()).name
    return name


def _work_name(program: drgn.Program, kthread: drgn.Object) -> str:
    name: str = program.symbol(_worker(program, kthread).current_func.value_()).name
    return name


def _is_kthread(task: drgn.Object) -> bool:
    return bool(task.flags.value_() & _PF_KTHREAD)


def kthread_of(program: drgn.Program, task: drgn.Object) -> drgn.Object | None:
    """Return a kernel thread's own record (kernel/kthread.c, to_kthread)."""
    import drgn

    if not _is_kthread(task):
        return None
    names = {member.name for member in program.type("struct task_struct").members}
    # Since 5.17; before, no thread had use for the other one.
    pointer = task.worker_private if "worker_private" in names else task.set_child_tid
    return drgn.cast("struct kthread *", pointer) if pointer else None


def worker_of(program: drgn.Program, task: drgn.Object) -> drgn.Object | None:
    """Return the record of a thread of a workqueue; None for any other task."""
    kthread = kthread_of(program, task) if task.flags.value_() & _PF_WQ_WORKER else None
    return None if kthread is None else _worker(program, kthread)


def _worker(program: drgn.Program, kthread: drgn.Object) -> drgn.Object:
    """Return the record of a workqueue's thread (kernel/workqueue.c, kthread_data)."""
    import drgn

    return drgn.Object(program, "struct worker *", value=kthread.data.value_())


def _barriers(program: drgn.Program, kthread: drgn.Object) -> Iterator[int]:
    """Yield the completions of those that wait for what a worker runs (struct wq_barrier)."""
    import drgn
    from drgn.helpers.linux.list import list_for_each_entry

    worker = _worker(program, kthread)
    kind = program.type("struct wq_barrier")
    offset = drgn.offsetof(kind, "done") - drgn.offsetof(kind, "work")
    works = list_for_each_entry("struct work_struct", worker.scheduled.address_of_(), "entry")
    for work in islice(works, _MAX_WORKS):
        yield work.value_() + offset
