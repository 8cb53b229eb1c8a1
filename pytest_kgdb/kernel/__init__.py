"""The kernel: found or built, by content, each once."""

from ._collect import collect_modules
from ._config import Config
from ._kgdb_layout import KgdbLayout
from ._ko import ModuleFile, read_module, without_addresses
from ._model import Kernel
from ._modules import build_module
from ._prepare import prepare
from ._source import file_hash
from ._vmlinux import Vmlinux

__all__ = [
    "Config",
    "Kernel",
    "KgdbLayout",
    "ModuleFile",
    "Vmlinux",
    "build_module",
    "collect_modules",
    "file_hash",
    "prepare",
    "read_module",
    "without_addresses",
]
