"""What spies saw that differs between two kernels."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from pytest_kgdb.errors import KgdbError
from pytest_kgdb.gate._compare import differences
from pytest_kgdb.gate._verdicts import Run
from pytest_kgdb.klog import LogLine, Splat, find_splats
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


def test_an_address_in_what_a_test_has_collected() -> None:
    """As `collect=[f"((struct foo *){address})->count"]` has it: it is of one run."""
    one: Any = call()
    one.collected = Values(
        {
            "((struct foo *)0xff11000000d87240)->count": 7,
            "*(int *)18379190079305744960UL": 8,
            "x & 0xffffffff": 9,
            "jiffies - 4294667296": 10,
        }
    )
    assert _observe._call(one) == (
        "f() = 0, ((struct foo *)…)->count: 7, *(int *)…UL: 8, x & 0xffffffff: 9, "
        "jiffies - 4294667296: 10"
    )


def leak(size: int, *path: str) -> Splat:
    lines = [
        f"unreferenced object 0xffff888001234500 (size {size}):",
        '  comm "sh", pid 1, jiffies 4294900000 (age 3.1s)',
        "  backtrace:",
        *(f"    [<00000000>] {name}+0x5/0x10" for name in path),
    ]
    (splat,) = find_splats(LogLine(line, None, "debugfs", seq) for seq, line in enumerate(lines))
    return splat


class Splats:
    """The test's splats, and those that the kernel's leak detector adds."""

    def __init__(self, *titles: str) -> None:
        self.splats = [SimpleNamespace(title=title, kind="WARN", key=title) for title in titles]
        self.acknowledged: list[Any] = []

    def pending(self) -> list[Any]:
        return [one for one in self.splats if one not in self.acknowledged]

    def acknowledge(self, splats: list[Any]) -> None:
        self.acknowledged += splats


class Leaks:
    def __init__(self, splats: Splats, found: list[Splat] | KgdbError | None) -> None:
        self.splats, self.found = splats, found

    def why_not(self) -> str | None:
        return "there is no detector" if self.found is None else None

    def find(self) -> list[Splat]:
        report = SimpleNamespace(title="1 new suspected", kind="memory leak", key="scan")
        self.splats.splats.append(report)
        if isinstance(self.found, KgdbError):
            raise self.found
        assert self.found is not None
        return self.found


def observed(monkeypatch: pytest.MonkeyPatch, splats: Splats, leaks: Any, *spies: Any) -> Any:
    attachment = SimpleNamespace(
        instruments=SimpleNamespace(spies=spies), splats=splats, leaks=Leaks(splats, leaks)
    )
    monkeypatch.setattr(_observe, "attachment_of", lambda handle: attachment)
    handle: Any = None
    return _observe.observations(handle)


def test_leaks(monkeypatch: pytest.MonkeyPatch) -> None:
    splats = Splats("WARNING: at mm/one.c:7")
    leaks = [leak(64, "kmalloc_trace", "take", "start"), leak(64, "kmalloc_trace", "take", "start")]
    assert observed(monkeypatch, splats, [*leaks, leak(8)]) == {
        "the kernel reported: WARNING: at mm/one.c:7": 1,
        "leaked: 64 bytes, allocated in take(), called by start()": 2,
        "leaked: 8 bytes": 1,
    }
    assert [one.key for one in splats.pending()] == ["WARNING: at mm/one.c:7"], "the test's own"


def test_leaks_that_cannot_be_looked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    splats = Splats()
    assert observed(monkeypatch, splats, KgdbError("the kernel does not scan")) == {}
    assert splats.pending() == []


def test_a_leak_that_the_kernel_has_reported_before_is_the_tests(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    splats = Splats()
    splats.splats.append(SimpleNamespace(title="an own scan", kind="memory leak", key="own"))
    observed(monkeypatch, splats, [])
    assert [one.key for one in splats.pending()] == ["own"]


def test_what_is_observed(monkeypatch: pytest.MonkeyPatch) -> None:
    spy = SimpleNamespace(function="f", count=5, calls=[call(x=1), call(x=1), call(x=2)])
    splats = Splats("WARNING: CPU: 0 PID: 7 at mm/one.c:7 f+0x12/0x30")
    assert observed(monkeypatch, splats, None, spy) == {
        "calls of f()": 5,
        "f(x=1) = 0": 2,
        "f(x=2) = 0": 1,
        "the kernel reported: WARNING: at mm/one.c:7 f": 1,
    }
