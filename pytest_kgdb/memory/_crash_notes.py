"""The registers of the CPUs that kgdb has stopped, as drgn takes them: from a core dump's notes."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import drgn

__all__ = ["CRASH_NOTES", "provide_crash_notes"]

CRASH_NOTES: Final = "CRASHTIME=none\n"
"""What VMCOREINFO has in the dump of a crash: drgn then looks in `crash_notes` for the registers
of a CPU (libdrgn/stack_trace.c, drgn_get_initial_registers_from_kernel_core_dump). It is no time:
drgn's clocks would take that for the present one."""

# Beyond both halves of the address space, whatever offset of a CPU is added: nothing else is there.
_BASE: Final = 1 << 61
_LOWEST: Final = (_BASE - (1 << 56)) & ~((1 << 56) - 1)
_SIZE: Final = 1 << 57
_MASK: Final = (1 << 64) - 1

# include/uapi/linux/elf.h, struct elf64_note; include/linux/elfcore.h, struct elf_prstatus, whose
# pr_reg has the 27 registers of struct user_regs_struct, the first 21 of them struct pt_regs.
_NAME: Final = b"CORE\0\0\0\0"
_NT_PRSTATUS: Final = 1
_PR_REG: Final = 112
_PT_REGS: Final = 21 * 8
_PRSTATUS: Final = 336
_NOTE: Final = struct.pack("<III", len(b"CORE\0"), _PRSTATUS, _NT_PRSTATUS) + _NAME
_END: Final = bytes(12)
_NOTES: Final = len(_NOTE) + _PRSTATUS + len(_END)


def provide_crash_notes(program: drgn.Program) -> None:
    """Have drgn find each stopped CPU's registers, read anew whenever it asks.

    The kernel has them in kgdb_info (kernel/debug/debug_core.c, kgdb_cpu_enter). One without kgdb
    keeps its own `crash_notes`, which are empty until it dumps.
    """

    def find(
        program: drgn.Program, name: str, _flags: drgn.FindObjectFlags, _filename: str | None
    ) -> drgn.Object | None:
        import drgn

        if name != "crash_notes" or "kgdb_info" not in program:
            return None
        notes = program.array_type(program.type("unsigned char"), _NOTES)
        return drgn.Object(program, program.pointer_type(notes), _BASE)

    def read(address: int, size: int, _offset: int, _physical: bool) -> bytes:
        import drgn

        for cpu, info in enumerate(program["kgdb_info"]):
            if address == _address(program, cpu):
                if not info.debuggerinfo:
                    raise drgn.FaultError(f"kgdb has not stopped CPU {cpu}", address)
                registers = program.read(info.debuggerinfo.value_(), _PT_REGS)
                prstatus = (bytes(_PR_REG) + registers).ljust(_PRSTATUS, b"\0")
                notes: bytes = _NOTE + prstatus + _END
                return notes[:size]
        raise drgn.FaultError("no CPU has its notes there", address)

    program.register_object_finder("pytest-kgdb", find, enable_index=0)
    program.add_memory_segment(_LOWEST, _SIZE, read, False)


def _address(program: drgn.Program, cpu: int) -> int:
    """Return where drgn looks for a CPU's notes (include/linux/percpu-defs.h, per_cpu_ptr)."""
    try:
        offset = int(program["__per_cpu_offset"][cpu])
    except KeyError:  # built without CONFIG_SMP
        offset = 0
    return _BASE + offset & _MASK
