"""The splats of a test: which there were, which it expects, which it has been told of."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Final, NamedTuple, Protocol

from ..console import Console
from ..debugger import FirstCause, RunControl, StopRecord, StopSubscriber
from ..errors import KgdbError, SplatError
from ..klog import (
    PANIC_WORDS,
    ConsoleCursor,
    LogCursor,
    LogLine,
    LogSource,
    RingCursor,
    Splat,
    SplatFrame,
    console_lines,
    find_splats,
    kernel_records,
    log_panic,
)
from ._expected import ExpectedSplat

__all__ = ["SplatWatch"]

# The addresses of the kernel's half (Documentation/x86/x86_64/mm.rst), as it prints them.
_ADDRESS: Final = re.compile(r"\b(?:0x)?(f{4}[0-9a-f]{12})\b")

_SHOWN: Final = 3  # splats that an error shows whole


class _Key(NamedTuple):
    """What tells a splat from the others: its place means something in its source only."""

    source: LogSource
    seq: int
    title: str


class LivingMachine(Protocol):
    """The part of the machine that is used here."""

    @property
    def alive(self) -> bool:
        """Whether QEMU runs."""


class LogMemory(Protocol):
    """The part of the kernel's memory that is used here."""

    def log_end(self) -> RingCursor:
        """Return the present end of the log."""

    def log_since(self, cursor: RingCursor) -> list[LogLine] | None:
        """Return the lines from there on; None where some are lost."""

    def symbolise(self, frames: Sequence[SplatFrame], source: Path | None) -> list[SplatFrame]:
        """Return frames with the lines of the source."""

    def paused(self) -> contextlib.AbstractContextManager[None]:
        """Around reads of a machine that QEMU has paused."""


class SplatWatch(StopSubscriber):
    """Looks for splats in the kernel's log while a test has the handle.

    The log buffer in guest memory is read: it says who printed a line, and has what `quiet` keeps
    off the console. Where it cannot be read, or has lost its oldest records, the console is read.

    :param paused: pauses the machine of a kernel that runs.
    :param source: where the debug info says that the kernel's source is.
    :param name_of: returns what was at an address in a module that is gone.
    """

    def __init__(
        self,
        machine: LivingMachine,
        console: Console,
        memory: LogMemory,
        run_control: RunControl,
        *,
        paused: Callable[[], contextlib.AbstractContextManager[None]],
        causes: FirstCause,
        source: Path | None,
        name_of: Callable[[int], str | None] = lambda _: None,
    ) -> None:
        self._machine = machine
        self._console = console
        self._memory = memory
        self._run_control = run_control
        self._paused = paused
        self._source = source
        self._name_of = name_of
        self._expected: list[ExpectedSplat] = []
        self._reported: list[LogCursor] = []  # where the test was told of an oops or a panic
        self._acknowledged: set[_Key] = set()
        self._carried: list[Splat] = []  # unexpected ones of a state that was given up
        self._symbolised: dict[tuple[int, int], Splat] = {}
        self._start = self.cursor()
        causes.on_panic(self.mark_reported)
        run_control.subscribe(self)

    def begin(self) -> None:
        """A test begins: what was printed before is not its own."""
        self._expected.clear()
        self._reported.clear()
        self._acknowledged.clear()
        self._carried.clear()
        self._symbolised.clear()
        self._start = self.cursor()

    @contextlib.contextmanager
    def restoring(self) -> Iterator[None]:
        """Around the machine's return to an earlier snapshot of the test, its log with it.

        What was reported in between is judged first: it has happened.
        """
        for expected in self._expected:
            expected.note()
        pending = self.pending()
        self._carried += pending
        self.acknowledge(pending)
        # The console does not go back: what it has shown is judged now.
        self.acknowledge(splat for splat in self.look() if splat.source == "console")
        yield
        end = self.cursor()
        # What was reported or acknowledged before the snapshot was taken is in its log still.
        self._reported = [cursor for cursor in self._reported if cursor.survives(end)]
        self._acknowledged = {key for key in self._acknowledged if end.keeps(key)}
        self._symbolised = {
            key: splat for key, splat in self._symbolised.items() if end.keeps(splat)
        }
        for expected in self._expected:
            expected.rewind(end)
        # A later snapshot brings back what was reported when it was taken.
        self.acknowledge(self.look())

    # Reading the log

    @property
    def console(self) -> Console:
        """The console of the machine."""
        return self._console

    def cursor(self) -> LogCursor:
        """Return the present end of the log."""
        self._console.drain()
        ring = None
        with contextlib.suppress(KgdbError), self._readable():
            ring = self._memory.log_end()
        return LogCursor(ConsoleCursor(self._console.mark()), ring)

    @contextlib.contextmanager
    def _readable(self) -> Iterator[None]:
        """Around reads of the kernel's memory: a running machine is paused for them."""
        if self._run_control.is_known_stopped:
            yield
            return
        paused = self._paused() if self._machine.alive else contextlib.nullcontext()
        with paused, self._memory.paused():
            yield

    def lines(self, since: LogCursor | None = None) -> list[LogLine]:
        """Return the lines of the kernel's log since the test began, or since a cursor."""
        lines = self._read()
        return lines if since is None else since.following(lines)

    def _read(self) -> list[LogLine]:
        self._console.drain()
        if self._start.ring is not None:
            with contextlib.suppress(KgdbError), self._readable():
                lines = self._memory.log_since(self._start.ring)
                if lines is not None:
                    return lines
        mark = self._start.console.offset
        seen = kernel_records(self._console.earlier(mark))
        return console_lines(self._console.since(mark), seen, offset=mark)

    def look(self) -> list[Splat]:
        """Return the test's splats so far, oldest first, not symbolised."""
        return find_splats(self._read())

    @property
    def splats(self) -> list[Splat]:
        """The test's splats so far, oldest first, with lines of the source."""
        return [self._with_source(splat) for splat in self.look()]

    def _with_source(self, splat: Splat) -> Splat:
        # Once: a module whose symbols they are may be unloaded later.
        key = (splat.seq, len(splat.text))
        if key not in self._symbolised and splat.frames:
            # Whatever is broken in the kernel's memory, the splat itself must be reported.
            with contextlib.suppress(Exception):
                named = splat.with_addresses(self._names(splat.text))
                self._symbolised[key] = named.with_frames(self.symbolise(splat.frames))
        return self._symbolised.get(key, splat)

    def _names(self, text: str) -> dict[str, str]:
        """Return what was at the addresses in a text that are in modules that are gone."""
        words = dict.fromkeys(_ADDRESS.findall(text))
        names = ((word, self._name_of(int(word, 16))) for word in words)
        return {word: name for word, name in names if name is not None}

    def symbolise(self, frames: Sequence[SplatFrame]) -> list[SplatFrame]:
        """Return frames with lines of the source, where they are known."""
        with self._readable():
            return self._memory.symbolise(frames, self._source)

    # What run control says

    def stopped(self, record: StopRecord) -> None:
        """Add the kernel's words to an oops or a panic; the test is told of it by the stop."""
        if record.reason in ("oops", "panic"):
            record.message = self._words(record.reason)
            self.mark_reported()

    def _words(self, reason: str) -> str | None:
        """Return what the kernel said of the oops or the panic at which it has stopped.

        Of an oops, the headline that names the trouble, not the one that counts it.
        """
        lines = self._read()
        if reason == "panic":
            words = (log_panic(line.text) for line in reversed(lines))
            text = next((text for text in words if text is not None), None)
            fatal = [splat for splat in find_splats(lines) if splat.is_fatal]
            if not text or not fatal:
                return text
            splat = fatal[-1]
            named = self._with_names(text, splat)
            # `panic_on_warn set ...` and its like do not say what led to it.
            led = splat.kind != "panic" and f"{PANIC_WORDS}: {text}" in splat.text.splitlines()
            return f"{named}, after {self._with_source(splat).summary}" if led else named
        new = [
            splat
            for splat in find_splats(lines)
            if splat.is_fatal and all(cursor.precedes(splat) for cursor in self._reported)
        ]
        if not new:
            return None
        return self._with_names(new[-1].title, new[-1])

    def _with_names(self, text: str, splat: Splat) -> str:
        """Return a text with what was at the splat's addresses in modules that are gone."""
        names = "; ".join(dict.fromkeys(self._names(splat.headline_and_rip).values()))
        return f"{text} ({names})" if names else text

    # Judging

    def mark_reported(self) -> None:
        """Note that the test is told of an oops or a panic: as a Stop, or by an error."""
        self._reported.append(self.cursor())

    def expect(self, pattern: str | re.Pattern[str], kind: str | None) -> ExpectedSplat:
        """Expect a splat from here on."""
        expected = ExpectedSplat(self, pattern, kind, self.cursor(), self._is_running)
        self._expected.append(expected)
        return expected

    def _is_running(self) -> bool:
        return not self._run_control.stopped and self._machine.alive

    def wants_oops(self) -> bool:
        """Whether the oops that the kernel has stopped at is one that the test expects."""
        waiting = [expected for expected in self._expected if expected.until is None]
        if not waiting:
            return False
        fatal = [splat for splat in self.look() if splat.is_fatal and self._start.precedes(splat)]
        # A general protection fault enters the debugger before it is printed, and again after.
        return not fatal or any(expected.wants(fatal[-1]) for expected in waiting)

    def _accounted(self, splats: Sequence[Splat]) -> Iterator[Splat]:
        """Yield the splats that the test expects or was told of."""
        reported = list(self._reported)
        for splat in splats:
            if any(expected.wants(splat) for expected in self._expected):
                yield splat
            elif splat.is_fatal:
                # Printed before the kernel entered the debugger, or right after it went on.
                later = [cursor for cursor in reported if not cursor.precedes(splat)]
                earlier = [cursor for cursor in reported if cursor not in later]
                if later:
                    yield splat
                elif earlier:
                    reported.remove(earlier[-1])
                    yield splat

    def pending(self) -> list[Splat]:
        """Return the unexpected splats that nobody has acknowledged, with lines of the source.

        Unexpected are those that the test neither expects nor was told of.
        """
        splats = self.look()
        accounted = {id(splat) for splat in self._accounted(splats)}
        return [
            self._with_source(splat)
            for splat in splats
            if id(splat) not in accounted and _key(splat) not in self._acknowledged
        ]

    def unreported(self) -> list[Splat]:
        """Return the splats that no error has shown, with lines of the source (for a report).

        These are the pending ones, and those by which the kernel came to a stop.
        """
        splats = self.look()
        accounted = {id(splat) for splat in self._accounted(splats)}
        return [
            self._with_source(splat)
            for splat in splats
            if (id(splat) not in accounted or splat.is_fatal)
            and _key(splat) not in self._acknowledged
        ]

    def acknowledge(self, splats: Iterable[Splat]) -> None:
        """Note that splats have been reported: they are not pending any more."""
        self._acknowledged.update(map(_key, splats))

    def check(self) -> None:
        """Check the splats of the test so far.

        :raises SplatError: there was an unexpected one, or an expected one did not come.
        """
        pending = self.pending()
        self.acknowledge(pending)
        splats, self._carried = self._carried + pending, []
        if splats:
            more = f" (and {len(splats) - 1} more)" if len(splats) > 1 else ""
            shown = "\n\n".join(splat.symbolised for splat in splats[:_SHOWN])
            if left := splats[_SHOWN:]:
                shown += "\n\nand\n" + "\n".join(map(repr, left))
            raise SplatError(
                f"the kernel reported what the test did not expect: {splats[0].summary}{more}\n"
                f"{shown}",
                log=self._console.log,
                hint="where it is wanted: with kgdb.expect_splat(PATTERN): …",
            )
        for expected in self._expected:
            if expected.until is None:
                expected.check()


def _key(splat: Splat) -> _Key:
    return _Key(splat.source, splat.seq, splat.title)
