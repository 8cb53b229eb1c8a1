"""Values on a real kernel: each is the very one of the source, or is refused."""

from __future__ import annotations

import math
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

from pytest_kgdb.errors import KgdbError

EXACT = Path(__file__).parent / "modules" / "exact"


@pytest.fixture
def exact(kgdb: Any) -> Any:
    kgdb.modules.load(EXACT)
    return kgdb


# Fractions


@pytest.mark.parametrize(
    "target", ["number", "truth", "colour", "address", "flags.level", "late_a[3]", "$rax"]
)
def test_an_integer_takes_no_fraction(exact: Any, target: str) -> None:
    before = int(exact.evaluate(target))
    values = [0.5, 1.5, "1.5", "precise", "fraction * 3", Fraction(3, 2), math.nan, -math.inf]
    for value in [*values, exact.evaluate("precise")]:
        with pytest.raises(KgdbError, match=r"(?s)no fractions.*round it: int\("):
            exact.assign(target, value)
        assert exact.evaluate(target) == before


def test_an_integer_takes_what_is_whole(exact: Any) -> None:
    for target, value, number in (
        ("number", 3.0, 3),
        ("number", "precise * 2", 3),
        ("number", "(long)2.75", 2),
        ("number", -7.0, -7),
        ("number", Fraction(4, 2), 2),
        ("truth", 1.0, 1),
        ("colour", 7.0, 7),
        ("flags.level", 2.0, 2),
        ("address", 4096.0, 4096),
    ):
        exact.assign(target, value)
        assert exact.evaluate(target) == number
    for target, value in (("number", 2.0**31), ("truth", 2.0), ("flags.level", 8.0)):
        with pytest.raises(KgdbError, match="cannot hold"):
            exact.assign(target, value)


def test_a_fraction_takes_any_number(exact: Any) -> None:
    for value in (2.75, -0.125, 3, "5.5 / 2", "number + 0.5", math.inf, exact.evaluate("fraction")):
        exact.assign("precise", value)
        expected = {"5.5 / 2": 2.75, "number + 0.5": 1.5}.get(str(value), value)
        assert exact.evaluate("precise") == float(expected)
    exact.assign("precise", math.nan)
    assert math.isnan(float(exact.evaluate("precise")))
    exact.assign("precise", 10**22)
    assert exact.evaluate("precise") == 10**22
    exact.assign("fraction", 0.1)
    assert float(exact.evaluate("fraction")) == pytest.approx(0.1)
    for value in (1e39, "-1e39", 10**400):
        with pytest.raises(KgdbError, match="cannot hold"):
            exact.assign("fraction", value)


def test_a_variable_of_gdbs_own_takes_any_number(exact: Any) -> None:
    for value in (1, 1.5, 2**40):
        exact.assign("$mine", value)
        assert exact.evaluate("$mine") == value


def test_an_override_returns_no_fraction(exact: Any) -> None:
    for value in (1.5, Fraction(1, 2), exact.evaluate("precise"), math.inf):
        with pytest.raises(KgdbError, match=r"cannot return .*\n.*whole number"):
            exact.override("on_cpu", value)
    with exact.override("on_cpu", 5.0):
        exact.run("echo 1 > /sys/module/exact/parameters/cpu")
    assert "on_cpu(1) gives 5, 3" in exact.dmesg()


def test_numbers_are_compared_with_their_fraction(exact: Any) -> None:
    half, one = exact.evaluate("precise"), exact.evaluate("number")
    assert (half, one) == (1.5, 1)
    assert 1 < half < 1.75
    assert half > one
    assert one < 1.5
    assert one != 1.5
    assert (half + 1, 2 - one, half - 0.5) == (2.5, 1, 1.0)
    with pytest.raises(TypeError, match="not an integer"):
        range(half)
