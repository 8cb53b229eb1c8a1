"""`--kgdb-observe`: what a test's spies and the kernel's log saw, in words that compare."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

from ..errors import KgdbError
from ..handle import attachment_of

if TYPE_CHECKING:
    from ..handle import Kgdb
    from ..trace import Call

__all__ = ["observations"]

_MOST: Final = 500  # kinds of calls of a test that are kept
_LARGEST: Final = 1 << 32  # numbers from there on are addresses, times, or random
_LARGEST_ERRNO: Final = 4095  # include/linux/err.h, MAX_ERRNO
# Of a headline: what is of one run or one build.
_RUN: Final = re.compile(r"\b(?:CPU|PID): \d+ |\+0x[0-9a-f]+/0x[0-9a-f]+|\b(?:0x)?[0-9a-f]{8,16}\b")


def observations(handle: Kgdb) -> dict[str, int]:
    """Return what was seen, and how often: calls with arguments and results, and splats.

    Addresses and times are left out: they differ from run to run.
    """
    counts: Counter[str] = Counter()
    attachment = attachment_of(handle)
    for spy in attachment.instruments.spies:
        counts[f"calls of {spy.function}()"] += spy.count
        for call in spy.calls:
            counts[_call(call)] += 1
    for splat in attachment.splats.splats:
        counts[f"the kernel reported: {_RUN.sub('', splat.title)}"] += 1
    return dict(counts.most_common(_MOST))


def _call(call: Call) -> str:
    arguments = ", ".join(f"{name}={_read(call.args, name)}" for name in call.args)
    more = "".join(f", {name}: {_read(call.collected, name)}" for name in call.collected)
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
