"""Trees of ours that come to hold another content: changed only while nobody reads them."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from ..cache import Cache
from ..errors import CacheError

_MOST: Final = 16  # so many revisions of one tree in use at a time are a mistake


class Hold:
    """A flock(2) on a slot, until nobody refers to it any more."""

    def __init__(self, path: Path, kind: int) -> None:
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            fcntl.flock(self._descriptor, kind | fcntl.LOCK_NB)
        except BaseException:
            self.release()
            raise

    def share(self) -> None:
        """Make an exclusive hold a shared one."""
        fcntl.flock(self._descriptor, fcntl.LOCK_SH)

    def release(self) -> None:
        """Let go."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def __del__(self) -> None:
        if hasattr(self, "_descriptor"):
            self.release()


@dataclass(frozen=True)
class Slot:
    """One directory, and what it holds."""

    home: Path
    first: Path
    """The home of the first of the slots."""
    hold: Hold = field(repr=False)

    @property
    def tree(self) -> Path:
        """Where the source is."""
        return self.home / "src"

    @property
    def first_tree(self) -> Path:
        """Where the source is, or would be, in the first of the slots."""
        return self.first / "src"

    def holds(self, content: str) -> bool:
        """Whether it holds that content, whole."""
        return _stamp(self.home) == content

    def settle(self, content: str, base: str) -> None:
        """Note what it holds now, and let others read it, too.

        :param base: its content without patches.
        """
        (self.home / "base").write_text(base)
        (self.home / "content").write_text(content)
        self.hold.share()

    def unsettle(self) -> None:
        """Note that it is about to change."""
        (self.home / "content").unlink(missing_ok=True)

    def clear(self) -> None:
        """Note that all of it is about to change."""
        self.unsettle()
        (self.home / "base").unlink(missing_ok=True)

    def has_base(self, base: str) -> bool:
        """Whether it holds that content, but for patches."""
        return _stamp(self.home, "base") == base


class Slots:
    """The directories for one source: one, as long as nobody needs two contents at a time.

    From one content to the next in the same directory only what differs is compiled.
    """

    def __init__(self, cache: Cache, name: str) -> None:
        self._cache, self._name = cache, name

    def find(self, content: str) -> Slot | None:
        """Return the directory that holds a content, held so that it stays, if there is one."""
        for first, home in self._directories():
            if _stamp(home) != content:
                continue
            try:
                slot = Slot(home, first, Hold(home / "use", fcntl.LOCK_SH))
            except OSError:  # it is being changed just now
                continue
            if slot.holds(content):
                return slot
            slot.hold.release()
        return None

    def find_free(self, base: str) -> Slot | None:
        """Return a directory with a base, to lay other patches on, if nobody uses it."""
        for first, home in self._directories():
            if _stamp(home, "base") == base:
                with contextlib.suppress(OSError):
                    return Slot(home, first, Hold(home / "use", fcntl.LOCK_EX))
        return None

    @contextlib.contextmanager
    def claim(self, content: str, label: str) -> Iterator[Slot]:
        """Hold a directory that has a content, or that may be changed to have it.

        :raises CacheError: all are in use.
        """
        with self._cache.lock(self._name, label=label):
            yield self.find(content) or self._free()

    def _free(self) -> Slot:
        for first, home in self._directories():
            home.mkdir(exist_ok=True)
            with contextlib.suppress(BlockingIOError):
                return Slot(home, first, Hold(home / "use", fcntl.LOCK_EX))
        raise CacheError(
            f"{_MOST} contents of {self._name} are in use at the same time",
            hint="end some of the sessions that use it (fuser tells which)",
        )

    def _directories(self) -> Iterator[tuple[Path, Path]]:
        first = self._cache.workdir("tree", self._name)
        yield first, first
        for number in range(2, _MOST + 1):  # rarely needed
            yield first, first / str(number)


def _stamp(home: Path, name: str = "content") -> str:
    try:
        return (home / name).read_text() if (home / "src").is_dir() else ""
    except OSError:
        return ""
