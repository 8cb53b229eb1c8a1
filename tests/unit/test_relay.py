"""The relay's conversation with kgdb, played by the test."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from pytest_kgdb.rsp import Relay
from pytest_kgdb.rsp._packets import encode


class Kgdb:
    """kgdb's end of the line, and gdb's."""

    def __init__(self, directory: Path) -> None:
        self.line, theirs = socket.socketpair()
        self.relay = Relay(directory / "gdb", lambda: theirs, stop_reply=b"T05thread:01;")
        self.gdb = socket.socket(socket.AF_UNIX)
        self.gdb.connect(str(directory / "gdb"))
        for each in (self.line, self.gdb):
            each.settimeout(10)

    def heard(self, expected: bytes) -> None:
        data = b""
        while len(data) < len(expected):
            data += self.line.recv(len(expected) - len(data))
        assert data == expected

    def close(self) -> None:
        self.relay.close()
        self.gdb.close()
        self.line.close()


@pytest.fixture
def kgdb(tmp_path: Path) -> Iterator[Kgdb]:
    made = Kgdb(tmp_path)
    yield made
    made.close()


def test_what_kgdb_did_not_take_is_sent_again(kgdb: Kgdb) -> None:
    """As a kernel does that was saved while it waited for an acknowledgement."""
    kgdb.gdb.sendall(encode(b"m1000,4"))
    kgdb.heard(encode(b"m1000,4"))
    kgdb.line.sendall(b"-")
    kgdb.heard(encode(b"m1000,4"))
    kgdb.line.sendall(b"+" + encode(b"00112233"))
    kgdb.heard(b"+")
    told = b""
    while b"#" not in told:
        told += kgdb.gdb.recv(100)
    assert told == b"+" + encode(b"00112233")


def test_nor_is_a_resume_lost(kgdb: Kgdb) -> None:
    kgdb.gdb.sendall(encode(b"c"))
    kgdb.heard(encode(b"c"))
    kgdb.line.sendall(b"-")
    kgdb.heard(encode(b"c"))
    kgdb.line.sendall(b"+" + encode(b"T05thread:02;"))
    kgdb.heard(b"+")


def test_a_line_that_is_broken_is_not_talked_to_for_ever(kgdb: Kgdb) -> None:
    kgdb.gdb.sendall(encode(b"c"))
    for _ in range(6):
        kgdb.heard(encode(b"c"))
        kgdb.line.sendall(b"-")
    kgdb.line.settimeout(0.2)
    with pytest.raises(TimeoutError):
        kgdb.line.recv(1)
