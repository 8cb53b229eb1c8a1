"""gdb's side of MI, in process: a transport whose replies are written down in the tests."""

from __future__ import annotations

import json
import re
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

# Options of MI commands that take a value (gdb manual, "GDB/MI Breakpoint Commands").
_WITH_VALUE = ("-c", "-i", "-p")
_WORD = re.compile(r'"((?:[^"\\]|\\.)*)"|(\S+)')


@dataclass(frozen=True)
class Command:
    """What was sent to gdb, by its meaning: neither quoting nor the order of options matters."""

    name: str
    options: dict[str, str | None] = field(default_factory=dict)
    arguments: tuple[str, ...] = ()
    request: dict[str, Any] = field(default_factory=dict)
    """What the agent inside gdb is asked for, with `-kgdb`."""
    token: str = ""

    def same(self, other: Command) -> bool:
        """Whether both mean the same."""
        return (self.name, self.options, self.arguments, self.request) == (
            other.name,
            other.options,
            other.arguments,
            other.request,
        )


def parse_command(line: str) -> Command:
    """Parse an MI command. `(gdb) disable 1` stands for one of the command line."""
    if line.startswith("(gdb) "):
        return Command("console", arguments=(line[6:],))
    match = re.match(r"(\d*)(-\S+)\s*(.*)", line)
    assert match, f"no MI command: {line}"
    token, name, rest = match.groups()
    if name == "-kgdb" and rest.startswith("{"):  # as scripts write it, without quotes
        return Command(name, request=json.loads(rest), token=token)
    options: dict[str, str | None] = {}
    arguments: list[str] = []
    words = _WORD.finditer(rest)
    for word in words:
        plain = word[2]
        if plain is not None and plain.startswith("-") and not arguments:
            value = next(words) if plain in _WITH_VALUE else None
            options[plain] = None if value is None else _text(value)
        else:
            arguments.append(_text(word))
    if name == "-kgdb":
        return Command(name, request=json.loads(arguments[0]), token=token)
    if name == "-interpreter-exec":
        return Command("console", arguments=tuple(arguments[1:]), token=token)
    return Command(name, options, tuple(arguments), token=token)


def _text(word: re.Match[str]) -> str:
    quoted, plain = word.groups()
    return plain if plain is not None else re.sub(r"\\(.)", r"\1", quoted)


def c_string(text: str) -> str:
    """Quote a text as gdb does in its output."""
    text = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n").replace("\t", "\\t")
    return f'"{text}"'


class Transport:
    """An :class:`MiTransport` in process: what it says, and when, is the subclass's."""

    pid = 4711

    def __init__(self) -> None:
        self.commands: list[Command] = []
        self.words = ""
        """What gdb wrote to its standard error."""
        self.closed = False
        self.at_once = False
        """Whether what is said to a command is taken note of before its sender waits for it."""
        self._output: deque[bytes] = deque()
        self._ended = False
        self._idle = True  # whether all output was read, and taken note of
        self._changed = threading.Condition()

    # MiTransport

    def send(self, line: str) -> None:
        with self._changed:
            if self._ended:
                raise BrokenPipeError("gdb has ended")
        command = parse_command(line)
        self.commands.append(command)
        self.on_command(command)
        if self.at_once:
            self.wait_read()

    def read(self) -> bytes:
        with self._changed:
            self._idle = not self._output
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._output or self._ended)
            return self._output.popleft() if self._output else b""

    def fate(self) -> str:
        return "exit status 1"

    def last_words(self) -> str:
        return self.words

    def close(self) -> None:
        self.closed = True
        self.end()

    # What gdb does

    def on_command(self, command: Command) -> None:
        """Answer a command; called in the thread that sent it."""
        raise NotImplementedError

    def write(self, data: bytes) -> None:
        """Write output, of whatever form."""
        with self._changed:
            self._output.append(data)
            self._idle = False
            self._changed.notify_all()

    def say(self, *records: str) -> None:
        """Write records, one a line."""
        for record in records:
            self.write(record.encode() + b"\n")

    def end(self) -> None:
        """End: the output is closed."""
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def wait_read(self) -> None:
        """Wait until the reading thread has taken note of everything."""
        with self._changed:
            assert self._changed.wait_for(lambda: self._idle, 5.0)

    # What was sent

    def sent(self, *names: str) -> list[Command]:
        """Return the commands with these names, or all."""
        return [command for command in self.commands if not names or command.name in names]


class ScriptedGdb(Transport):
    """A gdb that follows a script.

    One line of the script is one of these::

        > -exec-continue                what must be sent next
        > (gdb) disable 1               the same, of gdb's command line
        > -kgdb {"op": "stack_names"}   the same, to the agent inside gdb
        < ^running                      what gdb says then; a reply gets the token of the command
        < #1^error,msg="…"              a reply to an earlier command, counted from 1
        < ^done,json={"names": []}      a reply of the agent's
        ...                             gdb is silent until the test calls proceed()
        END                             gdb ends

    Empty lines, and what follows `;` at the beginning of a line, are ignored. A command that the
    script does not have next fails the test where it is sent.
    """

    def __init__(self, script: str) -> None:
        super().__init__()
        self._steps: deque[str] = deque(
            line.strip()
            for line in script.splitlines()
            if line.strip() and not line.strip().startswith(";")
        )
        self._go_on()

    def on_command(self, command: Command) -> None:
        step = self._steps[0] if self._steps else "nothing"
        assert step.startswith("> "), f"gdb got {command}, and the script has {step}"
        expected = parse_command(step[2:])
        assert expected.same(command), f"gdb got {command}, and the script has {expected}"
        self._steps.popleft()
        self._go_on()

    def _go_on(self) -> None:
        while self._steps and self._steps[0][0] == "<":
            self.say(self._record(self._steps.popleft()[1:].strip()))
        if self._steps and self._steps[0] == "END":
            self._steps.popleft()
            self.end()

    def _record(self, text: str) -> str:
        match = re.match(r"(?:#(\d+))?(\^.*)", text)
        if match is None:
            return text
        number, reply = match.groups()
        token = self.commands[int(number) - 1 if number else -1].token
        head, is_json, rest = reply.partition(",json={")
        if is_json:
            reply = f"{head},json={c_string('{' + rest)}"
        return token + reply

    def proceed(self) -> None:
        """Go on behind the next `...`."""
        assert self._steps, "the script is at its end"
        assert self._steps[0] == "...", f"the script has {self._steps[0]} next"
        self._steps.popleft()
        self._go_on()

    def check(self) -> None:
        """Check that the script came to its end."""
        assert not self._steps, f"the script has {self._steps[0]} next"


def wait_until(condition: Callable[[], object], seconds: float = 5.0) -> None:
    """Wait until gdb's reading thread has come so far."""
    import time

    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come so far"
        time.sleep(0.001)
