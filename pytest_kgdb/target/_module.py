"""One module of the guest."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import KgdbError
from ._module_symbols import STATES

if TYPE_CHECKING:
    from ._modules import Modules

__all__ = ["Module"]


class Module:
    """A module of the guest; what it says of itself is of the present moment."""

    def __init__(self, owner: Modules, name: str) -> None:
        self._owner = owner
        self.name = name
        """What the kernel calls it."""

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
        found = self._owner.find(self.name)
        return None if found is None else STATES[found.state]

    @property
    def address(self) -> int:
        """Of its `struct module`.

        :raises KgdbError: it is not loaded.
        """
        return self._owner.require(self.name).address

    @property
    def sections(self) -> dict[str, int]:
        """Where its sections are, by name; those for its init are gone when that has run.

        :raises KgdbError: it is not loaded.
        """
        return self._owner.sections(self.name)

    def unload(self) -> None:
        """Unload it; see :meth:`Modules.unload`."""
        __tracebackhide__ = True
        self._owner.unload(self)

    def __repr__(self) -> str:
        try:
            return f"<Module {self.name}: {self.state or 'not loaded'}>"
        except KgdbError:
            return f"<Module {self.name}>"
