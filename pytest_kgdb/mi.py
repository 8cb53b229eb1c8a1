"""gdb as a machine speaks to it: gdb/MI (gdb manual, "The GDB/MI Interface")."""

from __future__ import annotations

import contextlib
import itertools
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, BinaryIO, Final

from .errors import DebuggerDied, KgdbError, TimeoutError
from .process import PIPE, Child

__all__ = ["Gdb", "GdbError", "Record", "c_string"]

Record = dict[str, Any]
"""One parsed MI record, as pygdbmi's parser gives it."""

# What the transcript keeps in memory for a report; the file has everything.
_TAIL: Final = 400


class GdbError(KgdbError):
    """gdb answered a command with an error; the message is gdb's own."""


class Gdb:
    """A gdb process and the conversation with it.

    Commands carry a token and their reply is the record with the same token, whatever comes in
    between; stops are queued; the end of gdb is noticed as soon as its output ends.

    :param argv: the command line, `--interpreter` included.
    :param transcript: file that gets both sides of the conversation.
    :param timeout: seconds that a command may take unless it says otherwise.
    :param on_event: called by the reading thread after each stop and at gdb's end.
    """

    def __init__(
        self,
        argv: Sequence[str],
        *,
        transcript: Path,
        timeout: float,
        cwd: Path | None = None,
        on_event: Callable[[], None] = lambda: None,
    ) -> None:
        self.timeout = timeout
        self.transcript = transcript
        self.running = False
        self.on_event = on_event
        self._tokens = itertools.count(1)
        self._state = threading.Condition()
        self._replies: dict[int, Record] = {}
        self._waited: set[int] = set()
        self._stops: deque[Record] = deque()
        self._streams: deque[Record] = deque(maxlen=20000)
        self._listeners: list[Callable[[Record], None]] = []
        self._recent: deque[str] = deque(maxlen=_TAIL)
        self._ended = False
        self._sending = threading.Lock()
        self._began = time.monotonic()
        self._log = transcript.open("a", encoding="utf-8", errors="replace")
        try:
            self.child = Child.spawn(
                argv,
                name="gdb",
                log=transcript.with_suffix(".stderr"),
                stdin=PIPE,
                stdout=PIPE,
                cwd=cwd,
            )
        except BaseException:
            self._log.close()
            raise
        assert self.child.stdin is not None
        assert self.child.stdout is not None
        self._stdin: BinaryIO = self.child.stdin
        self._stdout: BinaryIO = self.child.stdout
        self._reader = threading.Thread(
            target=self._read, args=(self._stdout,), name="kgdb-gdb", daemon=True
        )
        self._reader.start()

    # The reading side

    def _read(self, output: BinaryIO) -> None:
        from pygdbmi.gdbmiparser import parse_response

        pending = b""
        while True:
            try:
                data = output.read(65536)
            except (OSError, ValueError):
                data = b""
            if not data:
                break
            *lines, pending = (pending + data).split(b"\n")
            for raw in lines:
                line = raw.decode("utf-8", "replace").rstrip("\r")
                if line == "(gdb) " or not line:
                    continue
                self._note("<", line)
                self._take(parse_response(line))
        with self._state:
            self._ended = True
            self.running = False
            self._state.notify_all()
        self.on_event()

    def _take(self, record: Record) -> None:
        stopped = False
        with self._state:
            kind = record["type"]
            if kind == "result":
                if record["message"] == "running":
                    self.running = True
                if record["token"] in self._waited:
                    self._replies[record["token"]] = record
            elif kind == "notify":
                if record["message"] == "stopped":
                    self.running = False
                    self._stops.append(record)
                    stopped = True
                elif record["message"] == "running":
                    self.running = True
                for listener in self._listeners:
                    listener(record)
            elif kind in ("console", "log", "target", "output"):
                self._streams.append(record)
            self._state.notify_all()
        if stopped:
            self.on_event()

    def _note(self, direction: str, line: str) -> None:
        stamped = f"{time.monotonic() - self._began:9.3f} {direction} {line}"
        self._recent.append(stamped)
        if not self._log.closed:
            with contextlib.suppress(ValueError):
                self._log.write(stamped + "\n")

    def listen(self, listener: Callable[[Record], None]) -> None:
        """Have every asynchronous record shown to a function, in the reading thread."""
        self._listeners.append(listener)

    def forget_conversation(self) -> None:
        """Have :meth:`tail` return only what is said from now on."""
        self._recent.clear()

    def tail(self, lines: int = 40) -> str:
        """Return the conversation's last lines."""
        return "\n".join(list(self._recent)[-lines:])

    # The asking side

    def command(self, command: str, *, timeout: float | None = None) -> Any:
        """Run an MI command and return its reply's payload.

        :raises GdbError: gdb answered with an error.
        :raises DebuggerDied: gdb is gone.
        :raises TimeoutError: no answer in time.
        """
        return self._ask(command, timeout)[0]

    def console(self, command: str, *, timeout: float | None = None) -> str:
        """Run a command as typed at gdb's prompt and return what it printed."""
        if "\n" in command or "\r" in command:
            raise GdbError(f"a gdb command is one line: {command!r}")
        _, streams = self._ask(f"-interpreter-exec console {c_string(command)}", timeout)
        return "".join(str(record["payload"]) for record in streams if record["type"] == "console")

    def _ask(self, command: str, timeout: float | None) -> tuple[Any, list[Record]]:
        if "\n" in command or "\r" in command:
            raise GdbError(f"a gdb command is one line: {command!r}")
        limit = self.timeout if timeout is None else timeout
        token = next(self._tokens)
        with self._sending:
            with self._state:
                self._streams.clear()
                self._waited.add(token)
            self._note(">", f"{token}{command}")
            try:
                self._stdin.write(f"{token}{command}\n".encode())
            except (OSError, ValueError):
                self._await_end()
                raise self._death(command) from None
            with self._state:
                self._state.wait_for(lambda: token in self._replies or self._ended, limit)
                self._waited.discard(token)
                reply = self._replies.pop(token, None)
                streams = list(self._streams)
        if reply is None:
            if self._ended:
                raise self._death(command)
            raise TimeoutError(
                f"gdb did not answer '{command}' in {limit:g} s", log=self.transcript
            )
        if reply["message"] == "error":
            raise GdbError(str((reply["payload"] or {}).get("msg", "gdb gave no reason")))
        return reply["payload"], streams

    def next_stop(self, timeout: float) -> Record | None:
        """Take the oldest stop off the queue, waiting at most `timeout` seconds for one.

        :raises DebuggerDied: gdb is gone.
        """
        with self._state:
            self._state.wait_for(lambda: self._stops or self._ended, timeout)
            if self._stops:
                return self._stops.popleft()
            if self._ended:
                raise self._death("waiting for a stop")
            return None

    @property
    def has_stops(self) -> bool:
        """Whether a stop waits to be taken."""
        with self._state:
            return bool(self._stops)

    def forget_stops(self) -> None:
        """Drop the stops that nobody took."""
        with self._state:
            self._stops.clear()

    # Life

    @property
    def alive(self) -> bool:
        """Whether gdb runs."""
        return not self._ended

    def _await_end(self) -> None:
        with self._state:
            self._state.wait_for(lambda: self._ended, 1.0)

    def _death(self, during: str) -> DebuggerDied:
        with contextlib.suppress(KgdbError):
            self.child.wait(1.0)
        status = self.child.poll()
        how = (
            "its output ended"
            if status is None
            else f"killed by signal {-status}"
            if status < 0
            else f"exit status {status}"
        )
        said = self.child.tail(5).strip()
        return DebuggerDied(
            f"gdb died ({how}) at: {during}" + (f"\nit said:\n{said}" if said else ""),
            log=self.transcript,
            hint="the next test gets a new one; if it happens again, the log has what was asked "
            "of it last",
        )

    def close(self) -> None:
        """End gdb; always, and within seconds."""
        with contextlib.suppress(OSError, ValueError):
            self._stdin.close()
        self.child.kill()
        self._reader.join(2)
        self._stdout.close()
        self._log.close()

    def __enter__(self) -> Gdb:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def c_string(text: str) -> str:
    """Quote a text as an MI c-string (gdb manual, "GDB/MI Input Syntax").

    :raises GdbError: the text has a line break, at which MI would begin a new command.
    """
    if "\n" in text or "\r" in text:
        raise GdbError(f"gdb takes one line, not {text!r}")
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
