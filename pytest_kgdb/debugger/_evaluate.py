"""C expressions, evaluated where the kernel is stopped."""

from __future__ import annotations

import re
from typing import Final

from ._debugger import Debugger
from ._mi import GdbError
from ._values import OPTIMIZED_OUT_HINT, Value

__all__ = ["evaluate"]

_NO_SYMBOL: Final = re.compile(r'No symbol "([A-Z_][A-Z0-9_]*)" in current context')
_OPTIMIZED_OUT: Final = "optimized out"  # gdb/value.c, error_value_optimized_out


def evaluate(debugger: Debugger, expression: str, **where: int) -> Value:
    """Evaluate a C expression.

    :param where: `frame`, the number of one; the selected one otherwise.
    :raises KgdbError: gdb cannot.
    """
    try:
        return Value(
            debugger, debugger.request("evaluate", expression=expression, **where), expression
        )
    except GdbError as error:
        raise _explained(error, expression) from None


def _explained(error: GdbError, expression: str) -> GdbError:
    """Return gdb's error with what a kernel developer wants to know about it."""
    if _OPTIMIZED_OUT in error.message:
        return GdbError(
            f"{expression}: part of it was optimised out here by the compiler",
            hint=OPTIMIZED_OUT_HINT,
            by_test=True,
        )
    match = _NO_SYMBOL.search(error.message)
    if match is None:
        return error
    return GdbError(
        error.message,
        hint=f"{match[1]} looks like a macro: the debug info has them only if the kernel was "
        "built with -g3 (KCFLAGS=-g3); write its value, or evaluate what it stands for",
    )
