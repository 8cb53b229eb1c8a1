"""gdb on QEMU's own stub, instead of the kernel's."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

from ..errors import KgdbError
from ._halt import GuestMemory
from ._hooks import Hook
from ._layout import Layout
from ._packets import INTERRUPT
from ._relay import Relay

__all__ = ["QemuRelay"]


class QemuRelay(Relay):
    """Stands between gdb and QEMU's stub, and passes on what they say.

    The stub halts the machine, not the kernel, and what it knows is QEMU's: nothing of it is in
    what is saved of a machine, and the connection outlives the machine's being put back.

    :param path: Unix socket on which gdb connects.
    :param connect: returns a socket connected to the stub, which halts the machine for it.
    """

    def __init__(self, path: Path, connect: Callable[[], socket.socket]) -> None:
        self._planted: set[bytes] = set()  # of those that may be in the guest's memory, under KVM
        super().__init__(path, connect)

    # From the outside

    def use_memory(self, memory: GuestMemory | None, layout: Layout | None) -> None:
        """Do nothing: QEMU reads the guest's memory itself."""

    @property
    def forces_returns(self) -> bool:
        """:raises KgdbError: always."""
        raise _no_hooks()

    def hook(self, address: int, hook: Hook) -> None:  # noqa: ARG002 # as the other relay's
        """:raises KgdbError: always."""
        raise _no_hooks()

    def follow(self, stepping: bool) -> None:
        """Do nothing: a thread of the stub's is a CPU, which is always there."""

    def interrupt(self) -> None:
        """Halt the machine where it is."""
        with self._lock:
            if not self._stopped:
                self._up.socket.sendall(INTERRUPT)

    def absorb(self) -> None:
        """Keep everything from the stub from now on: the machine is about to be replaced."""
        with self._lock:
            self._up.shut = True

    def revive(self, stop_reply: bytes, *, paused: bool = False) -> None:  # noqa: ARG002 # likewise
        """Take up a machine that was put back, and that is halted; gdb is told of that stop."""
        with self._lock:
            self._up.shut = False
            self._up.receive()  # the stub's word of the halt
            self._up.queue.clear()
            self._halt.reply = stop_reply
            told = not self._stopped
            self._stopped = True
            if told:
                self._to_gdb(stop_reply)
        self._nudge()

    @contextlib.contextmanager
    def still(self, timeout: float) -> Iterator[None]:  # noqa: ARG002 # it is halted already
        """Have none of gdb's breakpoints in the halted machine: it is about to be saved."""
        with self._lock:
            for each in self._planted:
                self._ask(b"z" + each)
            try:
                yield
            finally:
                for each in self._planted:
                    self._ask(b"Z" + each)

    # The thread

    def _on_event(self, payload: bytes) -> None:
        if payload[:1] in (b"T", b"S"):
            self._halt.reply = payload
            self._stopped = True
        self._to_gdb(payload)

    def _on_request(self, payload: bytes) -> None:
        if not self._stopped:
            return
        if payload[:1] in (b"c", b"C", b"s", b"S") or payload.startswith(b"vCont;"):
            self._stopped = False
            if not self._up.shut:
                self._up.receive()
                self._up.queue.clear()  # a halt by QMP is no stop of what begins now
                self._up.send(payload)
            self._moved.notify_all()
            return
        answer = self._ask(payload)
        if payload == b"?":
            self._halt.reply = answer
        if payload[1:3] == b"0," and answer == b"OK":
            {b"Z": self._planted.add, b"z": self._planted.discard}[payload[:1]](payload[1:])
        self._to_gdb(answer)

    def _ask(self, payload: bytes) -> bytes:
        answer = self._up.ask(payload)
        # That it has halted the machine, for us or for QMP, it may say at any time.
        while payload != b"?" and answer[:1] == b"T":
            answer = self._up.queue.pop(0) if self._up.queue else self._up.ask(payload)
        return answer


def _no_hooks() -> KgdbError:
    return KgdbError(
        "calls are watched and forced by kgdb only, and gdb is on QEMU's stub",
        hint="leave --kgdb-stub=qemu out, or stop at them: breakpoint()",
    )
