"""The breakpoints that the target has, and for whom."""

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
    :param request_hardware: does what gdb asks (`Z1`, `z1`), and returns the reply; None where
        there are no hardware breakpoints.

    Where a software breakpoint is or has been, one stands in for a hardware breakpoint of gdb's at
    the same address. Of two breakpoints, one would stop the CPU before the other, and whoever
    serves it would take the other's int3 for the instruction.
    """

    request: Callable[[bytes], bytes]
    lazy: bool = True
    request_hardware: Callable[[bytes], bytes] | None = None
    inserted: set[int] = field(default_factory=set)
    """What the target has."""
    software: set[int] = field(default_factory=set)
    """Where gdb has inserted software breakpoints."""
    stand_ins: set[int] = field(default_factory=set)
    """Where a software breakpoint stands in for gdb's hardware breakpoint."""
    hardware: set[int] = field(default_factory=set)
    """Where the target has gdb's hardware breakpoint."""
    hardware_removed: set[int] = field(default_factory=set)
    """Where gdb has removed its hardware breakpoint since the target last resumed."""
    _kept: set[int] = field(default_factory=set)  # in `hardware`, while gdb steps over them
    # Where it has had a software breakpoint. At a removed one, kgdb passes over any int3, and would
    # over that of a hardware breakpoint's hit (kernel/debug/debug_core.c, kgdb_isremovedbreak);
    # what it has removed is in snapshots.
    _had: set[int] = field(default_factory=set)
    hooks: dict[int, list[Hook]] = field(default_factory=dict)
    """The hooks of each address, the newest first."""
    code: RecordedCode | None = None
    """Whose int3s give way to breakpoints."""

    @property
    def requested(self) -> set[int]:
        """Where a software breakpoint is to stop gdb."""
        return self.software | self.stand_ins

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
            self.software.add(address)
        return reply

    def remove(self, address: int) -> None:
        """Remove gdb's, if it has one there."""
        self.software.discard(address)
        self._remove_unneeded(address)

    def _remove_unneeded(self, address: int) -> None:
        if not self.lazy and address not in self.needed:
            self._remove(address)

    def insert_hardware(self, payload: bytes) -> bytes:
        """Do what a `Z1` packet asks, and return the reply."""
        address = _address(payload)
        self.hardware_removed.discard(address)
        if address in self._kept:
            self._kept.discard(address)
            return b"OK"
        if address in self._had and self._insert(address) == b"OK":
            self.stand_ins.add(address)
            return b"OK"
        reply = self._ask_hardware(payload)
        if reply == b"OK":
            self.hardware.add(address)
        return reply

    def remove_hardware(self, payload: bytes) -> bytes:
        """Do what a `z1` packet asks, and return the reply."""
        address = _address(payload)
        if address in self.stand_ins:
            self.stand_ins.discard(address)
            self._remove_unneeded(address)
            return b"OK"
        self.hardware.discard(address)
        self.hardware_removed.add(address)
        return self._ask_hardware(payload)

    def keep_hardware(self, address: int) -> None:
        """Insert again what gdb has removed to step over it: other CPUs are to stop there."""
        if address in self.hardware_removed and self._ask_hardware(b"Z1,%x,1" % address) == b"OK":
            self.hardware.add(address)
            self._kept.add(address)

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

        :param also: where it is to have one as well, which nobody needs; a hardware breakpoint will
            do that is there.
        """
        self.hardware_removed.clear()
        for address in sorted(self._kept.difference(also)):
            self._ask_hardware(b"z1,%x,1" % address)
            self._kept.discard(address)
            self.hardware.discard(address)
        needed = self.needed - without | (set(also) - self.hardware)
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
        for addresses in (
            *(self.inserted, self.software, self.stand_ins),
            *(self.hardware, self.hardware_removed, self._kept),
        ):
            addresses.clear()

    def _insert(self, address: int) -> bytes:
        if address in self.inserted:
            return b"OK"
        if self.code is not None:
            self._write(address, self.code.give(address))
        replaces = address in self.hardware and self._ask_hardware(b"z1,%x,1" % address) == b"OK"
        reply = self.request(b"Z0,%x,1" % address)
        if reply == b"OK":
            self.inserted.add(address)
            self._had.add(address)
            if replaces:
                self.hardware.discard(address)
                if address in self._kept:
                    self._kept.discard(address)  # gdb's own is removed
                else:
                    self.stand_ins.add(address)
            return reply
        if replaces:
            self._ask_hardware(b"Z1,%x,1" % address)
        if self.code is not None:
            self._write(address, self.code.take_back(address))
        return reply

    def _ask_hardware(self, payload: bytes) -> bytes:
        assert self.request_hardware is not None
        return self.request_hardware(payload)

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


def _address(payload: bytes) -> int:
    return int(payload.split(b",")[1], 16)
