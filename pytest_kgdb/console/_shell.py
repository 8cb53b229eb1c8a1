"""How commands are typed into a shell, and how their output is found on the console.

Tags are made by `printf` from octal escapes, so that neither the echo of the typed line nor
anything earlier can match.
"""

from __future__ import annotations

import itertools
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, Protocol

from ..errors import ConfigError
from ..klog import LogLine

__all__ = [
    "ANY_ANSWER",
    "NEW_SHELL",
    "OWN_BEGIN",
    "Bracketed",
    "PrintedLog",
    "Result",
    "answer",
    "as_typed",
    "new_tag",
    "question",
]

# Bytes of one typed line. N_TTY drops what exceeds its line buffer of 4096
# (drivers/tty/n_tty.c, N_TTY_BUF_SIZE).
_LINE: Final = 1024

_tags = itertools.count(1)

OWN_BEGIN: Final = b"\x1d"
"""Before the tag at the beginning of a command that is none of a test's."""
_BEGIN: Final = b"\x1e"

# What a terminal acts on or changes, some of it (termios(3): c_cc, ICRNL), and the character that
# has it take the next as it is (VLNEXT).
_ACTED_ON: Final = re.compile(rb"[\x01-\x08\x0b-\x1f\x7f]")
_LITERAL_NEXT: Final = b"\x16"

NEW_SHELL: Final = re.compile(rb"\x06kgdb-0\r?\n")
"""What the console's shell prints that takes the place of one that has ended
(data/initrd/shell)."""
ANY_ANSWER: Final = re.compile(rb"\x06kgdb-[1-9]\d*\r?\n")
"""What a shell prints for some :func:`question`."""


class PrintedLog(Protocol):
    """Knows which of the kernel's messages were printed on the console."""

    def position(self) -> int | None:
        """Return a position that is before what is printed from now on; None if not known."""

    def printed(self, since: int) -> list[LogLine] | None:
        """Return the lines that were printed since a position; None if they are not known."""


@dataclass(frozen=True)
class Result:
    """The result of a command in the guest."""

    status: int
    """Its exit status."""

    output: str
    """Its standard output and standard error, without the kernel's messages."""


def new_tag() -> str:
    """Return a word that was not on the console before."""
    return f"kgdb-{next(_tags)}"


def as_typed(text: str) -> bytes:
    """Return what is typed for a shell to read a text, control characters included.

    :raises ConfigError: no shell can read it.
    """
    try:
        data = text.encode("utf-8", "surrogateescape")  # as os.fsdecode() has a file's name
    except UnicodeEncodeError as error:
        raise ConfigError(f"{text!r} cannot be typed: it is no text ({error.reason})") from None
    if b"\0" in data:
        raise ConfigError(
            f"{text!r} cannot be typed: no shell has NUL in a word",
            hint=r"printf '\0' in the guest writes one; put() copies any file",
        )
    return _ACTED_ON.sub(_LITERAL_NEXT + rb"\g<0>", data)


def question(tag: str) -> str:
    """Return the command that has the shell print an answer."""
    return _surely(f"printf '\\006%s\\n' {tag}")


def _surely(command: str) -> str:
    """Return a command that prints, even if a job of the shell's ends at that moment.

    Its signal interrupts the write to the terminal (drivers/tty/n_tty.c, n_tty_write), the text is
    lost, and the shell's `printf` fails. A subshell gets no signals of the shell's jobs.
    """
    return f"{command} || {command}"


def answer(tag: str) -> re.Pattern[bytes]:
    """Return the pattern of the answer to a question."""
    return re.compile(rb"\x06%s\r?\n" % tag.encode())


class Bracketed:
    """A command that runs in a subshell, with no input, its output between two tags.

    :param own: whether it is none of a test's.
    """

    def __init__(self, command: str, *, own: bool = False) -> None:
        self._command = command
        tag = new_tag()
        self._tag = tag
        self._begin = OWN_BEGIN if own else _BEGIN
        self._first = re.compile(rb"%b%b\r?\n" % (self._begin, tag.encode()))
        self._last = re.compile(rb"\x1f%s (\d+)\r?\n" % tag.encode())

    def _frame(self, program: str) -> str:
        begin = f"printf '\\{ord(self._begin):03o}%s\\n' {self._tag}"
        # eval, so that a syntax error ends the command; the shell would wait for another line.
        return f"({begin}; eval {program} </dev/null); kgdb_status=$?; " + _surely(
            f"printf '\\037%s %d\\n' {self._tag} $kgdb_status"
        )

    def lines(self) -> Iterator[str]:
        """Yield the lines to type, of which each but the last must be acknowledged."""
        line = self._frame(shlex.quote(self._command))
        if len(as_typed(line)) < _LINE and "\n" not in self._command:
            yield line
            return
        size = _LINE // 4
        for start in range(0, len(self._command), size):
            piece = shlex.quote(self._command[start : start + size])
            yield f"kgdb_command={'${kgdb_command}' if start else ''}{piece}"
        yield self._frame('"$kgdb_command"')

    def has_ended(self, text: bytes) -> bool:
        """Return whether a console's text has the end of the command."""
        return self._last.search(text) is not None

    def result(self, text: bytes) -> Result | None:
        """Return the result, by a text with the end; None where the beginning is missing."""
        first, last = self._first.search(text), self._last.search(text)
        assert last is not None
        if first is None:
            return None
        output = text[first.end() : last.start()].replace(b"\r\n", b"\n")
        return Result(int(last[1]), output.decode("utf-8", "replace"))
