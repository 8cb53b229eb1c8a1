"""Functions as hooks need them: where they are, and what can be read at their entry."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from ..debugger import Debugger, GdbError, Locations, SourceText, cpu_expression
from ..errors import KgdbError
from ..rsp import AgentExpression, Event, parse_agent_expression
from ._definitions import of_one_definition
from ._layout import decode
from ._pointers import STRING, Pointer, ReadMemory, read_string, text_at

__all__ = ["Collected", "Function", "FunctionEntry", "Reader", "Returns", "find_function"]

_WORD: Final = 8
# Functions that a message names.
_NAMED: Final = 4
_REGISTER: Final = ("int", "bool", "ptr", "string")

# What is recorded of the circumstances of a call. The clock is that of the last tick
# (kernel/time/timekeeping.c): a stopped machine cannot be asked for less.
_CONTEXT: Final = {
    "task": "current",
    "pid": "current->pid",
    "tgid": "current->tgid",
    "comm": "current->comm",
    "cpu": "",  # cpu_expression
    "time": "tk_core.timekeeper.tkr_mono.base + (tk_core.timekeeper.tkr_mono.xtime_nsec "
    ">> tk_core.timekeeper.tkr_mono.shift)",
}


@dataclass(frozen=True)
class Returns:
    """What a function returns."""

    type: str
    kind: str
    """`int`, `bool`, `ptr`, `string`, `void`, or what gdb calls the rest."""
    size: int
    signed: bool
    layout: Mapping[str, Any] | None = None
    """Of what is no number of 64 bits or less: how its bytes are read."""
    in_memory: bool = False
    """Whether it is in memory that the caller gave, to which `%rax` points."""

    def read(self, event: Event) -> Any:
        """Return the value at a return (System V psABI, 3.2.3, "Returning of Values").

        :raises KgdbError: its type cannot be read.
        """
        registers = event.registers
        if self.kind in ("void", *_REGISTER) and self.size <= _WORD:
            return self.decode(registers["ax"], event.read)
        if self.layout is None:
            raise KgdbError(
                f"it returned a {self.type}, which is not read",
                hint="finish() the call, and look at its return_value",
            )
        if self.in_memory:
            return decode(self.layout, event.read(registers["ax"], self.size), event.read)
        words = registers["ax"] | registers["dx"] << 64
        return decode(self.layout, words.to_bytes(2 * _WORD, "little"), event.read)

    def decode(self, register: int, read: ReadMemory) -> int | bool | None:
        """Return the value that `%rax` holds, of a `char *` with its text."""
        if self.kind == "void":
            return None
        value = register & ((1 << 8 * self.size) - 1)
        if self.kind == "bool":
            return bool(value & 0xFF)
        if self.kind == "string":
            return text_at(read, value)
        if self.kind == "ptr":
            return Pointer(value)
        return _sign(value, 8 * self.size) if self.signed else value


def _no_memory(address: int, size: int) -> bytes:
    raise KgdbError(f"a constant reads {size} bytes at {address:#x}")


def _sign(value: int, bits: int) -> int:
    return value - (1 << bits) if value >> (bits - 1) else value


@dataclass(frozen=True)
class Reader:
    """An expression that is read in the relay, at a stop that gdb does not see."""

    expression: str
    kind: str
    signed: bool
    size: int
    code: AgentExpression
    """Leaves the value, or the address of what lies in memory as a whole."""
    layout: Mapping[str, Any] | None = None
    """Of what is no number of 64 bits or less: how its bytes are read."""
    parts: tuple[tuple[AgentExpression, int], ...] = ()
    """Of what lies in several registers: each one's value, and how many bytes of it count."""
    freed: list[str] = field(default_factory=list, compare=False)
    """Why what it reads is gone; empty while it is there."""

    @property
    def constants(self) -> frozenset[int]:
        """The numbers in its code: the addresses of what it names, too."""
        codes = (self.code, *(code for code, _ in self.parts))
        return frozenset().union(*(code.constants for code in codes))

    @property
    def constant(self) -> int | None:
        """The value of what reads neither registers nor memory; None of anything else."""
        if self.layout is not None or self.kind in ("chars", "string"):
            return None
        if any(name == "reg" or name.startswith("ref") for name, _ in self.code.operations):
            return None
        value = self.code.run({}, _no_memory)
        return _sign(value, 64) if self.signed else value

    def read(self, event: Event) -> Any:
        """:raises KgdbError: it leads to memory that is not there, or that is another's by now."""
        if self.freed:
            raise KgdbError(f"its memory is gone: {self.freed[0]}")
        if self.layout is not None:
            return decode(self.layout, self._bytes(event, int(self.layout["size"])), event.read)
        value = self.code.run(event.registers, event.read)
        if self.kind == "int":
            return _sign(value, 64) if self.signed else value
        if self.kind == "bool":
            return bool(value)
        if self.kind == "ptr":
            return Pointer(value)
        if self.kind == "string":
            return text_at(event.read, value)
        if self.kind == "chars":
            string = read_string(event.read, value, self.size or STRING)
            if string is None:
                raise KgdbError(f"there is no memory at {value:#x}")
            if string.gap and len(string.data) != self.size:  # an array may be full
                raise KgdbError(f"the text at {value:#x} {string.gap}")
            return string.text
        return value

    def _bytes(self, event: Event, size: int) -> bytes:
        if not self.parts:
            return event.read(self.code.run(event.registers, event.read), size)
        return b"".join(
            code.run(event.registers, event.read).to_bytes(_WORD, "little")[:length]
            for code, length in self.parts
        )


class Collected(Mapping[str, Any]):
    """Values by the expressions that they are of, as they were at a call."""

    def __init__(self, what: str, values: dict[str, Any]) -> None:
        self._what = what
        self._values = values

    def __getitem__(self, name: str) -> Any:
        if name not in self._values:
            raise KeyError(f"{self._what} has no '{name}'; it has {', '.join(self._values)}")
        value = self._values[name]
        if isinstance(value, KgdbError):
            raise KgdbError(f"'{name}' could not be read at the call: {value.message}")
        return value

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __repr__(self) -> str:
        shown = (
            f"{name}={'?' if isinstance(value, KgdbError) else repr(value)}"
            for name, value in self._values.items()
        )
        return "{" + ", ".join(shown) + "}"


@dataclass(frozen=True)
class FunctionEntry:
    """One copy of a function."""

    address: int
    returns: Returns | None
    """None where the debug info does not know."""
    arguments: tuple[tuple[str, Reader | KgdbError], ...]
    expressions: tuple[Reader, ...]
    context: tuple[tuple[str, Reader | KgdbError], ...]
    copy: str = ""
    """The linker's name of it: `foo.isra.0` of a copy of foo that gcc specialised."""
    is_part: bool = False
    """Whether it is what gcc split off, whose callers have the function's beginning inlined."""
    keeps_result: bool = True
    """Whether it is known to return what the function returns."""

    @property
    def readers(self) -> Iterator[Reader]:
        """All that is read at a call."""
        yield from self.expressions
        for _, reader in (*self.arguments, *self.context):
            if isinstance(reader, Reader):
                yield reader

    def read_context(self, event: Event) -> dict[str, Any]:
        """Return the circumstances of the call: `task`, `pid`, `tgid`, `comm`, `cpu`, `time`."""
        return {name: _read(reader, event) for name, reader in self.context}

    def read_task(self, event: Event) -> list[Any]:
        """Return only the task, its `pid` and `tgid`: what tells a return from the others."""
        readers = dict(self.context)
        return [_read(readers[name], event) for name in ("task", "pid", "tgid")]

    def read_arguments(self, event: Event) -> dict[str, Any]:
        """Return the arguments; those that cannot be read as the error why."""
        return {name: _read(reader, event) for name, reader in self.arguments}

    def read_expressions(self, event: Event) -> dict[str, Any]:
        """Return the further expressions likewise."""
        return {reader.expression: _read(reader, event) for reader in self.expressions}


def _read(reader: Reader | KgdbError, event: Event) -> Any:
    if isinstance(reader, KgdbError):
        return reader
    try:
        return reader.read(event)
    except KgdbError as error:
        return error


@dataclass(frozen=True)
class Function:
    """A function, as the kernel has it."""

    name: str
    entries: tuple[FunctionEntry, ...]
    inlined_in: tuple[str, ...]
    """Functions into which gcc inlined it: its calls there cannot be seen."""
    definition: tuple[str, int] = ("", 0)
    """File and line, as the debug information has them."""

    @property
    def is_split(self) -> bool:
        """Whether of the function itself there are only parts that gcc split off."""
        return all(entry.is_part for entry in self.entries) and not any(
            entry.copy == self.name.rpartition(":")[2] for entry in self.entries
        )

    @property
    def unseen(self) -> str:
        """Which of its calls are not seen, in words; empty if all are."""
        callers = _some(list(dict.fromkeys(name.partition(" (")[0] for name in self.inlined_in)))
        if self.is_split:
            copies = ", ".join(dict.fromkeys(entry.copy for entry in self.entries))
            return (
                f"{self.name} is inlined into {callers}: calls there are seen only "
                f"where they get to {copies}"
            )
        if self.inlined_in:
            return f"{self.name} is inlined into {callers}: calls there are not seen"
        return ""

    @property
    def argument_names(self) -> tuple[str, ...]:
        """The arguments' names, in order."""
        return tuple(name for name, _ in self.entries[0].arguments)


def _some(names: Sequence[str]) -> str:
    """Return a few names, for a message."""
    if not names:
        return "its callers"
    return ", ".join(names[:_NAMED]) + (" and more" if len(names) > _NAMED else "")


def find_function(
    debugger: Debugger,
    locations: Locations,
    source: SourceText,
    name: str,
    expressions: Sequence[str],
    what: str,
    conditions: int = 0,
    among: Collection[int] = (),
) -> Function:
    """Find a function and compile expressions for its entry.

    :param source: knows the files' names in the kernel's tree.
    :param what: who wants it, for messages.
    :param conditions: how many of the expressions, the first ones, are only asked if they hold.
    :param among: the addresses of the copies that are meant, where they are known.
    :raises KgdbError: there is none, or there are several; none that is called, it must not be
        probed, or an expression cannot be read there.
    """
    context = _CONTEXT | {"cpu": cpu_expression(debugger)}
    location = locations.behind(name, what)
    records = debugger.request(
        "function",
        location=location,
        expressions=[*expressions, *context.values()],
        conditions=conditions,
        cpu=context["cpu"],
    )["places"]
    freed = locations.freed_among(record["address"] for record in records)
    live = [record for record in records if record["address"] not in freed]
    records = of_one_definition(location, live or records, what, among, named=source.name)
    copies = [record for record in records if not record["inlined"]]
    inlined = tuple(
        dict.fromkeys(
            f"{record['name']} ({_source_line(record, source)})"
            for record in records
            if record["inlined"]
        )
    )
    if not copies:
        raise KgdbError(
            f"no {what} on {name}: gcc inlined it everywhere, in {_some(inlined)}",
            hint="take a function that it calls, or that it was inlined in",
        )
    # A part is called by the function's other copies, or by what has its beginning inlined.
    whole = [record for record in copies if "part" not in record.get("kinds", ())]
    copies = whole or copies
    for record in copies:
        locations.refuse(record["address"], f"no {what} on {name}")
    definitions = [record["definition"] for record in copies if record.get("definition")]
    return Function(
        name,
        tuple(_make_entry(name, record, expressions, what) for record in copies),
        inlined,
        next(((str(file), int(line)) for file, line in definitions), ("", 0)),
    )


def _source_line(record: Mapping[str, Any], source: SourceText) -> str:
    file = source.name(str(record["file"])) if record["file"] else "?"
    return f"{file}:{record['line']}"


def _make_entry(
    name: str, record: Mapping[str, Any], expressions: Sequence[str], what: str
) -> FunctionEntry:
    returns = record["returns"]
    compiled = record["expressions"]
    return FunctionEntry(
        address=int(record["address"]),
        returns=Returns(**returns) if returns is not None else None,
        arguments=tuple(
            (argument, _argument(argument, code)) for argument, code in record["arguments"]
        ),
        expressions=tuple(
            _reader(text, code, f"no {what} on {name}: '{text}' cannot be read at its entry")
            for text, code in zip(expressions, compiled, strict=False)
        ),
        context=tuple(
            (field, _argument(field, code))
            for field, code in zip(_CONTEXT, compiled[len(expressions) :], strict=True)
        ),
        copy=str(record.get("copy", name)),
        is_part="part" in record.get("kinds", ()),
        keeps_result=bool(record.get("kept", True)),
    )


def _argument(name: str, record: Mapping[str, Any]) -> Reader | KgdbError:
    try:
        return _reader(name, record, f"the argument '{name}' cannot be read at the entry")
    except KgdbError as error:
        return error


def _reader(expression: str, record: Mapping[str, Any], refusal: str) -> Reader:
    if "error" in record:
        raise GdbError(f"{refusal}: {record['error']}", hint=record.get("hint"))
    try:
        parts = tuple(
            (parse_agent_expression(text), int(size)) for text, size in record.get("parts", ())
        )
        code = parts[0][0] if parts else parse_agent_expression(str(record["code"]))
    except KgdbError as error:
        raise KgdbError(f"{refusal}: {error.message}") from error
    return Reader(
        expression,
        str(record["kind"]),
        bool(record["signed"]),
        int(record.get("size") or 0),
        code,
        record.get("layout"),
        parts,
    )
