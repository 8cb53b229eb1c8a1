"""Machines that a script starts as somebody else's, and what a test does with them."""

from __future__ import annotations

import contextlib
import json
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import board_machine

from pytest_kgdb.process import Child
from pytest_kgdb.session import BoardSession

STARTS = 60.0  # seconds
SCRIPT = Path(board_machine.__file__)


class Started:
    """A machine that runs, with its lines."""

    def __init__(self, directory: Path, child: Child) -> None:
        self.directory = directory
        self.child = child
        self.console = directory / "console"
        self.kgdb = directory / "kgdb"
        self.reset_command = f"{sys.executable} {SCRIPT} {directory} reset"
        self.ports: dict[str, dict[str, int]] = json.loads((directory / "ports").read_text())

    def ask(self, command: str, **words: Any) -> Any:
        return board_machine.ask(self.directory, command, **words)

    def lines(self) -> dict[str, str]:
        """The settings that name its lines."""
        if not self.kgdb.is_symlink():
            return {"target": f"serial:{self.console}"}
        return {"target": f"serial:{self.kgdb}", "console": str(self.console)}


Start = Callable[..., Started]


@contextlib.contextmanager
def starting(directory: Path, kernel: Any, initrd: Any, *options: str) -> Iterator[Started]:
    argv = [sys.executable, str(SCRIPT), str(directory), f"--image={kernel.image}"]
    argv += [f"--initrd={initrd.path}", *options]
    child = Child.spawn(argv, name="board", log=directory / "board.log")
    try:
        end = time.monotonic() + STARTS
        while not (directory / "control").exists():
            assert child.poll() is None, child.tail(20)
            assert time.monotonic() < end, child.tail(20)
            time.sleep(0.02)
        yield Started(directory, child)
    finally:
        child.kill()


Open = Callable[..., BoardSession]
