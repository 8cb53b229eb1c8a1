"""The handle's chapter of data: values, memory, drgn, gdb's own commands."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from ..actions import recorded
from ..debugger import Task, Value, check_type, evaluate, expression_of, object_of, per_cpu
from ..errors import StaleError
from ..memory import virtual_address
from ._base import Base

if TYPE_CHECKING:
    import drgn

__all__ = ["Inspecting"]

# Bytes that one MI command writes.
_WRITE_BYTES: Final = 512


@recorded(
    "evaluate",
    "per_cpu",
    "assign",
    "read",
    "write",
    "execute",
    "stack_trace",
    "read_user",
    "dump",
    "save",
    "dmesg",
)
class Inspecting(Base):
    """Reads the stopped kernel's data, and changes it."""

    def evaluate(self, expression: str | drgn.Object) -> Value:
        """Evaluate a C expression in the selected frame; `current` is the stopped CPU's task.

        :param expression: or an object of drgn's, to have it as gdb's value.
        :raises KgdbError: gdb cannot; the message is its own.
        """
        __tracebackhide__ = True
        self._run_control.require_stopped("evaluate()")
        text = expression if isinstance(expression, str) else expression_of(expression)
        self._slot.require().note_expression(text)
        value = evaluate(self._debugger, text)
        if not isinstance(expression, str):
            check_type(value, expression)
        return value

    def drgn_object(self, value: Value) -> drgn.Object:
        """Return drgn's object for a value of gdb's.

        :raises KgdbError: it is nowhere in memory and no number, or drgn does not find its type.
        """
        __tracebackhide__ = True
        return object_of(self.program, value)

    def per_cpu(self, variable: str, cpu: int | None = None) -> Value:
        """Return a CPU's own copy of a per-CPU variable; of the CPU that stopped by default.

        :raises KgdbError: there is no such variable or CPU.
        """
        __tracebackhide__ = True
        self._run_control.require_stopped("per_cpu()")
        if cpu is None:
            cpu = self._run_control.wait().cpu
        return per_cpu(self._debugger, variable, cpu)

    @property
    def current(self) -> Task:
        """The task on the CPU that stopped, the kernel's `current`."""
        self._run_control.require_stopped("current")
        return self._run_control.wait().task

    def assign(self, expression: str, value: object) -> None:
        """Assign to a variable, a member, a register (`$rax`).

        :param value: a number, a C expression, or an error by its name (`"-ENOMEM"`). Only
            a whole number is assigned to an integer, a truth value, an enumeration or a pointer.
        :raises KgdbError: gdb cannot, and the message is its own; or the number does not fit.
        """
        __tracebackhide__ = True
        self._slot.require().assign(expression, value)

    def read(self, address: int, size: int) -> bytes:
        """Read the kernel's virtual memory.

        :param address: as a signed number, too: a `long` that is an address is negative.
        :param size: bytes.
        :raises KgdbError: not all of it is mapped.
        """
        __tracebackhide__ = True
        self._run_control.require_stopped("read()", StaleError)
        return self._slot.require().memory.read(int(address), int(size))

    def write(self, address: int, data: bytes) -> None:
        """Write to the kernel's virtual memory.

        :param address: as for :meth:`read`.
        :raises KgdbError: it is not mapped.
        """
        __tracebackhide__ = True
        attachment = self._slot.require()
        attachment.run_control.require_stopped("write()")
        # Through gdb, not into guest memory: QEMU must learn of changed instructions.
        start = virtual_address(int(address))
        what = f"cannot write {len(data)} bytes at {start:#x}"
        try:
            with attachment.explaining_refusal(what):
                for at in range(0, len(data), _WRITE_BYTES):
                    piece = bytes(data[at : at + _WRITE_BYTES])
                    attachment.debugger.command(
                        f"-data-write-memory-bytes {start + at:#x} {piece.hex()}"
                    )
        finally:
            attachment.wrote()  # as far as it came

    def execute(self, gdb_command: str, timeout: float | None = None) -> str:
        """Run a command as typed at gdb's prompt; return what gdb, or a shell, printed.

        A command that resumes the kernel (`continue`, `finish`) is followed: this returns at the
        next stop. A text of several lines is a script (`python`, `commands`, `define`, `if`).

        :param timeout: seconds for the command, and for the next stop; the marker's or
            `--kgdb-timeout` otherwise.
        :raises TimeoutError: gdb, or the kernel, did not come to an end in that time.
        :raises KgdbError: gdb refused it; the message is its own. Or it would cost the handle its
            gdb (`detach`, `kill`, `continue&`), and the message says what works.
        """
        __tracebackhide__ = True
        attachment = self._slot.require()
        attachment.run_control.require_stopped("execute()")
        return attachment.prompt.execute(gdb_command, timeout)

    @property
    def program(self) -> drgn.Program:
        """The stopped kernel as a drgn program."""
        self._run_control.require_stopped("program", StaleError)
        return self._slot.require().memory.program

    @property
    def physical(self) -> Any:
        """The guest's physical memory: `read`, `write`, `find`."""
        self._run_control.require_stopped("physical", StaleError)
        return self._slot.require().memory.physical

    def stack_trace(self, task: drgn.Object | Value | int) -> drgn.StackTrace:
        """Return the stack of any task, asleep or stopped on its CPU.

        :param task: a pid, or a `struct task_struct *` of drgn's or of `evaluate()`'s.
        :raises KgdbError: there is no such task.
        """
        __tracebackhide__ = True
        self._run_control.require_stopped("stack_trace()", StaleError)
        return self._slot.require().memory.stack_trace(self._task(task))

    def _task(self, task: drgn.Object | Value | int) -> drgn.Object | int:
        """Return a task as drgn has it, or its pid."""
        if not isinstance(task, Value):
            return task
        if task.members:  # the structure itself
            return object_of(self.program, task).address_of_()
        return object_of(self.program, task) if task.is_pointer else int(task)

    def read_user(self, task: drgn.Object | Value | int, address: int, size: int) -> bytes:
        """Read a process's memory.

        :param task: a pid, or a `struct task_struct *` or `struct mm_struct *` of drgn's or of
            `evaluate()`'s.
        :param size: bytes.
        :raises KgdbError: not all of it is in memory.
        """
        __tracebackhide__ = True
        self._run_control.require_stopped("read_user()", StaleError)
        return self._slot.require().memory.read_user(self._task(task), int(address), int(size))

    def dump(self, path: Path | str) -> Path:
        """Write a vmcore, which drgn and crash(8) open; a running kernel is paused for it.

        :param path: where; the directory must be there.
        :return: where it is.
        :raises KgdbError: it cannot be written.
        """
        __tracebackhide__ = True
        place = Path(path).absolute()
        self._slot.require().dump(place)
        return place

    def save(self, path: Path | str) -> Path:
        """Save the whole machine as one file, which `pytest-kgdb attach FILE` opens elsewhere.

        A running kernel is stopped for it, and goes on, unless it comes to a breakpoint first.

        :param path: where; the directory must be there.
        :return: where it is.
        :raises KgdbError: it cannot be saved.
        """
        __tracebackhide__ = True
        place = Path(path).absolute()
        self._slot.require().save(place)
        return place

    def dmesg(self) -> str:
        """Return the kernel's log buffer, as dmesg(1) shows it."""
        __tracebackhide__ = True
        self._run_control.require_stopped("dmesg()", StaleError)
        return self._slot.require().memory.dmesg()
