"""Scenarios on top of the rest: each call failing once, leaks, KUnit."""

from __future__ import annotations

from ._fail_each import FailEachRunner, Snapshots
from ._kunit import KunitCase, KunitRunner, KunitSuite
from ._leaks import LeakBaseline, LeakDetector
from ._outcomes import FailEach, Outcome, Verdict

__all__ = [
    "FailEach",
    "FailEachRunner",
    "KunitCase",
    "KunitRunner",
    "KunitSuite",
    "LeakBaseline",
    "LeakDetector",
    "Outcome",
    "Snapshots",
    "Verdict",
]
