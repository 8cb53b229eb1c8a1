"""What is read at a function's entry, on a real kernel: it is right, or refused."""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

ENTRY = Path(__file__).parent / "modules" / "entry"
STEP = "echo {} > /sys/module/entry/parameters/step"


@pytest.fixture
def entry(kgdb: Any) -> Any:
    kgdb.modules.load(ENTRY)
    return kgdb


def step(kgdb: Any, number: int) -> int:
    kgdb.run(STEP.format(number))
    return int(re.findall(rf"entry: step {number} gives (-?\d+)", kgdb.dmesg())[-1])


# Operators

Compute = Callable[[int, int], int]

WITH_CONDITIONS: dict[str, Compute | None] = {
    "(x && y) ?: 5": lambda x, y: int(bool(x and y)) or 5,
    "x && y ?: 5": lambda x, y: int(bool(x and y)) or 5,
    "(x || y) ?: 5": lambda x, y: int(bool(x or y)) or 5,
    "(x ? y : 0) ?: 7": lambda x, y: (y if x else 0) or 7,
    "(x ?: y) ?: 9": lambda x, y: x or y or 9,
    "x ?: y ?: 9": lambda x, y: x or y or 9,
    "((x ?: y) && x) ?: -1L": lambda x, y: int(bool((x or y) and x)) or -1,
    "(u8)(x - 1) ?: 3": lambda x, y: (x - 1) % 256 or 3,
    "(x && y ? &filled : 0) ?: &fraction": None,
    "*(x && y ? &tall : &nothing) ? 1 : 2": lambda x, y: 1 if x and y else 2,
    "*talls[x && y] ? 1 : 2": lambda x, y: 2 if x and y else 1,
    "(bool)*talls[x || y]": lambda x, y: not (x or y),
    "*talls[x && y] && !*talls[x || y] ?: 4": lambda x, y: int(not (x and y) and bool(x or y)) or 4,
}


def test_what_has_a_condition_within(entry: Any) -> None:
    with entry.spy("two", collect=list(WITH_CONDITIONS)) as calls:
        step(entry, 1)
    filled, fraction = (int(entry.evaluate(f"(long)&{name}")) for name in ("filled", "fraction"))
    assert len(calls.calls) == 4
    for call in calls.calls:
        x, y = call.args["x"], call.args["y"]
        expected = {
            text: compute(x, y) if compute else (filled if x and y else fraction) % (1 << 64)
            for text, compute in WITH_CONDITIONS.items()
        }
        assert {text: call[text] for text in WITH_CONDITIONS} == expected


def some_expression(numbers: random.Random, depth: int) -> tuple[str, Compute]:
    """An expression of x and y with conditions within conditions, and what it is."""
    if not depth or numbers.random() < 0.1:
        constant = numbers.randrange(3)
        leaves: list[tuple[str, Compute]] = [
            ("x", lambda x, y: x),
            ("y", lambda x, y: y),
            (str(constant), lambda x, y: constant),
        ]
        return numbers.choice(leaves)
    (one, a), (two, b), (three, c) = (some_expression(numbers, depth - 1) for _ in range(3))
    kinds: list[tuple[str, Compute]] = [
        (f"({one} && {two})", lambda x, y: int(bool(a(x, y) and b(x, y)))),
        (f"({one} || {two})", lambda x, y: int(bool(a(x, y) or b(x, y)))),
        (f"({one} ?: {two})", lambda x, y: a(x, y) or b(x, y)),
        (f"({one} ?: {two})", lambda x, y: a(x, y) or b(x, y)),
        (f"({one} ? {two} : {three})", lambda x, y: b(x, y) if a(x, y) else c(x, y)),
        (f"({one} - {two})", lambda x, y: a(x, y) - b(x, y)),
        (f"(!{one} + {two})", lambda x, y: int(not a(x, y)) + b(x, y)),
    ]
    return numbers.choice(kinds)


def test_conditions_within_conditions(entry: Any) -> None:
    numbers = random.Random(4711)
    expected = dict(some_expression(numbers, 4) for _ in range(100))
    with entry.spy("two", collect=list(expected)) as calls:
        step(entry, 1)
    assert len(calls.calls) == 4
    for call in calls.calls:
        arguments = call.args["x"], call.args["y"]
        computed = {text: compute(*arguments) for text, compute in expected.items()}
        assert {text: call[text] for text in expected} == computed
