"""Named states of the machine, to which a test goes back."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final, Protocol

from ..errors import KgdbError

if TYPE_CHECKING:
    from ._handle import Kgdb
    from ._stops import Stop

__all__ = ["Keeper", "restore", "snapshot", "standing"]

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
