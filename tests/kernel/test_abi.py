"""What functions are given and give back on a real kernel, wherever the psABI has it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pytest_kgdb.errors import KgdbError

ABI = Path(__file__).parent / "modules" / "abi"
STEP = "echo {} > /sys/module/abi/parameters/step"


@pytest.fixture
def abi(kgdb: Any) -> Any:
    kgdb.modules.load(ABI)
    return kgdb


PACKED = {"a": {"a": 1, "b": 2}, "b": {"a": 3, "b": 4}, "c": {"a": 5, "b": 6}, "n": 7}
S5 = {"a": 1, "b": 2}
FIELDS = {"a": 2, "b": 0x12345, "c": 0xABC}
TWICE = {"of": [{"a": 3, "b": 4}, {"a": 5, "b": 6}]}


@pytest.mark.parametrize(
    ("function", "number", "value"),
    [
        ("give_p5", 1, {"a": 1, "b": 2}),
        ("give_p9", 1, {"a": 2, "b": 3}),
        ("give_p12", 1, {"a": 3, "b": 4}),
        ("give_inside", 1, {"a": 4, "in": {"b": 5}}),
        ("give_s5", 2, S5),
        ("give_fields", 2, FIELDS),
        ("give_twice", 2, TWICE),
    ],
)
def test_a_small_structure_is_returned_in_memory(
    abi: Any, function: str, number: int, value: object
) -> None:
    with abi.spy(function, returns=True) as calls:
        abi.run(STEP.format(number))
    assert calls.calls[0].return_value == value


def deep(*n: int) -> dict[str, object]:
    return {"b": [{"c": [{"n": list(n)}]}]}


@pytest.mark.parametrize(
    ("function", "number", "value"),
    [
        ("give_wide", 11, {"v": (2 << 64) - 1}),
        ("give_either", 11, {"v": -3, "words": [0xFFFFFFFD, *[0xFFFFFFFF] * 3]}),
        ("give_deep", 11, {"a": [deep(0, 0), deep(4, -4)]}),
        ("give_p9", 1, {"a": 2, "b": 3}),
        ("give_fields", 2, FIELDS),
        ("give_twice", 2, TWICE),
        ("give_mac", 8, {"addr": [2, 0, 255, 3, 0, 1], "type": 9}),
    ],
)
def test_a_spy_and_finish_agree_on_a_structure(
    abi: Any, function: str, number: int, value: object
) -> None:
    with abi.spy(function, returns=True) as calls:
        abi.run(STEP.format(number))
    assert calls.calls[0].return_value == value
    abi.breakpoint(function, temporary=True)
    abi.type(STEP.format(number))
    abi.cont()
    assert abi.finish().return_value == value


@pytest.mark.parametrize(
    ("function", "number", "arguments"),
    [
        ("take_packed", 3, PACKED),
        ("take_aligned", 4, {"a": S5, "b": FIELDS, "c": TWICE, "n": 7}),
    ],
)
def test_a_small_structure_is_passed_in_memory(
    abi: Any, function: str, number: int, arguments: dict[str, object]
) -> None:
    with abi.spy(function, collect=["a.b", "n"]) as calls:
        abi.run(STEP.format(number))
    (call,) = calls.calls
    assert dict(call.args) == arguments
    assert (call["a.b"], call["n"]) == (2, 7)


@pytest.mark.parametrize(
    ("function", "number", "values"),
    [
        ("take_mac", 5, {"m.addr[0]": 2, "m.addr[5]": 1, "m.type": 9}),
        (
            "take_ends",
            6,
            {"a.a[0]": 1, "a.a[8]": 9, "a.end": 10, "b.a": 11, "b.b": -12, "b.c": 13, "n": 14},
        ),
        ("take_many", 7, {"e": 5, "f.b": -7, "g": 9, "h.addr[0]": 10, "h.type": 11}),
        ("take_aligned", 4, {"a.b": 2, "b.b": 0x12345, "c.of[1].b": 6, "n": 7}),
    ],
)
def test_a_structure_that_gcc_stores_later_on(
    abi: Any, function: str, number: int, values: dict[str, int]
) -> None:
    """The debug info has only where it is then, in the function's frame."""
    with abi.spy(function, collect=list(values)) as calls:
        abi.run(STEP.format(number))
    (call,) = calls.calls
    assert dict(call.collected) == values
    all_of = " && ".join(f"{name} == {value}" for name, value in values.items())
    with abi.override(function, 0, when=all_of) as forced:
        abi.run(STEP.format(number))
    assert forced.forced == 1
    never = abi.breakpoint(function, condition=f"!({all_of})")
    hit = abi.breakpoint(function, condition=all_of)
    abi.type(STEP.format(number))
    stop = abi.cont()
    assert (stop.breakpoint, never.hits, hit.hits) == (hit, 0, 1)
    assert {name: abi.evaluate(name) for name in values} == values
    for name, value in stop.frame.args.items():
        assert value == abi.evaluate(name)
        assert abi.evaluate(f"sizeof({name})") == abi.evaluate(f"sizeof({value.type})")


@pytest.mark.parametrize(
    ("function", "number", "values"),
    [
        ("take_wide", 9, {"a": 1, "b": -2, "c": (3 << 64) + 4, "d": {"a": 0x506, "b": 7}}),
        ("take_wide_last", 10, {"e": 5, "f": -(6 << 64), "g": 7}),
    ],
)
def test_a_number_of_128_bits_is_passed_in_two_registers(
    abi: Any, function: str, number: int, values: dict[str, object]
) -> None:
    """Both of them, or none: what one register is left for is on the stack."""
    with abi.spy(function) as calls:
        abi.run(STEP.format(number))
    (call,) = calls.calls
    assert {name: call.args[name] for name in values} == values
    abi.breakpoint(function)
    abi.type(STEP.format(number))
    stop = abi.cont()
    assert {name: stop.frame.args[name] for name in values} == values


def test_a_structure_in_registers_has_no_address(abi: Any) -> None:
    with pytest.raises(KgdbError, match="in a register"):
        abi.spy("take_mac", collect=["&m"])
    abi.breakpoint("take_mac")
    abi.type(STEP.format(5))
    abi.cont()
    with pytest.raises(KgdbError, match="stored nowhere yet"):
        abi.assign("m.type", 5)
    abi.assign("$rdi", 0x1000000000000)
    assert abi.evaluate("m.type") == 1


MAC = [2, 0, 255, 3, 0, 1]


def test_an_array_of_bytes_is_no_text(abi: Any) -> None:
    bytes_of = {"macs": MAC, "signs": [-1, 0, 1], "uints": MAC}
    texts = {"text": "ab", "name": "cd"}
    expected = {**bytes_of, **texts, "m.addr": MAC}
    with abi.spy("take_mac", collect=list(expected)) as calls:
        abi.run(STEP.format(5))
    (call,) = calls.calls
    assert dict(call.collected) == expected
    assert call.args["m"] == {"addr": MAC, "type": 9}
    with abi.spy("give_mac", returns=True) as calls:
        abi.run(STEP.format(8))
    assert calls.calls[0].return_value == {"addr": MAC, "type": 9}
    for name, value in bytes_of.items():
        assert list(abi.evaluate(name)) == value
        assert abi.evaluate(name) == value
        assert abi.evaluate(name) == tuple(value)
        assert abi.evaluate(name) != value[:-1]
        assert abi.evaluate(name) != [*value[:-1], 77]
    assert abi.evaluate("signs[0]") != [-1]
    for name, text in texts.items():
        assert abi.evaluate(name) == text
