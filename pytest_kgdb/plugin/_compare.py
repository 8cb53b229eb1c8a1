"""Both sides of a comparison with a kernel's value, as its developer would look at them."""

from __future__ import annotations

from collections.abc import Mapping

from ..debugger import Value, difference
from ..errors import KgdbError


def compare(operator: str, left: object, right: object) -> list[str] | None:
    """Return the lines that explain a failed comparison; None where no kernel's value is in it."""
    if not isinstance(left, Value) and not isinstance(right, Value):
        return None
    try:
        lines = [f"{_short(left)} {operator} {_short(right)}"]
        lines += ["", *_sides(left, right)]
    except KgdbError as error:
        return [f"{left!r} {operator} {right!r}", "", f"(cannot be shown: {error.message})"]
    return lines


def _short(side: object) -> str:
    if not isinstance(side, Value):
        return repr(side)
    return side.expression if side.members else f"{side.expression} ({_form(side)})"


def _form(side: object) -> str:
    """Return a side's own form: numbers in hexadecimal too."""
    if isinstance(side, Value):
        text = side.text_of_string or str(side)
        number = side.number
        # Pointers and enumerators have a text of their own.
        if number is not None and text.lstrip("-").isdigit():
            return f"{number} = {number & (1 << 64) - 1:#x}"
        return text
    if isinstance(side, int) and not isinstance(side, bool):
        return f"{side} = {side & (1 << 64) - 1:#x}"
    return repr(side)


def _sides(left: object, right: object) -> list[str]:
    mine, theirs = _members(left), _members(right)
    if mine is None or theirs is None:
        return [
            *(f"{_kind(side):>24}  {_form(side)}" for side in (left, right)),
            *_first_difference(left, right),
        ]
    lines = []
    names = list(mine) + [name for name in theirs if name not in mine]
    if isinstance(right, Mapping):
        names = list(theirs)
    elif isinstance(left, Mapping):
        names = list(mine)
    same = 0
    for name in names:
        one, two = mine.get(name, "(no such member)"), theirs.get(name, "(no such member)")
        first: list[str] = []
        if isinstance(left, Value) and isinstance(right, Value) and name in mine and name in theirs:
            first = _first_difference(left[name], right[name])  # gdb prints a part of what is long
        if one == two and not first:
            same += 1
            continue
        lines += [f"  .{name}", f"-     {one}", f"+     {two}", *first]
    return [f"- {_kind(left)}", f"+ {_kind(right)}", *lines, f"  ({same} members are the same)"]


def _first_difference(left: object, right: object) -> list[str]:
    """Return where in two values of the kernel's they differ first; nothing where that is shown."""
    if not isinstance(left, Value) or not isinstance(right, Value):
        return []
    path = difference(left, right)
    if not path:
        return []
    for step in path:
        left, right = left[step], right[step]
    where = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in path)
    return [f"      they differ first at {where}: {_form(left)} and {_form(right)}"]


def _members(side: object) -> dict[str, str] | None:
    if isinstance(side, Mapping):
        return {str(name): _form(value) for name, value in side.items()}
    if isinstance(side, Value) and side.members:
        return {name: _form(side[name]) for name in side.members}
    return None


def _kind(side: object) -> str:
    return f"({side.type})" if isinstance(side, Value) else f"({type(side).__name__})"
