"""Cleans all texts of a test's report: an assertion's message, too, has what the guest printed."""

from __future__ import annotations

from typing import Any

import pytest
from _pytest._code.code import TerminalRepr

from ..escape import clean

__all__ = ["clean_report"]


def clean_report(report: pytest.TestReport) -> None:
    """Clean what a report shows, in place: the failure and the sections, captured output too."""
    report.longrepr = _cleaned(report.longrepr, set())
    report.sections = [(clean(title), clean(text, colours=True)) for title, text in report.sections]


def _cleaned(value: Any, seen: set[int]) -> Any:
    """Return a value with the texts in it cleaned; pytest's representations are changed in place.

    The texts of a representation are in its fields, and in those of the ones below
    (`_pytest/_code/code.py`, ExceptionChainRepr and others).
    """
    if isinstance(value, str):
        return clean(value, colours=True)
    if isinstance(value, (list, tuple)):
        return type(value)(_cleaned(item, seen) for item in value)
    if isinstance(value, TerminalRepr) and id(value) not in seen:
        seen.add(id(value))
        for name, member in vars(value).items():
            setattr(value, name, _cleaned(member, seen))
    return value
