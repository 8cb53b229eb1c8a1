"""gdb for a person, on the same gdb that the tests use."""

from __future__ import annotations

import contextlib
import os
import select
import sys
import termios
import tty
from collections.abc import Iterator
from typing import Final

from ..debugger import Gdb
from ..errors import ConfigError

__all__ = ["attach"]

_LEAVE: Final = b"\x1d"  # Ctrl-]


def attach(gdb: Gdb) -> None:
    """Connect the terminal to a prompt of gdb's, until Ctrl-] or the end of gdb.

    gdb opens a second user interface (gdb manual, "Interpreters", `new-ui`) on a terminal of
    ours, which is copied to and from the real one.

    :raises ConfigError: standard input is not a terminal.
    """
    if not sys.stdin.isatty():
        raise ConfigError(
            "attaching needs a terminal, and standard input is none",
            hint="run it by hand, without -n and without redirection",
        )
    ours, theirs = os.openpty()
    try:
        settings = termios.tcgetattr(theirs)
        settings[1] |= termios.ONLCR
        termios.tcsetattr(theirs, termios.TCSANOW, settings)
        gdb.command(f'-interpreter-exec console "new-ui console {os.ttyname(theirs)}"')
        print("gdb on the live kernel; Ctrl-] leaves it.", flush=True)
        with _raw(sys.stdin.fileno()):
            _copy(sys.stdin.fileno(), sys.stdout.fileno(), ours, gdb)
    finally:
        os.close(ours)
        os.close(theirs)
    print()


def _copy(source: int, sink: int, terminal: int, gdb: Gdb) -> None:
    while gdb.alive:
        ready, _, _ = select.select([source, terminal], [], [], 0.2)
        if terminal in ready:
            os.write(sink, os.read(terminal, 65536))
        if source in ready:
            typed = os.read(source, 4096)
            if not typed or _LEAVE in typed:
                return
            os.write(terminal, typed)


@contextlib.contextmanager
def _raw(descriptor: int) -> Iterator[None]:
    before = termios.tcgetattr(descriptor)
    tty.setraw(descriptor)
    try:
        yield
    finally:
        termios.tcsetattr(descriptor, termios.TCSADRAIN, before)
