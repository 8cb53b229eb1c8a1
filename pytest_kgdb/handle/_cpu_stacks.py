"""What each CPU does, as QEMU sees it: for a kernel that does not stop."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol

from ..deadline import Deadline
from ..debugger import StopSubscriber
from ..diagnosis import Diagnosis, Samples, TaskList, diagnose, general_registers, running_tasks
from ..errors import KgdbError, TimeoutError

if TYPE_CHECKING:
    import drgn

__all__ = ["CpuStacks"]

# How long a diagnosis may take beyond the wait that ran out, in seconds.
_SECONDS: Final = 4.0
# How often it looks at the machine, and how long the machine runs in between, in seconds.
_LOOKS: Final = 10
_IDLE_LOOKS: Final = 4
_BETWEEN: Final = 0.04
_SHOWN_TASKS: Final = 6


class RegisterMachine(Protocol):
    """The part of the machine that is used here."""

    def status(self) -> str:
        """Return its run state, as QEMU's monitor says it."""

    def registers(self) -> str:
        """Return all CPUs' registers, as QEMU's monitor shows them."""


class ProgramMemory(Protocol):
    """The part of the kernel's memory that is used here."""

    def paused(self) -> AbstractContextManager[None]:
        """Allow reads while the machine is paused."""

    @property
    def program(self) -> drgn.Program:
        """The kernel."""


class CpuStacks(StopSubscriber):
    """Looks at the CPUs and the tasks while the machine is paused.

    :param paused: pauses the machine of a kernel that runs.
    :param source: where the debug info says that the kernel's source is.
    """

    def __init__(
        self,
        machine: RegisterMachine,
        memory: ProgramMemory,
        source: Path | None,
        *,
        paused: Callable[[], AbstractContextManager[None]],
    ) -> None:
        self._machine = machine
        self._paused = paused
        self._memory = memory
        self._source = source

    def read(self) -> str:
        """Return what a running kernel does, in lines: what it comes to, the CPUs, the tasks."""
        diagnosis = self.diagnose()
        return "\n".join(line for line in (diagnosis.headline, diagnosis.text) if line)

    def registers(self) -> str:
        """Return the CPUs' general registers, in lines; empty where they cannot be read."""
        with contextlib.suppress(KgdbError):
            return general_registers(self._machine.registers())
        return ""

    def running_tasks(self) -> str:
        """Return which tasks ran when the machine ended, for the end of a line; empty for none."""
        tasks = []
        # The kernel's memory may be damaged in any way, and was read for no more than a name.
        with contextlib.suppress(Exception), self._memory.paused():
            tasks = running_tasks(self._memory.program)
        return f", while {' and '.join(tasks)} ran" if tasks else ""

    def waiting_tasks(self) -> list[str]:
        """Return the tasks of a stopped kernel that wait, each with its stack in lines.

        :raises KgdbError: the kernel's memory cannot be read.
        """
        tasks = TaskList(self._memory.program, self._source, Deadline(_SECONDS)).waiting()
        return [task.lines() for task in tasks if task.waits_by_itself][:_SHOWN_TASKS]

    def diagnose(self) -> Diagnosis:
        """Return what a kernel does that runs and does not come to where it was to come.

        It takes at most five seconds, and never raises.
        """
        samples = Samples(self._source)
        try:
            self._take(samples)
            return diagnose(samples)
        except TimeoutError as error:
            return Diagnosis("QEMU does not answer on its monitor", f"({error.message})")
        except KgdbError as error:
            samples.errors.append(f"(not available: {error.message})")
            return diagnose(samples)
        except Exception as error:
            # Whatever is wrong here, the wait that ran out is to be reported.
            return Diagnosis("", f"(no diagnosis: {error!r})")

    def _take(self, samples: Samples) -> None:
        """Look at the machine several times, and let it run in between."""
        deadline = Deadline(_SECONDS)
        samples.status = self._status()
        if samples.status != "running":
            self._look(samples, first=True, last=True, deadline=deadline)
            return
        last = False
        while not last:
            number = len(samples.cpus) + 1
            enough = _IDLE_LOOKS if samples.always_idle else _LOOKS
            last = number >= enough or deadline.expired
            with self._paused():
                self._look(samples, first=number == 1, last=last, deadline=deadline)
            if not last:
                time.sleep(_BETWEEN)

    def _status(self) -> str:
        """Return the machine's run state, between the stops that no test is to see.

        QEMU's stub has it stopped for a moment at each call that a spy sees.
        """
        for _ in range(_LOOKS):
            status = self._machine.status()
            if status != "debug":
                break
            time.sleep(_BETWEEN)
        return status

    def _look(self, samples: Samples, *, first: bool, last: bool, deadline: Deadline) -> None:
        dump = self._machine.registers()
        program: drgn.Program | None = None
        # The kernel's memory may be damaged in any way; the registers are known.
        try:
            with self._memory.paused():
                program = self._memory.program
                samples.add_cpus(program, dump)
                if first:
                    samples.add_first_tasks(program, deadline)
                if last:
                    samples.add_last_tasks(program, deadline)
        except Exception as error:
            if program is None:
                samples.add_cpus(None, dump)
            if not samples.errors:
                samples.errors.append(f"(the kernel's memory cannot be read: {error})")
