"""What a task waits for, by the record of its wait that it has on its stack, or by its frames."""

from __future__ import annotations

import contextlib
from collections.abc import Collection
from typing import TYPE_CHECKING, Final

from ._bits import bit_wait, folio_wait
from ._events import event_of, worker_of
from ._irqs import irq_wait
from ._locks import Holding, in_lockdep, lock_name, mutex_holding, task_name
from ._percpu_rwsems import percpu_rwsem_wait
from ._rcu import rcu_wait
from ._records import SIMPLE_WAIT_QUEUE, WAIT_QUEUE, Match, RecordKind, RecordSearch, Tasks
from ._rwsems import rwsem_holding, rwsem_mode
from ._stack import StackFrame
from ._wait import Holder, Wait, holder_of

if TYPE_CHECKING:
    import drgn

__all__ = ["IDLE_WAITS", "last_ran", "wait_of"]

# Nanoseconds by which two of the kernel's clocks may differ after a while.
_DRIFT: Final = 100_000_000


# Types and members of include/linux: mutex.h, rwsem.h, semaphore.h, completion.h, swait.h, wait.h;
# of kernel/locking: mutex.h, rwsem.c, semaphore.c.
_KINDS: Final = (
    RecordKind(
        "mutex", ("kernel/locking/mutex.c",), "mutex_waiter", "task", "list", "mutex",
        "wait_list",
    ),
    RecordKind(
        "rwsem", ("kernel/locking/rwsem.c",), "rwsem_waiter", "task", "list", "rw_semaphore",
        "wait_list",
    ),
    RecordKind(
        "semaphore", ("kernel/locking/semaphore.c",), "semaphore_waiter", "task", "list",
        "semaphore", "wait_list",
    ),
    RecordKind(
        "completion", ("kernel/sched/completion.c",), "swait_queue", "task", "task_list",
        "completion", "wait.task_list",
    ),
)  # fmt: skip
_LOCK_FILES: Final = frozenset(
    file for kind in _KINDS if kind.words != "completion" for file in kind.files
)

# What has no lock, by the functions that wait.
_OTHERS: Final = (
    ({"n_tty_read"}, "input"),
    ({"do_wait", "kernel_wait4"}, "its child"),
    # By a timer, too.
    ({"do_poll", "do_select", "ep_poll"}, "a file, by poll or select"),
    ({"do_nanosleep", "hrtimer_nanosleep", "msleep", "schedule_hrtimeout_range"}, "a timer"),
    ({"usleep_range", "usleep_range_state"}, "a timer"),
    ({"futex_wait_queue", "futex_wait_queue_me"}, "a futex"),
    ({"pipe_read", "anon_pipe_read", "pipe_wait_readable"}, "input from a pipe"),
    ({"pipe_write", "anon_pipe_write", "pipe_wait_writable"}, "room in a pipe"),
    ({"do_sigtimedwait", "sigsuspend", "__do_sys_pause"}, "a signal"),
)
# Completions, by the functions that wait for them: kernel/umh.c, fs/debugfs/inode.c,
# fs/proc/inode.c.
_COMPLETIONS: Final = (
    ({"call_usermodehelper_exec"}, "a helper program"),
    ({"__debugfs_file_removed"}, "the users of a file in debugfs"),
    ({"proc_entry_rundown"}, "the users of a file in /proc"),
)
# kernel/locking/rtmutex.c; include/linux/rtmutex.h, RT_MUTEX_HAS_WAITERS of the owner
_RT_MUTEX: Final = frozenset(
    {"rt_mutex_slowlock", "rt_mutex_slowlock_block", "__rt_mutex_slowlock"}
)
_HAS_WAITERS: Final = 1


IDLE_WAITS: Final = frozenset(
    {
        *("input", "its child", "a timer", "input from a pipe", "room in a pipe", "a signal"),
        "a file, by poll or select",
    }
)
"""What programs wait for that have nothing to do."""


def wait_of(tasks: Tasks, task: drgn.Object, frames: list[StackFrame]) -> Wait | None:
    """Return what a task waits for; None where that cannot be told.

    :param frames: its stack.
    """
    names = {frame.name for frame in frames}
    files = {frame.file for frame in frames[:12]}
    search = RecordSearch(tasks, task, frames[0].sp if frames else 0)
    # What RCU waits by, too, comes after it; it may wait for a mutex as well.
    if not files.intersection(_LOCK_FILES) and (wait := rcu_wait(tasks, search, names)):
        return wait
    if "kernel/locking/percpu-rwsem.c" in files:
        return percpu_rwsem_wait(tasks, task, search, names)
    for kind in _KINDS:
        if files.intersection(kind.files):
            match = search.find(kind)
            if match and kind.lock == "completion":
                for group, words in _COMPLETIONS:
                    if names & group:
                        return Wait(words, match.address)
            return _locked(tasks, task, kind, match) if match else Wait(f"a {kind.words}")
    if names & _RT_MUTEX:
        return _rt_mutex(tasks, task)
    for group, words in _OTHERS:
        if names & group:
            return Wait(words)
    if wait := folio_wait(search, names) or bit_wait(search):
        return wait
    if wait := irq_wait(tasks, search, names):
        return wait
    for kind in (WAIT_QUEUE, SIMPLE_WAIT_QUEUE):
        if match := search.find(kind):
            name = lock_name(tasks.program, match.address, kind.lock)
            return Wait(f"the {kind.words} {name}", match.address)
    if "schedule_timeout" in names and _has_timer(search):
        return Wait("a timer")
    return None


def _has_timer(search: RecordSearch) -> bool:
    """Whether a timer is to end a task's schedule_timeout(); MAX_SCHEDULE_TIMEOUT needs none.

    See kernel/time/timer.c, struct process_timer (since 4.15), process_timeout().
    """
    import drgn

    program = search.program
    try:
        kind = program.type("struct process_timer")
    except LookupError:
        return True
    offset = drgn.offsetof(kind, "task")
    for address in search.task_words():
        record = drgn.Object(program, kind, address=address - offset)
        with contextlib.suppress(drgn.FaultError, LookupError):
            wakes = program.symbol(record.timer.function.value_()).name == "process_timeout"
            if wakes and record.timer.entry.pprev:  # timer_pending()
                return True
    return False


def _locked(tasks: Tasks, task: drgn.Object, kind: RecordKind, match: Match) -> Wait:
    address = match.address
    if kind.lock == "completion":
        event = event_of(tasks.program, tasks.by_address, address)
        if event is not None:
            by = (holder_of(event.task),) if event.task is not None else ()
            return Wait(event.words, address, by, names_holders=True)
    owner = tasks.stack_owner(address)
    name = lock_name(tasks.program, address, kind.lock)
    if owner is not None:
        mine = owner.value_() == task.value_()
        name = "on its own stack" if mine else f"on the stack of {task_name(owner)}"
    words = f"the {kind.words} {name}{_mode(tasks, task, kind, address)}"
    holding = _holding(tasks, kind, match)
    began = _began(tasks, match.waiters)
    last = holding.last
    return Wait(
        words,
        address,
        tuple(_lock_holder(tasks, one, began) for one in holding.tasks),
        holding.words,
        _lock_holder(tasks, last, began) if last is not None else None,
    )


def _mode(tasks: Tasks, task: drgn.Object, kind: RecordKind, address: int) -> str:
    import drgn

    if kind.lock == "rw_semaphore":
        with contextlib.suppress(AttributeError, LookupError, drgn.FaultError):
            return rwsem_mode(_at(tasks.program, kind.lock, address), task)
    return ""


def _holding(tasks: Tasks, kind: RecordKind, match: Match) -> Holding:
    """Return who holds a lock, by the lock itself, or by lockdep."""
    import drgn

    holding = Holding()
    # A kernel's locks may have another form (PREEMPT_RT).
    with contextlib.suppress(AttributeError, LookupError, drgn.FaultError):
        lock = _at(tasks.program, kind.lock, match.address)
        if kind.lock == "mutex":
            holding = mutex_holding(lock, tasks.by_address)
        elif kind.lock == "rw_semaphore":
            holding = rwsem_holding(lock, tasks.by_address)
    if holding.tasks:
        return holding
    with contextlib.suppress(AttributeError, LookupError, drgn.FaultError):
        recorded = in_lockdep(
            tasks.program, tasks.by_address, kind.lock, match.address, match.waiters
        )
        return Holding(recorded) if recorded else holding
    return holding


def _lock_holder(tasks: Tasks, task: drgn.Object, began: int) -> Holder:
    """Return the task that has the address that a lock has of its owner."""
    doubtful = task.start_time.value_() > began + _DRIFT or _is_idle_worker(tasks, task)
    return holder_of(task, doubtful=doubtful)


def _rt_mutex(tasks: Tasks, task: drgn.Object) -> Wait:
    """Return the wait for an rt_mutex, which the task itself has (pi_blocked_on)."""
    import drgn

    try:
        lock = task.pi_blocked_on.lock
        address = lock.value_()
        # A struct rt_mutex_base since 5.15, mostly a struct rt_mutex's.
        kind = lock.type_.type.tag
        owner = tasks.get(lock.owner.value_() & ~_HAS_WAITERS)
    except (AttributeError, LookupError, drgn.FaultError):
        return Wait("an rt_mutex")
    name = lock_name(tasks.program, address, kind).removesuffix(".rtmutex")
    return Wait(f"the rt_mutex {name}", address, (holder_of(owner),) if owner is not None else ())


def _is_idle_worker(tasks: Tasks, task: drgn.Object) -> bool:
    """Whether a task is a worker without work, which holds no lock (kernel/workqueue.c)."""
    import drgn

    with contextlib.suppress(AttributeError, LookupError, drgn.FaultError):
        worker = worker_of(tasks.program, task)
        return worker is not None and not worker.current_work
    return False


def _began(tasks: Tasks, waiters: Collection[int]) -> int:
    """Return when the first of some waiters went to sleep, in nanoseconds as of start_time.

    Whoever unlocks a lock wakes the first (kernel/locking/mutex.c, __mutex_unlock_slowpath;
    rwsem.c, rwsem_mark_wake).
    """
    slept = [last_ran(tasks, tasks.by_address[waiter]) for waiter in waiters]
    return min((time for time in slept if time is not None), default=1 << 64)


def last_ran(tasks: Tasks, task: drgn.Object) -> int | None:
    """Return when a task left its CPU last, as start_time has it; None where it is not known.

    The scheduler notes when a task last ran (struct sched_entity, exec_start), by its own clock
    (kernel/sched/clock.c, __gtod_offset, since 4.12).
    """
    try:
        # A u64 that may be meant as negative.
        offset = int(tasks.program["__gtod_offset"].value_())
    except LookupError:
        return None
    return int(task.se.exec_start.value_()) - (offset - (1 << 64) if offset >> 63 else offset)


def _at(program: drgn.Program, name: str, address: int) -> drgn.Object:
    import drgn

    return drgn.Object(program, f"struct {name}", address=address)
