"""Conversations of a real gdb with real targets, played to the relay again.

`gdb>` and `gdb<` are what gdb sends and gets, `>` and `<` what the target is sent and replies, and
`hook` is where a hook is added that lets the CPU go on. A line that ends in a backslash goes on in
the next one.
"""

from __future__ import annotations

import re
import socket
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from scripted_stub import Gdb, packet

from pytest_kgdb.deadline import WaitLimit
from pytest_kgdb.rsp import CONTINUE, Backend, KgdbBackend, QemuStubBackend, Relay

RECORDINGS = Path(__file__).parent / "recordings"

BACKENDS: dict[str, Callable[[Callable[[], socket.socket]], Backend]] = {
    "kgdb": lambda connect: KgdbBackend(
        connect, waits=WaitLimit(10), stop_reply=b"T05thread:fffffffe;"
    ),
    "qemu": lambda connect: QemuStubBackend(connect, waits=WaitLimit(10), lazy_removal=True),
}


def recorded(name: str) -> list[tuple[str, bytes]]:
    text = (RECORDINGS / f"{name}.txt").read_text().replace("\\\n    ", "")
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    return [(mark, rest.encode()) for mark, _, rest in (line.partition(" ") for line in lines)]


def play_target(connection: socket.socket, lines: list[tuple[str, bytes]]) -> list[bytes]:
    """Reply as recorded to what comes as recorded; return what came otherwise, if it did."""
    data = b""
    for mark, payload in lines:
        if mark == "<":
            connection.sendall(packet(payload))
            continue
        while not (match := re.match(rb"\+*\$([^#]*)#..", data)):
            more = connection.recv(4096)
            if not more:
                return [payload, b"(nothing)"]
            data += more
        data = data[match.end() :]
        if match[1] != payload:
            connection.close()
            return [payload, match[1]]
    return []


@pytest.mark.parametrize("target", BACKENDS)
def test_a_recorded_conversation(tmp_path: Path, target: str) -> None:
    lines = recorded(target)
    theirs, ours = socket.socketpair()
    wrong: list[bytes] = []

    def play() -> None:
        wrong.extend(play_target(theirs, [line for line in lines if line[0] in "<>"]))

    thread = threading.Thread(target=play, daemon=True)
    thread.start()
    relay = Relay(tmp_path / "gdb", BACKENDS[target](lambda: ours))
    calls: list[int] = []
    gdb = Gdb(str(relay.path), acknowledge=True)
    for mark, payload in lines:
        if mark == "gdb>":
            gdb.send(payload)
        elif mark == "gdb<":
            assert gdb.receive() == payload
        elif mark == "hook":
            relay.add_hook(int(payload, 16), lambda event: calls.append(event.address) or CONTINUE)
    thread.join(10)
    assert not wrong
    assert calls == [0xFFFFFFFF811C49B0]
    relay.close()
    gdb.close()
    theirs.close()
