"""What run control tells its subscribers: stops on their way to the test, resumes, restores."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from ..diagnosis import Diagnosis
from ._breakpoints import Breakpoint
from ._stop import Reason, Stop

__all__ = ["Restored", "Resumed", "StopRecord", "StopSubscriber", "of_the_first"]

# What gdb says of each watchpoint (gdb/breakpoint.c, print_it_watchpoint).
_REPEATED: Final = frozenset({"reason", "wpt", "hw-rwpt", "hw-awpt", "value", "wpnum"})


@dataclass
class StopRecord:
    """A stop on its way to the test: gdb's record, and what subscribers know of it."""

    payload: dict[str, Any]
    """Of gdb's `*stopped` (gdb manual, "GDB/MI Async Records")."""
    internal: bool = False
    """Whether an internal breakpoint was hit, together with one of the test's."""
    reason: Reason = "int3"
    signal: str | None = None
    breakpoint: Breakpoint | None = None
    message: str | None = None
    """What the kernel said of an oops or a panic."""
    text: str = ""
    """What gdb has printed of it, where a command of its prompt has led to it."""
    passing: bool = False
    """Whether it was asked for by what no running kernel can be had for, and which then goes on."""


@dataclass(frozen=True)
class Resumed:
    """The kernel is about to run."""

    stepping: bool
    """Whether gdb steps one task; it lets the whole kernel run otherwise."""
    silent: bool = False
    """Whether it goes on from a stop that no test sees."""


@dataclass(frozen=True)
class Restored:
    """The machine was restored to a snapshot, and the kernel is stopped there."""

    keep_breakpoints: bool
    """Whether this is the same test's doing; another test begins otherwise."""


class StopSubscriber:
    """Is told of resumes and stops; what a subscriber has no use for it leaves as it is here.

    Subscribers are called in the order in which they subscribed: the table of breakpoints, the
    hooks (spies, overrides), the modules, the kernel's log.
    """

    def may_go_on(self) -> bool:
        """Return whether gdb may go on by itself from the stop that has come."""
        return False

    def intercept(self, record: StopRecord) -> bool:  # noqa: ARG002 # for those that override it
        """Serve a stop that no test sees; return whether the kernel goes on at once."""
        return False

    def stopped(self, record: StopRecord) -> None:
        """Add what is known of a stop to its record, and follow what the kernel has done."""

    def recorded(self, stop: Stop) -> None:
        """Take note that a stop is there to be seen; raises KgdbError to have it raised."""

    def resumed(self, event: Resumed) -> None:
        """Take note that the kernel is about to run."""

    def restored(self, event: Restored) -> None:
        """Take note that the machine was restored to a snapshot."""

    def refused(self, message: str) -> str:  # noqa: ARG002 # for those that know why
        """Take note that gdb gave up a resume; return what is behind it, and was done about it.

        :param message: gdb's words; empty if it had nothing to resume for.
        """
        return ""

    def awaited(self) -> str:
        """Return, for the message of a wait that ran out, where the kernel was to stop."""
        return ""

    def slowed_by(self) -> str:
        """Return, for the same message, what has slowed the kernel down; empty if nothing has."""
        return ""

    def diagnose(self) -> Diagnosis | None:
        """Return, for the same message, what the kernel does instead: who runs, who waits."""
        return None


def of_the_first(payload: dict[str, Any]) -> dict[str, Any]:
    """Return gdb's record of a stop as that of the first watchpoint that it names.

    Where several were hit it says each thing as often, which is a list here.
    """
    return {
        key: value[0] if isinstance(value, list) and key in _REPEATED else value
        for key, value in payload.items()
    }
