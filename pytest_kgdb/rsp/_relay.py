"""The thread between gdb and kgdb."""

from __future__ import annotations

import contextlib
import os
import select
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final, Protocol

from ..errors import KgdbError, MachineDied, TimeoutError
from ._hooks import AskedRegisters, Hook
from ._layout import Layout, Registers
from ._packets import ACK, Decoder, encode
from ._serve import Context, HookServer
from ._simulate import simulate
from ._stub import Hit, Stub

__all__ = ["GuestMemory", "Relay"]

# kgdb answers a packet within milliseconds, or the machine is gone.
_ANSWER: Final = 20.0

# What gdb may put into one packet to us. Longer reads of memory that is not ours are cut for
# kgdb, whose buffer is 1024 bytes (arch/x86/include/asm/kgdb.h, BUFMAX), two for each of ours.
_PACKET: Final = 0x4000
_KGDB_BYTES: Final = 0x180

_RESENDS: Final = 5  # of one packet

# A stopped kernel polls its serial port, one host core for as long as it stands. The machine is
# paused when nobody has asked kgdb anything for so many seconds.
_IDLE: Final = 0.0

# gdb asks these once when it connects; kgdb knows none of them (kernel/debug/gdbstub.c).
_UNKNOWN: Final = (
    b"vMustReplyEmpty", b"vCont?", b"qTStatus", b"qTfV", b"qTfP", b"qTsV", b"qTsP", b"qSymbol",
    b"qOffsets", b"qXfer", b"qAttached", b"Qbtrace", b"QProgramSignals", b"QPassSignals", b"X",
)  # fmt: skip


class GuestMemory(Protocol):
    """The guest's memory, when it is ours."""

    def read(self, address: int, size: int) -> bytes:
        """Read virtual memory; raises KgdbError where it is not RAM."""

    def write(self, address: int, data: bytes) -> None:
        """Write virtual memory behind the guest's back; not for instructions."""


class Power(Protocol):
    """The machine's virtual CPUs. Both methods return at once, and take effect in their order."""

    def pause(self) -> None:
        """Stop them."""

    def resume(self) -> None:
        """Let them run."""


class Relay:
    """Stands between gdb and the serial port on which kgdb speaks.

    Each byte on that port is an exit of the virtual CPU, so what can be answered from guest
    memory is answered here: registers, memory, the thread that stopped. Breakpoints that gdb
    takes out only to step over them stay in, their first instruction being simulated. Where
    guest memory is not ours, everything is passed on.

    :param path: Unix socket on which gdb connects.
    :param connect: returns a socket connected to kgdb's port.
    :param stop_reply: what kgdb told at the stop at which the machine was saved; to be asked
        otherwise.
    :param stub: QEMU's own stub, for watchpoints and hardware breakpoints; kgdb's otherwise.
    :param power: pauses the machine while nobody talks to its stopped kernel; never otherwise.
    :param paused: whether the machine is paused now.
    """

    def __init__(
        self,
        path: Path,
        connect: Callable[[], socket.socket],
        stub: Stub | None = None,
        stop_reply: bytes = b"",
        power: Power | None = None,
        paused: bool = False,
    ) -> None:
        self._stub = stub
        self._power = power
        self._paused = paused
        self._hit: Hit | None = None  # a hit on its way into kgdb
        self.path = path
        self.all_threads = False
        """Whether gdb is told of every task, which takes kgdb long."""
        self._connect = connect
        self._memory: GuestMemory | None = None
        self._layout: Layout | None = None
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen(1)
        self._lock = threading.RLock()
        self._moved = threading.Condition(self._lock)
        self._gdb: socket.socket | None = None
        self._kgdb = connect()
        self._reset_upstream()
        self._from_gdb = Decoder()
        self._acks = True
        self._stop_reply = stop_reply
        self._stopped = True
        self._absorbing = False
        self._closing = False
        self._wake, self._waker = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self._thread = threading.Thread(target=self._serve, name="kgdb-relay", daemon=True)
        self._thread.start()

    def _reset_upstream(self) -> None:
        self._from_kgdb = Decoder()
        self._queue: list[bytes] = []
        self._hooks = HookServer(self._ask, self._tell)
        self._upstream_thread = b""  # kgdb's Hg; empty for the thread that stopped
        self._wanted_thread = b""  # gdb's Hg
        self._registers: Registers | None = None
        self._floor = 0
        self._sent = b""  # the last packet to kgdb
        self._resends = 0

    # From the outside

    def use_memory(self, memory: GuestMemory | None, layout: Layout | None) -> None:
        """Answer from guest memory from now on; None for both to pass everything on."""
        with self._lock:
            self._memory, self._layout = memory, layout
            if self._stopped:
                self._locate_registers()

    @property
    def stopped(self) -> bool:
        """Whether gdb has been told of a stop, and has not resumed since."""
        with self._lock:
            return self._stopped

    def wait_resumed(self, timeout: float) -> bool:
        """Wait until gdb's resume has come here; False if it did not in `timeout` seconds."""
        with self._lock:
            return self._moved.wait_for(lambda: not self._stopped, timeout)

    @property
    def forces_returns(self) -> bool:
        """Whether a hook may have a function return: only where guest memory is ours."""
        return self._memory is not None

    def hook(self, address: int, hook: Hook) -> None:
        """Have a function called at each arrival at an address; the kernel must be stopped.

        It is called in the relay's thread, while the kernel stands still, and must be quick. gdb
        learns of an arrival only if it has a breakpoint there itself, or if the hook says so. An
        address's newest hook is called first. After :meth:`revive` they are there as before.

        :raises KgdbError: kgdb refuses a breakpoint there.
        """
        with self._lock:
            answer = self._hooks.plants.hook(address, hook)
        if answer != b"OK":
            raise KgdbError(f"kgdb plants no breakpoint at {address:#x} (it said {answer!r})")

    def hook_now(self, address: int, hook: Hook) -> bool:
        """Do the same from within a hook; False if kgdb refuses."""
        return self._hooks.plants.hook(address, hook) == b"OK"

    def unhook(self, address: int, hook: Hook) -> None:
        """Undo :meth:`hook`, whether the kernel is stopped or runs."""
        with self._lock:
            self._hooks.plants.unhook(address, hook)

    def take_trouble(self) -> BaseException | None:
        """Return, once, what a hook raised; the kernel was stopped there."""
        with self._lock:
            trouble, self._hooks.trouble = self._hooks.trouble, None
            return trouble

    @property
    def stop_reply(self) -> bytes:
        """The last stop as kgdb told it; to be given to :meth:`revive` with the same state."""
        return self._stop_reply

    def absorb(self) -> None:
        """Keep everything from kgdb from now on: the machine is about to be replaced."""
        with self._lock:
            self._absorbing = True
            _shut(self._kgdb)  # what is under way on it belongs to the old state
            self._hit = None
            if self._stub is not None and self._stub.socket is not None:
                self._stub.clear()
                self._stub.close()  # it would take a pause for a hit
                self._paused = False

    def revive(self, stop_reply: bytes, *, paused: bool = False) -> None:
        """Take up a machine that was put back to a stop; gdb is told of that stop.

        :param stop_reply: what :attr:`stop_reply` was at that stop.
        :param paused: whether the machine is paused now.
        """
        with self._lock:
            self._paused = paused
            _shut(self._kgdb)
            self._kgdb = self._connect()
            hooks = self._hooks
            self._reset_upstream()
            self._hooks.plants.hooks = hooks.plants.hooks
            self._absorbing = False
            self._stop_reply = stop_reply
            told = not self._stopped
            self._stopped = True
            if told:
                self._to_gdb(self._stop_words(stop_reply))
        self._nudge()

    @contextlib.contextmanager
    def unplanted(self) -> Iterator[None]:
        """Have none of gdb's breakpoints in the stopped kernel: it is about to be saved."""
        with self._lock:
            self._hooks.plants.lift_all()
        try:
            yield
        finally:
            with self._lock:
                self._hooks.plants.settle(set())

    def close(self) -> None:
        """End the relay; gdb sees its connection close."""
        self._closing = True
        self._nudge()
        self._thread.join(2)
        for each in (self._listener, self._kgdb, self._gdb, self._stub):
            if each is not None:
                each.close()
        for descriptor in (self._wake, self._waker):
            with contextlib.suppress(OSError):
                os.close(descriptor)

    def _nudge(self) -> None:
        with contextlib.suppress(OSError):
            os.write(self._waker, b"x")

    # The thread

    def _serve(self) -> None:
        while not self._closing:
            sources: list[int | socket.socket] = [self._wake, self._listener]
            sources += [each for each in (self._gdb, self._stub_socket) if each is not None]
            if not self._absorbing:
                sources.append(self._kgdb)
            try:
                ready, _, _ = select.select(sources, [], [], _IDLE if self._idle() else 5.0)
            except (OSError, ValueError):
                continue  # a socket was replaced under us
            with self._lock:
                try:
                    if not ready:
                        self._pause()
                    self._serve_ready(ready)
                except (OSError, KgdbError):
                    self._lose_gdb()

    def _serve_ready(self, ready: list[int | socket.socket]) -> None:
        if self._wake in ready:
            with contextlib.suppress(OSError):
                os.read(self._wake, 4096)
        if self._listener in ready:
            self._lose_gdb()
            self._gdb, _ = self._listener.accept()
            self._from_gdb = Decoder()
            self._acks = True
        if self._kgdb in ready and not self._absorbing:
            try:
                data = self._kgdb.recv(65536, socket.MSG_DONTWAIT)
            except BlockingIOError:
                return  # whoever had the lock asked kgdb, and has taken the answer
            if not data:
                self._lose_gdb()
                self._closing = True
                return
            self._take_upstream(data)
            while self._queue and not self._stopped:
                self._on_event(self._queue.pop(0))
        if self._stub_socket is not None and self._stub_socket in ready:
            self._take_stub()
        if self._gdb is not None and self._gdb in ready:
            data = self._gdb.recv(65536)
            if not data:
                self._lose_gdb()
                return
            for kind, payload in self._from_gdb.feed(data):
                if kind == "packet":
                    if self._acks:
                        self._gdb.sendall(ACK)
                    self._on_request(payload)

    @property
    def _stub_socket(self) -> socket.socket | None:
        return self._stub.socket if self._stub is not None else None

    def _take_stub(self) -> None:
        """Take a hit from QEMU's stub, if it is one."""
        assert self._stub is not None
        self._hit = self._stub.take(expected=not self._stopped) or self._hit

    # The machine's power

    def _idle(self) -> bool:
        return self._power is not None and self._stopped and not (self._paused or self._absorbing)

    def _pause(self) -> None:
        if not self._idle():
            return
        assert self._power is not None
        self._paused = True
        if self._stub is not None and self._stub.socket is not None:
            self._stub.pause()  # a pause by anybody else would be a hit to it
        else:
            self._power.pause()

    def _wake_up(self) -> None:
        if not self._paused:
            return
        assert self._power is not None
        self._paused = False
        if self._stub is not None and self._stub.socket is not None:
            self._stub.resume()
        else:
            self._power.resume()

    def _lose_gdb(self) -> None:
        if self._gdb is not None:
            self._gdb.close()
            self._gdb = None

    def _to_gdb(self, payload: bytes) -> None:
        if self._gdb is not None:
            self._gdb.sendall(encode(payload))

    # kgdb's side

    def _take_upstream(self, data: bytes) -> None:
        for kind, payload in self._from_kgdb.feed(data):
            if kind == "packet":
                self._kgdb.sendall(ACK)
                self._queue.append(payload)
            elif kind == "bad":
                self._kgdb.sendall(b"-")
            elif kind == "nak" and self._resends < _RESENDS:
                # A kernel that was saved in wait for an acknowledgement takes what comes instead
                # for a new debugger's, and asks for it again (kernel/debug/gdbstub.c, put_packet).
                self._resends += 1
                self._kgdb.sendall(self._sent)

    def _send(self, payload: bytes) -> None:
        self._sent = encode(payload)
        self._resends = 0
        self._kgdb.sendall(self._sent)

    def _ask(self, payload: bytes) -> bytes:
        """Send kgdb a request and return its answer."""
        self._wake_up()
        self._send(payload)
        deadline = time.monotonic() + _ANSWER
        while not self._queue:
            left = deadline - time.monotonic()
            sources = [self._kgdb]
            if self._stub_socket is not None:
                sources.append(self._stub_socket)
            ready, _, _ = select.select(sources, [], [], max(0.0, left))
            if not ready:
                raise TimeoutError(f"kgdb did not answer {payload!r} in {_ANSWER:g} s")
            if self._stub_socket in ready:
                self._take_stub()  # kgdb itself touched what is watched
            if self._kgdb not in ready:
                continue
            data = self._kgdb.recv(65536)
            if not data:
                raise MachineDied("QEMU closed kgdb's port")
            self._take_upstream(data)
        return self._queue.pop(0)

    def _on_event(self, payload: bytes) -> None:
        """Take what kgdb says while the kernel runs."""
        if payload[:1] not in (b"T", b"S"):
            self._to_gdb(payload)  # O: console output through gdb
            return
        now = time.monotonic()
        self._stop_reply = payload
        self._upstream_thread = self._wanted_thread = b""
        self._locate_registers()
        if self._hooks.busy and self._hit is None and payload[:3] == b"T05":
            context = self._context()
            if context is not None and self._hooks.arrive(context, now):
                return
        self._stopped = True
        self._to_gdb(self._stop_words(payload))

    def _context(self) -> Context | None:
        """Return what hooks may use of the CPU that stopped."""
        memory, registers = self._memory, self._registers
        if memory is not None and registers is not None:
            return Context(registers, memory.read, self._thread_id(), self._simulate)
        if not self._hooks.plants.hooks:
            return None
        asked, thread = AskedRegisters(self._ask), self._thread_id()
        floor = asked["sp"]
        return Context(
            asked,
            self._ask_memory,
            thread,
            lambda: simulate(asked, self._ask_memory, self._ask_write, floor),
        )

    def _ask_memory(self, address: int, size: int) -> bytes:
        parts = []
        for start in range(address, address + size, _KGDB_BYTES):
            part = self._ask(b"m%x,%x" % (start, min(_KGDB_BYTES, address + size - start)))
            if part[:1] == b"E":
                raise KgdbError(f"kgdb cannot read {size} bytes at {address:#x}")
            parts.append(bytes.fromhex(part.decode()))
        return b"".join(parts)

    def _ask_write(self, address: int, data: bytes) -> None:
        if self._ask(b"M%x,%x:%b" % (address, len(data), data.hex().encode())) != b"OK":
            raise KgdbError(f"kgdb cannot write {len(data)} bytes at {address:#x}")

    def _stop_words(self, payload: bytes) -> bytes:
        """Return a stop reply as gdb gets it: a breakpoint of ours is told as one."""
        registers = self._registers
        if registers is not None and self._hit is not None and self._stub is not None:
            hit, self._hit = self._hit, None
            self._stub.arrived(hit)
            if registers["ip"] - 1 == hit.address:
                registers["ip"] = hit.address
                return b"T05" + hit.words + payload[3:]
        if payload[:3] == b"T05":
            before = self._hooks.passed  # the program counter has been put back
            if before is None and registers is not None:
                before = self._hooks.at(registers)
                if before is not None:
                    registers["ip"] = before
            # Told so without a breakpoint of its own there, gdb would silently go on.
            if before in self._hooks.plants.wanted:
                return b"T05swbreak:;" + payload[3:]
        return payload

    def _locate_registers(self) -> None:
        memory, layout = self._memory, self._layout
        self._registers = None
        if memory is None or layout is None:
            return
        try:
            cpu = int.from_bytes(memory.read(layout.kgdb_active, 4), "little")
            info = layout.kgdb_info + cpu * layout.info_size
            address = int.from_bytes(memory.read(info + layout.debuggerinfo, 8), "little")
            self._registers = Registers(memory.read, memory.write, address)
            self._floor = self._registers["sp"]
        except KgdbError:
            self._registers = None

    # gdb's side

    def _on_request(self, payload: bytes) -> None:
        if not self._stopped:
            return  # gdb asks nothing while the kernel runs; kgdb could not hear it
        kind = payload[:1]
        if kind in (b"c", b"C", b"s", b"S"):
            self._resume(payload)
            return
        answer = self._local(kind, payload)
        if answer is None:
            answer = b"" if self._absorbing else self._forward(kind, payload)
        self._to_gdb(answer)
        if payload == b"QStartNoAckMode":
            self._acks = False

    def _forward(self, kind: bytes, payload: bytes) -> bytes:
        if kind in (b"g", b"G", b"p", b"P") and self._upstream_thread != self._wanted_thread:
            self._ask(b"Hg" + (self._wanted_thread or self._thread_id() or b"0"))
            self._upstream_thread = self._wanted_thread
        return self._ask(payload)

    def _thread_id(self) -> bytes:
        """The thread that stopped, as kgdb numbers it."""
        _, found, rest = self._stop_reply.partition(b"thread:")
        return rest.split(b";")[0] if found else b""

    def _local(self, kind: bytes, payload: bytes) -> bytes | None:  # a table of answers
        """Return our own answer; None where kgdb must be asked."""
        if payload.startswith(b"qSupported"):
            return b"PacketSize=%x;QStartNoAckMode+;swbreak+;hwbreak+" % _PACKET
        if payload == b"QStartNoAckMode":
            return b"OK"
        if payload.startswith(_UNKNOWN):
            return b""
        if kind == b"H":
            return self._select(payload)
        if kind in (b"Z", b"z"):
            return self._plant(payload)
        if kind == b"m":
            return self._read(payload)
        if kind == b"M":
            return self._write(payload)
        if kind in (b"g", b"P", b"G") and self._registers is not None and not self._wanted_thread:
            return self._access_registers(kind, payload)
        thread = self._thread_id()
        if not self.all_threads and thread:
            if payload == b"qfThreadInfo":
                return b"m" + thread
            if payload == b"qsThreadInfo":
                return b"l"
            if payload == b"qC":
                return b"QC" + thread
        if kind == b"T" and payload[1:] == thread:
            return b"OK"
        if payload == b"?":
            return self._why(thread)
        return None

    def _why(self, thread: bytes) -> bytes:
        """Answer gdb's first question; kgdb's own answer leaves out the thread."""
        if not thread:
            answer = b"" if self._absorbing else self._ask(b"?")  # clears its breakpoints, too
            current = self._ask(b"qC") if answer[:1] == b"S" else b""
            if current.startswith(b"QC"):
                answer = b"T%bthread:%b;" % (answer[1:3], current[2:])
            self._stop_reply = answer
        return self._stop_words(self._stop_reply)

    def _select(self, payload: bytes) -> bytes | None:
        thread = payload[2:]
        own = thread in (b"0", b"-1", b"") or _same(thread, self._thread_id())
        if payload[1:2] == b"c":
            return b"OK" if own else None
        if own:
            self._wanted_thread = b""
            return b"OK"
        answer = b"" if self._absorbing else self._ask(payload)
        if answer == b"OK":
            self._wanted_thread = self._upstream_thread = thread
        return answer

    def _plant(self, payload: bytes) -> bytes | None:
        if self._absorbing:
            return b"OK"
        if payload[1:2] != b"0":
            if self._stub is None:
                return None
            self._paused = False  # the stub halts the machine itself, and lets it go
            return self._stub.plant(payload)
        address = int(payload.split(b",")[1], 16)
        if payload[:1] == b"Z":
            return self._hooks.plants.insert(address)
        self._hooks.plants.wanted.discard(address)  # kgdb has it until the kernel goes on without
        return b"OK"

    def _read(self, payload: bytes) -> bytes | None:
        address, size = (int(word, 16) for word in payload[1:].split(b","))
        if self._memory is not None:
            try:
                return self._memory.read(address, size).hex().encode()
            except KgdbError:
                pass  # not RAM: a device, or nothing; kgdb knows how to fail
        if self._absorbing:
            return b"E14"
        if size <= _KGDB_BYTES:
            return None
        parts: list[bytes] = []
        for start in range(address, address + size, _KGDB_BYTES):
            part = self._ask(b"m%x,%x" % (start, min(_KGDB_BYTES, address + size - start)))
            if part[:1] == b"E":
                return b"".join(parts) or part
            parts.append(part)
        return b"".join(parts)

    def _write(self, payload: bytes) -> bytes | None:
        """Cut a long write for kgdb."""
        if self._absorbing:
            return b"OK"
        place, _, digits = payload[1:].partition(b":")
        address, size = (int(word, 16) for word in place.split(b","))
        for start in range(0, size, _KGDB_BYTES):
            piece = digits[2 * start : 2 * (start + _KGDB_BYTES)]
            answer = self._ask(b"M%x,%x:%b" % (address + start, len(piece) // 2, piece))
            if answer != b"OK":
                return answer
        return b"OK"

    def _access_registers(self, kind: bytes, payload: bytes) -> bytes | None:
        registers = self._registers
        assert registers is not None
        if kind == b"g":
            return registers.for_gdb()
        if kind == b"P":
            number, _, value = payload[1:].partition(b"=")
            registers.set_from_gdb(int(number, 16), bytes.fromhex(value.decode()))
            return b"OK"  # orig_ax too: outside of a system call's exit nobody looks at it
        return None

    # Resuming

    def _resume(self, payload: bytes) -> None:
        kind = payload[:1].lower()
        if self._absorbing:
            self._stopped = False
            self._moved.notify_all()
            return
        # A signal other than the trap is an oops: C09 lets the kernel's own handling go on
        # (kernel/debug/gdbstub.c, gdb_cmd_exception_pass), as going back would oops for ever.
        oops = self._stop_reply[1:3] not in (b"05", b"02", b"00")
        context = None if oops else self._context()
        word = self._pass_on() if oops and kind == b"c" else kind
        if self._hooks.resume(word, context):
            self._to_gdb(b"T05thread:%b;" % self._thread_id())
            return

    def _tell(self, word: bytes) -> None:
        """Send kgdb what has no answer: the kernel goes on."""
        self._stopped = False
        self._registers = None
        self._wake_up()
        if self._stub is not None:
            self._stub.replant()
        self._moved.notify_all()
        self._send(word)

    def _pass_on(self) -> bytes:
        """Return the packet that lets the kernel handle an exception by itself.

        kgdb takes the digits of `C09` for the address to go on at, too (arch/x86/kernel/kgdb.c,
        kgdb_arch_handle_exception), and what the kernel then says of the exception would name
        that. Sixteen digits more, and the 09 is shifted out of the number (kgdb_hex2long).
        """
        with contextlib.suppress(KgdbError):
            if self._registers is not None:
                return b"C09%016x" % self._registers["ip"]
        return b"C09"

    def _simulate(self) -> bool:
        """Do the step here, so that neither the breakpoint nor the CPU has to move for it."""
        registers, memory = self._registers, self._memory
        if registers is None or memory is None or self._stop_reply[1:3] != b"05":
            return False
        watched = self._stub is not None and self._stub.watching
        return simulate(registers, memory.read, memory.write, self._floor, operands=not watched)


def _shut(connection: socket.socket) -> None:
    """Close a connection at once, even while the thread waits on it: select(2) keeps it open."""
    with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)
    connection.close()


def _same(one: bytes, other: bytes) -> bool:
    """Compare thread ids, which are hexadecimal and may have leading zeros."""
    try:
        return int(one, 16) == int(other, 16)
    except ValueError:
        return False
