"""gdb as a template: started once for a kernel, and forked where another gdb is needed."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from ..errors import DebuggerDied
from ..process import Child
from ._memory_limit import memory_limit

__all__ = ["ForkedGdb", "GdbTemplate"]

# Until it has read the symbols, and for a fork.
_SECONDS: Final = 60.0
_LOOK: Final = 0.005


class ForkedGdb:
    """A gdb that a template has forked: the :class:`MiTransport` of it.

    :param pid: the process, which is a child of the template's and dies with it.
    """

    def __init__(self, pid: int, stdin: int, stdout: int, *, log: Path) -> None:
        self.pid = pid
        """gdb's process id."""
        self._log = log
        self._stdin = stdin
        self._stdout = stdout
        try:
            self._pidfd: int | None = os.pidfd_open(pid)
        except ProcessLookupError:
            self._pidfd = None

    def send(self, line: str) -> None:
        """Write one line; raises OSError if gdb is gone."""
        data = f"{line}\n".encode()
        while data:
            data = data[os.write(self._stdin, data) :]

    def read(self) -> bytes:
        """Wait for output and return it; `b""` once gdb has closed its output."""
        data = os.read(self._stdout, 65536)
        if not data:
            os.close(self._stdout)  # by its one reader, which has seen the end
        return data

    def fate(self) -> str:
        """Return how gdb ended, waiting at most 1 s for its end."""
        if not self._wait(1.0):
            return "its output ended"
        # Its parent, the template, reaps it before the next fork only: until then its status is
        # there to read (proc(5), /proc/pid/stat, exit_code; since Linux 3.5).
        with contextlib.suppress(OSError, ValueError, IndexError):
            fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
            if fields[0] == "Z":
                status = os.waitstatus_to_exitcode(int(fields[49]))
                return f"killed by signal {-status}" if status < 0 else f"exit status {status}"
        return "it was killed, or crashed"

    def last_words(self) -> str:
        """Return the last 5 lines of gdb's standard error."""
        with contextlib.suppress(OSError):
            return "\n".join(self._log.read_text(errors="replace").splitlines()[-5:])
        return ""

    def _wait(self, seconds: float) -> bool:
        if self._pidfd is None:
            return True
        return bool(select.select([self._pidfd], [], [], seconds)[0])

    def close(self) -> None:
        """End gdb; always, and within seconds."""
        if self._pidfd is None:
            return
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)
        self._wait(10.0)
        os.close(self._pidfd)
        self._pidfd = None
        os.close(self._stdin)


class GdbTemplate:
    """A gdb that has read the symbols, and forks.

    :param argv: gdb's command line.
    :param socket_path: where it takes requests.
    :param log: file that gets its output, and the standard error of those that it forks.
    """

    def __init__(self, argv: Sequence[str], socket_path: Path, *, log: Path) -> None:
        self._path = str(socket_path)
        self._log = log
        argv = [*argv, "-ex", f"python serve_forks({self._path!r})"]
        self._child = Child.spawn(argv, name="gdb", log=log, memory=memory_limit())

    @property
    def alive(self) -> bool:
        """Whether it runs."""
        return self._child.poll() is None

    def fork(self) -> ForkedGdb:
        """Return another gdb, waiting until the template has read the symbols.

        :raises DebuggerDied: it has not in 60 s, or is gone.
        """
        with contextlib.ExitStack() as stack:
            connection = stack.enter_context(self._connect())
            connection.settimeout(_SECONDS)
            their_stdin, stdin = os.pipe2(os.O_CLOEXEC)
            stdout, their_stdout = os.pipe2(os.O_CLOEXEC)
            stderr = os.open(self._log, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC)
            theirs = [their_stdin, their_stdout, stderr]
            for descriptor in theirs:
                stack.callback(os.close, descriptor)
            try:
                socket.send_fds(connection, [b"f"], theirs)
                pid = int(connection.recv(16))
            except (OSError, ValueError):
                os.close(stdin)
                os.close(stdout)
                raise self._death() from None
        return ForkedGdb(pid, stdin, stdout, log=self._log)

    def _connect(self) -> socket.socket:
        deadline = time.monotonic() + _SECONDS
        while True:
            connection = socket.socket(socket.AF_UNIX)
            try:
                connection.connect(self._path)
                return connection
            except OSError:
                connection.close()
                if self._child.poll() is not None or time.monotonic() > deadline:
                    raise self._death() from None
            time.sleep(_LOOK)  # it reads the symbols, and nothing tells when it has

    def _death(self) -> DebuggerDied:
        return DebuggerDied(
            f"the gdb to be forked is not there: {self._child.tail(5).strip()}", log=self._log
        )

    def close(self) -> None:
        """End it, with those that it has forked."""
        self._child.kill()
