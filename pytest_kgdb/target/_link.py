"""What the parts of the handle share: the way to gdb, and which moment of the kernel it is."""

from __future__ import annotations

import json
from collections.abc import Callable
from importlib import resources
from typing import Any

from ..errors import KgdbError, StaleError
from ..mi import Gdb, GdbError, c_string

__all__ = ["GdbError", "Link", "agent_path"]


def agent_path() -> str:
    """Return the path of the script that runs inside gdb."""
    return str(resources.files("pytest_kgdb") / "data" / "gdb_agent.py")


class Link:
    """The way to gdb, and the kernel's moments.

    A moment ends when the kernel runs, were it for one instruction. Whatever was read in an
    earlier one is stale.

    :param gdb: the conversation with gdb.
    :param moment: the first moment's number.
    :param first_cause: turns an error of gdb's into the error behind it, when QEMU or the
        kernel went away underneath.
    """

    def __init__(
        self, gdb: Gdb, *, moment: int, first_cause: Callable[[KgdbError], KgdbError]
    ) -> None:
        self.gdb = gdb
        self.moment = moment
        self.writes = 0  # memory was written so often; values read before are read anew
        self.stopped = False
        self.by_qemu = False  # gdb is on QEMU's stub: nothing is in kgdb's own variables
        self._first_cause = first_cause

    def moved(self) -> None:
        """The kernel is about to move: what was read so far becomes stale."""
        self.moment += 1
        self.stopped = False

    def check(self, moment: int, what: str) -> None:
        """:raises StaleError: `what` was taken in an earlier moment, or the kernel runs."""
        if moment != self.moment:
            raise StaleError(
                f"{what} is of an earlier stop; the kernel has moved on since",
                hint="read it again at this stop, or keep int(), str() or .string() of it",
            )

    def require_stopped(self, what: str, error: type[KgdbError] = KgdbError) -> None:
        """:raises KgdbError: the kernel runs; of the class that is given."""
        if not self.stopped:
            raise error(
                f"{what} needs a stopped kernel, and this one runs",
                hint="stop it first: interrupt(), or wait() for a breakpoint",
            )

    def ask(self, operation: str, **arguments: Any) -> dict[str, Any]:
        """Have the agent inside gdb do something.

        :raises GdbError: gdb refused, with its own words.
        """
        request = json.dumps({"op": operation, **arguments})
        payload = self.command(f"-kgdb {c_string(request)}")
        answer: dict[str, Any] = json.loads(payload["json"])
        return answer

    def numbers(self, *expressions: str) -> list[int]:
        """Evaluate several expressions at once."""
        answer = self.ask("numbers", expressions=expressions)
        return [int(number) for number in answer["numbers"]]

    def command(self, command: str, *, timeout: float | None = None) -> Any:
        """Run an MI command; an error has its first cause."""
        try:
            return self.gdb.command(command, timeout=timeout)
        except KgdbError as error:
            cause = self._first_cause(error)
            if cause is error:
                raise
            raise cause from error

    def console(self, command: str) -> str:
        """Run a command of gdb's command line; an error has its first cause."""
        try:
            return self.gdb.console(command)
        except KgdbError as error:
            cause = self._first_cause(error)
            if cause is error:
                raise
            raise cause from error
