"""Locks: their names, and who holds them, as far as memory tells."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Final, NamedTuple

from ..escape import clean_name

if TYPE_CHECKING:
    import drgn

__all__ = [
    "Holding",
    "comm_of",
    "in_lockdep",
    "lock_name",
    "mutex_holding",
    "owner_of",
    "spinning_lock",
    "spins_in",
    "task_name",
    "variable_name",
]

# kernel/locking/mutex.h, MUTEX_FLAGS
_MUTEX_FLAGS: Final = 0x7


class Holding(NamedTuple):
    """Who holds a lock, as far as its memory tells."""

    tasks: tuple[drgn.Object, ...] = ()
    """The tasks that hold it."""
    words: str = ""
    """The same in words, for holders that are not known."""
    last: drgn.Object | None = None
    """Of those in the words the one that took it last, and may have released it since."""


def mutex_holding(lock: drgn.Object, tasks: Mapping[int, drgn.Object]) -> Holding:
    """Return who holds a `struct mutex`."""
    return owner_of(tasks, lock.owner.counter.value_() & (1 << 64) - 1 & ~_MUTEX_FLAGS)


def owner_of(tasks: Mapping[int, drgn.Object], owner: int) -> Holding:
    """Return the holder of a lock that has its address; 0 for none."""
    task = tasks.get(owner)
    if task is not None:
        return Holding((task,))
    return Holding(
        words=f"whose owner {owner:#x} is no task (any more)" if owner else "held by nobody"
    )


def task_name(task: drgn.Object) -> str:
    """Return a task as in the kernel's own messages: `cat[52]`."""
    return f"{comm_of(task)}[{task.pid.value_()}]"


def comm_of(task: drgn.Object) -> str:
    """Return the name of a task, which a program can choose."""
    return clean_name(task.comm.string_().decode(errors="replace"))


def in_lockdep(
    program: drgn.Program,
    tasks: Mapping[int, drgn.Object],
    kind: str,
    address: int,
    waiters: Collection[int],
) -> tuple[drgn.Object, ...]:
    """Return the tasks that hold a lock, by lockdep's records of those that do or wait for it.

    See include/linux/sched.h, held_locks; include/linux/lockdep_types.h, struct held_lock.

    :param kind: the name of the lock's struct.
    :param waiters: the addresses of the tasks that wait for it.
    """
    import drgn

    if not program.type("struct task_struct").has_member("held_locks"):
        return ()
    try:
        instance = address + drgn.offsetof(program.type(f"struct {kind}"), "dep_map")
    except LookupError:
        return ()
    return tuple(
        task
        for task in tasks.values()
        if task.value_() not in waiters
        and any(
            task.held_locks[index].instance.value_() == instance
            for index in range(min(task.lockdep_depth.value_(), len(task.held_locks)))
        )
    )


def lock_name(program: drgn.Program, address: int, kind: str) -> str:
    """Return the name of a lock: the variable's that it is, or is in; lockdep's; or its address.

    :param kind: the name of the lock's struct.
    """
    import drgn

    with contextlib.suppress(LookupError, drgn.FaultError):
        symbol = program.symbol(address)
        offset = address - symbol.address
        if path := _member_path(program, symbol.name, symbol.address, offset, kind):
            return path
        return symbol.name if offset == 0 else f"{symbol.name}+{offset:#x}"
    with contextlib.suppress(LookupError, AttributeError, drgn.FaultError):
        lock = drgn.Object(program, f"struct {kind}", address=address)
        if name := lock.dep_map.name:
            return f"{name.string_().decode(errors='replace')} at {address:#x}"
    return _place(program, address)


def variable_name(program: drgn.Program, address: int) -> str:
    """Return the name of a variable that is no struct, or is in one; or its address, in words."""
    with contextlib.suppress(LookupError):
        symbol = program.symbol(address)
        offset = address - symbol.address
        path = _member_path(program, symbol.name, symbol.address, offset, None)
        return path or (symbol.name if offset == 0 else f"{symbol.name}+{offset:#x}")
    return f"the variable {_place(program, address)}"


def _place(program: drgn.Program, address: int) -> str:
    """Return an address, with the name of the slab's cache that has it."""
    cache = ""
    with contextlib.suppress(Exception):  # the slab's own records may be damaged
        from drgn.helpers.linux.slab import find_containing_slab_cache

        if slab := find_containing_slab_cache(program, address):
            cache = f" ({slab.name.string_().decode(errors='replace')})"
    return f"at {address:#x}{cache}"


def _member_path(
    program: drgn.Program, name: str, address: int, offset: int, kind: str | None
) -> str | None:
    """Return the member of a variable that is a lock: `device.lock`.

    :param kind: the name of the lock's struct; None for what is no struct.
    """
    with contextlib.suppress(LookupError):
        variable = program.variable(name)
        if variable.address_ == address:
            return _descend(name, variable.type_, offset, kind)
    return None


def _descend(path: str, type_: drgn.Type, offset: int, kind: str | None) -> str | None:
    import drgn

    while True:
        while type_.kind == drgn.TypeKind.TYPEDEF:
            type_ = type_.type
        if type_.kind == drgn.TypeKind.ARRAY:
            size = type_.type.size if hasattr(type_.type, "size") else drgn.sizeof(type_.type)
            path, offset, type_ = f"{path}[{offset // size}]", offset % size, type_.type
            continue
        if type_.kind not in (drgn.TypeKind.STRUCT, drgn.TypeKind.UNION):
            return path if kind is None and offset == 0 else None
        if offset == 0 and kind is not None and type_.tag == kind:
            return path
        for member in type_.members:
            start = member.bit_offset // 8
            if member.bit_field_size is None and start <= offset < start + drgn.sizeof(member.type):
                path = f"{path}.{member.name}" if member.name else path
                type_, offset = member.type, offset - start
                break
        else:
            return None


# The slow paths of kernel/locking: qspinlock.c, qrwlock.c; and the struct of each one's lock.
_SLOW_PATHS: Final = {
    "queued_spin_lock_slowpath": ("spinlock", "spinlock"),
    "queued_read_lock_slowpath": ("rwlock", "qrwlock"),
    "queued_write_lock_slowpath": ("rwlock", "qrwlock"),
}


def spins_in(name: str) -> bool:
    """Whether a function is one in which a CPU spins for a lock."""
    return any(function in name for function in _SLOW_PATHS)


def spinning_lock(program: drgn.Program, trace: drgn.StackTrace) -> str | None:
    """Return the lock that a CPU spins for, in words; None where it waits for none.

    :param trace: the CPU's stack.
    """
    for frame in trace:
        for function, (words, kind) in _SLOW_PATHS.items():
            if frame.name and function in frame.name:
                with contextlib.suppress(LookupError, ValueError):
                    name = lock_name(program, frame["lock"].value_(), kind)
                    return f"the {words} {name.removesuffix('.raw_lock')}"
                return f"a{'n' if words[0] in 'aeiou' else ''} {words}"
    return None
