"""What is behind an error: whether the kernel, QEMU or gdb went first."""

from __future__ import annotations

import contextlib
import re
from pathlib import Path
from typing import TYPE_CHECKING, Final

from ..console import clean
from ..errors import KernelPanic, KgdbError, MachineDied

if TYPE_CHECKING:
    from ..machine import Machine
    from ..mi import Gdb
    from ..rsp import Relay
    from ..state import State
    from ._splats import SplatWatch

__all__ = ["Causes"]

# kernel/panic.c: before the debugger is asked, and after it was let go.
_PANIC: Final = re.compile(rb"(?<!end )Kernel panic - not syncing: ([^\r\n]*)")
_PANIC_END: Final = re.compile(rb"---\[ end Kernel panic - not syncing: ([^\r\n]*?) \]---")
_PANIC_LINES: Final = 14
_PANIC_HINT: Final = (
    "a panic that a test wants is a stop: type() the command, and cont() returns with "
    "reason 'panic'"
)


class Causes:
    """Finds the first cause of what went wrong with one machine."""

    def __init__(
        self,
        gdb: Gdb,
        machine: Machine,
        state: State,
        watch: SplatWatch,
        source: Path | None,
        relay: Relay,
    ) -> None:
        self._relay = relay
        self._gdb = gdb
        self._machine = machine
        self._state = state
        self._watch = watch
        self._source = source
        self.since = 0
        """The console's mark at the last resume."""

    def check_alive(self) -> None:
        """:raises KgdbError: the kernel, QEMU or gdb is gone, whichever went first."""
        if not self._machine.alive:
            raise self.first(MachineDied("QEMU ended"))
        self._machine.check_storage()
        if not self._gdb.alive:
            self._gdb.next_stop(0)
        said = self._machine.console.since(self.since)
        if b"end Kernel panic" in said and (found := _PANIC_END.search(said)):
            self._watch.tell()
            raise self.panicked(f"the kernel panicked and halted: {_words(found)}\nit said")

    def first(self, error: KgdbError) -> KgdbError:
        """Return what was behind an error: the kernel's panic before QEMU's end before gdb's."""
        lost = isinstance(error, MachineDied) or "emote" in error.message
        if self._machine.alive and self._gdb.alive and lost:
            # A socket that closed is seen before the process that had it open is gone.
            with contextlib.suppress(KgdbError):
                self._machine.child.wait(0.5)
        if self._machine.alive:
            return error
        if found := _PANIC.search(self._machine.console.since(self.since)):
            self._watch.tell()
            return self.panicked(f"the kernel panicked ({_words(found)}) and QEMU ended; it said")
        return self._machine.death("QEMU ended while a test was using it", started=True)

    def panicked(self, what: str) -> KernelPanic:
        """Return the error for a panic, with its lines up to where registers and code are dumped.

        :param what: what happened; what the kernel said follows.
        """
        return KernelPanic(
            f"{what}:\n{self._last_panic()}", log=self._machine.console.log, hint=_PANIC_HINT
        )

    def _last_panic(self) -> str:
        text = self._machine.console.since()
        begin = max((found.start() for found in _PANIC.finditer(text)), default=len(text))
        lines = clean(text[begin:].decode("utf-8", "replace")).splitlines()[:_PANIC_LINES]
        return "\n".join(f"    {line}" for line in lines) or "    (nothing)"

    def on_cpus(self) -> str:
        """Return what each CPU does, as QEMU sees it."""
        machine = self._machine
        try:
            with self._relay.machine_paused(machine.monitor):
                return self._state.on_cpus(machine.registers(), self._source)
        except KgdbError as error:
            return f"(not to be had: {error.message})"


def _words(found: re.Match[bytes]) -> str:
    return clean(found.group(1).decode("utf-8", "replace"))
