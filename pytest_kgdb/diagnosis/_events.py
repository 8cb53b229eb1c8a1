"""Completions that somebody in particular completes: a thread that ends, a work that is done."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Final

from ._locks import task_name

if TYPE_CHECKING:
    import drgn

__all__ = ["event_of"]

# include/linux/sched.h
_PF_WQ_WORKER: Final = 0x20
_PF_KTHREAD: Final = 0x200000


def event_of(
    program: drgn.Program, tasks: Mapping[int, drgn.Object], completion: int
) -> tuple[str, drgn.Object] | None:
    """Return what a completion stands for, in words, and the task that completes it.

    None for one that is a driver's own.
    """
    import drgn

    for task in tasks.values():
        # A record that is damaged, or of another form, is not the one.
        with contextlib.suppress(LookupError, AttributeError, drgn.FaultError):
            if task.vfork_done.value_() == completion and not _is_kthread(task):
                return f"its child {task_name(task)} to end or run another program", task
            kthread = _kthread(program, task)
            if kthread is None:
                continue
            if kthread.exited.address_ == completion:
                return f"{task_name(task)} to end", task
            if task.flags.value_() & _PF_WQ_WORKER and completion in _barriers(program, kthread):
                return f"the work {_work_name(program, kthread)} of {task_name(task)}", task
    with contextlib.suppress(LookupError, AttributeError, drgn.FaultError):
        return _flushed(program, tasks, completion)
    return None


def _flushed(
    program: drgn.Program, tasks: Mapping[int, drgn.Object], completion: int
) -> tuple[str, drgn.Object] | None:
    """Return what a flush of a whole workqueue waits for (struct wq_flusher), if it is one."""
    from drgn.helpers.linux.list import list_for_each_entry

    for queue in list_for_each_entry(
        "struct workqueue_struct", program["workqueues"].address_of_(), "list"
    ):
        flusher = queue.first_flusher
        if not flusher or flusher.done.address_ != completion:
            continue
        for task in tasks.values():
            if not task.flags.value_() & _PF_WQ_WORKER:
                continue
            kthread = _kthread(program, task)
            assert kthread is not None
            pool = _worker(program, kthread).current_pwq
            if pool and pool.wq.value_() == queue.value_():
                name = queue.name.string_().decode(errors="replace")
                work = _work_name(program, kthread)
                return f"the workqueue {name}, the work {work} of {task_name(task)}", task
    return None


def _work_name(program: drgn.Program, kthread: drgn.Object) -> str:
    name: str = program.symbol(_worker(program, kthread).current_func.value_()).name
    return name


def _is_kthread(task: drgn.Object) -> bool:
    return bool(task.flags.value_() & _PF_KTHREAD)


def _kthread(program: drgn.Program, task: drgn.Object) -> drgn.Object | None:
    """Return a kernel thread's own record (kernel/kthread.c, to_kthread)."""
    import drgn

    if not _is_kthread(task):
        return None
    names = {member.name for member in program.type("struct task_struct").members}
    # Since 5.17; before, no thread had use for the other one.
    pointer = task.worker_private if "worker_private" in names else task.set_child_tid
    return drgn.cast("struct kthread *", pointer) if pointer else None


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
    for work in list_for_each_entry("struct work_struct", worker.scheduled.address_of_(), "entry"):
        yield work.value_() + offset
