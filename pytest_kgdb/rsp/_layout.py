"""Where the kernel's debugger keeps what the relay reads of it."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["KgdbLayout"]


@dataclass(frozen=True)
class KgdbLayout:
    """Addresses and sizes of kgdb's own variables (kernel/debug/debug_core.c)."""

    kgdb_active: int
    """`kgdb_active`: the CPU whose registers gdb sees, or -1."""

    kgdb_info: int
    """`kgdb_info`: an array with an element for each CPU."""

    info_size: int
    """`sizeof(struct debuggerinfo_struct)`."""

    debuggerinfo: int
    """Offset of `debuggerinfo`, the `struct pt_regs *` of the CPU's exception."""

    task: int
    """Offset of `task`."""
