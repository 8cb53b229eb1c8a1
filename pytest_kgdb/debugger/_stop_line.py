"""A stop in one line, for people."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from ..errors import KgdbError
from ..escape import clean_name
from ._stop import place_of

if TYPE_CHECKING:
    from ._stop import Stop

__all__ = ["in_a_line"]


def in_a_line(stop: Stop) -> str:
    """Return why and where the kernel stopped, on which CPU, in which task."""
    what: str = stop.reason
    if stop.breakpoint is not None:
        what += f" {stop.breakpoint.number}"
    if stop.reason != "interrupt":
        with contextlib.suppress(KgdbError):
            what += f" in {place_of(stop)}"
    words = [what if stop.message is None else f"{what}: {stop.message}"]
    with contextlib.suppress(KgdbError):
        task = stop.task
        words.append(f"CPU {stop.cpu}, task {task.pid} ({clean_name(task.comm)})")
    if stop.reason == "finished":
        with contextlib.suppress(KgdbError):
            if (value := stop.return_value) is not None:
                words.append(f"returned {value}")
    return "; ".join(words)
