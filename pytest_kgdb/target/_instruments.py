"""The instruments of a handle: made here, and ended when the machine is put back."""

from __future__ import annotations

import errno
import operator
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final

from ..errors import KgdbError
from ._fail_each import FailEach, Scenario, fail_each
from ._functions import find_function
from ._override import Override, When, errno_of
from ._spy import Instrument, Spy

if TYPE_CHECKING:
    from ..rsp import Relay
    from ._handle import Kgdb
    from ._link import Link
    from ._locations import Locations
    from ._stops import Frame

__all__ = ["DEFAULT", "Instruments"]

DEFAULT: Final = object()
"""Of `returns`: what the function's type has for a failure."""


class Instruments:
    """Makes instruments on one machine."""

    def __init__(self, link: Link, relay: Relay, locations: Locations) -> None:
        self._link = link
        self._relay = relay
        self._locations = locations
        self._made: list[Instrument] = []

    def spy(self, function: str, collect: Sequence[str], *, returns: bool, keep: int) -> Spy:
        """Make a spy; see :meth:`Kgdb.spy`."""
        self._link.require_stopped("spy()")
        if isinstance(collect, str):
            collect = (collect,)
        if keep < 1:
            raise KgdbError(f"a spy keeps at least one call, not {keep}")
        found = find_function(self._link, self._locations, function, collect, "spy")
        made = Spy(
            self._relay,
            found,
            returns=returns,
            keep=keep,
            barred=self._locations.forbidden_ranges() if returns else (),
        )
        self._made.append(made)
        return made

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
        self._link.require_stopped("override()")
        if skip < 0 or (times is not None and times < 1):
            raise KgdbError(
                f"an override skips 0 calls or more, not {skip}, and forces at least one"
            )
        condition = (when,) if isinstance(when, str) else ()
        found = find_function(self._link, self._locations, function, condition, "override")
        made = Override(
            self._relay,
            found,
            self._value(returns),
            times=times,
            skip=skip,
            condition=bool(condition),
            when=None if isinstance(when, str) else when,
            trace=trace,
        )
        self._made.append(made)
        return made

    def serve_stop(self, frames: Callable[[], Sequence[Frame]]) -> bool:
        """Note what a stop was for that no test is to see; False if it is not one of these."""
        for each in self._made:
            if isinstance(each, Override) and each.to_be_traced:
                # The function itself is innermost.
                each.path = tuple(str(frame) for frame in frames()[1:]) or ("(no caller)",)
                return True
        return False

    def fail_each(
        self,
        kgdb: Kgdb,
        kept: Sequence[str],
        function: str,
        scenario: Scenario,
        returns: object,
        *,
        when: str | When | None,
        limit: int,
    ) -> FailEach:
        """See :meth:`Kgdb.fail_each`."""
        if returns is DEFAULT:
            returns = self._failure(function)

        def fail(skip: int, times: int | None) -> Override:
            return self.override(function, returns, times=times, when=when, skip=skip, trace=True)

        return fail_each(kgdb, kept, function, scenario, fail, limit=limit)

    def _failure(self, function: str) -> object:
        """Return what a function returns that fails for want of memory."""
        found = find_function(self._link, self._locations, function, (), "override")
        known = found.places[0].returns
        if known is None or known.kind not in ("int", "ptr", "string"):
            raise KgdbError(
                f"how {function} fails is not known: it returns {known.type if known else '?'}",
                hint="say so: returns=…",
            )
        return -errno.ENOMEM if known.kind == "int" else 0

    def _value(self, returns: object) -> int | None:
        if returns is None or isinstance(returns, int):
            return returns
        if isinstance(returns, str):
            if returns.strip() in ("NULL", "true", "false"):
                return int(returns.strip() == "true")
            number = errno_of(returns)
            if number is not None:
                return number
            return self._link.numbers(returns)[0]
        if hasattr(returns, "__index__"):
            return operator.index(returns)
        if hasattr(returns, "value_"):  # a drgn.Object
            return int(returns.value_())
        raise KgdbError(
            f"an override cannot return {returns!r}",
            hint="a number, '-ENOMEM', a C expression, or None for a void function",
        )

    def within(self, contains: Callable[[int], bool]) -> list[Instrument]:
        """Return those that are at work at an address of those."""
        return [each for each in self._made if each.active and each.within(contains)]

    def end(self) -> None:
        """End all that there are."""
        for each in self._made:
            each.delete()
        self._made.clear()

    def check(self) -> None:
        """:raises KgdbError: a function of the test's own, called at a hook, raised."""
        trouble = self._relay.take_hook_error()
        if trouble is not None:
            raise KgdbError(
                f"an instrument stopped the kernel: {type(trouble).__name__}: {trouble}",
                hint="what it calls must not raise, and must not use the handle",
            ) from trouble
