"""Scenarios on top of the rest: each call failing once, leaks, KUnit."""

from __future__ import annotations

from ._coverage import Coverage, FileCoverage, KernelCoverage, LineCoverage
from ._coverage_report import as_diff, as_json, as_lcov, as_table
from ._fail_each import FailEachRunner, Snapshots
from ._kunit import KunitCase, KunitRunner, KunitSuite
from ._leaks import LeakBaseline, LeakDetector
from ._outcomes import FailEach, Outcome, Verdict
from ._patch_code import PatchCode
from ._patch_failures import PatchExit, PatchFailures, PatchRunner
from ._references import ModuleReferences

__all__ = [
    "Coverage",
    "FailEach",
    "FailEachRunner",
    "FileCoverage",
    "KernelCoverage",
    "KunitCase",
    "KunitRunner",
    "KunitSuite",
    "LeakBaseline",
    "LeakDetector",
    "LineCoverage",
    "ModuleReferences",
    "Outcome",
    "PatchCode",
    "PatchExit",
    "PatchFailures",
    "PatchRunner",
    "Snapshots",
    "Verdict",
    "as_diff",
    "as_json",
    "as_lcov",
    "as_table",
]
