"""How long a wait may take: one limit for everything that a test waits for."""

from __future__ import annotations

import threading
import time
from numbers import Real

from .errors import ConfigError

__all__ = ["Deadline", "WaitLimit"]


class WaitLimit:
    """The seconds that a wait may take unless its caller says otherwise.

    A session has one. gdb, the machine, QEMU's monitor, the console and the handle ask it at each
    wait, so that a marker's `timeout` holds for all of them as soon as its test begins.

    :param seconds: the limit until :meth:`set` is called.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds

    @property
    def seconds(self) -> float:
        """The limit at present, in seconds."""
        return self._seconds

    def set(self, seconds: float) -> None:
        """Change the limit, in seconds, for every wait that begins from now on.

        :raises ConfigError: it is no number of seconds.
        """
        self._seconds = _checked(seconds)

    def of(self, timeout: float | None) -> float:
        """Return `timeout` (seconds) where one is given, and the limit otherwise.

        :raises ConfigError: it is no number of seconds.
        """
        return self._seconds if timeout is None else _checked(timeout)

    def deadline(self, timeout: float | None = None) -> Deadline:
        """Return the end of a wait that begins now.

        :param timeout: seconds; the limit otherwise.
        """
        return Deadline(self.of(timeout))


class Deadline:
    """The end of a wait that has begun.

    :param seconds: from now.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        """How long the whole wait may take, in seconds."""
        self._end = time.monotonic() + seconds

    @property
    def left(self) -> float:
        """Seconds until then; 0.0 once it has passed."""
        return max(0.0, self._end - time.monotonic())

    @property
    def expired(self) -> bool:
        """Whether it has passed."""
        return time.monotonic() >= self._end


def _checked(seconds: float) -> float:
    """Return the seconds that a test has given, if they are such."""
    is_number = isinstance(seconds, Real) and not isinstance(seconds, bool)
    if not is_number or not 0 <= seconds <= threading.TIMEOUT_MAX:
        raise ConfigError(
            f"{seconds!r} is no timeout", hint="give seconds: a number that is not negative"
        )
    return seconds
