"""The relay between a gdb and a QEMU's gdb stub that are both played here."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from relay_bench import counter, insert, remove
from scripted_qemu import ScriptedQemu
from scripted_stub import (
    BASE,
    CALLER,
    DATA,
    ENTRY,
    LOAD,
    NOP,
    RET,
    STACK,
    TASKS,
    USER,
    USER_ALIAS,
    Gdb,
    Memory,
    pack_registers,
    packet,
)

from pytest_kgdb.deadline import WaitLimit
from pytest_kgdb.errors import KgdbError, MachineDied
from pytest_kgdb.kernel import StopLayout
from pytest_kgdb.rsp import CONTINUE, STOP, Action, Event, QemuStubBackend, Relay, Return

STOPPED = b"T05thread:p01.01;"


class Bench:
    """A QEMU, the relay, and a gdb."""

    def __init__(
        self, directory: Path, stop_reply: bytes = b"", *, lazy_removal: bool = False
    ) -> None:
        self.qemu = ScriptedQemu()
        backend = QemuStubBackend(
            self.qemu.connect,
            waits=WaitLimit(10),
            stop_reply=stop_reply,
            lazy_removal=lazy_removal,
        )
        self.relay = Relay(directory / "gdb", backend)
        self.gdb = Gdb(str(self.relay.path))
        assert self.gdb.ask(b"?") == (stop_reply or STOPPED)

    def sent(self) -> list[bytes]:
        """What QEMU has been sent since the last time."""
        packets, self.qemu.packets = self.qemu.packets, []
        return packets

    def resumes(self) -> list[bytes]:
        """What of it was for the breakpoints and to resume."""
        return [packet for packet in self.sent() if packet[:1] in b"Zzcv"]

    def close(self) -> None:
        self.relay.close()
        self.gdb.close()
        self.qemu.close()


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    bench = Bench(tmp_path)
    yield bench
    bench.close()


def test_all_is_passed_on(bench: Bench) -> None:
    gdb = bench.gdb
    assert bench.relay.door == "qemu"
    assert gdb.ask(b"Hgp1.2") == b"OK"
    gdb.ask(b"g")
    gdb.ask(insert(NOP))
    assert gdb.ask(b"vCont;c:p1.-1") == STOPPED
    gdb.ask(remove(NOP))
    assert gdb.ask(b"vCont;s:p1.1") == STOPPED
    assert bench.qemu.registers["ip"] == RET
    assert bench.sent() == [
        b"?", b"Hgp1.2", b"g", b"m%x,1" % NOP, insert(NOP), b"vCont;c:p1.-1", remove(NOP),
        b"vCont;s:p1.1",
    ]  # fmt: skip


@pytest.mark.parametrize("last", [b"k", b"vKill;1", b"D", b"D;1"])
def test_what_a_gdb_says_that_quits(bench: Bench, last: bytes) -> None:
    """QEMU would end at the first two, and let the machine run at the others."""
    bench.sent()
    bench.gdb.send(last)
    assert last == b"k" or bench.gdb.receive() == b"OK"
    assert bench.gdb.ask(b"Hgp1.1") == b"OK"
    assert bench.sent() == [b"Hgp1.1"]


def test_plain_packets_to_resume(bench: Bench) -> None:
    assert bench.gdb.ask(b"s") == STOPPED
    bench.gdb.ask(insert(RET))
    assert bench.gdb.ask(b"c") == STOPPED
    assert bench.resumes() == [b"vCont;s:p01.01;c", insert(RET), b"vCont;c"]


def test_threads_are_listed_once(bench: Bench) -> None:
    """gdb asks for them at each stop."""
    for _ in range(3):
        assert bench.gdb.ask(b"qfThreadInfo") == b"mp01.01,p01.02"
        assert bench.gdb.ask(b"qsThreadInfo") == b"l"
    assert bench.sent() == [b"?", b"qfThreadInfo", b"qsThreadInfo", b"qsThreadInfo"]
    bench.gdb.ask(b"qRcmd,00")
    bench.gdb.ask(b"qfThreadInfo")
    assert bench.sent()[:2] == [b"qRcmd,00", b"qfThreadInfo"], "which may have changed anything"


@pytest.mark.parametrize("any_thread", [b"0", b"p0.0", b"p1.0", b"p1.-1", b"-1"])
def test_any_thread_is_the_one_that_stopped(bench: Bench, any_thread: bytes) -> None:
    """gdb 16 asks for it before it reads code."""
    bench.gdb.ask(insert(NOP))
    bench.qemu.turns += [b"02"]
    assert bench.gdb.ask(b"vCont;c:p1.-1") == b"T05thread:p01.02;"
    assert bench.gdb.ask(b"Hgp1.1") == b"OK"
    assert bench.gdb.ask(b"Hg" + any_thread) == b"OK"
    assert bench.gdb.ask(b"g") == pack_registers(bench.qemu.cpus[2])


def test_after_a_step_that_was_emulated_all_is_about_the_thread_that_stepped(bench: Bench) -> None:
    bench.relay.add_hook(NOP, counter([], STOP))
    bench.qemu.turns += [b"02"]
    assert bench.gdb.ask(b"vCont;c:p1.-1") == b"T05thread:p01.02;"
    assert bench.gdb.ask(b"Hgp1.1") == b"OK"
    assert bench.gdb.ask(b"vCont;s:p1.2;c:p1.-1") == b"T05thread:p01.02;"
    assert bench.gdb.ask(b"g") == pack_registers(bench.qemu.cpus[2])
    assert bench.qemu.cpus[2]["ip"] == RET


def test_registers_are_asked_for_once(bench: Bench) -> None:
    bench.gdb.ask(b"g")
    assert bench.gdb.ask(b"Hgp1.1") == b"OK"
    seen = bench.gdb.ask(b"g")
    assert bench.sent() == [b"?", b"Hgp01.01", b"g"]
    assert bench.gdb.ask(b"P0=7700000000000000") == b"OK"
    assert bench.gdb.ask(b"g") == b"77" + seen[2:]
    assert bench.gdb.ask(b"Hgp1.2") == b"OK"
    assert bench.gdb.ask(b"g") == seen, "the other CPU's"


def test_no_breakpoint_where_nothing_is_mapped(bench: Bench) -> None:
    """QEMU takes it, and no CPU ever comes there."""
    assert bench.gdb.ask(b"Z0,10,1") == b"E14"
    assert "0x10 is not mapped" in str(bench.relay.take_refusal())
    assert bench.relay.take_refusal() is None
    assert bench.gdb.ask(b"Z0,%x,1" % (CALLER + 0x1000)) == b"E14"
    assert bench.qemu.breakpoints == set()
    bench.qemu.unchecked = True
    bench.gdb.ask(b"P12=33000000")  # cs
    assert bench.gdb.ask(b"Z0,%x,1" % (CALLER + 0x1000)) == b"OK", "the program's page tables"
    assert bench.gdb.ask(b"Z0,10,1") == b"E14"


@pytest.mark.parametrize("lazy", [False, True])
def test_breakpoints_that_may_stay(tmp_path: Path, lazy: bool) -> None:
    bench = Bench(tmp_path, lazy_removal=lazy)
    bench.gdb.ask(insert(NOP))
    assert bench.gdb.ask(b"vCont;c:p1.-1") == STOPPED
    bench.gdb.ask(remove(NOP))
    assert bench.qemu.breakpoints == ({NOP} if lazy else set())
    assert bench.gdb.ask(b"vCont;s:p1.1") == STOPPED
    assert bench.qemu.registers["ip"] == RET
    bench.close()


def test_a_stop_for_qmp_is_not_taken_for_a_reply(bench: Bench) -> None:
    bench.qemu.send(b"T02thread:p01.01;")
    assert bench.gdb.ask(b"m%x,1" % NOP) == b"90"
    bench.qemu.faults.append(
        lambda reply: bench.qemu.send_raw(packet(b"T02thread:p01.01;") + reply)
    )
    assert bench.gdb.ask(b"m%x,1" % NOP) == b"90"
    assert bench.gdb.ask(b"m%x,1" % RET) == b"c3"


def test_a_machine_that_has_no_room_for_what_it_writes(bench: Bench) -> None:
    """gdb would let it run again at once."""
    bench.gdb.send(b"vCont;c:p1.-1")
    bench.qemu.wait_for(b"vCont;c:p1.-1")
    bench.resumes()
    bench.qemu.send(b"T17thread:p01.01;")
    assert bench.gdb.silent()
    assert bench.resumes() == []


def test_an_interrupt(bench: Bench) -> None:
    bench.relay.interrupt()  # it is stopped already, and nothing happens
    bench.qemu.registers["ip"] = CALLER
    bench.gdb.send(b"vCont;c:p1.-1")
    bench.qemu.wait_for(b"vCont;c:p1.-1")
    assert bench.gdb.silent()
    bench.relay.interrupt()
    assert bench.gdb.receive() == b"T02thread:p01.01;"


def test_an_interrupt_that_comes_at_a_hook(bench: Bench) -> None:
    """QEMU does not hear it while it is stopped for the hook."""
    bench.relay.add_hook(NOP, counter([]))
    bench.qemu.registers["ip"] = CALLER
    bench.gdb.send(b"vCont;c:p1.-1")
    bench.qemu.wait_for(b"vCont;c:p1.-1")
    bench.qemu.registers["ip"] = NOP
    bench.qemu.running = False
    bench.relay.interrupt()
    bench.qemu.stop()
    assert bench.gdb.receive() == b"T02thread:p01.01;"
    assert bench.qemu.registers["ip"] == CALLER, "it has gone on and been interrupted then"


@pytest.mark.parametrize("running", [True, False])
def test_another_state_of_the_machine(bench: Bench, running: bool) -> None:
    """The connection outlasts it, and gdb's breakpoints do not."""
    calls: list[int] = []
    bench.relay.add_hook(LOAD, counter(calls))
    bench.gdb.ask(insert(NOP))
    if running:
        bench.qemu.registers["ip"] = CALLER
        bench.gdb.send(b"vCont;c:p1.-1")
        bench.qemu.wait_for(b"vCont;c:p1.-1")
    bench.relay.detach()
    if running:
        bench.qemu.stop(signal=b"02")  # by QMP
        bench.qemu.registers["ip"] = ENTRY
    else:
        bench.gdb.send(b"vCont;c:p1.-1")
        assert bench.relay.wait_resumed(10)
    assert bench.gdb.silent()
    bench.relay.reattach(STOPPED, paused=True)
    assert bench.gdb.receive() == STOPPED
    assert bench.qemu.breakpoints == set()
    assert bench.gdb.ask(remove(NOP)) == b"OK"
    bench.gdb.ask(insert(RET))
    assert bench.gdb.ask(b"vCont;c:p1.-1") == STOPPED
    assert bench.qemu.registers["ip"] == RET
    assert calls == [LOAD]
    assert bench.qemu.connections == 1


def test_a_command_of_qemus_monitor(bench: Bench) -> None:
    """What it prints comes in packets of its own, before the reply."""
    text = b"VM status: paused\n".hex().encode()
    bench.qemu.faults.append(
        lambda reply: bench.qemu.send_raw(
            packet(b"O" + text[:8]) + packet(b"O" + text[8:]) + packet(b"OK")
        )
    )
    assert bench.gdb.ask(b"qRcmd,%b" % b"info status".hex().encode()) == text
    assert bench.gdb.ask(b"m%x,1" % NOP) == b"90"


LOOP = BASE + 0x300
WATCHED = DATA
WRITES = BASE + 0x400  # mov %eax,(%rdi)
WATCH = b"2,%x,4" % WATCHED
OTHER_HIT = b"T05thread:p01.02;watch:%x;" % WATCHED


@pytest.fixture
def both_hit(bench: Bench) -> Bench:
    """CPU 1 stops at a breakpoint, and CPU 2 has written what is watched, which QEMU keeps."""
    layout = StopLayout(
        current_task=0x40, task_mm=0, task_pid=0, task_comm=0, mm_pgd=0, self_jump=LOOP
    )
    bench.qemu.memory.write(LOOP, b"\xeb\xfe")
    bench.qemu.memory.write(WRITES, b"\x89\x07\x90")
    bench.relay.use_guest_memory(None, layout)
    assert bench.gdb.ask(b"Z" + WATCH) == b"OK"
    assert bench.gdb.ask(insert(NOP)) == b"OK"
    bench.qemu.cpus[2].update(ip=WRITES + 2, di=WATCHED, flags=0x302)
    bench.qemu.hits[2] = WATCHED
    bench.qemu.turns += [b"01", b"02", b"01", b"01"]
    bench.sent()
    return bench


def test_the_hit_of_another_cpu(both_hit: Bench) -> None:
    bench, other = both_hit, both_hit.qemu.cpus[2]
    before = dict(other)
    assert bench.gdb.ask(b"vCont;c:p1.-1") == STOPPED
    assert bench.qemu.hits == {}
    assert other == before, "it is where it was"
    assert bench.resumes() == [b"vCont;c:p1.-1", b"vCont;s:p01.02"]
    assert bench.gdb.ask(b"vCont;c:p1.-1") == OTHER_HIT
    assert bench.gdb.ask(b"g") == pack_registers(other)
    assert bench.resumes() == [], "the machine has not run"
    bench.gdb.ask(insert(RET))
    bench.gdb.send(b"vCont;c:p1.-1")
    assert bench.gdb.receive() == STOPPED
    assert bench.resumes()[:2] == [insert(RET), b"vCont;c:p1.-1"]


@pytest.mark.parametrize("hits", [True, False])
def test_one_that_comes_with_a_pause(both_hit: Bench, hits: bool) -> None:
    """QEMU reports the pause, and the hit would be kept for another access."""
    bench, qemu = both_hit, both_hit.qemu
    bench.gdb.ask(remove(NOP))
    qemu.registers["ip"] = CALLER
    qemu.hits.clear()
    qemu.turns.clear()
    qemu.turns += [b"01"]
    bench.gdb.send(b"vCont;c:p1.-1")
    qemu.wait_for(b"vCont;c:p1.-1")
    monitor = Monitor(qemu, stopped=False)
    with bench.relay.machine_paused(monitor):
        if hits:
            qemu.hits[2] = WATCHED
        qemu.turns += [b"01", b"02"]
    if hits:
        assert bench.gdb.receive() == OTHER_HIT
        assert "cont" not in monitor.commands
        qemu.cpus[1]["ip"] = NOP
        bench.gdb.ask(insert(RET))
        qemu.turns += [b"01"]
        assert bench.gdb.ask(b"vCont;c:p1.-1") == STOPPED
    else:
        assert bench.gdb.silent()
        assert monitor.commands == ["stop", "query-status", "cont"]


def test_one_of_a_watchpoint_that_has_been_removed(both_hit: Bench) -> None:
    gdb = both_hit.gdb
    gdb.ask(b"vCont;c:p1.-1")
    gdb.ask(b"z" + WATCH)
    gdb.ask(remove(NOP))
    gdb.ask(insert(RET))
    assert gdb.ask(b"vCont;c:p1.-1") == STOPPED
    assert both_hit.qemu.cpus[1]["ip"] == RET


def test_one_where_gdb_steps_over_a_breakpoint(both_hit: Bench) -> None:
    """It takes no stop of a thread then that it has not resumed."""
    gdb = both_hit.gdb
    gdb.ask(b"vCont;c:p1.-1")
    gdb.ask(remove(NOP))
    assert gdb.ask(b"vCont;s:p1.1") == STOPPED
    assert both_hit.qemu.cpus[1]["ip"] == RET
    assert gdb.ask(b"vCont;s:p1.1;c:p1.-1") == OTHER_HIT
    assert both_hit.qemu.cpus[1]["ip"] == RET


@pytest.mark.parametrize(
    "other",
    [
        pytest.param({"ip": WRITES + 1}, id="not behind an access"),
        pytest.param({"di": WATCHED + 8}, id="behind another access"),
        pytest.param({"ip": WRITES}, id="before the access"),
    ],
)
def test_one_that_is_to_come_anew(both_hit: Bench, other: dict[str, int]) -> None:
    """QEMU begins an atomic instruction again, and an interrupt may come first."""
    gdb, qemu = both_hit.gdb, both_hit.qemu
    qemu.cpus[2].update(other)
    gdb.ask(b"vCont;c:p1.-1")
    assert qemu.hits == {}
    gdb.ask(remove(NOP))
    gdb.ask(insert(RET))
    assert gdb.ask(b"vCont;c:p1.-1") == STOPPED
    assert qemu.cpus[1]["ip"] == RET


@pytest.mark.parametrize(
    ("other", "code"),
    [
        pytest.param({"cs": 0x33}, b"\x89\x07\x90", id="in a program"),
        pytest.param({}, b"\x89\xfb\xf4", id="before hlt"),
        pytest.param({"ip": WRITES + 3}, b"\x89\xfb\xf4", id="in hlt"),
        pytest.param({"ip": 0xFFF0}, b"\x89\x07\x90", id="not in the kernel yet"),
    ],
)
def test_a_cpu_that_is_left_alone(both_hit: Bench, other: dict[str, int], code: bytes) -> None:
    both_hit.qemu.memory.write(WRITES, code)
    both_hit.qemu.cpus[2].update(other)
    both_hit.gdb.ask(b"vCont;c:p1.-1")
    assert both_hit.resumes() == [b"vCont;c:p1.-1"]
    assert both_hit.qemu.hits == {2: WATCHED}


def test_no_cpu_is_asked_where_nothing_is_watched(both_hit: Bench) -> None:
    both_hit.gdb.ask(b"z" + WATCH)
    both_hit.sent()
    both_hit.gdb.ask(b"vCont;c:p1.-1")
    assert both_hit.sent() == [b"vCont;c:p1.-1"]


def test_a_machine_that_is_put_back_keeps_no_hit(both_hit: Bench) -> None:
    gdb, relay = both_hit.gdb, both_hit.relay
    gdb.ask(b"vCont;c:p1.-1")
    relay.detach()
    relay.reattach(STOPPED, paused=True)
    gdb.ask(b"?")
    gdb.ask(insert(RET))
    assert gdb.ask(b"vCont;c:p1.-1") == STOPPED
    assert both_hit.qemu.cpus[1]["ip"] == RET


def test_a_machine_that_is_put_back_to_a_watchpoints_hit(bench: Bench) -> None:
    """gdb would go on from one that it does not have."""
    bench.relay.detach()
    bench.gdb.send(b"vCont;c:p1.-1")
    assert bench.relay.wait_resumed(10)
    bench.relay.reattach(b"T05thread:p01.01;awatch:ffffffff81000800;", paused=True)
    assert bench.gdb.receive() == STOPPED


def test_a_snapshot_at_the_stop_of_another_cpu(tmp_path: Path) -> None:
    """QEMU has the first one selected then; gdb takes it for that of the stop."""
    stopped = b"T05thread:p01.02;"
    bench = Bench(tmp_path, stopped)
    try:
        assert bench.gdb.ask(b"?") == stopped, "however often it is asked"
        assert bench.sent()[:2] == [b"?", b"Hgp01.02"]
        assert bench.relay.stop_reply == stopped
        bench.gdb.ask(insert(NOP))
        assert bench.gdb.ask(b"vCont;c:p1.-1") == STOPPED
        assert bench.gdb.ask(b"?") == STOPPED, "the next stop is QEMU's own"
    finally:
        bench.close()


def test_no_breakpoints_while_quiesced(bench: Bench) -> None:
    bench.gdb.ask(insert(NOP))
    with bench.relay.quiesced(1):
        assert bench.qemu.breakpoints == set()
    assert bench.qemu.breakpoints == {NOP}


def test_a_port_that_closes(bench: Bench) -> None:
    bench.qemu.hang_up()
    assert bench.gdb.receive() == b""


class TestHooks:
    def test_gdb_sees_nothing(self, bench: Bench) -> None:
        calls: list[int] = []
        bench.relay.add_hook(NOP, counter(calls))
        bench.gdb.ask(insert(RET))
        assert bench.gdb.ask(b"vCont;c:p1.-1") == STOPPED
        assert calls == [NOP]
        assert bench.qemu.registers["ip"] == RET
        assert bench.resumes()[2:] == 2 * [b"vCont;c:p1.-1"], "the nop was emulated"

    def test_what_is_not_emulated_is_stepped(self, bench: Bench) -> None:
        calls: list[int] = []
        bench.relay.add_hook(LOAD, counter(calls))
        bench.gdb.ask(insert(RET))
        assert bench.gdb.ask(b"vCont;c:p1.-1") == STOPPED
        assert calls == [LOAD]
        assert bench.qemu.registers["ip"] == RET
        assert bench.resumes()[2:] == [
            b"vCont;c:p1.-1", remove(LOAD), b"vCont;s:p01.01", insert(LOAD), b"vCont;c:p1.-1",
        ]  # fmt: skip

    def test_the_other_cpu_stands_still_meanwhile(self, bench: Bench) -> None:
        calls: list[int] = []
        bench.relay.add_hook(LOAD, counter(calls))
        bench.gdb.ask(insert(RET))
        bench.qemu.turns += [b"1", b"1", b"2", b"2", b"2", b"1"]
        assert bench.gdb.ask(b"vCont;c:p1.-1") == b"T05thread:p01.02;"
        assert calls == [LOAD, LOAD]
        assert bench.gdb.ask(b"vCont;c:p1.-1") == STOPPED

    def test_one_that_stops_the_kernel(self, bench: Bench) -> None:
        bench.relay.add_hook(NOP, counter([], STOP))
        assert bench.gdb.ask(b"vCont;c:p1.-1") == STOPPED
        assert bench.qemu.registers["ip"] == NOP

    def test_one_that_returns_a_value(self, bench: Bench) -> None:
        assert bench.relay.can_force_return
        bench.relay.add_hook(ENTRY, counter([], Return(0xFFFFFFF4)))
        bench.gdb.send(b"vCont;c:p1.-1")
        bench.qemu.wait_for(b"vCont;c:p1.-1", 2)
        registers = bench.qemu.registers
        assert (registers["ax"], registers["sp"]) == (0xFFFFFFF4, STACK + 8)
        assert registers["ip"] == CALLER

    def test_a_step_of_gdbs_over_its_breakpoint(self, bench: Bench) -> None:
        calls: list[int] = []
        bench.relay.add_hook(NOP, counter(calls))
        bench.gdb.ask(insert(NOP))
        assert bench.gdb.ask(b"vCont;c:p1.-1") == STOPPED
        bench.gdb.ask(remove(NOP))
        assert bench.gdb.ask(b"vCont;s:p1.1") == STOPPED
        assert bench.qemu.registers["ip"] == RET
        assert calls == [NOP]
        bench.gdb.ask(insert(NOP))
        assert bench.qemu.breakpoints == {NOP}

    def test_a_step_onto_and_over_a_hook(self, bench: Bench) -> None:
        calls: list[int] = []
        bench.relay.add_hook(LOAD, counter(calls))
        assert bench.gdb.ask(b"vCont;s:p1.1") == STOPPED
        assert bench.qemu.registers["ip"] == LOAD
        assert calls == []
        assert bench.gdb.ask(b"vCont;s:p1.1") == STOPPED
        assert bench.qemu.registers["ip"] == NOP
        assert calls == [LOAD]

    def test_the_segment_bases(self, bench: Bench) -> None:
        """`current` is relative to one of them."""
        seen: list[int] = []

        def hook(event: Event) -> Action:
            seen.append(event.registers["gs_base"])
            assert event.read(STACK, 8) == CALLER.to_bytes(8, "little")
            return STOP

        bench.qemu.registers["gs_base"] = 0xFFFF888000000000
        bench.relay.add_hook(NOP, hook)
        assert bench.gdb.ask(b"vCont;c:p1.-1") == STOPPED
        assert seen == [0xFFFF888000000000]

    def test_what_is_read_must_be_mapped(self, bench: Bench) -> None:
        def hook(event: Event) -> Action:
            event.read(0x1000, 8)
            return CONTINUE

        bench.relay.add_hook(NOP, hook)
        assert bench.gdb.ask(b"vCont;c:p1.-1") == STOPPED
        assert "0x1000 is not mapped" in str(bench.relay.take_hook_error())

    def test_a_step_that_qemu_cuts_short(self, bench: Bench) -> None:
        """Another CPU came to a breakpoint while QEMU stopped; the step is done once more."""
        calls: list[int] = []
        bench.relay.add_hook(LOAD, counter(calls))
        bench.gdb.ask(insert(RET))
        bench.qemu.cut_short = 1
        assert bench.gdb.ask(b"vCont;c:p1.-1") == STOPPED
        assert bench.qemu.registers["ip"] == RET
        assert calls == [LOAD]
        assert bench.resumes().count(b"vCont;s:p01.01") == 2

    def test_a_stop_without_a_reason(self, bench: Bench) -> None:
        bench.relay.add_hook(NOP, counter([]))
        bench.qemu.registers["ip"] = CALLER
        bench.gdb.send(b"vCont;c:p1.-1")
        bench.qemu.wait_for(b"vCont;c:p1.-1")
        bench.qemu.stop()
        bench.qemu.wait_for(b"vCont;c:p1.-1", 2)
        assert bench.gdb.silent()

    def test_a_hardware_breakpoint_is_a_reason(self, bench: Bench) -> None:
        bench.relay.add_hook(NOP, counter([]))
        assert bench.gdb.ask(b"Z1,%x,1" % CALLER) == b"OK"
        bench.qemu.registers["ip"] = CALLER
        bench.gdb.send(b"vCont;c:p1.-1")
        bench.qemu.wait_for(b"vCont;c:p1.-1")
        bench.qemu.stop()
        assert bench.gdb.receive() == STOPPED


class Monitor:
    """QEMU's monitor, as far as pausing goes.

    :param stopped: whether a CPU comes to a breakpoint before `stop` does.
    """

    def __init__(self, qemu: ScriptedQemu, *, stopped: bool) -> None:
        self._qemu = qemu
        self._stopped = stopped
        self.commands: list[str] = []

    def execute(self, command: str) -> object:
        self.commands.append(command)
        if command == "stop":
            self._qemu.stop(signal=b"05" if self._stopped else b"02")
        elif command == "cont":
            self._qemu.running = True
        return {"status": "debug" if self._stopped else "paused"}


class TestPausedByTheMonitor:
    def test_it_is_no_stop(self, bench: Bench) -> None:
        bench.qemu.registers["ip"] = CALLER
        bench.gdb.send(b"vCont;c:p1.-1")
        bench.qemu.wait_for(b"vCont;c:p1.-1")
        monitor = Monitor(bench.qemu, stopped=False)
        with bench.relay.machine_paused(monitor):
            assert not bench.qemu.running
        assert bench.qemu.running
        assert bench.gdb.silent()
        assert not bench.relay.stop_reported
        assert monitor.commands == ["stop", "query-status", "cont"]
        bench.relay.interrupt()
        assert bench.gdb.receive() == b"T02thread:p01.01;"

    def test_a_hook_that_has_been_reached_is_served_afterwards(self, bench: Bench) -> None:
        calls: list[int] = []
        bench.relay.add_hook(NOP, counter(calls))
        bench.qemu.registers["ip"] = CALLER
        bench.gdb.send(b"vCont;c:p1.-1")
        bench.qemu.wait_for(b"vCont;c:p1.-1")
        monitor = Monitor(bench.qemu, stopped=True)
        bench.qemu.registers["ip"] = NOP
        with bench.relay.machine_paused(monitor):
            assert bench.gdb.silent()
            assert calls == []
        bench.qemu.wait_for(b"vCont;c:p1.-1", 2)
        assert calls == [NOP]
        assert monitor.commands == ["stop", "query-status"]

    def test_a_stopped_machine_stays_so(self, bench: Bench) -> None:
        """One that was restored is paused, and `cont` would have it run behind gdb's back."""
        monitor = Monitor(bench.qemu, stopped=False)
        with bench.relay.machine_paused(monitor):
            pass
        assert monitor.commands == []

    def test_a_step_of_gdbs_ends_first(self, bench: Bench) -> None:
        """QEMU would forget it, and gdb wait for ever."""
        bench.qemu.holds_steps = True
        bench.qemu.registers["ip"] = LOAD
        bench.gdb.send(b"vCont;s:p1.1")
        bench.qemu.wait_for(b"vCont;s:p1.1")
        monitor = Monitor(bench.qemu, stopped=False)

        def pause() -> None:
            with bench.relay.machine_paused(monitor):
                pass

        with ThreadPoolExecutor() as threads:
            paused = threads.submit(pause)
            assert bench.gdb.silent()
            bench.qemu.end_step()
            assert bench.gdb.receive() == STOPPED
            paused.result(10)
        assert monitor.commands == []

    def test_its_report_is_acknowledged_before_the_machine_goes_on(self, bench: Bench) -> None:
        """QEMU would take an interrupt for a bad acknowledgement."""
        bench.qemu.registers["ip"] = CALLER
        bench.gdb.send(b"vCont;c:p1.-1")
        bench.qemu.wait_for(b"vCont;c:p1.-1")
        monitor = Monitor(bench.qemu, stopped=False)
        with bench.relay.machine_paused(monitor):
            bench.qemu.acknowledged.wait(10)
            assert monitor.commands == ["stop", "query-status"]
            assert bench.qemu.acknowledged.is_set()


LAYOUT = StopLayout(current_task=0x40, task_mm=0, task_pid=0, task_comm=0, mm_pgd=0)
PER_CPU = (BASE + 0x300, BASE + 0x400)


class DeviceMemory(Memory):
    """Guest memory whose last page is a device's: mapped, and no RAM of ours."""

    def read(self, address: int, size: int) -> bytes:
        if address >= BASE + 0xFF8:
            raise KgdbError(f"{address:#x} is not RAM")
        return super().read(address, size)

    def translate(self, address: int) -> tuple[int, int]:
        if not BASE <= address < BASE + 0x1000:
            raise KgdbError(f"{address:#x} is not mapped in the kernel's page tables")
        return address - BASE, 0x10 - address % 0x10

    def check_mapped(self, address: int, size: int) -> None:
        for at in range(address, address + size):
            self.translate(at)


def requests(bench: Bench) -> list[bytes]:
    """What QEMU has been sent, without what selects a CPU."""
    return [packet for packet in bench.sent() if packet[:2] != b"Hg"]


@pytest.fixture
def ours(bench: Bench) -> Bench:
    """With guest memory, in which each CPU has its task."""
    memory = DeviceMemory()
    memory._data = bench.qemu.memory._data  # the same RAM
    for cpu, (base, task) in enumerate(zip(PER_CPU, TASKS, strict=True), 1):
        memory.write(base + 0x40, task.to_bytes(8, "little"))
        bench.qemu.cpus[cpu]["gs_base"] = base
    bench.relay.use_guest_memory(memory, LAYOUT)
    bench.sent()
    return bench


class TestGuestMemory:
    """The relay reads it by page tables that no CPU need have loaded, and writes through QEMU."""

    def test_qemu_is_not_asked_for_ram(self, ours: Bench) -> None:
        assert ours.gdb.ask(b"m%x,1" % NOP) == b"90"
        assert requests(ours) == []

    def test_a_device(self, ours: Bench) -> None:
        assert ours.gdb.ask(b"m%x,4" % (BASE + 0xFFC)) == b"00000000"
        assert b"mffc,4" in requests(ours)
        assert not ours.qemu.physical

    def test_what_is_not_mapped(self, ours: Bench) -> None:
        assert ours.gdb.ask(b"m%x,4" % (BASE + 0xFFE)) == b"E14"
        assert ours.gdb.ask(b"m%x,1" % (BASE - 1)) == b"E14"
        error = ours.relay.explain(BASE - 1)
        assert error is not None
        assert "is not mapped in the kernel's page tables" in error.message
        assert ours.relay.explain(NOP) is None
        assert ours.relay.take_refusal() is None, "nothing was written"

    def test_a_write_is_a_physical_one_of_qemus(self, ours: Bench) -> None:
        assert ours.gdb.ask(b"M%x,2:cccc" % NOP) == b"OK"
        assert requests(ours) == [
            b"Qqemu.PhyMemMode:1", b"M%x,2:cccc" % (NOP - BASE), b"Qqemu.PhyMemMode:0",
        ]  # fmt: skip
        assert ours.gdb.ask(b"m%x,2" % NOP) == b"cccc"

    def test_a_write_over_the_end_of_a_page(self, ours: Bench) -> None:
        start = BASE + 0x60C
        assert ours.gdb.ask(b"M%x,8:%b" % (start, bytes(range(8)).hex().encode())) == b"OK"
        assert [packet for packet in requests(ours) if packet[:1] == b"M"] == [
            b"M60c,4:00010203", b"M610,4:04050607",
        ]  # fmt: skip
        assert ours.qemu.memory.read(start, 8) == bytes(range(8))

    def test_no_part_of_a_refused_write_is_done(self, ours: Bench) -> None:
        assert ours.gdb.ask(b"M%x,4:ffffffff" % (BASE + 0xFFE)) == b"E14"
        refusal = ours.relay.take_refusal()
        assert refusal is not None
        assert "is not mapped" in refusal.reason
        assert ours.relay.take_refusal() is None
        assert not [packet for packet in requests(ours) if packet[:1] == b"M"]

    def test_a_programs_memory_is_its_tasks(self, ours: Bench) -> None:
        ours.qemu.memory.write(USER_ALIAS, b"user")
        assert ours.gdb.ask(b"m%x,4" % USER) == b"user".hex().encode()
        assert ours.relay.read(USER, 4) == b"user"
        with pytest.raises(KgdbError, match=f"not mapped for {TASKS[0]:#x}"):
            ours.relay.read(0x1000, 4)

    def test_of_the_cpu_that_gdb_has_selected(self, ours: Bench) -> None:
        """The other CPU's task has none; what the relay reads is of the one that stopped."""
        assert ours.gdb.ask(b"Hgp1.2") == b"OK"
        assert ours.gdb.ask(b"m%x,4" % USER) == b"E14"
        assert ours.relay.read(USER, 4) == bytes(4)
        assert ours.gdb.ask(b"m%x,4" % USER) == b"E14"

    def test_in_user_mode_the_kernels_base_is_the_other_one(self, ours: Bench) -> None:
        registers = ours.qemu.registers
        registers["k_gs_base"], registers["gs_base"] = registers["gs_base"], 0x7F0000001000
        ours.qemu.memory.write(USER_ALIAS, b"user")
        assert ours.relay.read(USER, 4) == b"user"

    def test_writing_a_programs_memory(self, ours: Bench) -> None:
        assert ours.gdb.ask(b"M%x,2:4142" % (USER + 4)) == b"OK"
        assert ours.qemu.memory.read(USER_ALIAS + 4, 2) == b"AB"
        ours.relay.write_user(USER + 6, b"CD")
        assert ours.qemu.memory.read(USER_ALIAS + 4, 4) == b"ABCD"
        assert ours.gdb.ask(b"M%x,1:41" % (USER + 28)) == b"E14"
        assert "mapped read-only" in str(ours.relay.take_refusal())
        with pytest.raises(KgdbError, match="mapped read-only"):
            ours.relay.write_user(USER + 28, b"x")

    def test_hooks_read_it(self, ours: Bench) -> None:
        read: list[bytes] = []

        def hook(event: Event) -> Action:
            read.append(event.read(USER, 4))
            return STOP

        ours.qemu.memory.write(USER_ALIAS, b"user")
        ours.relay.add_hook(NOP, hook)
        assert ours.gdb.ask(b"vCont;c:p1.-1") == STOPPED
        assert read == [b"user"]

    def test_without_it_qemu_is_asked(self, ours: Bench) -> None:
        with ours.relay.without_guest_memory():
            assert ours.gdb.ask(b"m%x,1" % NOP) == b"90"
            assert requests(ours) == [b"m%x,1" % NOP]
            with pytest.raises(KgdbError, match="guest memory is not mapped here"):
                ours.relay.write_user(USER, b"x")
            assert ours.relay.explain(BASE - 1) is None
            assert ours.gdb.ask(b"M%x,1:cc" % NOP) == b"OK"
            assert ours.gdb.ask(b"M%x,1:cc" % USER) == b"E14"
            assert "not mapped" in str(ours.relay.take_refusal())
            assert ours.gdb.ask(b"M%x,1:cc" % (BASE - 1)) == b"E14"
            assert "is not mapped: QEMU cannot write" in str(ours.relay.take_refusal())
        assert ours.relay.guest_memory_used[1] is LAYOUT

    def test_a_kernel_whose_tasks_are_not_known(self, ours: Bench) -> None:
        ours.relay.use_guest_memory(ours.relay.guest_memory_used[0], None)
        assert ours.gdb.ask(b"m%x,4" % USER) == b"E14"
        assert ours.gdb.ask(b"M%x,1:41" % USER) == b"E14"
        assert "is not known" in str(ours.relay.take_refusal())

    def test_binary_packets_are_not_known(self, ours: Bench) -> None:
        assert ours.gdb.ask(b"X%x,0:" % NOP) == b""
        assert requests(ours) == []


class TestTheTaskThatGdbSteps:
    """gdb's threads are CPUs, and what it steps is a task."""

    @pytest.fixture
    def stepping(self, ours: Bench) -> Bench:
        ours.relay.set_stepping(True)
        assert ours.gdb.ask(insert(RET)) == b"OK"
        ours.sent()
        return ours

    @staticmethod
    def move(bench: Bench) -> None:
        """Have the CPUs change their tasks."""
        for base, task in zip(PER_CPU, reversed(TASKS), strict=True):
            bench.qemu.memory.write(base + 0x40, task.to_bytes(8, "little"))

    def test_it_goes_to_another_cpu(self, stepping: Bench) -> None:
        gdb, qemu = stepping.gdb, stepping.qemu
        self.move(stepping)
        qemu.turns += [b"02"]
        assert gdb.ask(b"vCont;c:p1.-1") == STOPPED, "the one that gdb steps"
        assert qemu.cpu == 2
        stepping.relay.set_stepping(False)
        assert gdb.ask(b"qfThreadInfo") == b"mp01.01,p01.02"
        assert gdb.ask(b"Hgp1.1") == b"OK"
        assert gdb.ask(b"g") == pack_registers(qemu.cpus[2])
        assert gdb.ask(b"Hgp1.2") == b"OK"
        assert gdb.ask(b"g") == pack_registers(qemu.cpus[1])
        stepping.sent()
        assert gdb.ask(remove(RET)) == b"OK"
        stepping.relay.set_stepping(True)
        assert gdb.ask(b"vCont;s:p1.1;c:p1.-1") == STOPPED
        assert qemu.cpus[2]["ip"] == CALLER

    def test_the_numbers_are_qemus_again_once_the_kernel_runs(self, stepping: Bench) -> None:
        gdb, qemu = stepping.gdb, stepping.qemu
        self.move(stepping)
        qemu.turns += [b"02"]
        assert gdb.ask(b"vCont;c:p1.-1") == STOPPED
        stepping.relay.set_stepping(False)
        qemu.cpus[2]["ip"] = CALLER
        qemu.turns += [b"01"]
        assert gdb.ask(b"vCont;c:p1.-1") == STOPPED
        assert qemu.cpu == 1

    def test_another_task_comes_to_the_same_place(self, stepping: Bench) -> None:
        stepping.qemu.turns += [b"02", b"01"]
        assert stepping.gdb.ask(b"vCont;c:p1.-1") == STOPPED
        assert (stepping.qemu.cpu, stepping.qemu.cpus[2]["ip"]) == (1, CALLER)

    def test_another_task_comes_to_a_breakpoint_for_all(self, ours: Bench) -> None:
        assert ours.gdb.ask(insert(RET)) == b"OK"
        ours.relay.set_stepping(True)
        ours.qemu.turns += [b"02", b"01"]
        assert ours.gdb.ask(b"vCont;c:p1.-1") == b"T05thread:p01.02;"


@pytest.mark.parametrize("runs", [True, False])
def test_a_qemu_that_is_gone(bench: Bench, runs: bool) -> None:
    """Whoever asks, with QEMU's end not noticed yet, is told, too."""
    if runs:
        bench.gdb.send(b"vCont;c:p1.-1")
        bench.qemu.wait_for(b"vCont;c:p1.-1")
    with bench.relay.locked():
        bench.qemu.hang_up()
        with pytest.raises(MachineDied, match="QEMU's gdb stub is gone"):
            bench.relay.interrupt() if runs else bench.relay.add_hook(NOP, counter([]))


@pytest.mark.parametrize("before", [True, False])
def test_a_qemu_that_is_gone_while_it_is_to_be_saved(bench: Bench, before: bool) -> None:
    bench.relay.add_hook(NOP, counter([]))
    with bench.relay.locked():
        if before:
            bench.qemu.hang_up()
        with (
            pytest.raises(MachineDied, match="QEMU's gdb stub is gone"),
            bench.relay.quiesced(1),
        ):
            bench.qemu.hang_up()


def test_an_error_of_whoever_saves_it_stays_as_it_is(bench: Bench) -> None:
    with pytest.raises(FileNotFoundError), bench.relay.quiesced(1):
        raise FileNotFoundError
