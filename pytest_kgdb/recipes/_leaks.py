"""Leaks: memory that nothing in the kernel points to any more, as its own detector finds it."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Final, Protocol

from ..deadline import WaitLimit
from ..debugger import RunControl
from ..errors import GuestCommandError
from ..guest import Shell
from ..klog import LogLine, Splat, SplatFrame, find_splats

__all__ = ["LeakBaseline", "LeakDetector"]

_DIRECTORY: Final = "/sys/kernel/debug"
_FILE: Final = f"{_DIRECTORY}/kmemleak"
# mm/kmemleak.c, kmemleak_scan: the first scan that finds no pointer to an object notes what it
# holds, the second reports it if that is unchanged. What a third one, made only then, finds
# pointers to was merely on its way from one place to another.
_SCAN: Final = f"echo scan > {_FILE}"
_TIMEOUT: Final = 180.0  # seconds at least: a scan reads all of the guest's memory
# mm/kmemleak.c: objects younger than that (MSECS_MIN_AGE, 5 s) are not reported.
_MIN_AGE: Final = "jiffies_min_age"

_NAMELESS: Final = re.compile(r"(?<=>\] )0x([0-9a-f]+)$")

_Signature = tuple[str, ...]


class Symboliser(Protocol):
    """Finds the lines of the source for addresses that the kernel prints."""

    def symbolise(self, frames: Sequence[SplatFrame]) -> list[SplatFrame]:
        """Return frames with file and line, where they are known."""


class LeakDetector:
    """Makes the kernel's own detector (CONFIG_DEBUG_KMEMLEAK) scan.

    :param config: the kernel's configuration symbols.
    :param assign: assigns to a variable of the kernel.
    :param breakpoints_disabled: keeps the test's breakpoints disabled meanwhile.
    :param frame_of_unloaded: returns the frame of an address in a module that is gone.
    """

    def __init__(
        self,
        run_control: RunControl,
        shell: Shell,
        symbols: Symboliser,
        *,
        config: Collection[str],
        waits: WaitLimit,
        assign: Callable[[str, object], None],
        breakpoints_disabled: Callable[[], AbstractContextManager[None]],
        frame_of_unloaded: Callable[[int], SplatFrame | None],
    ) -> None:
        self._run_control = run_control
        self._shell = shell
        self._symbols = symbols
        self._config = config
        self._waits = waits
        self._assign = assign
        self._breakpoints_disabled = breakpoints_disabled
        self._frame_of_unloaded = frame_of_unloaded

    def why_not(self) -> str | None:
        """Return why leaks cannot be looked for in this kernel; None if they can."""
        if "DEBUG_KMEMLEAK" in self._config:
            return None
        return "the kernel is without CONFIG_DEBUG_KMEMLEAK"

    def find(self) -> list[Splat]:
        """Make the kernel scan its memory; return the objects that nothing points to.

        Some may have been there at the boot. The kernel runs for it, breakpoints disabled, and is
        stopped afterwards.

        :raises GuestCommandError: the kernel does not scan.
        """
        self._run_control.interrupt()
        # An object that was allocated just now counts, too: two scans are age enough.
        self._assign(_MIN_AGE, 0)
        scan = (
            f"[ -e {_FILE} ] || mount -t debugfs none {_DIRECTORY}; "
            f'{_SCAN} && {_SCAN} && {{ [ -z "$(head -c1 {_FILE})" ] || {_SCAN}; }} && cat {_FILE}'
        )
        with self._breakpoints_disabled():
            result = self._shell.run(
                scan,
                max(self._waits.seconds, _TIMEOUT),
                hint="a larger kgdb.timeout, if it only needs longer",
            )
        if result.status != 0:
            raise GuestCommandError(
                f"the kernel's leak detector does not scan: {result.output.strip()}",
                log=self._shell.console.log,
                hint="it may be off by kmemleak=off or CONFIG_DEBUG_KMEMLEAK_DEFAULT_OFF=y",
            )
        return [self._symbolised(leak) for leak in _read(result.output.splitlines())]

    def _symbolised(self, leak: Splat) -> Splat:
        """Return a leak with its lines of source; of modules that are gone by now, too."""
        unloaded: dict[str, SplatFrame] = {}
        lines = leak.text.splitlines()
        for number, line in enumerate(lines):
            if match := _NAMELESS.search(line):
                frame = self._frame_of_unloaded(int(match[1], 16))
                if frame is not None:
                    lines[number] = line[: match.start()] + _as_printed(frame)
                    unloaded[_as_printed(frame)] = frame
        (leak,) = _read(lines)
        frames = [
            unloaded.get(_as_printed(frame), frame)
            for frame in self._symbols.symbolise(leak.frames)
        ]
        leak = leak.with_frames(frames)
        place = f" at {leak.file}:{leak.line}" if leak.file else ""
        return replace(
            leak, message=f"{leak.title.rstrip(':')}, allocated in {leak.function or '?'}{place}"
        )


def _as_printed(frame: SplatFrame) -> str:
    return f"{frame.function}+{frame.offset:#x}/{frame.size:#x} [{frame.module}]"


def _read(lines: Iterable[str]) -> list[Splat]:
    return find_splats(LogLine(text, None, "debugfs", seq) for seq, text in enumerate(lines))


class LeakBaseline:
    """The leaks that there are without a failure, to be subtracted from those with one."""

    def __init__(self, leaks: Iterable[Splat]) -> None:
        self._counts = Counter(map(_signature, leaks))

    def beyond(self, leaks: Iterable[Splat]) -> list[Splat]:
        """Return the leaks that are not in the baseline."""
        left = self._counts.copy()
        new = []
        for leak in leaks:
            signature = _signature(leak)
            if left[signature] > 0:
                left[signature] -= 1
            else:
                new.append(leak)
        return new


def _signature(leak: Splat) -> _Signature:
    """Return what leaks of one sort have in common: size, and the way to the allocation."""
    return (leak.title.partition("(")[2], *map(str, leak.frames))
