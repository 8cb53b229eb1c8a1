"""The snapshots that a test takes of its machine, by name."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final, Protocol

from ..debugger import FirstCause, RunControl, Stop
from ..errors import KgdbError
from ..splats import SplatWatch

__all__ = ["SnapshotKeeping", "SnapshotsOfTest"]

_NAME: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+-]{0,99}")


class SnapshotKeeping(Protocol):
    """Saves and restores a machine (the session's part)."""

    @property
    def names(self) -> Sequence[str]:
        """The names of the test's snapshots, oldest first."""

    def save_named(self, name: str, stop: Stop) -> None:
        """Save the stopped machine, without breakpoints in its memory."""

    def restore_named(self, name: str) -> None:
        """Restore the machine; the handle is at the same stop again."""


class SnapshotsOfTest:
    """Takes and restores the snapshots of the running test."""

    def __init__(
        self,
        store: SnapshotKeeping,
        run_control: RunControl,
        splats: SplatWatch,
        causes: FirstCause,
    ) -> None:
        self._causes = causes
        self._store = store
        self._run_control = run_control
        self._splats = splats

    @property
    def names(self) -> list[str]:
        """The names, oldest first."""
        return list(self._store.names)

    def take(self, name: str) -> None:
        """Save the machine; see :meth:`Kgdb.snapshot`."""
        if not _NAME.fullmatch(name):
            raise KgdbError(
                f"{name!r} cannot name a snapshot", hint="letters, digits and _ . + - it may have"
            )
        with self._causes.named(), self._run_control.kept_stopped():
            stop = self._run_control.stop
            assert stop is not None
            self._store.save_named(name, stop)

    def restore(self, name: str) -> None:
        """Restore the machine; see :meth:`Kgdb.restore`."""
        names = self._store.names
        if name not in names:
            raise KgdbError(
                f"there is no snapshot {name!r} of this test",
                hint=f"there are {', '.join(names)}" if names else f"snapshot({name!r}) makes one",
            )
        with self._causes.named(), self._splats.restoring():
            self._store.restore_named(name)
