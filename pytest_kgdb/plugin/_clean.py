"""Cleans all texts of a test's report: an assertion's message, too, has what the guest printed."""

from __future__ import annotations

from typing import Any

import pytest
from _pytest._code.code import ReprFileLocation, TerminalRepr

from ..escape import clean

__all__ = ["clean_report"]


def clean_report(report: pytest.TestReport) -> None:
    """Clean what a report shows, in place: the failure and the sections, captured output too."""
    report.longrepr = _cleaned(report.longrepr, set())
    report.sections = [(clean(title), clean(text, colours=True)) for title, text in report.sections]


def _cleaned(value: Any, seen: set[int], *, colours: bool = True) -> Any:
    """Return a value with the texts in it cleaned; pytest's representations are changed in place.

    The texts of a representation are in its fields, and in those of the ones below
    (`_pytest/_code/code.py`, ExceptionChainRepr and others).

    :param colours: keep pytest's own.
    """
    if isinstance(value, str):
        return clean(value, colours=colours)
    if isinstance(value, (list, tuple)):
        return type(value)(_cleaned(item, seen) for item in value)
    if isinstance(value, TerminalRepr) and id(value) not in seen:
        seen.add(id(value))
        for name, member in vars(value).items():
            # The short summary cuts the message anywhere, in front of a colour's end as well.
            keep = not isinstance(value, ReprFileLocation)
            setattr(value, name, _cleaned(member, seen, colours=keep))
    return value
