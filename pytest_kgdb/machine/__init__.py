"""The QEMU machine: its command line, its start, its snapshots, its end."""

from ._boot import boot_to_kgdbwait, check_boot
from ._command import MachineSpec, by_hand, kernel_command_line, storage_by_hand
from ._machine import Machine
from ._sysrq import SysrqBreak

__all__ = [
    "Machine",
    "MachineSpec",
    "SysrqBreak",
    "boot_to_kgdbwait",
    "by_hand",
    "check_boot",
    "kernel_command_line",
    "storage_by_hand",
]
