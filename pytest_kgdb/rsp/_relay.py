"""The thread between gdb and the target."""

from __future__ import annotations

import contextlib
import os
import select
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

from ..arch import X86_64
from ..errors import DebuggerDied, KgdbError, MachineDied
from ._backend import CONT, Backend, Door, Monitor, ResumeRequest
from ._breakpoints import InsertedBreakpoints
from ._hook_server import HookServer
from ._hooks import Hook
from ._packets import ACK, Decoder, encode
from ._recorded_code import RecordedCode
from ._refusal import Refusal
from ._requested import RequestedBreakpoints
from ._stack_watches import STACK_FRAMES, StackWatches
from ._stop_context import GuestMemory
from ._watched_pages import WatchedPages

if TYPE_CHECKING:
    from ..kernel import StopLayout

__all__ = ["Relay"]

# Seconds without a request after which the machine is paused.
_IDLE: Final = 0.0

# Seconds that one instruction may take in a machine that runs.
_STEP_SECONDS: Final = 1.0

# Seconds that a gdb on a busy host may take to go on from a breakpoint whose condition is false.
_GDB_SECONDS: Final = 10.0

# Seconds after which it is asked again whether gdb has stopped, of which the relay does not hear.
_ASK: Final = 0.01

# Seconds that the thread waits for something to happen before it looks around.
_LOOK: Final = 5.0

_PC: Final = X86_64.registers.pc

# A gdb that quits kills what it debugs, or detaches from it (gdb manual, "Packets"). Either lets a
# kernel run in kgdb (kernel/debug/gdbstub.c, gdb_cmd_detachkill), and the first ends QEMU
# (gdbstub/gdbstub.c, handle_kill). The short form of it has no reply.
_KILL_PROCESS: Final = b"vKill"
_KILL: Final = b"k"
_DETACH: Final = b"D"

# In this way kgdb takes leave when the kernel reboots (kernel/debug/gdbstub.c, gdbstub_exit), which
# gdb would take for a program that has ended (gdb manual, "Stop Reply Packets"); and QEMU's stub
# when QEMU ends, which the closed port tells as well.
_EXITS: Final = (b"W", b"X")

_NEXT_GDB: Final = "the next test gets another gdb"


class Relay:
    """Stands between gdb and a target: gdb's side of the remote protocol, and the hooks.

    Stops at hooks are served here, and gdb does not see them. A breakpoint that gdb removes only
    to step over it stays inserted, its instruction being emulated.

    :param path: Unix socket on which gdb connects.
    :param backend: the target, which becomes the relay's.
    """

    def __init__(self, path: Path, backend: Backend) -> None:
        self.path = path
        self._backend = backend
        self._breakpoints = InsertedBreakpoints(
            backend.request,
            lazy=backend.lazy_removal,
            request_hardware=backend.reply if backend.hardware_refusal is None else None,
        )
        backend.use_breakpoints(self._breakpoints)
        self._hooks = HookServer(
            self._breakpoints, self._go_on, one_at_a_time=backend.threads_are_tasks
        )
        self._pages = WatchedPages(
            backend.reply, lambda: backend.hardware, misses_atomics=backend.misses_atomics
        )
        self._watches = StackWatches(
            backend.reply,
            request_elsewhere=self._pages.request,
            misses_atomics=backend.misses_atomics,
            add_hook=lambda address, hook: self._hooks.add(address, hook) == b"OK",
            remove_hook=self._hooks.remove,
        )
        self._watches.stops = lambda: not backend.stepping
        backend.use_stack_watches(self._watches)
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen(1)
        self._lock = threading.RLock()
        self._resumed = threading.Condition(self._lock)
        self._served = threading.Condition(self._lock)  # an event of the target's
        self._gdb: socket.socket | None = None
        self._from_gdb = Decoder()
        self._acks = True
        self._stopped = True
        self._requested = RequestedBreakpoints(backend, self._breakpoints, self._watches)
        self._settling = False  # gdb is to be told of another stop next
        self._closing = False
        self._failure: Callable[[], DebuggerDied] | None = None  # makes the error of it
        self._wake, self._waker = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self._thread = threading.Thread(target=self._serve, name="kgdb-relay", daemon=True)
        self._thread.start()

    @property
    def failure(self) -> DebuggerDied | None:
        """Why gdb was left without its target last; None while it has one, or has gone itself."""
        return None if self._failure is None else self._failure()

    # The target

    @property
    def door(self) -> Door:
        """What gdb is behind: `kgdb`, or `qemu` for QEMU's gdb stub."""
        return self._backend.door

    @property
    def hardware_refusal(self) -> str | None:
        """Why there are no watchpoints and no hardware breakpoints; None if there are."""
        return self._backend.hardware_refusal

    def use_guest_memory(self, memory: GuestMemory | None, layout: StopLayout | None) -> None:
        """Answer from guest memory from now on; None for both to ask the target instead.

        QEMU's gdb stub reads it by itself; for that, nothing changes.
        """
        with self._lock:
            self._backend.use_guest_memory(memory, layout)

    @property
    def guest_memory_used(self) -> tuple[GuestMemory | None, StopLayout | None]:
        """What :meth:`use_guest_memory` was given last."""
        return self._backend.guest_memory_used

    @contextlib.contextmanager
    def without_guest_memory(self) -> Iterator[None]:
        """Have the target asked for everything meanwhile, as where guest memory is not ours."""
        used = self.guest_memory_used
        self.use_guest_memory(None, None)
        try:
            yield
        finally:
            self.use_guest_memory(*used)

    def use_recorded_code(self, code: RecordedCode) -> None:
        """Have the int3s of what is recorded in the guest give way to breakpoints and steps.

        Neither gdb nor who reads memory here sees them.
        """
        with self._lock:
            self._breakpoints.code = code
            self._backend.use_recorded_code(code)

    def use_code_refusal(self, refusal: Callable[[int], str | None]) -> None:
        """Refuse gdb breakpoints at addresses for which a function returns a reason.

        It is called in the relay's thread, while gdb waits.
        """
        with self._lock:
            self._requested.code_refusal = refusal

    @property
    def _code(self) -> RecordedCode | None:
        code = self._breakpoints.code
        return code if code is not None and code.active else None

    @property
    def list_all_threads(self) -> bool:
        """Whether gdb is told of every task, which takes kgdb long; may be set."""
        return self._backend.list_all_threads

    @list_all_threads.setter
    def list_all_threads(self, value: bool) -> None:
        self._backend.list_all_threads = value

    def read(self, address: int, size: int) -> bytes:
        """Read virtual memory as the CPU that stopped has it, a user program's included.

        :raises KgdbError: not all of it is there; the message names the address.
        """
        with self._asking():
            data = self._backend.read(address, size)
            return data if self._code is None else self._code.original(address, data)

    def register(self, name: str) -> int:
        """Return a register of the task or CPU that stopped, as :class:`RegisterTable` names it.

        gdb would first find the frame that it is of, and read debug information for that.

        :raises KgdbError: the stop is none at which they can be read.
        """
        with self._asking():
            return self._backend.register(name)

    def write_user(self, address: int, data: bytes) -> None:
        """Write the memory of the user program whose task stopped, and which is not code.

        A hook may call it.

        :raises KgdbError: not all of it is mapped, or it is not ours to write.
        """
        with self._asking():
            self._backend.write_user(address, data)

    def explain(self, address: int) -> KgdbError | None:
        """Return why gdb could not read an address, or write there; None if that is not known."""
        with self._asking():
            return self._backend.explain(address)

    def take_refusal(self) -> Refusal | None:
        """Return, once, why a write or a breakpoint of gdb's was refused last, if that is known."""
        with self._lock:
            sources = (self._requested, self._backend, self._pages, self._watches)
            return next(filter(None, [one.take_refusal() for one in sources]), None)

    def take_refused(self) -> frozenset[int]:
        """Return, once, the addresses at which gdb was refused a breakpoint."""
        with self._lock:
            return self._requested.take_refused()

    # Run control

    @property
    def stop_reported(self) -> bool:
        """Whether gdb has been told of a stop, and has not resumed since."""
        with self._lock:
            return self._stopped

    @property
    def is_resumed(self) -> bool:
        """The opposite, as far as it is known without waiting for the relay."""
        return not self._stopped

    def wait_resumed(self, timeout: float) -> bool:
        """Wait until gdb's resume has come here; False if it has not in `timeout` seconds."""
        with self._lock:
            return self._resumed.wait_for(lambda: not self._stopped, timeout)

    @property
    def stop_reply(self) -> bytes:
        """The last stop as the target reported it, for :meth:`reattach` with the same state."""
        return self._backend.stop_reply

    def set_stepping(self, stepping: bool) -> None:
        """Say whether gdb is about to step the task that stopped, or to let the kernel run.

        While it steps, the breakpoints that it inserts for that stop no other task.
        """
        with self._lock:
            self._backend.stepping = stepping
            if not stepping:
                self._hooks.stepping.end()
            elif task := self._backend.task:
                self._hooks.stepping.begin(task, self._breakpoints.requested)

    def interrupt(self) -> None:
        """Stop the running kernel where it is.

        :raises KgdbError: the target does not listen while the kernel runs, as kgdb.
        """
        with self._asking():
            self._backend.interrupt()

    # Hooks

    @property
    def can_force_return(self) -> bool:
        """Whether a hook may have a function return: kgdb itself does not set the stack pointer."""
        return self._backend.can_force_return

    def add_hook(self, address: int, hook: Hook) -> None:
        """Have a function called whenever a CPU comes to an address; the kernel must be stopped.

        It is called in the relay's thread, while the kernel is stopped, and must be quick. gdb
        sees a stop there only if it has a breakpoint at the address, or if the hook says so. The
        newest hook of an address is called first. After :meth:`reattach` all are still there.

        :raises KgdbError: the target refuses a breakpoint there.
        """
        with self._asking():
            reply = self._hooks.add(address, hook)
        if reply != b"OK":
            raise KgdbError(
                f"{self._backend.target} inserts no breakpoint at {address:#x} "
                f"(it replied {reply!r})",
                hint=self._backend.refusal_hint,
            )

    def try_add_hook(self, address: int, hook: Hook) -> bool:
        """Do the same from within a hook; False if the target refuses the breakpoint."""
        with self._lock:  # which the thread that calls hooks has already
            return self._hooks.add(address, hook) == b"OK"

    def remove_hook(self, address: int, hook: Hook) -> None:
        """Undo :meth:`add_hook`, whether the kernel is stopped or runs."""
        with self._asking():
            self._hooks.remove(address, hook)

    def take_hook_error(self) -> BaseException | None:
        """Return, once, what a hook raised; the kernel was stopped there."""
        with self._lock:
            return self._hooks.take_error()

    def take_ended_watches(self) -> dict[int, bool]:
        """Return, once, the addresses on a stack that are not watched any more.

        The value: whether the stop is that of the return of the function in whose frame it was.
        """
        with self._lock:
            return self._watches.take_ended()

    # Other states of the machine

    def detach(
        self, gdb_stopped: Callable[[], bool] = lambda: True, *, keeps_gdb: bool = False
    ) -> bool:
        """Hear nothing of the target from now on: the machine is about to be replaced.

        gdb is to be told of another stop then, which may be of another thread. It dies of that
        while it steps over a breakpoint (gdb 13, infrun.c, finish_step_over): first comes what it
        is about, until it lets the kernel run, which it does not any more.

        :param gdb_stopped: whether gdb has said that its target is stopped, and asks for nothing.
        :param keeps_gdb: whether that gdb must be kept, and is waited for longer.
        :return: whether gdb waits for a stop, or has one.
        """
        with self._asking():
            self._settling = True
            try:
                settled = self._await_settled(
                    gdb_stopped, _GDB_SECONDS if keeps_gdb else _STEP_SECONDS
                )
                self._backend.detach()
            finally:
                self._settling = False
        return settled

    def _await_settled(self, gdb_stopped: Callable[[], bool], patience: float) -> bool:
        deadline = time.monotonic() + patience
        while self._gdb is not None:
            if gdb_stopped() if self._stopped else not self._hooks.stepping.awaits_any:
                break
            if time.monotonic() > deadline:
                return False
            self._resumed.wait(_ASK)
        return True

    def let_go_of_gdb(self) -> None:
        """Close gdb's connection: what it still asks for reaches no target."""
        with self._lock:
            self._lose_gdb()

    def reattach(self, stop_reply: bytes, *, paused: bool = False) -> None:
        """Take up a machine that was put back to a stop; gdb is told of that stop.

        :param stop_reply: what :attr:`stop_reply` was at that stop.
        :param paused: whether the machine is paused now.
        """
        with self._asking():
            self._backend.reattach(stop_reply, self._breakpoints, paused=paused)
            self._watches.replaced(self._read_if_there)
            self._hooks.reset()
            if not self._stopped:
                self._report_stop()
        self._nudge()

    @contextlib.contextmanager
    def quiesced(self, timeout: float) -> Iterator[None]:
        """Have the stopped kernel without inserted breakpoints, and its machine paused.

        :param timeout: seconds for QEMU to pause it.
        :raises MachineDied: it is gone.
        """
        with self._lock:  # nobody resumes it meanwhile
            with self._asking():
                self._breakpoints.remove_all()
            try:
                with self._backend.quiesced(timeout):
                    yield
            finally:
                with self._asking():
                    self._breakpoints.sync(set())

    @contextlib.contextmanager
    def machine_paused(self, monitor: Monitor) -> Iterator[None]:
        """Have a machine whose kernel runs paused, so that its memory does not change.

        No hook is served meanwhile, which in QEMU's gdb stub would let the machine run. A machine
        that has come to a hook already stays for it.

        :param monitor: QEMU's monitor.
        """
        with self._lock:
            self._served.wait_for(lambda: not self._backend.stepping_off, _STEP_SECONDS)
            try:
                with self._backend.machine_paused(monitor):
                    yield
            finally:
                self._nudge()  # a stop may have come, and have been read, meanwhile

    def locked(self) -> AbstractContextManager[object]:
        """Around what uses the backend without the relay: nobody else does meanwhile."""
        return self._lock

    def leave(self) -> None:
        """Let the stopped kernel run without a debugger, for good: no breakpoint stays.

        :raises KgdbError: the target did not answer, or its machine ends with its session.
        """
        with self._lock:
            self._backend.leave()

    def close(self) -> None:
        """End the relay; gdb sees its connection close."""
        self._closing = True
        self._nudge()
        self._thread.join(2)
        for connection in (self._listener, self._backend, self._gdb):
            if connection is not None:
                connection.close()
        for descriptor in (self._wake, self._waker):
            with contextlib.suppress(OSError):
                os.close(descriptor)

    def _nudge(self) -> None:
        with contextlib.suppress(OSError):
            os.write(self._waker, b"x")

    @contextlib.contextmanager
    def _asking(self) -> Iterator[None]:
        """Hold the lock while the target is asked for something by another thread.

        :raises MachineDied: it is gone.
        """
        with self._lock:
            try:
                yield
            except KgdbError:  # of which some are an OSError
                raise
            except OSError as error:
                raise MachineDied(f"{self._backend.target} is gone: {error}") from error

    # The thread

    def _serve(self) -> None:
        while not self._closing:
            sources: list[int | socket.socket] = [self._wake, self._listener]
            sources += self._backend.sockets()
            if self._gdb is not None:
                sources.append(self._gdb)
            try:
                ready, _, _ = select.select(sources, [], [], _IDLE if self._idle() else _LOOK)
            except (OSError, ValueError):
                continue  # a socket was replaced under us
            with self._lock:
                try:
                    if not ready and self._idle():
                        self._backend.idle()
                    self._serve_ready(ready)
                except KgdbError as error:  # of which some are an OSError
                    self._lose_gdb(_no_answer(error))
                except OSError:
                    self._lose_gdb()
                except Exception as error:  # gdb would wait for ever
                    self._lose_gdb(_defect(error))
                    self._show_defect(error)

    def _idle(self) -> bool:
        return self._stopped and self._backend.may_idle

    def _serve_ready(self, ready: list[int | socket.socket]) -> None:
        if self._wake in ready:
            with contextlib.suppress(OSError):
                os.read(self._wake, 4096)
        if self._listener in ready:
            self._lose_gdb()
            self._gdb, _ = self._listener.accept()
            self._failure = None
            self._from_gdb = Decoder()
            self._acks = True
        if not self._backend.receive(ready):
            self._lose_gdb()
            self._closing = True
            return
        self._serve_events()
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
            self._serve_events()  # a stop may have come with the acknowledgement of a resume

    def _serve_events(self) -> None:
        while not self._stopped and (event := self._backend.next_event()) is not None:
            self._on_event(event)

    def _lose_gdb(self, failure: Callable[[], DebuggerDied] | None = None) -> None:
        if self._gdb is not None:
            self._failure = failure
            self._gdb.close()
            self._gdb = None

    def _show_defect(self, error: Exception) -> None:
        """Have the traceback shown as that of any thread; this one goes on for the next gdb."""
        threading.excepthook(
            threading.ExceptHookArgs((type(error), error, error.__traceback__, self._thread))
        )

    def _to_gdb(self, payload: bytes) -> None:
        if self._gdb is not None:
            self._gdb.sendall(encode(payload))

    # The target's side

    def _on_event(self, payload: bytes) -> None:
        """Take what the target sends while it runs."""
        if payload[:1] in _EXITS:
            return
        if payload[:1] not in (b"T", b"S"):
            self._to_gdb(payload)  # O: console output through gdb
            return
        now = time.monotonic()
        backend, hooks = self._backend, self._hooks
        backend.record_stop(payload)
        self._served.notify_all()
        if not self._watches_end(payload):
            backend.resume(CONT)
            return
        if hooks.put_off(backend.thread) and backend.undo_hit():
            hooks.go_on()
            return
        hooked = hooks.hooked or self._breakpoints.stale or backend.is_spurious
        if (hooked or hooks.busy) and backend.may_be_hook:
            by_gdb = not backend.threads_are_tasks and hooks.stepping.active
            context = backend.context(hooked=hooked or by_gdb)
            if context is not None and hooks.serve(context, now):
                return
        if self._code is not None and self._breakpoints.inserted:
            context = backend.context(hooked=True)
            if context is not None and context.breakpoint in self._breakpoints.inserted:
                self._breakpoints.reached(context.breakpoint)
        if backend.step_is_hit:
            hooks.end_step_of(backend.thread)
        hooks.stepping.stop_reported(backend.thread)
        self._report_stop()

    def _watches_end(self, stop_reply: bytes) -> bool:
        """End what a `ret` ends; False at a stop for a return address that somebody just reads."""
        slot = self._watches.guard_read(stop_reply)
        if slot is None:
            return True
        if self._watches.has_returned(slot, self._backend.register("sp")):
            self._remove(self._watches.returned(slot))
            return True
        return self._backend.step_is_hit

    def _report_stop(self) -> None:
        self._stopped = True
        self._end_watches_left()
        self._to_gdb(self._stop_packet())

    def _end_watches_left(self) -> None:
        if not self._watches.active:
            return
        pointer = self._backend.stack_pointer()
        if pointer is not None:
            watches = self._watches
            end = watches.end_stack if self._backend.oopsed else watches.left
            self._remove(end(pointer))

    def _stop_packet(self) -> bytes:
        packet = self._backend.stop_packet(self._hooks.served, self._breakpoints)
        return self._watches.without_guards(packet)

    def _remove(self, keys: Iterable[bytes]) -> None:
        for key in sorted(keys):
            self._backend.reply(b"z" + key)

    def _read_if_there(self, address: int, size: int) -> bytes | None:
        try:
            return self._backend.read(address, size)
        except KgdbError:
            return None

    # gdb's side

    def _on_request(self, payload: bytes) -> None:
        if not self._stopped:
            return  # gdb asks nothing while the kernel runs; the target could not hear it
        backend = self._backend
        request = backend.resume_request(payload)
        if request is not None:
            self._resume(request)
        elif (reply := self._requested.reply(payload)) is not None:
            self._to_gdb(reply)
        elif payload.startswith(STACK_FRAMES):
            self._watches.offer(payload)
            self._to_gdb(b"OK")
        elif payload == b"?":
            backend.query_stop()
            self._to_gdb(self._stop_packet())
        elif payload == b"QStartNoAckMode":
            self._to_gdb(b"OK")
            self._acks = False
        elif payload == _KILL:
            pass  # the kernel stays as it is, for the next gdb
        elif payload.partition(b";")[0] in (_KILL_PROCESS, _DETACH):
            self._to_gdb(b"OK")  # likewise
        else:
            self._to_gdb(self._reply(payload))

    def _reply(self, payload: bytes) -> bytes:
        code, kind = self._code, payload[:1]
        if code is not None and kind == b"M":
            address, size = (int(n, 16) for n in payload[1:].partition(b":")[0].split(b","))
            code.written(address, size)
        reply = self._backend.reply(payload)
        if code is not None and kind == b"m" and len(reply) % 2 == 0:  # an error has three digits
            address = int(payload[1:].split(b",")[0], 16)
            data = bytes.fromhex(reply.decode())
            return code.original(address, data).hex().encode()
        return reply

    def _resume(self, request: ResumeRequest) -> None:
        backend, hooks = self._backend, self._hooks
        if backend.detached or (self._settling and not request.step):
            self._stopped = False
            self._resumed.notify_all()
            return
        if request.step and self._code is not None:
            stopped = backend.context(hooked=True)
            if stopped is not None and stopped.registers[_PC] not in self._breakpoints.hooks:
                self._breakpoints.reached(stopped.registers[_PC])
        if self._watches.waiting and (pointer := backend.stack_pointer()) is not None:
            self._watches.make(pointer)
        context = backend.context(hooked=hooks.hooked)
        if hooks.resume(request.packet, context, step=request.step):
            backend.select_stopped_thread()
            self._end_watches_left()
            self._to_gdb(b"T05thread:%b;" % backend.thread_for_gdb)

    def _go_on(self, packet: bytes) -> None:
        """Send the target the packet by which it goes on."""
        self._stopped = False
        self._resumed.notify_all()
        self._backend.resume(packet)


def _no_answer(error: KgdbError) -> Callable[[], DebuggerDied]:
    message = f"gdb lost its target: {error.message}"
    return partial(DebuggerDied, message, log=error.log, hint=error.hint or _NEXT_GDB)


def _defect(error: Exception) -> Callable[[], DebuggerDied]:
    return partial(
        DebuggerDied,
        f"gdb lost its target: the relay between them failed: {type(error).__name__}: {error}",
        hint="this is a defect of pytest-kgdb's, not of the test or its kernel: report it with the "
        "traceback, which pytest shows among its warnings",
    )
