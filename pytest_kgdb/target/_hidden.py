"""Breakpoints that a test does not see: something is done at each hit, and the kernel goes on."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from ._link import GdbError, Link

__all__ = ["Hidden"]


@dataclass
class _Spot:
    number: int
    work: Callable[[], bool]


class Hidden:
    """The hidden breakpoints of one machine, by name."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._spots: dict[str, _Spot] = {}

    @property
    def numbers(self) -> list[str]:
        """gdb's numbers of them."""
        return [str(spot.number) for spot in self._spots.values()]

    def plant(self, name: str, work: Callable[[], bool]) -> None:
        """Plant one at a function's first instruction, where its arguments are in registers.

        :param work: called at each hit; returns whether the kernel is to stay stopped.
        :raises GdbError: there is no such function.
        """
        if name not in self._spots:
            made = self._link.command(f'-break-insert "*{name}"')["bkpt"]
            self._spots[name] = _Spot(int(made["number"]), work)

    def remove(self, name: str) -> None:
        """Delete one; one that is not there need not be."""
        spot = self._spots.pop(name, None)
        if spot is not None:
            with contextlib.suppress(GdbError):
                self._link.command(f"-break-delete {spot.number}")

    def forget(self) -> None:
        """All breakpoints have been deleted behind our back."""
        self._spots.clear()

    def deleted(self, number: int) -> None:
        """Note that gdb has deleted a breakpoint (in gdb's reading thread)."""
        for name, spot in list(self._spots.items()):
            if spot.number == number:
                del self._spots[name]

    def at(self, number: int) -> Callable[[], bool] | None:
        """Return what is to be done at a hit; None for a breakpoint of the test's."""
        for spot in list(self._spots.values()):
            if spot.number == number:
                return spot.work
        return None

    @contextlib.contextmanager
    def asleep(self) -> Iterator[None]:
        """Around a step: a hit would end it, and nothing could take it up again."""
        numbers = " ".join(self.numbers)
        if numbers:
            self._link.command(f"-break-disable {numbers}")
        try:
            yield
        finally:
            # A kernel that still runs, the step being out of time, takes no breakpoints.
            if numbers and self._link.stopped:
                with contextlib.suppress(GdbError):
                    self._link.command(f"-break-enable {numbers}")
