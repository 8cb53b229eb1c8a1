"""The instruments of a machine: made here, and ended when another test begins."""

from __future__ import annotations

import errno
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Final

from ..debugger import (
    Debugger,
    Locations,
    Restored,
    Resumed,
    RunControl,
    SourceText,
    Stop,
    StopRecord,
    StopSubscriber,
    errno_of,
    number_of,
)
from ..errors import KgdbError
from ._arrivals import Arrivals
from ._failures import PointerFailures
from ._freed import FreedMemory, FreeingHooks
from ._functions import Function, find_function
from ._instrument import HookRelay, Instrument
from ._override import CallPlaces, Override, When
from ._spy import Spy

__all__ = ["Instruments"]

# Seconds that a spy's calls take before a wait that runs out says so.
_LONG: Final = 1.0


class Instruments(StopSubscriber):
    """Makes instruments on one machine, and ends them with the test.

    :param run_control: is asked whether the kernel is stopped.
    :param source: the source of the functions.
    :param freeing: has it seen when the kernel frees memory.
    :param pointers: knows how functions fail that return a pointer.
    """

    def __init__(
        self,
        debugger: Debugger,
        run_control: RunControl,
        relay: HookRelay,
        locations: Locations,
        source: SourceText,
        freeing: FreeingHooks,
        pointers: PointerFailures,
    ) -> None:
        self._source = source
        self._pointers = pointers
        self._freeing = freeing
        self._debugger = debugger
        self._run_control = run_control
        self._relay = relay
        self._locations = locations
        self._instruments: list[Instrument] = []
        self._listeners: list[Callable[[], None]] = []
        self._counts: dict[Spy, int] = {}  # the spies' calls when the kernel was last resumed
        freeing.subscribe(self.forget)
        run_control.subscribe(self)

    def on_insert(self, listener: Callable[[], None]) -> None:
        """Call a function after an instrument was made."""
        self._listeners.append(listener)

    def _add(self, instrument: Instrument) -> None:
        self._instruments.append(instrument)
        instrument.guard(self._freeing)
        for listener in self._listeners:
            listener()

    def _find(
        self,
        function: str,
        expressions: Sequence[str],
        what: str,
        conditions: int = 0,
        among: Collection[int] = (),
    ) -> Function:
        return find_function(
            self._debugger,
            self._locations,
            self._source,
            function,
            expressions,
            what,
            conditions,
            among,
        )

    def spy(self, function: str, collect: Sequence[str], *, returns: bool, keep: int) -> Spy:
        """Make a spy; see :meth:`Kgdb.spy`."""
        self._run_control.require_stopped("spy()")
        if isinstance(collect, str):
            collect = (collect,)
        if keep < 1:
            raise KgdbError(f"a spy keeps at least one call, not {keep}")
        target = self._find(function, collect, "spy")
        if returns:
            self._freeing.prepare()  # for its hooks, which cannot ask gdb
        spy = Spy(
            self._relay,
            target,
            returns=returns,
            keep=keep,
            barred=self._locations.forbidden_ranges() if returns else (),
            guard=lambda address: self._freeing.add([address]),
        )
        self._add(spy)
        return spy

    def override(
        self,
        function: str,
        returns: object,
        *,
        times: int | None,
        when: str | When | None,
        skip: int,
        trace: bool = False,
        places: CallPlaces | None = None,
    ) -> Override:
        """Make an override; see :meth:`Kgdb.override`.

        :param trace: note the callers of each call that is forced.
        :param places: the places whose calls are meant; all by default.
        """
        self._run_control.require_stopped("override()")
        if skip < 0 or (times is not None and times < 1):
            raise KgdbError(
                f"an override skips 0 calls or more, not {skip}, and forces at least one"
            )
        for address in places.jumps if places is not None else ():
            self._locations.refuse(address, f"no override on {function} where it is called")
        condition = (when,) if isinstance(when, str) else ()
        value = self._value(returns)
        computed = (value,) if isinstance(value, str) else ()
        target = self._find(
            function,
            (*condition, *computed),
            "override",
            conditions=len(condition),
            among=places.entries if places is not None else (),
        )
        override = Override(
            self._relay,
            target,
            None if isinstance(value, str) else value,
            times=times,
            skip=skip,
            condition=bool(condition),
            when=None if isinstance(when, str) else when,
            trace=trace,
            computed=bool(computed),
            places=places,
        )
        self._add(override)
        return override

    def arrivals(self, addresses: Iterable[int]) -> Arrivals:
        """Note which of some instructions a CPU comes to.

        :raises KgdbError: one of them must not be probed.
        """
        self._run_control.require_stopped("a look at which lines run")
        addresses = list(addresses)
        for address in addresses:
            self._locations.refuse(address, "it cannot be seen whether a line runs")
        arrivals = Arrivals(self._relay, addresses)
        self._add(arrivals)
        return arrivals

    # What run control says

    def intercept(self, record: StopRecord) -> bool:
        """Note the callers of a call that is forced, where they were asked for."""
        for instrument in self._instruments:
            if isinstance(instrument, Override) and instrument.to_be_traced:
                # The function itself is innermost.
                frames = self._run_control.frames()[1:]
                instrument.path = tuple(map(str, frames)) or ("(no caller)",)
                return "bkptno" not in record.payload
        return False

    def recorded(self, stop: Stop) -> None:  # noqa: ARG002 # as every subscriber's
        """Report what a test's own function raised when a hook called it.

        :raises KgdbError: it raised.
        """
        error = self._relay.take_hook_error()
        if error is not None:
            what = f"{type(error).__name__}: {error}"
            hint: str | None = "what it calls must not raise, and must not use the handle"
            if isinstance(error, KgdbError):
                what, hint = error.message, error.hint
            stopped = KgdbError(f"an instrument stopped the kernel: {what}", hint=hint)
            stopped.by_instrument = True
            raise stopped from error

    def resumed(self, event: Resumed) -> None:
        """Note how many calls the spies have seen."""
        if not event.silent:
            spies = (one for one in self._instruments if isinstance(one, Spy))
            self._counts = {spy: spy.count for spy in spies}

    def slowed_by(self) -> str:
        """Return which spy's calls took long since the kernel was resumed, and how long."""
        costs = {
            spy: (count := spy.count - before, count * spy.cost.per_call)
            for spy, before in self._counts.items()
        }
        if not costs:
            return ""
        spy, (count, seconds) = max(costs.items(), key=lambda item: item[1][1])
        if seconds < _LONG:
            return ""
        return (
            f"{count} calls of {spy.function} were spied on meanwhile, for {seconds:.0f} s: spy on "
            "what is called less often"
        )

    def restored(self, event: Restored) -> None:
        """Another test begins without instruments; what had begun does not go on."""
        if not event.keep_breakpoints:
            self.end()
        for instrument in self._instruments:
            instrument.abandon()

    def forget(self, memory: FreedMemory) -> None:
        """Have all of them do without memory that is being freed, or is gone.

        The kernel is stopped, or the relay's thread has it stopped.
        """
        for instrument in list(self._instruments):
            instrument.forget(memory, self._freeing.offsets)

    def default_failure(self, function: str) -> object:
        """Return what a function returns that fails for want of memory: -ENOMEM, or NULL.

        :raises KgdbError: its type does not say; of a pointer, neither its source nor its callers.
        """
        target = self._find(function, (), "override")
        returns = target.entries[0].returns
        if returns is not None and returns.kind == "void":
            raise KgdbError(
                f"{function} returns nothing, so that none of its callers can see it fail",
                hint="take a function that it calls, or one that calls it; with returns=None its "
                "calls are left out, one after the other",
            )
        if returns is None or returns.kind not in ("int", "ptr", "string"):
            raise KgdbError(
                f"how {function} fails is not known: it returns {returns.type if returns else '?'}",
                hint="say so: returns=…",
            )
        if returns.kind == "int":
            return -errno.ENOMEM
        return self._failure_of_pointer(
            function, target, "say so: returns='NULL', or returns='-ENOMEM'"
        )

    def likely_failure(
        self, function: str, *, checked: bool, entries: Collection[int] = ()
    ) -> int | None:
        """Return what a function returns that fails, where nobody has looked at the function.

        None of a function that returns nothing, and cannot fail.

        :param checked: whether a caller compares what it returns with the error pointers.
        :param entries: the addresses that are called, where several functions have the name.
        :raises KgdbError: that cannot be told.
        """
        target = self._find(function, (), "override", among=entries)
        returns = target.entries[0].returns
        if returns is not None and returns.kind in ("ptr", "string"):
            if checked:
                return -errno.ENOMEM
            hint = f"say so: returns={{'{function}': 'NULL'}}, or '-ENOMEM'"
            return self._failure_of_pointer(function, target, hint)
        if returns is not None and returns.kind == "int" and returns.signed and returns.size >= 4:
            return -errno.ENOMEM
        if returns is not None and returns.kind == "void":
            return None
        kind = "a type that is not known" if returns is None else returns.type
        raise KgdbError(
            f"{function} returns {kind}: how it fails is not known",
            hint=f"say so: returns={{'{function}': …}}, or skip=['{function}']",
        )

    def _failure_of_pointer(self, function: str, target: Function, hint: str) -> int:
        """:raises KgdbError: neither the function's source nor its callers say it."""
        failure = self._pointers.of(target)
        if failure is None:
            raise KgdbError(
                f"how {function} fails is not known: neither its source nor its callers say "
                "whether it returns NULL or an error pointer",
                hint=hint,
            )
        return failure

    @staticmethod
    def _value(returns: object) -> int | str | None:
        """Return a number, or the expression that says at each call which."""
        if returns is None or isinstance(returns, int):
            return returns
        if isinstance(returns, str):
            if returns.strip() in ("NULL", "true", "false"):
                return int(returns.strip() == "true")
            number = errno_of(returns)
            if number is not None:
                return number
            return returns
        value = number_of(returns)
        if value is not None and value == value // 1:
            return int(value)
        raise KgdbError(
            f"an override cannot return {returns!r}",
            hint="a whole number, '-ENOMEM', a C expression, or None for a void function",
        )

    @property
    def spies(self) -> list[Spy]:
        """The test's spies, those that were deleted included."""
        return [one for one in self._instruments if isinstance(one, Spy)]

    def within(self, contains: Callable[[int], bool]) -> list[Instrument]:
        """Return those that are active at one of the addresses for which `contains` is true."""
        return [
            instrument
            for instrument in self._instruments
            if instrument.active and instrument.within(contains)
        ]

    def end(self) -> None:
        """End all of them."""
        for instrument in self._instruments:
            instrument.delete()
        self._instruments.clear()
        self._freeing.remove()
