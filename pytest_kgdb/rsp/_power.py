"""Pausing the machine while nobody talks to its stopped kernel.

A stopped kernel polls its serial port, one host core for as long as it stands.
"""

from __future__ import annotations

from typing import Protocol

from ._stub import Stub

__all__ = ["Power", "PowerSwitch"]


class Power(Protocol):
    """The machine's virtual CPUs. The methods take effect in their order."""

    def pause(self) -> None:
        """Stop them, without waiting for it."""

    def halt(self, timeout: float) -> None:
        """Stop them, and wait for it; in seconds."""

    def resume(self) -> None:
        """Let them run, without waiting for it."""


class PowerSwitch:
    """Knows whether the machine is paused, and by whom it must be.

    :param power: None to pause it never.
    :param stub: QEMU's own stub: while it is attached, it would take anybody else's pause for a
        hit.
    :param paused: whether the machine is paused now.
    """

    def __init__(self, power: Power | None, stub: Stub | None, *, paused: bool) -> None:
        self._power = power
        self._stub = stub
        self.paused = paused

    @property
    def may_pause(self) -> bool:
        """Whether the machine runs, and may be paused."""
        return self._power is not None and not self.paused

    def pause(self) -> None:
        """Stop the virtual CPUs, which must be allowed."""
        assert self._power is not None
        self.paused = True
        if self._stub is not None and self._stub.socket is not None:
            self._stub.pause()
        else:
            self._power.pause()

    def halt(self, timeout: float) -> None:
        """Stop them and the devices, if they are not stopped, and wait for it; in seconds."""
        assert self._power is not None
        self.paused = True
        if self._stub is not None and self._stub.socket is not None:
            self._stub.pause()
        else:
            self._power.halt(timeout)

    def wake(self) -> None:
        """Let them run, if they do not."""
        if not self.paused:
            return
        assert self._power is not None
        self.paused = False
        if self._stub is not None and self._stub.socket is not None:
            self._stub.resume()
        else:
            self._power.resume()
