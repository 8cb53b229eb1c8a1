"""Has a guest knock at the host's doors, to see what its network lets out."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator
from typing import Final

from pytest_kgdb import Kgdb

HOST: Final = "10.0.2.2"
"""What QEMU's user network calls the loopback address of the machine that it runs on."""


def knocks(kgdb: Kgdb) -> Iterator[tuple[str, str, bool]]:
    """Knock at each door, by TCP and UDP: the address, the protocol, and whether it was heard."""
    for address, bound in {HOST: "127.0.0.1", **_outside()}.items():
        with socket.create_server((bound, 0)) as server:
            _send(kgdb, address, "tcp", server.getsockname()[1])
            yield address, "tcp", _heard(server)
        with socket.socket(type=socket.SOCK_DGRAM) as server:
            server.bind((bound, 0))
            _send(kgdb, address, "udp", server.getsockname()[1])
            yield address, "udp", _heard(server)


def _send(kgdb: Kgdb, address: str, proto: str, port: int) -> None:
    # TCP has sent its third SYN after three seconds.
    kgdb.run(f"timeout 4 bash -c 'echo knock > /dev/{proto}/{address}/{port}'", timeout=120)


def _heard(server: socket.socket) -> bool:
    server.settimeout(0.5)
    with contextlib.suppress(TimeoutError):
        if server.type == socket.SOCK_STREAM:
            with server.accept()[0] as caller:
                caller.settimeout(10)
                return caller.recv(99) == b"knock\n"
        return server.recv(99) == b"knock\n"
    return False


def _outside() -> dict[str, str]:
    """The host's own address on its network, if it is on one: beyond 10.0.2.0/24."""
    with (
        contextlib.suppress(OSError),
        socket.socket(type=socket.SOCK_DGRAM) as probe,
    ):
        probe.connect(("192.0.2.1", 9))  # RFC 5737; a UDP socket sends nothing by that
        address = str(probe.getsockname()[0])
        return {address: address}
    return {}
