"""QEMU's monitors, with the test at QEMU's end of the socket."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from pytest_kgdb.deadline import WaitLimit
from pytest_kgdb.errors import MachineDied, TimeoutError
from pytest_kgdb.monitor import Monitor, MonitorError, VcpuMonitor

GREETING = {"QMP": {"version": {"qemu": {"major": 7, "minor": 2, "micro": 0}}, "capabilities": []}}
LIMIT = 10.0


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair()
    ours.settimeout(LIMIT)
    yield ours, theirs
    ours.close()
    theirs.close()


def serve(end: socket.socket, answer: Callable[[dict[str, Any]], dict[str, Any] | None]) -> None:
    """Greet, and answer commands in a thread; None closes the connection."""

    def run() -> None:
        with contextlib.suppress(OSError):  # the test has closed it
            _serve(end, answer)

    threading.Thread(target=run, daemon=True).start()


def _serve(end: socket.socket, answer: Callable[[dict[str, Any]], dict[str, Any] | None]) -> None:
    end.sendall(json.dumps(GREETING).encode() + b"\n")
    text = ""
    while data := end.recv(65536):
        text += data.decode()
        try:  # no newline ends a command
            command = json.loads(text)
        except ValueError:
            continue
        text = ""
        response: dict[str, Any] | None = {"return": {}}
        if command["execute"] != "qmp_capabilities":
            response = answer(command)
        if response is None:
            end.shutdown(socket.SHUT_RDWR)
            return
        if response:
            if "id" in command:
                response["id"] = command["id"]
            end.sendall(json.dumps(response).encode() + b"\n")


class TestMonitor:
    def test_a_command(self, pair: tuple[socket.socket, socket.socket]) -> None:
        commands = []

        def answer(command: dict[str, Any]) -> dict[str, Any]:
            commands.append((command["execute"], command.get("arguments")))
            return {"return": "output"}

        serve(pair[0], answer)
        with Monitor(pair[1], waits=WaitLimit(LIMIT)) as monitor:
            assert monitor.execute("query-status") == "output"
            assert monitor.human("info registers") == "output"
            assert monitor.execute("device_add", id="x", drive_id=1) == "output"
        assert commands == [
            ("query-status", None),
            ("human-monitor-command", {"command-line": "info registers"}),
            ("device_add", {"id": "x", "drive-id": 1}),
        ]

    def test_one_that_is_refused(self, pair: tuple[socket.socket, socket.socket]) -> None:
        serve(pair[0], lambda _: {"error": {"class": "GenericError", "desc": "no such thing"}})
        with (
            Monitor(pair[1], waits=WaitLimit(LIMIT)) as monitor,
            pytest.raises(MonitorError, match="refused 'stop': no such thing"),
        ):
            monitor.execute("stop")

    def test_the_limit_of_the_running_test(self, pair: tuple[socket.socket, socket.socket]) -> None:
        waits = WaitLimit(LIMIT)
        serve(pair[0], lambda _: {})
        with Monitor(pair[1], waits=waits) as monitor:
            waits.set(0.05)
            with pytest.raises(TimeoutError, match=r"did not answer 'stop' in 0\.05 s"):
                monitor.execute("stop")
            with pytest.raises(TimeoutError, match=r"in 0\.01 s"):
                monitor.execute("stop", timeout=0.01)

    def test_no_greeting(self, pair: tuple[socket.socket, socket.socket]) -> None:
        with pytest.raises(TimeoutError, match=r"did not answer the greeting in 0\.05 s"):
            Monitor(pair[1], waits=WaitLimit(0.05))

    def test_qemu_ends(self, pair: tuple[socket.socket, socket.socket]) -> None:
        serve(pair[0], lambda _: None)
        with (
            Monitor(pair[1], waits=WaitLimit(LIMIT)) as monitor,
            pytest.raises(MachineDied, match="was lost at 'stop'"),
        ):
            monitor.execute("stop")
        monitor.close()


class TestVcpuMonitor:
    def sent(self, end: socket.socket, count: int) -> list[str]:
        lines = end.makefile("rb")
        return [json.loads(lines.readline())["execute"] for _ in range(count)]

    def test_it_does_not_wait(self, pair: tuple[socket.socket, socket.socket]) -> None:
        vcpus = VcpuMonitor(pair[1])
        vcpus.stop_nowait()
        vcpus.cont()
        assert self.sent(pair[0], 3) == ["qmp_capabilities", "stop", "cont"]

    def test_it_reads_what_nobody_waits_for(
        self, pair: tuple[socket.socket, socket.socket]
    ) -> None:
        vcpus = VcpuMonitor(pair[1])
        for _ in range(50):
            pair[0].sendall(b'{"event": "STOP"}\n' * 1000)
            vcpus.cont()

    def test_stop(self, pair: tuple[socket.socket, socket.socket]) -> None:
        """The response comes in pieces, and after an event."""
        vcpus = VcpuMonitor(pair[1])
        lines = pair[0].makefile("rb")

        def answer() -> None:
            while b'"id"' not in lines.readline():
                pass
            pair[0].sendall(b'{"event": "STOP"}\n{"return": {}, "id"')
            pair[0].sendall(b': "stop"}\n')

        answering = threading.Thread(target=answer)
        answering.start()
        vcpus.stop(LIMIT)
        answering.join()

    def test_a_stop_that_is_not_answered(self, pair: tuple[socket.socket, socket.socket]) -> None:
        with pytest.raises(TimeoutError, match=r"did not stop the machine in 0\.05 s"):
            VcpuMonitor(pair[1]).stop(0.05)

    def test_qemu_is_gone(self, pair: tuple[socket.socket, socket.socket]) -> None:
        vcpus = VcpuMonitor(pair[1])
        pair[0].close()
        vcpus.stop_nowait()
        vcpus.cont()
        with pytest.raises(MachineDied, match="closed its monitor"):
            vcpus.stop(LIMIT)
        vcpus.close()


def test_resumes_are_counted(pair: tuple[socket.socket, socket.socket]) -> None:
    """Each before the reply that follows it: the reply's state is of that run, or a later one."""
    ours, theirs = pair

    def answer(command: dict[str, Any]) -> dict[str, Any]:
        for name in ("RESUME", "STOP", "RESUME"):
            event = {"event": name, "timestamp": {"seconds": 1, "microseconds": 0}}
            theirs.sendall(json.dumps(event).encode() + b"\n")
        return {"return": {"status": "running"}}

    serve(theirs, answer)
    with Monitor(ours, waits=WaitLimit(LIMIT)) as monitor:
        assert monitor.resumes == 0
        for number in range(1, 20):
            monitor.execute("query-status")
            assert monitor.resumes == 2 * number


def test_why_qemu_ends(pair: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = pair

    def answer(command: dict[str, Any]) -> dict[str, Any] | None:
        if command["execute"] == "quit":
            data = {"guest": True, "reason": "guest-reset"}
            event = {"event": "SHUTDOWN", "data": data, "timestamp": {"seconds": 1}}
            theirs.sendall(json.dumps(event).encode() + b"\n")
            return None
        return {"return": {}}

    serve(theirs, answer)
    with Monitor(ours, waits=WaitLimit(LIMIT)) as monitor:
        assert monitor.shutdown_reason(0.01) == "", "it has not ended"
        with pytest.raises(MachineDied):
            monitor.execute("quit")
        assert monitor.shutdown_reason(LIMIT) == "guest-reset"
