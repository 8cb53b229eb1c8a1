"""The splats of a test: which there were, which it wanted, which it was told of."""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Final

from ..console import (
    KINDS,
    Console,
    LogLine,
    Splat,
    SplatFrame,
    console_lines,
    find_splats,
    kernel_records,
)
from ..errors import KernelPanic, KgdbError, SplatError

if TYPE_CHECKING:
    from ..machine import Machine
    from ..rsp import Relay
    from ..state import State
    from ._link import Link

__all__ = ["ExpectedSplat", "SplatWatch"]

# How often a running kernel is halted for a look at its log, while its console says nothing.
_LOOK: Final = 1.0
_PANIC: Final = re.compile(r"Kernel panic - not syncing: (.*)")  # kernel/panic.c
_SHOWN: Final = 3  # splats that an error shows whole


@dataclass(frozen=True)
class _Place:
    """A place in the kernel's log, by both ways to it."""

    seq: int | None
    mark: int

    def not_behind(self, end: _Place) -> _Place:
        """Return the place in a log that has gone back."""
        if self.seq is None or end.seq is None:
            return self
        return _Place(min(self.seq, end.seq), self.mark)

    def is_before(self, splat: Splat, by_log: bool) -> bool:
        if by_log:
            return self.seq is not None and splat.seq >= self.seq
        return splat.seq >= self.mark


@dataclass(frozen=True)
class _Bound:
    machine: Machine
    state: State
    link: Link
    source: Path | None
    relay: Relay


class SplatWatch:
    """Looks for splats in the kernel's log while a test has the handle.

    The log buffer in guest memory is what is looked at: it tells who printed a line, and whatever
    `quiet` keeps off the console. Where it cannot be read, or has lost its oldest records, the
    console is.
    """

    def __init__(self) -> None:
        self._bound: _Bound | None = None
        self._expected: list[ExpectedSplat] = []
        self._told: list[_Place] = []
        self._judged: set[tuple[bool, int, str]] = set()
        self._carried: list[Splat] = []  # unexpected ones of a state that was given up
        self._known: dict[tuple[int, int], Splat] = {}
        self._start = _Place(0, 0)

    def bind(
        self, machine: Machine, state: State, link: Link, source: Path | None, relay: Relay
    ) -> None:
        """Take up another machine."""
        self._bound = _Bound(machine, state, link, source, relay)
        self.begin()

    def unbind(self) -> None:
        """Let go of the machine."""
        self._bound = None

    def begin(self) -> None:
        """A test begins: what was printed before is not its own."""
        self._expected.clear()
        self._told.clear()
        self._judged.clear()
        self._carried.clear()
        self._known.clear()
        self._start = self.place()

    @contextlib.contextmanager
    def put_back(self) -> Iterator[None]:
        """Around the machine's going back to an earlier state of the test, its log with it.

        What was reported in between is judged first: it has happened.
        """
        for each in self._expected:
            each.note()
        self._carried += self.unexpected()
        splats, by_log = self.look()
        if not by_log:
            # The console does not go back: what it has shown is settled now.
            self._judged.update(_key(each, by_log) for each in splats)
        yield
        end = self.place()
        # What was told or judged before that state was kept is in its log still.
        kept = end.seq or 0
        self._told = [each for each in self._told if (each.seq or 0) <= kept]
        self._judged = {each for each in self._judged if not each[0] or each[1] < kept}
        self._known = {key: each for key, each in self._known.items() if key[0] < kept}
        for each in self._expected:
            each.go_back(end)

    # Looking

    @property
    def console(self) -> Console | None:
        """The console of the machine."""
        return self._bound.machine.console if self._bound is not None else None

    def place(self) -> _Place:
        """Return where the log ends at the moment."""
        if self._bound is None:
            return _Place(0, 0)
        console = self._bound.machine.console
        console.settle()
        seq = None
        with contextlib.suppress(KgdbError), self._still(self._bound):
            seq = self._bound.state.log_end()
        return _Place(seq, console.mark())

    @staticmethod
    @contextlib.contextmanager
    def _still(bound: _Bound) -> Iterator[None]:
        """Around reads of the kernel's memory: a running machine is halted for them."""
        if bound.link.stopped:
            yield
            return
        alive = bound.machine.alive
        paused = bound.relay.machine_paused(bound.machine.monitor)
        with paused if alive else contextlib.nullcontext(), bound.state.halted():
            yield

    def _lines(self, bound: _Bound) -> tuple[list[LogLine], bool]:
        """Return the log's lines since the test began, and whether the log itself gave them."""
        bound.machine.console.settle()
        if self._start.seq is not None:
            with contextlib.suppress(KgdbError), self._still(bound):
                lines = bound.state.log_since(self._start.seq)
                if lines is not None:
                    return lines, True
        console, mark = bound.machine.console, self._start.mark
        seen = kernel_records(console.earlier(mark))
        return console_lines(console.since(mark), seen, offset=mark), False

    def lines(self, since: _Place | None = None) -> list[LogLine]:
        """Return the lines of the kernel's log since the test began, or since a place."""
        if self._bound is None:
            return []
        lines, by_log = self._lines(self._bound)
        if since is None:
            return lines
        start = since.seq or 0 if by_log else since.mark
        return [line for line in lines if line.seq >= start]

    def look(self) -> tuple[list[Splat], bool]:
        """Return the test's splats so far, not symbolised, and whether the log gave them."""
        if self._bound is None:
            return [], True
        lines, by_log = self._lines(self._bound)
        return find_splats(lines), by_log

    @property
    def splats(self) -> list[Splat]:
        """The test's splats so far, oldest first, with lines of the source."""
        return [self._symbolised(each) for each in self.look()[0]]

    def _symbolised(self, splat: Splat) -> Splat:
        # Once: a module whose symbols they are may be unloaded later.
        key = (splat.seq, len(splat.text))
        if key not in self._known and self._bound is not None and splat.frames:
            # Whatever is broken in the kernel's memory, the splat itself must be told.
            with contextlib.suppress(Exception):
                self._known[key] = splat.with_frames(self.symbolise(splat.frames))
        return self._known.get(key, splat)

    def symbolise(self, frames: Sequence[SplatFrame]) -> list[SplatFrame]:
        """Return frames with lines of the source, where they are known."""
        if self._bound is None:
            return list(frames)
        with self._still(self._bound):
            return self._bound.state.symbolise(frames, self._bound.source)

    def cause(self, reason: str) -> str | None:
        """Return what the kernel said of the oops or the panic at which it has stopped, if it did.

        Of an oops, the headline that names the trouble, not the one that counts it.
        """
        if self._bound is None:
            return None
        lines, by_log = self._lines(self._bound)
        if reason == "panic":
            said = (match[1] for line in lines[::-1] if (match := _PANIC.match(line.text)))
            return next(said, None)
        new = [
            each
            for each in find_splats(lines)
            if each.is_fatal and not any(not told.is_before(each, by_log) for told in self._told)
        ]
        return new[-1].title if new else None

    # Judging

    def tell(self) -> None:
        """The test is told of an oops or a panic: as a Stop, or by an error."""
        self._told.append(self.place())

    def expect(self, pattern: str | re.Pattern[str], kind: str | None) -> ExpectedSplat:
        """Have a splat be wanted, from here on."""
        made = ExpectedSplat(self, pattern, kind, self.place())
        self._expected.append(made)
        return made

    def wants_oops(self) -> bool:
        """Whether the oops that the kernel has stopped at is one that the test expects."""
        splats, by_log = self.look()
        waiting = [each for each in self._expected if each.until is None]
        fatal = [each for each in splats if each.is_fatal and self._start.is_before(each, by_log)]
        if not waiting:
            return False
        # A general protection fault enters the debugger before it is printed, and again after.
        return not fatal or any(each.wants(fatal[-1], by_log) for each in waiting)

    def _accounted(self, splats: list[Splat], by_log: bool) -> Iterator[Splat]:
        """Yield the splats that the test expects or was told of."""
        told = list(self._told)
        for splat in splats:
            if any(each.wants(splat, by_log) for each in self._expected):
                yield splat
            elif splat.is_fatal:
                # Printed before the kernel entered the debugger, or right after it went on.
                later = [each for each in told if not each.is_before(splat, by_log)]
                earlier = [each for each in told if each not in later]
                if later:
                    yield splat
                elif earlier:
                    told.remove(earlier[-1])
                    yield splat

    def unexpected(self) -> list[Splat]:
        """Return the splats that the test neither expected nor was told of; each only once."""
        splats, by_log = self.look()
        wanted = {id(each) for each in self._accounted(splats, by_log)}
        found = [
            each
            for each in splats
            if id(each) not in wanted and _key(each, by_log) not in self._judged
        ]
        self._judged.update(_key(each, by_log) for each in found)
        return [self._symbolised(each) for each in found]

    def check(self) -> None:
        """:raises SplatError: there was an unexpected one, or an expected one did not come."""
        found = self._carried + self.unexpected()
        self._carried = []
        if found:
            more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
            shown = "\n\n".join(each.symbolised for each in found[:_SHOWN])
            if left := found[_SHOWN:]:
                shown += "\n\nand\n" + "\n".join(repr(each) for each in left)
            console = self.console
            raise SplatError(
                f"the kernel reported what the test did not expect: {found[0].title}{more}\n"
                f"{shown}",
                log=console.log if console is not None else None,
                hint="where it is wanted: with kgdb.expect_splat(PATTERN): …",
            )
        for each in self._expected:
            if each.until is None:
                each.check()


class ExpectedSplat:
    """A splat that the test wants: inside of a `with`, or from the call to the test's end."""

    def __init__(
        self,
        watch: SplatWatch,
        pattern: str | re.Pattern[str],
        kind: str | None,
        since: _Place,
    ) -> None:
        self._watch = watch
        self._pattern = re.compile(pattern)
        self._kind = None if kind is None else _kind(kind)
        self._since = since
        self.until: _Place | None = None
        """Where in the log the `with` ended."""
        self._noted = False
        self._timeout = 0.0
        self._is_running: Callable[[], bool] = lambda: False

    def waiting(self, timeout: float, is_running: Callable[[], bool]) -> ExpectedSplat:
        """At the end of the `with`, wait for it while the kernel runs (for the handle)."""
        self._timeout, self._is_running = timeout, is_running
        return self

    def wants(self, splat: Splat, by_log: bool) -> bool:
        """Whether a splat is what is expected."""
        if not self._since.is_before(splat, by_log):
            return False
        if self.until is not None and self.until.is_before(splat, by_log):
            return False
        if self._kind is not None and splat.kind != self._kind:
            return False
        return self._pattern.search(splat.text) is not None

    @property
    def splats(self) -> list[Splat]:
        """What came of it so far."""
        splats, by_log = self._watch.look()
        wanted = [each.seq for each in splats if self.wants(each, by_log)]
        return [each for each in self._watch.splats if each.seq in wanted]

    def note(self) -> None:
        """Remember that it came: the log is about to go back (for the watch)."""
        self._noted = self._came()

    def go_back(self, end: _Place) -> None:
        """The log ends earlier than it did (for the watch)."""
        self._since = self._since.not_behind(end)

    def _came(self) -> bool:
        if self._noted:
            return True
        splats, by_log = self._watch.look()
        return any(self.wants(each, by_log) for each in splats)

    def check(self) -> None:
        """:raises SplatError: none came."""
        __tracebackhide__ = True
        if self._came():
            return
        others = self._watch.look()[0]
        told = "the kernel reported nothing"
        if others:
            told = "what it reported is:\n" + "\n".join(f"    {each!r}" for each in others)
        kind = f" of the kind {self._kind}" if self._kind else ""
        console = self._watch.console
        raise SplatError(
            f"no splat{kind} came that matches {self._pattern.pattern!r}; {told}",
            log=console.log if console is not None else None,
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
        self.until = self._watch.place()
        if value is None:
            self.check()
            return False
        # A panic that is expected ends whatever was under way.
        return isinstance(value, KernelPanic) and self._came()

    def _wait(self) -> None:
        deadline = time.monotonic() + self._timeout
        console = self._watch.console
        while console is not None and self._is_running() and not self._came():
            left = deadline - time.monotonic()
            if left <= 0:
                return
            console.wait_beyond(console.mark(), min(left, _LOOK))


def _key(splat: Splat, by_log: bool) -> tuple[bool, int, str]:
    """Return what tells a splat from the others: its place means one thing in the log, and another
    on the console."""
    return by_log, splat.seq, splat.title


def _kind(name: str) -> str:
    """:raises KgdbError: there is no such kind."""
    for each in KINDS:
        if _plain(each) == _plain(name):
            return each
    raise KgdbError(f"there is no kind of splat {name!r}", hint=f"there are {', '.join(KINDS)}")


def _plain(name: str) -> str:
    return re.sub(r"[\W_]", "", name).lower()
