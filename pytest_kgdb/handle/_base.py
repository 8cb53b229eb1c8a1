"""What all chapters of the handle stand on: the machine that it is on."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ._slot import MachineSlot

if TYPE_CHECKING:
    from ..actions import ActionLog
    from ..debugger import Debugger, RunControl
    from ..kernel import Kernel

__all__ = ["Base"]


class Base:
    """The machine under the handle.

    :param slot: where the session puts the machine.
    """

    def __init__(self, slot: MachineSlot) -> None:
        self._slot = slot

    @property
    def kernel(self) -> Kernel:
        """The kernel under test."""
        return self._slot.kernel

    @property
    def timeout(self) -> float:
        """Seconds that a wait of the running test may take; may be set for the test's rest."""
        return self._slot.waits.seconds

    @timeout.setter
    def timeout(self, seconds: float) -> None:
        self._slot.waits.set(seconds)

    @property
    def _run_control(self) -> RunControl:
        return self._slot.require().run_control

    @property
    def _actions(self) -> ActionLog:
        return self._slot.actions

    @property
    def _debugger(self) -> Debugger:
        return self._slot.require().debugger
