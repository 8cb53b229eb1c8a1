"""Leaks: what the kernel's detector is made to do, and which of its findings are new."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from fake_guest_shell import FakeShell, StopState

from pytest_kgdb.console import Result
from pytest_kgdb.deadline import WaitLimit
from pytest_kgdb.errors import GuestCommandError
from pytest_kgdb.klog import LogLine, Splat, SplatFrame, find_splats
from pytest_kgdb.recipes import LeakBaseline, LeakDetector


def report(size: int, *path: str) -> str:
    lines = [
        f"unreferenced object 0xffff88800{len(path)}{size:04x} (size {size}):",
        '  comm "sh", pid 1, jiffies 4294900000 (age 3.1s)',
        "  backtrace:",
        *(f"    [<00000000>] {name}" for name in path),
    ]
    return "".join(f"{line}\n" for line in lines)


def leak(size: int, *path: str) -> Splat:
    text = report(size, *(f"{name}+0x5/0x10" for name in path))
    (found,) = find_splats(
        LogLine(line, None, "debugfs", seq) for seq, line in enumerate(text.splitlines())
    )
    return found


def test_leaks_that_there_are_anyway() -> None:
    usual = [leak(64, "kmalloc_trace", "setup"), leak(64, "kmalloc_trace", "setup")]
    baseline = LeakBaseline(usual)
    assert baseline.beyond(usual) == []
    other, third = leak(32, "kmalloc_trace", "setup"), leak(64, "kmalloc_trace", "probe")
    assert baseline.beyond([*usual, other, third]) == [other, third]
    assert baseline.beyond([*usual, usual[0]]) == [usual[0]], "one more of them"
    assert baseline.beyond([]) == []
    assert baseline.beyond(usual) == [], "and it forgets nothing"


class World:
    def __init__(self, config: Sequence[str] = ("DEBUG_KMEMLEAK",)) -> None:
        self.control = StopState()
        self.shell = FakeShell()
        self.assigned: list[tuple[str, object]] = []
        self.disabled = False
        self.was_disabled: list[bool] = []
        self.gone: dict[int, SplatFrame] = {}
        self.waits = WaitLimit(30)
        parts: Any = self
        self.detector = LeakDetector(
            parts.control,
            parts.shell,
            parts,
            config=config,
            waits=self.waits,
            assign=lambda name, value: self.assigned.append((name, value)),
            breakpoints_disabled=self.breakpoints_disabled,
            frame_of_unloaded=self.gone.get,
        )

    @contextlib.contextmanager
    def breakpoints_disabled(self) -> Iterator[None]:
        self.disabled = True
        yield
        self.disabled = False

    def symbolise(self, frames: Sequence[SplatFrame]) -> list[SplatFrame]:
        return list(frames)

    def answer(self, text: str, status: int = 0) -> None:
        def answer() -> Result:
            self.was_disabled.append(self.disabled)
            return Result(status, text)

        self.shell.answers["kmemleak"] = answer


@pytest.fixture
def world() -> World:
    return World()


def test_a_kernel_without_a_detector() -> None:
    assert World().detector.why_not() is None
    why = World(config=()).detector.why_not()
    assert why == "the kernel is without CONFIG_DEBUG_KMEMLEAK"


def test_the_kernel_scans_until_it_is_sure(world: World) -> None:
    world.answer(report(64, "kmalloc_trace+0x5/0x10", "demo_probe+0x1/0x2 [demo]"))
    (found,) = world.detector.find()
    assert (found.kind, found.function) == ("memory leak", "demo_probe")
    assert "allocated in" in found.message
    (command,) = world.shell.commands
    assert command.count("echo scan") == 3
    assert world.assigned == [("jiffies_min_age", 0)], "what is young counts, too"
    assert world.was_disabled == [True]
    assert world.control.interrupts == 1


@pytest.mark.parametrize(("limit", "timeout"), [(30, 180), (600, 600)])
def test_a_scan_may_take_its_time(world: World, limit: float, timeout: float) -> None:
    world.waits.set(limit)
    world.answer("")
    assert world.detector.find() == []
    assert world.shell.timeouts == [timeout]


def test_a_kernel_that_does_not_scan(world: World) -> None:
    world.answer("sh: write error: Operation not permitted\n", status=1)
    with pytest.raises(GuestCommandError, match=r"does not scan: sh: write error") as error:
        world.detector.find()
    assert "kmemleak=off" in (error.value.hint or "")


def test_a_module_that_is_gone(world: World) -> None:
    world.gone[0xFFFFFFFFA0005020] = SplatFrame(
        "demo_probe", 0x20, 0x40, "demo", file="demo.c", line=12
    )
    world.answer(report(64, "kmalloc_trace+0x5/0x10", "0xffffffffa0005020", "0xffffffffa0009999"))
    (found,) = world.detector.find()
    frames = [(frame.function, frame.file, frame.line) for frame in found.frames]
    assert frames[:2] == [("kmalloc_trace", None, None), ("demo_probe", "demo.c", 12)]
    assert "demo_probe+0x20/0x40 [demo]" in found.text
    assert "0xffffffffa0009999" in found.text, "what nobody knows stays an address"
