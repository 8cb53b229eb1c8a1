"""What a test does to the kernel, and what comes of it: a log for people, recorded as it happens.

Methods that are :func:`recorded` record their calls, and run control reports stops and resumes.
The log is bounded and cheap: what costs a round trip to gdb is asked at few stops only.
"""

from __future__ import annotations

import contextlib
import functools
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple, Protocol, TypeVar

from .console import Result
from .debugger import (
    Restored,
    Resumed,
    SourceText,
    Stop,
    StopRecord,
    StopSubscriber,
    Value,
    source_path,
    summary_of,
)
from .errors import KgdbError
from .escape import clean_name

__all__ = ["ActionEntry", "ActionLog", "Instrument", "SeenCall", "recorded"]

_KEEP_FIRST: Final = 50
_KEEP_LAST: Final = 200
# Stops of a test at which gdb is asked for the task and the return value.
_ASKED: Final = 20
_TEXT: Final = 100  # characters of an argument or a result
_COMM: Final = ("*(unsigned long *)current->comm", "*((unsigned long *)current->comm + 1)")
# The calls that a test makes for a stop by interrupt(), or for none.
_WAITING: Final = frozenset({None, "interrupt", "wait", "cont"})

_T = TypeVar("_T")


@dataclass
class ActionEntry:
    """One line of the log."""

    kind: Literal["call", "stop"]
    start: float
    """Seconds since the test began."""
    text: str
    seconds: float = 0.0
    """What a call took; at a stop, for how long the kernel had run."""
    outcome: str = ""
    """What came of it: the result, or the error."""
    failed: bool = False
    """Whether the call raised."""
    function: str | None = None
    """Where the kernel stopped."""
    file: str | None = None
    """The source file, relative to the kernel's tree where it can be."""
    path: str | None = None
    """The same file on the host."""
    line: int | None = None

    def __str__(self) -> str:
        outcome = f" → {self.outcome}" if self.outcome and self.kind == "call" else ""
        return f"{1000 * self.start:8.0f} ms  {'  ' * (self.kind == 'stop')}{self.text}{outcome}"


class SeenCall(Protocol):
    """A call that an instrument has recorded."""

    @property
    def host_time(self) -> float:
        """When, by `time.monotonic()`."""


class Instrument(Protocol):
    """A spy, or an override."""

    @property
    def function(self) -> str:
        """The function whose calls it sees."""

    @property
    def calls(self) -> Sequence[SeenCall]:
        """Those that it has recorded."""


class Numbers(Protocol):
    """The part of gdb that is used here."""

    def numbers(self, *expressions: str) -> list[int]:
        """Evaluate several expressions at once."""


class _StopLocation(NamedTuple):
    """Where the kernel has stopped, as far as can be said."""

    function: str | None
    file: str | None
    path: str | None
    line: int | None


class ActionLog(StopSubscriber):
    """Records the actions of the running test."""

    def __init__(self) -> None:
        self._source: SourceText | None = None
        self._debugger: Numbers | None = None
        self.begin()

    def begin(self) -> None:
        """A test begins."""
        self.began = time.time()
        """When, in seconds since the epoch."""
        self.origin = time.monotonic()
        """The same, by `time.monotonic()`: offsets count from here."""
        self._first: list[ActionEntry] = []
        self._last: deque[ActionEntry] = deque(maxlen=_KEEP_LAST)
        self._count = 0
        self._instruments: list[Instrument] = []
        self._runs: deque[tuple[float, float]] = deque(maxlen=_KEEP_LAST)
        self._resumed_at: float | None = None
        self._call: str | None = None
        self._passing = False
        self._asked = 0
        self._frame: dict[str, Any] = {}
        self._places: dict[tuple[object, ...], _StopLocation] = {}

    def attach(self, debugger: Numbers, source: SourceText | None = None) -> None:
        """Ask this gdb from now on.

        :param source: the source of the kernel that it debugs.
        """
        self._debugger, self._source = debugger, source

    # What was recorded

    @property
    def actions(self) -> list[ActionEntry]:
        """The test's first and last actions."""
        return [*self._first, *self._last]

    @property
    def dropped(self) -> int:
        """How many between these are not kept."""
        return self._count - len(self._first) - len(self._last)

    @property
    def runs(self) -> list[tuple[float, float]]:
        """From when to when the kernel ran, as offsets: the last of these times."""
        running = [] if self._resumed_at is None else [(self._resumed_at, self.now)]
        return [*self._runs, *running]

    @property
    def instruments(self) -> list[Instrument]:
        """The test's spies and overrides."""
        return list(self._instruments)

    @property
    def now(self) -> float:
        """Seconds since the test began."""
        return time.monotonic() - self.origin

    def lines(self) -> list[str]:
        """Return the log."""
        gap = [f"{'…':>11}  {self.dropped} more …"] if self.dropped else []
        return [*map(str, self._first), *gap, *map(str, self._last)]

    def _add(self, action: ActionEntry) -> None:
        self._count += 1
        if len(self._first) < _KEEP_FIRST:
            self._first.append(action)
        else:
            self._last.append(action)

    # Calls

    def call(self, name: str, arguments: str, work: Callable[[], _T]) -> _T:
        """Do the work of a method and record it, unless it is another method's.

        :param arguments: as they are shown.
        """
        __tracebackhide__ = True
        outer = self._call
        if outer is not None:
            return work()
        action = ActionEntry("call", self.now, f"{name} {arguments}".rstrip())
        self._add(action)
        self._call = name
        try:
            result = work()
        except BaseException as error:
            words = error.message if isinstance(error, KgdbError) else str(error)
            action.outcome = _cut(f"{type(error).__name__}: {words}".rstrip(": "))
            action.failed = True
            raise
        finally:
            self._call = outer
            action.seconds = self.now - action.start
        action.outcome = _outcome(result)
        if hasattr(result, "calls") and hasattr(result, "function"):
            self._instruments.append(result)
        return result

    def by_test(self, work: Callable[[], _T]) -> _T:
        """Do, within a method, what is the test's own: its calls are recorded, too."""
        __tracebackhide__ = True
        outer, self._call = self._call, None
        try:
            return work()
        finally:
            self._call = outer

    # Stops and resumes

    def resumed(self, event: Resumed) -> None:
        """Note since when the kernel runs."""
        if self._resumed_at is None and not event.silent:
            self._resumed_at = self.now

    def refused(self, message: str) -> str:  # noqa: ARG002 # why it did not run is in the error
        """Note that the kernel did not run."""
        self._resumed_at = None
        return ""

    def restored(self, event: Restored) -> None:  # noqa: ARG002 # whoever has restored it
        """Note that the kernel does not run any more."""
        self._note_stopped()

    def stopped(self, record: StopRecord) -> None:
        """Note where the kernel has stopped, by gdb's record."""
        self._frame = record.payload.get("frame") or {}
        self._passing = record.passing

    def recorded(self, stop: Stop) -> None:
        """Add a stop to the log."""
        seconds, start = self._note_stopped(), self.now
        if self._is_internal(stop):
            return
        frame, self._frame = self._frame, {}
        function, file, path, line = self._place(stop, frame)
        if stop.reason in ("panic", "int3", "interrupt"):
            function = None  # the debugger's own
        what: str = stop.reason
        if stop.breakpoint is not None:
            what += f" {stop.breakpoint.number}"
        text = f"{what} in {function}" if function else what
        if function and file:
            text += f" ({file}:{line})"
        words = [text]
        self._asked += 1
        if self._asked <= _ASKED:
            with contextlib.suppress(KgdbError, ValueError):
                words.append(self._task())
            with contextlib.suppress(KgdbError):
                value = stop.return_value if stop.reason == "finished" else None
                if value is not None:
                    words.append(f"→ {_cut(summary_of(value, returned=True))}")
        if seconds is not None:
            words.append(f"after {1000 * seconds:.0f} ms")
        if stop.message:
            words.append(_cut(stop.message))
        self._add(
            ActionEntry(
                "stop",
                start,
                ", ".join(words),
                seconds=seconds or 0.0,
                outcome=stop.message or "",
                function=function,
                file=file,
                path=path,
                line=line,
            )
        )

    def _place(self, stop: Stop, frame: Mapping[str, Any]) -> _StopLocation:
        """Return where the kernel has stopped.

        Of an oops, gdb's record names NULL, and of inlined code that begins there the caller; at a
        function's first instruction, it may have a line of one that is inlined further down.
        """
        function, path, line = frame.get("func"), frame.get("fullname"), frame.get("line")
        file = source_path(str(frame["file"]), self._source) if "file" in frame else None
        place = _StopLocation(function, file, path, None if line is None else int(line))
        if stop.reason == "oops":
            with contextlib.suppress(KgdbError):
                here = stop.frame
                place = _StopLocation(
                    here.function or hex(here.address), here.file, here.path, here.line
                )
        elif stop.breakpoint is not None and file is not None:
            key = (frame.get("addr"), *place)
            if key not in self._places:  # once for all stops there
                with contextlib.suppress(KgdbError):
                    here = stop.frame
                    place = _StopLocation(function, here.file, here.path, here.line)
                self._places[key] = place
            place = self._places[key]
        return place

    def _is_internal(self, stop: Stop) -> bool:
        """Whether a stop is of no call of the test's.

        That is the end of a command in the guest, a stop for something that a running kernel cannot
        be had for, or where load_stopped() has come to.
        """
        if stop.reason == "interrupt":
            return self._passing or self._call not in _WAITING
        at_own = stop.reason == "breakpoint" and stop.breakpoint is None
        return at_own and self._call == "modules.load_stopped"

    def _note_stopped(self) -> float | None:
        """Note that the kernel does not run any more; return for how long it did."""
        if self._resumed_at is None:
            return None
        start, end = self._resumed_at, self.now
        self._resumed_at = None
        self._runs.append((start, end))
        return end - start

    def _task(self) -> str:
        """Return the task that is on the CPU: `sh[41]`."""
        if self._debugger is None:
            raise ValueError("no gdb is attached")
        pid, *comm = self._debugger.numbers("current->pid", *_COMM)
        name = b"".join((word & (1 << 64) - 1).to_bytes(8, "little") for word in comm)
        return f"{clean_name(name.partition(bytes(1))[0].decode(errors='replace'))}[{pid}]"


def recorded(*names: str, **shown: str) -> Callable[[type[_T]], type[_T]]:
    """Have the calls of a class's methods recorded; an instance has the log as `_actions`.

    :param names: the methods.
    :param shown: further ones, each with the name that it has in the log.
    """

    def decorate(cls: type[_T]) -> type[_T]:
        for name, text in (*zip(names, names, strict=True), *shown.items()):
            setattr(cls, name, _recording(text, vars(cls)[name]))
        return cls

    return decorate


def _recording(name: str, method: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(method)
    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        __tracebackhide__ = True
        given = [_shown(value) for value in args]
        given += [f"{key}={_shown(value)}" for key, value in kwargs.items()]
        log: ActionLog = self._actions
        return log.call(name, ", ".join(given), lambda: method(self, *args, **kwargs))

    return call


def _shown(value: object) -> str:
    """Return a text for an argument, without a question to the kernel."""
    if isinstance(value, str):
        return _cut(value)
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value) if abs(value) < 1 << 16 else hex(value)
    if isinstance(value, (list, tuple)):
        return _cut(f"[{', '.join(map(_shown, value[:5]))}{', …' * (len(value) > 5)}]")
    if value is None or isinstance(value, (bool, float, bytes)):
        return _cut(repr(value))
    if isinstance(value, Path):
        return str(value)
    name = getattr(value, "__name__", None)  # of a function
    # Of its own attributes only: a value's are the members of a structure in the kernel.
    return str(name or getattr(value, "__dict__", {}).get("name") or type(value).__name__)


def _outcome(value: object) -> str:
    if isinstance(value, Value):
        return _cut(summary_of(value))
    if isinstance(value, Result):
        return f"status {value.status}" if value.status else ""
    if isinstance(value, (str, int, Path)):
        return _shown(value)
    return ""


def _cut(text: str) -> str:
    """Return the first line of a text, and not much of it."""
    first = text.strip().partition("\n")[0]
    return first if len(first) <= _TEXT and first == text.strip() else f"{first[:_TEXT]} …"
