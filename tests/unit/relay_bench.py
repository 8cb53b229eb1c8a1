"""A relay between a gdb and a kgdb that are both played here."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any, Final

from scripted_kgdb import LAYOUT, ScriptedKgdb
from scripted_stub import Gdb

from pytest_kgdb.deadline import WaitLimit
from pytest_kgdb.rsp import CONTINUE, Action, Event, Hook, KgdbBackend, Relay

WAITS: Final = WaitLimit(10)


class Bench:
    """A kgdb, the relay, and a gdb.

    :param ours: whether the relay may read guest memory.
    :param parts: what the backend has besides.
    """

    def __init__(
        self,
        directory: Path,
        *,
        ours: bool = True,
        stop_reply: bytes = b"T05thread:01;",
        waits: WaitLimit = WAITS,
        **parts: Any,
    ) -> None:
        self.kgdb = ScriptedKgdb()
        backend = KgdbBackend(self.kgdb.connect, waits=waits, stop_reply=stop_reply, **parts)
        self.relay = Relay(directory / "gdb", backend)
        if ours:
            self.relay.use_guest_memory(self.kgdb.memory, LAYOUT)
        self.gdb = Gdb(str(self.relay.path))

    def sent(self) -> list[bytes]:
        """What kgdb has been sent since the last time."""
        packets, self.kgdb.packets = self.kgdb.packets, []
        return packets

    def step_over(self, address: int) -> None:
        """Have gdb step over a breakpoint; the step is held until the kernel is resumed."""
        self.gdb.ask(insert(address))
        self.gdb.ask(b"c")
        self.gdb.ask(remove(address))
        self.kgdb.holds_steps = True
        self.gdb.send(b"s")
        self.kgdb.wait_for(b"s")

    def close(self) -> None:
        self.relay.close()
        self.gdb.close()
        self.kgdb.close()

    def __enter__(self) -> Bench:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Vcpus:
    """Notes what the relay has done with the machine."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    def stop_nowait(self) -> None:
        self.calls.append("stop_nowait")

    def stop(self, timeout: float) -> None:
        self.calls.append(f"stop {timeout}")

    def cont(self) -> None:
        self.calls.append("cont")

    def wait_for(self, call: str) -> None:
        end = time.monotonic() + 10
        while self.calls[-1] != call:
            assert time.monotonic() < end, self.calls
            time.sleep(0.001)


def insert(address: int) -> bytes:
    return b"Z0,%x,1" % address


def remove(address: int) -> bytes:
    return b"z0,%x,1" % address


def counter(calls: list[int], action: Action = CONTINUE) -> Hook:
    def hook(event: Event) -> Action:
        calls.append(event.address)
        return action

    return hook
