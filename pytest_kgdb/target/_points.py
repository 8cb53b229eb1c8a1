"""Other states of the machine: those with a name, to which a test goes back, and any."""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final, Protocol

from ..errors import KgdbError, TimeoutError

if TYPE_CHECKING:
    from ._bound import Bound
    from ._handle import Kgdb
    from ._stops import Reason, Stop

__all__ = ["Keeper", "replaced", "restore", "snapshot", "standing"]

_NAME: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+-]{0,99}")


class Keeper(Protocol):
    """Keeps a machine's states (the session's part)."""

    @property
    def kept(self) -> list[str]:
        """The names, oldest first."""

    def keep(self, name: str, stop: Stop) -> None:
        """Save the stopped machine, with nothing planted in it."""

    def put_back(self, name: str) -> None:
        """Make the machine what it was; the handle is at that stop again."""


@contextlib.contextmanager
def standing(kgdb: Kgdb) -> Iterator[None]:
    """Have the kernel stopped, and running again afterwards if it ran."""
    ran = not kgdb.stopped
    if ran:
        kgdb.interrupt()
    try:
        yield
    finally:
        if ran and kgdb.stopped:
            kgdb.resume()


def snapshot(kgdb: Kgdb, keeper: Keeper, name: str) -> None:
    """See :meth:`Kgdb.snapshot`."""
    if not _NAME.fullmatch(name):
        raise KgdbError(
            f"{name!r} cannot name a snapshot", hint="letters, digits and _ . + - it may have"
        )
    with standing(kgdb):
        assert kgdb.stop is not None
        keeper.keep(name, kgdb.stop)


def restore(keeper: Keeper, name: str) -> None:
    """See :meth:`Kgdb.restore`."""
    if name not in keeper.kept:
        known = ", ".join(keeper.kept)
        raise KgdbError(
            f"there is no snapshot {name!r} of this test",
            hint=f"there are {known}" if known else f"snapshot({name!r}) makes one",
        )
    keeper.put_back(name)


@contextlib.contextmanager
def replaced(
    bound: Bound, reason: Reason, *, keep_breakpoints: bool, timeout: float
) -> Iterator[None]:
    """See :meth:`Kgdb.replaced`."""
    gdb, relay, link = bound.gdb, bound.relay, bound.link
    # gdb's breakpoints: disabled around it, and the hidden ones with them, or deleted.
    enabled = [*bound.planting.enabled, *bound.hidden.numbers] if keep_breakpoints else []
    out = f"-break-disable {' '.join(enabled)}" if enabled else ""
    if not keep_breakpoints:
        out = "-break-delete"
    deadline = time.monotonic() + timeout
    # What gdb says and what has come to the relay may differ for a moment: a resume, or a
    # stop, is on its way.
    while gdb.running and relay.stop_reported and time.monotonic() < deadline:
        relay.wait_resumed(0.01)
    if not gdb.running:
        link.moved()
        if out:
            gdb.command(out)
        gdb.command("-exec-continue")
        relay.wait_resumed(timeout)
    gdb.forget_stops()
    yield
    if gdb.next_stop(timeout) is None:
        raise TimeoutError(
            f"gdb did not notice within {timeout:g} s that the machine was put back",
            log=gdb.transcript,
            hint="the next test gets a new machine",
        )
    if out:
        gdb.command(out)
    if not keep_breakpoints:
        bound.forget_breakpoints()
    bound.motion.settle(reason)
    bound.modules.put_back(afresh=not keep_breakpoints)
    if enabled:
        link.command(f"-break-enable {' '.join(enabled)}")
