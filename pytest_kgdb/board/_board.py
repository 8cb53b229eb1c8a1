"""A machine that somebody else started, on its serial lines."""

from __future__ import annotations

import array
import contextlib
import fcntl
import shutil
import socket
import termios
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from ..console import Console
from ..deadline import WaitLimit
from ..errors import KgdbError, MachineDied
from ..machine import private_directory
from ..rsp import LineSplitter
from ..settings import Forward, SerialLine
from ._access import BoardAccess
from ._line import Line
from ._reset_watch import ResetWatch, boot_in

__all__ = ["Board", "BoardLines"]

_CHUNK: Final = 256  # bytes that are written to a line at once
_BEFORE_RESET: Final = 16384  # bytes before a reset in which the last time of a line is looked for
_QUIET_SECONDS: Final = 0.3  # after which the beginning of a packet is taken for text


class BoardLines:
    """The lines of a board, as sockets: the console's, and kgdb's, which may share a line.

    :param target: kgdb's line.
    :param console: the console's; None where it is kgdb's, too.
    :param origins: the options that name them, for messages.
    :param on_text: is called with what the console shows.
    """

    def __init__(
        self,
        target: SerialLine,
        console: SerialLine | None,
        origins: tuple[str, str],
        *,
        on_text: Callable[[bytes], None],
    ) -> None:
        if console is not None and console.where == target.where:
            console = None
        self.shared = console is None
        self.splitter = LineSplitter(shared=self.shared)
        self._on_text = on_text
        self._lock = threading.RLock()
        self._input_allowed = threading.Condition(self._lock)
        self._closing = False
        self._passing = False  # what was typed is on its way
        self._last_data = time.monotonic()
        self.recent = {"kgdb": bytearray(), "console": bytearray()}
        """The last bytes of each line, as they came."""
        self.console_socket, self._console = socket.socketpair()
        self._kgdb: socket.socket | None = None
        with contextlib.ExitStack() as stack:
            stack.callback(self.console_socket.close)
            stack.callback(self._console.close)
            self.kgdb_line = Line(
                target, on_data=self._from_kgdb_line, on_end=self._end, origin=origins[0]
            )
            stack.callback(self.kgdb_line.close)
            self.console_line = self.kgdb_line
            if console is not None:
                self.console_line = Line(
                    console, on_data=self._from_console_line, on_end=self._end, origin=origins[1]
                )
                stack.callback(self.console_line.close)
            for line in {self.kgdb_line, self.console_line}:
                line.start()
            self._start(self._pass_console_input)
            if self.shared:
                self._start(self._watch_for_text)
            stack.callback(self._stop_threads)
            self._stack = stack.pop_all()

    @staticmethod
    def _start(work: Callable[[], None]) -> None:
        threading.Thread(target=work, name="kgdb-board", daemon=True).start()

    # From the board

    def _from_kgdb_line(self, data: bytes) -> None:
        with self._lock:
            self._last_data = time.monotonic()
            self._keep("kgdb", data)
            kgdb, console = self.splitter.received(data)
            self._note_input()
            self._deliver(kgdb, console)

    def _deliver(self, kgdb: bytes, console: bytes) -> None:
        with contextlib.suppress(OSError):  # nobody is there
            if kgdb and self._kgdb is not None:
                self._kgdb.sendall(kgdb)
        if console:
            self._from_console_line(console)

    def _from_console_line(self, data: bytes) -> None:
        self._keep("console", data)
        self._on_text(data)
        with contextlib.suppress(OSError):
            self._console.sendall(data)

    def _keep(self, name: str, data: bytes) -> None:
        kept = self.recent[name]
        kept += data
        del kept[:-512]

    def _watch_for_text(self) -> None:
        while not self._closing:
            time.sleep(_QUIET_SECONDS)
            with self._lock:
                if time.monotonic() - self._last_data >= _QUIET_SECONDS:
                    self._deliver(b"", self.splitter.flush())

    def _end(self) -> None:
        """A line is lost: whoever reads sees the end."""
        for end in (self._console, self._kgdb):
            if end is not None:
                with contextlib.suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)

    @property
    def lost(self) -> str | None:
        """Which line is lost, and why; None while none is."""
        for line in (self.kgdb_line, self.console_line):
            if line.lost is not None:
                return f"the line {line.line.where} is lost: {line.lost}"
        return None

    # To the board

    def connect_kgdb(self) -> socket.socket:
        """Return a socket that is connected to kgdb's line; the one before is at its end."""
        theirs, ours = socket.socketpair()
        with self._lock:
            self.disconnect_kgdb()
            self._kgdb = ours
        self._start(lambda: self._pass_to_kgdb(ours))
        return theirs

    def disconnect_kgdb(self, *, running: bool = False) -> None:
        """Have nobody connected to kgdb's line.

        :param running: whether the kernel runs, whatever it did before.
        """
        with self._lock:
            if self._kgdb is not None:
                self._kgdb.close()
                self._kgdb = None
            if running:
                self.splitter.reset()
                self._note_input()
            else:
                self.splitter.reconnect()

    def _pass_to_kgdb(self, source: socket.socket) -> None:
        with contextlib.suppress(OSError, MachineDied):
            while data := source.recv(65536):
                with self._lock:
                    if source is not self._kgdb:
                        return
                    self.splitter.sent(data)
                self.kgdb_line.write(data)

    def _pass_console_input(self) -> None:
        """Pass on what is typed, while the kernel runs.

        A stopped one reads nothing: what exceeds the 16 bytes of a UART would be lost. Through a
        line that is kgdb's, too, it would be kgdb that reads.
        """
        with contextlib.suppress(OSError, MachineDied):
            while data := self._console.recv(65536):
                for start in range(0, len(data), _CHUNK):
                    with self._lock:
                        self._passing = True
                        self._input_allowed.wait_for(
                            lambda: self._closing or not self.splitter.holds_input
                        )
                    self.console_line.write(data[start : start + _CHUNK])
                with self._lock:
                    self._passing = False
                    self._input_allowed.notify_all()

    def await_input_passed(self, timeout: float) -> None:
        """Wait until what was typed is on the line, for at most `timeout` seconds."""
        with self._lock:
            self._input_allowed.wait_for(self._all_passed, timeout)

    def await_running(self, timeout: float) -> bool:
        """Wait until kgdb has let the kernel run; False if it has not in `timeout` seconds."""
        with self._lock:
            return self._input_allowed.wait_for(lambda: not self.splitter.stopped, timeout)

    def _all_passed(self) -> bool:
        waiting = array.array("i", [0])
        with contextlib.suppress(OSError):
            fcntl.ioctl(self._console.fileno(), termios.FIONREAD, waiting)
        return not self._passing and not waiting[0]

    def _note_input(self) -> None:
        if not self.splitter.holds_input:
            self._input_allowed.notify_all()

    def _stop_threads(self) -> None:
        with self._lock:
            self._closing = True
            self._input_allowed.notify_all()
        for end in (self._console, self._kgdb):
            if end is not None:
                with contextlib.suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)
                end.close()

    def close(self) -> None:
        """Close the lines."""
        self._stack.close()


class Board:
    """A board: its console, and kgdb behind a serial line.

    :param access: how it is reached.
    :param log: file to which all that the console shows is appended.
    :param waits: the limit of each wait.
    :param attend: called while an expect on the console waits (:class:`Console`).
    """

    def __init__(
        self,
        access: BoardAccess,
        *,
        log: Path,
        waits: WaitLimit,
        attend: Callable[[], object] = lambda: None,
    ) -> None:
        self.waits = waits
        self.name = f"the board on {access.target.where}"
        self.echoes = False
        """Whether the console's shell echoed what was typed, when it was taken up."""
        self._boot_mark = 0
        self._was_reset = False
        self._resets = ResetWatch()
        self._watching = False
        with contextlib.ExitStack() as stack:
            self.directory, lock = private_directory()
            stack.callback(lock.release)
            stack.callback(shutil.rmtree, self.directory, ignore_errors=True)
            self.lines = BoardLines(
                access.target, access.console, access.origins, on_text=self._resets.feed
            )
            stack.callback(self.lines.close)
            self.console = Console(
                lambda: self.lines.console_socket, log, waits=waits, attend=attend, peer=self.name
            )
            stack.callback(self.console.close)
            self._stack = stack.pop_all()

    # The part of a machine that a handle needs

    forwards: tuple[Forward, ...] = ()
    """No port of this host is forwarded to a board."""

    @property
    def alive(self) -> bool:
        """Whether the lines are there, and the kernel is the one that was taken up."""
        return self.lines.lost is None and self._reset_seen is None

    @property
    def boot_mark(self) -> int:
        """Where on the console the present boot began, or the session."""
        return self._boot_mark

    @property
    def boot_text(self) -> bytes:
        """What the console has shown of the present boot, as far as that is known."""
        mark = self._boot_mark
        if not self._was_reset:
            return self.console.since(mark)
        before = min(mark, _BEFORE_RESET)
        return boot_in(self.console.since(mark - before), before)

    def expect_boot(self, *, reset: bool) -> None:
        """Take what the console shows from now on for the boot of another kernel.

        :param reset: whether the board is about to be reset.
        """
        self._boot_mark = self.console.mark()
        self._was_reset = reset
        self._watching = False
        self.lines.disconnect_kgdb(running=True)

    def watch(self) -> None:
        """Take another kernel's first line for a reset from now on."""
        self._resets.start()
        self._watching = True

    @property
    def _reset_seen(self) -> str | None:
        """The first line of the kernel that another boot has started."""
        return self._resets.banner if self._watching else None

    def wait_ended(self, timeout: float) -> None:
        """Wait shortly for signs of the board's end.

        :raises KgdbError: there are none.
        """
        end = time.monotonic() + timeout
        while self.alive:
            if time.monotonic() > end:
                raise KgdbError(f"{self.name} is there")
            self.console.wait_beyond(self.console.mark(), 0.05)

    def check_storage(self) -> None:
        """Check that the board is there.

        :raises MachineDied: it is not.
        """
        if not self.alive:
            raise self.death("")

    def death(self, what: str, *, started: bool = False) -> MachineDied:  # noqa: ARG002 # as of a machine in QEMU
        """Return the error for the end of the kernel that was taken up: a reset, a lost line."""
        if self._reset_seen is not None:
            message = f"{self.name} has reset, and boots: {self._reset_seen}"
            hint = "a watchdog, a triple fault, or its power? The next test takes it up again"
        else:
            message = self.lines.lost or f"{self.name} does not answer any more"
            hint = "is the board's power on, and the cable plugged in (dmesg)?"
        return MachineDied(
            f"{message}\nthe console's last lines are:\n{self.console.tail(10)}",
            log=self.console.log,
            hint=hint,
        )

    # The end

    def close(self) -> None:
        """Close the lines."""
        self._stack.close()

    def __enter__(self) -> Board:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
