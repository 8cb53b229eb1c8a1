"""Follows what the kernel does with its modules, by internal breakpoints in its loader."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Final

from ..debugger import (
    BreakpointTable,
    GdbError,
    Restored,
    RunControl,
    StopRecord,
    StopSubscriber,
)
from ..errors import KgdbError
from ..trace import FreedMemory, FreeingHooks, Instruments
from ._kernel_list import KernelModules
from ._registry import LoadedModule, ModuleRegistry
from ._symbols import ModuleSymbols

__all__ = ["ModuleTracker"]

# kernel/module/main.c. At the first the module is complete, its parameters read, and its init
# has not run; the second comes when init has succeeded, before its memory is freed; the third
# before a module's memory is freed, be it unloaded or its init having failed. All take the module.
_COMING: Final = "do_init_module"
_INIT_ENDED: Final = "trim_init_extable"
_GOING: Final = "free_module"

# The register of the first argument (x86-64 psABI, "Parameter Passing").
_FIRST_ARGUMENT: Final = "di"


class ModuleTracker(StopSubscriber):
    """Keeps gdb's symbols, breakpoints and instruments right while modules come and go.

    :param freeing: knows the kernel's init memory.
    :param register: returns a register of the task that stopped.
    :param enabled: whether the kernel has modules at all (CONFIG_MODULES).
    """

    def __init__(
        self,
        run_control: RunControl,
        table: BreakpointTable,
        instruments: Instruments,
        *,
        kernel: KernelModules,
        registry: ModuleRegistry,
        symbols: ModuleSymbols,
        freeing: FreeingHooks,
        register: Callable[[str], int],
        enabled: bool,
    ) -> None:
        self._table = table
        self._instruments = instruments
        self._kernel = kernel
        self._registry = registry
        self._symbols = symbols
        self._freeing = freeing
        self._register = register
        self._enabled = enabled
        self._awaited: str | None = None
        self._begun: set[str] = set()  # the modules whose init has begun to run
        run_control.subscribe(self)
        table.on_insert(self._on_breakpoint)
        instruments.on_insert(self.guard)
        symbols.on_freed(self._forget)

    # Breakpoints and instruments

    def _on_breakpoint(self, waits: bool) -> None:
        if waits:
            self.watch()
        self.guard()

    def watch(self) -> None:
        """Have every module's symbols known before its init runs, from now on."""
        self._table.insert_internal(_COMING, self._on_coming)

    def guard(self) -> None:
        """Watch for the end of memory in which a breakpoint or a hook is, or that one reads."""
        modules = self._registry.loaded
        reads = [address for row in self._table.rows() for address in row.reads]
        if any(map(self._freeing.init.holds, reads)):
            self._table.insert_internal(f"{self._freeing.init_function:#x}", self._on_init_freed)
        if not modules:
            return
        addresses = self._table.in_freed_memory.addresses()
        for module in modules.values():
            if (
                any(map(module.holds, addresses))
                or any(map(module.freed.owns, reads))
                or self._instruments.within(module.holds)
            ):
                # A kernel that has neither function, inlined or renamed, goes unguarded: most
                # breakpoints are deleted before their module is.
                with contextlib.suppress(GdbError):
                    self._table.insert_internal(_GOING, self._on_going)
                    if not module.init_freed:
                        self._table.insert_internal(_INIT_ENDED, self._on_init_ended)

    # A module that is to be stopped at

    @contextlib.contextmanager
    def stopping_at(self, name: str) -> Iterator[None]:
        """Meanwhile, stop the kernel before the init of a module."""
        self._awaited = name
        try:
            yield
        finally:
            self._awaited = None

    @property
    def arrived(self) -> bool:
        """Whether the module of :meth:`stopping_at` is there."""
        return self._awaited is None

    def forget_init(self, name: str) -> None:
        """Forget that a module's init has run: it is about to be loaded."""
        self._begun.discard(name)

    def ran_init(self, name: str) -> bool:
        """Whether a module's init has begun to run since."""
        return name in self._begun

    # At the internal breakpoints

    def _argument(self) -> int:
        return self._register(_FIRST_ARGUMENT)

    def _on_coming(self) -> bool:
        name = self._kernel.name_at(self._argument())
        self._begun.add(name)
        watched = self._registry.watched
        self._symbols.sync(watched)
        if name not in watched:
            # One that nobody named: without its symbols, breakpoints wait on.
            with contextlib.suppress(KgdbError):
                self._symbols.sync({*watched, name})
        self.guard()
        if self._awaited is not None and name == self._awaited:
            self._awaited = None
            return True
        return False

    def _on_init_ended(self) -> bool:
        if (module := self._at(self._argument())) is not None:
            self._symbols.init_ended(module)
            self._forget(module.freed_init)
        return False

    def _on_going(self) -> bool:
        if (module := self._at(self._argument())) is not None:
            self._forget(module.freed)
            self._symbols.remove(module.name)
        return False

    def _on_init_freed(self) -> bool:
        self._forget(self._freeing.init)
        return False

    def _forget(self, memory: FreedMemory) -> None:
        self._instruments.forget(memory)
        self._table.in_freed_memory.forget(memory.owns, memory.why)

    def _at(self, address: int) -> LoadedModule | None:
        modules = self._registry.loaded.values()
        return next((module for module in modules if module.address == address), None)

    # What run control says

    def stopped(self, record: StopRecord) -> None:
        """Make gdb's symbols equal to what is loaded."""
        if record.internal or not self._enabled:
            return
        # After an oops or a panic whatever is loaded may be on the kernel's stack.
        trouble = record.reason in ("oops", "panic")
        if trouble or self._registry.loaded or self._registry.watched:
            # What the stop is, is known without; and memory may be damaged.
            with contextlib.suppress(KgdbError):
                self._symbols.sync(None if trouble else self._registry.watched)

    def restored(self, event: Restored) -> None:
        """Forget what the restored kernel does not have; another test names its own modules."""
        self._awaited = None
        if not event.keep_breakpoints:
            self._registry.reset()
        if self._registry.loaded or self._registry.watched:
            self._symbols.sync(self._registry.watched)
        self._registry.unloaded.clear()
