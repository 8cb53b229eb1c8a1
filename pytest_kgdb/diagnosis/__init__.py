"""What a machine does that does not come to where it was to come: who spins, who is blocked."""

from ._cpus import CpuSample, general_registers, running_tasks, sample_cpus
from ._diagnosis import Diagnosis, diagnose, explained
from ._samples import Samples
from ._tasks import TaskList, WaitingTask

__all__ = [
    "CpuSample",
    "Diagnosis",
    "Samples",
    "TaskList",
    "WaitingTask",
    "diagnose",
    "explained",
    "general_registers",
    "running_tasks",
    "sample_cpus",
]
