"""The handle that a test holds, and the machine under it."""

from __future__ import annotations

from ._attachment import Attachment
from ._cpu_stacks import CpuStacks
from ._kgdb import Kgdb, attachment_of
from ._machine import AttachedMachine
from ._slot import MachineSlot

__all__ = ["AttachedMachine", "Attachment", "CpuStacks", "Kgdb", "MachineSlot", "attachment_of"]
