"""The bytes of arguments and of what functions return."""

from __future__ import annotations

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import pytest

from pytest_kgdb.errors import KgdbError
from pytest_kgdb.trace._functions import Returns
from pytest_kgdb.trace._layout import decode
from pytest_kgdb.trace._pointers import Pointer, String, Text

INT = {"kind": "int", "size": 4, "signed": True}
LONG = {"kind": "int", "size": 8, "signed": True}
BYTE = {"kind": "int", "size": 1, "signed": False}
BOOL = {"kind": "bool", "size": 1, "signed": False}
WIDE = {"kind": "int", "size": 16, "signed": True}


POINTER = {"kind": "ptr", "size": 8, "signed": False}
STRING = {"kind": "string", "size": 8, "signed": False}


def nothing(address: int, size: int) -> bytes:
    raise KgdbError(f"{size} bytes at {address:#x} are not mapped")


def struct(size: int, *members: tuple[str, int, int, Mapping[str, Any]]) -> dict[str, Any]:
    return {"kind": "struct", "size": size, "signed": False, "members": [list(m) for m in members]}


@pytest.mark.parametrize(
    ("layout", "data", "value"),
    [
        (INT, b"\xfe\xff\xff\xff", -2),
        (BYTE, b"\xfe", 254),
        (BOOL, b"\x01", True),
        (WIDE, b"\xfb" + b"\xff" * 15, -5),
        (struct(16, ("a", 0, 0, INT), ("b", 64, 0, LONG)), b"\1" + bytes(7) + b"\2" + bytes(7), 0),
        (struct(1, ("on", 0, 1, BOOL), ("level", 1, 3, BYTE), ("tilt", 4, 4, INT)), b"\xdb", 1),
        ({**BYTE, "kind": "chars", "size": 4, "element": BYTE, "count": 4}, b"ab\0d", "ab"),
        ({"kind": "array", "size": 8, "element": INT, "count": 2}, b"\1\0\0\0\2\0\0\0", [1, 2]),
    ],
)
def test_decode(layout: dict[str, Any], data: bytes, value: object) -> None:
    expected = {0: {"a": 1, "b": 2}, 1: {"on": True, "level": 5, "tilt": -3}}
    if "members" in layout:
        assert isinstance(value, int)
        value = expected[value]
    assert decode(layout, data, nothing) == value


def event(ax: int, dx: int = 0, memory: bytes = b"") -> Any:
    return SimpleNamespace(
        registers={"ax": ax, "dx": dx}, read=lambda address, size: memory[address : address + size]
    )


def test_what_functions_return() -> None:
    assert Returns("int", "int", 4, True).read(event(0xFFFFFFFE)) == -2
    assert Returns("void", "void", 1, False).read(event(5)) is None
    wide = Returns("__int128", "int", 16, True, WIDE)
    assert wide.read(event(7, 77)) == (77 << 64) + 7
    two = struct(16, ("a", 0, 0, LONG), ("b", 64, 0, LONG))
    assert Returns("struct two", "struct", 16, False, two).read(event(1, 2)) == {"a": 1, "b": 2}
    three = struct(24, ("c", 128, 0, LONG))
    memory = bytes(100 + 16) + b"\3" + bytes(7)
    returned = Returns("struct three", "struct", 24, False, three, in_memory=True)
    assert returned.read(event(100, 0, memory)) == {"c": 3}
    with pytest.raises(KgdbError, match="returned a union odd"):
        Returns("union odd", "union", 64, False).read(event(1))


def test_pointers_within_a_value() -> None:
    layout = struct(
        40, ("p", 0, 0, POINTER), ("name", 64, 0, STRING), ("n", 64, 0, LONG),
        ("names", 128, 0, {"kind": "array", "size": 16, "element": STRING, "count": 2}),
    )  # fmt: skip
    words = ((1 << 64) - 12, 0x1000, 0x1000, 0)
    data = b"".join(word.to_bytes(8, "little") for word in words)
    value = decode(layout, data, lambda _address, size: b"one\0".ljust(size))
    assert value["p"] == "-ENOMEM"
    assert value["p"] == -12
    assert value["name"] == "one"
    assert value["n"] == 0x1000
    assert value["names"] == ["one", 0]
    assert value["names"][0].string() == "one"
    assert decode(layout, data, nothing)["name"] == 0x1000


def test_a_text_that_is_returned() -> None:
    returns = Returns("char *", "string", 8, False)
    value = returns.read(event(2, memory=b"  one\0"))
    assert value == "one"
    assert value.string() == "one"
    assert returns.read(event(0)) == 0


def test_pointers_at_a_call() -> None:
    bad, good = Pointer((1 << 64) - 12), Pointer(1 << 63 | 5)
    assert bad == -12
    assert bad == "-ENOMEM"
    assert bad == "ERR_PTR(-ENOMEM)"
    assert bad == (1 << 64) - 12
    assert (bad != -12) is False
    assert bad != -11
    assert repr(bad) == "ERR_PTR(-ENOMEM)"
    assert good == 1 << 63 | 5
    assert good != "-ENOMEM"
    assert repr(good) == "0x8000000000000005"
    text = Text(16, String(b"abc"))
    assert text == "abc"
    assert text != "abd"
    assert (text != "abc") is False
    assert text == 16
    assert Text((1 << 64) - 12, None) == "-ENOMEM"
