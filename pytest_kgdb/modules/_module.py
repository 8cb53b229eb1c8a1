"""One module of the guest."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from ..errors import KgdbError
from ._kernel_list import STATES, Loaded

__all__ = ["Module"]


class ModuleOwner(Protocol):
    """What a module asks about itself."""

    def file(self, name: str) -> Path | None:
        """Return the file that its symbols come from."""

    def find(self, name: str) -> Loaded | None:
        """Return it as the kernel has it; None when it is not loaded."""

    def require(self, name: str) -> Loaded:
        """Return it, or raise KgdbError."""

    def sections(self, name: str) -> dict[str, int]:
        """Return its sections' addresses."""

    def unload(self, module: str) -> None:
        """Unload it."""


class Module:
    """A module of the guest; its properties are read from the kernel as it is now."""

    def __init__(self, owner: ModuleOwner, name: str) -> None:
        self._owner = owner
        self.name = name
        """The kernel's name for it."""

    @property
    def file(self) -> Path | None:
        """The `.ko` on the host from which symbols come; None where none is known."""
        return self._owner.file(self.name)

    @property
    def loaded(self) -> bool:
        """Whether the kernel has it."""
        return self._owner.find(self.name) is not None

    @property
    def state(self) -> str | None:
        """`"coming"` until its init has run, `"live"`, `"going"`; None when it is not loaded."""
        entry = self._owner.find(self.name)
        return None if entry is None else STATES[entry.state]

    @property
    def address(self) -> int:
        """The address of its `struct module`.

        :raises KgdbError: it is not loaded.
        """
        return self._owner.require(self.name).address

    @property
    def sections(self) -> dict[str, int]:
        """Its sections' addresses by name; those for its init are gone when that has run.

        :raises KgdbError: it is not loaded.
        """
        return self._owner.sections(self.name)

    def unload(self) -> None:
        """Unload it; see :meth:`Modules.unload`."""
        __tracebackhide__ = True
        self._owner.unload(self.name)

    def __repr__(self) -> str:
        try:
            return f"<Module {self.name}: {self.state or 'not loaded'}>"
        except KgdbError:
            return f"<Module {self.name}>"
