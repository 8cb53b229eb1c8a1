"""The registers of the stopped CPUs, as drgn takes them: from a core dump's notes."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Final

from ._vmcore import pt_regs_data

if TYPE_CHECKING:
    import drgn

__all__ = ["CRASH_NOTES", "CpuRegisters", "provide_crash_notes", "stopped_registers"]

CpuRegisters = Callable[[], Sequence[Mapping[str, int]]]
"""Returns the registers of each CPU by their names in struct user_regs_struct."""

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


def provide_crash_notes(
    program: drgn.Program, read: Callable[[int, int], bytes], registers: CpuRegisters | None = None
) -> None:
    """Have drgn find each stopped CPU's registers, read anew whenever it asks.

    Where kgdb has stopped the kernel, they are in kgdb_info (kernel/debug/debug_core.c,
    kgdb_cpu_enter). The kernel's own `crash_notes` are empty until it dumps.

    :param read: reads the kernel's virtual memory.
    :param registers: those of all CPUs, where the machine is stopped, and not the kernel; None if
        they are kgdb's.
    """
    notes = _Notes(read, registers)
    program.register_object_finder("pytest-kgdb", notes.find, enable_index=0)
    program.add_memory_segment(_LOWEST, _SIZE, notes.read, False)


class _Notes:
    """Makes the notes of each CPU.

    It has no reference to the program, which has one to it: an unused program is as large as the
    index of vmlinux, and would stay until a garbage collection.
    """

    def __init__(
        self, read: Callable[[int, int], bytes], machine: CpuRegisters | None = None
    ) -> None:
        self._read = read
        self._machine = machine
        self._info = self._info_size = self._cpus = self._registers = 0
        self._offsets: int | None = None

    def find(
        self,
        program: drgn.Program,
        name: str,
        _flags: drgn.FindObjectFlags,
        _filename: str | None,
    ) -> drgn.Object | None:
        """Find `crash_notes`, as which drgn looks for them."""
        import drgn

        if name != "crash_notes":
            return None
        if self._machine is None:
            if "kgdb_info" not in program:
                return None
            info = program["kgdb_info"]
            self._info, self._cpus = info.address_, len(info)
            self._info_size = info[0].type_.size
            self._registers = drgn.offsetof(info[0].type_, "debuggerinfo")
        try:
            self._offsets = program["__per_cpu_offset"].address_
        except KeyError:  # built without CONFIG_SMP
            self._offsets = None
        notes = program.array_type(program.type("unsigned char"), _NOTES)
        return drgn.Object(program, program.pointer_type(notes), _BASE)

    def read(self, address: int, size: int, _offset: int, _physical: bool) -> bytes:
        """Read the notes of one CPU; drgn asks for them where :meth:`find` has told it."""
        import drgn

        machine = None if self._machine is None else self._machine()
        for cpu in range(self._cpus if machine is None else len(machine)):
            if address == self._address(cpu):
                if machine is not None:
                    pt_regs = pt_regs_data(machine[cpu])
                else:
                    pt_regs = self._of_kgdb(cpu, address)
                prstatus = (bytes(_PR_REG) + pt_regs).ljust(_PRSTATUS, b"\0")
                notes: bytes = _NOTE + prstatus + _END
                return notes[:size]
        raise drgn.FaultError("no CPU has its notes there", address)

    def _of_kgdb(self, cpu: int, address: int) -> bytes:
        import drgn

        registers = self._word(self._info + cpu * self._info_size + self._registers)
        if not registers:
            raise drgn.FaultError(f"kgdb has not stopped CPU {cpu}", address)
        return self._read(registers, _PT_REGS)

    def _address(self, cpu: int) -> int:
        """Return where drgn looks for a CPU's notes (include/linux/percpu-defs.h, per_cpu_ptr)."""
        offset = 0 if self._offsets is None else self._word(self._offsets + 8 * cpu)
        return _BASE + offset & _MASK

    def _word(self, address: int) -> int:
        return int.from_bytes(self._read(address, 8), "little")


def stopped_registers(program: drgn.Program) -> Iterator[tuple[int, bytes]]:
    """Yield the CPUs that kgdb has stopped, with the struct pt_regs of each."""
    if "kgdb_info" not in program:
        return
    for cpu, info in enumerate(program["kgdb_info"]):
        if info.debuggerinfo:
            yield cpu, program.read(info.debuggerinfo.value_(), _PT_REGS)
