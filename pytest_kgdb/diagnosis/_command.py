"""Which of the programs that hang is the command that was waited for, as far as can be told."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

__all__ = ["Process", "Story", "likeliest_first"]

_INIT: Final = 1


class Process(NamedTuple):
    """A program's place among the others."""

    parent: int
    """The process id of its parent."""
    started: int
    """When it began, in nanoseconds since boot."""


@dataclass(frozen=True)
class Story:
    """What one program does that does not end, in words."""

    pid: int
    words: str
    since: int | None = None
    """When it went to sleep, in nanoseconds since boot; None if it runs, or where it is unknown."""
    often: bool = False
    """Whether programs wait so that have nothing to do: for a signal, a timer, a pipe."""


def likeliest_first(stories: Sequence[Story], processes: Mapping[int, Process]) -> list[Story]:
    """Return the stories, that of the command first.

    A shell that does not wait for a child is at a command of its own. Of others, whoever went to
    sleep last has been started, or has come to its wait, last.
    """

    def key(story: Story) -> tuple[bool, bool, int]:
        above = any(story.pid in _ancestors(other.pid, processes) for other in stories)
        return story.often, not above, -_since(story, processes)

    return sorted(stories, key=key)


def _since(story: Story, processes: Mapping[int, Process]) -> int:
    if story.since is not None:
        return story.since
    process = processes.get(story.pid)
    if process is None or process.parent == _INIT:
        return 1 << 64  # the shell itself: what it does began at any time
    return process.started


def _ancestors(pid: int, processes: Mapping[int, Process]) -> set[int]:
    """Return a process's parent, its parent, and so on, without init."""
    above: set[int] = set()
    while (process := processes.get(pid)) is not None and process.parent > _INIT:
        pid = process.parent
        if pid in above:
            break  # the records are damaged
        above.add(pid)
    return above
