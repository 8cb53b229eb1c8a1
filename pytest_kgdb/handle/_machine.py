"""What a handle needs of the machine under it: one in QEMU, or a board."""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol

from ..console import Console
from ..debugger import MachineLife, Stop
from ..memory import KernelMemory, ModuleLookup, StopState
from ..settings import Forward

__all__ = ["AttachedMachine", "MachineSaver", "MemoryFactory", "RunningView"]


class AttachedMachine(MachineLife, Protocol):
    """A machine with a console."""

    @property
    def name(self) -> str:
        """What it is called in messages."""

    @property
    def console(self) -> Console:
        """Its serial console."""

    @property
    def directory(self) -> Path:
        """A private directory, for as long as it is there."""

    @property
    def forwards(self) -> tuple[Forward, ...]:
        """The host's ports that lead to it."""


class RunningView(Protocol):
    """What can be seen of a machine while its kernel runs.

    They raise KgdbError where nothing can be seen.
    """

    def paused(self) -> AbstractContextManager[None]:
        """Have the machine paused, so that its memory does not change."""

    def status(self) -> str:
        """Return its run state (qapi/run-state.json, RunState)."""

    def registers(self) -> str:
        """Return all CPUs' registers, as QEMU's monitor shows them."""


class MachineSaver(Protocol):
    """Saves a stopped machine as a file, which can be opened elsewhere."""

    def __call__(self, path: Path, stop: Stop, /) -> None:
        """Save it; raises KgdbError where it cannot be saved.

        :param stop: why the kernel is stopped.
        """


class MemoryFactory(Protocol):
    """Makes the kernel's memory."""

    def __call__(self, stop_state: StopState, modules: ModuleLookup, /) -> KernelMemory:
        """Return it, given whether the kernel is stopped, and the files of its modules."""
