"""What a test deletes, or what a `with` deletes at its end: breakpoints and instruments."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TypeVar

__all__ = ["Deletable"]

_Self = TypeVar("_Self", bound="Deletable")


class Deletable(ABC):
    """A context manager that deletes itself at the end."""

    @abstractmethod
    def delete(self) -> None:
        """Delete it; a second time does nothing."""

    def __enter__(self: _Self) -> _Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.delete()
