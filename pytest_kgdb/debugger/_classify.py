"""Why the kernel stopped, told from gdb's record and from the stack."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from ..errors import KgdbError
from ._debugger import Debugger
from ._mi import GdbError
from ._stop import Reason

__all__ = ["asked_by_guest", "classify", "select_frame", "trap_name"]

# A sysrq `g` ends in sysrq_handle_dbg (kernel/debug/debug_core.c), whose last call gcc may have
# made a jump: then its caller (drivers/tty/sysrq.c) stands next on the stack.
_SYSRQ: Final = frozenset({"sysrq_handle_dbg", "__handle_sysrq"})
# drivers/tty/sysrq.c
_TRIGGER: Final = "write_sysrq_trigger"
# Where the relay stops at one through QEMU's stub.
_SYSRQ_ENTRY: Final = ["__handle_sysrq"]
# A panic's way into the debugger (kernel/debug/debug_core.c, kernel/panic.c).
_PANIC: Final = frozenset({"kgdb_panic", "panic", "vpanic"})
# The die notifier's signal for an oops (arch/x86/kernel/dumpstack.c, __die).
_OOPS_SIGNALS: Final = frozenset({"SIGSEGV", "SIGBUS", "SIGILL", "SIGFPE"})


# arch/x86/include/asm/trapnr.h, with the words of arch/x86/kernel/traps.c
_TRAPS: Final = {
    0: "divide error",
    4: "overflow",
    5: "bounds",
    6: "invalid opcode",
    8: "double fault",
    10: "invalid TSS",
    11: "segment not present",
    12: "stack segment",
    13: "general protection fault",
    14: "page fault",
    16: "fpu exception",
    17: "alignment check",
    19: "simd exception",
}

_GUARD: Final = 4096

# From a panic back to where the trouble was: the panic itself, what led there from an exception
# (arch/x86/kernel/dumpstack.c, traps.c, arch/x86/mm/fault.c, kernel/panic.c, lib/bug.c), and the
# exception's entry.
_ENTRY: Final = re.compile(r"asm_(?:exc|sysvec|common)_\w+$")
_ON_THE_WAY: Final = re.compile(
    r"(?:__)?die\w*$|oops_\w+$|page_fault_oops$|kernelmode_fixup_or_oops$|(?:__)?bad_area\w*$|"
    r"do_(?:kern|user)_addr_fault$|handle_page_fault$|(?:__)?exc_\w+$|handle_bug$|report_bug$|"
    r"(?:__)?report_bug$|__warn$|warn_slowpath\w*$|check_panic_on_warn$|do_trap$|"
    r"do_error_trap$|make_task_dead$|rewind_stack\w*$|nmi_panic$|watchdog_\w+$"
)
_DEEP: Final = 40


def trap_name(debugger: Debugger, signal: str | None) -> str | None:
    """Return the exception that the kernel stopped for, where it has not said anything yet.

    :param signal: the die notifier's.
    """
    task = "(current)" if debugger.door == "qemu" else "kgdb_info[kgdb_active.counter].task"
    stack = f"(unsigned long){task}->stack"
    try:
        number, below = debugger.numbers(f"{task}->thread.trap_nr", f"{stack} - (unsigned long)$sp")
        # The guard page lies below the stack (kernel/fork.c, alloc_thread_stack_node).
        if 0 < below <= _GUARD:
            return "kernel stack overflow"
        # The debugger is told of some before the task's number is set (arch/x86/kernel/traps.c,
        # exc_double_fault, do_error_trap).
        if not _has_stack(debugger):
            return _TRAPS[8]
        if signal == "SIGILL":
            return _TRAPS[6]
        if number == 0 and not _divides(debugger):
            return None
        return _TRAPS.get(number)
    except KgdbError:
        return None


def _has_stack(debugger: Debugger) -> bool:
    """Return whether the CPU could push what it was interrupted with (Intel SDM volume 3, 6.14.2).

    It aligns the stack to 16 bytes first. Where it cannot, the exception becomes a double fault.
    """
    try:
        debugger.numbers("*(unsigned char *)(((unsigned long)$sp & ~15UL) - 8)")
    except GdbError:
        return False
    return True


def _divides(debugger: Debugger) -> bool:
    """Return whether the task is at a division (Intel SDM volume 2, "DIV" and "IDIV")."""
    code = debugger.numbers(*(f"((unsigned char *)$pc)[{index}]" for index in range(4)))
    prefixes = (0x66, *range(0x40, 0x50))
    while len(code) > 2 and code[0] in prefixes:
        code = code[1:]
    return code[0] in (0xF6, 0xF7) and code[1] >> 3 & 7 in (6, 7)


def asked_by_guest(names: Sequence[str | None]) -> bool:
    """Return whether a sysrq came from within the guest, by the functions on the stack."""
    return _TRIGGER in names


def select_frame(debugger: Debugger, reason: Reason) -> int:
    """Select the frame that a stop is about, and return its level: not the debugger's own."""
    if reason == "oops":
        # Its instruction has been executed: if inlined code begins with it, that is where it is.
        debugger.request("show_inlined")
    if reason not in ("panic", "int3"):
        return 0
    frames = debugger.request("frames", limit=_DEEP if reason == "panic" else 2)["frames"]
    names = [frame["function"] or "" for frame in frames]
    level = 0
    if reason == "int3":
        level = int(names[:1] == ["kgdb_breakpoint"])
    else:
        for number, name in enumerate(names[:6]):
            if name in _PANIC:
                level = number + 1
        after = level
        while after < len(names) and _ON_THE_WAY.match(names[after]):
            after += 1
        # gdb cannot always see beyond the entry, which has no unwind information of its own.
        if after + 1 < len(names) and _ENTRY.match(names[after]):
            level = after + 1
    if not 0 < level < len(names):
        return 0
    debugger.request("select", frame=level)
    return level


# gdb manual, "GDB/MI Async Records"; the last is of a local variable whose function has returned.
_WATCHED: Final = (
    "watchpoint-trigger", "read-watchpoint-trigger", "access-watchpoint-trigger",
    "watchpoint-scope",
)  # fmt: skip


def classify(
    record: Mapping[str, Any], names: Callable[[], list[str | None]]
) -> tuple[Reason, str | None]:
    """Tell from gdb's stop record, and where that is not enough from the stack, why it stopped.

    :param names: returns the functions on the stack, innermost first.
    """
    why = record.get("reason")
    if why == "breakpoint-hit":
        return "breakpoint", None
    if why in _WATCHED:
        return "watchpoint", None
    if why == "function-finished":
        return "finished", None
    if why in ("end-stepping-range", "location-reached"):
        return "step", None
    signal = str(record.get("signal-name", "")) or None
    if signal == "SIGINT":
        return "interrupt", signal  # QEMU's stub, asked to
    if signal in _OOPS_SIGNALS:
        return "oops", signal
    stack = names()
    if stack[:1] == _SYSRQ_ENTRY or (
        stack[:1] == ["kgdb_breakpoint"] and _SYSRQ.intersection(stack[1:2])
    ):
        return "interrupt", signal
    if _PANIC.intersection(stack[:4]):
        return "panic", signal
    return "int3", signal
