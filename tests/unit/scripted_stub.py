"""A peer of the relay at the packets' seam: breakpoints, registers, memory, and a few instructions.

What kgdb and QEMU's gdb stub have in common; what they reply was recorded from real ones
(`tests/unit/recordings`). The code that they run does nothing but lead from one address to the
next.
"""

from __future__ import annotations

import contextlib
import re
import socket
import struct
import threading
from collections import deque
from collections.abc import Callable, Mapping
from typing import Final

from pytest_kgdb.errors import KgdbError

BASE: Final = 0xFFFFFFFF81000000
ENTRY: Final = BASE + 0x100
"""A function: `push %r12`, then a load by %gs that is not emulated, then a `nop`, then `ret`."""
LOAD: Final = ENTRY + 2
NOP: Final = LOAD + 9
RET: Final = NOP + 1
CALLER: Final = BASE + 0x200
"""Where it returns to; the kernel runs on from there and does not stop."""
STACK: Final = BASE + 0x800
DATA: Final = STACK + 0x10_0000  # which is on no stack
TASKS: Final = (BASE + 0x10, BASE + 0x20)
"""The tasks of the two threads. Only the first has user memory."""
USER: Final = 0x400FF0
"""Its user memory: two pages, of which 16 bytes each are shown here, the first part at USER_ALIAS,
the second right before it. The last 8 bytes are read-only."""
USER_ALIAS: Final = BASE + 0xF10
CODE: Final = bytes.fromhex("4154 65488b042500000000 90 c3")
PATH: Final = {ENTRY: LOAD, LOAD: NOP, NOP: RET, RET: CALLER}

# What `g` sends, in its order (gdb/features/i386/64bit-core.xml); QEMU has the last three, too.
NAMES: Final = (
    "ax", "bx", "cx", "dx", "si", "di", "bp", "sp", "r8", "r9", "r10", "r11", "r12", "r13", "r14",
    "r15", "ip", "flags", "cs", "ss", "ds", "es", "fs", "gs", "fs_base", "gs_base", "k_gs_base",
)  # fmt: skip
LAYOUT: Final = "<17Q7I3Q"

_PACKET: Final = re.compile(rb"\$([^#]*)#([0-9a-f]{2})|([+\-\x03])", re.DOTALL)


def packet(payload: bytes) -> bytes:
    return b"$%b#%02x" % (payload, sum(payload) % 256)


class Memory:
    """4 KiB of the kernel's memory."""

    def __init__(self) -> None:
        self._data = bytearray(0x1000)
        self.write(ENTRY, CODE)
        self.write(STACK, CALLER.to_bytes(8, "little"))

    def read(self, address: int, size: int) -> bytes:
        if not BASE <= address <= address + size <= BASE + len(self._data):
            raise KgdbError("not mapped")
        return bytes(self._data[address - BASE : address - BASE + size])

    def check_mapped(self, address: int, size: int) -> None:
        self.read(address, size)

    def translate(self, address: int) -> tuple[int, int]:
        self.read(address, 1)
        return address - BASE, BASE + len(self._data) - address

    def write(self, address: int, data: bytes) -> None:
        self.read(address, len(data))
        self._data[address - BASE : address - BASE + len(data)] = data

    def _pieces(self, task: int, address: int, size: int) -> list[tuple[int, int]]:
        if task != TASKS[0] or not USER <= address <= address + size <= USER + 32:
            raise KgdbError(f"{address:#x} is not mapped for {task:#x}", hint="touch it")
        pieces = []
        for at in range(address - USER, address - USER + size):
            pieces.append((USER_ALIAS + at if at < 16 else USER_ALIAS + at - 32, 1))
        return pieces

    def read_user(self, task: int, address: int, size: int) -> bytes:
        return b"".join(self.read(*piece) for piece in self._pieces(task, address, size))

    def open_user(self, task: int, address: int, size: int) -> list[tuple[int, int]]:
        pieces = self._pieces(task, address, size)
        if address + size > USER + 24:
            raise KgdbError(f"{USER + 24:#x} is mapped read-only")
        return pieces


class ScriptedStub:
    """Serves one connection after another, in a thread.

    A test may change everything while the kernel is stopped.
    """

    unmapped = b"E14"

    def __init__(self) -> None:
        self.memory = Memory()
        self.breakpoints: set[int] = set()
        self.read_only: set[int] = set()
        """Addresses that it does not write."""
        self.packets: list[bytes] = []
        """What has come, in its order."""
        self.turns: deque[bytes] = deque()
        """The threads that run next, one until its next stop each; the same one otherwise."""
        self.faults: deque[Callable[[bytes], None]] = deque()
        """What is done with the next replies instead of sending them."""
        self.connections = 0
        self.acknowledged = threading.Event()
        """Whether the last packet that was sent has been."""
        self.unchecked = False
        """Whether breakpoints are taken anywhere."""
        self._sockets: list[socket.socket] = []
        self._threads: list[threading.Thread] = []
        self._last = b""
        self.heard = threading.Condition()

    # The connection

    def connect(self) -> socket.socket:
        """Return the other end of a new connection."""
        self._socket, theirs = socket.socketpair()
        self._sockets.append(self._socket)
        self.connections += 1
        thread = threading.Thread(target=self._serve, args=(self._socket,), daemon=True)
        self._threads.append(thread)
        thread.start()
        return theirs

    def hang_up(self) -> None:
        """Close the present connection."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        if self._sockets:
            self.hang_up()
        for thread in self._threads:
            thread.join(10)
            assert not thread.is_alive()
        for connection in self._sockets:
            connection.close()

    def _serve(self, connection: socket.socket) -> None:
        data = b""
        try:
            while more := connection.recv(4096):
                data += more
                while match := _PACKET.match(data):
                    data = data[match.end() :]
                    self._take(match)
        except OSError:
            pass  # closed by a test

    def _take(self, match: re.Match[bytes]) -> None:
        payload, checksum, sign = match.groups()
        if sign == b"+":
            self.acknowledged.set()
        elif sign == b"-":
            self._socket.sendall(self._last)
        elif sign == b"\x03":
            self._on_interrupt()
        elif payload is not None:
            assert int(checksum, 16) == sum(payload) % 256
            self._socket.sendall(b"+")
            self._on_packet(payload)

    def send(self, payload: bytes) -> None:
        """Send a packet, or do with it what the next fault says."""
        self._last = packet(payload)
        self.acknowledged.clear()
        if self.faults:
            self.faults.popleft()(self._last)
        else:
            self._socket.sendall(self._last)

    def send_raw(self, data: bytes) -> None:
        self._socket.sendall(data)

    def wait_for(self, payload: bytes, count: int = 1) -> None:
        """Wait until a packet has come so many times, and has been served."""
        with self.heard:
            assert self.heard.wait_for(lambda: self.packets.count(payload) >= count, 10), (
                self.packets
            )

    def _on_packet(self, payload: bytes) -> None:
        with self.heard:
            self.packets.append(payload)
            reply = self.reply(payload)
            if reply is not None:
                self.send(reply)
            self.heard.notify_all()

    def _on_interrupt(self) -> None:
        pass

    # The packets

    def reply(self, payload: bytes) -> bytes | None:
        """Return the reply; None for what has none."""
        kind = payload[:1]
        if kind in b"Zz" and payload[1:3] == b"0,":
            return self._on_breakpoint(kind, int(payload.split(b",")[1], 16))
        if kind == b"m":
            address, size = (int(number, 16) for number in payload[1:].split(b","))
            try:
                return self.memory.read(address, size).hex().encode()
            except KgdbError:
                return self.unmapped
        if kind == b"M":
            where, _, digits = payload[1:].partition(b":")
            address = int(where.split(b",")[0], 16)
            if address in self.read_only:
                return self.unmapped
            try:
                self.memory.write(address, bytes.fromhex(digits.decode()))
            except KgdbError:
                return self.unmapped
            return b"OK"
        return b""

    def _on_breakpoint(self, kind: bytes, address: int) -> bytes:
        if not (self.unchecked or BASE <= address < BASE + 0x1000):
            return self.unmapped
        (self.breakpoints.add if kind == b"Z" else self.breakpoints.discard)(address)
        return b"OK"


def pack_registers(registers: Mapping[str, int]) -> bytes:
    """Return QEMU's reply to `g`; kgdb's is the beginning of it."""
    return struct.pack(LAYOUT, *(registers.get(name, 0) for name in NAMES)).hex().encode()


class Gdb:
    """gdb's end of the relay.

    :param acknowledge: go on acknowledging packets.
    """

    def __init__(self, path: str, *, acknowledge: bool = False) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(10)
        self._socket.connect(path)
        self._data = b""
        if not acknowledge:
            assert self.ask(b"QStartNoAckMode") == b"OK"

    def send(self, payload: bytes) -> None:
        self._socket.sendall(packet(payload))

    def receive(self) -> bytes:
        """Return the next packet; empty when the connection was closed."""
        while not (match := re.match(rb"\+*\$([^#]*)#..", self._data, re.DOTALL)):
            more = self._socket.recv(4096)
            if not more:
                return b""
            self._data += more
        self._data = self._data[match.end() :]
        return match[1]

    def ask(self, payload: bytes) -> bytes:
        self.send(payload)
        return self.receive()

    def ended(self) -> bool:
        """Whether nothing more comes but the connection's end."""
        return not self._data.strip(b"+") and not self._socket.recv(4096)

    def silent(self, seconds: float = 0.1) -> bool:
        """Whether nothing comes in some time."""
        self._socket.settimeout(seconds)
        try:
            self._data += self._socket.recv(4096)
        except TimeoutError:
            return True
        finally:
            self._socket.settimeout(10)
        return False

    def close(self) -> None:
        self._socket.close()
