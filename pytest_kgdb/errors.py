"""The errors: one tree, each message complete in itself."""

from __future__ import annotations

import builtins
from pathlib import Path

__all__ = [
    "BootError",
    "BuildError",
    "CacheError",
    "ConfigError",
    "DebuggerDied",
    "GuestCommandError",
    "KernelPanic",
    "KgdbError",
    "MachineDied",
    "SplatError",
    "StaleError",
    "TimeoutError",
]


class KgdbError(Exception):
    """Something that we tried did not work.

    :param message: what was tried and what happened.
    :param log: the file in which the whole story is.
    :param hint: what the user can do about it.
    """

    def __init__(
        self, message: str, *, log: Path | str | None = None, hint: str | None = None
    ) -> None:
        super().__init__(message)
        self.message = message
        self.log = Path(log) if log is not None else None
        self.hint = hint

    def __str__(self) -> str:
        parts = [self.message]
        if self.hint:
            parts.append(f"hint: {self.hint}")
        if self.log is not None:
            parts.append(f"log: {self.log}")
        return "\n".join(parts)


class ConfigError(KgdbError):
    """What the user asked for cannot be: an option, a path, a missing program, a symbol."""


class BuildError(KgdbError):
    """A kernel, a module, an initrd or a disk image could not be built."""


class CacheError(KgdbError):
    """The artifact cache cannot be read or written, or holds something broken."""


class BootError(KgdbError):
    """The machine started, but the kernel never came to where we can use it."""


class MachineDied(KgdbError):
    """QEMU went away."""


class DebuggerDied(KgdbError):
    """gdb went away."""


class KernelPanic(KgdbError):
    """The kernel panicked or oopsed while something else was wanted of it."""


# Named as the contract names it; it is also the built-in one, so that either `except` works.
class TimeoutError(KgdbError, builtins.TimeoutError):
    """A wait came to its deadline."""


# It says of the kernel what a failed assertion says of a value.
class SplatError(KgdbError, AssertionError):
    """The kernel reported trouble that the test did not expect; or did not report what it did."""


class StaleError(KgdbError):
    """A value, a frame or a stop was used after the kernel had moved on."""


class GuestCommandError(KgdbError):
    """A command in the guest could not be run to its end, or failed where it must not."""
