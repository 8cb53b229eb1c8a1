"""Hooks, between the stops of a kernel of two processors and the packets that resume it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from pytest_kgdb.rsp import CONTINUE, STOP, Action, Event, Hook, Return
from pytest_kgdb.rsp._breakpoints import InsertedBreakpoints
from pytest_kgdb.rsp._hook_server import HookServer
from pytest_kgdb.rsp._stop_context import StopContext
from pytest_kgdb.rsp._trap_cause import TrapCauses

HERE, CALLER = 0xFFFFFFFF81000000, 0xFFFFFFFF81999999


class Kgdb:
    """What kgdb is sent, and a CPU that stops."""

    def __init__(self) -> None:
        self.packets: list[bytes] = []
        self.inserted: set[int] = set()
        self.breakpoints = InsertedBreakpoints(self.request)
        self.server = HookServer(self.breakpoints, self.packets.append)
        self.emulates = True
        self.calls: list[str] = []

    def request(self, payload: bytes) -> bytes:
        self.packets.append(payload)
        address = int(payload.split(b",")[1], 16)
        if payload[:1] == b"Z":
            self.inserted.add(address)
        else:
            self.inserted.remove(address)
        return b"OK"

    def context(
        self, ip: int, *, thread: bytes = b"1", breakpoint: int | None = None
    ) -> StopContext:
        registers = {"ip": ip, "sp": 0x1000, "ax": 0}

        def emulate() -> bool:
            registers["ip"] += self.emulates
            return self.emulates

        read = lambda _a, _s: CALLER.to_bytes(8, "little")  # noqa: E731 # the stack
        return StopContext(thread, registers, read, emulate, lambda: thread, breakpoint)

    def hit(self, address: int, thread: bytes = b"1") -> tuple[StopContext, bool]:
        context = self.context(address + 1, thread=thread, breakpoint=address)
        return context, self.server.serve(context, 0.0)

    def step_ends(self, address: int, thread: bytes = b"1") -> bool:
        return self.server.serve(self.context(address, thread=thread), 0.0)

    def resume(self, packet: bytes, context: StopContext) -> bool:
        return self.server.resume(packet, context, step=packet == b"s")

    def hook(self, name: str, action: Action = CONTINUE, address: int = HERE) -> Hook:
        def called(event: Event) -> Action:
            self.calls.append(f"{name}{' late' if event.decided else ''}")
            return action

        assert self.server.add(address, called) == b"OK"
        return called


@pytest.fixture
def kgdb() -> Kgdb:
    return Kgdb()


def test_a_call_passes_and_the_breakpoint_stays(kgdb: Kgdb) -> None:
    kgdb.hook("spy")
    context, served = kgdb.hit(HERE)
    assert served
    assert kgdb.calls == ["spy"]
    assert context.registers["ip"] == HERE + 1, "the first instruction is done"
    assert kgdb.packets == [b"Z0,%x,1" % HERE, b"c"]


def test_what_is_not_emulated_is_stepped(kgdb: Kgdb) -> None:
    kgdb.hook("spy")
    kgdb.emulates = False
    assert kgdb.hit(HERE)[1]
    assert kgdb.packets[-2:] == [b"z0,%x,1" % HERE, b"s"]
    assert kgdb.step_ends(HERE + 3)
    assert kgdb.packets[-2:] == [b"Z0,%x,1" % HERE, b"c"]
    assert kgdb.calls == ["spy"]


def test_two_processors_step_at_once(kgdb: Kgdb) -> None:
    """The second stops before the first one's step has ended; neither step is gdb's."""
    kgdb.hook("spy")
    kgdb.hook("other", address=HERE + 0x100)
    kgdb.emulates = False
    assert kgdb.hit(HERE)[1]
    assert kgdb.hit(HERE + 0x100, b"2")[1]
    assert kgdb.inserted == set(), "the first is still there, where it must not trap again"
    assert kgdb.step_ends(HERE + 3)
    assert kgdb.inserted == {HERE}
    assert kgdb.step_ends(HERE + 0x103, b"2")
    assert kgdb.inserted == {HERE, HERE + 0x100}
    assert not kgdb.step_ends(HERE + 9), "this one can only be gdb's"


def test_a_processor_that_came_there_with_another_one(kgdb: Kgdb) -> None:
    """It has executed the int3, and waits; for the other one's step the breakpoint is out."""
    kgdb.hook("spy")
    kgdb.emulates = False
    assert kgdb.hit(HERE)[1]
    assert kgdb.inserted == set()
    late = kgdb.context(HERE, thread=b"2", breakpoint=HERE - 1)
    late.late = True
    assert kgdb.server.serve(late, 0.0)
    assert kgdb.calls == ["spy", "spy"]
    assert kgdb.packets[-1] == b"s"
    assert kgdb.step_ends(HERE + 3)
    assert kgdb.step_ends(HERE + 3, b"2")
    assert kgdb.inserted == {HERE}


def test_one_that_came_where_nothing_is_any_more(kgdb: Kgdb) -> None:
    late = kgdb.context(HERE, thread=b"2", breakpoint=HERE - 1)
    late.late = True
    assert kgdb.server.serve(late, 0.0)
    assert kgdb.packets == [b"c"]
    assert late.registers["ip"] == HERE


def test_an_interrupted_step_is_not_another_call(kgdb: Kgdb) -> None:
    """gdb steps off its breakpoint, is told of a stop in an interrupt handler, and goes on."""
    kgdb.hook("spy")
    kgdb.breakpoints.insert(HERE)
    context, _ = kgdb.hit(HERE)
    kgdb.emulates = False
    kgdb.breakpoints.remove(HERE)
    assert not kgdb.resume(b"s", context)
    assert kgdb.packets[-2:] == [b"z0,%x,1" % HERE, b"s"]
    handler = kgdb.context(CALLER + 1, breakpoint=CALLER)
    assert not kgdb.server.serve(handler, 0.0)
    kgdb.breakpoints.insert(HERE)
    assert not kgdb.resume(b"c", handler)
    again = kgdb.context(HERE + 1, breakpoint=HERE)
    again.interrupted_step = True
    assert kgdb.server.serve(again, 0.0), "gdb has been told of it before"
    assert again.registers["ip"] == HERE
    assert kgdb.packets[-2:] == [b"z0,%x,1" % HERE, b"s"]
    assert kgdb.step_ends(HERE + 3)
    assert kgdb.packets[-2:] == [b"Z0,%x,1" % HERE, b"c"]
    assert kgdb.calls == ["spy"]


class TestTrapCauses:
    INT3, STEP = {"ip": HERE + 1, "flags": 0x246}, {"ip": HERE + 1, "flags": 0x346}

    @pytest.fixture
    def causes(self) -> TrapCauses:
        causes = TrapCauses()
        causes.record_request(b"Z0,%x,1" % HERE, b"OK")
        return causes

    def test_an_int3(self, causes: TrapCauses) -> None:
        assert causes.int3(b"1", self.INT3) == HERE
        assert not causes.interrupted_step(b"1", self.INT3)

    def test_a_step_that_ends_behind_a_breakpoint_that_it_did_not_begin_at(
        self, causes: TrapCauses
    ) -> None:
        causes.step_begins(b"1", HERE - 7)
        assert causes.int3(b"1", self.STEP) is None

    def test_an_interrupted_step(self, causes: TrapCauses) -> None:
        causes.step_begins(b"1", HERE)
        causes.resumes(b"1", {"ip": CALLER, "flags": 0x46})  # from the handler
        assert causes.int3(b"2", self.STEP) is None, "another thread's"
        assert causes.interrupted_step(b"1", self.STEP)
        assert causes.int3(b"1", self.STEP) == HERE
        causes.resumes(b"1", self.STEP)
        assert not causes.steps(b"1")

    def test_a_step_that_is_over(self, causes: TrapCauses) -> None:
        causes.step_begins(b"1", HERE)
        causes.resumes(b"1", {"ip": HERE + 3, "flags": 0x346})
        assert causes.int3(b"1", self.STEP) is None

    def test_what_is_not_inserted_any_more(self, causes: TrapCauses) -> None:
        causes.step_begins(b"1", HERE)
        causes.record_request(b"z0,%x,1" % HERE, b"OK")
        assert causes.int3(b"1", self.STEP) is None
        causes.record_request(b"Z0,%x,1" % HERE, b"E01")
        assert causes.int3(b"1", self.STEP) is None

    def test_another_machine(self, causes: TrapCauses) -> None:
        causes.step_begins(b"1", HERE)
        causes.reset()
        assert not causes.steps(b"1")
        assert causes.int3(b"1", self.STEP) is None


def test_gdb_sees_its_breakpoint_after_the_hook(kgdb: Kgdb) -> None:
    kgdb.hook("spy")
    kgdb.breakpoints.insert(HERE)
    context, served = kgdb.hit(HERE)
    assert not served
    assert kgdb.server.served == HERE == context.registers["ip"]
    # gdb steps over its breakpoint, and goes on
    kgdb.breakpoints.remove(HERE)
    assert kgdb.resume(b"s", context)
    kgdb.breakpoints.insert(HERE)
    assert not kgdb.resume(b"c", context)
    assert kgdb.calls == ["spy"]
    assert kgdb.packets == [b"Z0,%x,1" % HERE, b"c"]


def test_going_on_where_gdb_has_no_breakpoint_any_more(kgdb: Kgdb) -> None:
    kgdb.hook("spy")
    kgdb.breakpoints.insert(HERE)
    context, _ = kgdb.hit(HERE)
    kgdb.breakpoints.remove(HERE)
    assert not kgdb.resume(b"c", context)
    assert context.registers["ip"] == HERE + 1, "it would be counted again"
    assert kgdb.packets[-1] == b"c"


def test_a_resume_of_gdbs_is_not_lost_in_a_step_off_a_hook(kgdb: Kgdb) -> None:
    """As `vCont;c:p1.1`, which lets one CPU run."""
    kgdb.hook("spy")
    kgdb.breakpoints.insert(HERE)
    context, _ = kgdb.hit(HERE)
    kgdb.emulates = False
    assert not kgdb.server.resume(b"vCont;c:p1.1", context, step=False)
    assert kgdb.packets[-1] == b"s"
    assert kgdb.step_ends(HERE + 3)
    assert kgdb.packets[-1] == b"vCont;c:p1.1"


def test_a_step_onto_and_over_a_hook_is_a_call(kgdb: Kgdb) -> None:
    kgdb.hook("spy")
    context = kgdb.context(HERE)
    assert not kgdb.server.serve(context, 0.0)
    assert kgdb.resume(b"s", context)
    assert kgdb.calls == ["spy"]


def test_a_forced_return(kgdb: Kgdb) -> None:
    kgdb.hook("older", Return(5))
    kgdb.hook("newer", Return(7))
    context, served = kgdb.hit(HERE)
    assert served
    assert kgdb.calls == ["newer", "older late"]
    registers = context.registers
    assert (registers["ax"], registers["ip"], registers["sp"]) == (7, CALLER, 0x1008)


@pytest.mark.parametrize("packet", [b"c", b"s"])
def test_a_forced_return_under_a_breakpoint_comes_at_the_resume(kgdb: Kgdb, packet: bytes) -> None:
    kgdb.hook("override", Return(7))
    kgdb.breakpoints.insert(HERE)
    context, served = kgdb.hit(HERE)
    assert not served
    assert context.registers["ip"] == HERE
    assert kgdb.resume(packet, context) == (packet == b"s")
    assert (context.registers["ax"], context.registers["ip"]) == (7, CALLER)


def test_a_hook_may_stop_the_kernel(kgdb: Kgdb) -> None:
    kgdb.hook("stopper", STOP)
    assert not kgdb.hit(HERE)[1]


def test_a_hook_may_stop_the_kernel_before_it_returns(kgdb: Kgdb) -> None:
    kgdb.hook("stopper", Return(7, stop=True))
    context, served = kgdb.hit(HERE)
    assert not served
    assert context.registers["ip"] == HERE
    assert not kgdb.resume(b"c", context)
    assert context.registers["ip"] == CALLER


def test_what_a_hook_raises_stops_the_kernel(kgdb: Kgdb) -> None:
    def stumble(event: Event) -> Action:
        raise ValueError(f"at {event.address:#x}")

    kgdb.server.add(HERE, stumble)
    assert not kgdb.hit(HERE)[1]
    assert isinstance(kgdb.server.take_error(), ValueError)
    assert kgdb.server.take_error() is None


def test_a_hook_that_was_removed_while_the_kernel_ran(kgdb: Kgdb) -> None:
    hook = kgdb.hook("spy")
    kgdb.server.remove(HERE, hook)
    assert kgdb.server.busy
    context, served = kgdb.hit(HERE)
    assert served
    assert kgdb.calls == []
    assert context.registers["ip"] == HERE
    assert kgdb.inserted == set()
    assert kgdb.packets[-1] == b"c"
    assert not kgdb.server.busy


def test_a_refused_breakpoint() -> None:
    breakpoints = InsertedBreakpoints(lambda _payload: b"E22")
    server = HookServer(breakpoints, lambda _packet: None)
    assert server.add(HERE, lambda _event: CONTINUE) == b"E22"
    assert not breakpoints.hooks


def test_removals_that_are_not_put_off(kgdb: Kgdb) -> None:
    kgdb.breakpoints.lazy = False
    kgdb.hook("spy")
    kgdb.breakpoints.insert(HERE)
    kgdb.breakpoints.remove(HERE)
    assert kgdb.inserted == {HERE}, "the hook needs it"
    kgdb.breakpoints.insert(HERE + 0x40)
    kgdb.breakpoints.remove(HERE + 0x40)
    assert kgdb.inserted == {HERE}


def test_breakpoints_of_a_step_are_for_the_thread_that_is_stepped(kgdb: Kgdb) -> None:
    """gdb steps over a call, and other threads return to the same place first."""
    server, breakpoints = kgdb.server, kgdb.breakpoints
    breakpoints.insert(HERE)
    server.stepping.begin(b"1", breakpoints.requested)
    breakpoints.insert(HERE + 0x40)  # where the call returns to
    context, served = kgdb.hit(HERE + 0x40, b"2")
    assert served
    assert context.registers["ip"] == HERE + 0x41, "it goes on behind its first instruction"
    assert kgdb.packets[-1] == b"c"
    kgdb.emulates = False
    assert kgdb.hit(HERE + 0x40, b"3")[1]
    assert kgdb.packets[-2:] == [b"z0,%x,1" % (HERE + 0x40), b"s"]
    assert kgdb.step_ends(HERE + 0x44, b"3")
    assert kgdb.inserted == {HERE, HERE + 0x40}
    assert not kgdb.hit(HERE + 0x40, b"1")[1], "the thread itself has come"
    assert not kgdb.hit(HERE, b"2")[1], "a breakpoint of the user's stops any thread"
    server.stepping.end()
    assert not kgdb.hit(HERE + 0x40, b"2")[1], "what is inserted otherwise, too"


def test_a_step_that_gdb_has_given_up_is_not_reported(kgdb: Kgdb) -> None:
    """Another thread stops at a breakpoint of the user's before a single step has ended."""
    server, breakpoints = kgdb.server, kgdb.breakpoints
    breakpoints.insert(HERE)
    server.stepping.begin(b"1", breakpoints.requested)
    kgdb.emulates = False
    assert not kgdb.resume(b"s", kgdb.context(HERE + 0x10))
    assert not kgdb.hit(HERE, b"2")[1]
    server.stepping.end()
    assert not kgdb.resume(b"c", kgdb.context(HERE, thread=b"2"))
    assert kgdb.step_ends(HERE + 0x13)
    assert kgdb.packets[-1] == b"c"
    assert not kgdb.resume(b"s", kgdb.context(HERE + 0x20))
    assert not kgdb.step_ends(HERE + 0x23), "gdb waits for this one"


def test_a_step_outlasts_what_others_do_meanwhile(kgdb: Kgdb) -> None:
    server = kgdb.server
    server.stepping.begin(b"1", ())
    kgdb.breakpoints.insert(HERE + 0x40)
    kgdb.emulates = False
    assert not kgdb.resume(b"s", kgdb.context(HERE + 0x10))
    assert kgdb.hit(HERE + 0x40, b"2")[1]
    assert not kgdb.step_ends(HERE + 0x13)


class TestAnotherThreadStopsDuringAStepOver:
    """gdb steps thread 1 over its breakpoint at HERE; it dies of a stop of another thread's."""

    @pytest.fixture
    def stepping(self, kgdb: Kgdb) -> Kgdb:
        kgdb.breakpoints.insert(HERE)
        kgdb.breakpoints.insert(HERE + 0x40)
        context, served = kgdb.hit(HERE)
        assert not served
        kgdb.emulates = False
        kgdb.breakpoints.remove(HERE)
        assert not kgdb.resume(b"s", context)
        return kgdb

    def test_at_another_breakpoint(self, stepping: Kgdb) -> None:
        context, served = stepping.hit(HERE + 0x40, b"2")
        assert served
        assert context.registers["ip"] == HERE + 0x40, "it comes to the breakpoint again"
        assert stepping.packets[-1] == b"c"
        assert not stepping.step_ends(HERE + 3)
        assert not stepping.hit(HERE + 0x40, b"2")[1], "nothing is waited for any more"

    @pytest.mark.parametrize("action", [CONTINUE, STOP, Return(3)])
    def test_hooks_are_called_once(self, stepping: Kgdb, action: Action) -> None:
        """gdb is told of the stop when the thread comes there again."""
        stepping.hook("spy", action, HERE + 0x40)
        assert stepping.hit(HERE + 0x40, b"2")[1]
        assert not stepping.step_ends(HERE + 3)
        context, served = stepping.hit(HERE + 0x40, b"2")
        assert not served
        assert stepping.calls == ["spy"]
        stepping.resume(b"c", context)
        assert context.registers["ax"] == (3 if isinstance(action, Return) else 0)
        if not isinstance(action, Return):
            assert stepping.step_ends(HERE + 0x43, b"2")
        stepping.hit(HERE + 0x40, b"2")
        assert stepping.calls == ["spy", "spy"], "that is another call"

    @pytest.mark.parametrize("hooked", [False, True])
    def test_a_hook_that_is_added_meanwhile_sees_the_call(
        self, stepping: Kgdb, hooked: bool
    ) -> None:
        if hooked:
            first = stepping.hook("first", CONTINUE, HERE + 0x40)
        assert stepping.hit(HERE + 0x40, b"2")[1]
        if hooked:
            stepping.server.remove(HERE + 0x40, first)
        stepping.hook("second", CONTINUE, HERE + 0x40)
        assert not stepping.step_ends(HERE + 3)
        stepping.hit(HERE + 0x40, b"2")
        assert stepping.calls[-1:] == ["second"]

    def test_at_the_same_breakpoint(self, stepping: Kgdb) -> None:
        """It was executed before it was removed."""
        context, served = stepping.hit(HERE, b"2")
        assert served
        assert context.registers["ip"] == HERE
        assert HERE in stepping.inserted, "the other one is not to pass"
        first = stepping.context(HERE + 1, breakpoint=HERE)
        first.interrupted_step = True
        assert stepping.server.serve(first, 0.0)
        assert first.registers["ip"] == HERE
        assert HERE not in stepping.inserted
        assert stepping.packets[-1] == b"s"
        assert not stepping.step_ends(HERE + 3)

    def test_at_the_kernels_own_int3(self, stepping: Kgdb) -> None:
        """As kgdb_breakpoint(), by which a test interrupts the kernel."""
        context = stepping.context(CALLER + 1, thread=b"2", breakpoint=CALLER)
        context.read = lambda _address, _size: b"\xcc"
        assert stepping.server.serve(context, 0.0)
        assert context.registers["ip"] == CALLER

    def test_where_threads_are_processors(self, kgdb: Kgdb) -> None:
        """gdb knows of all of them, and of what each does."""
        server = HookServer(kgdb.breakpoints, kgdb.packets.append, one_at_a_time=False)
        kgdb.breakpoints.insert(HERE)
        kgdb.breakpoints.insert(HERE + 0x40)
        kgdb.emulates = False
        kgdb.breakpoints.remove(HERE)
        assert not server.resume(b"s", kgdb.context(HERE), step=True)
        other = kgdb.context(HERE + 0x41, thread=b"2", breakpoint=HERE + 0x40)
        assert not server.serve(other, 0.0)


class TestHardwareBreakpoints:
    """One where gdb or a hook has a software breakpoint, too."""

    @pytest.fixture
    def breakpoints(self) -> InsertedBreakpoints:
        self.sent: list[bytes] = []

        def request(payload: bytes) -> bytes:
            self.sent.append(payload)
            return b"OK"

        return InsertedBreakpoints(request, request_hardware=request)

    @staticmethod
    def packet(kind: bytes) -> bytes:
        return b"%b,%x,1" % (kind, HERE)

    def test_alone(self, breakpoints: InsertedBreakpoints) -> None:
        assert breakpoints.insert_hardware(self.packet(b"Z1")) == b"OK"
        assert breakpoints.remove_hardware(self.packet(b"z1")) == b"OK"
        assert self.sent == [self.packet(b"Z1"), self.packet(b"z1")]
        assert not breakpoints.needed

    def test_made_first(self, breakpoints: InsertedBreakpoints) -> None:
        breakpoints.insert_hardware(self.packet(b"Z1"))
        breakpoints.insert(HERE)
        assert self.sent == [self.packet(kind) for kind in (b"Z1", b"z1", b"Z0")]
        breakpoints.remove(HERE)
        assert breakpoints.requested == {HERE}, "that of the hardware breakpoint"
        breakpoints.remove_hardware(self.packet(b"z1"))
        assert not breakpoints.needed

    def test_made_last(self, breakpoints: InsertedBreakpoints) -> None:
        breakpoints.add_hook(HERE, lambda _: CONTINUE)
        breakpoints.insert_hardware(self.packet(b"Z1"))
        assert self.sent == [self.packet(b"Z0")]
        assert breakpoints.requested == {HERE}
        breakpoints.remove_hardware(self.packet(b"z1"))
        assert breakpoints.needed == {HERE}
        assert not breakpoints.requested

    def test_where_a_software_breakpoint_was(self, breakpoints: InsertedBreakpoints) -> None:
        breakpoints.insert(HERE)
        breakpoints.remove(HERE)
        breakpoints.insert_hardware(self.packet(b"Z1"))
        assert breakpoints.requested == {HERE}
        breakpoints.remove_hardware(self.packet(b"z1"))
        breakpoints.sync(set())
        breakpoints.forget()  # kgdb has not: a restored machine may have the removed one
        breakpoints.insert_hardware(self.packet(b"Z1"))
        assert self.sent == [self.packet(kind) for kind in (b"Z0", b"z0", b"Z0")]

    def test_while_it_is_stepped_over(self, breakpoints: InsertedBreakpoints) -> None:
        breakpoints.insert_hardware(self.packet(b"Z1"))
        breakpoints.remove_hardware(self.packet(b"z1"))
        breakpoints.keep_hardware(HERE)
        breakpoints.sync(set(), also={HERE})
        assert breakpoints.insert_hardware(self.packet(b"Z1")) == b"OK"
        breakpoints.sync(set())
        assert self.sent == [self.packet(kind) for kind in (b"Z1", b"z1", b"Z1")]

    def test_one_that_gdb_does_not_want_again(self, breakpoints: InsertedBreakpoints) -> None:
        breakpoints.insert_hardware(self.packet(b"Z1"))
        breakpoints.remove_hardware(self.packet(b"z1"))
        breakpoints.keep_hardware(HERE)
        breakpoints.sync(set(), also={HERE})
        breakpoints.sync(set())
        breakpoints.keep_hardware(HERE)
        assert self.sent == [self.packet(kind) for kind in (b"Z1", b"z1", b"Z1", b"z1")]

    def test_a_hook_at_one_that_gdb_has_stepped_off(self, breakpoints: InsertedBreakpoints) -> None:
        breakpoints.insert_hardware(self.packet(b"Z1"))
        breakpoints.remove_hardware(self.packet(b"z1"))
        breakpoints.keep_hardware(HERE)
        breakpoints.sync(set(), also={HERE})
        breakpoints.add_hook(HERE, lambda _: CONTINUE)
        assert not breakpoints.requested, "gdb has removed it"
        assert breakpoints.inserted == {HERE}

    def test_where_the_software_breakpoint_is_refused(self) -> None:
        replies = {b"Z0": b"E22"}
        sent = []

        def request(payload: bytes) -> bytes:
            sent.append(payload[:2])
            return replies.get(payload[:2], b"OK")

        breakpoints = InsertedBreakpoints(request, request_hardware=request)
        breakpoints.insert_hardware(self.packet(b"Z1"))
        assert breakpoints.insert(HERE) == b"E22"
        assert sent == [b"Z1", b"z1", b"Z0", b"Z1"], "the hardware breakpoint stays"

    @staticmethod
    def step_over(kgdb: Kgdb, *, displace: bool) -> None:
        """Have gdb step a thread over one, by an instruction that is not emulated."""
        kgdb.breakpoints.request_hardware = kgdb.request
        kgdb.breakpoints.insert_hardware(b"Z1,%x,1" % HERE)
        kgdb.breakpoints.remove_hardware(b"z1,%x,1" % HERE)
        kgdb.emulates = False
        context = replace(kgdb.context(HERE), displace=lambda: displace)
        assert not kgdb.server.resume(b"s", context, step=True)

    def test_other_cpus_stop_there_during_a_step(self) -> None:
        kgdb = Kgdb()
        self.step_over(kgdb, displace=True)
        assert kgdb.inserted == {HERE}
        assert kgdb.server.put_off(b"2"), "gdb is not to know of a stop of another thread's"
        assert not kgdb.server.put_off(b"1")
        kgdb.server.go_on()
        assert kgdb.inserted == {HERE}, "the step has not ended"
        assert not kgdb.step_ends(HERE + 1)
        kgdb.breakpoints.insert_hardware(b"Z1,%x,1" % HERE)
        kgdb.server.resume(b"c", kgdb.context(HERE + 1), step=False)
        assert kgdb.inserted == {HERE}
        assert [packet[:2] for packet in kgdb.packets] == [b"Z1", b"z1", b"Z1", b"s", b"c", b"c"]

    def test_an_instruction_that_must_be_executed_in_its_place(self) -> None:
        kgdb = Kgdb()
        self.step_over(kgdb, displace=False)
        assert not kgdb.inserted
        assert kgdb.server.put_off(b"2")

    def test_a_step_over_one_that_was_cut_short(self) -> None:
        """QEMU's stub takes the stop by another CPU for the step's end."""
        kgdb = Kgdb()
        self.step_over(kgdb, displace=False)
        assert kgdb.step_ends(HERE), "gdb would count another hit"
        assert kgdb.packets[-1] == b"s"
        assert not kgdb.step_ends(HERE + 1)
