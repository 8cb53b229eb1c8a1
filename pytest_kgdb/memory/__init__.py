"""The memory of a stopped kernel, read without its help: RAM, page tables, drgn, the log."""

from ._early_log import EarlyLog
from ._idle import Idleness
from ._kernel_memory import KernelMemory, StopState
from ._module_files import ModuleFiles, ModuleLookup, module_name
from ._packet_memory import PacketMemory
from ._physical import PageOwner, PhysicalMemory
from ._ram import Ram, Segment, ram_layout
from ._relay_memory import RelayMemory
from ._user import virtual_address

__all__ = [
    "EarlyLog",
    "Idleness",
    "KernelMemory",
    "ModuleFiles",
    "ModuleLookup",
    "PacketMemory",
    "PageOwner",
    "PhysicalMemory",
    "Ram",
    "RelayMemory",
    "Segment",
    "StopState",
    "module_name",
    "ram_layout",
    "virtual_address",
]
