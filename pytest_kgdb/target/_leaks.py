"""Leaks: memory that nothing in the kernel points to any more, as its own detector finds it."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from ..errors import GuestCommandError
from ..klog import LogLine, Splat, find_splats

if TYPE_CHECKING:
    from ._handle import Kgdb

__all__ = ["LeakBaseline", "find_leaks", "why_not"]

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


def why_not(kgdb: Kgdb) -> str | None:
    """Return why leaks cannot be looked for in this kernel; None if they can."""
    if "DEBUG_KMEMLEAK" in kgdb.kernel.config:
        return None
    return "the kernel is without CONFIG_DEBUG_KMEMLEAK"


def find_leaks(kgdb: Kgdb) -> list[Splat]:
    """Have the kernel scan its memory; return the objects that nothing points to.

    Some may have been there at the boot. The kernel runs for it, breakpoints disabled, and is
    stopped afterwards.

    :raises GuestCommandError: the kernel does not scan.
    """
    if not kgdb.stopped:
        kgdb.interrupt()
    # An object that was allocated a moment ago counts, too: two scans are age enough.
    kgdb.assign(_MIN_AGE, 0)
    scan = (
        f"[ -e {_FILE} ] || mount -t debugfs none {_DIRECTORY}; "
        f'{_SCAN} && {_SCAN} && {{ [ -z "$(head -c1 {_FILE})" ] || {_SCAN}; }} && cat {_FILE}'
    )
    with kgdb.undisturbed():
        done = kgdb.run(scan, timeout=max(kgdb.timeout, _TIMEOUT))
    if done.status != 0:
        raise GuestCommandError(
            f"the kernel's leak detector does not scan: {done.output.strip()}",
            log=kgdb.console.log,
            hint="it may be off by kmemleak=off or CONFIG_DEBUG_KMEMLEAK_DEFAULT_OFF=y",
        )
    return [_placed(kgdb, each) for each in _read(done.output.splitlines())]


def _read(lines: Iterable[str]) -> list[Splat]:
    return find_splats(LogLine(text, None, "debugfs", seq) for seq, text in enumerate(lines))


def _placed(kgdb: Kgdb, leak: Splat) -> Splat:
    """Return a leak with its lines of source; of modules that are gone by now, too."""
    gone = {}
    lines = leak.text.splitlines()
    for number, line in enumerate(lines):
        if found := _NAMELESS.search(line):
            frame = kgdb.modules.was_at(int(found[1], 16))
            if frame is not None:
                told = f"{frame.function}+{frame.offset:#x}/{frame.size:#x} [{frame.module}]"
                lines[number] = line[: found.start()] + told
                gone[told] = frame
    (leak,) = _read(lines)
    frames = kgdb.watch.symbolise(leak.frames)
    for number, frame in enumerate(frames):
        told = f"{frame.function}+{frame.offset:#x}/{frame.size:#x} [{frame.module}]"
        frames[number] = gone.get(told, frame)
    leak = leak.with_frames(frames)
    place = f" at {leak.file}:{leak.line}" if leak.file else ""
    return replace(
        leak, message=f"{leak.title.rstrip(':')}, allocated in {leak.function or '?'}{place}"
    )


class LeakBaseline:
    """The leaks that there are anyway, to be told from those that a failure leads to."""

    def __init__(self, leaks: Iterable[Splat]) -> None:
        self._known = Counter(map(_signature, leaks))

    def beyond(self, leaks: Iterable[Splat]) -> list[Splat]:
        """Return the leaks that are not among the known ones."""
        left = self._known.copy()
        found = []
        for each in leaks:
            signature = _signature(each)
            if left[signature] > 0:
                left[signature] -= 1
            else:
                found.append(each)
        return found


def _signature(leak: Splat) -> _Signature:
    """Return what leaks of one sort have in common: size, and the way to the allocation."""
    return (leak.title.partition("(")[2], *map(str, leak.frames))
