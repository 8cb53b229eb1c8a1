"""Overrides: a function returns at once with a value of the test's choice."""

from __future__ import annotations

import errno
import re
from collections.abc import Callable
from typing import Any, Final

from ..errors import KgdbError
from ..rsp import CONTINUE, Action, Event, Return
from ._call import Call
from ._functions import Function, FunctionEntry, Reader, Returns
from ._instrument import HookRelay, Instrument

__all__ = ["Override", "When", "errno_of", "in_register"]

When = Callable[[Call], object]

# include/linux/errno.h: what the kernel returns to itself, and no program sees.
_KERNEL_ERRNOS: Final = {
    "ERESTARTSYS": 512, "ERESTARTNOINTR": 513, "ERESTARTNOHAND": 514, "ENOIOCTLCMD": 515,
    "ERESTART_RESTARTBLOCK": 516, "EPROBE_DEFER": 517, "EOPENSTALE": 518, "ENOPARAM": 519,
    "EBADHANDLE": 521, "ENOTSYNC": 522, "EBADCOOKIE": 523, "ENOTSUPP": 524, "ETOOSMALL": 525,
    "ESERVERFAULT": 526, "EBADTYPE": 527, "EJUKEBOX": 528, "EIOCBQUEUED": 529,
    "ERECALLCONFLICT": 530, "ENOGRACE": 531,
}  # fmt: skip
_ERRNO: Final = re.compile(r"(?:ERR_PTR\(\s*)?(-?)(E[A-Z0-9_]+)\s*\)?")
_INTEGERS: Final = ("int", "bool", "ptr", "string")


def errno_of(text: str) -> int | None:
    """Return the number that `-ENOMEM`, or `ERR_PTR(-ENOMEM)`, stands for; None for other words.

    :raises KgdbError: there is no such error.
    """
    match = _ERRNO.fullmatch(text.strip())
    if match is None:
        return None
    sign, name = match.groups()
    # The host's errnos are those of include/uapi/asm-generic/errno.h, as x86's are.
    number = _KERNEL_ERRNOS.get(name) or getattr(errno, name, None)
    if not isinstance(number, int):
        raise KgdbError(f"there is no error {name}", hint="a number will do")
    return -number if sign else number


def in_register(name: str, returns: Returns | None, value: int | None) -> int | None:
    """Return what `%rax` must hold for a function to return a value.

    :raises KgdbError: its type cannot hold it.
    """
    kind = returns.type if returns is not None else "long"
    if returns is not None and returns.kind == "void":
        if value is not None:
            raise KgdbError(f"{name} returns nothing, not {value}", hint="override it with None")
        return None
    if returns is not None and returns.kind not in _INTEGERS:
        raise KgdbError(
            f"{name} returns a {kind}, which cannot be forced",
            hint="what returns a number or a pointer can: a function that it calls, or a caller",
        )
    if value is None:
        raise KgdbError(f"{name} returns a {kind}", hint="say which value")
    bits = 8 * returns.size if returns is not None else 64
    if returns is not None and returns.kind == "bool":
        return int(bool(value))
    # A negative number for an unsigned type or a pointer is what C makes of it.
    if not -(1 << (bits - 1)) <= value < 1 << bits:
        raise KgdbError(f"{name} returns a {kind} of {bits} bits, which cannot hold {value}")
    return value & ((1 << bits) - 1)


class Override(Instrument):
    """Has a function return at once, without a line of it executed.

    :param value: what it returns; None for a void function.
    :param times: calls that are forced; None for all.
    :param skip: calls that are let through first, of those for which `when` holds.
    :param condition: whether a compiled condition is the last of the entry's expressions.
    :param when: a function of the test's that is asked, with the call.
    :param trace: stop at each call that is forced, for `path` to be noted.
    """

    def __init__(
        self,
        relay: HookRelay,
        function: Function,
        value: int | None,
        *,
        times: int | None,
        skip: int,
        condition: bool,
        when: When | None,
        trace: bool = False,
    ) -> None:
        super().__init__(relay, function)
        if not relay.can_force_return:
            raise KgdbError(
                f"no override on {function.name}: this machine's memory is reached through kgdb "
                "only, which does not set the stack pointer",
                hint="stop in a caller: finish() the call, and assign('$rax', …)",
            )
        self._times = times
        self._skip = skip
        self._condition = condition
        self._when = when
        self.calls = 0
        """Calls so far, forced or not."""
        self.forced = 0
        """Calls that returned at once."""
        self.last: Call | None = None
        """The last call that was forced."""
        self.path: tuple[str, ...] = ()
        """The callers of the last call that was forced, if they were asked for."""
        self._trace = trace
        self._matched = 0
        values = {
            entry.address: in_register(function.name, entry.returns, value)
            for entry in function.entries
        }
        self._insert(lambda entry: lambda event: self._on_call(entry, values[entry.address], event))

    # In the relay's thread

    def _on_call(self, entry: FunctionEntry, value: int | None, event: Event) -> Action:
        self.calls += 1
        if event.decided or self.forced == self._times:
            return CONTINUE
        if self._condition and not _holds(entry.expressions[-1], event):
            return CONTINUE
        call: Call | None = None
        if self._when is not None:
            call = Call(self.function, self.calls, entry, event)
            if not self._when(call):
                return CONTINUE
        self._matched += 1
        if self._matched <= self._skip:
            return CONTINUE
        self.forced += 1
        self.last = call or Call(self.function, self.calls, entry, event)
        self.last.note_register(value)
        return Return(value, stop=self._trace)

    @property
    def to_be_traced(self) -> bool:
        """Whether the kernel was stopped for `path`, which nobody has noted (for the handle)."""
        return self._trace and self.forced > 0 and not self.path

    def __repr__(self) -> str:
        ended = "" if self.active else ", ended"
        return f"<Override of {self.function}: {self.forced} of {self.calls} calls forced{ended}>"


def _holds(condition: Reader, event: Event) -> bool:
    value: Any = condition.read(event)
    return bool(value)
