"""Addresses at which the relay itself does something, gdb none the wiser."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, Protocol

from ..errors import KgdbError

__all__ = [
    "PASS",
    "TELL",
    "Action",
    "AskedRegisters",
    "Event",
    "Hook",
    "Plants",
    "Readable",
    "RegisterFile",
    "Return",
]


class Readable(Protocol):
    """The interrupted registers, by the names of `struct pt_regs`."""

    def __getitem__(self, name: str, /) -> int: ...


class RegisterFile(Readable, Protocol):
    """The same, to be set."""

    def __setitem__(self, name: str, value: int, /) -> None: ...


@dataclass
class Event:
    """A CPU that has come to a hooked address, before the instruction there."""

    address: int
    registers: Readable
    read: Callable[[int, int], bytes]
    """Reads virtual memory; raises KgdbError where there is none."""
    gap: float
    """Seconds since a hook's CPU was last let go; a trap takes at most that long."""
    decided: bool = False
    """Whether another hook has the function return already."""
    took: Callable[[float], object] | None = None
    """To be set by a hook: is told how many seconds all of this stop took here."""


@dataclass(frozen=True)
class Pass:
    """Let the CPU go on."""


@dataclass(frozen=True)
class Tell:
    """Stop the kernel: gdb is told of a breakpoint there."""


@dataclass(frozen=True)
class Return:
    """Return at once from the function whose first instruction this is."""

    value: int | None
    """What is left in the return register, 64 bits; None to leave it as it is."""
    tell: bool = False
    """Whether the kernel is stopped first; it returns when it goes on."""


Action = Pass | Tell | Return
PASS: Final = Pass()
TELL: Final = Tell()

Hook = Callable[[Event], Action]
"""Called in the relay's thread while the kernel stands still; it must not use the handle."""

# gdb's numbers, as AskedRegisters needs them (gdb, features/i386/64bit-core.xml): 17 registers of
# eight bytes, then flags, cs and ss of four.
_NAMES: Final = (
    "ax", "bx", "cx", "dx", "si", "di", "bp", "sp", "r8", "r9", "r10", "r11", "r12", "r13",
    "r14", "r15", "ip", "flags", "cs", "ss",
)  # fmt: skip
_WIDE: Final = 17


class AskedRegisters:
    """The registers as kgdb tells them: where guest memory is not ours.

    :param ask: sends kgdb a packet and returns its answer.
    """

    def __init__(self, ask: Callable[[bytes], bytes]) -> None:
        self._ask = ask
        data = bytes.fromhex(ask(b"g").decode())
        self._values = {name: self._take(data, number) for number, name in enumerate(_NAMES)}

    @staticmethod
    def _take(data: bytes, number: int) -> int:
        wide = min(number, _WIDE)
        start, size = 8 * wide + 4 * (number - wide), 8 if number < _WIDE else 4
        return int.from_bytes(data[start : start + size], "little")

    def __getitem__(self, name: str) -> int:
        return self._values[name]

    def __setitem__(self, name: str, value: int) -> None:
        if name == "sp":  # arch/x86/kernel/kgdb.c, dbg_set_reg, passes over it
            raise KgdbError("kgdb does not set the stack pointer")
        number = _NAMES.index(name)
        value &= (1 << 64) - 1 if number < _WIDE else (1 << 32) - 1
        data = value.to_bytes(8 if number < _WIDE else 4, "little")
        answer = self._ask(b"P%x=%b" % (number, data.hex().encode()))
        if answer != b"OK":
            raise KgdbError(f"kgdb does not set {name} (it said {answer!r})")
        self._values[name] = value


@dataclass
class Plants:
    """The breakpoints that kgdb has, and for whom.

    Planting is a packet to kgdb; taking out is put off until the kernel really runs on without.
    """

    ask: Callable[[bytes], bytes]
    planted: set[int] = field(default_factory=set)
    """What kgdb has."""
    wanted: set[int] = field(default_factory=set)
    """What gdb wants."""
    hooks: dict[int, list[Hook]] = field(default_factory=dict)
    """What is to be done at an address; the newest comes first."""

    @property
    def stale(self) -> bool:
        """Whether kgdb has one that nobody wants any more."""
        return not self.planted <= self.due

    @property
    def due(self) -> set[int]:
        """What gdb wants, and we."""
        return self.wanted | set(self.hooks)

    def insert(self, address: int) -> bytes:
        """Plant for gdb, and return kgdb's answer."""
        answer = self._plant(address)
        if answer == b"OK":
            self.wanted.add(address)
        return answer

    def _plant(self, address: int) -> bytes:
        if address in self.planted:
            return b"OK"
        answer = self.ask(b"Z0,%x,1" % address)
        if answer == b"OK":
            self.planted.add(address)
        return answer

    def lift(self, address: int) -> None:
        """Take out what is planted."""
        if address in self.planted:
            self.ask(b"z0,%x,1" % address)
            self.planted.discard(address)

    def lift_all(self) -> None:
        """Take out everything; :meth:`settle` plants what is wanted again."""
        for address in sorted(self.planted):
            self.lift(address)

    def hook(self, address: int, hook: Hook) -> bytes:
        """Have something done at an address, and return kgdb's answer to planting it."""
        answer = self._plant(address)
        if answer == b"OK":
            self.hooks.setdefault(address, []).insert(0, hook)
        return answer

    def unhook(self, address: int, hook: Hook) -> None:
        """Have it done no more; what is not there is no error."""
        there = self.hooks.get(address, [])
        if hook in there:
            there.remove(hook)
        if not there:
            self.hooks.pop(address, None)

    def settle(self, without: set[int | None]) -> None:
        """Bring kgdb to have what is wanted, except addresses that are to be stepped off."""
        due = self.due - without
        for address in sorted(self.planted - due):
            self.lift(address)
        for address in sorted(due - self.planted):
            self._plant(address)
