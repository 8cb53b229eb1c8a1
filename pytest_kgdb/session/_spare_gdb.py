"""A second gdb on the same kernel, for the test after one that left something in the first."""

from __future__ import annotations

from collections.abc import Callable

from ..debugger import GdbProcess

__all__ = ["SpareGdb"]


class SpareGdb:
    """Starts a gdb that reads the symbols by the time it is needed.

    :param launch: starts one, without waiting for it.
    """

    def __init__(self, launch: Callable[[], GdbProcess]) -> None:
        self._launch = launch
        self._process: GdbProcess | None = None

    def prepare(self) -> None:
        """Start one, if none is there."""
        if self._process is None:
            self._process = self._launch()

    def take(self) -> GdbProcess:
        """Return it, started now if need be; it is the caller's."""
        self.prepare()
        process, self._process = self._process, None
        assert process is not None
        return process

    def close(self) -> None:
        """End it, if nobody took it."""
        if self._process is not None:
            self._process.close()
            self._process = None
