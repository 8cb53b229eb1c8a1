"""Breakpoints and watchpoints."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from ..errors import KgdbError
from ._ending import Deletable

if TYPE_CHECKING:
    from ._handle import Kgdb

__all__ = ["Access", "Breakpoint", "Watchpoint"]

Access = Literal["write", "read", "access"]


class Breakpoint(Deletable):
    """A breakpoint in the kernel; a context manager that deletes it at the end."""

    def __init__(self, owner: Kgdb, number: int, location: str, address: int | None) -> None:
        self._owner = owner
        self._enabled = True
        self._deleted = False
        self.number = number
        """gdb's number of it."""
        self.location = location
        self.address = address
        """Where it was planted; None for several places, or while its module is not loaded."""
        self.hits = 0
        """How often it stopped the kernel: a hit whose condition was false is none."""

    @property
    def enabled(self) -> bool:
        """Whether it stops the kernel; may be set."""
        return self._enabled and not self._deleted

    @enabled.setter
    def enabled(self, value: bool) -> None:
        self._require()
        self._owner.breakpoint_command("-break-enable" if value else "-break-disable", self)
        self._enabled = value

    @property
    def condition(self) -> str | None:
        """The condition under which it stops; may be set, to None for always."""
        return self._condition

    @condition.setter
    def condition(self, value: str | None) -> None:
        self._require()
        self._owner.breakpoint_command("-break-condition", self, value or "")
        self._condition = value

    _condition: str | None = None

    def _require(self) -> None:
        if self._deleted:
            raise KgdbError(
                f"{self} was deleted, and cannot be changed",
                hint="plant another; a temporary one ends with its hit, and all end with the test",
            )

    def delete(self) -> None:
        """Delete it; a second time does nothing. The kernel is stopped for it if it runs."""
        if not self._deleted:
            self._owner.delete_breakpoint(self)
            self._deleted = True

    def moved(self, told: str) -> None:
        """gdb has planted it elsewhere: a module was loaded or unloaded (for the handle)."""
        if told:
            self.address = int(told, 16) if told.startswith("0x") else None

    def gone(self) -> None:
        """gdb has deleted it: a temporary one that was hit, or all of them at a restore."""
        self._deleted = True

    def __repr__(self) -> str:
        state = "deleted" if self._deleted else f"{self.hits} hits"
        return f"<{type(self).__name__} {self.number} at {self.location}: {state}>"


class Watchpoint(Breakpoint):
    """A watchpoint: stops the kernel when memory is written, or read."""

    def __init__(
        self, owner: Kgdb, number: int, expression: str, access: Access, **rest: Any
    ) -> None:
        super().__init__(owner, number, expression, rest.get("address"))
        self.expression = expression
        self.access = access
