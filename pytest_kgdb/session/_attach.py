"""gdb for a person, on the same gdb that the tests use."""

from __future__ import annotations

import contextlib
import os
import select
import sys
import termios
import tty
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Final

from ..debugger import Gdb
from ..errors import ConfigError, KgdbError

if TYPE_CHECKING:
    from ..handle import Attachment

__all__ = ["attach", "attach_to"]

_LEAVE: Final = b"\x1d"  # Ctrl-]


def attach_to(
    attachment: Attachment,
    say: Callable[[str], None],
    unpack: Callable[[], None] | None = None,
) -> None:
    """Give the user gdb on a kernel as it is.

    :param say: is told why there are no source lines, if there are none.
    :param unpack: makes the kernel's source files available; all of them, by default.
    :raises ConfigError: there is no terminal.
    """
    attachment.spoil_gdb()  # whatever is typed there
    try:
        if unpack is None:
            attachment.unpack_sources(True)
        else:
            unpack()
    except KgdbError as error:  # gdb is of use without lines, too
        say(error.message)
    relay = attachment.relay
    relay.list_all_threads = True
    try:
        attach(attachment.gdb)
    finally:
        relay.list_all_threads = False


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
        os.write(ours, b"frame\n")  # typed, so that gdb shows where the kernel is
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
