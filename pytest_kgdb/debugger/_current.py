"""The CPU that stopped, and its variables."""

from __future__ import annotations

from ._debugger import Debugger

__all__ = ["cpu_expression", "cpu_variable", "define_current"]


def define_current(debugger: Debugger) -> None:
    """Have gdb take `current` for the task of the CPU that it has selected on QEMU's stub.

    The agent has defined it for kgdb's stops.
    """
    expression = cpu_variable(debugger, "current_task", "struct task_struct *")
    debugger.console(f"macro define current ({expression})")


def cpu_expression(debugger: Debugger) -> str:
    """Return an expression for the number of the CPU that stopped.

    kgdb's is in `kgdb_active` (kernel/debug/debug_core.c).
    """
    if debugger.door == "qemu":
        return cpu_variable(debugger, "cpu_number", "int")
    return "kgdb_active.counter"


def cpu_variable(debugger: Debugger, name: str, kind: str) -> str:
    """Return an expression for a variable of the CPU that gdb has selected on QEMU's stub.

    They are relative to the base of GS, which is the user's while a program runs
    (arch/x86/include/asm/percpu.h, current.h).
    """
    hot = (
        "pcpu_hot."
        if debugger.request("symbol", name="pcpu_hot").get("address") is not None
        else ""
    )
    base = "((long)$gs_base < 0 ? (long)$gs_base : (long)$k_gs_base)"
    return f"*({kind} *)({base} + (long)&{hot}{name})"
