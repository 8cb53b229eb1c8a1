"""The QEMU machine: its command line, its start, its snapshots, its end."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from ._boot import BootLog, boot_death, boot_to_kgdbwait, check_boot, last_lines
    from ._command import MachineSpec, by_hand, kernel_command_line, storage_by_hand
    from ._directory import private_directory
    from ._kvm import KVM, try_kvm
    from ._machine import Machine
    from ._process import QemuProcess
    from ._sysrq import SysrqBreak
    from ._until_idle import UntilIdle

__all__ = [
    "KVM",
    "BootLog",
    "Machine",
    "MachineSpec",
    "QemuProcess",
    "SysrqBreak",
    "UntilIdle",
    "boot_death",
    "boot_to_kgdbwait",
    "by_hand",
    "check_boot",
    "kernel_command_line",
    "last_lines",
    "private_directory",
    "storage_by_hand",
    "try_kvm",
]

# Each name is imported when it is first used: QEMU and gdb are started by parts that need few of
# the others, which are imported while these start.
_MODULE_OF: Final = {
    "BootLog": "_boot",
    "boot_death": "_boot",
    "last_lines": "_boot",
    "boot_to_kgdbwait": "_boot",
    "check_boot": "_boot",
    "MachineSpec": "_command",
    "by_hand": "_command",
    "kernel_command_line": "_command",
    "storage_by_hand": "_command",
    "private_directory": "_directory",
    "KVM": "_kvm",
    "try_kvm": "_kvm",
    "Machine": "_machine",
    "QemuProcess": "_process",
    "SysrqBreak": "_sysrq",
    "UntilIdle": "_until_idle",
}


def __getattr__(name: str) -> Any:
    module = _MODULE_OF.get(name)
    if module is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(importlib.import_module(f".{module}", __name__), name)
    return value
