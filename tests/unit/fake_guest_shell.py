"""A guest with a shell, as recipes use it: commands are answered by functions of the test's."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from pytest_kgdb.console import Result


class ShellConsole:
    """A console that shows what commands do."""

    log = Path("console.log")

    def __init__(self) -> None:
        self.text = b""

    def mark(self) -> int:
        return len(self.text)

    def since(self, mark: int = 0) -> bytes:
        return self.text[mark:]

    def shown(self, mark: int = 0) -> str:
        return self.text[mark:].decode()


class FakeShell:
    """Answers commands by the first answer whose key is in the command."""

    def __init__(self) -> None:
        self.console = ShellConsole()
        self.commands: list[str] = []
        self.timeouts: list[float | None] = []
        self.answers: dict[str, Callable[[], Result] | Result | str] = {}

    def run(self, command: str, timeout: float | None = None, **_: Any) -> Result:
        self.commands.append(command)
        self.timeouts.append(timeout)
        for key, answer in self.answers.items():
            if key in command:
                if isinstance(answer, Result):
                    return answer
                return Result(0, answer) if isinstance(answer, str) else answer()
        return Result(0, "")


class StopState:
    """Run control, as recipes ask it."""

    def __init__(self) -> None:
        self.stopped = self.alive = True
        self.stop: Any = SimpleNamespace(reason="interrupt", message=None)
        self.interrupts = 0

    def interrupt(self) -> None:
        self.interrupts += 1
