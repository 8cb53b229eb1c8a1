"""The stop generation: whether what was read is still true."""

from __future__ import annotations

from ..errors import StaleError

__all__ = ["Generation"]


class Generation:
    """Counts the kernel's resumes, and the writes to its memory.

    A generation ends when the kernel runs, were it for one instruction: whatever was read in it
    is stale then. A handle has one counter for all its machines; only `RunControl` advances it.
    """

    def __init__(self) -> None:
        self._number = 0
        self._writes = 0

    @property
    def number(self) -> int:
        """The present generation; equal numbers mean that the kernel has not run in between."""
        return self._number

    @property
    def writes(self) -> int:
        """How often memory was written; values read before a write are read anew."""
        return self._writes

    def advance(self) -> None:
        """End the present generation: the kernel is about to run, or is another one."""
        self._number += 1

    def wrote(self) -> None:
        """Note that memory or registers were written."""
        self._writes += 1

    def check(self, number: int, what: str) -> None:
        """Check that `what`, which was taken in generation `number`, is not stale.

        :raises StaleError: the kernel has run since.
        """
        if number != self._number:
            raise StaleError(
                f"{what} is of an earlier stop; the kernel has moved on since",
                hint="read it again at this stop, or keep int(), str() or .string() of it",
            )
