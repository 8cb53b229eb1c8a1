"""A gate with tests whose outcome is made up: a patched kernel that does not boot."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from pytest_kgdb.change import Change, Side
from pytest_kgdb.gate import Gate, Verdict
from pytest_kgdb.gate._verdicts import Run
from pytest_kgdb.progress import Silent
from pytest_kgdb.settings import make_settings

GOOD = Run("PASS")
LATE = Run("MISS", "BootError: the kernel did not reach kgdb in 60 s", boot="late")
DEAD = Run("MISS", "BootError: the kernel panicked before kgdb was up: no", boot="panicked")
OTHER = Run("MISS", "BootError: the initrd does not fit")


class Child:
    def __enter__(self) -> Child:
        return self

    def __exit__(self, *_: object) -> None:
        pass


class World:
    """As Runner and Kernels."""

    repeat = 2

    def __init__(self, base: Run, patched: Run, again: Run | None = None) -> None:
        self.runs = {"base": [base] * 2, "patched": [patched] * 2}
        self.again = again
        self.started: list[tuple[str, int]] = []

    def build(self, settings: Any) -> Any:
        kernel = SimpleNamespace(inexact=(), release="6.1", build_id="", source=None)
        return SimpleNamespace(kernel=kernel, modules=())

    def same(self, one: object, other: object) -> bool:
        return False

    def start_in_step(self, sides: Any) -> Any:
        for name in sides:
            yield name, Child()

    def start(self, name: str, settings: object, *, repeat: int = 3) -> Any:
        self.started.append((name, repeat))
        return Child()

    def wait(self, children: object, say: object) -> None:
        pass

    def result(self, name: str, child: object) -> dict[str, list[Run]]:
        if name == "again":
            return {"test_a": [self.again]} if self.again is not None else {}
        return {"test_a": self.runs[name]}

    def gate(self) -> tuple[Verdict, str]:
        settings = make_settings(kernel=["distro:6.1"])
        change = Change(Side("base", settings), Side("patched", settings), ("mm/one.c",))
        fakes: Any = self
        (result,) = Gate(change, fakes, fakes, progress=Silent()).run().results
        return result.verdict, result.reason


@pytest.mark.parametrize(
    ("again", "verdict"),
    [
        (LATE, Verdict.BROKEN),
        (DEAD, Verdict.BROKEN),
        (GOOD, Verdict.CANNOT_TELL),  # the host was busy
        (OTHER, Verdict.CANNOT_TELL),
        (None, Verdict.CANNOT_TELL),
    ],
)
def test_a_boot_that_was_late_is_tried_again(again: Run | None, verdict: Verdict) -> None:
    world = World(GOOD, LATE, again)
    assert world.gate()[0] is verdict
    assert world.started == [("again", 1)]


def test_why() -> None:
    assert World(GOOD, LATE, LATE).gate()[1] == (
        "the patched kernel does not boot (nor when it is tried again, alone): "
        "BootError: the kernel did not reach kgdb in 60 s"
    )
    assert World(GOOD, LATE, GOOD).gate()[1] == f"on the patched kernel: {LATE.message}"


@pytest.mark.parametrize(
    ("base", "patched", "verdict"),
    [
        (GOOD, DEAD, Verdict.BROKEN),
        (GOOD, OTHER, Verdict.CANNOT_TELL),
        (LATE, LATE, Verdict.CANNOT_TELL),
        (DEAD, GOOD, Verdict.CANNOT_TELL),
        (LATE, GOOD, Verdict.CANNOT_TELL),
    ],
)
def test_what_is_clear_is_not_tried_again(base: Run, patched: Run, verdict: Verdict) -> None:
    world = World(base, patched)
    assert world.gate()[0] is verdict
    assert world.started == []
