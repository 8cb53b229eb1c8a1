"""A step of gdb's belongs to one task, and other tasks come by where it is to end."""

from __future__ import annotations

from collections.abc import Iterable

__all__ = ["Followed"]


class Followed:
    """The task that gdb steps, and what it plants for that.

    gdb steps over a call by a breakpoint of its own where the call returns to. kgdb's breakpoints
    are every task's; and to gdb, which is told of the stopped task only, the one that it steps is
    gone as soon as another one stops.
    """

    def __init__(self) -> None:
        self._thread: bytes | None = None
        self._known: frozenset[int] = frozenset()
        self._stepping: bytes | None = None  # kgdb's single step of it has not ended yet
        self._strays: set[bytes] = set()  # their steps will end when gdb has given them up

    def begin(self, thread: bytes, wanted: Iterable[int]) -> None:
        """gdb is about to step a task.

        :param wanted: the breakpoints that there are already; at those any task stops.
        """
        self._thread, self._known = thread, frozenset(wanted)

    def end(self) -> None:
        """What gdb is told to do next is not a step."""
        self._thread = None

    @property
    def watching(self) -> bool:
        """Whether a stop may be none of gdb's business."""
        return bool(self._thread or self._stepping or self._strays)

    def concerns(self, thread: bytes, address: int) -> bool:
        """Whether a task's arrival at a breakpoint of gdb's is meant."""
        return self._thread in (None, thread) or address in self._known

    def stepped(self, thread: bytes) -> None:
        """kgdb is told to step a task."""
        self._strays.discard(thread)
        self._stepping = thread

    def trapped(self, thread: bytes) -> bool:
        """Whether the end of a task's single step is what gdb waits for."""
        if thread == self._stepping:
            self._stepping = None
            return True
        if thread in self._strays:
            self._strays.discard(thread)
            return False
        return True

    def told(self, thread: bytes) -> None:
        """gdb is told that a task has stopped, which is the end of whatever it was at."""
        if self._stepping not in (None, thread):
            assert self._stepping is not None
            self._strays.add(self._stepping)
        self._stepping = None
