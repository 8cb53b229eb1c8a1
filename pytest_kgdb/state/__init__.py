"""Guest memory and the drgn program: what a stopped kernel is, read without its help."""

from ._memory import Ram, Segment, ram_layout
from ._peek import Peek
from ._physical import PageOwner, PhysicalMemory
from ._state import State

__all__ = ["PageOwner", "Peek", "PhysicalMemory", "Ram", "Segment", "State", "ram_layout"]
