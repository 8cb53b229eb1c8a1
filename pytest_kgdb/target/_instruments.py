"""The instruments of a handle: made here, and ended when the machine is put back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..errors import KgdbError
from ._functions import find_function
from ._spy import Instrument, Spy

if TYPE_CHECKING:
    from ..rsp import Relay
    from ._link import Link
    from ._locations import Locations

__all__ = ["Instruments"]


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

    def end(self) -> None:
        """End all that there are."""
        for each in self._made:
            each.delete()
        self._made.clear()

    def check(self) -> None:
        """:raises KgdbError: a function of the test's own, called at a hook, raised."""
        trouble = self._relay.take_trouble()
        if trouble is not None:
            raise KgdbError(
                f"an instrument stopped the kernel: {type(trouble).__name__}: {trouble}",
                hint="what it calls must not raise, and must not use the handle",
            ) from trouble
