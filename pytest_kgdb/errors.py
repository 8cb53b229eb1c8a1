"""The error classes, all below KgdbError."""

from __future__ import annotations

import builtins
import contextlib
from collections.abc import Iterator
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
    "StubError",
    "TimeoutError",
]


class KgdbError(Exception):
    """The base of all errors that this package raises.

    :param message: what was attempted and what happened.
    :param log: the file with the details.
    :param hint: what the user can do about it.
    :param by_test: whether the test names what is not there, or asks for what cannot be.
    """

    unmade = False
    """Whether a breakpoint or another instrument could not be made, so that nothing was tested."""

    by_instrument = False
    """Whether a function of the test's raised that an instrument has called: `when`, say."""

    def __init__(
        self,
        message: str,
        *,
        log: Path | str | None = None,
        hint: str | None = None,
        by_test: bool = False,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.by_test = by_test
        self.log = Path(log) if log is not None else None
        self.hint = hint
        self.undiagnosed: str | None = None
        """The first line without what the machine did instead, if the message has that: where a
        kernel hangs, or which of its tasks is seen to wait, differs from run to run."""

    def __str__(self) -> str:
        parts = [self.message]
        if self.hint:
            parts.append(f"hint: {self.hint}")
        if self.log is not None:
            parts.append(f"log: {self.log}")
        return "\n".join(parts)


class ConfigError(KgdbError):
    """A request cannot be fulfilled: a bad option or path, a missing program or symbol."""


class BuildError(KgdbError):
    """A kernel, a module, an initrd or a disk image could not be built."""


class CacheError(KgdbError):
    """The artifact cache cannot be read or written."""


class BootError(KgdbError):
    """The machine started, but the kernel did not reach the point at which tests begin.

    :param by_kernel: see :attr:`by_kernel`.
    :param late: see :attr:`late`.
    """

    def __init__(
        self,
        message: str,
        *,
        log: Path | str | None = None,
        hint: str | None = None,
        by_kernel: bool = False,
        late: bool = False,
    ) -> None:
        super().__init__(message, log=log, hint=hint)
        self.by_kernel = by_kernel
        """Whether the kernel's own code is why: it has panicked or oopsed."""
        self.late = late
        """Whether a wait ran out, which may be the host's doing as well as the kernel's."""


class MachineDied(KgdbError):
    """QEMU ended, or its connection broke."""

    by_guest = False
    """Whether the guest has ended it: it has switched the machine off, or reset it."""


class DebuggerDied(KgdbError):
    """gdb ended, or its connection broke."""


class KernelPanic(KgdbError):
    """The kernel panicked or oopsed during an operation."""


# Also the built-in TimeoutError, so that `except` works with either name.
class TimeoutError(KgdbError, builtins.TimeoutError):
    """A wait reached its deadline."""


# An AssertionError: pytest then reports the test as failed, not as broken.
class SplatError(KgdbError, AssertionError):
    """The kernel reported a problem that the test did not expect, or not the one it expected."""


class StaleError(KgdbError):
    """A value, a frame or a stop was used after the kernel had been resumed."""


class StubError(KgdbError):
    """The stub that gdb is attached to cannot do this, and the other one can."""


class GuestCommandError(KgdbError):
    """A command in the guest did not complete, or failed although it had to succeed."""


@contextlib.contextmanager
def making_instrument() -> Iterator[None]:
    """Mark an error on the way: what was to be seen or steered in the kernel never was."""
    __tracebackhide__ = True
    try:
        yield
    except KgdbError as error:
        error.unmade = not isinstance(error, (DebuggerDied, MachineDied, StaleError, TimeoutError))
        raise
