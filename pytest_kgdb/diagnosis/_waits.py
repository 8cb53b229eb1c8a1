"""What a task waits for, by the record of its wait that it has on its stack.

A task that waits for a lock puts a record of that onto its stack and into the lock's list; with
the list the lock is found, and no variable that the compiler may have optimised out is needed.
"""

from __future__ import annotations

import struct
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Final, NamedTuple

from ._events import event_of
from ._locks import lock_holders, lock_name, task_name
from ._stack import StackFrame, stack_of

if TYPE_CHECKING:
    import drgn

__all__ = ["IDLE_WAITS", "Tasks", "Wait", "last_ran", "wait_of"]

# Nanoseconds by which two of the kernel's clocks may differ after a while.
_DRIFT: Final = 100_000_000
_MAX_WAITERS: Final = 1000
_PF_WQ_WORKER: Final = 0x20  # include/linux/sched.h


class Tasks:
    """The tasks of a kernel, by the address of their `struct task_struct`."""

    def __init__(self, program: drgn.Program, tasks: Mapping[int, drgn.Object]) -> None:
        self.program = program
        self.by_address = tasks

    def get(self, address: int) -> drgn.Object | None:
        """Return the task at an address; None if there is none."""
        return self.by_address.get(address)

    def on_stack_of(self, address: int, task: drgn.Object) -> bool:
        """Whether an address is in a task's stack."""
        start, size = stack_of(task)
        return start <= address < start + size

    def stack_owner(self, address: int) -> drgn.Object | None:
        """Return the task in whose stack an address is; None if it is in none."""
        return next(
            (task for task in self.by_address.values() if self.on_stack_of(address, task)), None
        )


class Holder(NamedTuple):
    """A task that holds a lock."""

    address: int
    """Of its `struct task_struct`."""
    name: str
    doubtful: bool = False
    """Whether it cannot hold the lock, which has but an address: that of a task that has ended."""


@dataclass(frozen=True)
class Wait:
    """What a task waits for."""

    text: str
    """In words: `the mutex lock`."""
    address: int = 0
    """Of the lock, or of what else there is to wait for; 0 where that is not known."""
    holders: tuple[Holder, ...] = ()
    """The tasks that hold it."""
    holding: str = ""
    """The same in words, for what is not certain, or has no task."""
    names_holders: bool = False
    """Whether the text names them."""


class _Kind(NamedTuple):
    """A kind of lock: its record of a wait, and where that is linked into."""

    words: str
    files: tuple[str, ...]
    names: tuple[str, ...]
    waiter: str
    task: str
    node: str
    lock: str
    head: str


# Types and members of include/linux: mutex.h, rwsem.h, semaphore.h, completion.h, swait.h, wait.h;
# of kernel/locking: mutex.h, rwsem.c, semaphore.c.
_KINDS: Final = (
    _Kind(
        "mutex", ("kernel/locking/mutex.c",), (), "mutex_waiter", "task", "list", "mutex",
        "wait_list",
    ),
    _Kind(
        "rwsem", ("kernel/locking/rwsem.c",), (), "rwsem_waiter", "task", "list", "rw_semaphore",
        "wait_list",
    ),
    _Kind(
        "semaphore", ("kernel/locking/semaphore.c",), (), "semaphore_waiter", "task", "list",
        "semaphore", "wait_list",
    ),
    _Kind(
        "completion", ("kernel/sched/completion.c",), (), "swait_queue", "task", "task_list",
        "completion", "wait.task_list",
    ),
)  # fmt: skip
_QUEUE: Final = _Kind(
    "wait queue", (), (), "wait_queue_entry", "private", "entry", "wait_queue_head", "head"
)

# include/linux/page-flags.h, enum pageflags
_FOLIO_BITS: Final = {"PG_locked": "the lock of a folio", "PG_writeback": "a folio's writeback"}

# What has no lock, by the functions that wait.
_OTHERS: Final = (
    ({"n_tty_read"}, "input"),
    ({"do_wait", "kernel_wait4"}, "its child"),
    ({"do_nanosleep", "hrtimer_nanosleep", "msleep", "schedule_hrtimeout_range"}, "a timer"),
    ({"futex_wait_queue", "futex_wait_queue_me"}, "a futex"),
    ({"pipe_read", "anon_pipe_read", "pipe_wait_readable"}, "input from a pipe"),
    ({"pipe_write", "anon_pipe_write", "pipe_wait_writable"}, "room in a pipe"),
    ({"do_poll", "do_select", "ep_poll"}, "a file, by poll or select"),
    ({"do_sigtimedwait", "sigsuspend", "__do_sys_pause"}, "a signal"),
    ({"synchronize_rcu", "wait_rcu_exp_gp", "__wait_rcu_gp"}, "a grace period of RCU"),
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
    search = _Search(tasks, task, frames[0].sp if frames else 0)
    for kind in _KINDS:
        if files.intersection(kind.files):
            match = search.find(kind)
            return _locked(tasks, task, kind, match) if match else Wait(f"a {kind.words}")
    if names & _RT_MUTEX:
        return _rt_mutex(tasks, task)
    for group, words in _OTHERS:
        if names & group:
            return Wait(words)
    if any(name.startswith("folio_wait_bit") or name == "__folio_lock" for name in names):
        return _folio(search)
    match = search.find(_QUEUE)
    if match:
        name = lock_name(tasks.program, match.address, _QUEUE.lock)
        return Wait(f"the wait queue {name}", match.address)
    if "schedule_timeout" in names:
        return Wait("a timer")
    return None


def _locked(tasks: Tasks, task: drgn.Object, kind: _Kind, match: _Match) -> Wait:
    address = match.address
    if kind.lock == "completion" and (wait := event_of(tasks.program, tasks.by_address, address)):
        text, task_of_it = wait
        return Wait(text, address, (_holder(task_of_it),), names_holders=True)
    owner = tasks.stack_owner(address)
    name = lock_name(tasks.program, address, kind.lock)
    if owner is not None:
        mine = owner.value_() == task.value_()
        name = "on its own stack" if mine else f"on the stack of {task_name(owner)}"
    words = f"the {kind.words} {name}"
    if kind.words == "rwsem":
        words += " (to write)" if _writes(tasks, task, address) else " (to read)"
    holders, holding = lock_holders(
        tasks.program, tasks.by_address, kind.lock, address, match.waiters
    )
    holding = holding.replace(f"perhaps {task_name(task)}", "perhaps itself")
    began = _began(tasks, match.waiters)
    named = (
        _holder(one, one.start_time.value_() > began + _DRIFT or _is_idle_worker(one))
        for one in holders
    )
    return Wait(words, address, tuple(named), holding)


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
    return Wait(f"the rt_mutex {name}", address, (_holder(owner),) if owner is not None else ())


def _holder(task: drgn.Object, doubtful: bool = False) -> Holder:
    return Holder(task.value_(), task_name(task), doubtful)


def _is_idle_worker(task: drgn.Object) -> bool:
    """Whether a task is a worker without work, which holds no lock (kernel/workqueue.c)."""
    import drgn

    if not task.flags.value_() & _PF_WQ_WORKER:
        return False
    try:
        thread = drgn.cast("struct kthread *", task.worker_private)  # since 5.17
        return not drgn.cast("struct worker *", thread.data).current_work
    except (AttributeError, LookupError, drgn.FaultError):
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


def _writes(tasks: Tasks, task: drgn.Object, address: int) -> bool:
    """Whether a task waits to write (kernel/locking/rwsem.c, enum rwsem_waiter_type)."""
    from drgn.helpers.linux.list import list_for_each_entry

    lock = _at(tasks.program, "rw_semaphore", address)
    for waiter in list_for_each_entry("struct rwsem_waiter", lock.wait_list.address_of_(), "list"):
        if waiter.task.value_() == task.value_():
            return bool(waiter.type.value_() == 0)
    return False


def _at(program: drgn.Program, name: str, address: int) -> drgn.Object:
    import drgn

    return drgn.Object(program, f"struct {name}", address=address)


def _folio(search: _Search) -> Wait:
    """Return the wait for a bit of a folio (mm/filemap.c, struct wait_page_queue)."""
    program = search.program
    try:
        kind = program.type("struct wait_page_queue")
    except LookupError:
        return Wait("a folio")
    import drgn

    offset = drgn.offsetof(kind, "wait.private")
    member = "folio" if kind.has_member("folio") else "page"  # since 5.19
    for address in search.task_words():
        record = drgn.Object(program, kind, address=address - offset)
        try:
            bit = record.bit_nr.value_()
            name = drgn.Object(program, "enum pageflags", value=bit).format_(type_name=False)
            if not search.linked(record.wait.entry.address_of_()):
                continue
        except (drgn.FaultError, LookupError, ValueError):
            continue
        words = _FOLIO_BITS.get(name, f"{name} of a folio")
        folio = record.member_(member).value_()
        return Wait(f"{words} at {folio:#x}", folio)
    return Wait("a folio")


class _Match(NamedTuple):
    """What a task waits for."""

    address: int
    waiters: frozenset[int]
    """The addresses of all tasks that wait for it."""


class _Search:
    """Searches a task's stack for the record of a wait."""

    def __init__(self, tasks: Tasks, task: drgn.Object, sp: int) -> None:
        self.program = tasks.program
        self._tasks = tasks
        self._task = task
        self._sp = sp

    @cached_property
    def _words(self) -> tuple[int, tuple[int, ...]]:
        """The used part of the stack: its address, and its words."""
        start, size = stack_of(self._task)
        first = self._sp & ~7 if start <= self._sp < start + size else start
        data = self.program.read(first, start + size - first)
        return first, struct.unpack(f"<{len(data) // 8}Q", data[: len(data) & ~7])

    def task_words(self) -> Iterator[int]:
        """Yield where on the stack there is the address of the task itself."""
        first, words = self._words
        address = self._task.value_()
        for index, word in enumerate(words):
            if word == address:
                yield first + 8 * index

    def linked(self, node: drgn.Object) -> bool:
        """Whether a `struct list_head *` is in a list."""
        return bool(
            node.next.prev.value_() == node.value_() and node.prev.next.value_() == node.value_()
        )

    def find(self, kind: _Kind) -> _Match | None:
        """Return what the task waits for in this way; None if it cannot be told."""
        import drgn

        try:
            waiter = self.program.type(f"struct {kind.waiter}")
            lock = self.program.type(f"struct {kind.lock}")
            task, node = (drgn.offsetof(waiter, name) for name in (kind.task, kind.node))
            head = drgn.offsetof(lock, kind.head)
        except LookupError:  # a kernel of another form: an rtmutex in place of the lock
            return None
        for address in self.task_words():
            try:
                heads, waiters = self._members(address - task + node, task - node)
            except drgn.FaultError:
                continue
            if len(heads) == 1:
                return _Match(heads[0] - head, frozenset({self._task.value_(), *waiters}))
        return None

    def _members(self, node: int, task: int) -> tuple[list[int], set[int]]:
        """Return of a list's other members those that are no task's record, and the tasks.

        The list's head is the only one of the former, where all records are on their tasks' stacks.

        :param task: where, from a record's member of the list, the address of its task is.
        """
        import drgn

        kind = self.program.type("struct list_head *")
        start = drgn.Object(self.program, kind, value=node)
        heads: list[int] = []
        waiters: set[int] = set()
        if not self.linked(start):
            return heads, waiters
        entry = start.next
        for _ in range(_MAX_WAITERS):
            if entry.value_() == node:
                return heads, waiters
            owner = self._tasks.get(self.program.read_u64(entry.value_() + task))
            if owner is not None and self._tasks.on_stack_of(entry.value_(), owner):
                waiters.add(owner.value_())
            else:
                heads.append(entry.value_())
            entry = entry.next
        return [], waiters
