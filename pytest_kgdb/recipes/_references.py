"""References to modules: who holds one keeps its module from being unloaded."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Final, Protocol

from ..debugger import GdbError

__all__ = ["ModuleReferences", "surplus"]

# include/linux/module.h, struct module: both with CONFIG_MODULE_UNLOAD only.
_LAYOUT: Final = tuple(
    f"(unsigned long)&((struct module *)0)->{member}" for member in ("refcnt", "source_list")
)
# kernel/module/main.c, MODULE_REF_BASE: the count of a module to which there is no reference.
_BASE: Final = 1
_LIVE: Final = 0  # include/linux/module.h, MODULE_STATE_LIVE
_MOST_USERS: Final = 10_000  # a list that is longer has lost its way


class ListedModule(Protocol):
    """A module as the kernel has it."""

    @property
    def name(self) -> str:
        """Its name."""

    @property
    def address(self) -> int:
        """Where its `struct module` is."""

    @property
    def state(self) -> int:
        """Its `enum module_state`."""


class LayoutConstants(Protocol):
    """Numbers that are the same in each run of a kernel."""

    def numbers(self, expressions: Iterable[str]) -> list[int]:
        """Evaluate them; raises GdbError."""


class ModuleReferences:
    """Counts the references to each module that is loaded, while the kernel is stopped.

    :param listing: returns the loaded modules; the kernel must be stopped.
    :param constants: knows the offsets in `struct module`.
    :param read: reads the kernel's memory: address and size.
    """

    def __init__(
        self,
        listing: Callable[[], Iterable[ListedModule]],
        constants: LayoutConstants,
        read: Callable[[int, int], bytes],
    ) -> None:
        self._listing = listing
        self._constants = constants
        self._read = read

    def counts(self) -> dict[str, int]:
        """Return how many references there are to each module, by name; none where nobody counts.

        Those of other modules, which need its symbols, are left out.
        """
        try:
            count, users = self._constants.numbers(_LAYOUT)
        except GdbError:
            return {}  # without CONFIG_MODULE_UNLOAD
        return {
            module.name: self._count(module.address + count) - self._users(module.address + users)
            for module in self._listing()
            if module.state == _LIVE
        }

    def _count(self, address: int) -> int:
        return int.from_bytes(self._read(address, 4), "little", signed=True) - _BASE

    def _users(self, head: int) -> int:
        """Return how many modules are in the list of those that use one."""
        entry = head
        for number in range(_MOST_USERS):
            entry = int.from_bytes(self._read(entry, 8), "little")
            if entry in (head, 0):
                return number
        return _MOST_USERS


def surplus(counts: Mapping[str, int], *usual: Mapping[str, int]) -> str | None:
    """Return which module has more references, or less, than each time before; None if none has.

    :param usual: the counts at several times without a failure.
    """
    for name, count in counts.items():
        others = [one[name] for one in usual if name in one]
        if others and not min(others) <= count <= max(others):
            expected = max(others) if count > max(others) else min(others)
            return f"references to module {name}: {count} instead of {expected}"
    return None
