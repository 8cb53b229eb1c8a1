"""What a kernel does that does not come to where gdb can be connected to it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from ..diagnosis import Diagnosis
from ..handle import CpuStacks
from ..kernel import Kernel
from ..machine import Machine
from ..memory import KernelMemory

__all__ = ["diagnose_boot"]


def diagnose_boot(machine: Machine, kernel: Kernel) -> Diagnosis:
    """Return what a booting kernel does, which nobody is connected to yet."""
    spec = machine.spec
    memory = KernelMemory(
        vmlinux=kernel.vmlinux,
        ram=machine.ram,
        memory_bytes=spec.memory << 20,
        machine=spec.arch.machine,
        stop_state=_Booting(),
    )
    view = _BootingMachine(machine)
    try:
        return CpuStacks(view, memory, kernel.debug_source, paused=view.paused).diagnose()
    finally:
        memory.close()


class _BootingMachine:
    """Shows the machine while its kernel boots (handle.RunningView)."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self.status, self.registers = machine.status, machine.registers

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Have the machine paused."""
        self._machine.stop()
        try:
            yield
        finally:
            self._machine.cont()


class _Booting:
    """The state of a kernel that runs (memory.StopState)."""

    stopped = False
    generation = 0
