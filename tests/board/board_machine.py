"""A machine that somebody else started: QEMU, with its serial ports on ptys of 115,200 baud.

    python board_machine.py DIRECTORY --image=… --initrd=… [--one-line] [--wait] [--append=…]
    python board_machine.py DIRECTORY reset

In the directory are the ends of its lines, `console` and `kgdb` (`console` alone with --one-line),
and `ports` with the TCP ports of the same lines: raw, and RFC 2217.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import select
import signal
import socket
import subprocess
import sys
import termios
import threading
import time
import tty
from collections.abc import Callable
from pathlib import Path
from typing import Any

BAUD = 115200
BITS = 10  # of a byte on the line: start, eight, stop
PARAMETERS = (
    "console=ttyS0,115200 nokaslr rodata=off printk.time=1 ignore_loglevel tsc=unstable "
    "clocksource=hpet no_timer_check"
)


class Wire:
    """One direction of a line: as slow as it, with the faults that are asked for."""

    def __init__(self) -> None:
        self._free = 0.0
        self.drop: list[int] = []  # bytes from now on that get lost
        self.flip: list[int] = []  # bytes from now on of which a bit is damaged
        self.noise = 0  # of so many bytes one is damaged
        self._random = random.Random(1)
        self.passed = 0
        self.passed_total = 0

    def faults(self, **faults: Any) -> None:
        """Have faults from now on."""
        self.passed = 0
        self.drop, self.flip = list(faults.get("drop", ())), list(faults.get("flip", ()))
        self.noise = int(faults.get("noise", 0))

    def carry(self, data: bytes, put: Callable[[bytes], None], *, garble: bool = False) -> None:
        """Pass bytes on, when they have had the time that they take."""
        for start in range(0, len(data), 32):
            piece = data[start : start + 32]
            self._free = max(self._free, time.monotonic()) + len(piece) * BITS / BAUD
            time.sleep(max(0.0, self._free - time.monotonic()))
            put(b"".join(self._byte(byte, garble) for byte in piece))

    def _byte(self, byte: int, garble: bool) -> bytes:
        number = self.passed
        self.passed += 1
        self.passed_total += 1
        if number in self.drop:
            return b""
        if garble:
            return bytes([(byte * 0x5B ^ 0xE5) & 0xFF | 0x80])
        if number in self.flip or (self.noise and self._random.randrange(self.noise) == 0):
            byte ^= 1 << self._random.randrange(7)
        return bytes([byte])


class Port:
    """A serial port of the machine, on a pty and on two TCP ports."""

    def __init__(self, name: str, uart: Path, link: Path, send_break: Callable[[], None]) -> None:
        self.name = name
        self.out, self.into = Wire(), Wire()
        self._send_break = send_break
        self._uart = socket.socket(socket.AF_UNIX)
        self._uart.connect(str(uart))
        self._lock = threading.Lock()
        self._master, slave = os.openpty()
        tty.setraw(slave)
        settings = termios.tcgetattr(slave)
        settings[4] = settings[5] = termios.B115200
        termios.tcsetattr(slave, termios.TCSANOW, settings)
        link.unlink(missing_ok=True)
        link.symlink_to(os.ttyname(slave))
        os.close(slave)
        self._clients: list[Callable[[bytes], None]] = []
        self.raw = self._serve(self._serve_raw)
        self.rfc2217 = self._serve(self._serve_rfc2217)
        for work in (self._read_uart, self._read_pty):
            threading.Thread(target=work, daemon=True).start()

    # The pty

    def _pty_is_open(self) -> bool:
        poll = select.poll()
        poll.register(self._master, select.POLLIN)
        return not any(event & select.POLLHUP for _, event in poll.poll(0))

    def _garbles(self) -> bool:
        """Whether who has the pty open takes the line for one of another speed."""
        return termios.tcgetattr(self._master)[5] != termios.B115200

    def _read_uart(self) -> None:
        while data := self._uart.recv(256):
            self.out.carry(data, self._put_out, garble=self._garbles())
        os._exit(0)  # QEMU is gone

    def _put_out(self, data: bytes) -> None:
        if self._pty_is_open():
            os.write(self._master, data)
        for client in list(self._clients):
            client(data)

    def _read_pty(self) -> None:
        while True:
            try:
                data = os.read(self._master, 256)
            except OSError:  # nobody has it open
                time.sleep(0.02)
                continue
            self.put_in(data, garble=self._garbles())

    def put_in(self, data: bytes, *, garble: bool = False) -> None:
        with self._lock:
            self.into.carry(data, self._uart.sendall, garble=garble)

    # TCP

    @staticmethod
    def _serve(serve: Callable[[socket.socket], None]) -> int:
        listener = socket.create_server(("127.0.0.1", 0))

        def accept() -> None:
            while True:
                connection, _ = listener.accept()
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                threading.Thread(target=serve, args=(connection,), daemon=True).start()

        threading.Thread(target=accept, daemon=True).start()
        return int(listener.getsockname()[1])

    @contextlib.contextmanager
    def _client(self, put: Callable[[bytes], None]) -> Any:
        def client(data: bytes) -> None:
            with contextlib.suppress(OSError):
                put(data)

        self._clients.append(client)
        try:
            yield
        finally:
            self._clients.remove(client)

    def _serve_raw(self, connection: socket.socket) -> None:
        with connection, self._client(connection.sendall), contextlib.suppress(OSError):
            while data := connection.recv(256):
                self.put_in(data)

    def _serve_rfc2217(self, connection: socket.socket) -> None:
        import serial.rfc2217

        class Telnet:
            write = staticmethod(connection.sendall)

        manager = serial.rfc2217.PortManager(Settings(self._send_break), Telnet())
        put = lambda data: connection.sendall(b"".join(manager.escape(data)))  # noqa: E731
        with connection, self._client(put), contextlib.suppress(OSError):
            while data := connection.recv(256):
                for byte in manager.filter(data):  # which obeys what is between them
                    self.put_in(byte)


class Settings:
    """What a client of RFC 2217 sets of a port."""

    baudrate, bytesize, parity, stopbits = BAUD, 8, "N", 1
    rtscts = xonxoff = dsrdtr = False
    dtr = rts = cts = dsr = cd = True
    ri = False

    def __init__(self, send_break: Callable[[], None]) -> None:
        self._send_break = send_break
        self._breaking = False

    @property
    def break_condition(self) -> bool:
        return self._breaking

    @break_condition.setter
    def break_condition(self, value: bool) -> None:
        if value and not self._breaking:
            self._send_break()
        self._breaking = value

    def reset_input_buffer(self) -> None: ...

    def reset_output_buffer(self) -> None: ...


class Qmp:
    """QEMU's monitor."""

    def __init__(self, path: Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        while True:  # it is there before QEMU listens
            try:
                self._socket.connect(str(path))
                break
            except OSError:
                time.sleep(0.02)
        self._stream = self._socket.makefile("rw")
        self._lock = threading.Lock()
        self._stream.readline()
        self.execute("qmp_capabilities")

    def execute(self, command: str, **arguments: Any) -> Any:
        with self._lock:
            self._stream.write(json.dumps({"execute": command, "arguments": arguments}) + "\n")
            self._stream.flush()
            while "event" in (reply := json.loads(self._stream.readline())):
                pass
        return reply["return"]


def start(options: argparse.Namespace) -> None:
    directory: Path = options.directory
    directory.mkdir(exist_ok=True)
    names = ["console"] if options.one_line else ["console", "kgdb"]
    parameters = [PARAMETERS, f"kgdboc=ttyS{len(names) - 1},115200", *options.append]
    if options.wait:
        parameters.append("kgdbwait")
    line = " ".join(word for word in " ".join(parameters).split() if word not in options.without)
    argv = ["qemu-system-x86_64", "-nodefaults", "-no-user-config", "-display", "none"]
    argv += ["-machine", "pc,accel=tcg,vmport=off", "-cpu", "max", "-m", "256M"]
    argv += ["-smp", str(options.smp), "-kernel", str(options.image), "-initrd"]
    argv += [str(options.initrd), "-append", line, "-S"]
    for name in names:
        path = directory / f"{name}.uart"
        argv += ["-chardev", f"socket,id={name},path={path},server=on,wait=off"]
        argv += ["-serial", f"chardev:{name}"]
    argv += ["-qmp", f"unix:{directory / 'qmp'},server=on,wait=off"]
    qemu = subprocess.Popen(argv)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    try:
        monitor = Qmp(directory / "qmp")
        ports = {
            name: Port(
                name,
                directory / f"{name}.uart",
                directory / name,
                lambda name=name: send_break(monitor, name),
            )
            for name in names
        }
        numbers = {name: {"tcp": port.raw, "rfc2217": port.rfc2217} for name, port in ports.items()}
        (directory / "ports").write_text(json.dumps(numbers))
        monitor.execute("cont")
        control = socket.socket(socket.AF_UNIX)
        control.bind(str(directory / "control"))
        control.listen()
        while True:
            connection, _ = control.accept()
            with connection, connection.makefile("rw") as stream:
                request = json.loads(stream.readline())
                stream.write(json.dumps(obey(request, monitor, ports)) + "\n")
    finally:
        qemu.kill()
        qemu.wait()


def send_break(monitor: Qmp, name: str) -> None:
    """Send a break, which is no byte in QEMU's stream: what came before it must have been read."""
    time.sleep(0.1)
    monitor.execute("chardev-send-break", id=name)


def obey(request: dict[str, Any], monitor: Qmp, ports: dict[str, Port]) -> Any:
    """Do what is asked at `control`: reset, stop, cont, faults."""
    command = request.pop("command")
    if command == "reset":
        return monitor.execute("system_reset")
    if command in ("stop", "cont", "quit"):
        return monitor.execute(command)
    if command == "break":
        return monitor.execute("chardev-send-break", id=request["line"])
    port = ports[request.pop("line")]
    wire = port.into if request.pop("direction") == "in" else port.out
    if command == "faults":
        wire.faults(**request)
    return wire.passed_total


def ask(directory: Path, command: str, **words: Any) -> Any:
    """Ask the machine in a directory for something."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(30)
        connection.connect(str(directory / "control"))
        with connection.makefile("rw") as stream:
            stream.write(json.dumps({"command": command, **words}) + "\n")
            stream.flush()
            return json.loads(stream.readline())


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("directory", type=Path)
    parser.add_argument("command", nargs="?", choices=["reset"])
    parser.add_argument("--image", type=Path)
    parser.add_argument("--initrd", type=Path)
    parser.add_argument("--one-line", action="store_true")
    parser.add_argument("--wait", action="store_true")
    parser.add_argument("--append", action="append", default=[])
    parser.add_argument("--without", action="append", default=[])
    parser.add_argument("--smp", type=int, default=1)
    options = parser.parse_args()
    if options.command is not None:
        ask(options.directory, options.command)
    else:
        start(options)


if __name__ == "__main__":
    main()
