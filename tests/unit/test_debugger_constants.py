"""What gdb is asked for once in a kernel's life."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from fake_gdb import FakeGdb, Parts

from pytest_kgdb.debugger import Constants, GdbError


def test_the_second_session_does_not_ask(parts: Parts, gdb: FakeGdb) -> None:
    kept: dict[str, str] = {}

    def remember(key: str, compute: Callable[[], str]) -> str:
        if key not in kept:
            kept[key] = compute()
        return kept[key]

    gdb.numbers.update({"sizeof(int)": 4, "&modules": -8})
    first, second = (Constants(parts.debugger, remember) for _ in range(2))
    assert first.numbers(("sizeof(int)", "&modules")) == [4, -8]
    gdb.numbers.clear()
    assert second.numbers(("sizeof(int)", "&modules")) == [4, -8]
    with pytest.raises(GdbError):
        second.numbers(("&modules",))
    gdb.numbers["&modules"] = -8
    assert second.numbers(("&modules",)) == [-8]  # an error is not remembered


def test_symbols_are_those_of_the_file(parts: Parts) -> None:
    class Elf:
        def symbol(self, name: str) -> int | None:
            return {"_text": 1 << 63}.get(name)

    constants = Constants(parts.debugger, lambda _, compute: compute())
    elf: Any = Elf()
    assert constants.symbols(elf, ("_text", "free_initmem")) == {"_text": 1 << 63}
