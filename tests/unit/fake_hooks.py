"""What instruments need: a relay that takes hooks, CPUs that come to them, compiled expressions."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from pytest_kgdb.errors import KgdbError
from pytest_kgdb.rsp import Action, Event, Hook
from pytest_kgdb.trace import FreedMemory, FreeingHooks

ENTRY, CALLER, STACK = 0xFFFFFFFF811B25A0, 0xFFFFFFFF811B3066, 0xFFFFC90000007000

REGISTERS = "ax bx cx dx si di bp sp r8 r9 r10 r11 r12 r13 r14 r15 ip flags cs ss".split()  # noqa: SIM905
"""By the numbers that gdb has for them."""


class Memory:
    """The kernel's memory: some of it is mapped."""

    def __init__(self) -> None:
        self.mapped: dict[int, bytes] = {}

    def put(self, address: int, data: bytes) -> None:
        self.mapped[address] = data

    def read(self, address: int, size: int) -> bytes:
        for start, data in self.mapped.items():
            if start <= address and address + size <= start + len(data):
                return data[address - start : address - start + size]
        raise KgdbError(f"{address:#x} is not mapped")


class HookedRelay:
    """Takes hooks, and brings CPUs to them."""

    def __init__(self) -> None:
        self.hooks: dict[int, list[Hook]] = {}
        self.memory = Memory()
        self.memory.put(STACK, CALLER.to_bytes(8, "little"))
        self.can_force_return = True
        self.refuses: set[int] = set()
        """Addresses at which the stub takes no breakpoint."""
        self.error: BaseException | None = None
        """What a hook has raised."""

    def add_hook(self, address: int, hook: Hook) -> None:
        if not self.try_add_hook(address, hook):
            raise KgdbError(f"no breakpoint can be inserted at {address:#x}")

    def try_add_hook(self, address: int, hook: Hook) -> bool:
        if address in self.refuses:
            return False
        self.hooks.setdefault(address, []).append(hook)
        return True

    def remove_hook(self, address: int, hook: Hook) -> None:
        self.hooks[address].remove(hook)
        if not self.hooks[address]:
            del self.hooks[address]

    def take_hook_error(self) -> BaseException | None:
        error, self.error = self.error, None
        return error

    def arrive(
        self,
        address: int = ENTRY,
        *,
        gap: float = 0.0,
        took: float = 0.0,
        decided: bool = False,
        **registers: int,
    ) -> Action:
        """Bring a CPU to an address, and return what the newest hook there decides."""
        known = dict.fromkeys(REGISTERS, 0) | {"sp": STACK} | registers
        event = Event(address, known, self.memory.read, gap, decided=decided)
        action = self.hooks[address][-1](event)
        if event.took is not None:
            event.took(took)
        return action


START, END = 0xFFFFFFFF81000000, 0xFFFFFFFF82428000
INIT, INIT_END = 0xFFFFFFFF82193000, 0xFFFFFFFF82274000
SYMBOLS = {
    "_text": START, "_end": END, "__init_begin": INIT, "__init_end": INIT_END,
    "__per_cpu_start": 0, "__per_cpu_end": 0x23168, "__per_cpu_offset": 0xFFFFFFFF81BD57C0,
    "free_initmem": 0xFFFFFFFF8158F700, "module_arch_freeing_init": 0xFFFFFFFF810B3CE0,
}  # fmt: skip
"""Of Linux 6.1."""


class FreedModules:
    """The memory of modules, by the addresses of their `struct module`."""

    def __init__(self) -> None:
        self.memory: dict[int, FreedMemory] = {}
        self.prepared = 0
        self.refuses = False

    def prepare_memory(self) -> None:
        self.prepared += 1
        if self.refuses:
            raise KgdbError("no struct module_memory")

    def freed(self, address: int, read: Any) -> FreedMemory:
        return self.memory[address]


def freeing(
    relay: HookedRelay,
    modules: FreedModules | None = None,
    symbols: Mapping[str, int] = MappingProxyType(SYMBOLS),
) -> FreeingHooks:
    """Return what sees the kernel of these symbols free memory."""
    return FreeingHooks(
        relay,
        lambda names: {name: symbols[name] for name in names if name in symbols},
        modules or FreedModules(),
    )


def compiled(
    *operations: str, kind: str = "int", signed: bool = False, **more: Any
) -> dict[str, Any]:
    """Return an expression as the agent inside gdb does, compiled by gdb."""
    lines = "".join(f"{number:3d}  {line}\n" for number, line in enumerate((*operations, "end")))
    return {
        "code": f"Scope: {ENTRY:#x}\nReg mask: 20\n{lines}",
        "kind": kind,
        "signed": signed,
        "type": kind,
        **more,
    }
