"""Packets over a line that loses and damages bytes: what is executed, and what is taken for it."""

from __future__ import annotations

import select
import time
from collections.abc import Iterator

import pytest
from serial_kgdb import SerialKgdb

import pytest_kgdb.rsp._line_connection as line_connection
from pytest_kgdb.deadline import WaitLimit
from pytest_kgdb.errors import KgdbError, MachineDied, TimeoutError
from pytest_kgdb.rsp._line_connection import LineConnection

MEMORY = bytes(range(256))


class Kernel:
    """What is behind kgdb."""

    def __init__(self) -> None:
        self.breakpoints: set[bytes] = set()

    def reply(self, packet: bytes) -> bytes | None:
        kind = packet[:1]
        if kind in (b"c", b"s"):
            return None
        if kind == b"m":
            address, size = (int(number, 16) for number in packet[1:].split(b","))
            return MEMORY[address : address + size].hex().encode()
        if kind == b"Z":  # kernel/debug/debug_core.c, dbg_set_sw_break
            if packet[1:] in self.breakpoints:
                return b"E17"
            self.breakpoints.add(packet[1:])
            return b"OK"
        if kind == b"z":
            if packet[1:] not in self.breakpoints:
                return b"E02"
            self.breakpoints.remove(packet[1:])
            return b"OK"
        return b""


class Bench:
    def __init__(self) -> None:
        self.kernel = Kernel()
        self.kgdb = SerialKgdb(self.kernel.reply)
        self.checks = 0
        self.trouble: KgdbError | None = None
        self.connection = LineConnection(self.kgdb.connect, waits=WaitLimit(10), check=self._check)

    def _check(self) -> None:
        self.checks += 1
        if self.trouble is not None:
            raise self.trouble

    def stop(self) -> bytes:
        """Have the running kernel stop, and return the stop reply."""
        self.kgdb.stops.release()
        end = time.monotonic() + 5
        while not self.connection.packets:
            assert time.monotonic() < end
            # As the relay looks, when something has come and every few seconds.
            select.select([self.connection.socket], [], [], 0.05)
            assert self.connection.receive()
        return self.connection.packets.popleft()


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    monkeypatch.setattr(line_connection, "_SILENCE", 0.05)
    monkeypatch.setattr(line_connection, "_NAK_FOLLOWS", 0.05)
    bench = Bench()
    yield bench
    bench.connection.close()
    bench.kgdb.close()


REQUESTS = ((b"m10,8", MEMORY[16:24].hex().encode()), (b"Z0,40,1", b"OK"), (b"z0,40,1", b"OK"),
            (b"m80,8", MEMORY[128:136].hex().encode()))  # fmt: skip
BYTES_OUT = 90
BYTES_IN = 60


def exchange(bench: Bench) -> None:
    """Each reply is that of its request, whatever was lost; what was asked is so."""
    for request, reply in REQUESTS:
        assert bench.connection.request(request) == reply
    assert bench.kernel.breakpoints == set()
    bench.connection.send(b"c")
    assert bench.stop() == b"T05thread:01;"
    assert bench.kgdb.executed.count(b"c") == 1
    assert bench.connection.request(b"m20,4") == MEMORY[32:36].hex().encode()


def test_a_good_line(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(line_connection, "_SILENCE", 5.0)  # a busy host is no bad line
    exchange(bench)
    assert len(bench.kgdb.executed) == len(REQUESTS) + 2
    assert bench.checks == 0
    assert bench.kgdb._sent <= BYTES_OUT + 60


@pytest.mark.parametrize("number", range(BYTES_OUT))
def test_a_byte_to_the_host_is_lost(bench: Bench, number: int) -> None:
    bench.kgdb.lose_out = {number}
    exchange(bench)


@pytest.mark.parametrize("number", range(BYTES_OUT))
def test_a_byte_to_the_host_is_damaged(bench: Bench, number: int) -> None:
    bench.kgdb.damage_out = {number}
    exchange(bench)


@pytest.mark.parametrize("number", range(BYTES_IN))
def test_a_byte_to_the_board_is_lost(bench: Bench, number: int) -> None:
    bench.kgdb.lose_in = {number}
    exchange(bench)


@pytest.mark.parametrize("number", range(BYTES_IN))
def test_a_byte_to_the_board_is_damaged(bench: Bench, number: int) -> None:
    bench.kgdb.damage_in = {number}
    exchange(bench)


def test_damage_that_the_checksum_does_not_show(bench: Bench) -> None:
    """Two bytes of which one is greater and one is less by as much."""
    request = b"m30,2"
    reply = bench.connection.request(request)
    assert reply == b"3031"
    start = bench.kgdb._sent + 2  # behind the acknowledgement and the `$`
    bench.kgdb.damage_out = {start, start + 1}  # 3 to 2, and 0 to 1
    assert bench.connection.request(request) == b"2131"  # which nobody can tell
    bench.kgdb.replace = b"$30:0#cd"  # but this is no number
    assert bench.connection.request(request) == b"3031"


def test_nobody_answers(bench: Bench) -> None:
    bench.kgdb.lose_in = set(range(10_000))
    bench.connection._waits.set(0.4)
    with pytest.raises(TimeoutError, match=r"kgdb did not answer b'm0,4' in 0\.4 s"):
        bench.connection.request(b"m0,4")
    assert bench.checks >= 2


def test_what_is_behind_it_is_said_at_once(bench: Bench) -> None:
    bench.kgdb.lose_in = set(range(10_000))
    bench.trouble = MachineDied("the board has reset")
    with pytest.raises(MachineDied, match="has reset"):
        bench.connection.request(b"m0,4")
    assert bench.checks == 1
    with pytest.raises(MachineDied, match="has reset"):
        bench.connection.send(b"c")


def test_a_stop_reply_that_was_cut(bench: Bench) -> None:
    bench.connection.send(b"c")
    cut = bench.kgdb._sent + len(b"$T05thread:01;")
    bench.kgdb.lose_out = {cut, cut + 1, cut + 2}  # the `#` and the checksum
    assert bench.stop() == b"T05thread:01;"


def test_the_line_is_closed(bench: Bench) -> None:
    bench.kgdb._ours.close()
    with pytest.raises((MachineDied, OSError)):
        bench.connection.request(b"m0,4")
