"""The handle's chapter of data: values, memory, drgn, gdb's own commands."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

from ..errors import StaleError
from ._objects import expression_of, object_of, per_cpu
from ._run_control import RunControl
from ._values import Task, Value, evaluate

if TYPE_CHECKING:
    import drgn

__all__ = ["Inspect"]

# Commands of gdb's that are about threads, which are the kernel's tasks.
_THREADS: Final = re.compile(r"\s*(?:info|i)\s+th|\s*t(?:h(?:r\w*)?)?\b")


class Inspect(RunControl):
    """Looks at the stopped kernel's data, and changes it."""

    def evaluate(self, expression: str | drgn.Object) -> Value:
        """Evaluate a C expression in the selected frame; `current` is the stopped CPU's task.

        :param expression: or an object of drgn's, to have it as gdb's value.
        :raises KgdbError: gdb cannot; the message is its own.
        """
        __tracebackhide__ = True
        self._link.require_stopped("evaluate()")
        told = expression if isinstance(expression, str) else expression_of(expression)
        return evaluate(self._link, told)

    def drgn_object(self, value: Value) -> drgn.Object:
        """Return drgn's object for a value of gdb's.

        :raises KgdbError: it is nowhere in memory and no number.
        """
        __tracebackhide__ = True
        return object_of(self.program, value)

    def per_cpu(self, variable: str, cpu: int | None = None) -> Value:
        """Return a CPU's own copy of a per-CPU variable; of the CPU that stopped by default.

        :raises KgdbError: there is no such variable or CPU.
        """
        __tracebackhide__ = True
        self._link.require_stopped("per_cpu()")
        return per_cpu(self._link, variable, self.wait().cpu if cpu is None else cpu)

    @property
    def current(self) -> Task:
        """The task on the CPU that stopped, the kernel's `current`."""
        self._link.require_stopped("current")
        return self.wait().task

    def numbers(self, *expressions: str) -> list[int]:
        """Evaluate several expressions at once (for the session)."""
        return self._link.numbers(*expressions)

    def assign(self, expression: str, value: object) -> None:
        """Assign to a variable, a member, a register (`$rax`).

        :param value: a number, or a C expression.
        """
        __tracebackhide__ = True
        self._link.require_stopped("assign()")
        told = int(value) if isinstance(value, bool | Value) else value
        self._link.command(f"-gdb-set var {expression} = {told}")
        self._wrote()

    def read(self, address: int, size: int) -> bytes:
        """Read the kernel's virtual memory.

        :raises KgdbError: not all of it is mapped.
        """
        __tracebackhide__ = True
        self._link.require_stopped("read()", StaleError)
        return self._state.read(int(address), int(size))

    def write(self, address: int, data: bytes) -> None:
        """Write to the kernel's virtual memory.

        :raises KgdbError: it is not mapped.
        """
        __tracebackhide__ = True
        self._link.require_stopped("write()")
        # Through kgdb, not into guest memory: QEMU must learn of changed instructions.
        step = 512
        for start in range(0, len(data), step):
            piece = bytes(data[start : start + step])
            self._link.command(f"-data-write-memory-bytes {int(address) + start:#x} {piece.hex()}")
        self._wrote()

    def _wrote(self) -> None:
        """What was read before a write is not what is there now."""
        self._link.writes += 1
        self._state.invalidate()

    def execute(self, gdb_command: str) -> str:
        """Run a command as typed at gdb's prompt; return what it printed.

        A command that lets the kernel move (`continue`, `stepi`) is followed: it returns at the
        next stop.
        """
        __tracebackhide__ = True
        self._link.require_stopped("execute()")
        asks_threads = _THREADS.match(gdb_command) is not None
        if asks_threads:
            self.show_all_threads(True)
        try:
            text = self._link.console(gdb_command)
        finally:
            if asks_threads:
                self.show_all_threads(False)
        if not self._require().motion.follow(self.timeout):
            self._wrote()  # it may have been `set var`
        return text

    def show_all_threads(self, value: bool) -> None:
        """Let gdb list every task, which takes kgdb a while; otherwise the one that stopped."""
        self._require().relay.list_all_threads = value

    @property
    def program(self) -> drgn.Program:
        """The stopped kernel as a drgn program."""
        self._link.require_stopped("program", StaleError)
        return self._state.program

    @property
    def physical(self) -> Any:
        """The guest's physical memory: `read`, `write`, `find`."""
        self._link.require_stopped("physical", StaleError)
        return self._state.physical

    def stack_trace(self, task: drgn.Object | int) -> drgn.StackTrace:
        """Return the stack of any task, asleep or stopped on its CPU.

        :param task: a pid, or a `struct task_struct *` of drgn's.
        :raises KgdbError: there is no such task.
        """
        __tracebackhide__ = True
        self._link.require_stopped("stack_trace()", StaleError)
        return self._state.stack_trace(task)

    def read_user(self, task: drgn.Object | int, address: int, size: int) -> bytes:
        """Read a process's memory.

        :param task: a pid, or a `struct task_struct *` or `struct mm_struct *` of drgn's.
        :raises KgdbError: not all of it is in memory.
        """
        __tracebackhide__ = True
        self._link.require_stopped("read_user()", StaleError)
        return self._state.read_user(task, int(address), int(size))

    def dmesg(self) -> str:
        """Return the kernel's log buffer, as dmesg(1) shows it."""
        __tracebackhide__ = True
        self._link.require_stopped("dmesg()", StaleError)
        return self._state.dmesg()
