"""Memory that the kernel frees while instruments are at work: modules, and what is for an init."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Final, Protocol

from ..errors import KgdbError
from ..rsp import CONTINUE, Action, Event, Hook

__all__ = ["FreedMemory", "FreeingHooks", "ModuleMemory"]

# arch/x86/mm/init.c, called by init/main.c, kernel_init, once: all of init memory goes.
_INIT: Final = "free_initmem"

# kernel/module/main.c, called with every module whose init is about to be freed, and with every
# one that is freed as a whole: unloaded, failed in its init, or in a parameter. The others are
# for a kernel without it: of the first two, and no parameters.
_OF_MODULES: Final = (("module_arch_freeing_init",), ("trim_init_extable", "free_module"))

# Documentation/x86/x86_64/mm.rst: modules lie behind the kernel's image, up to here.
_MODULES_END: Final = 0xFFFFFFFFFF000000
_SYMBOLS: Final = (
    *("_text", "_end", "__init_begin", "__init_end"),
    *("__per_cpu_start", "__per_cpu_end", "__per_cpu_offset"),
    _INIT,
    *(name for names in _OF_MODULES for name in names),
)

# Until 6.14, per-CPU variables are linked at 0 (arch/x86/kernel/vmlinux.lds.S).
_LOW: Final = 1 << 31


Ranges = tuple[tuple[int, int], ...]
"""Starts and ends."""


@dataclass(frozen=True)
class FreedMemory:
    """Memory that the kernel frees, or has freed."""

    why: str
    """What is gone, as a sentence without its full stop."""
    ranges: Ranges
    per_cpu: Ranges = ()
    """Those of per-CPU variables: addresses to which a CPU's offset is added."""

    @classmethod
    def of_module(cls, name: str, ranges: Ranges, per_cpu: Ranges = ()) -> FreedMemory:
        """Return all memory of a module that was unloaded, or did not load."""
        return cls(f"module {name} is not loaded any more", ranges, per_cpu)

    @classmethod
    def of_module_init(cls, name: str, ranges: Ranges) -> FreedMemory:
        """Return what a module has until its init has run."""
        return cls(f"the init of module {name} has run, and its memory is freed", ranges)

    def holds(self, address: int) -> bool:
        """Whether an address is in it."""
        return any(start <= address < end for start, end in self.ranges)

    def owns(self, address: int) -> bool:
        """Whether it is the address of something in it, a per-CPU variable included."""
        return self.holds(address) or any(start <= address < end for start, end in self.per_cpu)

    def is_read_by(self, constants: Collection[int], offsets: int) -> bool:
        """Whether code that contains some numbers reads it, or has an address in it.

        :param offsets: the address of the CPUs' offsets, `__per_cpu_offset` (mm/percpu.c).
        """
        return any(map(self.holds, constants)) or (
            offsets in constants
            and any(start <= one < end for start, end in self.per_cpu for one in constants)
        )


class ModuleMemory(Protocol):
    """What is known of the modules' memory."""

    def prepare_memory(self) -> None:
        """Ask gdb for everything that :meth:`freed` needs.

        :raises KgdbError: this kernel does not say.
        """

    def freed(self, address: int, read: Callable[[int, int], bytes]) -> FreedMemory:
        """Return what is about to be freed of a `struct module`; it asks gdb for nothing.

        :param read: reads the kernel's memory.
        """


class FreeingRelay(Protocol):
    """The part of the relay that is used here."""

    def try_add_hook(self, address: int, hook: Hook) -> bool:
        """Have a function called at an address; False if the target refuses."""

    def remove_hook(self, address: int, hook: Hook) -> None:
        """Undo it."""


class FreeingHooks:
    """Hooks where the kernel frees memory; they are there from when they are first needed.

    gdb does not see these stops, and a kernel that frees nothing has none.

    :param symbols: returns the addresses of those of some symbols that the kernel has.
    """

    def __init__(
        self,
        relay: FreeingRelay,
        symbols: Callable[[Sequence[str]], Mapping[str, int]],
        modules: ModuleMemory,
    ) -> None:
        self._relay = relay
        self._symbols_of = symbols
        self._modules = modules
        self._listeners: list[Callable[[FreedMemory], None]] = []
        self._hooks: list[tuple[int, Hook]] = []
        self._seen: dict[bool, bool] = {}  # of init memory (True), and of modules: whether it is

    def subscribe(self, listener: Callable[[FreedMemory], None]) -> None:
        """Call a function, in the relay's thread, with memory that is about to be freed."""
        self._listeners.append(listener)

    def prepare(self) -> None:
        """Ask gdb for what :meth:`add` needs; the kernel is stopped."""
        _ = self._symbols, self._init, self._module_functions

    def add(self, numbers: Collection[int]) -> bool:
        """Have it seen when memory is freed that some addresses are in, from now on.

        A hook may call it after :meth:`prepare`. Where the kernel frees nothing of that, it costs
        nothing.

        :param numbers: the addresses; the others in code that has addresses may be among them.
        :return: whether it is; False where this kernel cannot be seen to free it.
        """
        per_cpu, last = self.offsets in numbers, self._address("__per_cpu_end")
        kinds = {
            self._is_init(number)
            for number in numbers
            if self._may_go(number) or (per_cpu and last <= number < _LOW)
        }
        seen = [self._add(init) for init in kinds]  # not only up to the first that is not
        return all(seen)

    def remove(self) -> None:
        """Remove the hooks, until they are needed again."""
        self._seen.clear()
        while self._hooks:
            self._relay.remove_hook(*self._hooks.pop())

    # Which memory that is

    @property
    def init(self) -> FreedMemory:
        """The kernel's init memory."""
        return FreedMemory("the kernel has freed its init memory", self._init)

    @property
    def init_function(self) -> int:
        """The address of the function that frees it; 0 if that is not known."""
        return self._address(_INIT)

    @cached_property
    def _symbols(self) -> Mapping[str, int]:
        return self._symbols_of(_SYMBOLS)

    def _address(self, symbol: str) -> int:
        """Return a symbol's address; 0 in a kernel without it."""
        return self._symbols.get(symbol, 0)

    @property
    def offsets(self) -> int:
        """The address of `__per_cpu_offset`; 0 in a kernel for one CPU."""
        return self._address("__per_cpu_offset")

    @cached_property
    def _init(self) -> Ranges:
        begin, end = self._address("__init_begin"), self._address("__init_end")
        first, last = self._address("__per_cpu_start"), self._address("__per_cpu_end")
        if not begin <= first < last <= end:
            return ((begin, end),)
        # Since 6.15, addresses of per-CPU variables are there, at which nothing is read.
        return (begin, first), (last, end)

    @cached_property
    def _module_functions(self) -> tuple[int, ...]:
        """What is called with a module that is to be freed; nothing where that cannot be seen."""
        for names in _OF_MODULES:
            addresses = tuple(map(self._address, names))
            if all(addresses):
                try:
                    self._modules.prepare_memory()
                except KgdbError:
                    return ()
                return addresses
        return ()

    def _is_init(self, address: int) -> bool:
        return any(start <= address < end for start, end in self._init)

    def _may_go(self, address: int) -> bool:
        start, end = self._address("_text"), self._address("_end")
        if start <= address < end:
            return self._is_init(address)
        return end <= address < _MODULES_END

    def _add(self, init: bool) -> bool:
        if init not in self._seen:
            if init:
                self._seen[init] = self._insert(self.init_function, self._on_init)
            else:
                hooks = [self._insert(one, self._on_module) for one in self._module_functions]
                self._seen[init] = bool(hooks) and all(hooks)
        return self._seen[init]

    def _insert(self, address: int, hook: Hook) -> bool:
        if address == 0 or not self._relay.try_add_hook(address, hook):
            return False
        self._hooks.append((address, hook))
        return True

    # In the relay's thread

    def _on_init(self, _event: Event) -> Action:
        self._report(self.init)
        return CONTINUE

    def _on_module(self, event: Event) -> Action:
        self._report(self._modules.freed(event.registers["di"], event.read))
        return CONTINUE

    def _report(self, memory: FreedMemory) -> None:
        for listener in self._listeners:
            listener(memory)
