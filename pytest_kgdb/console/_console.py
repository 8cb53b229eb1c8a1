"""The serial console: always drained, spoken to by pexpect, synchronised by tags."""

from __future__ import annotations

import array
import contextlib
import fcntl
import io
import itertools
import re
import shlex
import socket
import termios
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from pexpect import EOF, TIMEOUT
from pexpect.spawnbase import SpawnBase

from ..errors import GuestCommandError, KgdbError, MachineDied, TimeoutError
from ..klog import kernel_records, without_kernel_records
from ..report import clean

__all__ = ["Console", "Result"]

# Kept in memory for expect and reports; the log file has everything.
_KEEP: Final = 16 * 1024 * 1024

# N_TTY's line buffer (drivers/tty/n_tty.c, N_TTY_BUF_SIZE) is 4096 bytes; what is over is lost.
_LINE: Final = 1024

_tags = itertools.count(1)


@dataclass(frozen=True)
class Result:
    """What a command in the guest came to."""

    status: int
    """Its exit status."""

    output: str
    """What it wrote, standard output and error together, kernel messages taken out."""


class Console(SpawnBase):  # type: ignore[misc] # pexpect ships no types
    """The guest's first serial port as a pexpect spawn.

    A thread reads the socket at all times, whoever waits: a console that nobody drains stalls
    the guest in the middle of a line.

    :param connect: returns a socket connected to the port; called again by :meth:`reconnect`.
    :param log: file that gets every byte.
    :param history: what the console had shown before.
    """

    def __init__(
        self,
        connect: Callable[[], socket.socket],
        log: Path,
        *,
        timeout: float,
        history: bytes = b"",
    ) -> None:
        super().__init__(timeout=timeout, encoding="utf-8", codec_errors="replace")
        self.name = "console"
        self.log = log
        self.closed = False
        self._connect = connect
        self._arrived = threading.Condition()
        self._text = bytearray(history)
        self._dropped = 0  # bytes no longer in _text
        self._history = self._restored = len(history)
        self._taken = len(history)  # offset up to which expect has read
        self._eof = False
        self.sent = 0
        """Bytes sent on the present connection."""
        self.attend: Callable[[], object] = lambda: None
        """Called while an expect waits: what the guest needs of us in order to go on."""
        self._file: io.BufferedWriter = log.open("ab")
        self._file.write(history)
        self._open()

    # The reading side

    def _open(self) -> None:
        self._socket = self._connect()
        self._eof = False
        self.sent = 0
        self._reader = threading.Thread(
            target=self._drain, args=(self._socket,), name="kgdb-console", daemon=True
        )
        self._reader.start()

    def _drain(self, source: socket.socket) -> None:
        while True:
            data = b""
            with contextlib.suppress(OSError):
                source.recv(1, socket.MSG_PEEK)
            with self._arrived:
                # Under the lock: who holds it and finds the socket empty has everything.
                try:
                    data = source.recv(65536, socket.MSG_DONTWAIT)
                except BlockingIOError:
                    continue  # settle() was faster
                except OSError:
                    pass
                if source is not self._socket:
                    return
                if not data:
                    self._eof = True
                else:
                    self._keep(data)
                self._arrived.notify_all()
            if not data:
                return

    def _keep(self, data: bytes) -> None:
        self._text += data
        if not self._file.closed:
            self._file.write(data)
            self._file.flush()
        if len(self._text) > 2 * _KEEP:
            cut = len(self._text) - _KEEP
            del self._text[:cut]
            self._dropped += cut

    def poke(self) -> None:
        """Have whoever waits on the console look around."""
        with self._arrived:
            self._arrived.notify_all()

    def settle(self) -> None:
        """Take what QEMU has written so far: all that a kernel which is stopped has printed."""
        with self._arrived, contextlib.suppress(OSError, ValueError):
            while not self._eof and (data := self._socket.recv(65536, socket.MSG_DONTWAIT)):
                self._keep(data)
                self._arrived.notify_all()

    def flush(self) -> None:
        """Write the log out."""
        with self._arrived:
            self._file.flush()

    def mark(self) -> int:
        """Return the present end of the console's text, for :meth:`since`."""
        with self._arrived:
            return self._dropped + len(self._text)

    def since(self, mark: int = 0) -> bytes:
        """Return what the console showed since a mark, as far as it is kept in memory."""
        with self._arrived:
            return bytes(self._text[max(0, mark - self._dropped) :])

    def earlier(self, mark: int) -> bytes:
        """Return what this kernel had shown before a mark.

        That is what the machine that it was made from showed, and what came since it was put
        back; kernels that were there meanwhile may have said the same at the same time.
        """
        with self._arrived:
            first = self._text[: max(0, self._history - self._dropped)]
            start = max(self._history, self._restored) - self._dropped
            return bytes(first + self._text[max(0, start) : max(0, mark - self._dropped)])

    def wait_beyond(self, mark: int, timeout: float) -> None:
        """Wait until something came since a mark, at most `timeout` seconds."""
        with self._arrived:
            self._arrived.wait_for(
                lambda: self._eof or self._dropped + len(self._text) > mark, timeout
            )

    @property
    def eof(self) -> bool:
        """Whether QEMU has closed the console."""
        return self._eof

    def wait_for(
        self,
        pattern: bytes | re.Pattern[bytes],
        *,
        mark: int,
        timeout: float,
        meanwhile: Callable[[], None] = lambda: None,
    ) -> re.Match[bytes]:
        """Wait until the text since `mark` matches, leaving pexpect's buffer alone.

        :param meanwhile: called whenever something arrived and now and then; may raise.
        :raises TimeoutError: after `timeout` seconds, with the console's last lines.
        :raises MachineDied: the console was closed.
        """
        regex = re.compile(pattern) if isinstance(pattern, bytes) else pattern
        deadline = time.monotonic() + timeout
        while True:
            with self._arrived:
                start = max(0, mark - self._dropped)
                match = regex.search(bytes(self._text[start:]))
                if match is None and not self._eof:
                    self._arrived.wait(min(0.1, max(0.0, deadline - time.monotonic())))
                    match = regex.search(bytes(self._text[max(0, mark - self._dropped) :]))
            if match is not None:
                return match
            meanwhile()
            if self._eof:
                raise MachineDied("QEMU closed the console", log=self.log)
            if time.monotonic() >= deadline:
                raise TimeoutError(
                    f"the console did not show {regex.pattern!r} in {timeout:g} s; "
                    f"its last lines are:\n{self.tail()}",
                    log=self.log,
                )

    def tail(self, lines: int = 10) -> str:
        """Return the console's last lines, none from before the machine was put back.

        They are for an error's message, and so without what a terminal would obey.
        """
        start = max(self._began, self.mark() - 65536)
        text = clean(self.since(start).decode("utf-8", "replace")).rstrip()
        return "\n".join("    " + line for line in text.splitlines()[-lines:]) or "    (none)"

    _began = 0

    # pexpect's side

    def read_nonblocking(self, size: int = 1, timeout: float | None = -1) -> str:
        """Return what has arrived and was not read yet, waiting at most `timeout` seconds."""
        if timeout == -1:
            timeout = self.timeout
        deadline = None if timeout is None else time.monotonic() + timeout
        while True:
            self.attend()
            with self._arrived:
                left = None if deadline is None else deadline - time.monotonic()
                if self._eof or self._unread() > 0 or (left is not None and left <= 0):
                    break
                # Something else may have happened, of which poke() tells.
                self._arrived.wait(left)
        with self._arrived:
            start = max(0, self._taken - self._dropped)
            data = bytes(self._text[start : start + size])
            self._taken = self._dropped + start + len(data)
            if not data:
                if self._eof:
                    self.flag_eof = True
                    raise EOF("QEMU closed the console")
                raise TIMEOUT("nothing came on the console")
        text: str = self._decoder.decode(data, final=False)
        self._log(text, "read")
        return text

    def _unread(self) -> int:
        return self._dropped + len(self._text) - max(self._taken, self._dropped)

    def send(self, s: str | bytes) -> int:
        """Send text to the guest; return the number of bytes."""
        data = s if isinstance(s, bytes) else s.encode("utf-8")
        self._log(s, "send")
        try:
            self._socket.sendall(data)
            self.sent += len(data)
        except OSError as error:
            raise MachineDied(f"the console does not take input: {error}", log=self.log) from error
        return len(data)

    def unread(self) -> int:
        """Return how many bytes that were sent QEMU has not taken yet (unix(7), SIOCOUTQ)."""
        count = array.array("i", [0])
        with contextlib.suppress(OSError):
            fcntl.ioctl(self._socket.fileno(), termios.TIOCOUTQ, count)
        return count[0]

    def sendline(self, s: str | bytes = "") -> int:
        """Send a line; its end is a newline."""
        data = s if isinstance(s, bytes) else s.encode("utf-8")
        return self.send(data + b"\n")

    def write(self, s: str | bytes) -> None:
        """Send text, as a file's `write` does."""
        self.send(s)

    def writelines(self, sequence: Iterable[str | bytes]) -> None:
        """Send each text of a sequence."""
        for s in sequence:
            self.send(s)

    def sendcontrol(self, char: str) -> int:
        """Send a control character: `sendcontrol("c")` is Ctrl-C."""
        return self.send(bytes([ord(char.upper()) & 0x1F]))

    def isalive(self) -> bool:
        """Whether the console is connected."""
        return not self._eof and not self.closed

    def drop(self) -> None:
        """Forget what came and was not read: the next expect sees only what comes from now on."""
        with self._arrived:
            self._taken = self._began = self._dropped + len(self._text)
        self.buffer = self.string_type()
        self.before = self.after = self.match = None

    def disconnect(self) -> None:
        """Close the connection: nothing typed earlier reaches the guest any more."""
        old = self._socket
        with self._arrived:
            self._socket = socket.socket(socket.AF_UNIX)  # the old reader sees that it is old
        self._shut(old)
        self._reader.join(2)

    def reconnect(self) -> None:
        """Take a fresh connection after :meth:`disconnect`."""
        self._socket.close()
        self._open()
        self.drop()
        self._restored = self._began

    @staticmethod
    def _shut(connection: socket.socket) -> None:
        with contextlib.suppress(OSError):
            connection.shutdown(socket.SHUT_RDWR)
        connection.close()

    def close(self) -> None:
        """Let go of the console."""
        if self.closed:
            return
        self.closed = True
        self._shut(self._socket)
        self._reader.join(2)
        with self._arrived:
            self._file.close()

    # The shell's side

    def run(
        self, command: str, *, timeout: float, meanwhile: Callable[[], None] = lambda: None
    ) -> Result:
        """Run a command in the console's shell, in a subshell of its own, without input.

        The output is bracketed by tags made by `printf` from octal escapes, so that neither an
        echo of the typed line nor anything earlier can match.

        :param timeout: seconds.
        :param meanwhile: called while waiting; may raise to end the wait.
        :raises TimeoutError: the command did not end in time; the shell may be busy still.
        """
        tag = f"kgdb-{next(_tags)}"
        mark = self.mark()
        self._type_long(command, tag)
        end = re.compile(rb"\x1f%s (\d+)\r?\n" % tag.encode())
        deadline = time.monotonic() + timeout
        while True:
            raw = self.since(mark)
            if b"\x1f" in raw:
                text = without_kernel_records(raw, self._seen(mark) if b"[" in raw else ())
                if found := end.search(text):
                    break
            meanwhile()
            if self._eof:
                raise MachineDied(f"QEMU closed the console during {command!r}", log=self.log)
            left = deadline - time.monotonic()
            if left <= 0:
                raise TimeoutError(
                    f"the guest's command {command!r} did not end in {timeout:g} s\n"
                    f"the console's last lines are:\n{self.tail()}",
                    log=self.log,
                    hint="a larger timeout= for run(), if it only needs longer",
                )
            with self._arrived:
                if self._dropped + len(self._text) == mark + len(raw) and not self._eof:
                    self._arrived.wait(min(left, 0.1))
        start = re.search(rb"\x1e%s\r?\n" % tag.encode(), text)
        if start is None:
            raise GuestCommandError(
                f"the output of {command!r} has an end but no beginning; more than "
                f"{_KEEP} bytes of console text came between",
                log=self.log,
                hint="redirect the output to a file in the guest and get the file",
            )
        output = text[start.end() : found.start()].replace(b"\r\n", b"\n")
        return Result(int(found.group(1)), output.decode("utf-8", "replace"))

    def _seen(self, mark: int) -> list[bytes]:
        return kernel_records(self.earlier(mark))

    def _type_long(self, command: str, tag: str) -> None:
        """Type a command, in pieces that fit the tty's line buffer."""
        program = shlex.quote(command)
        # eval, so that a syntax error ends the command and not the shell's patience.
        frame = (
            "printf '\\036%s\\n' {tag}; (eval {program}) </dev/null; "
            "printf '\\037%s %d\\n' {tag} $?"
        )
        line = frame.format(tag=tag, program=program)
        if len(line.encode()) < _LINE and "\n" not in command:
            self.sendline(line)
            return
        self.sendline("kgdb_command=")
        for piece in _pieces(command, _LINE // 4):
            self._acknowledged(f"kgdb_command=${{kgdb_command}}{shlex.quote(piece)}")
        self.sendline(frame.format(tag=tag, program='"$kgdb_command"'))

    def _acknowledged(self, line: str) -> None:
        """Type a line and wait until the shell has taken it."""
        tag = f"kgdb-{next(_tags)}"
        mark = self.mark()
        self.sendline(f"{line}\nprintf '\\006%s\\n' {tag}")
        self.wait_for(rb"\x06%s\r?\n" % tag.encode(), mark=mark, timeout=self.timeout)

    def synchronise(self, *, timeout: float) -> None:
        """Wait until the shell answers.

        A shell that a Ctrl-C has just interrupted drops what was typed right behind it; so the
        question is asked again until it is answered.

        :raises KgdbError: no shell answered.
        """
        mark = self.mark()
        deadline = time.monotonic() + timeout
        while True:
            tag = f"kgdb-{next(_tags)}"
            self.sendline(f"printf '\\006%s\\n' {tag}")
            left = deadline - time.monotonic()
            try:
                self.wait_for(rb"\x06kgdb-\d+\r?\n", mark=mark, timeout=max(0.0, min(left, 0.5)))
                break
            except TimeoutError as error:
                if time.monotonic() >= deadline:
                    raise KgdbError(
                        f"no shell answered on the console in {timeout:g} s; its last lines are:\n"
                        f"{self.tail()}",
                        log=self.log,
                    ) from error
        # Answers to the other questions may still come; run() looks for its own tags only.

    def interact(self, *_: Any, **__: Any) -> None:
        """Not offered here: `pytest-kgdb attach` gives a person the console."""
        raise KgdbError("the console has no interact()", hint="use `pytest-kgdb attach`")


def _pieces(text: str, size: int) -> Iterable[str]:
    for start in range(0, len(text), size):
        yield text[start : start + size]
