"""Whether a guest has nothing to do, and how long that is waited for."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest

from pytest_kgdb.errors import KgdbError
from pytest_kgdb.kernel import StopLayout
from pytest_kgdb.machine import UntilIdle
from pytest_kgdb.memory import Idleness

BASES, FIRST, SECOND = 0xFFFF_1000, 0xFFFF_2000, 0xFFFF_3000
SHELL, IDLE, PORT, STATE, TTY = 0xFFFF_4000, 0xFFFF_5000, 0xFFFF_6000, 0xFFFF_7000, 0xFFFF_8000
READERS = TTY + 0x180

LAYOUT = StopLayout(
    current_task=0x40,
    task_mm=0,
    task_pid=0x10,
    task_comm=0,
    mm_pgd=0,
    console_state=PORT,
    state_tty=0x20,
    tty_readers=0x180,
)


class Memory:
    """Of a machine with two idle CPUs, whose console the shell reads."""

    image_offset = 0

    def __init__(self) -> None:
        self.bases: int | None = BASES
        self.words = {
            BASES: FIRST,
            BASES + 8: SECOND,
            FIRST + 0x40: IDLE,
            SECOND + 0x40: IDLE,
            IDLE + 0x10: 0,
            SHELL + 0x10: 1,
            PORT: STATE,
            STATE + 0x20: TTY,
            READERS: 0xFFFF_9000,
        }

    def symbol(self, name: str) -> int | None:
        assert name == "__per_cpu_offset"
        return self.bases

    def read(self, address: int, size: int) -> bytes:
        if address not in self.words:
            raise KgdbError(f"{address:#x} is not mapped")
        return self.words[address].to_bytes(8, "little")[:size]


def idleness(memory: Any, layout: StopLayout = LAYOUT, cpus: int = 2) -> Idleness:
    return Idleness(memory, layout, cpus)


class TestIdleness:
    @pytest.fixture
    def memory(self) -> Memory:
        return Memory()

    def test_idle(self, memory: Memory) -> None:
        assert idleness(memory).is_idle()

    @pytest.mark.parametrize("base", [FIRST, SECOND])
    def test_cpu_with_a_task(self, memory: Memory, base: int) -> None:
        memory.words[base + 0x40] = SHELL
        assert not idleness(memory).is_idle()

    def test_cpu_that_is_not_there(self, memory: Memory) -> None:
        memory.words[SECOND + 0x40] = SHELL
        assert idleness(memory, cpus=1).is_idle()

    def test_console_with_a_reader(self, memory: Memory) -> None:
        assert idleness(memory).is_read()
        memory.words[READERS] = READERS
        assert not idleness(memory).is_read()

    def test_other_console(self, memory: Memory) -> None:
        memory.words[READERS] = READERS
        layout = StopLayout(**{**LAYOUT.dump(), "console_state": None, "kgdb": None})
        assert idleness(memory, layout).is_read()

    def test_kernel_for_one_cpu(self, memory: Memory) -> None:
        """Its variables are in the image."""
        memory.bases, memory.image_offset = None, 0x100_0000
        memory.words[0x100_0040] = SHELL
        assert not idleness(memory, cpus=1).is_idle()
        memory.words[0x100_0040] = IDLE
        assert idleness(memory, cpus=1).is_idle()

    def test_what_cannot_be_read_is_not_waited_for(self, memory: Memory) -> None:
        del memory.words[STATE + 0x20], memory.words[SECOND + 0x40]
        assert idleness(memory).is_read()
        assert idleness(memory).is_idle()


class Guest:
    """Says what it is to say at each look; after that, that it has something to do."""

    def __init__(self, reads: Sequence[bool] = (), idles: Sequence[bool] = ()) -> None:
        self._reads, self._idles = list(reads), list(idles)
        self.looks: list[str] = []
        self.on_look: Callable[[], None] = lambda: None

    def is_read(self) -> bool:
        self.looks.append("read")
        return bool(self._reads) and self._reads.pop(0)

    def is_idle(self) -> bool:
        self.looks.append("idle")
        self.on_look()
        return bool(self._idles) and self._idles.pop(0)


def compute(seconds: float) -> None:
    end = time.process_time() + seconds
    while time.process_time() < end:
        pass


class TestWait:
    """With this process, or one that sleeps, for QEMU."""

    @pytest.fixture
    def sleeper(self) -> Iterator[subprocess.Popen[bytes]]:
        code = "import time; time.sleep(60)"
        with subprocess.Popen([sys.executable, "-S", "-E", "-c", code]) as process:
            yield process
            process.kill()

    def test_until_it_is_read_and_idle(self) -> None:
        guest = Guest(reads=[False, True], idles=[False, False, True])
        UntilIdle(guest, os.getpid()).wait(lambda: False, idle=10)
        assert guest.looks == ["read", "read", "idle", "idle", "idle"]

    def test_until_it_stops(self) -> None:
        guest, stops = Guest(), iter([False, True, True])
        UntilIdle(guest, os.getpid()).wait(lambda: next(stops), idle=10)
        assert guest.looks == ["read", "read", "read", "idle", "idle"]

    def test_until_qemu_has_computed_for_long(self) -> None:
        guest = Guest(reads=[True])
        before, start = time.process_time(), time.monotonic()
        guest.on_look = lambda: compute(0.005)
        UntilIdle(guest, os.getpid()).wait(lambda: False, idle=0.02)
        assert time.process_time() - before >= 0.01  # as its clock may be late by a tick
        assert time.monotonic() - start < 10
        assert 3 <= guest.looks.count("idle") < 20

    def test_a_guest_that_waits_for_something_else(self, sleeper: subprocess.Popen[bytes]) -> None:
        start = time.monotonic()
        UntilIdle(Guest(idles=[True]), sleeper.pid).wait(lambda: False)
        assert time.monotonic() - start >= 0.1

    def test_qemu_is_gone(self, sleeper: subprocess.Popen[bytes]) -> None:
        sleeper.kill()
        sleeper.wait()
        guest = Guest()
        UntilIdle(guest, sleeper.pid).wait(lambda: False)
        assert guest.looks == ["read", "read", "idle", "idle"]
