"""The guest's modules: their files, their symbols, loading and unloading.

:class:`ModuleRegistry` owns where a module is: its file on the host, its addresses in the kernel.
"""

from __future__ import annotations

from ._kernel_list import KernelModules
from ._module import Module
from ._modules import Modules
from ._registry import LoadedModule, ModuleRegistry
from ._source_text import KernelSourceText
from ._symbols import ModuleSymbols
from ._tracker import ModuleTracker
from ._unloaded import frame_in, frame_of_unloaded, name_of_unloaded

__all__ = [
    "KernelModules",
    "KernelSourceText",
    "LoadedModule",
    "Module",
    "ModuleRegistry",
    "ModuleSymbols",
    "ModuleTracker",
    "Modules",
    "frame_in",
    "frame_of_unloaded",
    "name_of_unloaded",
]
