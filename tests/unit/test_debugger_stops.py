"""Stops: why the kernel stopped, in which frame, and what went first when all is gone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fake_gdb import FakeGdb, Parts, Refused

from pytest_kgdb.debugger import GdbError, Reason, Restored, Resumed, Stop, place_of
from pytest_kgdb.debugger._classify import classify, select_frame, trap_name
from pytest_kgdb.errors import (
    DebuggerDied,
    KernelPanic,
    KgdbError,
    MachineDied,
    StaleError,
)

# Classification


def signal(name: str) -> dict[str, str]:
    return {"reason": "signal-received", "signal-name": name}


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        ({"reason": "breakpoint-hit", "bkptno": "1"}, "breakpoint"),
        ({"reason": "watchpoint-trigger"}, "watchpoint"),
        ({"reason": "read-watchpoint-trigger"}, "watchpoint"),
        ({"reason": "access-watchpoint-trigger"}, "watchpoint"),
        ({"reason": "function-finished"}, "finished"),
        ({"reason": "end-stepping-range"}, "step"),
        ({"reason": "location-reached"}, "step"),
        (signal("SIGINT"), "interrupt"),
        (signal("SIGSEGV"), "oops"),
        (signal("SIGBUS"), "oops"),
        (signal("SIGILL"), "oops"),
        (signal("SIGFPE"), "oops"),
    ],
)
def test_what_gdbs_record_says(record: dict[str, str], reason: Reason) -> None:
    def names() -> list[str | None]:
        raise AssertionError("the stack need not be read, which takes a while")

    assert classify(record, names) == (reason, record.get("signal-name"))


@pytest.mark.parametrize(
    ("stack", "reason"),
    [
        (["kgdb_breakpoint", "sysrq_handle_dbg", "__handle_sysrq", "handle_sysrq"], "interrupt"),
        # gcc has made a jump of the last call of sysrq_handle_dbg: Linux 6.1.
        (["kgdb_breakpoint", "__handle_sysrq", "handle_sysrq"], "interrupt"),
        # Through QEMU's stub.
        (["__handle_sysrq", "write_sysrq_trigger"], "interrupt"),
        (["kgdb_panic", "panic", "sysrq_handle_crash"], "panic"),
        (["__crash_kexec", "vpanic", "panic", "sysrq_handle_crash"], "panic"),
        (["native_stop_other_cpus", "panic", "sysrq_handle_crash"], "panic"),
        (["kgdb_breakpoint", "kgdb_panic", "panic", "sysrq_handle_crash"], "panic"),
        (["kgdb_breakpoint", "panic", "__warn"], "panic"),
        (["kgdb_breakpoint", "kgdb_panic", "vpanic", "panic"], "panic"),
        (["kgdb_breakpoint", "kgdb_initial_breakpoint", "kgdb_register_io_module"], "int3"),
        (["kgdb_breakpoint", None, "__handle_sysrq"], "int3"),
        (["demo_init", "sysrq_handle_dbg"], "int3"),
        ([None], "int3"),
        ([], "int3"),
    ],
)
def test_what_the_stack_says(stack: list[str | None], reason: Reason) -> None:
    assert classify(signal("SIGTRAP"), lambda: stack) == (reason, "SIGTRAP")
    assert classify({}, lambda: stack) == (reason, None)


# The frame


def frames(*names: str | None) -> Callable[..., dict[str, Any]]:
    def answer(limit: int, behind: bool = False) -> dict[str, Any]:
        records = [
            {"level": level, "function": name, "address": 0xFFFFFFFF81000000 + level}
            for level, name in enumerate(names)
        ]
        return {"frames": records[:limit]}

    return answer


PANIC = ("kgdb_breakpoint", "kgdb_panic", "panic")


@pytest.mark.parametrize(
    ("reason", "stack", "level"),
    [
        ("breakpoint", ("kgdb_breakpoint", "do_sys_openat2"), 0),
        ("oops", ("demo_crash", "demo_init"), 0),
        ("int3", ("kgdb_breakpoint", "kgdb_initial_breakpoint"), 1),
        ("int3", ("demo_init", "do_one_initcall"), 0),
        ("int3", ("kgdb_breakpoint",), 0),
        ("panic", (*PANIC, "sysrq_handle_crash", "__handle_sysrq"), 3),
        # An oops with panic_on_oops, back to the instruction.
        ("panic", (*PANIC, "oops_end", "page_fault_oops", "exc_page_fault", "asm_exc_page_fault",
                   "demo_crash", "demo_init"), 7),
        # gdb sees no entry: the first on the way stands.
        ("panic", (*PANIC, "oops_end", "page_fault_oops", "demo_crash"), 3),
        ("panic", (*PANIC, "__warn", "report_bug", "handle_bug", "exc_invalid_op",
                   "asm_exc_invalid_op", "demo_warn", "demo_init"), 8),
        ("panic", ("kgdb_breakpoint", "kgdb_panic", "vpanic", "panic", "demo_init"), 4),
        ("panic", ("__crash_kexec", "vpanic", "panic", "demo_init"), 3),
        ("panic", PANIC, 0),
        ("panic", (), 0),
    ],
)  # fmt: skip
def test_the_frame_that_a_stop_is_about(
    parts: Parts, gdb: FakeGdb, reason: Reason, stack: tuple[str, ...], level: int
) -> None:
    gdb.agent["frames"] = frames(*stack)
    gdb.agent["select"] = lambda frame: {}
    assert select_frame(parts.debugger, reason) == level
    assert [request["frame"] for request in gdb.requests("select")] == ([level] if level else [])


ADD = (0x01, 0xC0, 0, 0)
STACK = "*(unsigned char *)(((unsigned long)$sp & ~15UL) - 8)"


@pytest.mark.parametrize(
    ("door", "task"), [("kgdb", "kgdb_info[kgdb_active.counter].task"), ("qemu", "(current)")]
)
@pytest.mark.parametrize(
    ("signal", "number", "below", "code", "name"),
    [
        ("SIGSEGV", 14, -512, ADD, "page fault"),
        ("SIGSEGV", 6, -512, ADD, "invalid opcode"),
        ("SIGSEGV", 3, -512, ADD, None),
        ("SIGILL", 0, -512, (0x0F, 0x0B, 0, 0), "invalid opcode"),  # ud2
        ("SIGILL", 14, -512, (0x0F, 0x0B, 0, 0), "invalid opcode"),  # after one of user mode
        ("SIGFPE", 0, -512, (0xF7, 0xF1, 0, 0), "divide error"),  # div %ecx
        ("SIGFPE", 0, -512, (0x48, 0xF7, 0x39, 0), "divide error"),  # idivq (%rcx)
        ("SIGSEGV", 0, -512, (0x48, 0xF7, 0xD8, 0), None),  # neg %rax
        ("SIGSEGV", 0, -512, ADD, None),
        ("SIGSEGV", 0, 8, ADD, "kernel stack overflow"),
        ("SIGSEGV", 14, 4096, ADD, "kernel stack overflow"),
        ("SIGSEGV", 14, 4097, ADD, "page fault"),
        ("SIGSEGV", 14, 0, ADD, "page fault"),
    ],
)
def test_the_exception_of_an_oops(
    tmp_path: Path,
    gdb: FakeGdb,
    signal: str,
    number: int,
    below: int,
    code: tuple[int, ...],
    name: str | None,
    door: str,
    task: str,
) -> None:
    parts = Parts(tmp_path, gdb, door=door)
    assert trap_name(parts.debugger, signal) is None, "whatever is broken in the kernel's memory"
    gdb.numbers[f"{task}->thread.trap_nr"] = number
    gdb.numbers[f"(unsigned long){task}->stack - (unsigned long)$sp"] = below
    for index, byte in enumerate(code):
        gdb.numbers[f"((unsigned char *)$pc)[{index}]"] = byte
    gdb.numbers[STACK] = 0
    assert trap_name(parts.debugger, signal) == name
    parts.close()


def test_an_exception_that_could_not_be_pushed(parts: Parts, gdb: FakeGdb) -> None:
    task = "kgdb_info[kgdb_active.counter].task"
    gdb.numbers[f"{task}->thread.trap_nr"] = 0
    gdb.numbers[f"(unsigned long){task}->stack - (unsigned long)$sp"] = -(1 << 47)
    assert trap_name(parts.debugger, "SIGSEGV") == "double fault", "nothing is mapped there"


def test_an_oops_has_the_frames_of_inlined_code(parts: Parts, gdb: FakeGdb) -> None:
    parts.stop_by(lambda: gdb.signal("SIGTRAP", "demo_init"))
    assert gdb.requests("show_inlined") == []
    parts.stop_by(lambda: gdb.signal("SIGSEGV", "demo_crash"))
    assert gdb.requests("show_inlined") == [{"op": "show_inlined"}]


# A stop


@pytest.fixture
def stop(parts: Parts, gdb: FakeGdb) -> Stop:
    gdb.agent["frames"] = frames(*PANIC, "sysrq_handle_crash", "__handle_sysrq")
    gdb.agent["select"] = lambda frame: {}
    stop: Stop = parts.stop_by(lambda: gdb.signal("SIGTRAP", *PANIC, "sysrq_handle_crash"))
    return stop


def test_its_frames_are_read_when_they_are_asked_for(stop: Stop, gdb: FakeGdb) -> None:
    asked = len(gdb.requests("frames"))
    assert stop.frame.function == "sysrq_handle_crash"
    assert [frame.level for frame in stop.backtrace(2)] == [0, 1]
    assert len(gdb.requests("frames")) == asked + 1
    assert stop.backtrace()[-1].function == "__handle_sysrq"
    assert len(gdb.requests("frames")) == asked + 2
    assert repr(stop) == "<Stop panic in #3 sysrq_handle_crash>"


@pytest.mark.parametrize(
    ("stack", "words"),
    [
        (
            [("inner", "list.h", True), ("list_del", "list.h", True), ("demo", "demo.c", False)],
            "inner at list.h:1, inlined into demo at demo.c:3",
        ),
        (
            [("list_del", "list.h", True), ("inner", "demo.c", True), ("demo", "demo.c", False)],
            "list_del at list.h:1, inlined into inner at demo.c:2",
        ),
        ([("inner", "demo.c", True), ("demo", "demo.c", False)], "inner at demo.c:1"),
        ([("list_del", "list.h", False), ("demo", "demo.c", False)], "list_del at list.h:1"),
        ([("list_del", "list.h", True)], "list_del at list.h:1"),
        ([("stall", "stall.h", True), ("stall", "stall.h", False)], "stall at stall.h:1"),
        (
            [("state", None, False), ("demo", "demo.c", False)],
            "state, called from demo at demo.c:2",
        ),
        (
            [
                ("strlen", "lib/string.c", False),
                ("kstrdup", "mm/util.c", False),
                ("demo", "/home/lib/demo.c", False),
            ],
            "strlen at lib/string.c:1, called from demo at /home/lib/demo.c:3",
        ),
        (
            [("memcpy", "arch/x86/lib/memcpy_64.S", False), ("demo", "fs/demo.c", False)],
            "memcpy at arch/x86/lib/memcpy_64.S:1, called from demo at fs/demo.c:2",
        ),
        (
            [
                ("cmpxchg", "atomic.h", True),
                ("mutex_lock", "kernel/locking/mutex.c", False),
                ("inode_lock", "fs.h", True),
                ("demo", "demo.c", True),
                ("init", "demo.c", False),
            ],
            "cmpxchg at atomic.h:1, inlined into mutex_lock at kernel/locking/mutex.c:2, called "
            "from demo at demo.c:4",
        ),
        ([("strlen", "lib/string.c", False)], "strlen at lib/string.c:1"),
        ([("strlen", None, False), ("demo", None, False)], "strlen"),
    ],
)
def test_an_oops_is_named_by_who_is_at_fault(
    parts: Parts, gdb: FakeGdb, stack: list[tuple[str, str | None, bool]], words: str
) -> None:
    gdb.agent["frames"] = lambda limit, behind=False: {
        "frames": [
            {"level": level, "function": name, "file": file, "line": level + 1, "inline": inlined,
             "address": 0xFFFFFFFF81000000}
            for level, (name, file, inlined) in enumerate(stack)
        ][:limit]
    }  # fmt: skip
    gdb.agent["select"] = lambda frame: {}
    stop = parts.stop_by(lambda: gdb.signal("SIGSEGV"))
    assert place_of(stop) == words


def test_one_without_a_symbol_is_named_by_its_caller(parts: Parts, gdb: FakeGdb) -> None:
    gdb.agent["frames"] = frames(None, "call_op", "demo_init")
    stop = parts.stop_by(lambda: gdb.signal("SIGSEGV"))
    assert place_of(stop) == "0xffffffff81000000, called from call_op"
    assert repr(stop) == "<Stop oops in #0 0xffffffff81000000, called from call_op>"
    gdb.agent["frames"] = frames(None)
    stop = parts.stop_by(lambda: gdb.signal("SIGBUS"))
    assert place_of(stop) == "0xffffffff81000000"


def test_the_line_of_a_compiled_in_breakpoint_is_that_before(parts: Parts, gdb: FakeGdb) -> None:
    gdb.agent["frames"] = frames("demo_init", "do_one_initcall")
    stop = parts.stop_by(lambda: gdb.signal("SIGTRAP", "demo_init"))
    assert stop.reason == "int3"
    assert stop.frame.function == "demo_init"
    assert gdb.requests("frames")[-1] == {"op": "frames", "limit": 1, "behind": True}


def test_its_registers_are_those_of_its_frame(stop: Stop, gdb: FakeGdb) -> None:
    gdb.agent["registers"] = lambda frame: {"registers": {"rip": 0x100 + frame}}
    assert stop.registers == {"rip": 0x103}


def test_the_kernels_taints(stop: Stop, gdb: FakeGdb) -> None:
    gdb.numbers.update(
        {"tainted_mask": 1 << 7 | 1, "taint_flags[0].c_true": 80, "taint_flags[7].c_true": 68}
    )
    assert stop.taint == "DP"
    gdb.numbers["tainted_mask"] = 0
    assert stop.taint == ""


def test_the_cpu_and_the_task(stop: Stop, gdb: FakeGdb) -> None:
    gdb.numbers["kgdb_active.counter"] = 1
    gdb.agent["evaluate"] = lambda expression: {"id": 3, "int": 1, "code": "ptr", "type": "x"}
    assert stop.cpu == 1
    assert stop.task.expression == "current"
    assert stop.return_value is None


def test_the_cpu_by_qemus_stub(tmp_path: Path) -> None:
    gdb = FakeGdb({"pcpu_hot": 0x1000})
    parts = Parts(tmp_path, gdb, door="qemu")
    gdb.agent["evaluate"] = lambda expression: {"id": 1, "int": 1}
    stop = parts.run_control.stop
    assert stop is not None
    assert stop.cpu == 1
    (request,) = gdb.requests("evaluate")
    assert "&pcpu_hot.cpu_number" in request["expression"]
    assert "$k_gs_base" in request["expression"]
    parts.close()


def test_what_of_a_stop_ends_with_it(stop: Stop, parts: Parts) -> None:
    parts.run_control.resume()
    assert (stop.reason, stop.signal, stop.breakpoint) == ("panic", "SIGTRAP", None)
    for name in ("frame", "task", "cpu", "registers", "taint", "return_value"):
        with pytest.raises(StaleError):
            getattr(stop, name)
    assert repr(stop) == "<Stop panic: stale>"


def test_a_stop_that_cannot_be_read_shows_at_least_why(stop: Stop, gdb: FakeGdb) -> None:
    def refuse(**_: object) -> dict[str, Any]:
        raise Refused("Cannot access memory at address 0x0")

    gdb.agent["frames"] = refuse
    assert repr(stop) == "<Stop panic>"


# The first cause


PANICKED = (
    "[    0.9] Kernel panic - not syncing: sysrq triggered crash\n"
    "[    0.9] CPU: 0 PID: 47 Comm: sh Not tainted 6.1.192 #1\n"
)
END = "[    0.9] ---[ end Kernel panic - not syncing: sysrq triggered crash ]---\n"


def test_an_error_of_gdbs_stays_one_while_all_is_there(parts: Parts) -> None:
    error = GdbError("No symbol in current context.")
    assert parts.causes.first(error) is error
    parts.causes.check_alive()


def test_qemus_end_goes_before_gdbs_error(parts: Parts) -> None:
    parts.machine.ending = True
    first = parts.causes.first(GdbError("Remote connection closed"))
    assert isinstance(first, MachineDied)
    assert "killed by SIGKILL" in first.message


def test_what_left_gdb_without_its_target_goes_before_its_error(parts: Parts) -> None:
    parts.relay.failure = DebuggerDied("gdb lost its target: kgdb did not answer b'g' in 20 s")
    with pytest.raises(DebuggerDied, match="gdb lost its target"):
        parts.causes.check_alive()
    error = GdbError("Remote connection closed")
    assert parts.causes.first(error) is parts.relay.failure
    parts.machine.ending = True
    assert isinstance(parts.causes.first(error), MachineDied)


def test_the_monitor_is_the_first_to_see_qemus_end(parts: Parts) -> None:
    parts.machine.monitor_error = lost = MachineDied("QEMU's monitor was lost at 'query-status'")
    with pytest.raises(MachineDied) as error:
        parts.causes.check_alive()
    assert error.value is lost, "as a full disk is"
    parts.machine.ending = True
    with pytest.raises(MachineDied, match="killed by SIGKILL"):
        parts.causes.check_alive()


def test_qemus_end_at_an_interrupt(gdb: FakeGdb, tmp_path: Path) -> None:
    def interrupt() -> None:
        raise MachineDied("QEMU's monitor was lost at 'chardev-send-break'")

    parts = Parts(tmp_path, gdb, interrupt=interrupt)
    parts.run_control.resume()
    parts.machine.ending = True
    for stop in (parts.run_control.interrupt, parts.run_control.request_stop):
        with pytest.raises(MachineDied, match="killed by SIGKILL"):
            stop()
    parts.close()


def test_other_errors_do_not_wait_for_qemus_end(parts: Parts) -> None:
    parts.machine.ending = True
    error = GdbError("No symbol in current context.")
    assert parts.causes.first(error) is error


def test_a_panic_goes_before_qemus_end_before_gdbs(parts: Parts) -> None:
    notices: list[str] = []
    parts.causes.on_panic(lambda: notices.append("panic"))
    parts.run_control.resume()
    parts.console.show(PANICKED)
    parts.machine.alive = False
    parts.end_gdb()
    first = parts.causes.first(DebuggerDied("gdb died"))
    assert isinstance(first, KernelPanic)
    assert first.message.splitlines()[0] == (
        "the kernel panicked (sysrq triggered crash) and QEMU ended; it said:"
    )
    assert "Comm: sh" in first.message
    assert notices == ["panic"]
    with pytest.raises(KernelPanic):
        parts.causes.check_alive()


def test_a_command_names_the_first_cause_and_keeps_gdbs(parts: Parts, gdb: FakeGdb) -> None:
    parts.machine.alive = False
    gdb.end()
    with pytest.raises(MachineDied) as error:
        parts.debugger.command("-break-list")
    assert isinstance(error.value.__cause__, DebuggerDied)
    with pytest.raises(MachineDied):
        parts.debugger.console("info line")


def test_a_panic_of_before_the_resume_is_no_cause(parts: Parts) -> None:
    parts.console.show(PANICKED + END)
    parts.causes.resumed(Resumed(stepping=False))
    parts.causes.check_alive()
    parts.console.show(PANICKED)
    parts.causes.check_alive()
    parts.console.show(END)
    with pytest.raises(KernelPanic, match=r"^the kernel panicked and halted: sysrq triggered"):
        parts.causes.check_alive()


def test_a_panic_that_a_program_has_written_is_none(parts: Parts) -> None:
    parts.run_control.resume()
    parts.console.show(PANICKED + END)
    parts.has_panicked = False
    parts.causes.check_alive()
    parts.has_panicked = True
    with pytest.raises(KernelPanic):
        parts.causes.check_alive()
    parts.machine.alive = False
    assert isinstance(parts.causes.first(MachineDied("")), KernelPanic)
    parts.has_panicked = False
    assert isinstance(parts.causes.first(MachineDied("")), MachineDied)


def test_a_stop_that_no_test_sees_does_not_part_a_panic(parts: Parts) -> None:
    parts.causes.resumed(Resumed(stepping=False))
    parts.console.show(PANICKED + END)
    parts.causes.resumed(Resumed(stepping=False, silent=True))
    with pytest.raises(KernelPanic):
        parts.causes.check_alive()


def test_a_panic_of_before_a_restore_is_another_kernels(parts: Parts) -> None:
    parts.causes.resumed(Resumed(stepping=False))
    parts.console.show(PANICKED + END)
    parts.causes.restored(Restored(keep_breakpoints=True))
    parts.causes.check_alive()


def test_a_panic_is_shown_up_to_its_end(parts: Parts) -> None:
    parts.console.show(
        "[ 0.8] before\n" + PANICKED + "".join(f"[ 1] line {n}\n" for n in range(40))
    )
    lines = parts.causes.panicked("it panicked").message.splitlines()
    assert lines[1].endswith("Kernel panic - not syncing: sysrq triggered crash")
    assert "before" not in "".join(lines)
    assert len(lines) == 15
    assert parts.causes.panicked("x").log == parts.console.log


def test_gdbs_end_alone(parts: Parts) -> None:
    parts.end_gdb()
    with pytest.raises(DebuggerDied):
        parts.causes.check_alive()


def test_a_full_disk(parts: Parts) -> None:
    def full() -> None:
        raise MachineDied("the host's disk is full")

    parts.machine.check_storage = full  # type: ignore[method-assign]
    with pytest.raises(KgdbError, match="disk is full"):
        parts.causes.check_alive()
