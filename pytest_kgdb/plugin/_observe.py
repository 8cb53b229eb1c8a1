"""`--kgdb-observe`: what a test's spies, the kernel's log and its leak detector saw.

In words that compare: addresses and times are left out.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Final

from ..errors import KgdbError
from ..handle import attachment_of
from ..klog import in_source

if TYPE_CHECKING:
    from ..handle import Attachment, Kgdb
    from ..klog import Splat
    from ..trace import Call

__all__ = ["observations"]

_MOST: Final = 500  # kinds of calls of a test that are kept
_LARGEST: Final = 1 << 32  # numbers from there on are addresses, times, or random
_LARGEST_ERRNO: Final = 4095  # include/linux/err.h, MAX_ERRNO
_SIZE: Final = re.compile(r"\(size (\d+)\)")  # mm/kmemleak.c, print_unreferenced
# Of an expression: an address, as a test that has one writes it.
_ADDRESS: Final = re.compile(r"\b(?:0x[0-9a-f]{9,16}|[0-9]{11,20})(?=u?l{0,2}\b)", re.IGNORECASE)
# Of a headline: what is of one run or one build.
_RUN: Final = re.compile(r"\b(?:CPU|PID): \d+ |\+0x[0-9a-f]+/0x[0-9a-f]+|\b(?:0x)?[0-9a-f]{8,16}\b")


def observations(handle: Kgdb) -> dict[str, int]:
    """Return what was seen, and how often: calls with arguments and results, splats, leaks.

    Leaks are looked for if the kernel has kmemleak; it runs for that.
    """
    counts: Counter[str] = Counter()
    attachment = attachment_of(handle)
    for spy in attachment.instruments.spies:
        counts[f"calls of {spy.function}()"] += spy.count
        for call in spy.calls:
            counts[_call(call)] += 1
    for splat in attachment.splats.splats:
        counts[f"the kernel reported: {_RUN.sub('', splat.title)}"] += 1
    counts.update(_leaks(attachment))
    return dict(counts.most_common(_MOST))


def _leaks(attachment: Attachment) -> Iterator[str]:
    """Yield the leaks that there are after the test, those of the boot included.

    The latter are the same on both kernels. What the detector then writes into the kernel's log is
    no splat of the test's.
    """
    detector, splats = attachment.leaks, attachment.splats
    if detector.why_not() is not None:
        return
    before = {splat.key for splat in splats.pending()}
    try:
        leaks = detector.find()
    except KgdbError:
        return  # the test itself went well, and what is not known is not compared
    finally:
        reports = [splat for splat in splats.pending() if splat.kind == "memory leak"]
        splats.acknowledge([splat for splat in reports if splat.key not in before])
    for leak in leaks:
        yield _leak(leak)


def _leak(leak: Splat) -> str:
    """Return how much was lost, and who allocated it for whom."""
    size = _SIZE.search(leak.title)
    what = f"{size[1]} bytes" if size else "memory"
    names = [in_source(frame.function) for frame in leak.frames]
    if leak.function not in names:
        return f"leaked: {what}"
    callers = names[names.index(leak.function) + 1 :]
    origin = f", called by {callers[0]}()" if callers else ""
    return f"leaked: {what}, allocated in {leak.function}(){origin}"


def _call(call: Call) -> str:
    arguments = ", ".join(f"{name}={_read(call.args, name)}" for name in call.args)
    more = "".join(
        f", {_ADDRESS.sub('…', name)}: {_read(call.collected, name)}" for name in call.collected
    )
    return f"{call.function}({arguments}){_result(call)}{more}"


def _result(call: Call) -> str:
    if not call.returned:
        return ""
    try:
        return f" = {_shown(call.return_value)}"
    except KgdbError:
        return " = ?"


def _read(values: Mapping[str, object], name: str) -> str:
    try:
        return _shown(values[name])
    except KgdbError:
        return "?"


def _shown(value: object) -> str:
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{name}: {_shown(item)}" for name, item in value.items()) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(map(_shown, value)) + "]"
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) >= _LARGEST:
        errno = (1 << 64) - value
        return str(-errno) if 0 < errno <= _LARGEST_ERRNO else "…"
    return repr(value)
