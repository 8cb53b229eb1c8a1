"""gdb/MI: commands, their replies, and what gdb says by itself (gdb manual, "GDB/MI")."""

from __future__ import annotations

import contextlib
import itertools
import re
import threading
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, Protocol

from ..deadline import WaitLimit
from ..errors import DebuggerDied, KgdbError, TimeoutError
from ._mi_parse import Record, parse

__all__ = ["Gdb", "GdbError", "MiTransport", "Record", "c_string"]

# Lines of the conversation that are kept in memory for a report; the transcript has all of them.
_TAIL: Final = 400

# Stream records (gdb manual, "GDB/MI Stream Records") kept until the reply of their command.
_STREAMS: Final = 20_000

# A command that gdb does not have is refused, while the target runs, too, and changes nothing. One
# that it has would be the last one: gdb 16 keeps a pointer to that one's token, which it has freed,
# and dies of it when a breakpoint's commands resume (gdb/mi/mi-interp.c, mi_on_resume_1).
_NOTHING: Final = "-no-command"

# For the thread that reads to end with gdb; what gdb has started may hold its output open.
_READER_SECONDS: Final = 2.0

# gdb/python/python.c, gdbpy_print_stack: the exception itself is in the log stream.
_PYTHON_ERROR: Final = "Error while executing Python code"

# What records that are not replies begin with (gdb manual, "GDB/MI Output Syntax").
_RECORDS: Final = "~@&=*^"


# gdb's words for a name that it does not know: gdb/c-exp.y, classify_name; gdb/symtab.c,
# lookup_struct and its like; gdb/valops.c, value_struct_elt; gdb/linespec.c,
# symbol_not_found_error. And for what no value can make right: gdb/cli/cli-decode.c,
# undef_cmd_error; gdb/c-exp.y, yyerror; gdb/valops.c, gdb/valarith.c, gdb/eval.c and
# gdb/python/py-value.c, of types.
_OF_THE_TEST: Final = re.compile(
    r"No symbol \"[^\"]*\" in |No symbol table is loaded|No (?:struct |union |enum )?type named |"
    r"There is no member named |Structure has no component named |No source file named |"
    r"Function \"[^\"]*\" not defined|"
    r"^No line \d+ in |Undefined (?:\S+ )?command: |A syntax error in expression|"
    r"[Cc]annot subscript |Can't do that (?:unary|binary) op on that type|"
    r"Argument to (?:arithmetic|comparison) operation not |Invalid cast|"
    r"Attempt to (?:take contents of a non-pointer|extract a component of a value that is not) |"
    r"Attempt to take address of value not |Left operand of assignment is not "
)


class GdbError(KgdbError):
    """gdb refused a command; the message is gdb's own.

    Where gdb does not know a name, or knows it as something else, the test is at fault: a kernel
    that has it is no better one.
    """

    def __init__(
        self,
        message: str,
        *,
        log: Path | str | None = None,
        hint: str | None = None,
        by_test: bool = False,
    ) -> None:
        by_test = by_test or _OF_THE_TEST.search(message) is not None
        super().__init__(message, log=log, hint=hint, by_test=by_test)


class MiTransport(Protocol):
    """The way to a gdb that speaks MI."""

    def send(self, line: str) -> None:
        """Write one line; raises OSError or ValueError if gdb is gone."""

    def read(self) -> bytes:
        """Wait for output and return it; `b""` once gdb has closed its output."""

    def fate(self) -> str:
        """Return how gdb ended, for a message, waiting shortly for its end."""

    def last_words(self) -> str:
        """Return the end of what gdb wrote to its standard error."""

    @property
    def pid(self) -> int:
        """gdb's process id."""

    def close(self) -> None:
        """End gdb; always, and within seconds."""


class Gdb:
    """A conversation with one gdb.

    A command carries a token, and the record with this token is its reply, whatever gdb says in
    between. gdb may answer a resume twice: `^running`, and `^error` when it then cannot insert a
    breakpoint. The second answer is an event, as a stop is. Events wait in a queue; the end of
    gdb is noticed as soon as its output ends.

    :param transcript: file that gets both sides of the conversation.
    :param waits: how long gdb may take to answer a command.
    :param on_event: called by the reading thread after each event and at gdb's end.
    """

    def __init__(
        self,
        transport: MiTransport,
        *,
        transcript: Path,
        waits: WaitLimit,
        on_event: Callable[[], None] = lambda: None,
    ) -> None:
        self.transcript = transcript
        self._transport = transport
        self._waits = waits
        self._on_event = on_event
        self._tokens = itertools.count(1)
        self._changed = threading.Condition()
        self._listeners: list[Callable[[Record], None]] = []
        self._recent: deque[str] = deque(maxlen=_TAIL)
        self._sending = threading.Lock()
        self._began = time.monotonic()
        self._log = transcript.open("a", encoding="utf-8", errors="replace")
        self._start()

    def _start(self) -> None:
        self._replies: dict[int, Record] = {}
        self._pending: set[int] = set()
        self._resumed_by: set[int] = set()  # tokens of commands that gdb has answered by ^running
        self._events: deque[Record] = deque()
        self._syncing: set[int] = set()  # tokens; events wait until they are answered
        self._last = 0  # the token of the last command
        self._failed: Record | None = None  # its error, where it resumed the target before
        self._streams: deque[Record] = deque(maxlen=_STREAMS)
        self._ended = False
        self._running = False
        self._reader = threading.Thread(
            target=self._read, args=(self._transport,), name="kgdb-gdb", daemon=True
        )
        self._reader.start()

    # The reading thread

    def _read(self, transport: MiTransport) -> None:
        """Take what a gdb says, until its end.

        What it has started (`shell`) may hold its output open for longer than there is this gdb.
        """
        rest = b""
        while True:
            try:
                data = transport.read()
            except (OSError, ValueError):
                data = b""
            if transport is not self._transport:
                return  # another gdb has replaced it
            if not data:
                break
            *lines, rest = (rest + data).split(b"\n")
            for raw in lines:
                text = raw.decode("utf-8", "replace").rstrip("\r")
                if text == "(gdb) " or not text:
                    continue
                self._log_line("<", text)
                for line in self._records(text):
                    self._take(parse(line))
        with self._changed:
            if transport is not self._transport:
                return
            self._ended = True
            self._running = False
            self._changed.notify_all()
        self._on_event()

    def _records(self, line: str) -> list[str]:
        """Return the records in a line: a reply may be behind the unended last line of a program.

        What a script has started writes to the same pipe as gdb.
        """
        with self._changed:
            for token in self._pending:
                start = line.find(f"{token}^")
                if start > 0 and line[0] not in _RECORDS:
                    return [line[:start], line[start:]]
        return [line]

    def _take(self, record: Record) -> None:
        is_event = False
        with self._changed:
            kind = record["type"]
            if kind == "result" and record["token"] in self._syncing:
                self._syncing.discard(record["token"])
                if not self._syncing:
                    self._sync_events()
            elif kind == "result":
                is_event = self._take_result(record)
            elif kind == "notify":
                if record["message"] in ("running", "stopped"):
                    self._running = record["message"] == "running"
                    is_event = not self._running
                    if is_event:
                        self._resumed_by.clear()
                        if not self._pending:
                            # Nobody else gets what a command says of the stop it has led to.
                            record["text"] = self._take_streams()
                for listener in self._listeners:
                    listener(record)
            elif kind in ("console", "log", "target", "output"):
                self._streams.append(record)
                if kind == "log":
                    for listener in self._listeners:
                        listener(record)
            if is_event:
                self._events.append(record)
            self._changed.notify_all()
        if is_event:
            self._on_event()

    def _take_result(self, record: Record) -> bool:
        """Take a reply; return whether it is a second one, which ends a resume."""
        token, message = record["token"], record["message"]
        if message == "running":
            self._running = True
            self._resumed_by.add(token)
        elif message == "error" and token in self._resumed_by:
            self._running = False
            self._resumed_by.discard(token)
            # It says that it aborted, and why in the log stream before.
            record["payload"] = {"msg": self._logged() or (record["payload"] or {}).get("msg", "")}
            # Where the first answer has not been taken yet, this one replaces it.
            if token not in self._replies:
                return True
            self._pending.add(token)
        if token in self._pending:
            if message == "error":
                record["log"] = self._logged()
            record["printed"] = self._printed(messages=True)
            record["text"] = self._take_streams()
            self._replies[token] = record
            self._pending.discard(token)
        elif message == "error" and token == self._last:
            record["log"] = self._logged()
            self._failed = record
        return False

    def _sync_events(self) -> None:
        """Keep the last event, if it still holds, with what was printed of all."""
        texts = [str(event.get("text", "")) for event in self._events]
        text = "".join(texts) + self._take_streams()
        if self._running or not self._events:
            self._events.clear()
            self._streams.append({"type": "console", "payload": text})
        else:
            last = self._events.pop()
            last["text"] = text
            if self._failed is not None:
                last["error"], self._failed = self._failed, None
            self._events.clear()
            self._events.append(last)

    def _logged(self) -> str:
        lines = (str(line["payload"]) for line in self._streams if line["type"] == "log")
        return "".join(lines).strip()

    def _printed(self, *, messages: bool) -> str:
        return "".join(
            f"{line['payload']}\n" if line["type"] == "output" else str(line["payload"])
            for line in self._streams
            if messages or line["type"] != "log"
        )

    def _take_streams(self) -> str:
        text = self._printed(messages=False)
        self._streams.clear()
        return text

    def _log_line(self, direction: str, line: str) -> None:
        stamped = f"{time.monotonic() - self._began:9.3f} {direction} {line}"
        self._recent.append(stamped)
        if not self._log.closed:
            with contextlib.suppress(ValueError):
                self._log.write(stamped + "\n")

    def subscribe(self, listener: Callable[[Record], None]) -> None:
        """Show every asynchronous record to a function, in the reading thread.

        So are the lines of gdb's log stream, which are its own messages.
        """
        self._listeners.append(listener)

    def clear_tail(self) -> None:
        """Make :meth:`tail` return only what is said from now on."""
        self._recent.clear()

    def tail(self, lines: int = 40) -> str:
        """Return the last lines of the conversation."""
        return "\n".join(list(self._recent)[-lines:])

    # Commands

    def command(self, command: str, *, timeout: float | None = None) -> Any:
        """Run an MI command and return the payload of its reply.

        :param timeout: seconds; the limit of the running test otherwise.
        :raises GdbError: gdb answered with an error.
        :raises DebuggerDied: gdb is gone.
        :raises TimeoutError: no answer in time.
        """
        return self._run(command, timeout)["payload"]

    def command_text(self, command: str, *, timeout: float | None = None) -> str:
        """Run an MI command and return what it printed.

        :param timeout: seconds; the limit of the running test otherwise.
        :raises KgdbError: as :meth:`command`.
        """
        return str(self._run(command, timeout)["text"])

    def console(self, command: str, *, timeout: float | None = None, messages: bool = False) -> str:
        """Run a command as typed at gdb's prompt and return what it printed.

        :param timeout: seconds; the limit of the running test otherwise.
        :param messages: gdb's warnings and messages too, which are its log stream.
        :raises GdbError: gdb answered with an error, or the command is not one line.
        :raises DebuggerDied: gdb is gone.
        :raises TimeoutError: no answer in time.
        """
        reply = self._run(f"-interpreter-exec console {c_string(command)}", timeout)
        return str(reply["printed" if messages else "text"])

    def _run(self, command: str, timeout: float | None) -> Record:
        if "\n" in command or "\r" in command:
            raise GdbError(f"a gdb command is one line: {command!r}")
        limit = self._waits.of(timeout)
        token = next(self._tokens)
        with self._sending:
            with self._changed:
                self._streams.clear()
                self._pending.add(token)
                self._last, self._failed = token, None
            self._log_line(">", f"{token}{command}")
            try:
                self._transport.send(f"{token}{command}")
            except (OSError, ValueError):
                with self._changed:
                    self._changed.wait_for(lambda: self._ended, 1.0)
                raise self._death(command) from None
            with self._changed:
                self._changed.wait_for(lambda: token in self._replies or self._ended, limit)
                self._pending.discard(token)
                reply = self._replies.pop(token, None)
        if reply is None:
            if self._ended:
                raise self._death(command)
            raise TimeoutError(
                f"gdb did not answer '{command}' in {limit:g} s", log=self.transcript
            )
        if reply["message"] == "error":
            raise refusal(reply)
        return reply

    # Events

    def next_event(self, timeout: float) -> Record | None:
        """Take the oldest event off the queue, waiting at most `timeout` seconds for one.

        :return: a `*stopped`, or the `^error` that ended a resume; None if none came.
        :raises DebuggerDied: gdb is gone.
        """
        with self._changed:
            self._changed.wait_for(
                lambda: (self._events and not self._syncing) or self._ended, timeout
            )
            if self._events and not self._syncing:
                return self._events.popleft()
            if self._ended:
                raise self._death("waiting for a stop")
            return None

    @property
    def has_events(self) -> bool:
        """Whether an event waits to be taken."""
        with self._changed:
            return bool(self._events)

    def sync_events(self, event: Record | None = None) -> None:
        """Have events wait until gdb reads commands again; the last one counts, and no other.

        gdb goes on by itself from a stop at which a script resumes again, or a breakpoint's
        commands: then there is no stop, and what was printed of it is in the next one's text.

        An error of the script's meanwhile is the event's `error`.

        :param event: one that was taken, and may be none.
        :raises DebuggerDied: gdb is gone.
        """
        # By the second, gdb has done what was posted to its event loop before the first: each turn
        # of the loop serves another source (gdbsupport/event-loop.cc, gdb_do_one_event).
        tokens = [next(self._tokens), next(self._tokens)]
        with self._sending:
            with self._changed:
                if event is not None:
                    self._events.appendleft(event)
                self._syncing.update(tokens)
            for token in tokens:
                self._log_line(">", f"{token}{_NOTHING}")
                try:
                    self._transport.send(f"{token}{_NOTHING}")
                except (OSError, ValueError):
                    raise self._death(_NOTHING) from None

    def drop_events(self) -> None:
        """Drop the events that nobody took."""
        with self._changed:
            self._events.clear()

    @property
    def target_running(self) -> bool:
        """Whether gdb has said last that its target runs.

        An event that says otherwise may wait in the queue. `RunControl.stopped` is what has been
        taken note of.
        """
        return self._running

    # Life

    @property
    def pid(self) -> int:
        """gdb's process id."""
        return self._transport.pid

    @property
    def alive(self) -> bool:
        """Whether gdb's output is open."""
        return not self._ended

    def _death(self, during: str) -> DebuggerDied:
        words = self._transport.last_words().strip()
        return DebuggerDied(
            f"gdb died ({self._transport.fate()}) at: {during}"
            + (f"\nit said:\n{words}" if words else ""),
            log=self.transcript,
            hint="the next test gets a new one; if it happens again, the end of the log has the "
            "command that gdb died of",
        )

    def replace(self, transport: MiTransport) -> None:
        """End this gdb, and go on with another one, which knows nothing of what this one did."""
        self._end()
        self._log_line("=", "another gdb")
        self._transport = transport
        self._start()

    def _end(self) -> None:
        self._transport.close()
        self._reader.join(_READER_SECONDS)

    def close(self) -> None:
        """End gdb; always, and within seconds."""
        self._end()
        self._log.close()

    def __enter__(self) -> Gdb:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def refusal(record: Record) -> GdbError:
    """Return the error for an `^error` record."""
    message = str((record["payload"] or {}).get("msg", "gdb gave no reason"))
    if message.startswith(_PYTHON_ERROR):
        message = str(record.get("log") or message)  # with the traceback
    return GdbError(message)


def c_string(text: str) -> str:
    """Quote a text as an MI c-string (gdb manual, "GDB/MI Input Syntax").

    :raises GdbError: the text has a line break, at which MI would begin a new command.
    """
    if "\n" in text or "\r" in text:
        raise GdbError(f"gdb takes one line, not {text!r}")
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
