"""Hits that QEMU's stub has reported, whose CPUs an int3 leads into kgdb."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from ..arch import X86_64
from ..errors import KgdbError
from ._qemu_stub import Hit
from ._registers import Readable
from ._stop_context import StopContext

__all__ = ["LedHits"]

_PC: Final = X86_64.registers.pc
_INT3: Final = b"\xcc"


class LedHits:
    """Knows which stop of kgdb's is which hit; each CPU comes into kgdb when it can."""

    def __init__(self) -> None:
        self._hits: dict[int, Hit] = {}  # by where the int3 is
        self._stepped: Hit | None = None  # by a step's end
        self._led: set[int] = set()  # where int3s have been

    def add(self, hits: Iterable[Hit]) -> None:
        """Take note of hits whose CPUs are on their way."""
        for hit in hits:
            if hit.stepped:
                self._stepped = hit
                continue
            self._hits[hit.address] = hit
            if hit.saved is not None:
                self._led.add(hit.address)

    def take(self, registers: Readable, *, at_int3: bool) -> Hit | None:
        """Take the hit that has led to a stop; None if none has.

        :param registers: those of the CPU that stopped.
        :param at_int3: whether it has executed an int3; it has single-stepped otherwise.
        """
        if at_int3:
            return self._hits.pop(registers[_PC] - len(_INT3), None)
        hit, self._stepped = self._stepped, None
        return hit

    def undo_late(self, context: StopContext | None) -> bool:
        """Put a CPU back that executed a hit's int3, too, and waited for kgdb until now."""
        if context is None or context.breakpoint is None or context.breakpoint not in self._led:
            return False
        try:
            if context.read(context.breakpoint, len(_INT3)) == _INT3:
                return False  # a breakpoint of kgdb's, or the kernel's own int3
        except KgdbError:
            return False
        context.registers[_PC] = context.breakpoint
        return True

    @property
    def any_led(self) -> bool:
        """Whether there has been an int3 for one."""
        return bool(self._led)

    def forget(self) -> None:
        """Take note that nothing of this machine's state stays."""
        self._hits.clear()
        self._stepped = None

    def reset(self) -> None:
        """Take note that the machine is another one: no int3 has been in it."""
        self.forget()
        self._led.clear()
