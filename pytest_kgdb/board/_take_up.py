"""Taking up a board as it is: a kernel that runs, or one that waits in kgdb."""

from __future__ import annotations

import contextlib
import itertools
import re
import select
import time
from collections.abc import Callable
from typing import Final, Literal

from ..console import ANY_ANSWER, new_tag
from ..deadline import Deadline
from ..errors import BootError, ConfigError, KgdbError, TimeoutError
from ..escape import clean
from ..klog import console_panic
from ..rsp import Decoder, encode
from ._board import Board
from ._interrupt import BoardInterrupt

__all__ = ["await_kgdb", "await_shell", "stop_running", "take_up"]

# kernel/debug/debug_core.c, kgdb_initial_breakpoint
_KGDB_WAITS: Final = re.compile(rb"KGDB: Waiting for connection from remote gdb")
# What getty(8) and login(1) print, at the end of what there is.
_LOGIN: Final = re.compile(rb"(?:[\w.-]+ login|[Pp]assword): *$")

# As console.question(), without quotes: a shell that gets the end of it only waits for no more.
_QUESTION: Final = r"printf \\006%%s\\n %s"

_QUERY: Final = b"?"
_KILL: Final = b"\x15"  # forgets a line that was typed (drivers/tty/n_tty.c, VKILL)

_INTERRUPT: Final = b"\x03"
_INTERRUPTS: Final = 5  # of so many questions one is asked with it

_KGDB_SECONDS: Final = 1.0  # in which a kgdb that waits answers
_ENTERS_SECONDS: Final = 4.0  # in which a kernel that was asked to enters kgdb
_QUERY_SECONDS: Final = 0.5  # after which a kgdb that did not answer is asked again
_SHELL_SECONDS: Final = 1.0  # after which a shell is asked again
_LEFT_OVER_SECONDS: Final = 0.2

# Bytes that text has, our marks included; more than this share of others is none.
_TEXT: Final = bytes(range(0x20, 0x7F)) + b"\r\n\t\x07\x08\x1b\x06\x1d\x1e\x1f\x15"
_GARBAGE: Final = 0.3
_GARBAGE_BYTES: Final = 6


def take_up(board: Board, interrupt: BoardInterrupt) -> Literal["int3", "interrupt"]:
    """Have the kernel stopped in kgdb, whatever it does; return why it is.

    :raises ConfigError: the console wants a login, or the speed is wrong.
    :raises KgdbError: the board does not answer.
    """
    if _kgdb_answers(board, _KGDB_SECONDS):
        return "int3"
    if await_shell(board, board.waits.deadline()) == "kgdb":
        return "int3"
    stop_running(board, interrupt)
    return "interrupt"


def stop_running(board: Board, interrupt: BoardInterrupt) -> None:
    """Have a kernel that runs, and has a shell at its prompt, enter kgdb.

    :raises KgdbError: it does not.
    """
    if interrupt.by_break:
        interrupt.send()
        if _kgdb_answers(board, _ENTERS_SECONDS):
            return
        interrupt.by_break = False
    interrupt.send()
    if not _kgdb_answers(board, _ENTERS_SECONDS):
        raise _no_kgdb(board)


def await_kgdb(board: Board, timeout: float) -> None:
    """Wait until a kernel that boots waits for its debugger.

    :raises BootError: it did not.
    """
    board.console.wait_for(_KGDB_WAITS, mark=board.boot_mark, timeout=timeout)
    if not _kgdb_answers(board, _ENTERS_SECONDS):
        raise _no_kgdb(board)


def await_shell(
    board: Board, deadline: Deadline, meanwhile: Callable[[], None] = lambda: None
) -> Literal["shell", "kgdb"]:
    """Wait for a root shell on the console, and have it as it is needed.

    :param meanwhile: is called while it waits; may raise to end the wait.
    :return: `kgdb` if the kernel waits for its debugger instead.
    :raises ConfigError: the console wants a login, or the speed is wrong.
    :raises KgdbError: no shell answered.
    """
    console = board.console
    mark = console.mark()
    for number in itertools.count(1):
        # Now and then also for a shell that waits for the rest of something, or a program.
        console.send(_KILL if number % _INTERRUPTS else _INTERRUPT + _KILL)
        console.sendline(_QUESTION % new_tag())
        with contextlib.suppress(TimeoutError):
            seconds = min(_SHELL_SECONDS, max(deadline.left, 0.1))
            console.wait_for(ANY_ANSWER, mark=mark, timeout=seconds, meanwhile=meanwhile)
            break
        text = console.since(mark)
        _check_speed(board, text)
        if _LOGIN.search(text):
            raise ConfigError(
                f"the console of {board.name} wants a login:\n{console.tail(3)}",
                log=console.log,
                hint="tests need a root shell there: log in, or have the getty do it "
                "(agetty --autologin root; docs/board.md)",
            )
        if (words := console_panic(board.boot_text, whole=True)) is not None:
            raise BootError(
                f"the kernel of {board.name} has panicked: {clean(words)}\n"
                f"the console's last lines are:\n{console.tail()}",
                log=console.log,
                hint="reset it; --kgdb-reset=COMMAND does it for each test",
                by_kernel=True,
            )
        if _KGDB_WAITS.search(text) and _kgdb_answers(board, _KGDB_SECONDS):
            return "kgdb"
        if deadline.expired:
            raise _no_answer(board, text, deadline)
    _set_up_shell(board, mark)
    return "shell"


def _set_up_shell(board: Board, mark: int) -> None:
    """Have a shell that echoes nothing and edits no lines, and sysrq allowed."""
    console = board.console
    # What ignoreeof is for: data/initrd/shell.
    console.sendline(
        "stty -echo; [ -z \"$BASH_VERSION\" ] || exec sh; set -o ignoreeof; PS1='# ' PS2="
    )
    console.synchronise()
    if b"printf \\\\006" in console.since(mark):
        board.echoes = True
    user = console.run("id -u").output.strip()
    if user != "0":
        raise ConfigError(
            f"the shell on the console of {board.name} is of the user with the id {user}",
            log=console.log,
            hint="tests need root's",
        )
    console.run("echo 1 >/proc/sys/kernel/sysrq")


def _kgdb_answers(board: Board, seconds: float) -> bool:
    """Ask kgdb why the kernel is stopped; False if nobody answers.

    It removes the breakpoints that there were (kernel/debug/gdbstub.c, gdb_cmd_status).
    """
    lines = board.lines
    end = time.monotonic() + seconds
    answered = False
    decoder = Decoder()
    with lines.connect_kgdb() as connection:
        while (left := end - time.monotonic()) > 0:
            if not answered:
                # Again and again: one that is not in kgdb yet types it into the console.
                connection.sendall(encode(_QUERY))
            if not select.select([connection], [], [], min(left, _QUERY_SECONDS))[0]:
                continue
            data = connection.recv(4096)
            if not data:
                raise board.death("")
            for kind, payload in decoder.feed(data):
                if kind == "bad":
                    connection.sendall(b"-")
                elif kind == "packet" and payload != _QUERY:
                    connection.sendall(b"+")
                    if payload[:1] in (b"T", b"S") and not answered:
                        answered = True
                        # What else comes is a repetition.
                        end = time.monotonic() + _LEFT_OVER_SECONDS
    lines.disconnect_kgdb(running=not answered)
    if lines.shared:
        # A shell may have been asked, and is not to remember it.
        board.console.send(_KILL)
    if not answered:
        _check_speed(board, bytes(lines.recent["kgdb"]))
    return answered


def _check_speed(board: Board, data: bytes) -> None:
    """Check that what has come is text.

    :raises ConfigError: it is what a line of another speed shows.
    """
    data = data[-512:]
    others = sum(byte not in _TEXT for byte in data)
    if others < _GARBAGE_BYTES or others < _GARBAGE * len(data):
        return
    line = board.lines.console_line.line
    raise ConfigError(
        f"what comes from {board.name} is no text: {data[:24].hex(' ')} …",
        log=board.console.log,
        hint=f"is its speed another one than {line.baud} baud? Its kernel's parameter console= "
        "says which; --kgdb-console=LINE,BAUD, --kgdb-target=serial:LINE,BAUD",
    )


def _no_answer(board: Board, text: bytes, deadline: Deadline) -> KgdbError:
    lines = board.lines
    where = f"{lines.console_line.line} (console)"
    if not lines.shared:
        where += f" and {lines.kgdb_line.line} (kgdb)"
    if not text and not lines.recent["kgdb"]:
        return TimeoutError(
            f"{board.name} does not answer: nothing came in {deadline.seconds:g} s on {where}",
            log=board.console.log,
            hint="is its power on, are these its lines, and is the console's not the other one? "
            "--kgdb-reset=COMMAND resets it",
        )
    return TimeoutError(
        f"no shell answered on the console of {board.name} in {deadline.seconds:g} s, and no kgdb "
        f"on its line\nthe console's last lines are:\n{board.console.tail()}",
        log=board.console.log,
        hint="tests need a root shell on the console, or a kernel that waits in kgdb",
    )


def _no_kgdb(board: Board) -> KgdbError:
    line = board.lines.kgdb_line.line
    return BootError(
        f"the kernel of {board.name} does not answer on kgdb's line {line} when it is asked to "
        f"enter kgdb\nthe console's last lines are:\n{board.console.tail()}",
        log=board.console.log,
        hint="is kgdboc= the tty at the other end of that line (cat "
        "/sys/module/kgdboc/parameters/kgdboc), at this speed, and CONFIG_KGDB_SERIAL_CONSOLE set?",
    )
