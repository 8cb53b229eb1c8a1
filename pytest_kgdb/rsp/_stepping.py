"""The filter that keeps a step of gdb's to the task that it steps."""

from __future__ import annotations

from collections.abc import Callable, Iterable

__all__ = ["SteppingThreadFilter"]


class SteppingThreadFilter:
    """Tells the stops of the task that gdb steps from those of other tasks at the same place.

    gdb steps over a call by a breakpoint of its own where the call returns to. The breakpoints of
    kgdb and of QEMU's stub stop every task. gdb, which kgdb tells of the stopped task only, takes
    the one that it steps for gone as soon as another one stops; and of CPUs it takes no notice when
    another one than it steps stops there.
    """

    def __init__(self) -> None:
        self._task: bytes | None = None
        self._for_all: frozenset[int] = frozenset()
        self._stepping: bytes | None = None  # the target's single step of it has not ended yet
        self._stepped_over: int | None = None  # the breakpoint that it steps over
        self._strays: set[bytes] = set()  # threads whose single step gdb has given up

    def begin(self, task: bytes, requested: Iterable[int]) -> None:
        """Take note that gdb is about to step a task.

        :param requested: the breakpoints that gdb has already; they stop any task.
        """
        self._task, self._for_all = task, frozenset(requested)

    def end(self) -> None:
        """Take note that what gdb does next is not a step."""
        self._task = None

    @property
    def active(self) -> bool:
        """Whether there may be a stop that gdb is not to see."""
        return bool(self._task or self._stepping or self._strays)

    def stops(self, task: Callable[[], bytes], address: int) -> bool:
        """Return whether a breakpoint of gdb's stops a task that has come to it.

        :param task: returns what tells that one from others; empty where it is not known.
        """
        if self._task is None or address in self._for_all:
            return True
        return task() in (self._task, b"")

    def step_begins(self, thread: bytes, over: int | None) -> None:
        """Take note that the target single-steps a thread for gdb.

        :param over: where gdb has a breakpoint that the thread steps over.
        """
        self._strays.discard(thread)
        self._stepping = thread
        self._stepped_over = over

    def awaits(self, thread: bytes) -> bool:
        """Whether gdb waits for the end of a thread's single step."""
        return thread == self._stepping

    @property
    def awaits_any(self) -> bool:
        """Whether gdb waits for the end of a single step."""
        return self._stepping is not None

    def step_over_by_other(self, thread: bytes) -> int | None:
        """Return the breakpoint over which gdb waits for another thread to step, if it does."""
        return self._stepped_over if self._stepping not in (None, thread) else None

    def steps_over(self, thread: bytes, address: int) -> bool:
        """Whether gdb waits for a thread to step over the breakpoint at an address."""
        return thread == self._stepping and address == self._stepped_over

    def step_ends(self, thread: bytes) -> bool:
        """Take the end of a thread's single step; return whether gdb waits for it."""
        if thread == self._stepping:
            self._stepping = None
            return True
        if thread in self._strays:
            self._strays.discard(thread)
            return False
        return True

    def stop_reported(self, thread: bytes) -> None:
        """Take note that gdb is told of a thread's stop, which ends whatever it was doing."""
        if self._stepping not in (None, thread):
            assert self._stepping is not None
            self._strays.add(self._stepping)
        self._stepping = None
