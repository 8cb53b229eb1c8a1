"""What differed between the runs of a test on both kernels, as its spies saw it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from ._verdicts import Run

__all__ = ["differences"]

_MOST: Final = 20


def differences(base: Sequence[Run], patched: Sequence[Run]) -> tuple[str, ...]:
    """Return what was the same in all runs of each side, and differs between the sides.

    What varies from run to run on one kernel says nothing of the change.
    """
    names = {name: None for run in (*base, *patched) for name in run.observed}
    lines = []
    for name in names:
        counts = [{run.observed.get(name, 0) for run in side} for side in (base, patched)]
        if all(len(count) == 1 for count in counts) and counts[0] != counts[1]:
            before, after = (count.pop() for count in counts)
            lines.append(f"{name}: {_times(before)} on the base, {_times(after)} on the patched")
    if len(lines) > _MOST:
        lines = [*lines[: _MOST - 1], f"{len(lines) - _MOST + 1} more differences"]
    return tuple(lines)


def _times(count: int) -> str:
    return {0: "never", 1: "once", 2: "twice"}.get(count, f"{count} times")
