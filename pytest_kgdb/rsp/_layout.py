"""Where the stopped kernel keeps its registers, and how gdb wants them."""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

__all__ = ["Layout", "Registers"]


@dataclass(frozen=True)
class Layout:
    """Addresses and sizes of the debugger's own variables (kernel/debug/debug_core.c)."""

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


# struct pt_regs (arch/x86/include/asm/ptrace.h), eight bytes each.
_PT_REGS: Final = (
    "r15", "r14", "r13", "r12", "bp", "bx", "r11", "r10", "r9", "r8", "ax", "cx", "dx", "si",
    "di", "orig_ax", "ip", "cs", "flags", "sp", "ss",
)  # fmt: skip
_PT_REGS_STRUCT: Final = struct.Struct(f"<{len(_PT_REGS)}Q")
# gdb's order of the same (gdb, features/i386/64bit-core.xml), as far as kgdb's answer goes
# (arch/x86/include/asm/kgdb.h, NUMREGBYTES): 17 of eight bytes, 5 of four.
_GDB: Final = (
    "ax", "bx", "cx", "dx", "si", "di", "bp", "sp", "r8", "r9", "r10", "r11", "r12", "r13",
    "r14", "r15", "ip",
)  # fmt: skip
_GDB_SHORT: Final = ("flags", "cs", "ss", None, None)  # ds, es: pt_regs has none
_GDB_STRUCT: Final = struct.Struct(f"<{len(_GDB)}Q{len(_GDB_SHORT)}I")
_OFFSET: Final = {name: 8 * index for index, name in enumerate(_PT_REGS)}


class Registers:
    """The interrupted context of the CPU that stopped: its `struct pt_regs` in guest memory.

    :param read: reads guest memory.
    :param write: writes it.
    :param address: where the structure is.
    """

    SIZE: Final = _PT_REGS_STRUCT.size

    def __init__(
        self,
        read: Callable[[int, int], bytes],
        write: Callable[[int, bytes], None],
        address: int,
    ) -> None:
        self.address = address
        self._write = write
        values = _PT_REGS_STRUCT.unpack(read(address, self.SIZE))
        self._values = dict(zip(_PT_REGS, values, strict=True))

    def __getitem__(self, name: str) -> int:
        value: int = self._values[name]
        return value

    def __setitem__(self, name: str, value: int) -> None:
        value &= (1 << 64) - 1
        self._values[name] = value
        self._write(self.address + _OFFSET[name], value.to_bytes(8, "little"))

    def for_gdb(self) -> bytes:
        """Return the answer to gdb's `g`."""
        values = self._values
        return (
            _GDB_STRUCT.pack(
                *(values[name] for name in _GDB),
                *(values[name] & 0xFFFFFFFF if name else 0 for name in _GDB_SHORT),
            )
            .hex()
            .encode()
        )

    def set_from_gdb(self, number: int, data: bytes) -> bool:
        """Take gdb's `P`; False for a register that is not in the structure."""
        if number < len(_GDB):
            self[_GDB[number]] = int.from_bytes(data, "little")
            return True
        short = number - len(_GDB)
        name = _GDB_SHORT[short] if short < len(_GDB_SHORT) else None
        if name is not None:
            self[name] = int.from_bytes(data[:4], "little")
        return name is not None
