"""The frames of the stack at a stop, and their variables."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import Any, Protocol

from ..errors import KgdbError
from ._debugger import Debugger
from ._evaluate import evaluate
from ._values import Value, record_summary

__all__ = ["Frame", "SourceText", "Variables", "source_path"]


class SourceText(Protocol):
    """The source that the kernel and its modules were compiled from."""

    def name(self, file: str) -> str:
        """Return a file's name, relative to the kernel's tree if it is in there."""

    def read(self, file: str, address: int) -> bytes:
        """Return the content of the file that an address was compiled from.

        :raises KgdbError: it is not available.
        """

    def line(self, file: str, address: int) -> int | None:
        """Return the line of an instruction; None of one that is another file's, or not found."""


class Variables(Mapping[str, Value]):
    """A frame's variables by name, read from the kernel when one is first asked for.

    One that cannot be read is there, too: using it raises the reason.
    """

    def __init__(self, debugger: Debugger, level: int, arguments: bool, what: str) -> None:
        self._debugger = debugger
        self._generation = debugger.generation.number
        self._level = level
        self._arguments = arguments
        self._what = what
        self._records: dict[str, dict[str, Any]] | None = None

    def _read(self) -> dict[str, dict[str, Any]]:
        self._debugger.generation.check(self._generation, self._what)
        if self._records is None:
            self._records = self._debugger.request(
                "variables", frame=self._level, arguments=self._arguments
            )
        return self._records

    def __getitem__(self, name: str) -> Value:
        records = self._read()
        if name not in records:
            raise KeyError(
                f"{self._what} have no '{name}'; they have {', '.join(records) or 'none'}"
            )
        return Value(self._debugger, records[name], name)

    def summaries(self) -> dict[str, str]:
        """Return a short text for each variable that gdb can read (for a report)."""
        texts = {}
        for name, record in self._read().items():
            text = record_summary(record)
            if text and (record.get("code"), record.get("target")) == ("ptr", "char"):
                with contextlib.suppress(KgdbError):
                    text = Value(self._debugger, record, name).text_of_string or text
            if text:
                texts[name] = text
        return texts

    def __iter__(self) -> Iterator[str]:
        return iter(self._read())

    def __len__(self) -> int:
        return len(self._read())

    def __repr__(self) -> str:
        if self._generation != self._debugger.generation.number:
            return f"<{self._what}: stale>"
        shown = (
            f"{name}={record.get('text', record.get('error', '…'))}"
            for name, record in self._read().items()
        )
        return "{" + ", ".join(shown) + "}"


class Frame:
    """One frame of the stack at a stop; level 0 is the innermost.

    Used after the kernel moved on it raises :class:`~pytest_kgdb.errors.StaleError`.
    """

    def __init__(
        self, debugger: Debugger, record: Mapping[str, Any], source: SourceText | None
    ) -> None:
        self._debugger = debugger
        self._generation = debugger.generation.number
        self._record = record
        self._source = source
        self.level: int = int(record["level"])

    def _get(self, name: str) -> Any:
        self._debugger.generation.check(self._generation, f"frame {self.level}")
        return self._record.get(name)

    @property
    def function(self) -> str | None:
        """The function's name; None where there is no symbol."""
        name = self._get("function")
        return None if name is None else str(name)

    @cached_property
    def _place(self) -> Mapping[str, Any]:
        """`file`, `fullname` and `line`: gdb's, or those of the function where gdb's are none."""
        record, own = self._record, self._record.get("own")
        if own is None:
            return record
        line = own.get("line")
        if line is None and self._source is not None:
            line = self._source.line(own["file"], own["address"])
        return record if line is None else {**own, "line": line}

    def _get_place(self, name: str) -> Any:
        self._get(name)
        return self._place.get(name)

    @property
    def file(self) -> str | None:
        """The source file, relative to the kernel's tree where it can be.

        At a function's first instruction, and at a call, it is the function's own file, even if gcc
        has moved something there that is inlined further down: gdb's commands say that one's.
        """
        name = self._get_place("file")
        return None if name is None else source_path(str(name), self._source)

    @property
    def path(self) -> str | None:
        """The path of :attr:`file` as the debug info has it."""
        path = self._get_place("fullname")
        return None if path is None else str(path)

    @property
    def line(self) -> int | None:
        """The line in :attr:`file`, from 1."""
        line = self._get_place("line")
        return None if line is None else int(line)

    @property
    def inlined(self) -> bool:
        """Whether the function is inlined into the one of the next frame."""
        return bool(self._get("inline"))

    @property
    def address(self) -> int:
        """The program counter."""
        return int(self._get("address"))

    @property
    def args(self) -> Variables:
        """The function's arguments by name."""
        self._debugger.generation.check(self._generation, f"frame {self.level}")
        return Variables(self._debugger, self.level, True, f"the arguments of frame {self.level}")

    @property
    def locals(self) -> Variables:
        """The local variables by name, inner blocks' first."""
        self._debugger.generation.check(self._generation, f"frame {self.level}")
        return Variables(self._debugger, self.level, False, f"the locals of frame {self.level}")

    def evaluate(self, expression: str) -> Value:
        """Evaluate an expression in this frame."""
        self._debugger.generation.check(self._generation, f"frame {self.level}")
        return evaluate(self._debugger, expression, frame=self.level)

    def up(self) -> Frame:
        """Return the caller's frame.

        :raises KgdbError: this is the outermost.
        """
        self._debugger.generation.check(self._generation, f"frame {self.level}")
        frames = self._debugger.request("frames", limit=self.level + 2)["frames"]
        if len(frames) <= self.level + 1:
            raise KgdbError(f"frame {self.level} ({self.function}) is the outermost")
        return Frame(self._debugger, frames[self.level + 1], self._source)

    def source(self, context: int = 5) -> str:
        """Return the source around the line, numbered, the line itself marked.

        :param context: lines before and after.
        :raises KgdbError: there is no line; or the file as it was compiled is not available.
        """
        path, line = self.path, self.line
        if path is None or line is None:
            raise KgdbError(f"frame {self.level} ({self.function}) has no source line")
        if self._source is None:
            raise KgdbError(f"the source {path} is not available")
        text = self._source.read(path, self.address).decode(errors="replace")
        lines = text.split("\n")[: text.count("\n") + (not text.endswith("\n"))]
        first = max(1, line - context)
        shown = lines[first - 1 : line + context]
        return "\n".join(
            f"{'>' if number == line else ' '}{number:6d}  {text.rstrip()}"
            for number, text in enumerate(shown, first)
        )

    def __str__(self) -> str:
        where = f" at {self.file}:{self.line}" if self.file else ""
        return f"#{self.level} {self.function or hex(self.address)}{where}"

    def __repr__(self) -> str:
        if self._generation != self._debugger.generation.number:
            return f"<Frame {self.level}: stale>"
        return f"<Frame {self}>"


def source_path(file: str, source: SourceText | None) -> str:
    """Return a file of the debug info relative to the kernel's tree, where it can be."""
    if source is not None and file.startswith("/"):
        return source.name(file)
    # A tree built in place, or with O= below it, names its files "./…" or "../…".
    return re.sub(r"^(?:\.{1,2}/)+", "", file)
