"""The software breakpoints that the target has, and for whom."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, field

from ._hooks import Hook
from ._recorded_code import RecordedCode

__all__ = ["InsertedBreakpoints"]


@dataclass
class InsertedBreakpoints:
    """Breakpoints of gdb's and of hooks, inserted and removed as late as can be.

    A removal is put off until the target resumes without the breakpoint, since gdb removes its
    breakpoints at each stop and inserts them again at each resume.

    :param request: sends the target a packet and returns its reply.
    :param lazy: whether removals are put off; a target that shows inserted breakpoints in memory
        to gdb, and from which removing one costs little, is told at once.
    """

    request: Callable[[bytes], bytes]
    lazy: bool = True
    inserted: set[int] = field(default_factory=set)
    """What the target has."""
    requested: set[int] = field(default_factory=set)
    """What gdb has inserted."""
    hooks: dict[int, list[Hook]] = field(default_factory=dict)
    """The hooks of each address, the newest first."""
    code: RecordedCode | None = None
    """Whose int3s give way to breakpoints."""

    @property
    def needed(self) -> set[int]:
        """Where gdb or a hook has one."""
        return self.requested | set(self.hooks)

    @property
    def stale(self) -> bool:
        """Whether the target has one that nobody needs any more."""
        return not self.inserted <= self.needed

    def insert(self, address: int) -> bytes:
        """Insert one for gdb, and return the target's reply."""
        reply = self._insert(address)
        if reply == b"OK":
            self.requested.add(address)
        return reply

    def remove(self, address: int) -> None:
        """Remove gdb's, if it has one there."""
        self.requested.discard(address)
        if not self.lazy and address not in self.hooks:
            self._remove(address)

    def add_hook(self, address: int, hook: Hook) -> bytes:
        """Insert one for a hook, and return the target's reply."""
        reply = self._insert(address)
        if reply == b"OK":
            self.hooks.setdefault(address, []).insert(0, hook)
        return reply

    def keep_hook(self, address: int, hook: Hook) -> None:
        """Add a hook whose breakpoint is inserted when the target next resumes, if it can be."""
        self.hooks.setdefault(address, []).insert(0, hook)

    def remove_hook(self, address: int, hook: Hook) -> None:
        """Remove a hook, if it is there; its breakpoint stays until the next :meth:`sync`."""
        hooks = self.hooks.get(address, [])
        if hook in hooks:
            hooks.remove(hook)
        if not hooks:
            self.hooks.pop(address, None)

    def sync(self, without: set[int | None], also: Collection[int] = ()) -> None:
        """Have the target have what is needed, except at some addresses that are stepped off.

        :param also: where it is to have one as well, which nobody needs.
        """
        needed = self.needed - without | set(also)
        for address in sorted(self.inserted - needed):
            self._remove(address)
        for address in sorted(needed - self.inserted):
            self._insert(address)

    def remove_all(self) -> None:
        """Have the target have none; :meth:`sync` inserts what is needed again."""
        for address in sorted(self.inserted):
            self._remove(address)

    def forget(self) -> None:
        """Take note that the target has none and gdb wants none; hooks stay."""
        self.inserted.clear()
        self.requested.clear()

    def _insert(self, address: int) -> bytes:
        if address in self.inserted:
            return b"OK"
        if self.code is not None:
            self._write(address, self.code.give(address))
        reply = self.request(b"Z0,%x,1" % address)
        if reply == b"OK":
            self.inserted.add(address)
        elif self.code is not None:
            self._write(address, self.code.take_back(address))
        return reply

    def _remove(self, address: int) -> None:
        if address in self.inserted:
            self.request(b"z0,%x,1" % address)
            self.inserted.discard(address)
            if self.code is not None:
                self._write(address, self.code.take_back(address))

    def reached(self, address: int) -> None:
        """Record that a CPU has come to an address without executing an int3 there, or is to."""
        if self.code is not None:
            self._write(address, self.code.reached(address))

    def skipped(self, address: int) -> None:
        """Record that a CPU has executed an int3 there, and does not execute the instruction."""
        if self.code is not None:
            self.code.skipped(address)

    def _write(self, address: int, byte: bytes | None) -> None:
        if byte is None:
            return
        reply = self.request(b"M%x,1:%b" % (address, byte.hex().encode()))
        if reply != b"OK" and self.code is not None:
            self.code.write(address, byte)
