"""The serial console as a pexpect spawn: always drained, commands bracketed by tags."""

from __future__ import annotations

import contextlib
import itertools
import re
import socket
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Final

from pexpect import EOF, TIMEOUT
from pexpect.spawnbase import SpawnBase

from ..deadline import Deadline, WaitLimit
from ..errors import GuestCommandError, KgdbError, MachineDied, TimeoutError
from ..escape import clean
from ..klog import kernel_records, without_kernel_records, without_printed, without_records
from ._input import ConsoleInput
from ._own import OwnText
from ._shell import (
    ANY_ANSWER,
    NEW_SHELL,
    Bracketed,
    PrintedLog,
    Result,
    answer,
    as_typed,
    new_tag,
    question,
)
from ._transcript import KEPT_BYTES, Transcript

__all__ = ["Console"]

_OLD_CONNECTION: Final = 2.0  # seconds to wait for the reader of a closed connection
_SHELL_ANSWERS: Final = 0.5  # seconds after which a shell that did not answer is asked again
_LOOK_SECONDS: Final = 0.1  # the longest time between two looks at what else may have happened
_REST: Final = 4  # times as long as a search for text took, before the next one
_SHORTEST_REST: Final = 0.002  # seconds; less is not worth a sleep
_LONGEST_REST: Final = 1.0


class Console(SpawnBase):  # type: ignore[misc] # pexpect ships no types
    """The guest's first serial port as a pexpect spawn.

    A thread reads the socket at all times: a console that is not drained stalls the guest in the
    middle of a line.

    :param connect: returns a socket connected to the port; called again by :meth:`reconnect`.
    :param log: file to which every byte is appended.
    :param waits: the limit of each wait that is given no timeout of its own.
    :param attend: called before each read of an expect; does what the guest needs in order to go
        on.
    :param history: what the console showed before the first connection.
    :param peer: who has the other end, for messages.
    """

    def __init__(
        self,
        connect: Callable[[], socket.socket],
        log: Path,
        *,
        waits: WaitLimit,
        attend: Callable[[], object] = lambda: None,
        history: bytes = b"",
        peer: str = "QEMU",
    ) -> None:
        self._waits = waits
        self._peer = peer
        super().__init__(timeout=-1, encoding="utf-8", codec_errors="replace")
        self.name = "console"
        self.log = log
        self.closed = False
        self._connect = connect
        self._attend = attend
        self._transcript = Transcript(log, history)
        self._arrived = self._transcript.arrived
        self._own = OwnText(len(history))
        self._expect_mark = len(history)  # up to which expect has read
        self._tail_mark = 0  # from which tail() may show
        self._eof = False
        self.input = ConsoleInput(log, self.isalive)
        """What is typed on it."""
        self._open()

    @property
    def timeout(self) -> float | None:
        """Seconds that an expect waits: the limit of the running test, unless it was set.

        None waits for ever. Setting -1 returns to the test's limit.
        """
        return self._waits.seconds if self._own_timeout == -1 else self._own_timeout

    @timeout.setter
    def timeout(self, seconds: float | None) -> None:
        self._own_timeout = seconds

    # The reading side

    def _open(self) -> None:
        self._socket = self._connect()
        self._eof = False
        self.input.connect(self._socket)
        self._reader = threading.Thread(
            target=self._read_socket, args=(self._socket,), name="kgdb-console", daemon=True
        )
        self._reader.start()

    def _read_socket(self, source: socket.socket) -> None:
        while True:
            data = b""
            with contextlib.suppress(OSError):
                source.recv(1, socket.MSG_PEEK)
            with self._arrived:
                # Under the lock: whoever holds it and finds the socket empty has everything.
                try:
                    data = source.recv(65536, socket.MSG_DONTWAIT)
                except BlockingIOError:
                    continue  # drain() was faster
                except OSError:
                    pass
                if source is not self._socket:
                    return
                if not data:
                    self._eof = True
                else:
                    self._transcript.add(data)
                self._arrived.notify_all()
            if not data:
                return

    def poke(self) -> None:
        """Wake all who wait on the console, so that they check what else may have happened."""
        with self._arrived:
            self._arrived.notify_all()

    def drain(self) -> None:
        """Read all that QEMU has written so far: everything that a stopped kernel has printed."""
        with self._arrived, contextlib.suppress(OSError, ValueError):
            while not self._eof and (data := self._socket.recv(65536, socket.MSG_DONTWAIT)):
                self._transcript.add(data)
                self._arrived.notify_all()

    def flush(self) -> None:
        """Flush the log file."""
        self._transcript.flush()

    def mark(self) -> int:
        """Return the offset of the end of the console's text, for :meth:`since`."""
        return self._transcript.end

    def since(self, mark: int = 0) -> bytes:
        """Return what the console showed since a mark, as far as it is in memory."""
        return self._transcript.since(mark)

    def shown(self, mark: int = 0) -> str:
        """Return the same text for people: without tags, and without the plugin's own commands.

        Without what the kernel says of the sysrqs by which the plugin interrupts it, too.
        """
        with self._arrived:
            text, offset = self._transcript.part(mark)
            omitted = self._own.spans(text, offset)
        pieces, position = [], 0
        for start, end in omitted:
            pieces.append(text[position:start])
            position = end
        return b"".join([*pieces, text[position:]]).decode("utf-8", "replace")

    def note_sysrq(self) -> None:
        """Note that the plugin is about to interrupt the kernel by a sysrq."""
        with self._arrived:
            self._own.note_sysrq(self.mark())

    def timed(self, mark: int) -> list[tuple[float, str]]:
        """Return the lines of :meth:`shown`, and when each began to come, by `time.monotonic()`."""
        with self._arrived:
            return self._transcript.timed(mark, self._own.spans(*self._transcript.part(mark)))

    def earlier(self, mark: int) -> bytes:
        """Return what the running kernel showed before a mark.

        That is the history, and what came since the last :meth:`reconnect`.
        """
        return self._transcript.earlier(mark)

    def wait_beyond(self, mark: int, timeout: float) -> None:
        """Wait until something has come since a mark, for at most `timeout` seconds."""
        with self._arrived:
            self._arrived.wait_for(lambda: self._eof or self.mark() > mark, timeout)

    @property
    def eof(self) -> bool:
        """Whether QEMU has closed the console."""
        return self._eof

    def wait_for(
        self,
        pattern: bytes | re.Pattern[bytes],
        *,
        mark: int,
        timeout: float | None = None,
        meanwhile: Callable[[], None] = lambda: None,
    ) -> re.Match[bytes]:
        """Wait until the text since `mark` matches, without reading from pexpect's buffer.

        :param timeout: seconds.
        :param meanwhile: called whenever something arrived, and ten times in a second; may raise.
        :raises TimeoutError: it did not match in time; the message has the console's last lines.
        :raises MachineDied: the console was closed.
        """
        regex = re.compile(pattern) if isinstance(pattern, bytes) else pattern
        deadline = self._waits.deadline(timeout)
        while True:
            began = time.monotonic()
            last = self._eof or deadline.expired
            with self._arrived:
                text, end = self.since(mark), self.mark()
            if match := regex.search(text):
                return match
            searched = time.monotonic() - began
            meanwhile()
            if last and self._eof:
                raise MachineDied(f"{self._peer} closed the console", log=self.log)
            if last:
                raise TimeoutError(
                    f"the console did not show {regex.pattern!r} in {deadline.seconds:g} s; "
                    f"its last lines are:\n{self.tail()}",
                    log=self.log,
                )
            self._await_more(end, searched, deadline)

    def _await_more(self, mark: int, searched: float, deadline: Deadline) -> None:
        """Wait until something has come since a mark, or there may be other news.

        :param searched: seconds that the search of the text took. All of it is searched each time,
            as a match may begin anywhere in it; while a guest floods the console, that is to take
            a fifth of the time.
        """
        rest = _REST * searched
        if rest > _SHORTEST_REST:
            time.sleep(min(rest, _LONGEST_REST, deadline.left))
        with self._arrived:
            if self.mark() == mark and not self._eof:
                self._arrived.wait(min(_LOOK_SECONDS, deadline.left))

    def tail(self, lines: int = 10) -> str:
        """Return the console's last lines since :meth:`drop`, for the message of an error.

        They are those of :meth:`shown`, cleaned of terminal escapes.
        """
        start = max(self._tail_mark, self.mark() - 65536)
        text = clean(self.shown(start)).rstrip()
        return "\n".join("    " + line for line in text.splitlines()[-lines:]) or "    (none)"

    # pexpect's side

    def read_nonblocking(self, size: int = 1, timeout: float | None = -1) -> str:
        """Return text that has arrived and was not read yet.

        :param timeout: seconds to wait for it; -1 for :attr:`timeout`, None for ever.
        :raises TIMEOUT: nothing came.
        :raises EOF: QEMU has closed the console.
        """
        if timeout == -1:
            timeout = self.timeout
        deadline = None if timeout is None else time.monotonic() + timeout
        while True:
            self._attend()
            with self._arrived:
                left = None if deadline is None else deadline - time.monotonic()
                if self._eof or self.mark() > self._expect_mark or (left is not None and left <= 0):
                    break
                # poke() ends this, too: then there may be something to attend to.
                self._arrived.wait(left)
        with self._arrived:
            data = self._transcript.since(self._expect_mark, size)
            self._expect_mark = max(self._expect_mark, self._transcript.start) + len(data)
            if not data:
                if self._eof:
                    self.flag_eof = True
                    raise EOF(f"{self._peer} closed the console")
                raise TIMEOUT("nothing came on the console")
        text: str = self._decoder.decode(data, final=False)
        self._log(text, "read")
        return text

    def send(self, s: str | bytes) -> int:
        """Send text to the guest; return the number of bytes.

        :raises MachineDied: the console is closed.
        """
        data = s if isinstance(s, bytes) else s.encode("utf-8")
        self._log(s, "send")
        self.input.send(data)
        return len(data)

    def sendline(self, s: str | bytes = "") -> int:
        """Send text and a newline."""
        data = s if isinstance(s, bytes) else s.encode("utf-8")
        return self.send(data + b"\n")

    def write(self, s: str | bytes) -> None:
        """Send text; part of pexpect's interface of a file."""
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
        """Discard what was not read: the next expect sees only what comes from now on."""
        with self._arrived:
            self._expect_mark = self._tail_mark = self.mark()
        self.buffer = self.string_type()
        self.before = self.after = self.match = None

    def disconnect(self) -> None:
        """Close the connection: what was sent and not read by QEMU is lost."""
        old = self._socket
        self.input.disconnect()
        with self._arrived:
            self._socket = socket.socket(socket.AF_UNIX)  # by which the old reader ends
        self._shut(old)
        self._reader.join(_OLD_CONNECTION)

    def reconnect(self) -> None:
        """Connect anew after :meth:`disconnect`; what was not read is discarded."""
        self._socket.close()
        self._open()
        self.drop()
        self._transcript.restart(self._tail_mark)
        self._own.restart(self._tail_mark)

    @staticmethod
    def _shut(connection: socket.socket) -> None:
        with contextlib.suppress(OSError):
            connection.shutdown(socket.SHUT_RDWR)
        connection.close()

    def close(self) -> None:
        """Close the connection and the log file."""
        if self.closed:
            return
        self.closed = True
        self.input.disconnect()
        self._shut(self._socket)
        self._reader.join(_OLD_CONNECTION)
        self._transcript.close()

    # The shell's side

    def run(
        self,
        command: str,
        *,
        timeout: float | None = None,
        deadline: Deadline | None = None,
        meanwhile: Callable[[], None] = lambda: None,
        printed: PrintedLog | None = None,
        own: bool = False,
        hint: str = "a larger timeout= for run(), if it only needs longer",
    ) -> Result:
        """Run a command in the console's shell, in a subshell, with no input.

        :param timeout: seconds.
        :param deadline: of a wait that has begun already, instead.
        :param printed: knows what the kernel prints meanwhile; it is told by its form otherwise.
        :param meanwhile: called while waiting; may raise to end the wait.
        :param own: whether it is none of a test's, so that its output is shown to nobody.
        :param hint: what can be done if there was not enough time.
        :raises ConfigError: there is a NUL in it, or what is no text.
        :raises TimeoutError: the command did not end in time; the shell may still run it.
        :raises MachineDied: the console was closed.
        :raises GuestCommandError: the beginning of the output is no longer in memory; or the shell
            ended meanwhile.
        """
        bracketed = Bracketed(command, own=own)
        mark = self.mark()
        position = None if printed is None else printed.position()
        self._type(bracketed)
        deadline = deadline or self._waits.deadline(timeout)
        while True:
            began = time.monotonic()
            with self._arrived:
                raw, end = self.since(mark), self.mark()
            if b"\x1f" in raw and bracketed.has_ended(without_records(raw)):
                break
            if b"\x06" in raw and NEW_SHELL.search(raw):
                raise GuestCommandError(
                    f"the guest's shell ended during {command!r}, and another has taken its place",
                    log=self.log,
                    hint="by a signal, the OOM killer's for one (kgdb.dmesg() has it); a command "
                    "runs in a subshell, and $$ is that shell",
                )
            searched = time.monotonic() - began
            meanwhile()
            if self._eof:
                raise MachineDied(
                    f"{self._peer} closed the console during {command!r}", log=self.log
                )
            if deadline.expired:
                raise TimeoutError(
                    f"the guest's command {command!r} did not end in {deadline.seconds:g} s\n"
                    f"the console's last lines are:\n{self.tail()}",
                    log=self.log,
                    hint=hint,
                )
            self._await_more(end, searched, deadline)
        lines = None
        if kernel_records(raw) and printed is not None and position is not None:
            lines = printed.printed(position)
        if lines is not None:
            text = without_printed(raw, lines)
        else:
            text = without_kernel_records(raw, kernel_records(self.earlier(mark)))
        result = bracketed.result(text)
        if result is None:
            raise GuestCommandError(
                f"the output of {command!r} has an end but no beginning; more than "
                f"{KEPT_BYTES} bytes of console text came between",
                log=self.log,
                hint="redirect the output to a file in the guest and get the file",
            )
        return result

    def _type(self, command: Bracketed) -> None:
        """Type a command, in pieces that fit the tty's line buffer."""
        *pieces, last = command.lines()
        for piece in pieces:
            tag = new_tag()
            mark = self.mark()
            self.sendline(as_typed(f"{piece}\n{question(tag)}"))
            self.wait_for(answer(tag), mark=mark)
        self.sendline(as_typed(last))

    def synchronise(self, *, timeout: float | None = None, interrupt: bool = False) -> None:
        """Wait until the shell answers.

        A shell that was just interrupted by Ctrl-C drops what is typed right after it, so it is
        asked again until it answers.

        :param timeout: seconds.
        :param interrupt: whether to end by Ctrl-C what the shell does instead. Of a loop that may
            take several: busybox's shell goes on with it if the signal comes while it starts a
            command.
        :raises KgdbError: no shell answered in time.
        """
        mark = self.mark()
        deadline = self._waits.deadline(timeout)
        for number in itertools.count():
            if interrupt and number % 2 == 0:
                self.sendcontrol("c")
            self.sendline(question(new_tag()))
            try:
                self.wait_for(ANY_ANSWER, mark=mark, timeout=min(deadline.left, _SHELL_ANSWERS))
                break
            except TimeoutError as error:
                if deadline.expired:
                    raise KgdbError(
                        f"no shell answered on the console in {deadline.seconds:g} s; its last "
                        f"lines are:\n{self.tail()}",
                        log=self.log,
                    ) from error
        # Further answers may still come; run() looks for its own tags only.

    def interact(self, *_: Any, **__: Any) -> None:
        """Raise an error: `pytest-kgdb attach` gives a person the console."""
        raise KgdbError("the console has no interact()", hint="use `pytest-kgdb attach`")
