"""What spies and overrides have in common: hooks at a function's entries."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable
from typing import Protocol

from ..debugger import Deletable
from ..rsp import Hook
from ._freed import FreedMemory, FreeingHooks
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
        self._ended_by = ""  # what ended it, if that was not the test
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
        """Whether it is still at work: until `delete()`, the test's end, or its module's.

        `repr()` says what has ended it, if the test has not.
        """
        return self._active

    @property
    def addresses(self) -> list[int]:
        """Where it is (for the instruments)."""
        return [entry.address for entry in self._function.entries]

    def within(self, contains: Callable[[int], bool]) -> bool:
        """Whether it is at an address of those (for the modules)."""
        return any(map(contains, self.addresses))

    def guard(self, freeing: FreeingHooks) -> None:
        """Have it seen when the memory is freed that it is in, or reads (for the instruments)."""
        freeing.add(self.addresses)
        for entry in self._function.entries:
            for reader in entry.readers:
                if not freeing.add(reader.constants):
                    reader.freed.append(
                        "it may be, for this kernel cannot be seen to unload a module"
                    )

    def forget(self, memory: FreedMemory, offsets: int) -> None:
        """Do without memory that is being freed, and end if it is in there (for the instruments).

        :param offsets: where the kernel has the CPUs' offsets.

        The kernel is stopped, or the relay's thread has it stopped.
        """
        for entry in self._function.entries:
            for reader in entry.readers:
                if memory.is_read_by(reader.constants, offsets):
                    reader.freed.append(memory.why)
        if self._active and self.within(memory.holds):
            self._ended_by = memory.why
            self.delete()

    def abandon(self) -> None:
        """Take note that the machine was restored (for the instruments)."""

    def _remove_hooks(self, hooks: Iterable[tuple[int, Hook]]) -> None:
        for address, hook in hooks:
            with contextlib.suppress(ValueError):  # delete() is about it, in another thread
                self._hooks.remove((address, hook))
                self._relay.remove_hook(address, hook)

    def _state(self) -> str:
        """Return what `repr()` shows of every instrument."""
        ended = f", ended: {self._ended_by}" if self._ended_by else ", ended"
        return ("" if self.active else ended) + (f"; {self.unseen}" if self.unseen else "")

    def delete(self) -> None:
        """End it, whether the kernel is stopped or runs; a second time does nothing.

        What was recorded stays.
        """
        if self._active:
            self._active = False
            while self._hooks:  # a call that is being served may add one
                hooks, self._hooks = self._hooks, []
                for address, hook in hooks:
                    self._relay.remove_hook(address, hook)
