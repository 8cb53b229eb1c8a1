"""Stops where a kernel with a debugger of its own would enter it, for a target outside of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from ..arch import X86_64
from ._breakpoints import InsertedBreakpoints
from ._hooks import CONTINUE, STOP, Action, Event, Hook, Return
from ._registers import PtRegs, Readable

__all__ = ["Fault", "KernelStops"]

_SP: Final = X86_64.registers.sp
_PC: Final = X86_64.registers.pc
_WORD: Final = 8
_USER: Final = 3  # the privilege level in the selector of a user program's code

# arch/x86/include/asm/kdebug.h, enum die_val
_DIE_OOPS, _DIE_INT3, _DIE_TRAP, _DIE_GPF = 1, 2, 8, 9

# include/linux/notifier.h: what a debugger that has dealt with an exception returns. What has this
# bit set has been dealt with by another notifier, such as a kprobe's or that of the kernel's own
# test of int3 (arch/x86/kernel/alternative.c, int3_selftest).
_NOTIFY_STOP_MASK: Final = 0x8000
_NOTIFY_STOP: Final = _NOTIFY_STOP_MASK | 1

# Linux's numbers of signals (include/uapi/asm-generic/signal.h) that gdb's remote protocol numbers
# differently (include/gdb/signals.def).
_SIGNALS: Final = {7: 10}

# Calls in panic() behind kgdb's, in their order; each kernel has some of them (kernel/panic.c).
# Where kgdb's is not built in, the next one is the place: all has been printed by then.
_PANIC_CALLS: Final = (
    "kgdb_panic",
    "__crash_kexec",
    "panic_other_cpus_shutdown",
    "crash_smp_send_stop",
    "native_stop_other_cpus",
)
_PANIC_NOTIFIERS: Final = ("atomic_notifier_call_chain", "panic_notifier_list")

# Bytes of stack between the entry of panic() and that of what it calls, at the most: its message
# is in a static buffer.
_PANIC_FRAME: Final = 0x400

_SYSRQ_KEY: Final = ord("g")  # drivers/tty/sysrq.c, sysrq_key_table


@dataclass(frozen=True)
class Fault:
    """An exception in the kernel, in whose handler the CPU is."""

    registers: int
    """Where the `struct pt_regs` of what it interrupted is."""
    signal: int
    """As gdb's remote protocol numbers them."""


class KernelStops:
    """Hooks in the kernel's own code for exceptions, panics and SysRq, which are stops for gdb.

    kgdb is told of an exception by the chain of notifiers that `notify_die()` calls, as the last
    one of it. A hook where that function returns comes after the whole chain.

    :param breakpoints: where the hooks are inserted when the target next resumes.
    :param symbol: returns the address of one of the kernel's symbols; None if there is none.
    :param show: has gdb told of a fault, rather than of the CPU in its handler.
    """

    def __init__(
        self,
        breakpoints: InsertedBreakpoints,
        symbol: Callable[[str], int | None],
        *,
        show: Callable[[Fault], None],
    ) -> None:
        self._breakpoints = breakpoints
        self._show = show
        self._pending: list[tuple[int, Hook]] = []  # of exceptions and panics under way
        addresses = (symbol(name) for name in _PANIC_CALLS)
        self._panic_calls = [address for address in addresses if address is not None]
        chain, panic_list = (symbol(name) for name in _PANIC_NOTIFIERS)
        self._panic_list = panic_list
        if chain is not None and panic_list is not None:
            self._panic_calls.append(chain)
        self._chain = chain
        panic = symbol("vpanic") or symbol("panic")  # the former is the latter's body since 6.17
        for address, hook in (
            (symbol("notify_die"), self._on_exception),
            (panic, self._on_panic),
            (symbol("__handle_sysrq"), self._on_sysrq),
        ):
            if address is not None:
                breakpoints.keep_hook(address, hook)

    def reset(self) -> None:
        """Take note that the machine has been replaced: nothing is under way in it."""
        for address, hook in self._pending:
            self._breakpoints.remove_hook(address, hook)
        self._pending.clear()

    def _await(self, address: int, hook: Hook) -> None:
        """Have a hook called at an address, until it is done."""
        self._pending.append((address, hook))
        self._breakpoints.keep_hook(address, hook)

    def _done(self, hook: Hook) -> None:
        for address, pending in [entry for entry in self._pending if entry[1] is hook]:
            self._pending.remove((address, pending))
            self._breakpoints.remove_hook(address, pending)

    # notify_die(enum die_val val, const char *str, struct pt_regs *regs, long err, int trap,
    # int sig): kernel/notifier.c

    def _on_exception(self, event: Event) -> Action:
        kind = event.registers["di"] & 0xFFFFFFFF
        if kind not in (_DIE_OOPS, _DIE_INT3, _DIE_TRAP, _DIE_GPF):
            return CONTINUE
        interrupted = PtRegs(event.read, _read_only, event.registers["dx"])
        if interrupted["cs"] & _USER:
            return CONTINUE
        signal = event.registers["r9"] & 0xFF
        fault = Fault(event.registers["dx"], _SIGNALS.get(signal, signal))
        after = event.registers[_SP] + _WORD

        def returned(event: Event) -> Action:
            if event.registers[_SP] != after:
                return CONTINUE  # another CPU's
            self._done(returned)
            if event.registers[X86_64.registers.result] & _NOTIFY_STOP_MASK:
                return CONTINUE
            if kind == _DIE_INT3:
                event.registers[X86_64.registers.result] = _NOTIFY_STOP
                self._stop_at(interrupted)
                return CONTINUE
            self._show(fault)
            return STOP

        self._await(int.from_bytes(event.read(event.registers[_SP], _WORD), "little"), returned)
        return CONTINUE

    def _stop_at(self, registers: Readable) -> None:
        """Stop once the CPU has returned from an exception to what that interrupted."""
        stack = registers[_SP]

        def arrived(event: Event) -> Action:
            if event.registers[_SP] != stack:
                return CONTINUE
            self._done(arrived)
            return STOP

        self._await(registers[_PC], arrived)

    def _on_panic(self, event: Event) -> Action:
        entry = event.registers[_SP]

        def called(event: Event) -> Action:
            if not 0 < entry - event.registers[_SP] < _PANIC_FRAME:
                return CONTINUE
            if event.address == self._chain and event.registers["di"] != self._panic_list:
                return CONTINUE
            self._done(called)
            return STOP

        for address in self._panic_calls:
            self._await(address, called)
        return CONTINUE

    def _on_sysrq(self, event: Event) -> Action:
        """`__handle_sysrq(int key, bool check_mask)` (drivers/tty/sysrq.c).

        Where no debugger has registered the key, it would show a help.
        """
        if event.registers["di"] & 0xFF != _SYSRQ_KEY:
            return CONTINUE
        return Return(None, stop=True)


def _read_only(_address: int, _data: bytes) -> None:
    raise AssertionError("nothing is set in an exception's registers before gdb sees them")
