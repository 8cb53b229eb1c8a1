"""What is seen of a machine at several times: its registers, its CPUs' stacks, its tasks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from ..deadline import Deadline
from ._command import Process
from ._cpus import CpuSample, sample_cpus
from ._tasks import TaskList, WaitingTask

if TYPE_CHECKING:
    import drgn

__all__ = ["Samples"]


@dataclass
class Samples:
    """What was seen of a machine, each time while it was paused.

    :param source: the directory of the kernel's source in the debug information.
    """

    source: Path | None
    status: str = "running"
    """QEMU's run state (qapi/run-state.json, RunState), before it was paused."""
    cpus: list[list[CpuSample]] = field(default_factory=list)
    """For each time the CPUs."""
    chains: list[list[WaitingTask]] | None = None
    """The tasks that waited at the last time, each with the one that holds what it waits for, and
    so on; None where they cannot be read."""
    processes: dict[int, Process] = field(default_factory=dict)
    """The programs' places among each other at the last time, by their process ids."""
    errors: list[str] = field(default_factory=list)
    """What could not be read."""
    dump: str = ""
    """The CPUs' registers at the last time (`info registers -a`)."""
    _first_switches: set[tuple[int, int, int]] | None = None

    def add_cpus(self, program: drgn.Program | None, dump: str) -> None:
        """Take note of what the CPUs do.

        :param dump: the output of QEMU's `info registers -a`.
        """
        self.dump = dump
        self.cpus.append(sample_cpus(program, dump, self.source))

    def add_first_tasks(self, program: drgn.Program, deadline: Deadline) -> None:
        """Take note of which tasks there are, to see later which of them have not run since."""
        self._first_switches = TaskList(program, self.source, deadline).switches()

    def add_last_tasks(self, program: drgn.Program, deadline: Deadline) -> None:
        """Take note of which tasks wait, where, and for what."""
        tasks = TaskList(program, self.source, deadline)
        self.chains = [tasks.chain(task) for task in tasks.waiting()]
        self.processes = tasks.processes()

    @property
    def last(self) -> Sequence[CpuSample]:
        """The CPUs at the last time."""
        return self.cpus[-1] if self.cpus else ()

    @property
    def always_idle(self) -> bool:
        """Whether no CPU has had anything to run at any time."""
        return all(cpu.idle or not cpu.started for cpus in self.cpus for cpu in cpus)

    def by_cpu(self) -> list[list[CpuSample]]:
        """Return the samples of each CPU, the earliest first."""
        return [list(samples) for samples in zip(*self.cpus, strict=False)]

    def by_task(self) -> list[list[CpuSample]]:
        """Return the samples of each task, on whichever CPU it was, the earliest first.

        Idle tasks, which are one for each CPU, and tasks that are not known are by their CPUs.
        """
        tasks: dict[tuple[int, int], list[CpuSample]] = {}
        for cpu in (cpu for cpus in self.cpus for cpu in cpus):
            key = (cpu.pid, -1) if cpu.pid > 0 else (cpu.pid, cpu.number)
            tasks.setdefault(key, []).append(cpu)
        return list(tasks.values())

    def stuck(self) -> list[list[WaitingTask]]:
        """Return the chains that begin with a task that has waited all the time."""
        since = self._first_switches
        return [chain for chain in self.chains or () if since is None or chain[0].key in since]
