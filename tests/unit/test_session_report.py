"""What a failed test's report shows, whatever is left to be asked."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest

from pytest_kgdb.actions import ActionLog
from pytest_kgdb.debugger import StopRecord
from pytest_kgdb.errors import KgdbError
from pytest_kgdb.klog import Splat
from pytest_kgdb.report import Section
from pytest_kgdb.session._report import sections, story


@dataclass
class Frame:
    level: int
    function: str | None
    source: Callable[[int], str]
    inlined: bool = False
    file: str | None = None
    path: str | None = None
    line: int | None = None
    args: ClassVar[Any] = SimpleNamespace(summaries=lambda: {"cmd": "7"})
    locals: ClassVar[Any] = SimpleNamespace(
        summaries=lambda: {"oops": "(void (*)(void)) 0x0", "other": "1"}
    )

    def __str__(self) -> str:
        return f"#{self.level} {self.function}"


class Vm:
    def __init__(self) -> None:
        self.machine = SimpleNamespace(
            name="QEMU",
            alive=True,
            console=SimpleNamespace(shown=lambda mark: "before and after"[mark:]),
        )
        self.gdb = SimpleNamespace(alive=True, tail=lambda lines: "> 1-exec-continue")
        self.frames = [
            Frame(0, "demo_oops", lambda context: ">  12  oops();"),
            Frame(1, "demo_ioctl", self.no_source),
        ]
        self.stop: Any = SimpleNamespace(
            reason="oops",
            cpu=1,
            message=None,
            breakpoint=None,
            frame=self.frames[0],
            task=SimpleNamespace(pid=71, comm="cat"),
            backtrace=lambda limit: self.frames[:limit],
        )
        self.attachment = SimpleNamespace(
            splats=SimpleNamespace(
                unreported=lambda: [Splat("WARN", "WARNING", "WARNING", "WARNING")]
            ),
            cpu_stacks=SimpleNamespace(
                read=lambda: "CPU 0: idles",
                registers=lambda: "RIP=1",
                waiting_tasks=lambda: ["task 9 (sync)"],
            ),
            source=SimpleNamespace(is_local=True),
            run_control=SimpleNamespace(stopped=True, stop=self.stop),
        )
        self.kernel = SimpleNamespace(debug_source="/build/src")

    def no_source(self, context: int) -> str:
        raise KgdbError("the source cannot be read")


@pytest.fixture
def vm() -> Any:
    return Vm()


def parts(vm: Any) -> dict[str, Section]:
    log = ActionLog()
    log.call("cont", "timeout=1", lambda: None)
    return {part.title.removeprefix("kgdb: "): part for part in sections(vm, 7, log)}


def shown(vm: Any) -> dict[str, str]:
    return {title: part.text for title, part in parts(vm).items()}


def test_a_stopped_kernel(vm: Any) -> None:
    vm.stop.message = "BUG: of ours"
    report = shown(vm)
    assert list(report) == [
        *("where the kernel is", "splats", "what the test did"),
        *("console since the test began", "gdb's conversation, its end"),
    ]
    assert report["where the kernel is"].splitlines() == [
        "oops in demo_oops: BUG: of ours; CPU 1, task 71 (cat)",
        ">  12  oops();",
        "    cmd = 7, oops = (void (*)(void)) 0x0",
        "#0 demo_oops",
        "#1 demo_ioctl",
    ]
    assert report["splats"] == "WARNING"
    assert report["what the test did"].endswith(" ms  cont timeout=1")
    assert report["console since the test began"] == "and after"
    assert report["gdb's conversation, its end"] == "> 1-exec-continue"


def test_the_debuggers_own_frames_are_left_out_and_inlined_ones_marked(vm: Any) -> None:
    vm.frames[1].inlined = True
    vm.frames.append(Frame(2, "vfs_ioctl", vm.no_source))
    vm.stop.frame = vm.frames[1]
    assert shown(vm)["where the kernel is"].splitlines()[2:] == [
        "#1 demo_ioctl (inlined)",
        "#2 vfs_ioctl",
    ]


def test_no_source_is_downloaded_for_a_report(vm: Any) -> None:
    def download(context: int) -> str:
        raise AssertionError("it is read")

    vm.attachment.source.is_local = False
    vm.frames[0].source = download
    lines = shown(vm)["where the kernel is"].splitlines()
    assert lines[1:] == ["    cmd = 7", "#0 demo_oops", "#1 demo_ioctl"]


def test_in_brief_a_splat_has_no_registers(vm: Any) -> None:
    text = [
        "[    1.2] BUG: of ours",
        "[    1.2] Hardware name: QEMU",
        "[    1.2][  T47] RIP: 0010:demo_oops+0x1/0x2 [demo]",
        "[    1.2] Code: 90 90",
        "[    1.2] RAX: 0000000000000000 RBX: ff11000000832e00",
        "[    1.2] R10: 0000000000000000",
        "[    1.2]  <TASK>",
        "[    1.2]  ? asm_exc_page_fault+0x1/0x2",
        "[    1.2]  demo_ioctl+0x1/0x2 [demo]",
        "[    1.2] RIP: 0033:0x47b7a0",
    ]
    vm.machine.console.shown = lambda mark: "\n".join(text)
    vm.attachment.splats.unreported = lambda: [
        SimpleNamespace(symbolised="\n".join(line.partition("] ")[2] for line in text))
    ]
    report = parts(vm)
    brief = report["console since the test began"].brief
    assert brief is not None
    assert brief.splitlines() == [text[0], text[2], text[8]]
    brief = report["splats"].brief
    assert brief is not None
    assert len(brief.splitlines()) == 3
    assert report["splats"].text.count("\n") == 9


def test_an_interrupted_kernel(vm: Any) -> None:
    """The report has what was interrupted and who waits, but not the interrupt's own frames."""
    names = [
        *("kgdb_breakpoint", "handle_sysrq", "serial8250_interrupt", "common_interrupt"),
        *("asm_common_interrupt", "demo_spin", "demo_ioctl"),
    ]
    vm.frames[:] = [Frame(level, name, vm.no_source) for level, name in enumerate(names)]
    vm.stop.reason = "interrupt"
    lines = shown(vm)["where the kernel is"].splitlines()
    assert lines[0] == "interrupt; CPU 1, task 71 (cat)"
    assert lines[1:] == [
        "task 9 (sync)",
        "    cmd = 7",
        "#5 demo_spin",
        "#6 demo_ioctl",
    ]


def test_an_interrupt_of_no_known_way_in(vm: Any) -> None:
    vm.stop.reason = "interrupt"
    assert "#0" not in shown(vm)["where the kernel is"]


def test_a_running_kernel(vm: Any) -> None:
    vm.attachment.run_control.stopped = False
    report = parts(vm)["where the kernel is"]
    assert report.text == "running; what its CPUs do:\nCPU 0: idles\nRIP=1"
    assert report.brief == "running; what its CPUs do:\nCPU 0: idles"


def test_gdb_is_gone(vm: Any) -> None:
    vm.gdb.alive = False
    assert shown(vm)["where the kernel is"].endswith("what the kernel's CPUs do:\nCPU 0: idles")


def test_qemu_is_gone(vm: Any) -> None:
    vm.machine.alive = False
    assert shown(vm)["where the kernel is"] == "gone: QEMU has ended"


def test_what_cannot_be_read_is_left_out(vm: Any) -> None:
    def broken(*_: object, **__: object) -> Any:
        raise KgdbError("not mapped")

    vm.attachment.splats.unreported = broken
    vm.stop.backtrace = broken
    assert set(shown(vm)) == {
        *("what the test did", "console since the test began", "gdb's conversation, its end"),
    }


def test_the_story_of_a_test(vm: Any, tmp_path: Path) -> None:
    source = tmp_path / "open.c"
    source.write_text("".join(f"line {number}\n" for number in range(1, 20)))
    log = ActionLog()
    spy = SimpleNamespace(
        function="vfs_read", calls=[Call(log.origin + number) for number in range(500)]
    )
    log.call("spy", "vfs_read", lambda: spy)
    frame = {"func": "do_open", "file": str(source), "fullname": str(source), "line": "2"}
    log.stopped(StopRecord({"frame": frame}))
    vm.stop.frame.file, vm.stop.frame.path, vm.stop.frame.line = "open.c", str(source), 2
    log.recorded(vm.stop)
    lines = [(log.origin - 1, "of an earlier test"), (log.origin + 0.5, "\x1b[1mhello")]
    lines += [(log.origin + 0.6, "\x1b[0m"), (log.origin + 0.7, "out")]
    lines += [(log.origin + 0.8, "x" * 100_000)]
    vm.machine.console.timed = lambda mark: lines
    told = story(vm, 7, log)
    for kind in ("console", "calls"):  # seconds since a moment that no float is exactly
        told[kind] = [(round(at, 3), text) for at, text in told[kind]]
    json.dumps(told)  # it goes from process to process
    assert told["console"][:2] == [(0.5, "hello"), (0.7, "out")]
    assert told["console"][2][1].endswith("xx … (100000 characters)")
    assert len(told["console"][2][1]) < 500
    assert len(told["calls"]) == 200
    assert told["calls"][-1] == (499.0, "simplenamespace 1: vfs_read()")
    call, stop = told["actions"]
    assert call["source"] == []
    assert stop["source"][1] == {"text": "     2  line 2", "here": True}
    assert [line["here"] for line in stop["source"]] == [False, True, *[False] * 4]
    assert story(None, 0, ActionLog())["console"] == []


@dataclass
class Call:
    host_time: float

    def __str__(self) -> str:
        return "<1: vfs_read()>"
