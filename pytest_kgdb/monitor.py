"""QEMU's monitor: a synchronous face on the `qemu.qmp` library."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import select
import socket
import threading
import time
from collections.abc import Coroutine
from concurrent import futures
from typing import Any, TypeVar

from qemu.qmp import ExecuteError, QMPClient, QMPError

from .errors import KgdbError, MachineDied, TimeoutError

__all__ = ["Monitor", "MonitorError", "Power"]

T = TypeVar("T")


class MonitorError(KgdbError):
    """QEMU refused a monitor command."""


class Monitor:
    """A connection to QEMU's machine protocol (QMP).

    The library is asynchronous. Its loop runs in a thread of its own, so that tests which have a
    loop themselves can use us, and so that events never fill the socket.

    :param connection: a connected socket; it becomes the monitor's.
    :param timeout: seconds that a command may take unless it says otherwise.
    """

    def __init__(self, connection: socket.socket, *, timeout: float) -> None:
        self._timeout = timeout
        # The library logs a lost peer as an error on the root logger's terms; we report it.
        logging.getLogger("qemu.qmp").setLevel(logging.CRITICAL)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._serve, name="kgdb-monitor", daemon=True)
        self._thread.start()
        self._client = QMPClient("pytest-kgdb")
        # Nobody reads events; the library would keep every one of them, its clear() or not.
        self._client.events.event_filter = lambda _: False
        self._closed = False
        try:
            self._wait(self._client.connect(connection), timeout, "the greeting")
        except BaseException:
            self.close()
            raise

    def _serve(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_forever()

    def _wait(self, work: Coroutine[Any, Any, T], timeout: float, what: str) -> T:
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result(timeout)
        except futures.TimeoutError:
            future.cancel()
            raise TimeoutError(f"QEMU's monitor did not answer {what} in {timeout:g} s") from None
        except ExecuteError as error:
            raise MonitorError(f"QEMU's monitor refused {what}: {error}") from error
        except (QMPError, EOFError, OSError) as error:
            raise MachineDied(f"QEMU's monitor was lost at {what}: {error!r}") from error

    def execute(self, command: str, *, timeout: float | None = None, **arguments: object) -> Any:
        """Run one QMP command and return its `return` member.

        An underscore in an argument's name stands for QMP's dash.

        :raises MonitorError: QEMU refused the command.
        :raises MachineDied: QEMU is gone.
        """
        names: dict[str, object] = {
            name.replace("_", "-"): value for name, value in arguments.items()
        }
        deadline = self._timeout if timeout is None else timeout
        return self._wait(self._client.execute(command, names or None), deadline, f"'{command}'")

    def human(self, command: str, *, timeout: float | None = None) -> str:
        """Run a command of the human monitor (`savevm`, `info registers`) and return its text."""
        answer = self.execute("human-monitor-command", timeout=timeout, command_line=command)
        return str(answer)

    def close(self) -> None:
        """Let go of the connection; QEMU itself goes on."""
        if self._closed:
            return
        self._closed = True
        if self._loop.is_running():
            with contextlib.suppress(Exception):
                asyncio.run_coroutine_threadsafe(self._client.disconnect(), self._loop).result(2)
            self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(2)
        if not self._loop.is_running():
            self._loop.close()

    def __enter__(self) -> Monitor:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Power:
    """The virtual CPUs' switch, on a monitor of its own.

    It is thrown twice for each stop of the kernel, so it neither waits for QEMU nor goes through
    the library's loop, which takes half a millisecond of CPU for a command.

    :param connection: a socket connected to a QMP monitor; it becomes the switch's.
    """

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._say(b"qmp_capabilities")

    def stop_nowait(self) -> None:
        """Stop the virtual CPUs."""
        self._say(b"stop")

    def stop(self, timeout: float) -> None:
        """Stop the virtual CPUs, and wait until neither they nor a device write any more.

        :param timeout: seconds.
        """
        self._say(b"stop", b',"id":"halt"')
        deadline = time.monotonic() + timeout
        told = b""
        while b'"id": "halt"' not in told:
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([self._connection], [], [], left)[0]:
                raise TimeoutError(f"QEMU did not pause the machine in {timeout:g} s")
            try:
                data = self._connection.recv(65536)
            except OSError:
                data = b""
            if not data:
                raise MachineDied("QEMU closed its monitor")
            told += data

    def cont(self) -> None:
        """Let the virtual CPUs run."""
        self._say(b"cont")

    def _say(self, command: bytes, more: bytes = b"") -> None:
        with contextlib.suppress(OSError):  # a QEMU that is gone is found out by whoever needs it
            with contextlib.suppress(BlockingIOError):  # answers and events to what came before
                while self._connection.recv(65536, socket.MSG_DONTWAIT):
                    pass
            self._connection.sendall(b'{"execute":"%b"%b}\n' % (command, more))

    def close(self) -> None:
        """Let go of the connection; the CPUs stay as they are."""
        self._connection.close()
