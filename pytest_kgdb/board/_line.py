"""A serial line: a tty, or one that a server on the network has."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat
import termios
import threading
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from ..errors import ConfigError, KgdbError, MachineDied
from ..settings import SerialLine
from ._users import tty_users

__all__ = ["Line"]

_READ_SECONDS: Final = 0.2  # after which a reader looks whether the line was closed
_WRITE_SECONDS: Final = 10.0  # for a few hundred bytes: the line's flow control holds them back
_BREAK_SECONDS: Final = 0.25

# Documentation/admin-guide/devices.txt: the slaves of Unix98 ptys, whose driver has no break
# (drivers/tty/pty.c, pty_unix98_ops): tcsendbreak(3) succeeds, and nothing is sent.
_PTY_MAJORS: Final = range(136, 144)


class Line:
    """An open serial line. A thread reads it at all times.

    :param line: which one.
    :param on_data: is called with what has come, in that thread.
    :param on_end: is called there when the line is lost.
    :param origin: the option that names it, for messages.
    :raises ConfigError: it is not there, may not be opened, or is in use by another program.
    """

    def __init__(
        self,
        line: SerialLine,
        *,
        on_data: Callable[[bytes], None],
        on_end: Callable[[], None],
        origin: str,
    ) -> None:
        self.line = line
        self._on_data = on_data
        self._on_end = on_end
        self._closed = False
        self.lost: str | None = None
        """Why there is nothing to be read any more; None while there is."""
        self._write_lock = threading.Lock()
        self._port: Any = _open(line, origin)  # serial.Serial, or what serves a URL
        self._reader = threading.Thread(target=self._read, name="kgdb-line", daemon=True)

    def start(self) -> None:
        """Begin to read."""
        self._reader.start()

    @property
    def can_break(self) -> bool:
        """Whether a break gets through: not over a pty, nor over plain TCP."""
        if not self.line.is_device:
            return not self.line.where.startswith("tcp:")
        return os.major(Path(self.line.where).stat().st_rdev) not in _PTY_MAJORS

    def send_break(self) -> None:
        """Send a break."""
        with self._write_lock:
            self._port.send_break(_BREAK_SECONDS)

    def write(self, data: bytes) -> None:
        """Send bytes.

        :raises MachineDied: the line is lost.
        """
        import serial

        with self._write_lock:
            try:
                self._port.write(data)
            except (OSError, serial.SerialException) as error:
                self._lose(str(error))
                raise MachineDied(f"the line {self.line.where} takes no bytes: {error}") from error

    def _read(self) -> None:
        import serial

        while not self._closed:
            try:
                data = self._port.read(1)
                if data and (waiting := self._port.in_waiting):
                    data += self._port.read(waiting)
            except (OSError, serial.SerialException, TypeError) as error:
                # TypeError: pyserial's, for a port that was closed meanwhile.
                if not self._closed:
                    self._lose(str(error))
                return
            if data:
                self._on_data(data)

    def _lose(self, why: str) -> None:
        if self.lost is None:
            self.lost = why
            self._on_end()

    def close(self) -> None:
        """Close the line."""
        self._closed = True
        if self._reader.is_alive() and threading.current_thread() is not self._reader:
            self._reader.join(2 * _READ_SECONDS + 1)
        with contextlib.suppress(OSError):
            self._port.close()


def _open(line: SerialLine, origin: str) -> Any:
    if line.is_device:
        _check_device(Path(line.where), origin)
    import serial  # which only boards need

    url = f"socket://{line.where[4:]}" if line.where.startswith("tcp:") else line.where
    options: dict[str, Any] = {}
    if line.is_device:
        options = {"exclusive": True, "write_timeout": _WRITE_SECONDS}
    try:
        port = serial.serial_for_url(
            url,
            baudrate=line.baud,
            timeout=_READ_SECONDS,
            do_not_open=True,
            **options,
        )
        with warnings.catch_warnings():
            # pyserial 3.5 calls a method of threads' that is deprecated (rfc2217.py, open).
            warnings.simplefilter("ignore", DeprecationWarning)
            port.open()
    except (OSError, ValueError, serial.SerialException, termios.error) as error:
        raise _refusal(line, origin, error) from error
    if line.is_device:
        with contextlib.suppress(OSError):  # keeps others from opening it (ioctl_tty(2))
            fcntl.ioctl(port.fileno(), termios.TIOCEXCL)
    return port


def _check_device(device: Path, origin: str) -> None:
    try:
        mode = device.stat().st_mode
    except OSError as error:
        raise ConfigError(f"{origin}: there is no {device}", hint=_others(device)) from error
    if not stat.S_ISCHR(mode):
        raise ConfigError(f"{origin}: {device} is not a tty", hint=_others(device))
    if users := tty_users(device):
        raise _in_use(device, origin, users)
    if not os.access(device, os.R_OK | os.W_OK):
        raise ConfigError(
            f"{origin}: this user may not open {device}",
            hint=f"its group may: adduser $USER {_group(device)}, and log in anew",
        )


def _in_use(device: Path, origin: str, users: list[str]) -> ConfigError:
    return ConfigError(
        f"{origin}: {device} is in use by {', '.join(users)}",
        hint="end that program: two on one line get half of the bytes each",
    )


def _refusal(line: SerialLine, origin: str, error: Exception) -> KgdbError:
    number = getattr(error, "errno", None)
    device = Path(line.where)
    # EAGAIN: another program's flock(2), which pyserial asks for; EBUSY: its TIOCEXCL.
    if line.is_device and (number in (errno.EBUSY, errno.EAGAIN) or "lock" in str(error)):
        users = tty_users(device) or ["another session of this process, or another user's program"]
        return _in_use(device, origin, users)
    return ConfigError(
        f"{origin}: {line} cannot be opened: {error}",
        hint=_others(device) if line.is_device else "does the server listen on that port?",
    )


def _group(device: Path) -> str:
    try:
        return device.group()
    except (KeyError, OSError):
        return "dialout"


def _others(device: Path) -> str:
    """Return the hint that names the serial lines of this host."""
    names = sorted(
        str(path)
        for pattern in ("ttyUSB*", "ttyACM*", "ttyAMA*")
        for path in Path("/dev").glob(pattern)
        if path != device
    )
    return f"there are {', '.join(names)}" if names else "is its cable plugged in (dmesg)?"
