"""kgdb as the target, with the help of QEMU where the machine is ours."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Final

from ..arch import X86_64
from ..deadline import WaitLimit
from ..errors import KgdbError
from ._backend import CONT, STEP, Backend, Monitor, ResumeRequest
from ._breakpoints import InsertedBreakpoints
from ._connection import KgdbConnection
from ._kgdb_stop import KgdbStop
from ._led_hits import LedHits
from ._packet_handlers import PacketHandlers
from ._patched_code import PatchedCode
from ._qemu_stub import HARDWARE_HIT, Hit, QemuStub
from ._recorded_code import RecordedCode
from ._refusal import Refusal
from ._split import LineSplitter
from ._stack_watches import StackWatches
from ._stop_context import GuestMemory, StopContext
from ._trap_cause import TrapCauses
from ._vcpus import VcpuControl, Vcpus

if TYPE_CHECKING:
    from ..kernel import StopLayout

__all__ = ["KgdbBackend"]

_PC: Final = X86_64.registers.pc
_INT3: Final = b"\xcc"
_CONT: Final = ResumeRequest(CONT, step=False)
_STEP: Final = ResumeRequest(STEP, step=True)


class KgdbBackend(Backend):
    """kgdb on a serial port.

    Each byte on an emulated port is an exit of the virtual CPU, so registers, memory and the
    thread that stopped are read from guest memory where that is ours.

    :param connect: returns a socket connected to kgdb's port.
    :param stub: QEMU's gdb stub, for watchpoints and hardware breakpoints; kgdb's otherwise.
    :param stop_reply: kgdb's stop reply at the stop at which the machine was saved; it is asked
        for otherwise.
    :param vcpus: pause the machine while nobody talks to its stopped kernel; it is never paused
        otherwise.
    :param paused: whether the machine is paused now.
    :param prints: whether the kernel also prints on the port.
    """

    door = "kgdb"
    target = "kgdb"
    refusal_hint = (
        "it refuses what is no code, what is on the kprobe blocklist, and more than 1,000 "
        "(kernel/debug/debug_core.c, dbg_set_sw_break)"
    )

    def __init__(
        self,
        connect: Callable[[], socket.socket],
        *,
        waits: WaitLimit,
        stub: QemuStub | None = None,
        stop_reply: bytes = b"",
        vcpus: Vcpus | None = None,
        paused: bool = False,
        prints: bool = False,
    ) -> None:
        self._stub = stub
        self.misses_atomics = stub is not None and stub.misses_atomics
        self._splitter = LineSplitter(shared=True) if prints else None
        self._vcpus = VcpuControl(vcpus, stub, paused=paused)
        self._connection = self._open(connect, waits)
        self._traps = TrapCauses()
        self._stop = KgdbStop(self._connection, stub, self._traps, stop_reply)
        self._handlers = PacketHandlers(self._connection, self._stop)
        self._running = False
        self._hits = LedHits()
        self._hit: Hit | None = None  # that of the stop
        self._by_stub: set[int] = set()  # where QEMU has breakpoints in place of kgdb
        self._patched = PatchedCode()
        self._led_late = False  # the stop is at an int3 of a hit's, which is over

    def _open(self, connect: Callable[[], socket.socket], waits: WaitLimit) -> KgdbConnection:
        """Return the connection to kgdb."""
        return KgdbConnection(
            connect,
            waits=waits,
            cont=self._vcpus.cont,
            stub_socket=self._stub_socket,
            on_stub=self._take_hit,
            splitter=self._splitter,
        )

    @property
    def hardware(self) -> set[bytes]:
        """See :attr:`Backend.hardware`."""
        return self._stub.hardware if self._stub is not None else set()

    def use_stack_watches(self, watches: StackWatches) -> None:
        """See :meth:`Backend.use_stack_watches`."""
        if self._stub is not None:
            self._stub.stack_watches = watches

    # What has come

    def _stub_socket(self) -> socket.socket | None:
        return self._stub.socket if self._stub is not None else None

    def sockets(self) -> list[socket.socket]:
        """See :meth:`Backend.sockets`."""
        stub = self._stub_socket()
        sockets = [stub] if stub is not None else []
        if not self.detached:
            sockets.append(self._connection.socket)
        return sockets

    def receive(self, ready: Sequence[object]) -> bool:
        """See :meth:`Backend.receive`."""
        if (
            self._connection.socket in ready
            and not self.detached
            and not self._connection.receive()
        ):
            return False
        stub = self._stub_socket()
        if stub is not None and stub in ready:
            self._take_hit()
        return True

    def next_event(self) -> bytes | None:
        """See :meth:`Backend.next_event`."""
        packets = self._connection.packets
        return packets.popleft() if packets and not self.detached else None

    def _take_hit(self) -> None:
        """Take a hit from QEMU's stub; what kgdb itself touches is none."""
        assert self._stub is not None
        self._hits.add(self._stub.take_hits(kernel_runs=self._running))

    # The stop

    @property
    def stop_reply(self) -> bytes:
        """See :attr:`Backend.stop_reply`."""
        return self._stop.reply

    def query_stop(self) -> None:
        """See :meth:`Backend.query_stop`."""
        if not self._stop.thread:
            self._stop.reply = self._handlers.stop_reply()

    def record_stop(self, stop_reply: bytes) -> None:
        """See :meth:`Backend.record_stop`."""
        self._running = False
        self._stop.reply = stop_reply
        self._handlers.select_stopped_thread()
        self._stop.find_registers()
        self._hit = self._hit_of_stop()
        if self._hit is None:
            self._led_late = self._undo_late_hit()
            return
        self._led_late = False
        if self._hit.address in self._by_stub and self._stub is not None:
            # It is as any other breakpoint from here on: an int3 has been executed.
            hit, self._hit = self._hit, None
            self._stub.restore_instruction(hit)

    def _hit_of_stop(self) -> Hit | None:
        """Take the hit that has led to the stop; another CPU may have come into kgdb before it."""
        registers = self._stop.registers
        if registers is None or self._stop.reply[:3] != b"T05":
            return None
        at_int3 = self._traps.int3(self._stop.thread, registers) is not None
        return self._hits.take(registers, at_int3=at_int3)

    def _undo_late_hit(self) -> bool:
        if not self._hits.any_led or self._stop.reply[:3] != b"T05":
            return False
        return self._hits.undo_late(self._stop.context(hooked=True))

    @property
    def thread(self) -> bytes:
        """See :attr:`Backend.thread`."""
        return self._stop.thread

    def select_stopped_thread(self) -> None:
        """See :meth:`Backend.select_stopped_thread`."""
        self._handlers.select_stopped_for_gdb()

    @property
    def may_be_hook(self) -> bool:
        """See :attr:`Backend.may_be_hook`."""
        return self._hit is None and self._stop.reply[:3] == b"T05"

    @property
    def step_is_hit(self) -> bool:
        """See :attr:`Backend.step_is_hit`."""
        return self._hit is not None and self._hit.stepped

    @property
    def is_spurious(self) -> bool:
        """See :attr:`Backend.is_spurious`."""
        return self._led_late or self._stop.interrupted_step

    def undo_hit(self) -> bool:
        """See :meth:`Backend.undo_hit`."""
        hit, registers, stub = self._hit, self._stop.registers, self._stub
        if hit is None or registers is None or stub is None or hit.reason != HARDWARE_HIT:
            return False
        self._hit = None
        stub.restore_instruction(hit)
        registers[_PC] = hit.address
        return True

    def context(self, *, hooked: bool) -> StopContext | None:
        """See :meth:`Backend.context`."""
        context = self._stop.context(hooked=hooked) if self._stop.is_trap else None
        if context is not None:
            context.late = self._led_late
        return context

    def stop_packet(self, served: int | None, breakpoints: InsertedBreakpoints) -> bytes:
        """Return the stop reply; at a breakpoint the program counter is put back to it.

        gdb then need not guess whether an int3 was its own. It must be told `swbreak` for its own
        breakpoints only, as it goes on silently where it has none.
        """
        reply, registers = self._stop.reply, self._stop.registers
        if registers is not None and self._hit is not None and self._stub is not None:
            hit, self._hit = self._hit, None
            self._stub.restore_instruction(hit)
            reason = hit.reason
            if not hit.stepped:
                registers[_PC] = hit.address
                if not reason and hit.address in breakpoints.requested:
                    reason = b"swbreak:;"
            return b"T05" + reason + reply[3:]
        if reply[:3] == b"T05":
            address = served  # the program counter has been put back for the hooks
            if address is None and breakpoints.inserted:
                address = self._step_back(breakpoints)
            if address in breakpoints.requested:
                return b"T05swbreak:;" + reply[3:]
        return reply

    @property
    def oopsed(self) -> bool:
        """See :attr:`Backend.oopsed`."""
        return not self._stop.is_trap

    def stack_pointer(self) -> int | None:
        """See :meth:`Backend.stack_pointer`."""
        registers = self._stop.registers
        return registers[X86_64.registers.sp] if registers is not None else super().stack_pointer()

    def _step_back(self, breakpoints: InsertedBreakpoints) -> int | None:
        """Put the program counter back to a breakpoint's int3; return where, if it was one."""
        if self._stop.registers is None and breakpoints.hooks:
            return None  # it would have been served
        context = self._stop.context(hooked=True)  # asks kgdb where memory is not ours
        address = context.breakpoint if context is not None else None
        if context is None or address not in breakpoints.inserted:
            return None
        context.registers[_PC] = address
        return address

    # Requests

    @property
    def list_all_threads(self) -> bool:
        """See :attr:`Backend.list_all_threads`."""
        return self._handlers.list_all_threads

    @list_all_threads.setter
    def list_all_threads(self, value: bool) -> None:
        self._handlers.list_all_threads = value

    def request(self, payload: bytes) -> bytes:
        """See :meth:`Backend.request`.

        QEMU has the breakpoints in what the kernel patches, in which it dies of an int3, and those
        to step by that kgdb does not take.
        """
        kind = payload[:3]
        if kind not in (b"Z0,", b"z0,"):
            return self._connection.request(payload)
        address = int(payload.split(b",")[1], 16)
        if kind == b"z0," and address in self._by_stub:
            return self._ask_stub(b"z1,%x,1" % address)
        if kind == b"Z0,":
            if address in self._by_stub:
                return self._ask_stub(b"Z1,%x,1" % address)
            if not self._handlers.check_mapped(address, 1, ask=False):
                return b"E14"
            if self._is_patched(address):
                return self._insert_by_stub(address)
        reply = self._connection.request(payload)
        self._traps.record_request(payload, reply)
        if kind == b"Z0," and reply != b"OK" and self.stepping and self._stub is not None:
            # The caller of a function that kgdb does take may be noinstr code.
            return self._insert_by_stub(address)
        return reply

    def _is_patched(self, address: int) -> bool:
        """Whether QEMU is to have a breakpoint, as the kernel patches the instruction."""
        layout, memory = self._stop.layout, self._stop.memory
        return (
            self._stub is not None
            and memory is not None
            and layout is not None
            and layout.patched is not None
            and self._patched.is_patched(address, layout.patched, memory.read)
        )

    def _insert_by_stub(self, address: int) -> bytes:
        reply = self._ask_stub(b"Z1,%x,1" % address)
        if reply == b"OK":
            self._by_stub.add(address)
        return reply

    def _ask_stub(self, payload: bytes) -> bytes:
        if self._stub is None:
            return b"E01"
        if self._stub.socket is not None:
            self._vcpus.cont()  # a removal may have nothing to do, and the machine stays paused
        try:
            return self._stub.insert_or_remove(payload)
        finally:
            if self._stub.socket is not None:
                self._vcpus.paused = False  # the stub stops the machine itself, and resumes it

    def take_refusal(self) -> Refusal | None:
        """See :meth:`Backend.take_refusal`."""
        refusal, self._handlers.refusal = self._handlers.refusal, None
        return refusal

    def reply(self, payload: bytes) -> bytes:
        """See :meth:`Backend.reply`."""
        if payload[:1] in (b"Z", b"z"):
            if self.detached:
                return b"OK"
            if self._stub is not None:
                return self._ask_stub(payload)
        return self._handlers.reply(payload)

    def read(self, address: int, size: int) -> bytes:
        """See :meth:`Backend.read`."""
        return self._stop.read(address, size)

    def explain(self, address: int) -> KgdbError | None:
        """See :meth:`Backend.explain`."""
        return self._handlers.explain(address)

    def write_user(self, address: int, data: bytes) -> None:
        """See :meth:`Backend.write_user`."""
        self._stop.write_user(address, data)

    # Going on

    def resume_request(self, payload: bytes) -> ResumeRequest | None:
        """Return what gdb asks; after an oops, that the kernel handle it by itself.

        Going on where the kernel oopsed would have it oops for ever.
        """
        kind = payload[:1].lower()
        if kind == STEP:
            return _STEP
        if kind != CONT:
            return None
        return _CONT if self._stop.is_trap else ResumeRequest(self._stop.pass_on(), step=False)

    def resume(self, packet: bytes) -> None:
        """See :meth:`Backend.resume`."""
        self._stop.resumes(step=packet == STEP)
        self._vcpus.cont()
        if self._stub is not None:
            self._stub.reinsert()
        self._running = True
        self._connection.send(packet)

    @property
    def may_idle(self) -> bool:
        """See :attr:`Backend.may_idle`."""
        return not self.detached and self._vcpus.may_pause

    def idle(self) -> None:
        """See :meth:`Backend.idle`."""
        self._vcpus.stop_nowait()

    @contextlib.contextmanager
    def machine_paused(self, monitor: Monitor) -> Iterator[None]:
        """See :meth:`Backend.machine_paused`; through QEMU's stub while that is attached.

        It says of each stop, by whomever. Until it has the acknowledgement for that, it takes a
        request to stop the machine for none (gdbstub/gdbstub.c, gdb_read_byte).
        """
        if self._stub is None or self._stub.socket is None:
            with super().machine_paused(monitor):
                yield
            return
        stop_reply = self._stub.stop()
        try:
            yield
        finally:
            self._hits.add(self._stub.go_on(stop_reply, kernel_runs=self._running))

    @contextlib.contextmanager
    def quiesced(self, timeout: float) -> Iterator[None]:
        """See :meth:`Backend.quiesced`."""
        self._vcpus.stop(timeout)
        yield

    # Another machine

    @property
    def detached(self) -> bool:
        """See :attr:`Backend.detached`."""
        return self._handlers.detached

    def detach(self) -> None:
        """See :meth:`Backend.detach`."""
        self._handlers.detached = True
        self._connection.shut_down()
        self._hits.forget()
        self._hit = None
        if self._stub is not None and self._stub.socket is not None:
            self._stub.remove_all()
            self._stub.close()  # it would take a pause for a hit
            self._vcpus.paused = False

    def reattach(
        self, stop_reply: bytes, breakpoints: InsertedBreakpoints, *, paused: bool
    ) -> None:
        """See :meth:`Backend.reattach`."""
        breakpoints.forget()
        self._traps.reset()
        self._stop.reset()
        self._by_stub.clear()
        self._hits.reset()
        self._led_late = False
        self.stepping = False
        self._vcpus.paused = paused
        self._connection.reopen()
        self._running = False
        self._handlers.detached = False
        self._handlers.select_stopped_thread()
        self._stop.reply = stop_reply
        self._stop.find_registers()
        self._stay_at_reboot()

    def close(self) -> None:
        """See :meth:`Backend.close`."""
        self._connection.close()
        if self._stub is not None:
            self._stub.close()

    # Guest memory

    @property
    def can_force_return(self) -> bool:
        """Whether guest memory can be written here: kgdb does not set the stack pointer."""
        return self._stop.memory is not None

    @property
    def guest_memory_used(self) -> tuple[GuestMemory | None, StopLayout | None]:
        """See :attr:`Backend.guest_memory_used`."""
        return self._stop.memory, self._stop.layout

    def use_recorded_code(self, code: RecordedCode) -> None:
        """See :meth:`Backend.use_recorded_code`."""
        if self._stub is not None:
            self._stub.code = code

    def use_guest_memory(self, memory: GuestMemory | None, layout: StopLayout | None) -> None:
        """See :meth:`Backend.use_guest_memory`."""
        self._stop.memory, self._stop.layout = memory, layout
        if self._stub is not None:
            self._stub.other_hits.self_jump = layout.self_jump if layout is not None else 0
        if self._stub is not None and layout is not None and layout.kgdb is not None:
            self._stub.debug_exception = layout.kgdb.debug_exception
            self._stub.int3_exception = layout.kgdb.int3_exception
        if not self._running:
            self._stop.find_registers()
            self._stay_at_reboot()

    def _stay_at_reboot(self) -> None:
        """Have kgdb stay when the kernel reboots, in a kernel of ours."""
        self._stop.stay_at_reboot()
