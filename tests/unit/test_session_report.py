"""What a failed test's report shows, whatever is left to be asked."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from pytest_kgdb.errors import KgdbError
from pytest_kgdb.klog import Splat
from pytest_kgdb.session._report import sections


class Vm:
    def __init__(self) -> None:
        self.machine = SimpleNamespace(
            alive=True, console=SimpleNamespace(since=lambda mark: b"before and after"[mark:])
        )
        self.gdb = SimpleNamespace(alive=True, tail=lambda lines: "> 1-exec-continue")
        frames = [
            SimpleNamespace(level=0, source=lambda context: ">  12  oops();"),
            SimpleNamespace(level=1, source=self.no_source),
        ]
        self.stop: Any = SimpleNamespace(backtrace=lambda limit: frames)
        self.attachment = SimpleNamespace(
            splats=SimpleNamespace(
                pending=lambda: [Splat("WARN", "WARNING", "WARNING", "WARNING")]
            ),
            cpu_stacks=SimpleNamespace(read=lambda: "CPU 0: idles"),
            run_control=SimpleNamespace(stopped=True, stop=self.stop),
        )

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
