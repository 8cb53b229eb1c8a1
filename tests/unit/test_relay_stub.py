"""Watchpoints and hardware breakpoints: QEMU's gdb stub beside kgdb, both played here."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from relay_bench import WAITS, Bench, Vcpus, insert
from scripted_kgdb import COPIES, KGDB_LAYOUT, LAYOUT, LAYOUT_WITH_COPIES
from scripted_qemu import SELF_JUMP, ScriptedQemu
from scripted_stub import CALLER, DATA, LOAD, NOP, RET, STACK, packet

from pytest_kgdb.rsp import QemuStub


@pytest.fixture
def qemu() -> Iterator[ScriptedQemu]:
    qemu = ScriptedQemu()
    yield qemu
    qemu.close()


@pytest.fixture
def bench(tmp_path: Path, qemu: ScriptedQemu) -> Iterator[Bench]:
    with Bench(tmp_path, stub=QemuStub(qemu.connect, waits=WAITS)) as bench:
        qemu.memory = bench.kgdb.memory
        yield bench


def test_a_hit(bench: Bench, qemu: ScriptedQemu) -> None:
    bench.kgdb.registers["ip"] = CALLER
    watch = b"2,%x,4" % DATA
    assert bench.gdb.ask(b"Z" + watch) == b"OK"
    qemu.wait_for(b"c")
    assert qemu.packets == [b"?", b"Z" + watch, b"c"]
    bench.gdb.send(b"c")
    bench.kgdb.wait_for(b"c")
    qemu.registers["ip"] = NOP
    qemu.stop(reason=b"watch:%x;" % DATA)
    qemu.wait_for(b"M%x,1:cc" % NOP)
    qemu.wait_for(b"c", 2)
    bench.kgdb.registers["ip"] = NOP + 1
    bench.kgdb.stop()
    assert bench.gdb.receive() == b"T05watch:%x;thread:01;" % DATA
    assert bench.kgdb.registers["ip"] == NOP
    assert bench.kgdb.memory.read(NOP, 1) == b"\x90", "the instruction is back"


def test_a_hit_by_what_is_stepped(bench: Bench, qemu: ScriptedQemu) -> None:
    """The CPU has taken the end of the step first, and is about to report that."""
    at = NOP
    kgdb = replace(KGDB_LAYOUT, debug_exception=at)
    bench.relay.use_guest_memory(bench.kgdb.memory, replace(LAYOUT, kgdb=kgdb))
    bench.gdb.ask(b"Z2,%x,4" % DATA)
    qemu.wait_for(b"c")
    bench.step_over(LOAD)
    qemu.registers["ip"] = at
    qemu.stop(reason=b"watch:%x;" % DATA)
    qemu.wait_for(b"c", 2)
    assert not [packet for packet in qemu.packets if packet[:1] == b"M"], "no int3 is needed"
    bench.kgdb.resume(step=True)
    assert bench.gdb.receive() == b"T05watch:%x;thread:01;" % DATA
    assert bench.kgdb.registers["ip"] == NOP


def test_another_cpus_stop_before_the_step_with_the_hit_has_ended(
    bench: Bench, qemu: ScriptedQemu
) -> None:
    kgdb = replace(KGDB_LAYOUT, debug_exception=NOP)
    bench.kgdb.registers["ip"] = LOAD
    bench.relay.use_guest_memory(bench.kgdb.memory, replace(LAYOUT, kgdb=kgdb))
    bench.gdb.ask(b"Z2,%x,4" % DATA)
    qemu.wait_for(b"c")
    bench.kgdb.holds_steps = True
    bench.gdb.ask(insert(RET))
    bench.gdb.send(b"s")
    bench.kgdb.wait_for(b"s")
    qemu.registers["ip"] = NOP
    qemu.stop(reason=b"watch:%x;" % DATA)
    qemu.wait_for(b"c", 2)
    bench.kgdb.thread = b"02"
    bench.kgdb.registers["ip"], bench.kgdb.registers["flags"] = RET + 1, 0x202
    bench.kgdb.stop()
    assert bench.gdb.receive() == b"T05swbreak:;thread:02;"
    assert bench.kgdb.registers["ip"] == RET


def test_a_hit_of_a_hardware_breakpoint(bench: Bench, qemu: ScriptedQemu) -> None:
    bench.kgdb.registers["ip"] = CALLER
    breakpoint = b"1,%x,1" % NOP
    bench.gdb.ask(b"Z" + breakpoint)
    qemu.wait_for(b"c")
    bench.gdb.send(b"c")
    bench.kgdb.wait_for(b"c")
    qemu.registers["ip"] = NOP
    qemu.stop()
    qemu.wait_for(b"z" + breakpoint)
    qemu.wait_for(b"c", 2)
    bench.kgdb.registers["ip"] = NOP + 1
    bench.kgdb.stop()
    assert bench.gdb.receive() == b"T05hwbreak:;thread:01;"
    bench.kgdb.registers["ip"] = CALLER
    bench.gdb.send(b"c")
    qemu.wait_for(b"Z" + breakpoint, 2)


def test_a_hit_while_another_cpu_steps_off(bench: Bench, qemu: ScriptedQemu) -> None:
    """The breakpoint stays, and the CPU that comes there is put back to it meanwhile."""
    bench.kgdb.registers["ip"] = LOAD
    bench.relay.use_guest_memory(bench.kgdb.memory, LAYOUT_WITH_COPIES)
    breakpoint = b"1,%x,1" % LOAD
    bench.gdb.ask(b"Z" + breakpoint)
    bench.gdb.ask(b"z" + breakpoint)
    bench.kgdb.holds_steps = True
    bench.gdb.send(b"s")
    bench.kgdb.wait_for(b"s")
    qemu.wait_for(b"c", 3)
    instruction = bench.kgdb.memory.read(LOAD, 1)
    qemu.registers["ip"] = LOAD
    qemu.stop()
    qemu.wait_for(b"M%x,1:cc" % LOAD)
    bench.kgdb.thread = b"02"
    bench.kgdb.registers["ip"] = LOAD + 1
    bench.kgdb.stop()
    bench.kgdb.wait_for(b"c")
    assert bench.kgdb.registers["ip"] == CALLER, "it was put back, and has run on from there"
    assert bench.kgdb.memory.read(LOAD, 1) == instruction
    assert bench.gdb.silent()
    bench.kgdb.thread = b"01"
    bench.kgdb.resume(step=True)
    assert bench.gdb.receive() == b"T05thread:01;"
    assert bench.kgdb.registers["ip"] == NOP
    assert bench.gdb.ask(b"Z" + breakpoint) == b"OK"
    assert qemu.packets.count(b"Z" + breakpoint) == 3


@pytest.mark.parametrize("second", [NOP, RET])
def test_a_hit_of_another_cpu_on_its_way_into_kgdb(
    bench: Bench, qemu: ScriptedQemu, second: int
) -> None:
    """At the same instruction the int3 is there already, and it is restored all the same."""
    bench.kgdb.registers["ip"] = CALLER
    bench.gdb.ask(b"Z2,%x,4" % DATA)
    qemu.wait_for(b"c")
    bench.gdb.send(b"c")
    bench.kgdb.wait_for(b"c")
    instructions = bench.kgdb.memory.read(NOP, 1) + bench.kgdb.memory.read(RET, 1)
    for count, address in ((2, NOP), (3, second)):
        qemu.registers["ip"] = address
        qemu.stop(reason=b"watch:%x;" % DATA)
        qemu.wait_for(b"c", count)
    for thread, address in ((b"01", second), (b"02", NOP)):
        bench.kgdb.thread = thread
        bench.kgdb.registers["ip"], bench.kgdb.registers["flags"] = address + 1, 0x202
        bench.kgdb.stop()
        if thread == b"02" and second == NOP:
            bench.kgdb.wait_for(b"c", 3)  # it goes on by itself: the other's stop was of both
            assert bench.gdb.silent()
            break
        assert bench.gdb.receive() == b"T05watch:%x;thread:%b;" % (DATA, thread)
        assert bench.kgdb.registers["ip"] == address
        bench.kgdb.registers["ip"] = CALLER
        bench.gdb.send(b"c")
        bench.kgdb.wait_for(b"c", 2)
    assert bench.kgdb.memory.read(NOP, 1) + bench.kgdb.memory.read(RET, 1) == instructions


def test_a_hit_of_a_cpu_that_has_executed_the_int3_of_another(
    bench: Bench, qemu: ScriptedQemu
) -> None:
    """QEMU 10 reports it at the exception's first instruction."""
    kgdb = replace(KGDB_LAYOUT, int3_exception=RET)
    bench.kgdb.registers["ip"] = CALLER
    bench.relay.use_guest_memory(bench.kgdb.memory, replace(LAYOUT, kgdb=kgdb))
    bench.gdb.ask(b"Z2,%x,4" % DATA)
    qemu.wait_for(b"c")
    bench.gdb.send(b"c")
    bench.kgdb.wait_for(b"c")
    instructions = bench.kgdb.memory.read(NOP, 1), bench.kgdb.memory.read(RET, 1)
    qemu.registers["ip"] = NOP
    qemu.stop(reason=b"watch:%x;" % DATA)
    qemu.wait_for(b"c", 2)
    bench.kgdb.memory.write(STACK, (NOP + 1).to_bytes(8, "little"))
    qemu.registers["ip"], qemu.registers["sp"] = RET, STACK
    qemu.stop(reason=b"watch:%x;" % DATA)
    qemu.wait_for(b"c", 3)
    bench.kgdb.registers["ip"], bench.kgdb.registers["flags"] = NOP + 1, 0x202
    bench.kgdb.stop()
    assert bench.gdb.receive() == b"T05watch:%x;thread:01;" % DATA
    assert bench.kgdb.registers["ip"] == NOP
    assert (bench.kgdb.memory.read(NOP, 1), bench.kgdb.memory.read(RET, 1)) == instructions


def test_what_kgdb_touches_is_no_hit(bench: Bench, qemu: ScriptedQemu) -> None:
    bench.gdb.ask(b"Z2,%x,4" % DATA)
    qemu.wait_for(b"c")
    qemu.registers["ip"] = NOP
    qemu.stop(reason=b"watch:%x;" % DATA)
    qemu.wait_for(b"c", 2)
    assert not [packet for packet in qemu.packets if packet[:1] == b"M"]


def test_it_is_detached_with_the_machine(bench: Bench, qemu: ScriptedQemu) -> None:
    watch = b"2,%x,4" % DATA
    bench.gdb.ask(b"Z" + watch)
    qemu.wait_for(b"c")
    bench.relay.detach()
    assert qemu.watchpoints == set()
    assert not qemu.running, "what has stopped it, an error of its disk, say, is not met again"
    bench.relay.reattach(b"T05thread:01;", paused=False)
    assert bench.gdb.ask(b"z" + watch) == b"OK"
    assert qemu.connections == 1


def test_a_restored_machine_stays_paused_where_nothing_is_to_be_removed(
    tmp_path: Path, qemu: ScriptedQemu
) -> None:
    """gdb takes away what it had, with the stub detached: the machine is resumed all the same."""
    watch, vcpus = b"2,%x,4" % DATA, Vcpus()
    with Bench(tmp_path, stub=QemuStub(qemu.connect, waits=WAITS), vcpus=vcpus) as bench:
        qemu.memory = bench.kgdb.memory
        bench.gdb.ask(b"Z" + watch)
        bench.relay.detach()
        vcpus.calls.clear()
        bench.relay.reattach(b"T05thread:01;", paused=True)
        assert bench.gdb.ask(b"z" + watch) == b"OK"
        assert vcpus.calls == []
        bench.kgdb.registers["ip"] = CALLER
        bench.gdb.send(b"c")
        bench.kgdb.wait_for(b"c")
        assert vcpus.calls == ["cont"]


def test_a_write_that_fails_while_a_cpu_is_asked_for_its_hit(
    bench: Bench, qemu: ScriptedQemu
) -> None:
    """The machine stays stopped, and the CPU that was to jump would not stop by itself again."""
    bench.kgdb.registers["ip"] = CALLER
    layout = replace(LAYOUT, self_jump=COPIES.start)
    bench.kgdb.memory.write(COPIES.start, SELF_JUMP)
    bench.relay.use_guest_memory(bench.kgdb.memory, layout)
    bench.gdb.ask(b"Z2,%x,4" % DATA)
    qemu.wait_for(b"c")
    bench.gdb.send(b"c")
    bench.kgdb.wait_for(b"c")
    qemu.cpus[2]["flags"] = 0x202
    qemu.fails_to_write = True
    qemu.stop(1)
    qemu.wait_for(b"vCont;s:p01.02")
    bench.relay.detach()
    assert qemu.packets.count(b"c") == 1
    assert not qemu.running
    assert qemu.single_steps == set()


def test_running_to_an_instruction(qemu: ScriptedQemu) -> None:
    asked: list[float] = []

    def patience(seconds: float) -> bool:
        asked.append(seconds)
        if len(asked) == 2:
            qemu.wait_for(b"c")
            qemu.stop()
        return True

    qemu.registers["ip"] = CALLER
    QemuStub(qemu.connect, waits=WAITS).run_to(NOP, patience)
    breakpoint = b"1,%x,1" % NOP
    assert qemu.packets == [b"?", b"Z" + breakpoint, b"c", b"z" + breakpoint]
    assert not qemu.running


class TestWhereKgdbTakesNone:
    """noinstr code: kgdb refuses the breakpoint at which a step of gdb's is to end."""

    PLACE = b"1,%x,1" % NOP

    def insert(self, bench: Bench) -> bytes:
        """Insert one that kgdb refuses; the kernel runs without."""
        bench.kgdb.faults.append(lambda _: bench.kgdb.send_raw(packet(b"E22")))
        reply = bench.gdb.ask(insert(NOP))
        bench.kgdb.breakpoints.clear()
        bench.kgdb.registers["ip"] = CALLER
        return reply

    def test_qemu_has_it_instead(self, bench: Bench, qemu: ScriptedQemu) -> None:
        bench.relay.set_stepping(True)
        assert self.insert(bench) == b"OK"
        qemu.wait_for(b"Z" + self.PLACE)
        bench.gdb.send(b"c")
        bench.kgdb.wait_for(b"c")
        qemu.wait_for(b"c")
        qemu.registers["ip"] = NOP
        qemu.stop()
        qemu.wait_for(b"M%x,1:cc" % NOP)
        bench.kgdb.registers["ip"] = NOP + 1
        bench.kgdb.stop()
        assert bench.gdb.receive() == b"T05swbreak:;thread:01;", "as any other breakpoint"
        assert bench.kgdb.registers["ip"] == NOP
        assert bench.kgdb.memory.read(NOP, 1) == b"\x90", "the instruction is back"

    def test_another_task_passes(self, bench: Bench, qemu: ScriptedQemu) -> None:
        bench.relay.set_stepping(True)
        assert self.insert(bench) == b"OK"
        bench.gdb.send(b"c")
        bench.kgdb.wait_for(b"c")
        qemu.wait_for(b"c")
        qemu.registers["ip"] = NOP
        qemu.stop()
        qemu.wait_for(b"M%x,1:cc" % NOP)
        bench.kgdb.thread = b"02"
        bench.kgdb.registers["ip"] = NOP + 1
        bench.kgdb.stop()
        qemu.wait_for(b"Z" + self.PLACE, 2)  # it is there again behind the other one
        assert bench.gdb.silent()

    def test_only_for_a_step(self, bench: Bench, qemu: ScriptedQemu) -> None:
        for stepping in (None, False):
            if stepping is not None:
                bench.relay.set_stepping(True)
                bench.relay.set_stepping(stepping)
            assert self.insert(bench) == b"E22"
        assert qemu.packets == []
