"""gdb for a person, on the same gdb that the tests use, with the guest's console on a key."""

from __future__ import annotations

import contextlib
import os
import re
import select
import shutil
import sys
import termios
import tty
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Final

from ..debugger import in_a_line
from ..errors import ConfigError, KgdbError
from ..escape import clean
from ..kernel import gdb_scripts

if TYPE_CHECKING:
    from ..cache import Cache
    from ..handle import Attachment
    from ..settings import Settings

__all__ = ["attach", "load_scripts"]

_LEAVE: Final = b"\x1d"
_END: Final = b"\x1c"
_CONSOLE: Final = b"\x14"
_INTERRUPT: Final = b"\x03"
_KEYS: Final = re.compile(rb"([\x03\x14\x1c\x1d])")

_LOOK_SECONDS: Final = 0.05  # for news of the console, while it is shown
_SCREEN_BYTES: Final = 2000
_STOP_SECONDS: Final = 5.0  # that a kernel which a person left running has to stop

# What a person wants to see, and a test's own reading does without: a stop's record would have the
# arguments of all frames, and paths are those of the host that has built the kernel.
_MANNERS: Final = (
    ("print frame-arguments", "scalars", "none"),
    ("filename-display", "basename", "relative"),
)


def attach(
    attachment: Attachment,
    say: Callable[[str], None],
    *,
    unpack: Callable[[], None] | None = None,
    tests: bool = False,
    commands: Sequence[str] = ("frame",),
) -> bool:
    """Give the user gdb on a kernel as it is, in the terminal.

    gdb opens a second user interface (gdb manual, "Interpreters", `new-ui`) on a terminal of
    ours, which is copied to and from the real one.

    :param say: is told why there are no source lines, if there are none.
    :param unpack: makes the kernel's source files available; all of them, by default.
    :param tests: whether tests go on afterwards.
    :param commands: gdb's commands to begin with.
    :return: whether the user wants the run of the tests to end.
    :raises ConfigError: standard input is not a terminal.
    """
    if not sys.stdin.isatty():
        raise ConfigError(
            "attaching needs a terminal, and standard input is none",
            hint="run it by hand, without -n and without redirection",
        )
    attachment.spoil_gdb()  # whatever is typed there
    try:
        if unpack is None:
            attachment.unpack_sources(True)
        else:
            unpack()
    except KgdbError as error:  # gdb is of use without lines, too
        say(error.message)
    with contextlib.ExitStack() as stack:
        stack.enter_context(_manners(attachment))
        ours, theirs = os.openpty()
        stack.callback(os.close, ours)
        stack.callback(os.close, theirs)
        settings = termios.tcgetattr(theirs)
        settings[1] |= termios.ONLCR
        termios.tcsetattr(theirs, termios.TCSANOW, settings)
        attachment.gdb.command(f'-interpreter-exec console "new-ui console {os.ttyname(theirs)}"')
        print("\n".join(_banner(attachment, tests=tests)), flush=True)
        # Typed, so that gdb shows its answers there.
        os.write(ours, "".join(f"{command}\n" for command in commands).encode())
        stack.callback(print)
        stack.enter_context(_raw(sys.stdin.fileno()))
        prompt = _Prompt(attachment, ours, sys.stdin.fileno(), sys.stdout.fileno())
        return prompt.run() and tests


def load_scripts(
    attachment: Attachment, settings: Settings, cache: Cache, say: Callable[[str], None]
) -> None:
    """Have the kernel's own commands in gdb, if the user trusts the tree that they are from.

    :param say: is told of them, and why there are none.
    """
    if not settings.trust_scripts:
        return
    # Made again each time, as a test may have had the files of the last.
    directory = attachment.machine.directory / "gdb-scripts"
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir()
    try:
        script = gdb_scripts(attachment.kernel, cache, directory)
        attachment.spoil_gdb()
        attachment.debugger.console(f"source {script}")
        say(f"lx- commands: {script}; `apropos lx-` lists them")
    except KgdbError as error:
        say(f"lx- commands: there are none: {error.message}")


def _banner(attachment: Attachment, *, tests: bool) -> list[str]:
    stop = attachment.run_control.stop
    where = "running" if stop is None else f"stopped: {clean(in_a_line(stop))}"
    keys = [("Ctrl-]", "leave gdb; the tests go on" if tests else "leave gdb, and end the machine")]
    if tests:
        keys.append(("Ctrl-\\", "leave gdb, and end the tests"))
    keys.append(("Ctrl-T", "the guest's console, and back to gdb"))
    keys.append(("Ctrl-C", "stop the running kernel"))
    lines = [f"  {key:<7} {text}" for key, text in keys]
    return [f"gdb on Linux {attachment.kernel.release}, {where}", *lines]


@contextlib.contextmanager
def _manners(attachment: Attachment) -> Iterator[None]:
    """Have gdb print for a person meanwhile."""
    debugger, relay = attachment.debugger, attachment.relay
    for name, value, _ in _MANNERS:
        debugger.console(f"set {name} {value}")
    relay.list_all_threads = True
    try:
        yield
    finally:
        relay.list_all_threads = False
        with contextlib.suppress(KgdbError):
            if attachment.gdb.alive:
                _stop_again(attachment)
                for name, _, value in _MANNERS:
                    debugger.console(f"set {name} {value}")


def _stop_again(attachment: Attachment) -> None:
    """Have the kernel stopped, and the handle know of it, whatever was done at the prompt."""
    control = attachment.run_control
    if attachment.gdb.target_running:
        control.request_stop()
    control.adopt_resume(_STOP_SECONDS, interrupted=True)


class _Prompt:
    """Copies between the real terminal, and gdb's or the guest's console.

    :param terminal: our end of gdb's.
    :param source: descriptor of what is typed.
    :param sink: descriptor of what is shown.
    """

    def __init__(self, attachment: Attachment, terminal: int, source: int, sink: int) -> None:
        self._attachment = attachment
        self._gdb = attachment.gdb
        self._console = attachment.machine.console
        self._terminal, self._source, self._sink = terminal, source, sink
        self._console_shown = False
        self._mark = self._console.mark()

    def run(self) -> bool:
        """Copy until the user leaves, or gdb ends; return whether everything is to end."""
        while self._gdb.alive:
            wait = _LOOK_SECONDS if self._console_shown else 0.2
            ready, _, _ = select.select([self._source, self._terminal], [], [], wait)
            if self._console_shown:
                self._show_console()
            if self._terminal in ready:
                output = os.read(self._terminal, 65536)
                if self._console_shown:  # the kernel has stopped
                    self._show_gdb()
                self._write(output)
            if self._source in ready:
                typed = os.read(self._source, 4096)
                if not typed:
                    return False
                for piece in _KEYS.split(typed):
                    if piece in (_LEAVE, _END):
                        return piece == _END
                    self._take(piece)
        return False

    def _take(self, typed: bytes) -> None:
        if typed == _CONSOLE:
            if self._console_shown:
                self._show_gdb()
            else:
                self._switch_to_console()
        elif self._console_shown:
            self._to_guest(typed)
        elif typed == _INTERRUPT and self._gdb.target_running:
            try:
                self._attachment.run_control.request_stop()
            except KgdbError as error:
                self._say(error.message)
        else:
            os.write(self._terminal, typed)

    # The guest's console

    def _switch_to_console(self) -> None:
        self._console_shown = True
        # What it has shown meanwhile comes first, as far as a screen has room.
        self._mark = max(self._mark, self._console.mark() - _SCREEN_BYTES)
        state = "" if self._gdb.target_running else "; the kernel is stopped, and reads it later"
        self._say(f"the guest's console{state}; Ctrl-T: gdb")

    def _show_gdb(self) -> None:
        self._console_shown = False
        self._say("gdb; Ctrl-T: the guest's console")

    def _show_console(self) -> None:
        data = self._console.since(self._mark)
        self._mark += len(data)
        if data:
            # A guest is not trusted with the terminal.
            text = clean(data.decode("utf-8", "replace"))
            self._write(text.replace("\n", "\r\n").encode())

    def _to_guest(self, typed: bytes) -> None:
        if not typed:
            return
        self._write(_echo(typed))  # the guest's shell does not
        try:
            self._console.send(typed.replace(b"\r", b"\n"))
        except KgdbError as error:
            self._say(error.message)

    # The terminal

    def _say(self, text: str) -> None:
        self._write(f"\r\n[{text}]\r\n".encode())

    def _write(self, data: bytes) -> None:
        while data:
            data = data[os.write(self._sink, data) :]


def _echo(typed: bytes) -> bytes:
    shown = typed.replace(b"\r", b"\r\n").replace(b"\x7f", b"\b \b")
    return re.sub(rb"[\x00-\x07\x0b\x0c\x0e-\x1f]", b"", shown)


@contextlib.contextmanager
def _raw(descriptor: int) -> Iterator[None]:
    before = termios.tcgetattr(descriptor)
    tty.setraw(descriptor)
    try:
        yield
    finally:
        termios.tcsetattr(descriptor, termios.TCSADRAIN, before)
