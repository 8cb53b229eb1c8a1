"""Values of the stopped kernel, as gdb knows them."""

from __future__ import annotations

import operator
import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

from ..errors import KgdbError, StaleError
from ._debugger import Debugger
from ._errnos import MAX_ERRNO, errno_name, errno_of

__all__ = [
    "OPTIMIZED_OUT_HINT",
    "Task",
    "Value",
    "difference",
    "real_of",
    "record_summary",
    "request_of",
    "summary_of",
    "width_of",
]

_ERROR: Final = re.compile(r"-E[A-Z0-9_]+|ERR_PTR\(\s*-E[A-Z0-9_]+\s*\)")
# A name, a macro with its arguments, or what is in parentheses; then members and elements.
_POSTFIX: Final = re.compile(
    r"(?:(?:'[^']*'::)?[$\w]+(?:::\w+)*(?:\([^()]*\))?|\((?:[^()]|\([^()]*\))*\))"
    r"(?:(?:\.|->)\w+|\[[^][]*\])*"
)
_OF_NUMBERS: Final = tuple("bcdeEfFgGnoxX%")  # Python's format specifications
OPTIMIZED_OUT_HINT: Final = (
    "stop at another line, or where the value is an argument of a function that was not inlined"
)


class Value:
    """A value in the stopped kernel: typed, read when it is asked for.

    Used after the kernel moved on it raises :class:`~pytest_kgdb.errors.StaleError`.
    """

    __hash__ = None  # type: ignore[assignment] # it compares with what it holds, which is the kernel's

    def __init__(self, debugger: Debugger, record: dict[str, Any], expression: str) -> None:
        self._debugger = debugger
        self._generation = debugger.generation.number
        self._writes = debugger.generation.writes
        self._record = record
        self._expression = expression

    def _check(self) -> dict[str, Any]:
        self._debugger.generation.check(self._generation, f"the value of {self._expression}")
        if self._writes != self._debugger.generation.writes:
            # Memory was written since: what lies in memory is read again.
            if self._record.get("address", self._record.get("container")) is None:
                raise StaleError(
                    f"the value of {self._expression} was read before a write and has no address",
                    hint="evaluate it again",
                )
            self._record = self._debugger.request("refresh", id=self._record["id"])
            self._writes = self._debugger.generation.writes
        return self._record

    def _readable(self) -> dict[str, Any]:
        record = self._check()
        if record.get("optimized_out"):
            raise KgdbError(
                f"{self._expression} was optimised out here by the compiler",
                hint=OPTIMIZED_OUT_HINT,
                by_test=True,
            )
        if "error" in record:
            raise KgdbError(
                f"{self._expression} cannot be read here: {record['error']}",
                hint=record.get("hint"),
            )
        return record

    def _child(self, expression: str, how: str, argument: Any = None) -> Value:
        record = self._readable()
        answer = self._debugger.request("child", id=record["id"], how=how, argument=argument)
        return Value(self._debugger, answer, expression)

    @property
    def expression(self) -> str:
        """What was evaluated."""
        return self._expression

    @property
    def _operand(self) -> str:
        """The expression as `.` and `[]` must have it, which bind closer than a cast or `*`."""
        return self._expression if _POSTFIX.fullmatch(self._expression) else f"({self._expression})"

    @property
    def members(self) -> list[str]:
        """The names of a structure's or union's members; none of anything else."""
        return list(self._check().get("members", ()))

    @property
    def number(self) -> int | None:
        """The value as a number; None for one that is none."""
        record = self._check()
        return int(record["int"]) if "int" in record else None

    @property
    def is_pointer(self) -> bool:
        """Whether it is a pointer."""
        return bool(self._check()["code"] == "ptr")

    @property
    def text_of_string(self) -> str | None:
        """What a `char *` or `char []` says, in quotes; None for anything else."""
        record = self._check()
        if not {"optimized_out", "error"}.isdisjoint(record) or not self._is_string(record):
            return None
        return repr(self.string()) if record["code"] == "array" or self.number else None

    @property
    def symbol(self) -> str | None:
        """The function or variable that a pointer points at; None where there is none."""
        record = self._readable()
        if record["code"] != "ptr":
            raise TypeError(f"{self._expression} is a {self.type}, not a pointer")
        answer = self._debugger.request("symbol_at", address=int(record["int"]))["symbol"]
        return None if answer is None else str(answer)

    @property
    def type(self) -> str:
        """The type's name, as C writes it."""
        return str(self._check()["type"])

    @property
    def address(self) -> int | None:
        """Where it lies in memory; None for what lies in a register or nowhere, and a bit-field."""
        address = self._check().get("address")
        return None if address is None else int(address)

    @property
    def is_optimized_out(self) -> bool:
        """Whether the compiler left nothing of it here."""
        return bool(self._check().get("optimized_out"))

    @property
    def error(self) -> str | None:
        """The error that a pointer or a number is: `-ENOMEM`; None if it is none.

        A pointer is one as for the kernel's IS_ERR() (include/linux/err.h), a number if it is
        negative.
        """
        number = self._signed()
        if number is None or not -MAX_ERRNO <= number < 0:
            return None
        return errno_name(number) or str(number)

    @property
    def is_error(self) -> bool:
        """Whether it is a pointer that is an error, or a negative error number."""
        return self.error is not None

    def _signed(self) -> int | None:
        """The number that it is; a pointer, which has no sign, as PTR_ERR() has it."""
        record = self._readable()
        if "int" not in record or record["code"] not in ("ptr", "int"):
            return None
        number = int(record["int"])
        return number - (1 << 64) if record["code"] == "ptr" and number >> 63 else number

    def string(self, length: int | None = None) -> str:
        """Return the text that a `char *` points at, or that a `char []` holds.

        :param length: bytes to read; up to the NUL otherwise.
        """
        record = self._readable()
        answer = self._debugger.request("string", id=record["id"], length=length)
        return str(answer["string"])

    def dereference(self) -> Value:
        """Return what a pointer points at."""
        return self._child(f"*({self._expression})", "dereference")

    def cast(self, type_name: str) -> Value:
        """Return the value as another type: `value.cast("struct task_struct *")`."""
        return self._child(f"({type_name})({self._expression})", "cast", type_name)

    def __getitem__(self, key: str | int) -> Value:
        """Return a member by name (through a pointer too), or an element by index."""
        if isinstance(key, str):
            arrow = "->" if self._check()["code"] == "ptr" else "."
            return self._child(f"{self._operand}{arrow}{key}", "member", key)
        index = int(key)
        length = self._check().get("length")
        # C has flexible arrays of length 0 or 1 whose real length only the kernel knows.
        if length is not None and length > 1 and not -length <= index < length:
            raise IndexError(f"{self._expression} has {length} elements, not an index {index}")
        if length is not None and index < 0:
            index += length
        return self._child(f"{self._operand}[{index}]", "index", index)

    def __iter__(self) -> Iterator[Value]:
        """Go through an array's elements.

        :raises TypeError: it is a flexible array.
        """
        if self._check().get("flexible"):
            raise TypeError(
                f"{self._expression} is a {self.type}, a flexible array, whose length the kernel "
                "has in another member, if at all; its elements can be read by index"
            )
        for index in range(len(self)):
            yield self[index]

    def __len__(self) -> int:
        """Return how many elements an array's type has: a flexible array's has none."""
        length = self._check().get("length")
        if length is None:
            raise TypeError(f"{self._expression} is a {self.type}, not an array")
        return 0 if self._check().get("flexible") else int(length)

    def _int(self) -> int:
        record = self._readable()
        if "float" in record:
            return int(record["float"])
        if "int" not in record:
            raise TypeError(f"{self._expression} is a {self.type}, not a number")
        return int(record["int"])

    def _real(self) -> int | float:
        record = self._readable()
        return float(record["float"]) if "float" in record else self._int()

    def __int__(self) -> int:
        return self._int()

    def __index__(self) -> int:
        number = self._real()
        if isinstance(number, float):
            raise TypeError(f"{self._expression} is a {self.type}, not an integer")
        return number

    def __float__(self) -> float:
        record = self._readable()
        return float(record["float"]) if "float" in record else float(self._int())

    def __bool__(self) -> bool:
        record = self._readable()
        if "float" in record:
            return bool(record["float"])
        return bool(record["int"]) if "int" in record else True

    def __str__(self) -> str:
        record = self._check()
        if record.get("optimized_out"):
            return "<optimized out>"
        if "error" in record:
            return f"<cannot be read here: {record['error']}>"
        if "text" not in record:
            record["text"] = self._debugger.request("text", id=record["id"])["text"]
        return str(record["text"])

    def __format__(self, spec: str) -> str:
        """Return it as a number by `x`, `d` and the like, and as its text otherwise."""
        return format(self._real() if spec[-1:] in _OF_NUMBERS else str(self), spec)

    def __repr__(self) -> str:
        if self._generation != self._debugger.generation.number:
            return f"<Value {self._expression}: stale>"
        try:
            return f"<Value {self._expression} = ({self.type}) {self}>"
        except KgdbError as error:
            return f"<Value {self._expression}: {error.message}>"

    def __eq__(self, other: object) -> bool:
        if isinstance(other, Value):
            return difference(self, other) is None
        if isinstance(other, Mapping):
            return bool(self.members) and all(self[name] == other[name] for name in other)
        if isinstance(other, list | tuple):
            is_array = self._readable()["code"] == "array"
            return is_array and len(self) == len(other) and all(map(operator.eq, self, other))
        if isinstance(other, int | float):
            record = self._readable()
            if record["code"] == "ptr" and other < 0:
                return self._signed() == other
            return _is_number(record) and self._real() == other
        if isinstance(other, str):
            if self.error is not None and _ERROR.fullmatch(other):
                return self._signed() == errno_of(other)
            return self._is_text(other)
        if isinstance(other, bytes):
            return self._is_text(other.decode(errors="surrogateescape"))
        return NotImplemented

    @staticmethod
    def _is_string(record: dict[str, Any]) -> bool:
        return record["code"] in ("ptr", "array") and record.get("target") == "char"

    def _is_text(self, other: str) -> bool:
        record = self._readable()
        if self._is_string(record):
            return self.string() == other
        if record["code"] == "ptr" and record.get("target") == "func":
            return (self.symbol or str(self)) == other
        if _is_number(record):
            return str(self) == other
        whole = self._debugger.request("text", id=record["id"], whole=True)["text"]
        if other != whole and other == str(self):
            raise KgdbError(
                f"the text is that of the first elements of {self._expression}, which has more",
                hint="keep the bytes of what is long: kgdb.read(value.address, size)",
            )
        return bool(other == whole)

    def __lt__(self, other: Any) -> bool:
        return self._real() < _operand(other)

    def __le__(self, other: Any) -> bool:
        return self._real() <= _operand(other)

    def __gt__(self, other: Any) -> bool:
        return self._real() > _operand(other)

    def __ge__(self, other: Any) -> bool:
        return self._real() >= _operand(other)

    def __add__(self, other: Any) -> Any:
        return self._real() + _operand(other)

    __radd__ = __add__

    def __sub__(self, other: Any) -> Any:
        return self._real() - _operand(other)

    def __rsub__(self, other: Any) -> Any:
        return _operand(other) - self._real()

    def __and__(self, other: Any) -> int:
        return operator.index(self) & operator.index(other)

    __rand__ = __and__

    def __or__(self, other: Any) -> int:
        return operator.index(self) | operator.index(other)

    __ror__ = __or__


def _is_number(record: dict[str, Any]) -> bool:
    return "int" in record or "float" in record


def width_of(value: Value) -> int | None:
    """Return how many bits a bit-field has; None for any other value."""
    width = value._check().get("bits")
    return None if width is None else int(width)


def request_of(value: Value, operation: str, **arguments: Any) -> dict[str, Any]:
    """Make the agent inside gdb do something with a value, and return its answer.

    :raises KgdbError: it cannot.
    """
    return value._debugger.request(operation, id=value._check()["id"], **arguments)


def real_of(value: Value) -> int | float:
    """Return the number that a value is, with its fraction.

    :raises TypeError: it is none.
    """
    return value._real()


def difference(one: Value, other: Value) -> list[str | int] | None:
    """Return the way to where two values differ first; None where they are the same.

    It is the members' names and the elements' indices that lead there: none where they differ as a
    whole, as numbers do, and what is of two types.

    :raises KgdbError: one cannot be read, or not all of it can be compared.
    """
    mine, theirs = one._readable(), other._readable()
    if _is_number(mine) and _is_number(theirs):
        return None if one._real() == other._real() else []
    if mine["code"] != theirs["code"]:
        return []
    if one._debugger is not other._debugger:
        raise KgdbError(f"{one.expression} and {other.expression} are of two machines")
    answer = one._debugger.request("difference", id=mine["id"], other=theirs["id"])
    path: list[str | int] | None = answer["path"]
    return path


def _operand(other: Any) -> int | float:
    """Return what a value is computed or compared with."""
    if isinstance(other, Value):
        return real_of(other)
    return other if isinstance(other, float) else int(other)


class Task(Value):
    """A `struct task_struct *`."""

    @property
    def pid(self) -> int:
        """The thread's id, as the kernel numbers it (`task_struct.pid`)."""
        return int(self["pid"])

    @property
    def tgid(self) -> int:
        """The process's id (`task_struct.tgid`)."""
        return int(self["tgid"])

    @property
    def comm(self) -> str:
        """The command's name, at most 15 bytes (`task_struct.comm`)."""
        return self["comm"].string()


def summary_of(value: Value, *, returned: bool = False) -> str:
    """Return what is known of a value already, for a log: nothing is read, or checked.

    :param returned: whether a function returned it: a number that may be an error has its name.
    """
    number = value._record.get("int")
    if returned and isinstance(number, int) and -MAX_ERRNO <= number < 0:
        name = errno_name(number)
        return str(number) if name is None else f"{number} ({name})"
    return record_summary(value._record)


def record_summary(record: Mapping[str, Any]) -> str:
    """Return the same of what the agent says of a value; "" where it says too little."""
    if record.get("optimized_out"):
        return "<optimized out>"
    return str(record.get("text", record.get("int", "")))
