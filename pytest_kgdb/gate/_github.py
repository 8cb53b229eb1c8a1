"""A gate's findings for GitHub Actions: workflow commands that annotate the change's lines."""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterable
from typing import Final

from ._findings import Finding, findings
from ._run import Outcome
from ._series import Series
from ._texts import plain

__all__ = ["as_annotations", "without_commands"]

_MOST: Final = 10  # annotations of one kind of one step that GitHub shows


def as_annotations(report: Outcome | Series) -> list[str]:
    """Return a workflow command for each finding, at most ten of a kind."""
    lines = []
    for level in ("error", "warning"):
        its = [finding for finding in findings(report) if finding.level == level]
        lines += [_command(finding) for finding in its[:_MOST]]
        if len(its) > _MOST:
            rest = f" (and {len(its) - _MOST + 1} more: see the report)"
            lines[-1] = _command(its[_MOST - 1], rest)
    return lines


def without_commands(lines: Iterable[str]) -> list[str]:
    """Return lines that the runner prints as they are: a text of the guest is no command.

    The runner reads commands at the start of a line, with blanks before it, until it meets the
    token again (actions/runner, ActionCommandManager).
    """
    token = secrets.token_hex(16)
    return [f"::stop-commands::{token}", *lines, f"::{token}::"]


def _command(finding: Finding, rest: str = "") -> str:
    lines = finding.lines[0]
    properties = {
        "file": plain(lines.file),
        "line": str(lines.first),
        "endLine": str(lines.last),
        "title": f"pytest-kgdb gate: {finding.rule}",
    }
    shown = ",".join(f"{name}={_property(value)}" for name, value in properties.items())
    return f"::{finding.level} {shown}::{_data(finding.message + rest)}"


def _data(text: str) -> str:
    """Return a message as GitHub's toolkit writes it (@actions/core, command.ts, escapeData)."""
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    """Return a property as GitHub's toolkit writes it (escapeProperty)."""
    return re.sub(r"[:,]", lambda match: f"%{ord(match[0]):02X}", _data(text))
