"""Waits for grace periods and callbacks of RCU, and what holds them up, as far as memory tells."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterator
from typing import TYPE_CHECKING, Final

from ._locks import lock_name
from ._records import RecordSearch, Tasks
from ._wait import Wait, holder_of

if TYPE_CHECKING:
    import drgn

__all__ = ["rcu_wait"]

# Functions of kernel/rcu that wait: tasks.h; srcutree.c, srcutiny.c; tree.c, tree_exp.h, update.c,
# sync.c. Those of the first call one of the last.
_TASKS: Final = frozenset(
    {
        *("synchronize_rcu_tasks", "synchronize_rcu_tasks_generic", "synchronize_rcu_tasks_rude"),
        "synchronize_rcu_tasks_trace",
    }
)
_SRCU: Final = frozenset({"__synchronize_srcu", "synchronize_srcu", "synchronize_srcu_expedited"})
_SRCU_BARRIER: Final = frozenset({"srcu_barrier"})
_BARRIER: Final = frozenset({"rcu_barrier"})
_EXPEDITED: Final = frozenset({"synchronize_rcu_expedited", "wait_rcu_exp_gp"})
_NORMAL: Final = frozenset(
    {"synchronize_rcu", "synchronize_rcu_normal", "__wait_rcu_gp", "rcu_sync_enter"}
)
_IN_PROGRESS: Final = 0x3  # kernel/rcu/rcu.h, RCU_SEQ_STATE_MASK
_MAX_TASKS: Final = 100


def rcu_wait(tasks: Tasks, search: RecordSearch, names: Collection[str]) -> Wait | None:
    """Return what a task waits for if it is RCU.

    :param names: of the functions on its stack.
    """
    if _TASKS.intersection(names):
        return Wait("a grace period of RCU tasks")
    if _SRCU_BARRIER.intersection(names):
        return Wait(f"the callbacks of {_srcu(search)}")
    if _SRCU.intersection(names):
        return Wait(f"a grace period of {_srcu(search)}")
    if _BARRIER.intersection(names):
        return _held_up(tasks, "the callbacks of RCU", expedited=False)
    if _EXPEDITED.intersection(names):
        return _held_up(tasks, "an expedited grace period of RCU", expedited=True)
    if _NORMAL.intersection(names):
        return _held_up(tasks, "a grace period of RCU", expedited=False)
    return None


def _held_up(tasks: Tasks, words: str, *, expedited: bool) -> Wait:
    """Return a wait with the CPUs that RCU waits for, and the tasks that are in a section."""
    import drgn

    cpus: list[int] = []
    readers: list[drgn.Object] = []
    # RCU may be the tiny one (kernel/rcu/tiny.c), or have another form.
    with contextlib.suppress(AttributeError, LookupError, drgn.FaultError):
        if expedited or tasks.program["rcu_state"].gp_seq.value_() & _IN_PROGRESS:
            cpus = list(_silent_cpus(tasks.program, "expmask" if expedited else "qsmask"))
            first = "exp_tasks" if expedited else "gp_tasks"
            readers = list(_readers(tasks, first))
    if len(cpus) == 1:
        words += f" (CPU {cpus[0]} has reported no quiescent state)"
    elif cpus:
        words += f" (CPUs {', '.join(map(str, cpus))} have reported no quiescent state)"
    return Wait(words, 0, tuple(map(holder_of, readers)))


def _silent_cpus(program: drgn.Program, mask: str) -> Iterator[int]:
    """Yield the CPUs that a grace period still waits for (struct rcu_node)."""
    from drgn.helpers.linux.cpumask import for_each_possible_cpu
    from drgn.helpers.linux.percpu import per_cpu

    for cpu in for_each_possible_cpu(program):
        data = per_cpu(program["rcu_data"], cpu)
        if data.mynode and data.mynode.member_(mask).value_() & data.grpmask.value_():
            yield cpu


def _readers(tasks: Tasks, first: str) -> Iterator[drgn.Object]:
    """Yield the tasks that were preempted in a section for which a grace period waits.

    They are those of `blkd_tasks` from a task on (struct rcu_node), with CONFIG_PREEMPT_RCU.
    """
    import drgn
    from drgn.helpers.linux.cpumask import for_each_possible_cpu
    from drgn.helpers.linux.percpu import per_cpu

    program = tasks.program
    kind = program.type("struct task_struct")
    if not kind.has_member("rcu_node_entry"):
        return
    offset = drgn.offsetof(kind, "rcu_node_entry")
    nodes = {}
    for cpu in for_each_possible_cpu(program):
        node = per_cpu(program["rcu_data"], cpu).mynode
        if node:
            nodes[node.value_()] = node
    for node in nodes.values():
        entry = node.member_(first)
        head = node.blkd_tasks.address_of_().value_()
        for _ in range(_MAX_TASKS):
            if not entry or entry.value_() == head:
                break
            if task := tasks.get(entry.value_() - offset):
                yield task
            entry = entry.next


def _srcu(search: RecordSearch) -> str:
    """Return a `struct srcu_struct` with the number of its readers, in words.

    It is the only one whose address is on the stack, and has itself in its data of each CPU.
    """
    import drgn

    with contextlib.suppress(AttributeError, LookupError, drgn.FaultError):
        kind = search.program.type("struct srcu_struct")
        matches = [
            lock
            for word in search.words()
            if _is_srcu(lock := drgn.Object(search.program, kind, address=word))
        ]
        if len(matches) == 1:
            name = lock_name(search.program, matches[0].address_, "srcu_struct")
            return f"the SRCU {name}{_srcu_readers(matches[0])}"
    return "SRCU"


def _is_srcu(lock: drgn.Object) -> bool:
    import drgn
    from drgn.helpers.linux.percpu import per_cpu_ptr

    with contextlib.suppress(drgn.FaultError, OverflowError):
        if lock.sda:
            # Of the first CPU; a static one's data has no owner before it is used.
            return bool(per_cpu_ptr(lock.sda, 0).ssp.value_() == lock.address_)
    return False


def _srcu_readers(lock: drgn.Object) -> str:
    """Return how many readers a `struct srcu_struct` has, in words; empty for none."""
    import drgn
    from drgn.helpers.linux.cpumask import for_each_possible_cpu
    from drgn.helpers.linux.percpu import per_cpu_ptr

    with contextlib.suppress(AttributeError, LookupError, drgn.FaultError):
        number = 0
        for cpu in for_each_possible_cpu(lock.prog_):
            data = per_cpu_ptr(lock.sda, cpu)
            for locks, unlocks in zip(data.srcu_lock_count, data.srcu_unlock_count, strict=True):
                number += _number(locks) - _number(unlocks)
        # Each may have wrapped.
        number = (number + (1 << 63)) % (1 << 64) - (1 << 63)
        if number > 0:
            return f", which has {number} reader{'s' * (number > 1)}"
    return ""


def _number(count: drgn.Object) -> int:
    """Return a count, a word in 6.1, and an atomic_long_t in 6.12 (include/linux/srcutree.h)."""
    import drgn

    while count.type_.kind == drgn.TypeKind.TYPEDEF:
        count = drgn.Object(count.prog_, count.type_.type, address=count.address_)
    value = count.counter if count.type_.kind != drgn.TypeKind.INT else count
    return int(value.value_())
