"""What a task waits for, and who holds that."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from ._locks import task_name

if TYPE_CHECKING:
    import drgn

__all__ = ["Holder", "Wait", "holder_of"]


class Holder(NamedTuple):
    """A task that holds a lock."""

    address: int
    """Of its `struct task_struct`."""
    name: str
    doubtful: bool = False
    """Whether it cannot hold the lock, which has but an address: that of a task that has ended."""


def holder_of(task: drgn.Object, *, doubtful: bool = False) -> Holder:
    """Return a task as a holder."""
    return Holder(task.value_(), task_name(task), doubtful)


@dataclass(frozen=True)
class Wait:
    """What a task waits for."""

    text: str
    """In words: `the mutex lock`."""
    address: int = 0
    """Of the lock, or of what else there is to wait for; 0 where that is not known."""
    holders: tuple[Holder, ...] = ()
    """The tasks that hold it."""
    holding: str = ""
    """The same in words, for what is not certain, or has no task."""
    last: Holder | None = None
    """Of the readers that hold it the one that took it last, and may have released it since."""
    names_holders: bool = False
    """Whether the text names them."""

    @property
    def next(self) -> Holder | None:
        """The only task that holds it, or the last of its readers; None where there is none."""
        if self.holders:
            return self.holders[0] if len(self.holders) == 1 else None
        return self.last
