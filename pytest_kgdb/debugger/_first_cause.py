"""The first cause of an error: whether the kernel, QEMU or gdb went first."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final, Protocol

from ..errors import DebuggerDied, KernelPanic, KgdbError, MachineDied
from ..escape import clean
from ..klog import PANIC, console_panic, console_panic_end
from ._mi import GdbError
from ._subscribers import Restored, Resumed, StopSubscriber

__all__ = ["FirstCause", "MachineLife"]

_PANIC_LINES: Final = 14
_PANIC_HINT: Final = (
    "a panic that a test wants is a stop: type() the command, and cont() returns with "
    "reason 'panic'"
)
# A socket that closes is seen before the process that had it open is gone, in seconds.
_ENDING: Final = 0.5


class GdbLife(Protocol):
    """The part of :class:`Gdb` that is used here."""

    @property
    def alive(self) -> bool:
        """Whether gdb runs."""

    def next_event(self, timeout: float) -> Any:
        """Raises how gdb died, where it has."""


class ConsoleText(Protocol):
    """The part of the console that is used here."""

    @property
    def log(self) -> Path:
        """The file with everything that it showed."""

    def mark(self) -> int:
        """Return the present end of its text."""

    def since(self, mark: int = 0) -> bytes:
        """Return what it showed since a mark."""


class MachineLife(Protocol):
    """The part of the machine that is used here."""

    @property
    def alive(self) -> bool:
        """Whether QEMU runs."""

    def wait_ended(self, timeout: float) -> None:
        """Wait shortly for QEMU's end."""

    def death(self, what: str, *, started: bool = False) -> MachineDied:
        """Return the error that says how QEMU ended."""

    def check_storage(self) -> None:
        """Raise MachineDied if the host's disk is full."""


class TargetLife(Protocol):
    """The part of the relay that is used here."""

    @property
    def failure(self) -> DebuggerDied | None:
        """Why gdb was left without its target."""


class FirstCause(StopSubscriber):
    """Finds the first cause of what went wrong with one machine.

    :param has_panicked: whether the kernel has, by its own memory; None where that is not known. A
        program can write on the console what a kernel prints that panics.
    """

    def __init__(
        self,
        gdb: GdbLife,
        machine: MachineLife,
        console: ConsoleText,
        relay: TargetLife,
        *,
        has_panicked: Callable[[], bool | None] = lambda: None,
    ) -> None:
        self._relay = relay
        self._has_panicked = has_panicked
        self._gdb = gdb
        self._machine = machine
        self._console = console
        self._since = console.mark()  # at the last resume
        self._listeners: list[Callable[[], None]] = []

    def on_panic(self, listener: Callable[[], None]) -> None:
        """Call a function before a panic is raised as an error."""
        self._listeners.append(listener)

    def resumed(self, event: Resumed) -> None:
        """What the console shows from now on is of this run; one that goes on began before."""
        if not event.silent:
            self._since = self._console.mark()

    def restored(self, event: Restored) -> None:  # noqa: ARG002 # as every subscriber's
        """What the console has shown is of another kernel."""
        self._since = self._console.mark()

    @property
    def alive(self) -> bool:
        """Whether QEMU and gdb run."""
        return self._machine.alive and self._gdb.alive

    def check_alive(self) -> None:
        """Check that the kernel, QEMU and gdb are all there, and gdb connected.

        :raises KgdbError: one is gone; the one that went first.
        """
        if not self._machine.alive:
            raise self.first(MachineDied("QEMU ended"))
        try:
            self._machine.check_storage()
        except MachineDied as error:  # the monitor may be the first to see QEMU's end
            raise self.first(error) from None
        if not self._gdb.alive:
            self._gdb.next_event(0)
        if (failure := self._relay.failure) is not None:
            raise failure
        text = self._console.since(self._since)
        words = console_panic_end(text)
        if words is not None and self._has_panicked() is not False:
            raise self.panicked(f"the kernel panicked and halted: {clean(words)}\nit said")

    def first(self, error: KgdbError) -> KgdbError:
        """Return what was behind an error: the kernel's panic before QEMU's end before gdb's.

        gdb's own word for a target that it was left without is that the connection is closed.
        """
        lost = isinstance(error, MachineDied) or "emote" in error.message
        if self.alive and lost:
            with contextlib.suppress(KgdbError):
                self._machine.wait_ended(_ENDING)
        if self._machine.alive:
            failure = self._relay.failure
            return failure if failure is not None and isinstance(error, GdbError) else error
        words = console_panic(self._console.since(self._since))
        if words is not None and self._has_panicked() is not False:
            return self.panicked(f"the kernel panicked ({clean(words)}) and QEMU ended; it said")
        return self._machine.death("QEMU ended while a test was using it", started=True)

    @contextlib.contextmanager
    def named(self) -> Iterator[None]:
        """Around what uses QEMU's monitor, which says no more of QEMU's end than that it closes."""
        __tracebackhide__ = True
        try:
            yield
        except MachineDied as error:
            raise self.first(error) from error

    def panicked(self, what: str) -> KernelPanic:
        """Return the error for a panic, with its lines up to the registers and the code.

        :param what: what happened; the kernel's lines follow.
        """
        for listener in self._listeners:
            listener()
        return KernelPanic(
            f"{what}:\n{self._last_panic()}", log=self._console.log, hint=_PANIC_HINT
        )

    def _last_panic(self) -> str:
        text = self._console.since()
        begin = max((match.start() for match in PANIC.finditer(text)), default=len(text))
        lines = clean(text[begin:].decode("utf-8", "replace")).splitlines()[:_PANIC_LINES]
        return "\n".join(f"    {line}" for line in lines) or "    (nothing)"
