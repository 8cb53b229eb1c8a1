"""What each CPU does, as QEMU sees it: for a kernel that does not stop."""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Final, Protocol

from ..debugger import StopSubscriber
from ..errors import KgdbError

__all__ = ["CpuStacks", "deaf_cpus"]

# Intel SDM volume 1, "EFLAGS Register"
_INTERRUPT_FLAG: Final = 1 << 9


class RegisterMachine(Protocol):
    """The part of the machine that is used here."""

    def registers(self) -> str:
        """Return all CPUs' registers, as QEMU's monitor shows them."""


class StackMemory(Protocol):
    """The part of the kernel's memory that is used here."""

    def cpu_stacks(self, dump: str, source: Path | None, *, registers: bool = True) -> str:
        """Return what each CPU does, by its registers, and who waits; the machine is paused."""


class CpuStacks(StopSubscriber):
    """Reads the CPUs' stacks while the machine is paused.

    :param paused: pauses the machine of a kernel that runs.
    :param source: where the debug info says that the kernel's source is.
    """

    def __init__(
        self,
        machine: RegisterMachine,
        memory: StackMemory,
        source: Path | None,
        *,
        paused: Callable[[], AbstractContextManager[None]],
    ) -> None:
        self._machine = machine
        self._paused = paused
        self._memory = memory
        self._source = source

    def read(self, *, registers: bool = True) -> str:
        """Return, for each CPU, its task, its stack and its registers, in lines.

        The tasks that wait follow, with their stacks.

        :param registers: whether the registers are wanted.
        """
        try:
            with self._paused():
                return self._memory.cpu_stacks(
                    self._machine.registers(), self._source, registers=registers
                )
        except KgdbError as error:
            return f"(not available: {error.message})"

    def activity(self) -> str:
        """Return the same without registers, for the message of a wait that ran out."""
        return self.read(registers=False)

    def diagnose(self) -> str:
        """Return the same, for the message of an interrupt that failed, and who is deaf to it."""
        stacks = self.read()
        deaf = deaf_cpus(stacks)
        if not deaf:
            return stacks
        names = ", ".join(f"CPU {cpu}" for cpu in deaf)
        return f"interrupts are off on {names}\n{stacks}"


def deaf_cpus(dump: str) -> list[int]:
    """Return the CPUs whose interrupts are off, by what QEMU's monitor shows of registers."""
    cpus = []
    for part in re.split(r"^CPU#", dump, flags=re.M)[1:]:
        flags = re.search(r"\bRFL=([0-9a-f]+)", part)
        if flags is not None and not int(flags[1], 16) & _INTERRUPT_FLAG:
            cpus.append(int(re.match(r"\d+", part)[0]))  # type: ignore[index] # QEMU numbers them
    return cpus
