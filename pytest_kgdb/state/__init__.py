"""Guest memory and the drgn program: what a stopped kernel is, read without its help."""

from ..kernel import Vmlinux
from ._memory import Ram, Segment, ram_layout
from ._modules import ModuleFiles, module_name
from ._peek import Peek
from ._physical import PageOwner, PhysicalMemory
from ._state import State

__all__ = [
    "ModuleFiles",
    "PageOwner",
    "Peek",
    "PhysicalMemory",
    "Ram",
    "Segment",
    "State",
    "Vmlinux",
    "module_name",
    "ram_layout",
]
