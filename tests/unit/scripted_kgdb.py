"""A kernel stopped in kgdb, as far as its packets go (kernel/debug/gdbstub.c)."""

from __future__ import annotations

import struct
from dataclasses import replace
from typing import Any, Final

from scripted_stub import (
    BASE,
    CALLER,
    ENTRY,
    LOAD,
    NAMES,
    NOP,
    PATH,
    STACK,
    TASKS,
    ScriptedStub,
    pack_registers,
)

from pytest_kgdb.kernel import KgdbLayout, StopLayout

TRAP_FLAG: Final = 0x100

# struct pt_regs (arch/x86/include/asm/ptrace.h)
PT_REGS: Final = (
    "r15", "r14", "r13", "r12", "bp", "bx", "r11", "r10", "r9", "r8", "ax", "cx", "dx", "si", "di",
    "orig_ax", "ip", "cs", "flags", "sp", "ss",
)  # fmt: skip

KGDB_LAYOUT: Final = KgdbLayout(
    kgdb_active=BASE + 0xE00,
    kgdb_info=BASE + 0xE10,
    info_size=16,
    debuggerinfo=8,
    task=0,
)
LAYOUT: Final = StopLayout(
    current_task=0, task_mm=0, task_pid=0, task_comm=0, mm_pgd=0, kgdb=KGDB_LAYOUT
)
COPIES: Final = range(BASE + 0x300, BASE + 0x360)
"""Code that is executed no more; whatever is there is as long as the load by %gs."""
LAYOUT_WITH_COPIES: Final = replace(
    LAYOUT, kgdb=replace(KGDB_LAYOUT, startup=COPIES.start, startup_size=len(COPIES))
)
KGDBREBOOT: Final = BASE + 0xE80
LAYOUT_WITH_REBOOT: Final = replace(LAYOUT, kgdb=replace(KGDB_LAYOUT, kgdbreboot=KGDBREBOOT))
_REGISTERS: Final = BASE + 0xC00


class Registers:
    """The `struct pt_regs` of the thread that stopped, which is in the kernel's memory."""

    def __init__(self, kgdb: ScriptedKgdb) -> None:
        self._kgdb = kgdb

    def _at(self, name: str) -> int:
        return self._kgdb.slot + 8 * PT_REGS.index(name)

    def __getitem__(self, name: str) -> int:
        return int.from_bytes(self._kgdb.memory.read(self._at(name), 8), "little")

    def __setitem__(self, name: str, value: int) -> None:
        self._kgdb.memory.write(self._at(name), value.to_bytes(8, "little"))


class ScriptedKgdb(ScriptedStub):
    """A kernel with the threads 1 and 2, one on each CPU, both about to enter the function.

    Its breakpoints are not in memory while it is stopped (kernel/debug/debug_core.c,
    dbg_deactivate_sw_breakpoints).
    """

    def __init__(self) -> None:
        super().__init__()
        self.thread = b"01"
        """The one that stopped."""
        self.registers = Registers(self)
        self.running = False
        self.silent = False
        self.holds_steps = False
        """Whether a step waits until a test calls :meth:`resume`."""
        self._stepping: set[bytes] = set()
        for cpu in range(2):
            info = struct.pack("<QQ", TASKS[cpu], self._slot(cpu))
            self.memory.write(KGDB_LAYOUT.kgdb_info + 16 * cpu, info)
        for thread in (b"02", b"01"):
            self.thread = thread
            self.registers["ip"], self.registers["flags"] = ENTRY, 0x202
            self.registers["sp"], self.registers["cs"] = STACK, 0x10
        self._show_cpu()

    @staticmethod
    def _slot(cpu: int) -> int:
        return _REGISTERS + 0x100 * cpu

    @property
    def slot(self) -> int:
        """Where the registers are of the thread that stopped."""
        return self._slot(int(self.thread) - 1)

    @property
    def stop_reply(self) -> bytes:
        return b"T05thread:%b;" % self.thread

    def _show_cpu(self) -> None:
        self.memory.write(KGDB_LAYOUT.kgdb_active, struct.pack("<I", int(self.thread) - 1))

    def reply(self, payload: bytes) -> bytes | None:
        kind = payload[:1]
        registers = self.registers
        if self.silent:
            return None
        if payload == b"?":
            return b"S05"
        if payload == b"qC":
            return b"QC" + self.thread
        if kind == b"g":
            values: dict[Any, int] = {name: registers[name] for name in NAMES if name in PT_REGS}
            return pack_registers(values)[: 2 * (17 * 8 + 5 * 4)]  # NUMREGBYTES
        if kind == b"P":
            number, _, digits = payload[1:].partition(b"=")
            name = NAMES[int(number, 16)]
            if name != "sp":  # arch/x86/kernel/kgdb.c, dbg_set_reg
                registers[name] = int.from_bytes(bytes.fromhex(digits.decode()), "little")
            return b"OK"
        if kind == b"H":
            return b"OK"
        if payload == b"qfThreadInfo":
            return b"m01,02"
        if payload == b"qsThreadInfo":
            return b"l"
        if kind in (b"c", b"s", b"C"):
            if kind != b"s" or not self.holds_steps:
                self.resume(step=kind == b"s")
            return None
        return super().reply(payload)

    # Running

    def resume(self, *, step: bool) -> None:
        """Run until a thread stops."""
        self.running = True
        if step:
            self._stepping.add(self.thread)
        while True:
            if self.turns:
                self.thread = self.turns.popleft()
            if self._run():
                self.stop()
                return
            if not self.turns:
                return

    def _run(self) -> bool:
        """Run a thread; False if it does not stop."""
        registers = self.registers
        while True:
            at = registers["ip"]
            registers["flags"] &= ~TRAP_FLAG
            if at in self.breakpoints:
                registers["ip"] = at + 1
                return True
            if at == CALLER:
                return False
            registers["ip"] = at + NOP - LOAD if at in COPIES else PATH[at]
            if self.thread in self._stepping:
                self._stepping.discard(self.thread)
                registers["flags"] |= TRAP_FLAG
                return True

    def stop(self, signal: bytes = b"05") -> None:
        """Stop in kgdb, for a breakpoint or, if a test calls it, for a sysrq or an oops."""
        self.running = False
        self._show_cpu()
        self.send(b"T%bthread:%b;" % (signal, self.thread))
