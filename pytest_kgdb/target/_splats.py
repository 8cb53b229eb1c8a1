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

from ..errors import KernelPanic, KgdbError, SplatError
from ..klog import (
    KINDS,
    ConsoleCursor,
    LogCursor,
    LogLine,
    Splat,
    SplatFrame,
    SplatKey,
    console_lines,
    find_splats,
    kernel_records,
    log_panic,
)

if TYPE_CHECKING:
    from ..console import Console
    from ..machine import Machine
    from ..memory import KernelMemory
    from ._link import Link

__all__ = ["ExpectedSplat", "SplatWatch"]

# How often a running kernel is halted for a look at its log, while its console says nothing.
_LOOK: Final = 1.0
_SHOWN: Final = 3  # splats that an error shows whole


_BEGINNING: Final = LogCursor(ConsoleCursor(0))


@dataclass(frozen=True)
class _Bound:
    machine: Machine
    state: KernelMemory
    link: Link
    source: Path | None


class SplatWatch:
    """Looks for splats in the kernel's log while a test has the handle.

    The log buffer in guest memory is what is looked at: it tells who printed a line, and whatever
    `quiet` keeps off the console. Where it cannot be read, or has lost its oldest records, the
    console is.
    """

    def __init__(self) -> None:
        self._bound: _Bound | None = None
        self._expected: list[ExpectedSplat] = []
        self._told: list[LogCursor] = []
        self._judged: set[SplatKey] = set()
        self._carried: list[Splat] = []  # unexpected ones of a state that was given up
        self._known: dict[tuple[SplatKey, int], Splat] = {}
        self._start = _BEGINNING

    def bind(self, machine: Machine, state: KernelMemory, link: Link, source: Path | None) -> None:
        """Take up another machine."""
        self._bound = _Bound(machine, state, link, source)
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
        # The console does not go back: what it has shown is settled now.
        self._judged.update(each.key for each in self.look() if each.source == "console")
        yield
        end = self.place()
        # What was told or judged before that state was kept is in its log still.
        self._told = [each for each in self._told if each.survives(end)]
        self._judged = {each for each in self._judged if end.keeps(each)}
        self._known = {key: each for key, each in self._known.items() if end.keeps(each)}
        for each in self._expected:
            each.go_back(end)

    # Looking

    @property
    def console(self) -> Console | None:
        """The console of the machine."""
        return self._bound.machine.console if self._bound is not None else None

    def place(self) -> LogCursor:
        """Return where the log ends at the moment."""
        if self._bound is None:
            return _BEGINNING
        console = self._bound.machine.console
        console.drain()
        ring = None
        with contextlib.suppress(KgdbError), self._still(self._bound):
            ring = self._bound.state.log_end()
        return LogCursor(ConsoleCursor(console.mark()), ring)

    @staticmethod
    @contextlib.contextmanager
    def _still(bound: _Bound) -> Iterator[None]:
        """Around reads of the kernel's memory: a running machine is halted for them."""
        if bound.link.stopped:
            yield
            return
        alive = bound.machine.alive
        if alive:
            bound.machine.stop()
        try:
            with bound.state.paused():
                yield
        finally:
            if alive:
                bound.machine.cont()

    def lines(self, since: LogCursor | None = None) -> list[LogLine]:
        """Return the lines of the kernel's log since the test began, or since a place."""
        lines = self._lines(self._bound) if self._bound is not None else []
        return lines if since is None else since.following(lines)

    def _lines(self, bound: _Bound) -> list[LogLine]:
        bound.machine.console.drain()
        if self._start.ring is not None:
            with contextlib.suppress(KgdbError), self._still(bound):
                lines = bound.state.log_since(self._start.ring)
                if lines is not None:
                    return lines
        console, mark = bound.machine.console, self._start.console.offset
        seen = kernel_records(console.earlier(mark))
        return console_lines(console.since(mark), seen, offset=mark)

    def look(self) -> list[Splat]:
        """Return the test's splats so far, not symbolised."""
        return find_splats(self.lines())

    @property
    def splats(self) -> list[Splat]:
        """The test's splats so far, oldest first, with lines of the source."""
        return [self._symbolised(each) for each in self.look()]

    def _symbolised(self, splat: Splat) -> Splat:
        # Once: a module whose symbols they are may be unloaded later.
        key = (splat.key, len(splat.text))
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
        lines = self.lines()
        if reason == "panic":
            reasons = (log_panic(line.text) for line in lines[::-1])
            return next((reason for reason in reasons if reason is not None), None)
        new = [
            each
            for each in find_splats(lines)
            if each.is_fatal and all(told.precedes(each) for told in self._told)
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
        waiting = [each for each in self._expected if each.until is None]
        fatal = [each for each in self.look() if each.is_fatal and self._start.precedes(each)]
        if not waiting:
            return False
        # A general protection fault enters the debugger before it is printed, and again after.
        return not fatal or any(each.wants(fatal[-1]) for each in waiting)

    def _accounted(self, splats: list[Splat]) -> Iterator[Splat]:
        """Yield the splats that the test expects or was told of."""
        told = list(self._told)
        for splat in splats:
            if any(each.wants(splat) for each in self._expected):
                yield splat
            elif splat.is_fatal:
                # Printed before the kernel entered the debugger, or right after it went on.
                later = [each for each in told if not each.precedes(splat)]
                earlier = [each for each in told if each not in later]
                if later:
                    yield splat
                elif earlier:
                    told.remove(earlier[-1])
                    yield splat

    def unexpected(self) -> list[Splat]:
        """Return the splats that the test neither expected nor was told of; each only once."""
        splats = self.look()
        wanted = {id(each) for each in self._accounted(splats)}
        found = [each for each in splats if id(each) not in wanted and each.key not in self._judged]
        self._judged.update(each.key for each in found)
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
        since: LogCursor,
    ) -> None:
        self._watch = watch
        self._pattern = re.compile(pattern)
        self._kind = None if kind is None else _kind(kind)
        self._since = since
        self.until: LogCursor | None = None
        """Where in the log the `with` ended."""
        self._noted = False
        self._timeout = 0.0
        self._is_running: Callable[[], bool] = lambda: False

    def waiting(self, timeout: float, is_running: Callable[[], bool]) -> ExpectedSplat:
        """At the end of the `with`, wait for it while the kernel runs (for the handle)."""
        self._timeout, self._is_running = timeout, is_running
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
        """What came of it so far."""
        return [each for each in self._watch.splats if self.wants(each)]

    def note(self) -> None:
        """Remember that it came: the log is about to go back (for the watch)."""
        self._noted = self._came()

    def go_back(self, end: LogCursor) -> None:
        """The log ends earlier than it did (for the watch)."""
        self._since = self._since.rewound(end)

    def _came(self) -> bool:
        if self._noted:
            return True
        return any(self.wants(each) for each in self._watch.look())

    def check(self) -> None:
        """:raises SplatError: none came."""
        __tracebackhide__ = True
        if self._came():
            return
        others = self._watch.look()
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


def _kind(name: str) -> str:
    """:raises KgdbError: there is no such kind."""
    for each in KINDS:
        if _plain(each) == _plain(name):
            return each
    raise KgdbError(f"there is no kind of splat {name!r}", hint=f"there are {', '.join(KINDS)}")


def _plain(name: str) -> str:
    return re.sub(r"[\W_]", "", name).lower()
