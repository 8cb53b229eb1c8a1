"""Another gdb on the same kernel, for the test after one that left something in the first."""

from __future__ import annotations

from collections.abc import Callable

from ..debugger import ForkedGdb, GdbTemplate

__all__ = ["SpareGdb"]


class SpareGdb:
    """Has a template read the symbols by the time that another gdb is needed.

    :param launch: starts a template, without waiting for it.
    """

    def __init__(self, launch: Callable[[], GdbTemplate]) -> None:
        self._launch = launch
        self._template: GdbTemplate | None = None

    def prepare(self) -> None:
        """Start the template, if it is not there, or has died."""
        if self._template is not None and not self._template.alive:
            self.close()
        if self._template is None:
            self._template = self._launch()

    def take(self) -> ForkedGdb:
        """Return another gdb, which is the caller's.

        :raises DebuggerDied: the template is gone, too.
        """
        self.prepare()
        assert self._template is not None
        return self._template.fork()

    def close(self) -> None:
        """End the template, and those that were taken."""
        if self._template is not None:
            self._template.close()
            self._template = None
