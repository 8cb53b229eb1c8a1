"""Overrides: a function returns at once with a value of the test's choice."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from ..debugger import MAX_ERRNO, errno_of
from ..errors import KgdbError
from ..rsp import CONTINUE, Action, Event, Return
from ._call import Call
from ._functions import Function, FunctionEntry, Reader, Returns
from ._instrument import HookRelay, Instrument

__all__ = ["CallPlaces", "Override", "When", "errno_of", "in_register"]

When = Callable[[Call], object]


@dataclass(frozen=True)
class CallPlaces:
    """Some of the places that a function is called from."""

    calls: Mapping[int, int]
    """By where each call returns to: the entry that it calls."""
    jumps: Mapping[int, int]
    """The same of jumps that are calls, as the caller has nothing left to do; by their address."""

    @property
    def entries(self) -> frozenset[int]:
        """The entries that are called."""
        return frozenset([*self.calls.values(), *self.jumps.values()])


_INTEGERS: Final = ("int", "bool", "ptr", "string")


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
            f"{name} returns {kind}, which cannot be forced",
            hint="what returns a number or a pointer can: a function that it calls, or a caller",
        )
    if value is None:
        raise KgdbError(f"{name} returns {kind}", hint="say which value")
    bits = 8 * returns.size if returns is not None else 64
    if bits > 64:
        raise KgdbError(
            f"{name} returns {kind}, of {bits} bits, which cannot be forced",
            hint="what returns at most 64 bits can: a function that it calls, or a caller",
        )
    low, high = _range_of(returns, bits)
    # ERR_PTR(), and what returns an address or an error as an unsigned long.
    is_error = bits >= 32 and low == 0 and -MAX_ERRNO <= value < 0
    if not low <= value <= high and not is_error:
        raise KgdbError(
            f"{name} returns {kind}, of {bits} bits, which cannot hold {value}: it holds "
            f"{low} to {high}"
        )
    return value & ((1 << bits) - 1)


def _refuse_parts(function: Function) -> None:
    """:raises KgdbError: not all of a call can be skipped, or what is returned is not known."""
    copies = ", ".join(dict.fromkeys(entry.copy for entry in function.entries))
    if function.is_split:
        raise KgdbError(
            f"no override on {function.name}: {function.unseen}; what is inlined cannot be skipped",
            hint=f"override('{function.entries[0].copy}', …) skips the part that gcc split off; or "
            "take a function that it was inlined in",
        )
    if any(entry.is_part and not entry.keeps_result for entry in function.entries):
        raise KgdbError(
            f"no override on {function.name}: gcc may have changed what {copies} returns, and no "
            "caller is seen to use it",
            hint="take a function that it was inlined in, or one that it calls",
        )


def _range_of(returns: Returns | None, bits: int) -> tuple[int, int]:
    """Return the least and the greatest number that a type holds."""
    if returns is None:
        return -(1 << 63), (1 << 64) - 1  # the debug info does not say
    if returns.kind == "bool":
        return 0, 1
    return (-(1 << (bits - 1)), (1 << (bits - 1)) - 1) if returns.signed else (0, (1 << bits) - 1)


class Override(Instrument):
    """Has a function return at once, without a line of it executed.

    :param value: what it returns; None for a void function.
    :param computed: whether the last of the entry's expressions says at each call what it returns.
    :param times: calls that are forced; None for all.
    :param skip: calls that are let through first, of those for which `when` holds.
    :param condition: whether a compiled condition is the first of the entry's expressions.
    :param when: a function of the test's that is asked, with the call.
    :param trace: stop at each call that is forced, for `path` to be noted.
    :param places: the places that are meant, where others call the function as they like.
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
        computed: bool = False,
        places: CallPlaces | None = None,
    ) -> None:
        self._places = places
        if places is not None:
            function = _called_from(function, places)
        super().__init__(relay, function)
        if not relay.can_force_return:
            raise KgdbError(
                f"no override on {function.name}: this machine's memory is reached through kgdb "
                "only, which does not set the stack pointer",
                hint="stop in a caller: finish() the call, and assign('$rax', …)",
            )
        _refuse_parts(function)
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
        self._computed = computed
        self._values = {
            entry.address: in_register(function.name, entry.returns, self._constant(entry, value))
            for entry in function.entries
        }
        self._insert(lambda entry: lambda event: self._on_call(entry, event))

    def _constant(self, entry: FunctionEntry, value: int | None) -> int | None:
        """Return what is forced, or for what is computed at each call something that fits."""
        if not self._computed:
            return value
        reader = entry.expressions[-1]
        if reader.kind not in _INTEGERS:
            raise KgdbError(
                f"{self.function} cannot return '{reader.expression}', which is no number",
                hint="a number, a pointer or a truth value can be returned",
            )
        constant = reader.constant
        return 0 if constant is None else constant

    # In the relay's thread

    def _on_call(self, entry: FunctionEntry, event: Event) -> Action:
        if self._places is not None and not self._is_meant(self._places, event):
            return CONTINUE
        self.calls += 1
        if event.decided or self.forced == self._times:
            return CONTINUE
        if self._condition and not self._read(entry.expressions[0], event):
            return CONTINUE
        call: Call | None = None
        if self._when is not None:
            call = Call(self.function, self.calls, entry, event)
            if not self._when(call):
                return CONTINUE
        self._matched += 1
        if self._matched <= self._skip:
            return CONTINUE
        value = self._values[entry.address]
        if self._computed:
            number = int(self._read(entry.expressions[-1], event))
            value = in_register(self.function, entry.returns, number)
        self.forced += 1
        self.last = call or Call(self.function, self.calls, entry, event)
        self.last.note_register(value, event)
        return Return(value, stop=self._trace)

    def _read(self, reader: Reader, event: Event) -> Any:
        """:raises KgdbError: the kernel is to stop, for what is to be done is not known."""
        try:
            return reader.read(event)
        except KgdbError as error:
            raise KgdbError(
                f"'{reader.expression}' of the override of {self.function} could not be read at "
                f"the call: {error.message}",
                hint=error.hint,
            ) from error

    @staticmethod
    def _is_meant(places: CallPlaces, event: Event) -> bool:
        if event.address in places.jumps:
            return True
        caller = int.from_bytes(event.read(event.registers["sp"], 8), "little")
        return caller in places.calls

    @property
    def to_be_traced(self) -> bool:
        """Whether the kernel was stopped for `path`, which nobody has noted (for the handle)."""
        return self._trace and self.forced > 0 and not self.path

    def __repr__(self) -> str:
        counts = f"{self.forced} of {self.calls} calls forced"
        return f"<Override of {self.function}: {counts}{self._state()}>"


def _called_from(function: Function, places: CallPlaces) -> Function:
    """Return a function whose entries are those that calls from some places come to.

    At a jump that is a call, registers and stack are as at the function's entry.

    :raises KgdbError: a call leads to none of its entries.
    """
    by_address = {entry.address: entry for entry in function.entries}
    for place, target in (*places.calls.items(), *places.jumps.items()):
        if target not in by_address:
            raise KgdbError(f"what is called at {place:#x} is at {target:#x}: not {function.name}")
    entries = [by_address[target] for target in dict.fromkeys(places.calls.values())]
    entries += [replace(by_address[target], address=jump) for jump, target in places.jumps.items()]
    return replace(function, entries=tuple(entries))
