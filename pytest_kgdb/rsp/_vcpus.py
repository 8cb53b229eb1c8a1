"""Pausing the machine while nobody talks to the kgdb of its stopped kernel.

A stopped kernel polls its serial port, which takes one host core as long as it is stopped.
"""

from __future__ import annotations

from typing import Protocol

from ._qemu_stub import QemuStub

__all__ = ["VcpuControl", "Vcpus"]


class Vcpus(Protocol):
    """The machine's virtual CPUs. The methods take effect in the order of their calls."""

    def stop_nowait(self) -> None:
        """Stop them, without waiting for it."""

    def stop(self, timeout: float) -> None:
        """Stop them, and wait for it for at most `timeout` seconds."""

    def cont(self) -> None:
        """Let them run, without waiting for it."""


class VcpuControl:
    """Stops and resumes the virtual CPUs, through QEMU's gdb stub while that is attached.

    An attached stub would take a stop from elsewhere for a hit.

    :param vcpus: None if the machine is not to be paused, or not ours.
    :param stub: QEMU's gdb stub, if it may be attached.
    :param paused: whether the machine is paused now.
    """

    def __init__(self, vcpus: Vcpus | None, stub: QemuStub | None, *, paused: bool) -> None:
        self._vcpus = vcpus
        self._stub = stub
        self.paused = paused

    @property
    def may_pause(self) -> bool:
        """Whether the machine runs, and may be paused."""
        return self._vcpus is not None and not self.paused

    def stop_nowait(self) -> None:
        """Stop the virtual CPUs, which must be allowed, without waiting for it."""
        assert self._vcpus is not None
        self.paused = True
        if self._stub is not None and self._stub.socket is not None:
            self._stub.stop()
        else:
            self._vcpus.stop_nowait()

    def stop(self, timeout: float) -> None:
        """Stop the virtual CPUs and devices, and wait for it for at most `timeout` seconds.

        A machine that is not to be paused runs on.
        """
        if self._vcpus is None:
            return
        self.paused = True
        if self._stub is not None and self._stub.socket is not None:
            self._stub.stop()
        else:
            self._vcpus.stop(timeout)

    def cont(self) -> None:
        """Let the virtual CPUs run, if they are stopped."""
        if not self.paused:
            return
        self.paused = False
        if self._stub is not None and self._stub.socket is not None:
            self._stub.cont()
        elif self._vcpus is not None:
            self._vcpus.cont()
