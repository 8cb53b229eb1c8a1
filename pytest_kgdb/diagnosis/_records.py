"""The records of waits that tasks have on their stacks, and where these are linked into.

A task that waits for a lock puts a record of that onto its stack and into the lock's list; with
the list the lock is found, and no variable that the compiler may have optimised out is needed.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Final, NamedTuple

from ._stack import stack_of

if TYPE_CHECKING:
    import drgn

__all__ = ["SIMPLE_WAIT_QUEUE", "WAIT_QUEUE", "Match", "RecordKind", "RecordSearch", "Tasks"]

_MAX_WAITERS: Final = 1000
# arch/x86/include/asm/switch_to.h, struct inactive_task_frame: eight words
_SAVED: Final = 64


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


class RecordKind(NamedTuple):
    """A kind of lock: its record of a wait, and where that is linked into."""

    words: str
    files: tuple[str, ...]
    waiter: str
    task: str
    node: str
    lock: str
    head: str


WAIT_QUEUE: Final = RecordKind(
    "wait queue", (), "wait_queue_entry", "private", "entry", "wait_queue_head", "head"
)
SIMPLE_WAIT_QUEUE: Final = RecordKind(
    "wait queue", (), "swait_queue", "task", "task_list", "swait_queue_head", "task_list"
)


class Match(NamedTuple):
    """What a task waits for."""

    address: int
    waiters: frozenset[int]
    """The addresses of all tasks that wait for it."""


class RecordSearch:
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

    def words(self) -> set[int]:
        """Return the words of the stack, and the registers that were saved when the task left."""
        first, words = self._words
        start, _ = stack_of(self._task)
        below = max(start, first - _SAVED)
        data = self.program.read(below, first - below)
        return {*words, *struct.unpack(f"<{len(data) // 8}Q", data)}

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

    def find(self, kind: RecordKind) -> Match | None:
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
                return Match(heads[0] - head, frozenset({self._task.value_(), *waiters}))
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
