"""What spies and overrides have in common: hooks at a function's entries."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from ..debugger import Deletable
from ..rsp import Hook
from ._functions import Function, FunctionEntry

__all__ = ["HookRelay", "Instrument"]


class HookRelay(Protocol):
    """The part of the relay that instruments use."""

    @property
    def can_force_return(self) -> bool:
        """Whether a hook may make a function return."""

    def add_hook(self, address: int, hook: Hook) -> None:
        """Call a function at each arrival at an address; the kernel must be stopped."""

    def try_add_hook(self, address: int, hook: Hook) -> bool:
        """Do the same from within a hook; False if the stub refuses."""

    def remove_hook(self, address: int, hook: Hook) -> None:
        """Undo either, whether the kernel is stopped or runs."""

    def take_hook_error(self) -> BaseException | None:
        """Return, once, what a hook raised."""


class Instrument(Deletable):
    """What is done at each call of a function; a context manager that ends it."""

    def __init__(self, relay: HookRelay, function: Function) -> None:
        self._relay = relay
        self._function = function
        self._hooks: list[tuple[int, Hook]] = []
        self._active = True
        self.function = function.name
        self.inlined_in = function.inlined_in
        """Functions into which gcc inlined it; its calls there are not seen."""
        self.unseen = function.unseen
        """Which calls of the function are not seen, in words; empty if all are."""

    def _insert(self, hook: Callable[[FunctionEntry], Hook]) -> None:
        try:
            for entry in self._function.entries:
                entry_hook = hook(entry)
                self._relay.add_hook(entry.address, entry_hook)
                self._hooks.append((entry.address, entry_hook))
        except BaseException:
            self.delete()
            raise

    @property
    def active(self) -> bool:
        """Whether it is still at work: until `delete()`, the test's end, or its module's."""
        return self._active

    def within(self, contains: Callable[[int], bool]) -> bool:
        """Whether it is at an address of those (for the modules)."""
        return any(contains(entry.address) for entry in self._function.entries)

    def _state(self) -> str:
        """Return what `repr()` shows of every instrument."""
        return ("" if self.active else ", ended") + (f"; {self.unseen}" if self.unseen else "")

    def delete(self) -> None:
        """End it, whether the kernel is stopped or runs; a second time does nothing.

        What was recorded stays.
        """
        if self._active:
            self._active = False
            for address, hook in self._hooks:
                self._relay.remove_hook(address, hook)
