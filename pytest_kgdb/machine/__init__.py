"""The QEMU machine: its command line and its life."""

from ._command import MachineSpec, by_hand, kernel_command_line, storage_by_hand
from ._machine import Machine

__all__ = [
    "Machine",
    "MachineSpec",
    "by_hand",
    "kernel_command_line",
    "storage_by_hand",
]
