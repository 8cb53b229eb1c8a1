"""Lets a guest do what is left to do, if that is little."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Final, Protocol

from ..deadline import Deadline

__all__ = ["UntilIdle"]

# In seconds that QEMU itself computes: on a busy host a guest needs longer for the same. They are
# counted in ticks of the host's, up to 10 ms each. A shell needs less than one, and some for code
# that QEMU has to translate. The second is what each command costs while a program computes.
_UNTIL_READ: Final = 0.05
_UNTIL_IDLE: Final = 0.01
_LONGEST: Final = 0.1  # seconds: where QEMU gets next to nothing, and where no shell reads


class Idleness(Protocol):
    """Looks at a guest that runs."""

    def is_read(self) -> bool:
        """Whether a task waits for what is typed."""

    def is_idle(self) -> bool:
        """Whether no CPU has anything to do."""


class UntilIdle:
    """Waits until a guest has nothing to do but to wait for input.

    :param guest: tells what it does.
    :param pid: of QEMU.
    """

    def __init__(self, guest: Idleness, pid: int) -> None:
        self._guest = guest
        # clock_getcpuclockid(3): the clock CPUCLOCK_SCHED of a process (Linux,
        # include/linux/posix-timers.h, make_process_cpuclock).
        self._clock = ~pid << 3 | 2

    def wait(self, ended: Callable[[], bool], *, idle: float = _UNTIL_IDLE) -> None:
        """Wait until the shell reads and, if that is soon, until the guest is idle.

        :param ended: whether there is nothing to wait for any more: the kernel has stopped.
        :param idle: seconds of QEMU's after which a guest computes by itself.
        """
        self._wait(self._guest.is_read, ended, _UNTIL_READ)
        self._wait(self._guest.is_idle, ended, idle)

    def _wait(self, holds: Callable[[], bool], ended: Callable[[], bool], budget: float) -> None:
        if holds():
            return
        deadline, until = Deadline(_LONGEST), self._used() + budget
        while not (holds() or ended() or deadline.expired):
            if self._used() >= until:
                return
            time.sleep(0)

    def _used(self) -> float:
        try:
            return time.clock_gettime(self._clock)
        except OSError:  # it has ended
            return math.inf
