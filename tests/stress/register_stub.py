"""A stub of gdb's remote protocol that has registers and no memory: a target to ask gdb about."""

from __future__ import annotations

import contextlib
import socket
import threading
from pathlib import Path
from types import TracebackType
from typing import Final

__all__ = ["RegisterStub"]

# gdb's amd64 registers in a `g` packet (gdb/features/i386/64bit-core.xml): 17 of 8 bytes, then
# eflags and six segments of 4 bytes.
_WIDE: Final = 17


class RegisterStub:
    """Serves one gdb on a Unix socket.

    Each of the 16 general registers holds a value that no other has.

    :param path: of the socket.
    """

    def __init__(self, path: Path) -> None:
        self.registers = [0xC000000000000000 | (number << 32) | 0xAA55 for number in range(_WIDE)]
        self._server = socket.socket(socket.AF_UNIX)
        self._server.bind(str(path))
        self._server.listen(1)
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def __enter__(self) -> RegisterStub:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: object, trace: TracebackType | None
    ) -> None:
        with contextlib.suppress(OSError):
            self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()
        self._thread.join(5)

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            connection, _ = self._server.accept()
            with connection:
                self._talk(connection)

    def _talk(self, connection: socket.socket) -> None:
        data = b""
        while chunk := connection.recv(4096):
            data += chunk
            while b"#" in data and len(data) >= data.index(b"#") + 3:
                packet, _, rest = data.partition(b"#")
                data = rest[2:]
                body = packet.rpartition(b"$")[2]
                reply = self._answer(body.decode("latin1")).encode()
                connection.sendall(b"+$" + reply + b"#%02x" % (sum(reply) & 0xFF))

    def _answer(self, packet: str) -> str:
        if packet == "?":
            return "S05"
        if packet == "g":
            wide = b"".join(value.to_bytes(8, "little") for value in self.registers)
            return (wide + bytes(4 * 7)).hex()
        if packet.startswith("G"):
            values = bytes.fromhex(packet[1 : 1 + 16 * _WIDE])
            self.registers = [
                int.from_bytes(values[at : at + 8], "little") for at in range(0, 8 * _WIDE, 8)
            ]
            return "OK"
        if packet.startswith("P"):
            number, _, value = packet[1:].partition("=")
            self.registers[int(number, 16)] = int.from_bytes(bytes.fromhex(value), "little")
            return "OK"
        if packet.startswith("m"):
            return "E01"
        return ""
