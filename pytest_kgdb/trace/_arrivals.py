"""Which of some instructions the kernel comes to, by hooks that no stop is seen of."""

from __future__ import annotations

from collections.abc import Iterable

from ..rsp import CONTINUE, Action, Event
from ._functions import Function, FunctionEntry
from ._instrument import HookRelay, Instrument
from ._override import Override

__all__ = ["Arrivals"]


class Arrivals(Instrument):
    """Notes to which of some addresses a CPU comes.

    :param addresses: where instructions begin.
    """

    def __init__(self, relay: HookRelay, addresses: Iterable[int]) -> None:
        entries = tuple(FunctionEntry(address, None, (), (), ()) for address in addresses)
        super().__init__(relay, Function("some lines", entries, ()))
        self.reached: set[int] = set()
        """The addresses since `begin()`."""
        self._failing: Override | None = None
        self._insert(lambda _: self._on_arrival)

    def begin(self, failing: Override | None = None) -> None:
        """Begin anew; the kernel must be stopped.

        :param failing: note only what is come to while this one is active, once it has forced a
            call; by default everything.
        """
        self.reached = set()
        self._failing = failing

    # In the relay's thread

    def _on_arrival(self, event: Event) -> Action:
        failing = self._failing
        if failing is None or (failing.active and failing.forced):
            self.reached.add(event.address)
        return CONTINUE
