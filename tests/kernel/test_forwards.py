"""Ports of the host that lead to the guest, as QEMU binds them."""

from __future__ import annotations

import socket

import pytest

from pytest_kgdb.deadline import WaitLimit
from pytest_kgdb.errors import ConfigError
from pytest_kgdb.kernel import Kernel
from pytest_kgdb.machine import Machine, MachineSpec
from pytest_kgdb.settings import Forward


def machine(kernel: Kernel, *forwards: str) -> Machine:
    spec = MachineSpec(kernel.arch, kernel.image, None, memory=32, forwards=forwards)
    return Machine(spec, waits=WaitLimit(30))


def test_free_ports_are_taken_and_reported(kgdb_kernel: Kernel) -> None:
    asked = ("tcp:127.0.0.1:0-:22", "udp:127.0.0.1:0-:53", "tcp:127.0.0.1:0-:80")
    with machine(kgdb_kernel, *asked) as one, machine(kgdb_kernel, *asked) as other:
        forwards_of_both = [*one.forwards, *other.forwards]
        assert {(forward.proto, forward.guest) for forward in forwards_of_both} == {
            ("tcp", 22),
            ("udp", 53),
            ("tcp", 80),
        }
        taken = {(forward.proto, forward.host) for forward in forwards_of_both}
        assert len(taken) == 6
        for proto, port in taken:
            kind = socket.SOCK_STREAM if proto == "tcp" else socket.SOCK_DGRAM
            with socket.socket(type=kind) as mine, pytest.raises(OSError, match="in use"):
                mine.bind(("127.0.0.1", port))


def test_a_port_that_is_taken(kgdb_kernel: Kernel) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        with pytest.raises(ConfigError, match=f"port {port} of this host cannot be had") as caught:
            machine(kgdb_kernel, f"tcp:127.0.0.1:{port}-:22")
    assert f"--kgdb-forward=tcp:{port}:22" in caught.value.message
    assert "--kgdb-forward=tcp:0:22 takes a free one" in str(caught.value.hint)
    with machine(kgdb_kernel, f"tcp:127.0.0.1:{port}-:22") as mine:
        assert mine.forwards == (Forward("tcp", port, 22),)


def test_none(kgdb_kernel: Kernel, kgdb) -> None:
    assert kgdb.forwards == ()
    with pytest.raises(ConfigError, match="leads to the guest's port 22") as caught:
        kgdb.ssh("true")
    assert caught.value.hint == "--kgdb-forward=tcp:0:22"
