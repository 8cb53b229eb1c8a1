"""QEMU's machine protocol (QMP), synchronous on top of the `qemu.qmp` library."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import select
import socket
import threading
from collections.abc import Coroutine, Mapping
from concurrent import futures
from typing import Any, Final, TypeVar

from qemu.qmp import ExecuteError, QMPClient, QMPError

from .deadline import Deadline, WaitLimit
from .errors import KgdbError, MachineDied, TimeoutError

__all__ = ["Monitor", "MonitorError", "VcpuMonitor"]

T = TypeVar("T")

_CLOSE: Final = 2.0  # seconds for each step of closing a connection


class MonitorError(KgdbError):
    """QEMU refused a monitor command."""


class Monitor:
    """A connection to QEMU's monitor.

    The library is asynchronous. Its event loop runs in a thread, so that tests can have a loop of
    their own, and so that the socket is read at all times.

    :param connection: a connected socket, which the monitor closes.
    :param waits: the limit of each command that is given no timeout of its own.
    :raises TimeoutError: QEMU did not send its greeting in time.
    :raises MachineDied: QEMU is gone.
    """

    def __init__(self, connection: socket.socket, *, waits: WaitLimit) -> None:
        self._waits = waits
        # The library logs a lost peer as an error; it is reported as an exception.
        logging.getLogger("qemu.qmp").setLevel(logging.CRITICAL)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._serve, name="kgdb-monitor", daemon=True)
        self._thread.start()
        self._client = QMPClient("pytest-kgdb")
        self.resumes = 0
        """How often QEMU has let the virtual CPUs run since this connection was made."""
        self._shutdown = threading.Event()
        self._reason = ""
        # Nobody reads events, and the library would keep all of them, in spite of its clear().
        self._client.events.event_filter = self._note
        self._closed = False
        try:
            self._wait(self._client.connect(connection), None, "the greeting")
        except BaseException:
            self.close()
            raise

    def _note(self, event: Mapping[str, object]) -> bool:
        """Take note of an event; False: it need not be kept."""
        if event.get("event") == "RESUME":
            self.resumes += 1
        elif event.get("event") == "SHUTDOWN":
            data = event.get("data")
            self._reason = str(data.get("reason", "")) if isinstance(data, Mapping) else ""
            self._shutdown.set()
        return False

    def shutdown_reason(self, timeout: float) -> str:
        """Return why QEMU has ended, as it says (qapi/run-state.json, ShutdownCause).

        Empty if it has not, or says nothing. It says so before it ends.

        :param timeout: seconds for what it has said to be read.
        """
        self._shutdown.wait(timeout)
        return self._reason

    def _serve(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_forever()

    def _wait(self, work: Coroutine[Any, Any, T], timeout: float | None, what: str) -> T:
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        seconds = self._waits.of(timeout)
        try:
            return future.result(seconds)
        except futures.TimeoutError:
            future.cancel()
            raise TimeoutError(f"QEMU's monitor did not answer {what} in {seconds:g} s") from None
        except ExecuteError as error:
            raise MonitorError(f"QEMU's monitor refused {what}: {error}") from error
        except (QMPError, EOFError, OSError) as error:
            raise MachineDied(f"QEMU's monitor was lost at {what}: {error!r}") from error

    def execute(self, command: str, *, timeout: float | None = None, **arguments: object) -> Any:
        """Run a QMP command and return the `return` member of its response.

        :param timeout: seconds.
        :param arguments: the command's; an underscore in a name stands for QMP's dash.
        :raises MonitorError: QEMU refused the command.
        :raises MachineDied: QEMU is gone.
        :raises TimeoutError: QEMU did not answer in time.
        """
        names: dict[str, object] = {
            name.replace("_", "-"): value for name, value in arguments.items()
        }
        return self._wait(self._client.execute(command, names or None), timeout, f"'{command}'")

    def human(self, command: str, *, timeout: float | None = None) -> str:
        """Run a command of the human monitor (`savevm`, `info registers`) and return its output.

        See :meth:`execute` for what it raises. An error of the command itself is its output.

        :param timeout: seconds.
        """
        output = self.execute("human-monitor-command", timeout=timeout, command_line=command)
        return str(output)

    def close(self) -> None:
        """Close the connection. QEMU goes on. Idempotent."""
        if self._closed:
            return
        self._closed = True
        if self._loop.is_running():
            with contextlib.suppress(Exception):
                disconnected = self._client.disconnect()
                asyncio.run_coroutine_threadsafe(disconnected, self._loop).result(_CLOSE)
            self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(_CLOSE)
        if not self._loop.is_running():
            self._loop.close()

    def __enter__(self) -> Monitor:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class VcpuMonitor:
    """Stops the virtual CPUs and lets them run, on a monitor of its own.

    That happens at each stop of the kernel, so the commands do not wait for QEMU, and do not go
    through the library's event loop, which takes half a millisecond of CPU time for a command. A
    QEMU that is gone is not reported, except by :meth:`stop`: whoever needs it next finds out.

    :param connection: a socket connected to a QMP monitor, which this one closes.
    """

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._send(b"qmp_capabilities")

    def stop_nowait(self) -> None:
        """Stop the virtual CPUs, without waiting until they have stopped."""
        self._send(b"stop")

    def stop(self, timeout: float) -> None:
        """Stop the virtual CPUs and the devices, and wait until they write no more.

        :param timeout: seconds.
        :raises TimeoutError: QEMU did not answer in time.
        :raises MachineDied: QEMU is gone.
        """
        self._send(b"stop", b',"id":"stop"')
        deadline = Deadline(timeout)
        received = b""
        while b'"id": "stop"' not in received:
            readable, _, _ = select.select([self._connection], [], [], deadline.left)
            if not readable:
                raise TimeoutError(f"QEMU did not stop the machine in {timeout:g} s")
            try:
                data = self._connection.recv(65536)
            except OSError:
                data = b""
            if not data:
                raise MachineDied("QEMU closed its monitor")
            received += data

    def cont(self) -> None:
        """Let the virtual CPUs run, without waiting until they do."""
        self._send(b"cont")

    def _send(self, command: bytes, more: bytes = b"") -> None:
        with contextlib.suppress(OSError):
            with contextlib.suppress(BlockingIOError):  # responses to earlier commands, and events
                while self._connection.recv(65536, socket.MSG_DONTWAIT):
                    pass
            self._connection.sendall(b'{"execute":"%b"%b}\n' % (command, more))

    def close(self) -> None:
        """Close the connection. The CPUs stay as they are."""
        self._connection.close()
