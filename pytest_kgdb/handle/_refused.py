"""Errors that say why the target has refused what gdb asked for: gdb has no words for it."""

from __future__ import annotations

from pathlib import Path

from ..debugger import GdbError
from ..report import bound
from ..rsp import Refusal

__all__ = ["refused"]


def refused(what: str, refusal: Refusal, error: GdbError, log: Path | None) -> GdbError:
    """Return the error of what was refused.

    :param what: begins the message.
    :param error: what gdb says; of a breakpoint in many places it says that of each.
    :param log: gdb's transcript.
    """
    words = bound(error.message.strip(), head=6, tail=1)
    return GdbError(f"{what}: {refusal.reason}\ngdb's words: {words}", log=log, hint=refusal.hint)
