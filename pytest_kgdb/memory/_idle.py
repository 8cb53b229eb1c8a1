"""Whether a running kernel has nothing to do, and its shell waits: read without a stop."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..errors import KgdbError

if TYPE_CHECKING:
    from ..kernel import StopLayout
    from ._relay_memory import RelayMemory

__all__ = ["Idleness"]


class Idleness:
    """Looks at what the CPUs and the console's reader do.

    :param layout: where a CPU has its task, and the console its readers.
    :param cpus: how many CPUs the machine has.
    """

    def __init__(self, memory: RelayMemory, layout: StopLayout, cpus: int) -> None:
        self._memory = memory
        self._layout = layout
        self._cpus = range(cpus)

    def is_idle(self) -> bool:
        """Whether all CPUs have their idle task just now; also where that cannot be read."""
        try:
            return all(self._pid(cpu) == 0 for cpu in self._cpus)
        except KgdbError:
            return True

    def is_read(self) -> bool:
        """Whether a task is in a read(2) or poll(2) of the console; also where that is not known.

        As opposed to a shell that was woken by the end of its write(2), and has no CPU yet.
        """
        layout = self._layout
        if layout.console_state is None:
            return True
        try:
            state = self._word(layout.console_state, 8)
            tty = self._word(state + layout.state_tty, 8)
            waiting = tty + layout.tty_readers
            return self._word(waiting, 8) != waiting
        except KgdbError:
            return True

    def _pid(self, cpu: int) -> int:
        memory, layout = self._memory, self._layout
        # An array of `unsigned long` (arch/x86/kernel/setup_percpu.c); a kernel without CONFIG_SMP
        # has the variables themselves, in its image.
        bases = memory.symbol("__per_cpu_offset")
        base = memory.image_offset if bases is None else self._word(bases + 8 * cpu, 8)
        task = self._word((base + layout.current_task) & (1 << 64) - 1, 8)
        return self._word(task + layout.task_pid, 4)

    def _word(self, address: int, size: int) -> int:
        return int.from_bytes(self._memory.read(address, size), "little")
