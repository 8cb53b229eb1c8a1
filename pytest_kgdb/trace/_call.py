"""One call of a function that an instrument has seen."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

from ..errors import KgdbError
from ..escape import clean_name
from ..rsp import Event
from ._functions import Collected, FunctionEntry

__all__ = ["Call", "TaskAtCall", "number_of"]


@dataclass(frozen=True)
class TaskAtCall:
    """The task that was on the CPU."""

    address: int
    """Its `struct task_struct *`."""
    pid: int
    tgid: int
    comm: str

    def is_still(self, pid: int, tgid: int) -> bool:
        """Whether it is the task that has its memory now, which has these numbers (for the spy).

        A thread that replaces its program takes its process's number (fs/exec.c, de_thread).
        """
        return pid == self.pid or (tgid == self.tgid and pid == tgid)

    def __str__(self) -> str:
        return f"{clean_name(self.comm)}[{self.pid}]"


class Call:
    """One call of a function, as it was when it was made."""

    def __init__(self, function: str, number: int, entry: FunctionEntry, event: Event) -> None:
        now = entry.read_context(event)
        self._entry = entry
        self.host_time = time.monotonic()
        """When it was seen, by the host's `time.monotonic()`."""
        self.function = function
        self.copy = entry.copy or function
        """Which of gcc's copies of the function was called: `foo.constprop.0`; `foo` of none."""
        self.number = number
        """Counts the calls from 1."""
        self.args = Collected(f"{function}()", entry.read_arguments(event))
        """The arguments by name: numbers, and of a `char *` what it points at, too."""
        self.collected = Collected("the call", entry.read_expressions(event))
        """The expressions that were asked for, as they are written."""
        self.task = TaskAtCall(
            number_of(now["task"]), number_of(now["pid"]), number_of(now["tgid"]), str(now["comm"])
        )
        self.cpu = number_of(now["cpu"])
        self.time = number_of(now["time"]) / 1e9
        """The guest's seconds since it booted, as of its last tick."""
        self._returned: Any = None
        self._not_returned: str | None = "it has not returned"

    def __getitem__(self, name: str) -> Any:
        """Return an expression that was asked for, or an argument."""
        return self.collected[name] if name in self.collected else self.args[name]

    @property
    def returned(self) -> bool:
        """Whether the return has been seen."""
        return self._not_returned is None

    @property
    def return_value(self) -> Any:
        """What the call returned; None for a void function, a dictionary for a structure.

        :raises KgdbError: it was not asked for, the call has not returned, or it cannot be read.
        """
        if self._not_returned is not None:
            raise KgdbError(f"call {self.number} of {self.function}: {self._not_returned}")
        if isinstance(self._returned, KgdbError):
            error = self._returned
            raise KgdbError(
                f"call {self.number} of {self.function}: {error.message}", hint=error.hint
            )
        return self._returned

    def note_return(self, event: Event) -> None:
        """Note that the call has returned, and what (for the spy)."""
        returns = self._entry.returns
        if not self._entry.keeps_result:
            self._returned = KgdbError(
                f"gcc may have removed what {self.copy} returns: no caller is seen to use it",
                hint="what it is in the source cannot be told; collect where it is stored, or "
                "spy on what it calls",
            )
            self._not_returned = None
            return
        try:
            self._returned = event.registers["ax"] if returns is None else returns.read(event)
        except KgdbError as error:
            self._returned = error
        self._not_returned = None

    def note_register(self, register: int | None, event: Event) -> None:
        """Note that the call returned with that in the return register (for instruments)."""
        returns = self._entry.returns
        self._returned = register if returns is None else returns.decode(register or 0, event.read)
        self._not_returned = None

    def no_return(self, why: str) -> None:
        """Note why the return will not be seen (for the spy)."""
        self._not_returned = why

    def __repr__(self) -> str:
        args = ", ".join(f"{name}={_shown(self.args, name)}" for name in self.args)
        more = "".join(f", {name}: {_shown(self.collected, name)}" for name in self.collected)
        result = f" = {self._returned!r}" if self.returned else ""
        if isinstance(self._returned, KgdbError):
            result = " = ?"
        return f"<{self.number}: {self.copy}({args}){result} by {self.task.comm}{more}>"


def _shown(values: Collected, name: str) -> str:
    try:
        return repr(values[name])
    except KgdbError:
        return "?"


def number_of(value: object) -> int:
    return value if isinstance(value, int) else 0
