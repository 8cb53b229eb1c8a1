"""The QEMU machine: its command line and its life."""

from ._boot import boot_to_kgdbwait, check_boot
from ._command import MachineSpec, by_hand, kernel_command_line, storage_by_hand
from ._machine import Machine

__all__ = [
    "Machine",
    "MachineSpec",
    "boot_to_kgdbwait",
    "by_hand",
    "check_boot",
    "kernel_command_line",
    "storage_by_hand",
]
