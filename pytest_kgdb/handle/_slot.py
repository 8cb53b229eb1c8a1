"""Where a handle finds its machine: the session puts one there, and takes it away."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ..actions import ActionLog
from ..deadline import WaitLimit
from ..debugger import Generation
from ..errors import MachineDied
from ._attachment import Attachment

if TYPE_CHECKING:
    from ..disk import Disk
    from ..kernel import Kernel
    from ..recipes import PatchCode

__all__ = ["MachineSlot"]


class MachineSlot:
    """Holds the attachment of the machine that a handle is on, while there is one.

    :param waits: how long the running test waits.
    :param patch_code: returns what is in the lines of patches; given None, those that the settings
        name. None on a board.
    """

    def __init__(
        self,
        kernel: Kernel,
        *,
        waits: WaitLimit,
        disk: Disk | None = None,
        patch_code: Callable[[Sequence[Path] | None], PatchCode] | None = None,
    ) -> None:
        self.kernel = kernel
        self.patch_code = patch_code
        self.disk = disk
        self.waits = waits
        self.generation = Generation()
        """The stop generation, counted on from one machine to the next."""
        self.actions = ActionLog()
        """What the running test does."""
        self._attachment: Attachment | None = None

    @property
    def attachment(self) -> Attachment | None:
        """The attachment; None between two machines."""
        return self._attachment

    def require(self) -> Attachment:
        """Return the attachment.

        :raises MachineDied: there is no machine.
        """
        if self._attachment is None:
            raise MachineDied(
                "there is no machine under this handle any more",
                hint="the next test gets a new one; a session's handle follows it",
            )
        return self._attachment

    def fill(self, attachment: Attachment) -> None:
        """Put the handle on a machine."""
        self._attachment = attachment

    def empty(self, attachment: Attachment) -> None:
        """Take the handle off a machine that is about to end, if it is on it."""
        if self._attachment is attachment:
            self._attachment = None
