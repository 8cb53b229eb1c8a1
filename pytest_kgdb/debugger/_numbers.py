"""Numbers of Python's, gdb's and drgn's, as they are given to the kernel."""

from __future__ import annotations

import numbers
import operator
from decimal import Decimal

from ._values import Value, real_of

__all__ = ["number_of"]


def number_of(value: object) -> int | float | None:
    """Return the number that a value of Python's, gdb's or drgn's is; None for anything else.

    Nothing is cut off: what is not whole is a float.

    :raises TypeError: it is a value of the kernel's that is no number.
    """
    if isinstance(value, Value):
        return real_of(value)
    if hasattr(value, "value_"):  # a drgn.Object
        value = value.value_()
        if not isinstance(value, int | float):
            raise TypeError("an object of drgn's that is no number")
    if isinstance(value, int):
        return int(value)
    if hasattr(value, "__index__"):
        return operator.index(value)
    if isinstance(value, numbers.Rational) and value.denominator == 1:
        return int(value.numerator)
    return float(value) if isinstance(value, numbers.Real | Decimal) else None
