"""gdb's numbers of the CPUs, where its threads are CPUs."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final

__all__ = ["CpuNumbers"]

# A thread id: the process, and the CPU (gdb manual, "Packets", thread-id). `-1` stays.
_ID: Final = re.compile(rb"(p[0-9a-f]+)\.([0-9a-f]+)")
# Requests and replies that have one.
_WITH_IDS: Final = (b"H", b"T", b"qC", b"QC", b"qThreadExtraInfo", b"vCont")


class CpuNumbers:
    """Translates thread ids between gdb and QEMU.

    gdb steps a thread: the breakpoints that it makes for that are this thread's, and where another
    one comes to them it goes on. But the task that is meant may come to another CPU. Then the two
    CPUs change their numbers.
    """

    def __init__(self) -> None:
        self._of_qemu: dict[int, int] = {}  # by gdb's number, where that is another
        self._task = b""  # the one that gdb steps; empty if it steps none, or that is not known
        self._cpu = 0  # the one that it is on to gdb's knowledge, by QEMU's number

    # The task that gdb steps

    @property
    def steps(self) -> bool:
        """Whether gdb steps a task."""
        return bool(self._task)

    def step_begins(self, task: bytes, cpu: int) -> None:
        """Take note of the task that gdb is about to step, and of the CPU that it is on."""
        self._task, self._cpu = task, cpu

    def step_ends(self) -> None:
        """Take note that what gdb does next is not a step; the numbers stay until it resumes."""
        self._task = b""

    def stopped(self, cpu: int, task: Callable[[], bytes]) -> None:
        """Take note of a stop that gdb is told of.

        :param task: returns what tells the task there from others.
        """
        if self._task and cpu != self._cpu and task() == self._task:
            first, second = self.of_gdb(self._cpu), self.of_gdb(cpu)
            self._of_qemu[first], self._of_qemu[second] = cpu, self._cpu
            self._cpu = cpu

    def reset(self) -> None:
        """Have gdb's numbers be QEMU's."""
        self._of_qemu.clear()

    # Numbers

    def of_qemu(self, number: int) -> int:
        """Return QEMU's number of a CPU, given gdb's."""
        return self._of_qemu.get(number, number)

    def of_gdb(self, number: int) -> int:
        """Return gdb's number of a CPU, given QEMU's."""
        theirs = (ours for ours, other in self._of_qemu.items() if other == number)
        return next(theirs, number)

    def for_qemu(self, payload: bytes) -> bytes:
        """Return gdb's request with QEMU's numbers."""
        return self._translated(payload, self.of_qemu)

    def for_gdb(self, payload: bytes) -> bytes:
        """Return QEMU's reply with gdb's numbers."""
        return self._translated(payload, self.of_gdb)

    def thread_for_gdb(self, thread: bytes) -> bytes:
        """Return a thread id of QEMU's with gdb's number."""
        return _with_number(thread, self.of_gdb)

    def _translated(self, payload: bytes, number: Callable[[int], int]) -> bytes:
        if not self._of_qemu or not payload.startswith(_WITH_IDS):
            return payload
        return _with_number(payload, number)


def _with_number(text: bytes, number: Callable[[int], int]) -> bytes:
    return _ID.sub(lambda match: b"%b.%02x" % (match[1], number(int(match[2], 16))), text)
