"""Why something that gdb has asked for was refused: the protocol has but a number for it."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Refusal"]


@dataclass(frozen=True)
class Refusal:
    """Why a write, a breakpoint or a watchpoint was refused."""

    reason: str
    hint: str | None = None
    """What works instead, or where to look."""

    def __str__(self) -> str:
        """Return the reason alone."""
        return self.reason

    @classmethod
    def of_memory(cls, reason: str) -> Refusal:
        """Return that of memory which is not there, or not to be written.

        :param reason: names the address.
        """
        return cls(
            f"not mapped, or not to be written: {reason}",
            "a pointer may be NULL, or stale; look at it with evaluate() first",
        )
