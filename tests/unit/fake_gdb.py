"""A gdb with breakpoints but without a kernel, and the debugger's parts around it."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from scripted_gdb import Command, Transport, c_string, parse_command, wait_until

from pytest_kgdb.deadline import WaitLimit
from pytest_kgdb.debugger import (
    BreakpointTable,
    Debugger,
    FirstCause,
    Gdb,
    Generation,
    Locations,
    RunControl,
)
from pytest_kgdb.errors import DebuggerDied, MachineDied

SYSRQ = ["kgdb_breakpoint", "sysrq_handle_dbg", "__handle_sysrq", "handle_sysrq"]
"""The stack at a stop that was asked for on the console."""


class Refused(Exception):
    """gdb answers a command by `^error`."""


@dataclass
class Place:
    """A location of a breakpoint."""

    address: int
    enabled: bool = True


@dataclass
class Row:
    """A breakpoint as gdb has it."""

    number: int
    places: list[Place]
    original: str
    kind: str = "breakpoint"
    temporary: bool = False
    enabled: bool = True
    condition: str | None = None
    ignore: int = 0
    hits: int = 0
    script: list[str] = field(default_factory=list)

    def record(self) -> str:
        """Return it as gdb 13 does (mi3)."""
        enabled = self.enabled
        if len(self.places) == 1:
            enabled = enabled and self.places[0].enabled
        fields = [
            f'number="{self.number}"',
            f'type="{self.kind}"',
            f'disp="{"del" if self.temporary else "keep"}"',
            f'enabled="{"ny"[enabled]}"',
        ]
        if self.kind != "breakpoint":
            fields.append(f"what={c_string(self.original)}")
        elif len(self.places) > 1:
            fields.append('addr="<MULTIPLE>"')
        elif self.places:
            fields.append(f'addr="{self.places[0].address:#018x}"')
        else:
            fields += ['addr="<PENDING>"', f"pending={c_string(self.original)}"]
        if self.condition:
            fields.append(f"cond={c_string(self.condition)}")
        fields.append(f'times="{self.hits}"')
        if self.ignore:
            fields.append(f'ignore="{self.ignore}"')
        if self.script:
            fields.append(f"script={{{','.join(map(c_string, self.script))}}}")
        fields.append(f"original-location={c_string(self.original)}")
        if len(self.places) > 1:
            places = (
                f'{{number="{self.number}.{index}",enabled="{"ny"[place.enabled]}",'
                f'addr="{place.address:#018x}"}}'
                for index, place in enumerate(self.places, 1)
            )
            fields.append(f"locations=[{','.join(places)}]")
        return f"bkpt={{{','.join(fields)}}}"


class FakeGdb(Transport):
    """A gdb that keeps a table of breakpoints, and runs and stops when it is told to.

    Like gdb, it announces changes of the table only where a command of its command line made
    them (gdb/mi/mi-interp.c, `mi_suppress_notification`).

    :param symbols: where functions and variables are; several addresses for one that was inlined.
    """

    def __init__(self, symbols: Mapping[str, int | list[int]] | None = None) -> None:
        super().__init__()
        self.symbols = dict(symbols or {})
        self.rows: dict[int, Row] = {}
        self.agent: dict[str, Callable[..., Any]] = {
            "locations": self._locations,
            "symbol": self._symbol,
            "symbols_around": self._symbols_around,
            "condition": lambda text, location: {"condition": text},
            "watchable": self._watchable,
            "watchpoint_places": self._watchpoint_places,
            "returned": lambda variable: {"id": 1, "int": self.number(variable)},
            "stack_names": lambda: {"names": self.stack},
            "frames": self._frames,
            "select": lambda frame: {},
            "show_inlined": dict,
            "numbers": lambda expressions: {"numbers": [self.number(one) for one in expressions]},
            "evaluate": lambda expression, frame=0: {"id": 1, "int": self.number(expression)},
        }
        """What the agent does for each request."""
        self.numbers: dict[str, int] = {}
        """Values of expressions."""
        self.stack: list[str | None] = ["do_sys_openat2"]
        """The functions on the stack of the stopped kernel, innermost first."""
        self.running = False
        self.refuses: str | None = None
        """`"now"` where a resume is refused at once, `"late"` where after `^running`."""
        self.replies: dict[str, Callable[[Command], list[str]]] = {}
        """What to answer instead, by the command."""
        self.on_resume: Callable[[], None] = lambda: None
        """Called when the kernel runs."""
        self._next = 1

    # The table

    def on_command(self, command: Command) -> None:
        name = command.name
        work = self.replies.get(name) or getattr(self, f"_do{name.replace('-', '_')}", None)
        try:
            if work is None:
                raise Refused(f"Undefined MI command: {name[1:]}")
            records = work(command)
        except Refused as error:
            self.say(f"{command.token}^error,msg={c_string(str(error))}")
            return
        if records is not None:
            self.say(*(f"{command.token}{text}" if text[0] == "^" else text for text in records))

    def address_of(self, location: str) -> list[int]:
        """Return the addresses that a location has."""
        location = location.removeprefix("*")
        if location.startswith("0x"):
            return [int(location, 16)]
        if location not in self.symbols:
            raise Refused(f'Function "{location}" not defined.')
        places = self.symbols[location]
        return places if isinstance(places, list) else [places]

    def make(self, location: str, **fields: Any) -> Row:
        """Make a breakpoint."""
        try:
            places = [Place(address) for address in self.address_of(location)]
        except Refused:
            if not fields.pop("pending", False):
                raise
            places = []
        fields.pop("pending", None)
        row = self.rows[self._next] = Row(self._next, places, location, **fields)
        self._next += 1
        return row

    def _do_break_insert(self, command: Command) -> list[str]:
        options = command.options
        (location,) = command.arguments
        row = self.make(
            location,
            pending="-f" in options,
            temporary="-t" in options,
            condition=options.get("-c"),
            ignore=int(options.get("-i") or 0),
            kind="hw breakpoint" if "-h" in options else "breakpoint",
        )
        if row.places and row.places[0].address < 0x1000:  # it stays in the table
            raise Refused(
                f"Warning:\nCannot insert breakpoint {row.number}.\n"
                f"Cannot access memory at address {row.places[0].address:#x}\n"
            )
        return [f"^done,{row.record()}"]

    def _do_break_delete(self, command: Command) -> list[str]:
        self._delete([int(number) for number in command.arguments])
        return ["^done"]

    def _delete(self, numbers: Iterable[int]) -> list[int]:
        named = list(numbers)
        deleted = [number for number in named or list(self.rows) if number in self.rows]
        for number in deleted:
            del self.rows[number]
        return deleted

    def _do_break_enable(self, command: Command) -> list[str]:
        self._enable(command.arguments, True)
        return ["^done"]

    def _do_break_disable(self, command: Command) -> list[str]:
        self._enable(command.arguments, False)
        return ["^done"]

    def _enable(self, numbers: Iterable[str], enabled: bool) -> list[Row]:
        rows = []
        for text in numbers:
            number, _, location = text.partition(".")
            row = self.rows.get(int(number))
            if row is None:
                continue  # gdb says so, and goes on
            rows.append(row)
            if location:
                if int(location) > len(row.places):
                    raise Refused(f"Bad breakpoint location number '{location}'")
                row.places[int(location) - 1].enabled = enabled
            else:
                row.enabled = enabled
        return rows

    def _do_break_condition(self, command: Command) -> list[str]:
        number, *condition = command.arguments
        self.rows[int(number)].condition = condition[0] if condition else None
        return ["^done"]

    def _do_break_list(self, command: Command) -> list[str]:
        body = ",".join(row.record() for row in self.rows.values())
        return [f'^done,BreakpointTable={{nr_rows="{len(self.rows)}",body=[{body}]}}']

    # The command line

    def _doconsole(self, command: Command) -> list[str] | None:
        (line,) = command.arguments
        word, _, rest = line.partition(" ")
        words = rest.split()
        if word in ("disable", "enable"):
            changed = self._enable(words or map(str, self.rows), word == "enable")
            return [*map(_modified, changed), "^done"]
        if word == "delete":
            deleted = self._delete([int(number) for number in words])
            return [*(f'=breakpoint-deleted,id="{number}"' for number in deleted), "^done"]
        if word == "condition":
            row = self.rows[int(words[0])]
            row.condition = " ".join(words[1:]) or None
            return [_modified(row), "^done"]
        if word == "ignore":
            row = self.rows[int(words[0])]
            row.ignore = int(words[1])
            return [_modified(row), "^done"]
        if word in ("break", "tbreak"):
            row = self.make(rest, temporary=word == "tbreak")
            return [f"=breakpoint-created,{row.record()}", "^done"]
        if match := re.match(r"(r|a|)watch$", word):
            names = {"": "Hardware", "r": "Hardware read", "a": "Hardware access (read/write)"}
            row = self.rows[self._next] = Row(self._next, [], rest, kind="hw watchpoint")
            self._next += 1
            return [
                f"~{c_string(f'{names[match[1]]} watchpoint {row.number}: {rest}' + chr(10))}",
                f"=breakpoint-created,{row.record()}",
                "^done",
            ]
        if line.startswith("info symbol "):
            return [f"~{c_string(self.symbol_at(int(words[-1], 16)))}", "^done"]
        if word in ("continue", "stepi"):
            return self._do_exec_continue(command)
        if word in ("set", "macro", "echo"):
            return ["^done"]
        raise Refused(f'Undefined command: "{word}".  Try "help".')

    def set_script(self, number: int, *script: str) -> None:
        """Give a breakpoint commands, as somebody at a prompt of gdb's does."""
        self.rows[number].script = list(script)
        self.say(_modified(self.rows[number]))

    def symbol_at(self, address: int) -> str:
        """Return what `info symbol` says."""
        below = [
            (place, name)
            for name, places in self.symbols.items()
            for place in (places if isinstance(places, list) else [places])
            if place <= address
        ]
        if not below:
            return f"No symbol matches {address:#x}.\n"
        place, name = max(below)
        offset = f" + {address - place}" if address > place else ""
        return f"{name}{offset} in section .text\n"

    # The agent

    def _do_kgdb(self, command: Command) -> list[str]:
        request = dict(command.request)
        work = self.agent.get(request.pop("op"))
        if work is None:
            raise Refused(f"gdb has no 'op_{command.request['op']}'")
        return [f"^done,json={c_string(json.dumps(work(**request)))}"]

    def _locations(self, location: str) -> dict[str, Any]:
        places = [{"address": address} for address in self.address_of(location)]
        return {"locations": places}

    def _symbol(self, name: str) -> dict[str, Any]:
        if name not in self.symbols:
            return {"kind": None}
        return {"kind": "symbol", "address": self.address_of(name)[0]}

    def _symbols_around(self, addresses: list[int]) -> dict[str, Any]:
        texts = (self.symbol_at(address & ((1 << 64) - 1)) for address in addresses)
        return {"symbols": [re.split(r" \+ | in section", text)[0] for text in texts]}

    def _watchable(self, expression: str) -> dict[str, Any]:
        return {
            "address": self.number(f"(unsigned long)&({expression})"),
            "size": self.number(f"sizeof({expression})"),
            "signed": f"unsigned {expression}" not in self.numbers,
        }

    def _watchpoint_places(self) -> dict[str, Any]:
        matches = (re.fullmatch(r"\*\(.*\)(0x\w+)", row.original) for row in self.rows.values())
        found = zip(self.rows, matches, strict=True)
        return {"places": [[number, int(at[1], 16), True] for number, at in found if at]}

    def _frames(self, limit: int, behind: bool = False) -> dict[str, Any]:
        records = [
            {"level": level, "function": name, "address": 0xFFFFFFFF81000000 + level}
            for level, name in enumerate(self.stack)
        ]
        return {"frames": records[:limit]}

    def number(self, expression: str) -> int:
        """Return the value of an expression."""
        if expression not in self.numbers:
            raise Refused(f'No symbol "{expression}" in current context.')
        return self.numbers[expression]

    def requests(self, operation: str) -> list[dict[str, Any]]:
        """Return what the agent was asked for."""
        return [one.request for one in self.sent("-kgdb") if one.request["op"] == operation]

    # Running and stopping

    def _do_exec_continue(self, command: Command) -> list[str] | None:
        if self.refuses == "now":
            raise Refused("Cannot insert breakpoint 9.")
        self.say(f"{command.token}^running", '*running,thread-id="all"')
        if self.refuses == "late":
            self.say(f'{command.token}^error,msg="Command aborted."')
            return None
        self.running = True
        self.on_resume()
        return None

    _do_exec_next = _do_exec_step = _do_exec_finish = _do_exec_continue
    _do_exec_step_instruction = _do_exec_continue

    def stop(self, *fields: str) -> None:
        """Stop the kernel."""
        self.running = False
        self.say(",".join(["*stopped", *fields, 'thread-id="2"', 'stopped-threads="all"']))

    def signal(self, name: str, *stack: str) -> None:
        """Stop the kernel by a signal."""
        self.stack = list(stack)
        self.stop('reason="signal-received"', f'signal-name="{name}"')

    def interrupt(self) -> None:
        """Stop the kernel as a sysrq on the console does."""
        self.signal("SIGTRAP", *SYSRQ)

    def hit(self, number: int) -> None:
        """Have the kernel come to a breakpoint; others at the same address are hit, too."""
        address = self.rows[number].places[0].address
        hit = []
        for row in list(self.rows.values()):
            if not row.enabled or not any(
                place.address == address and place.enabled for place in row.places
            ):
                continue
            if row.ignore:
                row.ignore -= 1
            else:
                hit.append(row)
            row.hits += 1
            self.say(_modified(row))
        if not hit:
            return  # it runs on
        first = hit[0]
        if first.temporary:
            del self.rows[first.number]
        reason = (
            'reason="breakpoint-hit"',
            f'disp="{"del" if first.temporary else "keep"}"',
            f'bkptno="{first.number}"',
        )
        self.stop(*(() if first.script[:1] == ["silent"] else reason))
        if first.temporary:
            self.say(f'=breakpoint-deleted,id="{first.number}"')
        if "continue" in first.script:
            self.say('*running,thread-id="all"')
            self.running = True


def _modified(row: Row) -> str:
    return f"=breakpoint-modified,{row.record()}"


class FakeConsole:
    """What a console shows."""

    log = Path("console.log")

    def __init__(self) -> None:
        self.text = b""

    def show(self, text: str) -> None:
        self.text += text.replace("\n", "\r\n").encode()

    def mark(self) -> int:
        return len(self.text)

    def since(self, mark: int = 0) -> bytes:
        return self.text[mark:]

    def tail(self, lines: int = 10) -> str:
        return "\n".join(self.text.decode().splitlines()[-lines:])


class FakeMachine:
    """QEMU's life."""

    def __init__(self) -> None:
        self.alive = True
        self.ending = False
        """Whether it is gone as soon as somebody waits for its end."""
        self.monitor_error: MachineDied | None = None

    def wait_ended(self, timeout: float) -> None:
        self.alive = self.alive and not self.ending

    def death(self, what: str, *, started: bool = False) -> MachineDied:
        return MachineDied(f"{what}: killed by SIGKILL", log="qemu.log")

    def check_storage(self) -> None:
        """The host's disk is not full."""
        if self.monitor_error is not None:
            raise self.monitor_error


class FakeRelay:
    """What run control tells the relay."""

    def __init__(self, gdb: Transport | None = None) -> None:
        self.stepping: list[bool] = []
        self.stop_reported = True
        self.failure: DebuggerDied | None = None
        self.refused: set[int] = set()

    def take_refused(self) -> set[int]:
        refused, self.refused = self.refused, set()
        return refused

    def wait_resumed(self, timeout: float) -> bool:
        self.stop_reported = False
        return True

    def set_stepping(self, stepping: bool) -> None:
        self.stepping.append(stepping)


class EmptyElf:
    """A vmlinux without a blocklist."""

    def contents(self, address: int, size: int) -> bytes:
        return bytes(size)

    def functions(self) -> list[str]:
        return []


class Parts:
    """The debugger's parts, put together as :class:`Attachment` does, on a gdb that is a fake.

    The kernel is stopped at `ready`.
    """

    def __init__(
        self,
        directory: Path,
        transport: Transport,
        *,
        seconds: float = 5.0,
        interrupt: Callable[[], None] | None = None,
        expects: Callable[[str], bool] = lambda location: False,
        door: Any = "kgdb",
    ) -> None:
        self.transport = transport
        self.waits = WaitLimit(seconds)
        self.console = FakeConsole()
        self.machine = FakeMachine()
        self.relay = FakeRelay()
        self.gdb = Gdb(transport, transcript=directory / "gdb.log", waits=self.waits)
        self.has_panicked: bool | None = None  # by the kernel's memory
        self.causes = FirstCause(
            self.gdb,
            self.machine,
            self.console,
            self.relay,
            has_panicked=lambda: self.has_panicked,
        )
        # A scripted gdb has none.
        by_itself: Callable[[], None] = getattr(transport, "interrupt", lambda: None)
        self.generation = Generation()
        self.debugger = Debugger(
            self.gdb, generation=self.generation, door=door, first_cause=self.causes.first
        )
        self.run_control = RunControl(
            self.debugger,
            self.gdb,
            self.relay,
            causes=self.causes,
            console=self.console,
            interrupt=interrupt if interrupt is not None else by_itself,
            waits=self.waits,
            source=None,
        )
        elf: Any = EmptyElf()
        self.locations = Locations(
            self.debugger, elf, None, refusal=lambda address: None, functions=lambda: ()
        )
        self.run_control.subscribe(self.causes)
        self.table = BreakpointTable(
            self.debugger,
            self.gdb,
            self.run_control,
            self.locations,
            expects=expects,
            ended_watches=dict,
            refused=self.relay.take_refused,
        )
        self.run_control.record_stop("interrupt")

    def close(self) -> None:
        self.gdb.close()

    def end_gdb(self) -> None:
        """End gdb, and wait until that is noticed."""
        self.transport.end()
        wait_until(lambda: not self.gdb.alive)

    def prompt(self, *lines: str) -> None:
        """Run commands as somebody at gdb's prompt does."""
        for line in lines:
            self.gdb.console(line)

    def stop_by(self, event: Callable[[], object], timeout: float | None = None) -> Any:
        """Resume, have something happen, and return the stop that it leads to."""
        self.run_control.resume()
        event()
        return self.run_control.wait(timeout)


__all__ = ["SYSRQ", "Command", "FakeGdb", "Parts", "Refused", "parse_command"]
