"""The instruments of a machine: made here, and ended when another test begins."""

from __future__ import annotations

import errno
import operator
from collections.abc import Callable, Sequence

from ..debugger import (
    Debugger,
    Locations,
    Restored,
    RunControl,
    Stop,
    StopRecord,
    StopSubscriber,
    errno_of,
)
from ..errors import KgdbError
from ._functions import find_function
from ._instrument import HookRelay, Instrument
from ._override import Override, When
from ._spy import Spy

__all__ = ["Instruments"]


class Instruments(StopSubscriber):
    """Makes instruments on one machine, and ends them with the test.

    :param run_control: is asked whether the kernel is stopped.
    """

    def __init__(
        self,
        debugger: Debugger,
        run_control: RunControl,
        relay: HookRelay,
        locations: Locations,
    ) -> None:
        self._debugger = debugger
        self._run_control = run_control
        self._relay = relay
        self._locations = locations
        self._instruments: list[Instrument] = []
        self._listeners: list[Callable[[], None]] = []
        run_control.subscribe(self)

    def on_insert(self, listener: Callable[[], None]) -> None:
        """Call a function after an instrument was made."""
        self._listeners.append(listener)

    def _add(self, instrument: Instrument) -> None:
        self._instruments.append(instrument)
        for listener in self._listeners:
            listener()

    def spy(self, function: str, collect: Sequence[str], *, returns: bool, keep: int) -> Spy:
        """Make a spy; see :meth:`Kgdb.spy`."""
        self._run_control.require_stopped("spy()")
        if isinstance(collect, str):
            collect = (collect,)
        if keep < 1:
            raise KgdbError(f"a spy keeps at least one call, not {keep}")
        target = find_function(self._debugger, self._locations, function, collect, "spy")
        spy = Spy(
            self._relay,
            target,
            returns=returns,
            keep=keep,
            barred=self._locations.forbidden_ranges() if returns else (),
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
    ) -> Override:
        """Make an override; see :meth:`Kgdb.override`."""
        self._run_control.require_stopped("override()")
        if skip < 0 or (times is not None and times < 1):
            raise KgdbError(
                f"an override skips 0 calls or more, not {skip}, and forces at least one"
            )
        condition = (when,) if isinstance(when, str) else ()
        value = self._value(returns)
        computed = (value,) if isinstance(value, str) else ()
        target = find_function(
            self._debugger, self._locations, function, (*condition, *computed), "override"
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
        )
        self._add(override)
        return override

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
            raise KgdbError(
                f"an instrument stopped the kernel: {type(error).__name__}: {error}",
                hint="what it calls must not raise, and must not use the handle",
            ) from error

    def restored(self, event: Restored) -> None:
        """Another test begins without instruments."""
        if not event.keep_breakpoints:
            self.end()

    def default_failure(self, function: str) -> object:
        """Return what a function returns that fails for want of memory: -ENOMEM, or NULL.

        :raises KgdbError: its type does not say.
        """
        target = find_function(self._debugger, self._locations, function, (), "override")
        returns = target.entries[0].returns
        if returns is None or returns.kind not in ("int", "ptr", "string"):
            raise KgdbError(
                f"how {function} fails is not known: it returns {returns.type if returns else '?'}",
                hint="say so: returns=…",
            )
        return -errno.ENOMEM if returns.kind == "int" else 0

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
        if hasattr(returns, "__index__"):
            return operator.index(returns)
        if hasattr(returns, "value_"):  # a drgn.Object
            return int(returns.value_())
        raise KgdbError(
            f"an override cannot return {returns!r}",
            hint="a number, '-ENOMEM', a C expression, or None for a void function",
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
