"""What spies saw that differs between two kernels."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from pytest_kgdb.errors import KgdbError
from pytest_kgdb.gate._compare import differences
from pytest_kgdb.gate._verdicts import Run
from pytest_kgdb.plugin import _observe


def runs(*observed: dict[str, int]) -> list[Run]:
    return [Run("PASS", observed=one) for one in observed]


def test_what_differs() -> None:
    base = runs({"f() = 0": 1, "g()": 2, "h()": 1}, {"f() = 0": 1, "g()": 2, "h()": 5})
    patched = runs({"f() = -22": 1, "g()": 2, "h()": 9}, {"f() = -22": 1, "g()": 2, "h()": 9})
    assert differences(base, patched) == (
        "f() = 0: once on the base, never on the patched",
        "f() = -22: never on the base, once on the patched",
    )
    assert differences(base, base) == differences([], []) == ()


def test_there_are_not_too_many() -> None:
    lines = differences(runs({}), runs({f"f({i})": 3 for i in range(50)}))
    assert len(lines) == 20
    assert lines[0] == "f(0): never on the base, 3 times on the patched"
    assert lines[-1] == "31 more differences"


class Values(dict[str, Any]):
    def __getitem__(self, name: str) -> Any:
        value = super().__getitem__(name)
        if isinstance(value, KgdbError):
            raise value
        return value


def call(returned: bool = True, value: Any = 0, **args: Any) -> SimpleNamespace:
    one = SimpleNamespace(function="f", args=Values(args), collected=Values(), returned=returned)
    one.return_value = value
    return one


@pytest.mark.parametrize(
    ("one", "text"),
    [
        (call(x=1, name="a\n"), "f(x=1, name='a\\n') = 0"),
        (call(p=0xFFFF888003C00000), "f(p=…) = 0"),
        (call(value=-22), "f() = -22"),
        (call(value=(1 << 64) - 12), "f() = -12"),
        (call(value={"a": 1, "p": 1 << 40}), "f() = {a: 1, p: …}"),
        (call(value=[1, True]), "f() = [1, True]"),
        (call(returned=False), "f()"),
        (call(x=KgdbError("it was optimised away")), "f(x=?) = 0"),
    ],
)
def test_a_call(one: Any, text: str) -> None:
    assert _observe._call(one) == text


def test_what_is_observed(monkeypatch: pytest.MonkeyPatch) -> None:
    spy = SimpleNamespace(function="f", count=5, calls=[call(x=1), call(x=1), call(x=2)])
    splats = [SimpleNamespace(title="WARNING: CPU: 0 PID: 7 at mm/one.c:7 f+0x12/0x30")]
    attachment = SimpleNamespace(
        instruments=SimpleNamespace(spies=[spy]), splats=SimpleNamespace(splats=splats)
    )
    monkeypatch.setattr(_observe, "attachment_of", lambda handle: attachment)
    handle: Any = None
    assert _observe.observations(handle) == {
        "calls of f()": 5,
        "f(x=1) = 0": 2,
        "f(x=2) = 0": 1,
        "the kernel reported: WARNING: at mm/one.c:7 f": 1,
    }
