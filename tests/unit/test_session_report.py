"""What a failed test's report shows, whatever is left to be asked."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pytest

from pytest_kgdb.errors import KgdbError
from pytest_kgdb.klog import Splat
from pytest_kgdb.session._report import sections


@dataclass
class Frame:
    level: int
    function: str | None
    source: Callable[[int], str]

    def __str__(self) -> str:
        return f"#{self.level} {self.function}"


class Vm:
    def __init__(self) -> None:
        self.machine = SimpleNamespace(
            alive=True, console=SimpleNamespace(since=lambda mark: b"before and after"[mark:])
        )
        self.gdb = SimpleNamespace(alive=True, tail=lambda lines: "> 1-exec-continue")
        self.frames = [
            Frame(0, "demo_oops", lambda context: ">  12  oops();"),
            Frame(1, "demo_ioctl", self.no_source),
        ]
        self.stop: Any = SimpleNamespace(
            reason="oops",
            cpu=1,
            task=SimpleNamespace(pid=71, comm="cat"),
            backtrace=lambda limit: self.frames[:limit],
        )
        self.attachment = SimpleNamespace(
            splats=SimpleNamespace(
                pending=lambda: [Splat("WARN", "WARNING", "WARNING", "WARNING")]
            ),
            cpu_stacks=SimpleNamespace(read=lambda: "CPU 0: idles"),
            run_control=SimpleNamespace(stopped=True, stop=self.stop),
            memory=SimpleNamespace(blocked_tasks=lambda source: [f"task 9 (sync) of {source}"]),
        )
        self.kernel = SimpleNamespace(debug_source="/build/src")

    def no_source(self, context: int) -> str:
        raise KgdbError("the source cannot be read")


@pytest.fixture
def vm() -> Any:
    return Vm()


def shown(vm: Any) -> dict[str, str]:
    return {title.removeprefix("kgdb: "): text for title, text in sections(vm, 7)}


def test_a_stopped_kernel(vm: Any) -> None:
    report = shown(vm)
    assert report["console since the test began"] == "and after"
    assert report["splats"] == "WARNING"
    assert ">  12  oops();" in report["where the kernel is"]
    assert report["gdb's conversation, its end"] == "> 1-exec-continue"


def test_an_interrupted_kernel(vm: Any) -> None:
    """The report has what was interrupted and who waits, but not the interrupt's own frames."""
    names = [
        *("kgdb_breakpoint", "handle_sysrq", "serial8250_interrupt", "common_interrupt"),
        *("asm_common_interrupt", "demo_spin", "demo_ioctl"),
    ]
    vm.frames[:] = [Frame(level, name, vm.no_source) for level, name in enumerate(names)]
    vm.stop.reason = "interrupt"
    lines = shown(vm)["where the kernel is"].splitlines()
    assert lines[1:] == [
        "on CPU 1: task 71 (cat)",
        "task 9 (sync) of /build/src",
        "#5 demo_spin",
        "#6 demo_ioctl",
    ]


def test_an_interrupt_of_no_known_way_in(vm: Any) -> None:
    vm.stop.reason = "interrupt"
    assert "#0" not in shown(vm)["where the kernel is"]


def test_a_running_kernel(vm: Any) -> None:
    vm.attachment.run_control.stopped = False
    assert shown(vm)["where the kernel is"] == "running; what its CPUs do:\nCPU 0: idles"


def test_gdb_is_gone(vm: Any) -> None:
    vm.gdb.alive = False
    assert shown(vm)["where the kernel is"].endswith("what the kernel's CPUs do:\nCPU 0: idles")


def test_qemu_is_gone(vm: Any) -> None:
    vm.machine.alive = False
    assert shown(vm)["where the kernel is"] == "gone: QEMU has ended"


def test_what_cannot_be_read_is_left_out(vm: Any) -> None:
    def broken(*_: object, **__: object) -> Any:
        raise KgdbError("not mapped")

    vm.attachment.splats.pending = broken
    vm.stop.backtrace = broken
    assert set(shown(vm)) == {"console since the test began", "gdb's conversation, its end"}
