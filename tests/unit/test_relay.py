"""The relay between a gdb and a kgdb that are both played here, through its two sockets."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from relay_bench import Bench, Vcpus, counter, insert, remove
from scripted_gdb import wait_until
from scripted_kgdb import KGDBREBOOT, LAYOUT, LAYOUT_WITH_REBOOT
from scripted_stub import (
    BASE,
    CALLER,
    ENTRY,
    LOAD,
    NOP,
    RET,
    STACK,
    TASKS,
    USER,
    USER_ALIAS,
    Gdb,
)

from pytest_kgdb.deadline import WaitLimit
from pytest_kgdb.errors import KgdbError
from pytest_kgdb.rsp import KgdbBackend

BEYOND = 0xFFFFFFFFC0000000


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    with Bench(tmp_path) as bench:
        yield bench


class TestRequests:
    def test_connecting(self, bench: Bench) -> None:
        """What is known is not asked of kgdb."""
        gdb = bench.gdb
        assert b"PacketSize=4000;" in gdb.ask(b"qSupported:swbreak+")
        assert gdb.ask(b"vMustReplyEmpty") == gdb.ask(b"vCont?") == b""
        assert gdb.ask(b"Hg0") == b"OK"
        assert gdb.ask(b"?") == b"T05thread:01;"
        assert gdb.ask(b"qfThreadInfo") == b"m01"
        assert gdb.ask(b"qsThreadInfo") == b"l"
        assert gdb.ask(b"qC") == b"QC01"
        assert gdb.ask(b"T01") == b"OK"
        assert bench.sent() == []
        assert bench.relay.door == "kgdb"
        assert bench.relay.stop_reported

    def test_a_stop_that_is_not_known_is_asked_for(self, tmp_path: Path) -> None:
        with Bench(tmp_path, stop_reply=b"") as bench:
            assert bench.gdb.ask(b"?") == b"T05thread:01;"
            assert bench.sent() == [b"?", b"qC"]
            assert bench.relay.stop_reply == b"T05thread:01;"

    def test_all_threads_if_they_are_wanted(self, bench: Bench) -> None:
        bench.relay.list_all_threads = True
        assert bench.gdb.ask(b"qfThreadInfo") == b"m01,02"
        assert bench.sent() == [b"qfThreadInfo"]

    def test_the_same_from_guest_memory_and_from_kgdb(self, bench: Bench) -> None:
        bench.kgdb.registers["r12"] = 0x1122334455667788
        bench.relay.use_guest_memory(bench.kgdb.memory, LAYOUT)  # the registers are found anew
        requests = (b"g", b"m%x,20" % ENTRY, b"m%x,300" % STACK)
        here = [bench.gdb.ask(request) for request in requests]
        assert bench.sent() == []
        assert bench.relay.guest_memory_used == (bench.kgdb.memory, LAYOUT)
        with bench.relay.without_guest_memory():
            assert [bench.gdb.ask(request) for request in requests] == here
        assert bench.sent() == [
            b"g", b"m%x,20" % ENTRY, b"m%x,180" % STACK, b"m%x,180" % (STACK + 0x180),
        ]  # fmt: skip

    def test_registers_are_set(self, bench: Bench) -> None:
        assert bench.gdb.ask(b"P10=%b" % RET.to_bytes(8, "little").hex().encode()) == b"OK"
        assert bench.gdb.ask(b"P11=46020000") == b"OK"
        assert bench.gdb.ask(b"P39=ffffffffffffffff") == b"OK"  # orig_ax, which nobody reads
        assert (bench.kgdb.registers["ip"], bench.kgdb.registers["flags"]) == (RET, 0x246)
        assert bench.sent() == []

    def test_what_is_no_ram_is_asked_of_kgdb(self, bench: Bench) -> None:
        assert bench.gdb.ask(b"m%x,4" % BEYOND) == b"E14"
        assert bench.sent() == [b"m%x,4" % BEYOND]

    def test_a_users_memory(self, bench: Bench) -> None:
        """kgdb is asked for none, and writes it by its address in the kernel."""
        gdb, memory, relay = bench.gdb, bench.kgdb.memory, bench.relay
        memory.write(USER_ALIAS, b"user memory")
        assert bytes.fromhex(gdb.ask(b"m%x,4" % USER).decode()) == b"user"
        assert relay.read(USER, 11) == b"user memory"
        assert relay.explain(USER) is None
        assert gdb.ask(b"m%x,8" % (USER + 28)) == gdb.ask(b"m0,1") == b"E14"
        assert bench.sent() == []
        assert gdb.ask(b"M%x,4:%b" % (USER + 14, b"abcd".hex().encode())) == b"OK"
        assert relay.read(USER + 13, 6) == b"\0abcd\0"
        assert [packet[: packet.index(b",")] for packet in bench.sent()] == [
            b"M%x" % at
            for at in (USER_ALIAS + 14, USER_ALIAS + 15, USER_ALIAS - 16, USER_ALIAS - 15)
        ]

    def test_a_users_memory_that_is_not_written(self, bench: Bench) -> None:
        gdb, relay = bench.gdb, bench.relay
        for address in (0, USER + 23, USER + 32):  # part of it would be possible
            assert gdb.ask(b"M%x,4:00000000" % address) == b"E14"
        assert bench.sent() == []
        read_only, nothing = relay.explain(USER + 24), relay.explain(0)
        assert read_only is not None
        assert nothing is not None
        assert read_only.message == f"{USER + 24:#x} is mapped read-only"
        assert (nothing.message, nothing.hint) == (
            f"0x0 is not mapped for {TASKS[0]:#x}",
            "touch it",
        )

    def test_another_tasks_memory_is_not_taken_for_it(self, bench: Bench) -> None:
        gdb, relay = bench.gdb, bench.relay
        assert gdb.ask(b"Hg2") == b"OK"
        assert gdb.ask(b"m%x,4" % USER) == gdb.ask(b"M%x,1:00" % USER) == b"E14"
        reason = relay.explain(USER)
        assert reason is not None
        assert "gdb has selected another task" in reason.message
        assert gdb.ask(b"m%x,2" % ENTRY) == b"4154"
        assert gdb.ask(b"Hg1") == b"OK"
        assert gdb.ask(b"m%x,4" % USER) == b"00000000"
        gdb.ask(insert(ENTRY))
        bench.kgdb.turns += [b"02"]
        assert gdb.ask(b"c") == b"T05swbreak:;thread:02;"
        assert gdb.ask(b"m%x,4" % USER) == b"E14"
        with pytest.raises(KgdbError, match=f"not mapped for {TASKS[1]:#x}"):
            relay.read(USER, 1)

    @pytest.mark.parametrize("ours", [True, False])
    @pytest.mark.parametrize("address", [0, 0x44, BASE - 2, BASE + 0x1000, 0xDEAD000000000100])
    def test_a_write_to_nowhere_never_comes_to_kgdb(
        self, bench: Bench, address: int, ours: bool
    ) -> None:
        if ours:
            bench.relay.use_guest_memory(bench.kgdb.memory, LAYOUT)
        assert bench.gdb.ask(b"M%x,4:61626364" % address) == b"E14"
        assert "mapped" in str(bench.relay.take_refusal())
        assert bench.relay.take_refusal() is None
        assert not any(packet[:1] == b"M" for packet in bench.sent())

    @pytest.mark.parametrize("ours", [True, False])
    def test_a_breakpoint_in_user_space_never_comes_to_kgdb(self, bench: Bench, ours: bool) -> None:
        if ours:
            bench.relay.use_guest_memory(bench.kgdb.memory, LAYOUT)
        assert bench.gdb.ask(insert(0x1234)) == b"E14"
        assert "0x1234" in str(bench.relay.take_refusal())
        assert bench.sent() == []
        assert bench.relay.take_refused() == {0x1234}
        assert bench.relay.take_refused() == set()
        assert bench.gdb.ask(insert(NOP)) == b"OK"
        assert bench.relay.take_refused() == set()

    @pytest.mark.parametrize("kind", [0, 1])
    @pytest.mark.parametrize(("state", "reply"), [(1, b"OK"), (2, b"E0e"), (3, b"E0e")])
    def test_a_breakpoint_in_init_code(
        self, bench: Bench, kind: int, state: int, reply: bytes
    ) -> None:
        """Once it is freed, it is memory of somebody else's."""
        layout = replace(LAYOUT, init_text=NOP, init_text_size=1, system_state=KGDBREBOOT)
        bench.relay.use_guest_memory(bench.kgdb.memory, layout)
        bench.kgdb.memory.write(KGDBREBOOT, state.to_bytes(4, "little"))
        if kind == 0:
            assert bench.gdb.ask(insert(RET)) == b"OK"
            assert bench.gdb.ask(insert(NOP)) == reply
        elif reply != b"OK":
            assert bench.gdb.ask(b"Z1,%x,1" % NOP) == reply
        refusal = bench.relay.take_refusal()
        assert (refusal is None) == (state == 1)
        assert refusal is None or "freed" in refusal.reason

    @pytest.mark.parametrize("kind", [0, 1])
    def test_a_breakpoint_that_somebody_else_refuses(self, bench: Bench, kind: int) -> None:
        """As the modules do of their init code."""
        freed = [NOP]
        bench.relay.use_code_refusal(lambda address: "it is gone" if address in freed else None)
        reply = bench.gdb.ask(insert(NOP) if kind == 0 else b"Z1,%x,1" % NOP)
        assert reply == b"E0e"
        assert bench.sent() == []
        assert str(bench.relay.take_refusal()) == f"{NOP:#x}: it is gone"
        if kind == 0:
            assert bench.relay.take_refused() == {NOP}
            freed.clear()
            assert bench.gdb.ask(insert(NOP)) == b"OK"
            assert bench.relay.take_refusal() is None

    def test_writes_go_through_kgdb(self, bench: Bench) -> None:
        data = b"ab" * 0x200
        assert bench.gdb.ask(b"M%x,200:%b" % (STACK, data)) == b"OK"
        assert bench.kgdb.memory.read(STACK, 0x200) == bytes.fromhex(data.decode())
        assert [packet.partition(b":")[0] for packet in bench.sent()] == [
            b"M%x,180" % STACK, b"M%x,80" % (STACK + 0x180),
        ]  # fmt: skip

    def test_another_thread_is_kgdbs_matter(self, bench: Bench) -> None:
        assert bench.gdb.ask(b"Hg2") == b"OK"
        bench.gdb.ask(b"g")
        assert bench.gdb.ask(b"Hg1") == b"OK"
        bench.gdb.ask(b"g")
        assert bench.sent() == [b"Hg2", b"g"]


def test_after_a_step_that_was_emulated_all_is_about_the_thread_that_stepped(
    bench: Bench,
) -> None:
    bench.gdb.ask(insert(NOP))
    bench.gdb.ask(b"c")
    stepped = bench.gdb.ask(b"g")
    assert bench.gdb.ask(b"Hg2") == b"OK"
    bench.gdb.ask(b"g")
    assert bench.sent()[-2:] == [b"Hg2", b"g"]
    assert bench.gdb.ask(b"s") == b"T05thread:01;"
    assert bench.gdb.ask(b"g") == stepped.replace(
        NOP.to_bytes(8, "little").hex().encode(), RET.to_bytes(8, "little").hex().encode()
    )
    assert bench.sent() == []


@pytest.mark.parametrize("last", [b"k", b"vKill;1", b"D", b"D;1"])
def test_what_a_gdb_says_that_quits(bench: Bench, last: bytes) -> None:
    """kgdb would let the kernel run, with nobody connected, while it counts as stopped."""
    bench.gdb.send(last)
    assert last == b"k" or bench.gdb.receive() == b"OK"
    assert bench.gdb.ask(b"?") == b"T05thread:01;"
    assert bench.sent() == []
    assert not bench.kgdb.running


class TestBreakpoints:
    def test_a_stop_is_reported_as_at_gdbs_own(self, bench: Bench) -> None:
        assert bench.gdb.ask(insert(NOP)) == b"OK"
        assert bench.gdb.ask(b"c") == b"T05swbreak:;thread:01;"
        assert bench.kgdb.registers["ip"] == NOP, "the program counter is put back"
        assert bench.sent() == [insert(NOP), b"c"]

    def test_a_resume_is_seen(self, bench: Bench) -> None:
        assert not bench.relay.wait_resumed(0)
        bench.gdb.send(b"c")
        assert bench.relay.wait_resumed(10)
        assert not bench.relay.stop_reported
        bench.kgdb.wait_for(b"c")
        bench.kgdb.stop()
        assert bench.gdb.receive() == b"T05thread:01;"
        assert bench.relay.stop_reported

    def test_removing_waits_until_the_kernel_goes_on(self, bench: Bench) -> None:
        """As gdb does at each stop, with each of its breakpoints."""
        bench.gdb.ask(insert(NOP))
        bench.gdb.ask(b"c")
        bench.sent()
        assert bench.gdb.ask(remove(NOP)) == b"OK"
        assert bench.gdb.ask(b"s") == b"T05thread:01;"
        assert bench.kgdb.registers["ip"] == RET, "the instruction is emulated"
        assert bench.gdb.ask(insert(NOP)) == b"OK"
        assert bench.sent() == []
        bench.gdb.ask(remove(NOP))
        bench.gdb.send(b"c")
        bench.kgdb.wait_for(b"c")
        assert bench.sent() == [remove(NOP), b"c"]

    def test_a_step_that_is_not_emulated(self, bench: Bench) -> None:
        bench.gdb.ask(insert(LOAD))
        bench.gdb.ask(b"c")
        bench.gdb.ask(remove(LOAD))
        bench.sent()
        assert bench.gdb.ask(b"s") == b"T05thread:01;"
        assert bench.sent() == [remove(LOAD), b"s"]
        assert bench.kgdb.registers["ip"] == NOP

    def test_a_refusal(self, bench: Bench) -> None:
        assert bench.gdb.ask(insert(0x1000)) == b"E14"
        with pytest.raises(KgdbError, match=r"kgdb inserts no breakpoint at 0x1000 .*E14") as error:
            bench.relay.add_hook(0x1000, counter([]))
        assert "kprobe blocklist" in (error.value.hint or "")
        assert not bench.relay.try_add_hook(0x1000, counter([]))

    def test_none_while_quiesced(self, bench: Bench) -> None:
        bench.gdb.ask(insert(NOP))
        bench.relay.add_hook(ENTRY, counter([]))
        with bench.relay.quiesced(1):
            assert bench.kgdb.breakpoints == set()
        assert bench.kgdb.breakpoints == {NOP, ENTRY}

    def test_a_step_of_one_thread_is_not_ended_by_another(self, bench: Bench) -> None:
        """gdb steps thread 1 over a call; thread 2 returns to the same place first."""
        bench.relay.set_stepping(True)
        bench.gdb.ask(insert(NOP))
        bench.kgdb.turns += [b"02", b"01"]
        assert bench.gdb.ask(b"c") == b"T05swbreak:;thread:01;"
        assert bench.sent() == [insert(NOP), b"c", b"c"]
        bench.relay.set_stepping(False)
        bench.gdb.ask(insert(RET))
        bench.kgdb.turns += [b"02"]
        assert bench.gdb.ask(b"c") == b"T05swbreak:;thread:02;"

    def test_two_threads_and_a_single_step(self, bench: Bench) -> None:
        """gdb gives a step up when another thread stops; the step's end is not its business."""
        assert bench.gdb.ask(b"s") == b"T05thread:01;"
        assert bench.kgdb.registers["ip"] == LOAD
        bench.gdb.ask(insert(ENTRY))
        bench.relay.set_stepping(True)
        bench.kgdb.turns += [b"02"]
        assert bench.gdb.ask(b"s") == b"T05swbreak:;thread:02;"
        bench.relay.set_stepping(False)
        bench.gdb.ask(remove(ENTRY))
        bench.sent()
        bench.kgdb.turns += [b"01", b"01"]
        bench.gdb.send(b"c")
        bench.kgdb.wait_for(b"c", 2)
        assert bench.sent() == [remove(ENTRY), b"c", b"c"]
        assert bench.gdb.silent()


class TestExceptions:
    def test_an_oops_is_handled_by_the_kernel(self, bench: Bench) -> None:
        bench.kgdb.registers["ip"] = CALLER
        bench.gdb.send(b"c")
        bench.kgdb.wait_for(b"c")
        bench.kgdb.stop(signal=b"0b")
        assert bench.gdb.receive() == b"T0bthread:01;"
        bench.sent()
        bench.gdb.send(b"c")
        bench.kgdb.wait_for(b"C09%016x" % CALLER)

    def test_output_through_gdb(self, bench: Bench) -> None:
        bench.kgdb.registers["ip"] = CALLER
        bench.gdb.send(b"c")
        bench.kgdb.wait_for(b"c")
        bench.kgdb.send(b"O48690a")
        assert bench.gdb.receive() == b"O48690a"

    def test_kgdb_is_not_interrupted(self, bench: Bench) -> None:
        with pytest.raises(KgdbError, match="kgdb does not listen while the kernel runs"):
            bench.relay.interrupt()


class TestTheLine:
    def test_what_kgdb_did_not_take_is_sent_again(self, bench: Bench) -> None:
        """As a kernel does that was saved while it waited for an acknowledgement."""
        bench.kgdb.faults.append(lambda _: bench.kgdb.send_raw(b"-"))
        assert bench.gdb.ask(b"m%x,4" % BEYOND) == b"E14"
        assert bench.sent() == [b"m%x,4" % BEYOND] * 2

    def test_nor_is_a_resume_lost(self, bench: Bench) -> None:
        bench.kgdb.registers["ip"] = CALLER
        bench.gdb.send(b"c")
        bench.kgdb.wait_for(b"c")
        bench.kgdb.send_raw(b"-")
        bench.kgdb.wait_for(b"c", 2)

    def test_a_broken_line_is_not_written_to_for_ever(self, bench: Bench) -> None:
        bench.kgdb.registers["ip"] = CALLER
        bench.gdb.send(b"c")
        for count in range(1, 7):
            bench.kgdb.wait_for(b"c", count)
            bench.kgdb.send_raw(b"-")
        time.sleep(0.1)
        assert bench.kgdb.packets.count(b"c") == 6

    def test_a_bad_checksum_is_asked_for_again(self, bench: Bench) -> None:
        bench.kgdb.faults.append(lambda data: bench.kgdb.send_raw(data[:-2] + b"00"))
        assert bench.gdb.ask(b"m%x,4" % BEYOND) == b"E14"
        assert bench.sent() == [b"m%x,4" % BEYOND]

    def test_noise_between_packets_is_skipped(self, bench: Bench) -> None:
        bench.kgdb.faults.append(lambda data: bench.kgdb.send_raw(b"\0boot\r\n" + data))
        assert bench.gdb.ask(b"m%x,4" % BEYOND) == b"E14"

    def test_a_reply_in_pieces(self, bench: Bench) -> None:
        def in_pieces(data: bytes) -> None:
            for index in range(len(data)):
                bench.kgdb.send_raw(data[index : index + 1])
                time.sleep(0.001)

        bench.kgdb.faults.append(in_pieces)
        assert bench.gdb.ask(b"m%x,4" % BEYOND) == b"E14"

    def test_a_port_that_closes_in_the_midst_of_a_packet(self, bench: Bench) -> None:
        def half(data: bytes) -> None:
            bench.kgdb.send_raw(data[:3])
            bench.kgdb.hang_up()

        bench.kgdb.faults.append(half)
        bench.gdb.send(b"m%x,4" % BEYOND)
        assert bench.gdb.receive() == b"", "gdb sees its connection close"

    def test_a_port_that_closes_while_the_kernel_runs(self, bench: Bench) -> None:
        bench.kgdb.registers["ip"] = CALLER
        bench.gdb.send(b"c")
        bench.kgdb.wait_for(b"c")
        bench.kgdb.hang_up()
        assert bench.gdb.receive() == b""

    @pytest.mark.parametrize("limit", [0.2, 60])
    def test_a_reply_has_no_more_than_the_tests_limit(self, tmp_path: Path, limit: float) -> None:
        waits = WaitLimit(limit)
        with Bench(tmp_path, waits=waits) as bench:
            waits.set(0.2)  # a marker's, later
            bench.kgdb.silent = True
            bench.gdb.send(b"m%x,4" % BEYOND)
            begin = time.monotonic()
            assert bench.gdb.receive() == b""
            assert 0.15 < time.monotonic() - begin < 5


class TestReplacing:
    def test_while_stopped(self, bench: Bench) -> None:
        """gdb is made to resume, and gets the stop of the other state."""
        calls: list[int] = []
        bench.relay.add_hook(LOAD, counter(calls))
        bench.gdb.ask(insert(NOP))
        bench.gdb.ask(b"c")
        bench.sent()
        bench.relay.detach()
        assert bench.gdb.ask(remove(NOP)) == b"OK"
        assert bench.gdb.ask(b"Z2,%x,4" % STACK) == b"OK"
        assert bench.gdb.ask(b"m%x,4" % BEYOND) == b"E14"
        assert bench.gdb.ask(b"M1000,1:00") == b"OK"
        bench.gdb.send(b"c")
        assert bench.relay.wait_resumed(10)
        assert bench.gdb.silent()
        assert bench.sent() == []
        bench.kgdb.breakpoints.clear()
        bench.kgdb.registers["ip"] = ENTRY
        bench.relay.reattach(b"T05thread:01;", paused=False)
        assert bench.gdb.receive() == b"T05thread:01;"
        assert bench.kgdb.connections == 2
        bench.gdb.ask(b"g")
        assert bench.sent() == [], "the machine is not woken to be looked at"
        assert bench.relay.stop_reply == b"T05thread:01;"
        # Its breakpoint is gone, and the hook still there.
        bench.gdb.ask(insert(RET))
        assert bench.gdb.ask(b"c") == b"T05swbreak:;thread:01;"
        assert calls == [LOAD, LOAD]
        assert [packet for packet in bench.sent() if packet[:1] == b"Z"] == [
            insert(RET), insert(LOAD), insert(LOAD),
        ]  # fmt: skip

    def test_while_running(self, bench: Bench) -> None:
        """What the old kernel sends is not heard."""
        bench.kgdb.registers["ip"] = CALLER
        bench.gdb.send(b"c")
        bench.kgdb.wait_for(b"c")
        bench.relay.detach()
        assert bench.gdb.silent()
        bench.relay.reattach(b"T05thread:02;", paused=False)
        assert bench.gdb.receive() == b"T05thread:02;"
        assert bench.gdb.ask(b"T02") == b"OK"

    def test_a_stop_on_its_way_is_dropped(self, bench: Bench) -> None:
        bench.kgdb.registers["ip"] = CALLER
        bench.gdb.send(b"c")
        bench.kgdb.wait_for(b"c")
        with bench.relay.quiesced(1):  # the relay does not get to hear it
            bench.kgdb.stop()
            bench.relay.detach()
        assert bench.gdb.silent()

    def _detach(self, bench: Bench, *, stopped: bool = False) -> Future[bool]:
        """Detach in another thread; gdb has said whether its target is stopped."""
        threads = ThreadPoolExecutor()
        future = threads.submit(bench.relay.detach, lambda: stopped)
        threads.shutdown(wait=False)
        return future

    def test_while_gdb_steps_over_a_breakpoint(self, bench: Bench) -> None:
        """It would take the other kernel's stop for the end of its step, and dies of that."""
        bench.step_over(LOAD)
        detached = self._detach(bench)
        assert bench.gdb.silent()
        bench.kgdb.resume(step=True)
        assert bench.gdb.receive() == b"T05thread:01;"
        assert not detached.done(), "gdb has yet to let the kernel run"
        assert bench.gdb.ask(insert(LOAD)) == b"OK"
        bench.sent()
        bench.gdb.send(b"c")
        assert detached.result(10)
        assert bench.sent() == [], "the kernel does not run for it"
        bench.relay.reattach(b"T05thread:02;", paused=False)
        assert bench.gdb.receive() == b"T05thread:02;"

    def test_while_gdb_is_about_to_step_over_a_breakpoint(self, bench: Bench) -> None:
        """Its condition did not hold, say."""
        bench.gdb.ask(insert(LOAD))
        bench.gdb.ask(b"c")
        detached = self._detach(bench)
        assert bench.gdb.ask(remove(LOAD)) == b"OK"
        assert bench.gdb.ask(b"s") == b"T05thread:01;"
        assert not detached.done()
        bench.gdb.send(b"c")
        assert detached.result(10)

    def test_a_step_that_does_not_end(self, bench: Bench, monkeypatch: Any) -> None:
        monkeypatch.setattr("pytest_kgdb.rsp._relay._STEP_SECONDS", 0.1)
        bench.step_over(LOAD)
        assert self._detach(bench, stopped=True).result(10) is False

    def test_a_step_that_another_stop_has_ended(self, bench: Bench) -> None:
        bench.step_over(LOAD)
        bench.kgdb.stop(signal=b"0b")
        assert bench.gdb.receive() == b"T0bthread:01;"
        bench.gdb.send(b"c")
        bench.kgdb.wait_for(b"C09%016x" % LOAD)
        assert self._detach(bench).result(10)

    def test_without_the_gdb_that_there_was(self, bench: Bench) -> None:
        """What it was about to do is not done to the kernel that is put in place."""
        bench.gdb.ask(insert(LOAD))
        bench.gdb.send(b"c")
        bench.relay.let_go_of_gdb()
        if not bench.relay.stop_reported:  # the relay was faster
            bench.kgdb.wait_for(b"c")
        assert self._detach(bench).result(10), "nobody steps"
        bench.kgdb.breakpoints.clear()
        bench.sent()
        bench.relay.reattach(b"T05thread:02;", paused=False)
        with contextlib.closing(Gdb(str(bench.relay.path))) as gdb:
            assert gdb.ask(b"?") == b"T05thread:02;"
            assert bench.sent() == []

    def test_the_machine_is_paused_and_woken(self, tmp_path: Path) -> None:
        vcpus = Vcpus()
        with Bench(tmp_path, vcpus=vcpus, paused=True) as bench:
            bench.gdb.ask(b"g")
            assert vcpus.calls == [], "guest memory is read all the same"
            bench.gdb.ask(insert(NOP))
            assert vcpus.calls[:1] == ["cont"]
            vcpus.wait_for("stop_nowait")
            with bench.relay.quiesced(3.5):
                assert vcpus.calls[-1] == "stop 3.5"


class Recorded:
    """What is recorded in the guest, of one address: for :meth:`Relay.use_recorded_code`."""

    active = True

    def __init__(self, address: int, byte: bytes) -> None:
        self.address, self.byte = address, byte
        self.events: list[str] = []

    def _event(self, name: str, address: int, byte: bytes | None) -> bytes | None:
        if address != self.address:
            return None
        self.events.append(name)
        return byte

    def give(self, address: int) -> bytes | None:
        return self._event("give", address, self.byte)

    def take_back(self, address: int) -> bytes | None:
        return self._event("take back", address, None)

    def reached(self, address: int) -> bytes | None:
        return self._event("reached", address, None)

    def skipped(self, address: int) -> None:
        self._event("skipped", address, None)

    def written(self, address: int, size: int) -> None:
        self.events.append(f"written {size}")

    def write(self, address: int, byte: bytes) -> None:
        assert address == self.address
        self.events.append(f"write {byte.hex()}")

    def original(self, address: int, data: bytes) -> bytes:
        at = self.address - address
        return data[:at] + self.byte + data[at + 1 :] if 0 <= at < len(data) else data


class TestRecordedCode:
    def test_reads_show_the_code(self, bench: Bench) -> None:
        recorded = Recorded(ENTRY + 1, b"\x42")
        plain = bytes.fromhex(bench.gdb.ask(b"m%x,4" % ENTRY).decode())
        bench.relay.use_recorded_code(recorded)
        expected = plain[:1] + b"\x42" + plain[2:]
        assert bench.gdb.ask(b"m%x,4" % ENTRY) == expected.hex().encode()
        assert bench.relay.read(ENTRY, 4) == expected
        assert bench.gdb.ask(b"m%x,4" % BEYOND)[:1] == b"E"

    def test_a_write_takes_it_over(self, bench: Bench) -> None:
        recorded = Recorded(ENTRY, b"\x42")
        bench.relay.use_recorded_code(recorded)
        assert bench.gdb.ask(b"M%x,2:9090" % STACK) == b"OK"
        assert recorded.events == ["written 2"]

    def test_a_breakpoint_gets_the_address(self, bench: Bench) -> None:
        recorded = Recorded(ENTRY, b"\x90")
        bench.relay.use_recorded_code(recorded)
        assert bench.gdb.ask(insert(ENTRY)) == b"OK"
        assert bench.sent() == [b"M%x,1:%b" % (ENTRY, b"90"), b"Z0,%x,1" % ENTRY]
        assert recorded.events == ["give"]

    def test_code_that_the_target_cannot_write(self, bench: Bench) -> None:
        """As a module's since 6.12: kgdb would take the int3 for the instruction."""
        bench.kgdb.read_only.add(ENTRY)
        recorded = Recorded(ENTRY, b"\x90")
        bench.relay.use_recorded_code(recorded)
        assert bench.gdb.ask(insert(ENTRY)) == b"OK"
        assert recorded.events == ["give", "write 90"]

    def test_a_step_is_an_arrival(self, bench: Bench) -> None:
        recorded = Recorded(bench.kgdb.registers["ip"], b"\x90")
        bench.relay.use_recorded_code(recorded)
        bench.gdb.send(b"s")
        assert bench.gdb.receive()[:3] == b"T05"
        assert recorded.events == ["reached"]


class TestFailures:
    """gdb is left without its target: it has no word for why."""

    def test_kgdb_does_not_answer(self, tmp_path: Path) -> None:
        with Bench(tmp_path, waits=WaitLimit(0.1)) as bench:
            bench.kgdb.silent = True
            assert bench.relay.failure is None
            bench.gdb.send(b"qRcmd,00")
            assert bench.gdb.ended()
            failure = bench.relay.failure
            assert failure is not None
            assert failure.message == (
                "gdb lost its target: kgdb did not answer b'qRcmd,00' in 0.1 s"
            )

    def test_a_defect_of_the_relays(self, bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
        def reply(self: object, payload: bytes) -> bytes:
            raise LookupError("no such thing")

        shown: list[threading.ExceptHookArgs] = []
        monkeypatch.setattr(threading, "excepthook", shown.append)
        monkeypatch.setattr(KgdbBackend, "reply", reply)
        bench.gdb.send(b"m0,1")
        assert bench.gdb.ended()
        failure = bench.relay.failure
        assert failure is not None
        assert failure.message == (
            "gdb lost its target: the relay between them failed: LookupError: no such thing"
        )
        wait_until(lambda: bool(shown))
        (args,) = shown
        assert isinstance(args.exc_value, LookupError)
        assert args.exc_traceback is not None
        monkeypatch.undo()
        another = Gdb(str(bench.relay.path))
        assert another.ask(b"?") == b"T05thread:01;", "it serves on"
        assert bench.relay.failure is None
        another.close()

    def test_gdb_goes_by_itself(self, bench: Bench) -> None:
        bench.gdb.close()
        another = Gdb(str(bench.relay.path))
        assert another.ask(b"?") == b"T05thread:01;"
        assert bench.relay.failure is None
        another.close()


def test_kgdb_that_takes_leave_at_a_reboot(bench: Bench) -> None:
    """The kernel has not ended for gdb, and runs on."""
    bench.kgdb.registers["ip"] = CALLER
    bench.gdb.send(b"c")
    bench.kgdb.wait_for(b"c")
    bench.kgdb.send(b"W01")
    assert bench.gdb.silent()
    bench.kgdb.registers["ip"] = NOP
    bench.kgdb.stop()
    assert bench.gdb.receive() == b"T05thread:01;"


def test_kgdb_is_told_to_stay_at_a_reboot(bench: Bench) -> None:
    memory = bench.kgdb.memory
    bench.relay.use_guest_memory(memory, LAYOUT_WITH_REBOOT)
    assert memory.read(KGDBREBOOT, 4) == b"\xff" * 4
    memory.write(KGDBREBOOT, b"\1\0\0\0")  # as on the kernel's command line
    bench.relay.use_guest_memory(memory, LAYOUT_WITH_REBOOT)
    assert memory.read(KGDBREBOOT, 4) == b"\1\0\0\0"
    memory.write(KGDBREBOOT, bytes(4))
    bench.relay.detach()
    bench.relay.reattach(b"T05thread:01;")
    assert memory.read(KGDBREBOOT, 4) == b"\xff" * 4
