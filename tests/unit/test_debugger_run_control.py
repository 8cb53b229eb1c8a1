"""Run control: resuming, stopping, stepping, and what it says to whom."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import ClassVar

import pytest
from fake_gdb import SYSRQ, FakeGdb, Parts, Refused
from scripted_gdb import ScriptedGdb

from pytest_kgdb.debugger import (
    Frame,
    GdbError,
    Restored,
    Resumed,
    Stop,
    StopRecord,
    StopSubscriber,
    Value,
    _run_control,
)
from pytest_kgdb.diagnosis import Diagnosis
from pytest_kgdb.errors import (
    DebuggerDied,
    GuestCommandError,
    KernelPanic,
    KgdbError,
    MachineDied,
    StaleError,
    TimeoutError,
)

OPEN = "do_sys_openat2"
Start = Callable[[str], tuple[Parts, ScriptedGdb]]


class Recorder(StopSubscriber):
    """Notes what it is told."""

    def __init__(self, events: list[str], name: str = "") -> None:
        self.events = events
        self.name = name
        self.serves = 0
        """How many stops it serves."""

    def note(self, what: str) -> None:
        self.events.append(f"{self.name}{what}")

    def intercept(self, record: StopRecord) -> bool:
        self.note("intercept")
        self.serves -= 1
        return self.serves >= 0

    def stopped(self, record: StopRecord) -> None:
        self.note(f"stopped {record.reason}")

    def recorded(self, stop: Stop) -> None:
        self.note("recorded")

    def resumed(self, event: Resumed) -> None:
        words = ["resumed"] + ["stepping"] * event.stepping + ["silent"] * event.silent
        self.note(" ".join(words))

    def restored(self, event: Restored) -> None:
        self.note("restored")


@pytest.fixture
def events(parts: Parts) -> list[str]:
    events: list[str] = []
    parts.run_control.subscribe(Recorder(events))
    return events


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    made: list[tuple[Parts, ScriptedGdb]] = []

    def start(script: str) -> tuple[Parts, ScriptedGdb]:
        transport = ScriptedGdb(script)
        made.append((Parts(tmp_path, transport, interrupt=transport.proceed), transport))
        return made[-1]

    yield start
    for parts, transport in made:
        transport.check()
        parts.close()


RESUME = """
    > -exec-continue
    < ^running
    < *running,thread-id="all"
"""
# Recorded with gdb 13.1 on Linux 6.1, at a breakpoint at *0x10.
ABORTED = r"""
    < &"Warning:\n"
    < &"Cannot insert breakpoint 9.\n"
    < &"Cannot access memory at address 0x10\n"
    < &"\n"
    < ^error,msg="Command aborted."
"""
# What it could not insert is deleted: gdb would try again at each resume, and refuse it.
DELETED = """
    > -break-delete 9
    < ^done
"""
GIVEN_UP = (
    r"^gdb did not let the kernel run: kgdb does not take breakpoint 9, deleted now\n"
    r"gdb's words: Warning:\n"
    r"Cannot insert breakpoint 9\.\n"
    r"Cannot access memory at address 0x10\b"
)
SYSRQ_STOP = r"""
    < =thread-created,id="6",group-id="i1"
    < ~"\nThread "
    < ~"6 received signal SIGTRAP, Trace/breakpoint trap.\n"
    < ~"[Switching to Thread 4294967294]\n"
    < ~"kgdb_breakpoint () at kernel/debug/debug_core.c:1222\n"
    < *stopped,reason="signal-received",signal-name="SIGTRAP",signal-meaning="Trace/breakpoint trap",frame={addr="0xffffffff810e333b",func="kgdb_breakpoint",args=[]},thread-id="6",stopped-threads="all"
    > -kgdb {"op": "stack_names"}
    < ^done,json={"names": ["kgdb_breakpoint", "__handle_sysrq", "handle_sysrq", "uart_unlock_and_check_sysrq_irqrestore", "serial8250_handle_irq", "serial8250_interrupt"], "pc": 18446744071579775803}
"""  # noqa: E501
HIT = r"""
    < =breakpoint-modified,bkpt={number="1",type="breakpoint",disp="keep",enabled="y",addr="0xffffffff811b09c0",func="do_sys_openat2",times="1",original-location="do_sys_openat2"}
    < =thread-exited,id="1",group-id="i1"
    < ~"[Switching to Thread 49]\n"
    < ~"Thread 2 hit Breakpoint 1, do_sys_openat2 (dfd=..., filename=..., how=...) at fs/open.c:1307\n"
    < *stopped,reason="breakpoint-hit",disp="keep",bkptno="1",frame={addr="0xffffffff811b09c0",func="do_sys_openat2",args=[{name="dfd"}],file="fs/open.c",line="1307"},thread-id="2",stopped-threads="all"
"""  # noqa: E501


# As recorded


def test_a_breakpoint_is_hit(start: Start) -> None:
    parts, _ = start(RESUME + HIT)
    control = parts.run_control
    control.resume()
    stop = control.wait()
    assert (stop.reason, stop.signal) == ("breakpoint", None)
    assert stop.breakpoint is not None
    assert (stop.breakpoint.location, stop.breakpoint.hits) == (OPEN, 1)
    assert control.wait() is control.stop is stop, "a second wait returns the same"


def test_an_interrupt(start: Start) -> None:
    parts, _ = start(RESUME + "..." + SYSRQ_STOP)
    parts.run_control.resume()
    assert not parts.run_control.stopped
    assert parts.run_control.stop is None
    stop = parts.run_control.interrupt()
    assert (stop.reason, stop.signal) == ("interrupt", "SIGTRAP")
    assert parts.run_control.interrupt() is stop, "a stopped kernel stays as it is"


def test_a_step(start: Start) -> None:
    parts, _ = start(
        """
        > -exec-next
        < ^running
        < *running,thread-id="all"
        < *stopped,reason="end-stepping-range",frame={addr="0xffffffff811b25bc",func="vfs_read",args=[]},thread-id="5",stopped-threads="all"
        """  # noqa: E501
    )
    assert parts.run_control.step("-exec-next").reason == "step"
    assert parts.relay.stepping == [True, False]


def test_a_finish_has_what_the_function_returned(start: Start) -> None:
    parts, _ = start(
        """
        > -exec-finish
        < ^running
        < *running,thread-id="all"
        < *stopped,reason="function-finished",frame={addr="0xffffffff811b3066",func="ksys_read",args=[]},gdb-result-var="$1",return-value="54",thread-id="5",stopped-threads="all"
        > -kgdb {"op": "returned", "variable": "$1"}
        < ^done,json={"id": 1, "type": "ssize_t", "code": "int", "int": 54, "text": "54"}
        """  # noqa: E501
    )
    stop = parts.run_control.step("-exec-finish")
    assert (stop.reason, stop.return_value) == ("finished", 54)


def test_gdb_gives_up_a_resume_after_it_had_begun(start: Start) -> None:
    parts, transport = start(RESUME + "..." + ABORTED + DELETED + RESUME + HIT)
    control = parts.run_control
    before = control.stop
    assert before is not None
    control.resume()
    transport.proceed()
    with pytest.raises(GdbError, match=GIVEN_UP) as error:
        control.wait()
    assert error.value.hint is not None
    assert error.value.log == parts.gdb.transcript
    assert control.stopped
    stop = control.wait()
    assert (stop.reason, stop is before) == ("interrupt", False), "said once"
    with pytest.raises(StaleError):
        _ = before.registers
    control.resume()
    assert control.wait().reason == "breakpoint"


def test_gdb_gives_up_a_resume_before_its_first_answer_was_seen(start: Start) -> None:
    parts, transport = start(RESUME + ABORTED + DELETED + RESUME + HIT)
    transport.at_once = True
    with pytest.raises(GdbError, match=GIVEN_UP):
        parts.run_control.resume()
    assert parts.run_control.stopped
    stop = parts.run_control.wait()
    assert stop.reason == "interrupt"
    parts.run_control.resume()
    assert parts.run_control.wait().reason == "breakpoint", "and says no more of it"


def test_a_resume_that_was_given_up_is_said_before_the_next(start: Start) -> None:
    parts, transport = start(RESUME + "..." + ABORTED + DELETED + RESUME + HIT)
    control = parts.run_control
    control.resume()
    transport.proceed()
    transport.wait_read()
    assert control.stopped
    with pytest.raises(GdbError, match="did not let the kernel run"):
        control.resume()
    control.resume()
    assert control.wait().reason == "breakpoint"


def test_gdbs_end_while_the_kernel_runs(start: Start) -> None:
    parts, _ = start(RESUME + "END")
    parts.run_control.resume()
    for _ in range(2):
        with pytest.raises(DebuggerDied, match="exit status 1"):
            parts.run_control.wait()
    assert not parts.run_control.stopped


# Resuming


def test_a_resume_needs_a_stop(parts: Parts) -> None:
    parts.run_control.resume()
    with pytest.raises(KgdbError, match="resuming needs a stopped kernel, and this one runs"):
        parts.run_control.resume()
    with pytest.raises(StaleError, match="read"):
        parts.run_control.require_stopped("read()", StaleError)


def test_a_refused_resume_keeps_the_stop(parts: Parts, gdb: FakeGdb) -> None:
    opened = parts.table.insert(OPEN)
    stop = parts.stop_by(lambda: gdb.hit(1))
    gdb.refuses = "now"
    with pytest.raises(GdbError, match=r"take breakpoint 9, deleted now\n.*Cannot insert br"):
        parts.run_control.resume()
    again = parts.run_control.stop
    assert again is not None
    assert again is not stop
    assert (again.reason, again.breakpoint) == ("breakpoint", opened)
    gdb.numbers["kgdb_active.counter"] = 1
    assert again.cpu == 1
    gdb.refuses = None
    assert parts.stop_by(lambda: gdb.hit(1)).breakpoint is opened


def test_a_resume_that_ends_with_qemu_is_qemus_end(parts: Parts, gdb: FakeGdb) -> None:
    """gdb says of a closed port what it says of a breakpoint that it cannot insert."""
    parts.table.insert(OPEN)
    parts.stop_by(lambda: gdb.hit(1))
    gdb.refuses = "late"
    parts.machine.alive = False
    with pytest.raises(MachineDied):  # noqa: PT012 # which of the two sees it is a race
        parts.run_control.resume()
        parts.run_control.wait()


def test_a_refused_resume_keeps_what_a_watchpoint_saw(parts: Parts, gdb: FakeGdb) -> None:
    stop = parts.stop_by(
        lambda: gdb.stop(
            'reason="watchpoint-trigger"', 'wpt={number="5"}', 'value={old="1",new="2"}'
        )
    )
    gdb.refuses = "now"
    with pytest.raises(GdbError):
        parts.run_control.resume()
    again = parts.run_control.stop
    assert again is not None
    assert (again.old, again.new) == (stop.old, stop.new) == (1, 2)


def test_the_relay_is_told_of_steps_before_gdb_resumes(parts: Parts, gdb: FakeGdb) -> None:
    seen: list[list[bool]] = []

    def step() -> None:
        seen.append(list(parts.relay.stepping))
        gdb.stop('reason="end-stepping-range"')

    gdb.on_resume = step
    parts.run_control.step("-exec-step-instruction")
    parts.run_control.resume()
    assert seen == [[True], [True, False, False]], "a step ends with its stop"


# Stale


def test_each_resume_begins_a_generation(parts: Parts, gdb: FakeGdb) -> None:
    control = parts.run_control
    number = control.generation
    stop = control.stop
    assert stop is not None
    frame = Frame(parts.debugger, {"level": 0, "function": "vfs_read"}, None)
    value = Value(parts.debugger, {"id": 1, "int": 3, "type": "int", "code": "int"}, "x")
    assert (value, frame.function) == (3, "vfs_read")
    control.resume()
    assert control.generation == number + 1
    for stale in (
        lambda: stop.frame,
        lambda: stop.task,
        lambda: stop.backtrace(),
        lambda: frame.function,
        lambda: frame.args,
        lambda: int(value),
        lambda: value == 3,
    ):
        with pytest.raises(StaleError, match="moved on"):
            stale()
    assert (stop.reason, stop.breakpoint) == ("interrupt", None)
    assert "stale" in repr(stop)
    assert "stale" in repr(frame)
    assert "stale" in repr(value)
    gdb.stop('reason="breakpoint-hit"', 'bkptno="1"')
    control.wait()
    with pytest.raises(StaleError):
        _ = stop.frame


# Subscribers


def test_the_order_of_events(parts: Parts, gdb: FakeGdb) -> None:
    events: list[str] = []
    for name in ("first ", "second "):
        parts.run_control.subscribe(Recorder(events, name))
    parts.table.insert(OPEN)
    parts.stop_by(lambda: gdb.hit(1))
    assert events == [
        *("first resumed", "second resumed"),
        *("first intercept", "second intercept"),
        *("first stopped breakpoint", "second stopped breakpoint"),
        *("first recorded", "second recorded"),
    ]


def test_a_stop_that_is_served_is_no_stop(parts: Parts, gdb: FakeGdb) -> None:
    events: list[str] = []
    first, second = Recorder(events, "first "), Recorder(events, "second ")
    first.serves = 2
    parts.run_control.subscribe(first)
    parts.run_control.subscribe(second)
    parts.table.insert(OPEN)
    gdb.on_resume = lambda: gdb.hit(1)
    parts.run_control.resume()
    generation = parts.run_control.generation
    assert parts.run_control.wait().reason == "breakpoint"
    silent = ["first intercept", "first resumed silent", "second resumed silent"]
    assert events[2:-4] == [*silent, *silent, "first intercept", "second intercept"]
    assert parts.run_control.generation == generation + 2, "the kernel has run"


def test_an_error_of_a_subscriber_is_raised_and_the_kernel_is_stopped(
    parts: Parts, gdb: FakeGdb
) -> None:
    class Raises(StopSubscriber):
        def recorded(self, stop: Stop) -> None:
            raise KgdbError("an instrument stopped the kernel")

    parts.run_control.subscribe(Raises())
    parts.table.insert(OPEN)
    parts.run_control.resume()
    gdb.hit(1)
    with pytest.raises(KgdbError, match="an instrument"):
        parts.run_control.wait()
    assert parts.run_control.stopped
    assert parts.run_control.wait().reason == "breakpoint"


def test_a_stop_whose_stack_cannot_be_read_is_one(parts: Parts, gdb: FakeGdb) -> None:
    def refuse() -> None:
        raise Refused("Cannot access memory at address 0x0")

    gdb.agent["stack_names"] = refuse
    parts.run_control.resume()
    gdb.signal("SIGTRAP")
    with pytest.raises(GdbError, match="Cannot access memory"):
        parts.run_control.wait()
    assert parts.run_control.stopped
    assert parts.run_control.wait().reason == "int3"
    parts.run_control.resume()


def test_a_served_stop_from_which_gdb_does_not_resume(parts: Parts, gdb: FakeGdb) -> None:
    opened = parts.table.insert(OPEN)
    assert parts.stop_by(lambda: gdb.hit(1)).breakpoint is opened
    recorder = Recorder([])
    recorder.serves = 1
    parts.run_control.subscribe(recorder)
    parts.run_control.resume()
    gdb.refuses = "now"
    gdb.signal("SIGTRAP", "do_init_module")
    with pytest.raises(GdbError, match="Cannot insert breakpoint"):
        parts.run_control.wait()
    stop = parts.run_control.wait()
    assert (stop.reason, stop.breakpoint) == ("int3", None), "not that of before"


# Interrupts


def test_a_sysrq_that_nobody_waits_for_is_passed_over(parts: Parts, gdb: FakeGdb) -> None:
    opened = parts.table.insert(OPEN)
    parts.run_control._send_interrupt = lambda: gdb.hit(1)  # the breakpoint is faster
    parts.run_control.resume()
    stop = parts.run_control.interrupt()
    assert stop.breakpoint is opened
    parts.run_control.resume()
    gdb.interrupt()
    gdb.on_resume = lambda: gdb.hit(1)
    assert parts.run_control.wait().breakpoint is opened
    assert opened.hits == 2
    # It has come: the next one is not ours.
    gdb.on_resume = lambda: None
    assert parts.stop_by(gdb.interrupt).reason == "interrupt"


def test_a_sysrq_that_nobody_sent_is_the_guests(parts: Parts, gdb: FakeGdb) -> None:
    opened = parts.table.insert(OPEN)
    parts.run_control.resume()
    gdb.hit(1)
    gdb.wait_read()
    # An interrupt that comes too late is not sent: the breakpoint came first.
    assert parts.run_control.interrupt().breakpoint is opened
    stop = parts.stop_by(gdb.interrupt)
    assert (stop.reason, stop.breakpoint) == ("interrupt", None)


def test_a_sysrq_of_a_program_is_not_taken_for_ours(parts: Parts, gdb: FakeGdb) -> None:
    opened = parts.table.insert(OPEN)
    parts.run_control._send_interrupt = lambda: gdb.hit(1)
    parts.run_control.resume()
    assert parts.run_control.interrupt().breakpoint is opened
    stop = parts.stop_by(lambda: gdb.signal("SIGTRAP", *SYSRQ, "write_sysrq_trigger"))
    assert stop.reason == "interrupt"
    gdb.on_resume = lambda: gdb.hit(1)
    parts.run_control.resume()
    assert parts.run_control.wait().breakpoint is opened
    gdb.on_resume = lambda: None
    parts.run_control.resume()
    gdb.interrupt()  # ours, at last
    gdb.on_resume = lambda: gdb.hit(1)
    assert parts.run_control.wait().breakpoint is opened


def test_an_oops_stops_once(parts: Parts, gdb: FakeGdb) -> None:
    """The kernel notifies its debuggers of the trap, and of the oops."""
    gdb.numbers |= {"(unsigned long)$pc": 1, "(unsigned long)$sp": 2, "current->pid": 3}
    opened = parts.table.insert(OPEN)
    assert parts.stop_by(lambda: gdb.signal("SIGILL", "do_error_trap")).reason == "oops"
    parts.run_control.resume()
    gdb.on_resume = lambda: gdb.hit(1)
    gdb.signal("SIGSEGV", "do_error_trap")
    assert parts.run_control.wait().breakpoint is opened
    gdb.on_resume = lambda: None
    gdb.numbers["current->pid"] = 4
    assert parts.stop_by(lambda: gdb.signal("SIGILL", "do_error_trap")).reason == "oops"


def test_both_notices_of_a_general_protection_fault_are_stops(parts: Parts, gdb: FakeGdb) -> None:
    gdb.numbers |= {"(unsigned long)$pc": 1, "(unsigned long)$sp": 2, "current->pid": 3}
    for _ in range(2):
        assert (
            parts.stop_by(lambda: gdb.signal("SIGSEGV", "exc_general_protection")).reason == "oops"
        )


def test_an_oops_of_a_task_that_cannot_be_read_is_one(parts: Parts, gdb: FakeGdb) -> None:
    assert "current->pid" not in gdb.numbers
    for _ in range(2):
        assert parts.stop_by(lambda: gdb.signal("SIGSEGV", "do_error_trap")).reason == "oops"


def test_one_that_comes_while_a_breakpoint_is_hit(parts: Parts, gdb: FakeGdb) -> None:
    opened = parts.table.insert(OPEN)
    parts.run_control._send_interrupt = lambda: gdb.hit(1)  # the breakpoint is faster
    parts.run_control.resume()
    assert parts.run_control.interrupt().breakpoint is opened
    gdb.on_resume = gdb.interrupt  # the sysrq is still under way
    parts.run_control.resume()
    gdb.on_resume = lambda: gdb.hit(1)
    assert parts.run_control.wait().breakpoint is opened


def test_an_interrupt_that_is_not_answered(parts: Parts) -> None:
    class Stacks(StopSubscriber):
        def diagnose(self) -> Diagnosis:
            return Diagnosis("spinning: CPU 0", "CPU 0: spins")

    parts.run_control.subscribe(Stacks())
    parts.run_control._send_interrupt = lambda: None
    parts.run_control.resume()
    with pytest.raises(TimeoutError, match=r"(?s)did not answer a sysrq.*CPU 0: spins"):
        parts.run_control.interrupt(0.02)
    assert not parts.run_control.stopped


@pytest.mark.parametrize("diagnosis", [Diagnosis("spinning: CPU 0", "CPU 0: spins"), None])
def test_what_has_slowed_the_kernel_down(parts: Parts, diagnosis: Diagnosis | None) -> None:
    class Slow(StopSubscriber):
        def slowed_by(self) -> str:
            return "900 calls were spied on"

        def diagnose(self) -> Diagnosis | None:
            return diagnosis

    parts.run_control.subscribe(StopSubscriber())
    parts.run_control.subscribe(Slow())
    parts.run_control.resume()
    with pytest.raises(TimeoutError) as caught:
        parts.run_control.wait(0)
    first, second, *_ = caught.value.message.splitlines()
    assert first.startswith("the kernel did not stop in 0 s")
    assert first.endswith(": spinning: CPU 0") == (diagnosis is not None)
    assert second == "900 calls were spied on"


@pytest.mark.parametrize("known", [True, False])
def test_a_stop_that_comes_while_a_late_one_is_explained(
    parts: Parts, gdb: FakeGdb, known: bool
) -> None:
    running = Diagnosis("spinning: CPU 0", "CPU 0: spins")
    stopped = Diagnosis("the kernel has come to its debugger", "", unless_stopped=running)

    class Stacks(StopSubscriber):
        def diagnose(self) -> Diagnosis:
            gdb.hit(1)
            if not known:
                gdb.wait_read()
            return stopped if known else running

    opened = parts.table.insert(OPEN)
    parts.run_control.subscribe(Stacks())
    parts.run_control.resume()
    with pytest.raises(TimeoutError) as caught:
        parts.run_control.wait(0)
    first = caught.value.message.splitlines()[0]
    words = f"the kernel did not stop in 0 s at {OPEN} (0 hits): it stopped just then: breakpoint 1"
    assert first.startswith(words)
    assert "CPU 0: spins" not in caught.value.message
    assert "kgdb.stop is where" in str(caught.value.hint)
    assert parts.run_control.stop is not None
    assert parts.run_control.stop.breakpoint is opened


def test_a_kernel_in_its_debugger_that_does_not_stop(
    parts: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is there for a call that a spy sees."""
    monkeypatch.setattr(_run_control, "_JUST_THEN", 0.02)
    running = Diagnosis("spinning: CPU 0", "CPU 0: spins")

    class Stacks(StopSubscriber):
        def diagnose(self) -> Diagnosis:
            return Diagnosis("the kernel has come to its debugger", "", unless_stopped=running)

    parts.run_control.subscribe(Stacks())
    parts.run_control.resume()
    with pytest.raises(TimeoutError, match=r"did not stop in 0 s.*: spinning: CPU 0\n"):
        parts.run_control.wait(0)
    assert not parts.run_control.stopped


def test_an_interrupt_that_nobody_would_hear_yet(parts: Parts, gdb: FakeGdb) -> None:
    """It is sent, once, as soon as the console is open."""
    heard, sent = iter([False, False, True]), []

    def interrupt() -> None:
        sent.append(next(heard, "again"))
        gdb.interrupt()

    parts.run_control._interrupt_is_heard = lambda: next(heard)
    parts.run_control._send_interrupt = interrupt
    parts.run_control.resume()
    assert parts.run_control.interrupt(5).reason == "interrupt"
    assert sent == ["again"]


def test_an_interrupt_that_nobody_hears(parts: Parts, gdb: FakeGdb) -> None:
    sent: list[bool] = []
    parts.run_control._interrupt_is_heard = lambda: False
    parts.run_control._send_interrupt = lambda: sent.append(True)
    opened = parts.table.insert(OPEN)
    parts.run_control.resume()
    nobody = "no sysrq was sent: nobody has opened the console"
    with pytest.raises(TimeoutError, match=nobody) as caught:
        parts.run_control.interrupt(0.02)
    assert "booting still" in str(caught.value.hint)
    gdb.hit(1)
    assert parts.run_control.wait().breakpoint is opened
    parts.run_control._interrupt_is_heard = lambda: True
    parts.run_control.resume()
    with pytest.raises(TimeoutError):
        parts.run_control.wait(0.2)
    assert sent == [], "another stop was as good"


def test_kept_stopped(parts: Parts, gdb: FakeGdb) -> None:
    class Passing(StopSubscriber):
        seen: ClassVar[list[bool]] = []

        def stopped(self, record: StopRecord) -> None:
            self.seen.append(record.passing)

    parts.run_control.subscribe(Passing())
    with parts.run_control.kept_stopped():
        assert parts.run_control.stopped
    assert parts.run_control.stopped
    parts.run_control.resume()
    with parts.run_control.kept_stopped():
        assert parts.run_control.stopped
    assert not parts.run_control.stopped
    parts.run_control.interrupt()
    parts.run_control.resume()
    assert Passing.seen == [True, False]
    with pytest.raises(ZeroDivisionError), parts.run_control.kept_stopped():
        raise ZeroDivisionError
    assert not parts.run_control.stopped


@pytest.mark.parametrize("seen", [False, True])
def test_kept_stopped_stays_at_a_stop_that_came_instead(
    parts: Parts, gdb: FakeGdb, seen: bool
) -> None:
    """It is of whoever waits for it: resuming would lose it."""
    opened = parts.table.insert(OPEN)
    control = parts.run_control
    control._send_interrupt = lambda: gdb.hit(1)
    control.resume()
    if seen:  # by gdb, and by nobody else
        gdb.hit(1)
        gdb.wait_read()
    with control.kept_stopped():
        assert control.stopped
    assert control.wait(0).breakpoint is opened
    assert len(gdb.sent("-exec-continue")) == 1
    control.resume()
    with (
        pytest.raises(GuestCommandError, match=r"copying was not begun.*stopped.*<Stop breakpoint"),
        control.kept_stopped("copying"),
    ):
        raise AssertionError
    assert control.wait(0).breakpoint is opened
    control.resume()
    with control.kept_stopped(ends=lambda stop: stop.breakpoint is opened):
        assert control.stopped
    assert not control.stopped


# Waiting


def test_a_stop_that_arrives_between_two_looks(parts: Parts, gdb: FakeGdb) -> None:
    opened = parts.table.insert(OPEN)
    parts.run_control.resume()
    assert not parts.run_control.stopped
    gdb.hit(1)
    gdb.wait_read()
    assert not parts.run_control.is_known_stopped, "without a look"
    assert parts.run_control.stopped
    assert parts.run_control.is_known_stopped
    assert parts.run_control.wait(0).breakpoint is opened


def test_a_wait_wakes_as_soon_as_the_kernel_stops(parts: Parts, gdb: FakeGdb) -> None:
    parts.table.insert(OPEN)
    parts.run_control.resume()
    timer = threading.Timer(0.05, lambda: gdb.hit(1))
    timer.start()
    began = time.monotonic()
    assert parts.run_control.wait(10).reason == "breakpoint"
    assert time.monotonic() - began < 5
    timer.join()


def test_a_wait_of_no_time(parts: Parts, gdb: FakeGdb) -> None:
    parts.table.insert(OPEN)
    parts.console.show("one\ntwo\n")
    parts.run_control.resume()
    with pytest.raises(TimeoutError) as error:
        parts.run_control.wait(0)
    assert error.value.message.splitlines() == [
        f"the kernel did not stop in 0 s at {OPEN} (0 hits)",
        "the console's last lines are:",
        "one",
        "two",
    ]
    assert error.value.log == parts.console.log
    assert not parts.run_control.stopped, "it runs on"
    gdb.hit(1)
    gdb.wait_read()
    assert parts.run_control.wait(0).reason == "breakpoint"


def test_a_wait_takes_the_limit_of_its_time(parts: Parts) -> None:
    parts.run_control.resume()
    for seconds in (0.02, 0.03):
        parts.waits.set(seconds)
        with pytest.raises(TimeoutError, match=f"did not stop in {seconds} s"):
            parts.run_control.wait()


def test_served_stops_do_not_prolong_a_wait(parts: Parts, gdb: FakeGdb) -> None:
    recorder = Recorder([])
    recorder.serves = 1 << 30
    parts.run_control.subscribe(recorder)
    parts.table.insert(OPEN)
    gdb.on_resume = lambda: gdb.hit(1)
    parts.run_control.resume()
    began = time.monotonic()
    with pytest.raises(TimeoutError):
        parts.run_control.wait(0.1)
    assert time.monotonic() - began < 3
    gdb.on_resume = lambda: None


def test_qemus_end_is_noticed(parts: Parts) -> None:
    parts.run_control.resume()
    parts.machine.alive = False
    with pytest.raises(MachineDied, match="QEMU ended while a test was using it"):
        parts.run_control.wait(5)


def test_the_relays_word_for_a_closed_port(parts: Parts, gdb: FakeGdb) -> None:
    parts.machine.ending = True
    parts.run_control.resume()
    gdb.stop('reason="exited-normally"')
    with pytest.raises(MachineDied, match="QEMU ended while a test was using it: killed"):
        parts.run_control.wait()


def test_a_panic_past_the_debugger_is_noticed(parts: Parts) -> None:
    parts.run_control.resume()
    parts.console.show(
        "[    0.9] Kernel panic - not syncing: sysrq triggered crash\n"
        "[    0.9] ---[ end Kernel panic - not syncing: sysrq triggered crash ]---\n"
    )
    with pytest.raises(KernelPanic, match="panicked and halted: sysrq triggered crash"):
        parts.run_control.wait(5)


# What a command at gdb's prompt does


def test_a_resume_of_the_prompt_is_adopted(parts: Parts, gdb: FakeGdb, events: list[str]) -> None:
    opened = parts.table.insert(OPEN)
    generation = parts.run_control.generation
    gdb.on_resume = lambda: gdb.hit(1)
    parts.prompt("continue")
    assert parts.run_control.adopt_resume() is not None
    stop = parts.run_control.stop
    assert stop is not None
    assert (stop.reason, stop.breakpoint) == ("breakpoint", opened)
    assert parts.run_control.generation == generation + 1


def test_one_whose_stop_is_there_already(parts: Parts, gdb: FakeGdb) -> None:
    parts.table.insert(OPEN)
    gdb.on_resume = lambda: gdb.hit(1)
    parts.prompt("continue")
    gdb.wait_read()
    assert not parts.gdb.target_running
    assert parts.run_control.adopt_resume() is not None
    assert parts.run_control.stopped


def test_one_that_does_not_stop(parts: Parts) -> None:
    parts.prompt("continue")
    with pytest.raises(TimeoutError):
        parts.run_control.adopt_resume(0.02)
    assert not parts.run_control.stopped


def test_one_that_somebody_has_interrupted(tmp_path: Path) -> None:
    """Through QEMU's stub it looks like what is left of an earlier interrupt."""
    gdb = FakeGdb({OPEN: 0xFFFFFFFF811B09C0})
    parts = Parts(tmp_path, gdb, door="qemu")
    parts.prompt("continue")
    gdb.signal("SIGINT", "vfs_read")
    gdb.wait_read()
    assert parts.run_control.adopt_resume(5, interrupted=True) is not None
    stop = parts.run_control.stop
    assert stop is not None
    assert stop.reason == "interrupt"
    assert not gdb.running
    parts.close()


def test_other_commands_of_the_prompt_resume_nothing(parts: Parts) -> None:
    stop = parts.run_control.stop
    parts.prompt("set var panic_timeout = 3")
    assert parts.run_control.adopt_resume() is None
    assert parts.run_control.stop is stop


# Snapshots


@pytest.mark.parametrize("running", [False, True])
@pytest.mark.parametrize("keep", [False, True])
def test_a_restore(
    parts: Parts, gdb: FakeGdb, events: list[str], running: bool, keep: bool
) -> None:
    control = parts.run_control
    if running:
        control.resume()
    gdb.wait_read()
    del events[:]
    steps: list[str] = []
    commands = len(gdb.commands)
    generation = control.generation
    with control.restoring("int3", lambda: steps.append("remove"), keep_breakpoints=keep):
        steps.append("load")
        assert gdb.running, "gdb takes the kernel for running"
        gdb.signal("SIGTRAP", "kgdb_breakpoint")
    assert steps == (["load", "remove"] if running else ["remove", "load"])
    names = [command.name for command in gdb.commands[commands:]]
    assert names == ([] if running else ["-exec-continue"])
    assert (control.stopped, control.stop and control.stop.reason) == (True, "int3")
    assert control.generation > generation
    assert events == ["restored"], "it is no resume, and no stop"


def test_a_restore_drops_stops_of_before(parts: Parts, gdb: FakeGdb) -> None:
    parts.table.insert(OPEN)
    parts.run_control.resume()
    gdb.hit(1)
    gdb.wait_read()
    with parts.run_control.restoring("interrupt", lambda: None, keep_breakpoints=True):
        gdb.signal("SIGTRAP", "kgdb_breakpoint")
    gdb.wait_read()
    stop = parts.run_control.stop
    assert stop is not None
    assert (stop.reason, parts.gdb.has_events) == ("interrupt", False)


def test_a_restore_that_gdb_does_not_notice(parts: Parts) -> None:
    parts.waits.set(0.05)
    with (
        pytest.raises(TimeoutError, match=r"did not notice within 0.05 s"),
        parts.run_control.restoring("interrupt", lambda: None, keep_breakpoints=False),
    ):
        pass


def test_a_restore_ends_an_interrupt(tmp_path: Path) -> None:
    gdb = FakeGdb({OPEN: 0xFFFFFFFF811B09C0})
    parts = Parts(tmp_path, gdb, door="qemu")
    parts.run_control._send_interrupt = lambda: None
    parts.run_control.resume()
    with pytest.raises(TimeoutError):
        parts.run_control.interrupt(0.02)
    with parts.run_control.restoring("interrupt", lambda: None, keep_breakpoints=True):
        gdb.signal("SIGINT", "vfs_read")
    opened = parts.table.insert(OPEN)
    parts.run_control.resume()
    gdb.signal("SIGINT", "vfs_read")  # of before the restore, in the stub
    gdb.on_resume = lambda: gdb.hit(opened.number)
    assert parts.run_control.wait().breakpoint is opened
    parts.close()


def test_a_sysrq_of_before_a_restore_is_in_no_restored_uart(parts: Parts, gdb: FakeGdb) -> None:
    parts.run_control._send_interrupt = lambda: None
    parts.run_control.resume()
    with pytest.raises(TimeoutError):
        parts.run_control.interrupt(0.02)
    with parts.run_control.restoring("interrupt", lambda: None, keep_breakpoints=True):
        gdb.signal("SIGTRAP", *SYSRQ)
    stop = parts.stop_by(gdb.interrupt)
    assert stop.reason == "interrupt", "it is the guest's own"


def test_an_earlier_stop_again(parts: Parts, gdb: FakeGdb) -> None:
    names = ["kgdb_breakpoint", "kgdb_panic", "panic", "sysrq_handle_crash", "__handle_sysrq"]
    gdb.agent["frames"] = lambda limit, behind=False: {
        "frames": [{"level": level, "function": name} for level, name in enumerate(names)][:limit]
    }
    gdb.agent["select"] = lambda frame: {}
    stop = parts.stop_by(lambda: gdb.signal("SIGTRAP", *names))
    parts.run_control.resume()
    parts.run_control.record_again(stop)
    again = parts.run_control.wait()
    assert again is not stop
    assert (again.reason, again.signal) == ("panic", "SIGTRAP")
    assert again.frame.function == "sysrq_handle_crash"
    assert [one["frame"] for one in gdb.requests("select")] == [3, 3], "gdb selects the innermost"


def test_a_restore_of_breakpoints_and_all(parts: Parts, gdb: FakeGdb) -> None:
    # As Attachment.restoring() does it.
    opened, read = parts.table.insert(OPEN), parts.table.insert("vfs_read")
    parts.prompt("disable 2")
    parts.stop_by(lambda: gdb.hit(1))
    for keep in (True, False):
        with (
            parts.table.restoring(keep=keep) as remove,
            parts.run_control.restoring("interrupt", remove, keep_breakpoints=keep),
        ):
            assert not any(row.enabled for row in gdb.rows.values())
            assert bool(gdb.rows) is keep
            gdb.signal("SIGTRAP", "kgdb_breakpoint")
        assert [row.enabled for row in gdb.rows.values()] == ([True, False] if keep else [])
    assert "deleted" in repr(opened)
    assert "deleted" in repr(read)


def test_a_connection_to_a_stopped_kernel(tmp_path: Path) -> None:
    gdb = FakeGdb()
    parts = Parts(tmp_path, gdb)
    gdb.stop('frame={func="kgdb_breakpoint"}')
    parts.run_control.connected("int3")
    assert parts.run_control.stopped
    assert not parts.gdb.has_events
    parts.close()
