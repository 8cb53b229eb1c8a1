"""What came of failing each call of a function."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal, overload

from ..debugger import Stop
from ..errors import KgdbError
from ..klog import Splat
from ..trace import Call

__all__ = [
    "PATH_FRAMES",
    "FailEach",
    "Outcome",
    "Verdict",
    "last_line",
    "place_in",
    "place_of_splat",
    "place_of_stop",
    "words_of_splat",
]

Verdict = Literal[
    "handled", "failed", "oops", "panic", "reset", "splat", "hang", "leak", "leftover"
]

PATH_FRAMES: Final = 12
"""Frames that are kept of where a call came from."""

# A frame in a file that is not of the kernel's tree.
_USERS: Final = re.compile(r" at /")


@dataclass
class Outcome:
    """The outcome of one failed call."""

    number: int
    """Which call failed, from 1."""
    verdict: Verdict
    message: str
    """The kernel's words, or the scenario's."""
    call: Call | None
    """The call that failed."""
    path: tuple[str, ...]
    """Where it was called from: its callers with file and line, innermost first."""
    result: object
    """What the scenario returned."""
    error: BaseException | None
    """The exception that it raised."""
    console: str = field(repr=False)
    """What the console showed meanwhile."""
    leaks: tuple[Splat, ...] | None = None
    """The memory that was lost by it, as splats; None where it was not looked for."""
    place: str = ""
    """Where the kernel was at the oops, the splat or the hang: function, file and line."""

    @property
    def ok(self) -> bool:
        """Whether the kernel got over it, and the scenario had nothing against it."""
        return self.verdict == "handled"

    def __str__(self) -> str:
        path = "\n".join(f"        {frame}" for frame in self.path)
        message = f": {self.message}" if self.message else ""
        place = f"\n        {self.verdict} in {self.place}" if self.place else ""
        head = f"    call {self.number}: {self.verdict}{message}{place}"
        return head + (f"\n{path}" if path else "")

    @property
    def brief(self) -> str:
        """The same in one short line: the verdict, its place, and who made the call."""
        place = f" in {_short(self.place)}" if self.place else ""
        caller = next((frame for frame in self.path if _USERS.search(frame)), None)
        caller = caller or next(iter(self.path), "")
        origin = f", called by {_short(caller.partition(' ')[2])}" if caller else ""
        return f"call {self.number}: {self.verdict}{place}{origin}"


def _short(place: str) -> str:
    """Return a place with its file's name only."""
    return re.sub(r"\S*/", "", place)


class FailEach(Sequence[Outcome]):
    """The outcomes, in the order of the calls; its text shows those that were not handled."""

    def __init__(
        self,
        function: str,
        outcomes: Sequence[Outcome],
        *,
        calls: int,
        complete: bool,
        ended: bool = False,
        unsought: str | None = None,
        unrepeated: str | None = None,
    ) -> None:
        self.function = function
        self._outcomes = tuple(outcomes)
        self.calls = calls
        """Calls that the scenario makes when none fails: at most, where that varies."""
        self.complete = complete
        """Whether there is no further call that could fail.

        There is where `limit` was reached, and there may be where the machine has ended.
        """
        self.ended = ended
        """Whether the last of them has ended the machine, so that no further call was tried."""
        self.unsought = unsought
        """Why leaks were not looked for; None where they were."""
        self.unrepeated = unrepeated
        """Why the scenario was not run again after each failure; None where it was."""

    @property
    def bad(self) -> tuple[Outcome, ...]:
        """The outcomes that were not handled."""
        return tuple(outcome for outcome in self._outcomes if not outcome.ok)

    @property
    def ok(self) -> bool:
        """Whether all were handled."""
        return not self.bad

    @overload
    def __getitem__(self, index: int) -> Outcome: ...

    @overload
    def __getitem__(self, index: slice) -> Sequence[Outcome]: ...

    def __getitem__(self, index: int | slice) -> Outcome | Sequence[Outcome]:
        return self._outcomes[index]

    def __len__(self) -> int:
        return len(self._outcomes)

    def __iter__(self) -> Iterator[Outcome]:
        return iter(self._outcomes)

    def __str__(self) -> str:
        more = "" if self.complete else "; there are more calls, limit= was reached"
        if self.ended:
            more = "; the machine has ended, no further call was tried"
        leaks = "leaks were looked for"
        if self.unsought is not None:
            leaks = f"leaks were not looked for: {self.unsought}"
        if self.unrepeated is not None:
            leaks += f"; what stays behind was not looked for: {self.unrepeated}"
        lines = [
            f"{self.function} failed in {len(self)} calls, one after the other: "
            f"{len(self.bad)} not handled ({leaks}){more}"
        ]
        return "\n".join([*lines, *map(str, self.bad)])

    def __repr__(self) -> str:
        brief = "; ".join(outcome.brief for outcome in self.bad) or "all handled"
        return f"<FailEach {self.function}, {len(self)} calls: {brief}>"


def last_line(result: object) -> str:
    """Return the last line of what a command has printed."""
    lines = str(getattr(result, "output", "")).strip().splitlines()
    return lines[-1] if lines else "(no output)"


def place_of_stop(stop: Stop) -> str:
    """Return where an oops or a panic happened, and the driver's line that led there."""
    try:
        frame = stop.frame
        frames = stop.backtrace(limit=PATH_FRAMES + frame.level)[frame.level :]
    except KgdbError:
        return ""
    return _with_driver([str(frame).partition(" ")[2] for frame in frames])


def words_of_splat(splat: Splat) -> str:
    """Return what a splat says in a line: its headline, and the message of a WARN."""
    words = " ".join(splat.message.split())
    return splat.title if words in splat.title else f"{splat.title}: {words}"


def place_of_splat(splat: Splat) -> str:
    """Return where a splat was reported, and the driver's line that led there."""
    frames = [
        f"{frame.function} at {frame.file}:{frame.line}"
        for frame in splat.frames
        if frame.reliable and frame.file
    ]
    if splat.file is not None:
        frames.insert(0, f"{splat.function or '?'} at {splat.file}:{splat.line}")
    return _with_driver(frames)


def place_in(message: str) -> str:
    """Return where a task waits, of those that the message of a time-out shows."""
    frames = re.findall(r"^ +#\d+ (.* at .*)$", message, re.MULTILINE)
    drivers = [frame for frame in frames if _USERS.search(frame)]
    return next(iter([*drivers, *frames]), "")


def _with_driver(frames: Sequence[str]) -> str:
    if not frames:
        return ""
    driver = next((frame for frame in frames if _USERS.search(frame)), frames[0])
    return frames[0] if driver == frames[0] else f"{frames[0]}, from {driver}"
