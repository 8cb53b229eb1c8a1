"""gdb as the rest of the debugger uses it: MI commands, and requests to the agent inside gdb."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, Literal, Protocol, TypeVar

from ..errors import DebuggerDied, KgdbError
from ._generation import Generation
from ._mi import GdbError, c_string

__all__ = ["Debugger", "Door"]

Door = Literal["kgdb", "qemu"]
"""Whose stub gdb is connected to: the kernel's own, or QEMU's."""

_T = TypeVar("_T")

# gdb/mi/mi-parse.c: the agent's command, where its files failed.
_NO_AGENT: Final = "Undefined MI command: kgdb"

# gdb/corefile.c, memory_error_message
_MEMORY_ERROR: Final = re.compile(r"Cannot access memory at address (0x[0-9a-f]+)")


class MiCommands(Protocol):
    """The part of :class:`Gdb` that is used here."""

    @property
    def transcript(self) -> Path:
        """The file with the conversation."""

    def command(self, command: str, *, timeout: float | None = None) -> Any:
        """Run an MI command."""

    def command_text(self, command: str, *, timeout: float | None = None) -> str:
        """Run an MI command and return what it printed."""

    def console(self, command: str, *, timeout: float | None = None, messages: bool = False) -> str:
        """Run a command of gdb's command line."""


class Debugger:
    """Runs commands in gdb, and names the first cause where one fails.

    :param generation: the present stop generation, for values and frames.
    :param door: whose stub gdb is connected to.
    :param first_cause: turns an error of gdb's into the error behind it, where QEMU or the
        kernel went away.
    :param explain: tells why an address could not be read, or written.
    """

    def __init__(
        self,
        gdb: MiCommands,
        *,
        generation: Generation,
        door: Door,
        first_cause: Callable[[KgdbError], KgdbError],
        explain: Callable[[int], KgdbError | None] = lambda _address: None,
    ) -> None:
        self._gdb = gdb
        self.generation = generation
        self.door: Door = door
        self._first_cause = first_cause
        self._explain = explain

    @property
    def transcript(self) -> Path:
        """The file with the whole conversation."""
        return self._gdb.transcript

    def request(self, operation: str, **arguments: Any) -> dict[str, Any]:
        """Make the agent inside gdb do something, and return its answer.

        :raises GdbError: gdb refused, with its own words; or it is an expression that cannot be.
        :raises DebuggerDied: there is no agent: gdb could not run its files.
        """
        text = json.dumps({"op": operation, **arguments})
        try:
            payload = self.command(f"-kgdb {c_string(text)}")
        except GdbError as error:
            if error.message != _NO_AGENT:
                raise
            raise DebuggerDied(
                "gdb did not load the plugin's own part",
                log=self.transcript,
                hint="gdb says why at the beginning of the log",
            ) from error
        answer: dict[str, Any] = json.loads(payload["json"])
        if "refused" in answer:
            raise GdbError(answer["refused"], hint=answer.get("hint"), by_test=True)
        return answer

    def numbers(self, *expressions: str) -> list[int]:
        """Evaluate several expressions at once.

        :raises GdbError: gdb cannot evaluate one of them.
        """
        answer = self.request("numbers", expressions=expressions)
        return [int(number) for number in answer["numbers"]]

    def command(self, command: str, *, timeout: float | None = None) -> Any:
        """Run an MI command and return the payload of its reply.

        :param timeout: seconds; the limit of the running test otherwise.
        :raises GdbError: gdb refused it.
        :raises KgdbError: gdb, QEMU or the kernel is gone: whichever went first.
        """
        return self._run(lambda: self._gdb.command(command, timeout=timeout))

    def command_text(self, command: str) -> str:
        """Run an MI command and return what it printed.

        :raises GdbError: gdb refused it.
        :raises KgdbError: gdb, QEMU or the kernel is gone: whichever went first.
        """
        return self._run(lambda: self._gdb.command_text(command))

    def console(self, command: str, *, timeout: float | None = None, messages: bool = False) -> str:
        """Run a command of gdb's command line and return what it printed.

        :param timeout: seconds; the limit of the running test otherwise.
        :param messages: gdb's warnings and messages too.
        :raises GdbError: gdb refused it.
        :raises KgdbError: gdb, QEMU or the kernel is gone: whichever went first.
        """
        return self._run(lambda: self._gdb.console(command, timeout=timeout, messages=messages))

    def _run(self, work: Callable[[], _T]) -> _T:
        try:
            return work()
        except KgdbError as error:
            cause = self._first_cause(error)
            if cause is error:
                cause = self._explained(error)
            if cause is error:
                raise
            raise cause from error

    def _explained(self, error: KgdbError) -> KgdbError:
        """Return gdb's error about an address with the reason, where that is known."""
        match = _MEMORY_ERROR.search(error.message) if isinstance(error, GdbError) else None
        reason = self._explain(int(match[1], 16)) if match else None
        if reason is None:
            return error
        return GdbError(
            f"{error.message}: {reason.message}", log=error.log, hint=error.hint or reason.hint
        )
