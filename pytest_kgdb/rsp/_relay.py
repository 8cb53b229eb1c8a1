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
from typing import Final

from ..errors import KgdbError
from ._answers import Answers
from ._halt import GuestMemory, Halt
from ._hooks import Hook
from ._layout import Layout
from ._packets import ACK, Decoder, encode
from ._power import Power, PowerSwitch
from ._serve import Context, HookServer
from ._stub import Stub
from ._upstream import Upstream

__all__ = ["Relay"]

# The machine is paused when nobody has asked kgdb anything for so many seconds.
_IDLE: Final = 0.0


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
        self.path = path
        self._stub = stub
        self._switch = PowerSwitch(power, stub, paused=paused)
        self._up = Upstream(
            connect,
            wake=self._switch.wake,
            beside=self._beside,
            on_beside=self._take_stub,
        )
        self._halt = Halt(self._up, stub, stop_reply)
        self._answers = Answers(self._up, self._halt, stub, self._switch)
        self._hooks = HookServer(self._up.ask, self._tell)
        self._answers.begin(self._hooks)
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen(1)
        self._lock = threading.RLock()
        self._moved = threading.Condition(self._lock)
        self._gdb: socket.socket | None = None
        self._from_gdb = Decoder()
        self._acks = True
        self._stopped = True
        self._closing = False
        self._wake, self._waker = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self._thread = threading.Thread(target=self._serve, name="kgdb-relay", daemon=True)
        self._thread.start()

    # From the outside

    def use_memory(self, memory: GuestMemory | None, layout: Layout | None) -> None:
        """Answer from guest memory from now on; None for both to pass everything on."""
        with self._lock:
            self._halt.memory, self._halt.layout = memory, layout
            if self._stopped:
                self._halt.locate()

    @property
    def memory_used(self) -> tuple[GuestMemory | None, Layout | None]:
        """What :meth:`use_memory` was given last."""
        return self._halt.memory, self._halt.layout

    @property
    def all_threads(self) -> bool:
        """Whether gdb is told of every task, which takes kgdb long; may be set."""
        return self._answers.all_threads

    @all_threads.setter
    def all_threads(self, value: bool) -> None:
        self._answers.all_threads = value

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
        return self._halt.memory is not None

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
            raise KgdbError(
                f"kgdb plants no breakpoint at {address:#x} (it said {answer!r})",
                hint="it refuses what is no code, what is on the kprobe blocklist, and more than "
                "1,000 (kernel/debug/debug_core.c, dbg_set_sw_break)",
            )

    def hook_now(self, address: int, hook: Hook) -> bool:
        """Do the same from within a hook; False if kgdb refuses."""
        return self._hooks.plants.hook(address, hook) == b"OK"

    def unhook(self, address: int, hook: Hook) -> None:
        """Undo :meth:`hook`, whether the kernel is stopped or runs."""
        with self._lock:
            self._hooks.plants.unhook(address, hook)

    def follow(self, stepping: bool) -> None:
        """Say whether gdb is about to step the task that stopped, or to let the kernel run.

        While it steps, what it plants for that stops no other task.
        """
        with self._lock:
            if stepping:
                self._hooks.followed.begin(self._halt.thread, self._hooks.plants.wanted)
            else:
                self._hooks.followed.end()

    def take_trouble(self) -> BaseException | None:
        """Return, once, what a hook raised; the kernel was stopped there."""
        with self._lock:
            trouble, self._hooks.trouble = self._hooks.trouble, None
            return trouble

    @property
    def stop_reply(self) -> bytes:
        """The last stop as kgdb told it; to be given to :meth:`revive` with the same state."""
        return self._halt.reply

    def absorb(self) -> None:
        """Keep everything from kgdb from now on: the machine is about to be replaced."""
        with self._lock:
            self._up.shut_down()
            self._answers.hit = None
            if self._stub is not None and self._stub.socket is not None:
                self._stub.clear()
                self._stub.close()  # it would take a pause for a hit
                self._switch.paused = False

    def revive(self, stop_reply: bytes, *, paused: bool = False) -> None:
        """Take up a machine that was put back to a stop; gdb is told of that stop.

        :param stop_reply: what :attr:`stop_reply` was at that stop.
        :param paused: whether the machine is paused now.
        """
        with self._lock:
            self._switch.paused = paused
            self._up.reopen()
            hooks = self._hooks
            self._hooks = HookServer(self._up.ask, self._tell)
            self._hooks.plants.hooks = hooks.plants.hooks
            self._answers.begin(self._hooks)
            self._halt.forget()
            self._halt.reply = stop_reply
            told = not self._stopped
            self._stopped = True
            if told:
                self._to_gdb(self._answers.stop_words())
        self._nudge()

    @contextlib.contextmanager
    def still(self, timeout: float) -> Iterator[None]:
        """Have the stopped kernel with none of gdb's breakpoints, and its machine halted.

        :param timeout: seconds for QEMU to halt it.
        """
        with self._lock:  # nobody lets it go meanwhile
            self._hooks.plants.lift_all()
            self._switch.halt(timeout)
            try:
                yield
            finally:
                self._hooks.plants.settle(set())

    def close(self) -> None:
        """End the relay; gdb sees its connection close."""
        self._closing = True
        self._nudge()
        self._thread.join(2)
        for each in (self._listener, self._up, self._gdb, self._stub):
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
        up = self._up
        while not self._closing:
            sources: list[int | socket.socket] = [self._wake, self._listener]
            sources += [each for each in (self._gdb, self._beside()) if each is not None]
            if not up.shut:
                sources.append(up.socket)
            try:
                ready, _, _ = select.select(sources, [], [], _IDLE if self._idle() else 5.0)
            except (OSError, ValueError):
                continue  # a socket was replaced under us
            with self._lock:
                try:
                    if not ready and self._idle():
                        self._switch.pause()
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
        up = self._up
        if up.socket in ready and not up.shut:
            if not up.receive():
                self._lose_gdb()
                self._closing = True
                return
            while up.queue and not self._stopped:
                self._on_event(up.queue.pop(0))
        beside = self._beside()
        if beside is not None and beside in ready:
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

    def _idle(self) -> bool:
        return self._stopped and not self._up.shut and self._switch.may_pause

    def _lose_gdb(self) -> None:
        if self._gdb is not None:
            self._gdb.close()
            self._gdb = None

    def _to_gdb(self, payload: bytes) -> None:
        if self._gdb is not None:
            self._gdb.sendall(encode(payload))

    # QEMU's own stub, beside kgdb

    def _beside(self) -> socket.socket | None:
        return self._stub.socket if self._stub is not None else None

    def _take_stub(self) -> None:
        """Take a hit from QEMU's stub, if it is one; kgdb itself may touch what is watched."""
        assert self._stub is not None
        hit = self._stub.take(expected=not self._stopped)
        self._answers.hit = hit or self._answers.hit

    # kgdb's side

    def _on_event(self, payload: bytes) -> None:
        """Take what kgdb says while the kernel runs."""
        if payload[:1] not in (b"T", b"S"):
            self._to_gdb(payload)  # O: console output through gdb
            return
        now = time.monotonic()
        self._halt.reply = payload
        self._answers.stopped()
        self._halt.locate()
        if self._hooks.busy and self._answers.hit is None and payload[:3] == b"T05":
            context = self._context()
            if context is not None and self._hooks.arrive(context, now):
                return
        self._stopped = True
        self._to_gdb(self._answers.stop_words())

    def _context(self) -> Context | None:
        return self._halt.context(hooked=bool(self._hooks.plants.hooks))

    # gdb's side

    def _on_request(self, payload: bytes) -> None:
        if not self._stopped:
            return  # gdb asks nothing while the kernel runs; kgdb could not hear it
        if payload[:1] in (b"c", b"C", b"s", b"S"):
            self._resume(payload)
            return
        self._to_gdb(self._answers.answer(payload))
        if payload == b"QStartNoAckMode":
            self._acks = False

    def _resume(self, payload: bytes) -> None:
        kind = payload[:1].lower()
        if self._up.shut:
            self._stopped = False
            self._moved.notify_all()
            return
        # A signal other than the trap is an oops: C09 lets the kernel's own handling go on
        # (kernel/debug/gdbstub.c, gdb_cmd_exception_pass), as going back would oops for ever.
        trap = self._halt.is_trap
        context = self._context() if trap else None
        word = self._halt.pass_on() if not trap and kind == b"c" else kind
        if self._hooks.resume(word, context):
            self._to_gdb(b"T05thread:%b;" % self._halt.thread)

    def _tell(self, word: bytes) -> None:
        """Send kgdb what has no answer: the kernel goes on."""
        self._stopped = False
        self._halt.registers = None
        self._switch.wake()
        if self._stub is not None:
            self._stub.replant()
        self._moved.notify_all()
        self._up.send(word)
