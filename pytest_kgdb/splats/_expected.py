"""A splat that a test expects."""

from __future__ import annotations

import re
from collections.abc import Callable
from types import TracebackType
from typing import Final, Protocol

from ..console import Console
from ..deadline import Deadline
from ..errors import KernelPanic, KgdbError, SplatError
from ..klog import KINDS, LogCursor, Splat

__all__ = ["ExpectedSplat"]

# How often the log of a running kernel is read while its console shows nothing, in seconds: the
# machine is paused for it.
_POLL: Final = 1.0


class SplatLog(Protocol):
    """The kernel's log, as an expectation looks at it."""

    @property
    def console(self) -> Console:
        """The console of the machine."""

    @property
    def splats(self) -> list[Splat]:
        """The test's splats so far, with lines of the source."""

    def look(self) -> list[Splat]:
        """Return the test's splats so far, not symbolised."""

    def cursor(self) -> LogCursor:
        """Return the present end of the log."""


class ExpectedSplat:
    """A splat that the test wants: inside of a `with`, or from the call to the test's end."""

    def __init__(
        self,
        log: SplatLog,
        pattern: str | re.Pattern[str],
        kind: str | None,
        since: LogCursor,
        is_running: Callable[[], bool],
    ) -> None:
        self._log = log
        self._pattern = re.compile(pattern)
        self._kind = None if kind is None else _kind(kind)
        self._since = since
        self.until: LogCursor | None = None
        """Where in the log the `with` ended."""
        self._noted = False
        self._timeout = 0.0
        self._is_running = is_running

    def waiting(self, timeout: float) -> ExpectedSplat:
        """At the end of the `with`, wait for it while the kernel runs (for the handle).

        :param timeout: seconds.
        """
        self._timeout = timeout
        return self

    def wants(self, splat: Splat) -> bool:
        """Whether a splat is what is expected."""
        if not self._since.precedes(splat):
            return False
        if self.until is not None and self.until.precedes(splat):
            return False
        if self._kind is not None and splat.kind != self._kind:
            return False
        return self._pattern.search(splat.text) is not None

    @property
    def splats(self) -> list[Splat]:
        """The matching splats so far."""
        matching = [splat.seq for splat in self._log.look() if self.wants(splat)]
        return [splat for splat in self._log.splats if splat.seq in matching]

    def note(self) -> None:
        """Remember whether it came: the log is about to go back (for the watch)."""
        self._noted = self._came()

    def rewind(self, end: LogCursor) -> None:
        """Note that the log ends earlier than it did (for the watch)."""
        self._since = self._since.rewound(end)

    def _came(self) -> bool:
        return self._noted or any(self.wants(splat) for splat in self._log.look())

    def check(self) -> None:
        """Check that it came.

        :raises SplatError: it did not.
        """
        __tracebackhide__ = True
        if self._came():
            return
        others = self._log.look()
        what = "the kernel reported nothing"
        if others:
            what = "what it reported is:\n" + "\n".join(f"    {splat!r}" for splat in others)
        kind = f" of the kind {self._kind}" if self._kind else ""
        raise SplatError(
            f"no splat{kind} came that matches {self._pattern.pattern!r}; {what}",
            log=self._log.console.log,
        )

    def __enter__(self) -> ExpectedSplat:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool:
        __tracebackhide__ = True
        if value is None:
            self._wait()
        self.until = self._log.cursor()
        if value is None:
            self.check()
            return False
        # A panic that is expected ends whatever was under way.
        return isinstance(value, KernelPanic) and self._came()

    def _wait(self) -> None:
        deadline = Deadline(self._timeout)
        console = self._log.console
        while self._is_running() and not self._came() and not deadline.expired:
            console.wait_beyond(console.mark(), min(deadline.left, _POLL))


def _kind(name: str) -> str:
    """:raises KgdbError: there is no such kind."""
    for kind in KINDS:
        if _plain(kind) == _plain(name):
            return kind
    raise KgdbError(
        f"there is no kind of splat {name!r}", hint=f"there are {', '.join(KINDS)}", by_test=True
    )


def _plain(name: str) -> str:
    return re.sub(r"[\W_]", "", name).lower()
