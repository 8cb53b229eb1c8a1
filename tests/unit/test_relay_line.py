"""The relay before kgdb on a serial line, whose memory is there by packets only."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from relay_bench import WAITS, counter, insert
from scripted_kgdb import LAYOUT, ScriptedKgdb
from scripted_stub import CALLER, ENTRY, NOP, STACK, Gdb

from pytest_kgdb.errors import KgdbError
from pytest_kgdb.rsp import LineKgdbBackend, Relay, Return


class PacketMemory:
    """:class:`pytest_kgdb.memory.PacketMemory` without programs."""

    def __init__(self, backend: LineKgdbBackend) -> None:
        self.read, self.write = backend.read_kernel, backend.write_kernel

    def check_mapped(self, address: int, size: int) -> None:
        self.read(address, 1)

    def translate(self, address: int) -> tuple[int, int]:
        raise KgdbError("no page tables")

    def read_user(self, task: int, address: int, size: int) -> bytes:
        raise KgdbError("no program")

    def open_user(self, task: int, address: int, size: int) -> list[tuple[int, int]]:
        raise KgdbError("no program")


class Bench:
    def __init__(self, directory: Path) -> None:
        self.kgdb = ScriptedKgdb()
        backend = LineKgdbBackend(self.kgdb.connect, waits=WAITS, check=lambda: None)
        self.relay = Relay(directory / "gdb", backend)
        self.gdb = Gdb(str(self.relay.path))
        assert self.gdb.ask(b"?") == b"T05thread:01;"
        self.relay.use_guest_memory(PacketMemory(backend), LAYOUT)
        self.kgdb.packets.clear()


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    bench = Bench(tmp_path)
    yield bench
    bench.relay.close()
    bench.gdb.close()
    bench.kgdb.close()


def test_hardware_breakpoints_are_refused(bench: Bench) -> None:
    assert "never fire" in str(bench.relay.hardware_refusal)
    for kind in (b"Z1", b"Z2", b"Z3", b"Z4"):
        assert bench.gdb.ask(b"%b,%x,1" % (kind, ENTRY)) == b"E01"
        assert str(bench.relay.take_refusal()) == bench.relay.hardware_refusal
    assert bench.kgdb.packets == []


def test_a_breakpoint(bench: Bench) -> None:
    assert bench.gdb.ask(insert(ENTRY)) == b"OK"
    bench.kgdb.turns += [b"02", b"01"]
    assert bench.gdb.ask(b"c") == b"T05swbreak:;thread:02;"
    assert bench.kgdb.registers["ip"] == ENTRY


def test_spies_and_overrides(bench: Bench) -> None:
    calls: list[int] = []
    bench.relay.add_hook(ENTRY, counter(calls))
    bench.kgdb.turns += [b"01", b"02"]
    bench.gdb.send(b"c")
    bench.kgdb.wait_for(b"c", 3)
    assert calls == [ENTRY, ENTRY]
    assert bench.relay.can_force_return


def test_a_forced_return(bench: Bench) -> None:
    """The stack pointer is set in the kernel's memory, which kgdb itself does not."""
    bench.relay.add_hook(ENTRY, lambda event: Return(-12))
    bench.kgdb.turns += [b"01"]
    bench.gdb.send(b"c")
    bench.kgdb.wait_for(b"c", 2)
    assert bench.kgdb.registers["ip"] == CALLER
    assert bench.kgdb.registers["sp"] == STACK + 8
    assert bench.kgdb.registers["ax"] == (1 << 64) - 12


def test_a_wild_write_is_refused(bench: Bench) -> None:
    assert bench.gdb.ask(b"M%x,1:00" % 0xFFFFFFFFC0000000) == b"E14"
    assert not [packet for packet in bench.kgdb.packets if packet[:1] == b"M"]
    assert bench.gdb.ask(b"M%x,1:90" % NOP) == b"OK"


def test_leaving(bench: Bench) -> None:
    with bench.relay.locked():
        pass
    bench.relay.leave()
    assert bench.kgdb.packets == [b"D"]
