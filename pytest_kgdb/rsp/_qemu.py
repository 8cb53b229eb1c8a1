"""QEMU's gdb stub as the target, instead of the kernel's debugger."""

from __future__ import annotations

import contextlib
import re
import select
import socket
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Final

from ..arch import X86_64
from ..deadline import Deadline, WaitLimit
from ..errors import KgdbError
from ._backend import CONT, STEP, Backend, Monitor, ResumeRequest
from ._breakpoints import InsertedBreakpoints
from ._connection import Connection
from ._cpu_numbers import CpuNumbers
from ._kernel_stops import KernelStops
from ._other_hits import STEP_SECONDS, HitReports, OtherHits
from ._packets import INTERRUPT, IO_ERROR, PAUSED, cpu_of, stopped_thread
from ._qemu_stop import QemuStop
from ._refusal import Refusal
from ._stop_context import GuestMemory, StopContext

if TYPE_CHECKING:
    from ..kernel import StopLayout

__all__ = ["QemuStubBackend"]

_PC: Final = X86_64.registers.pc

_WATCHED: Final = re.compile(rb"[ra]?watch:[0-9a-f]*;")

_FAULT: Final = b"E14"  # as QEMU answers where there is no memory (gdbstub.c, handle_read_mem)

# Requests that change nothing of a CPU's registers.
_READING: Final = (b"H", b"q", b"v", b"T", b"?")
_MONITOR: Final = b"qRcmd"  # except for that one

# gdb asks these at each stop. The CPUs do not change: nobody plugs in another one.
_FIRST_THREADS: Final = b"qfThreadInfo"
_MORE_THREADS: Final = b"qsThreadInfo"

# How long the report of a pause may take, in seconds; there is none where the stub has stopped the
# machine just before.
_PAUSE_SECONDS: Final = 0.2


class QemuStubBackend(Backend):
    """QEMU's gdb stub, which stops the machine and not the kernel; its threads are the CPUs.

    All that it knows is QEMU's: nothing of it is in what is saved of a machine, and the connection
    outlasts the machine's being put back.

    :param connect: returns a socket connected to the stub, which stops the machine for it.
    :param stop_reply: that of the stop at which the machine is, where QEMU does not know of it: it
        has loaded a snapshot.
    :param symbol: returns the address of one of the kernel's symbols, for the stops at exceptions
        and panics; None if there is none.
    :param lazy_removal: whether breakpoints may stay inserted. With KVM they are in the guest's
        memory, where gdb would see them.
    """

    door = "qemu"
    target = "QEMU's gdb stub"
    refusal_hint = "is there memory at that address?"
    threads_are_tasks = False

    def __init__(
        self,
        connect: Callable[[], socket.socket],
        *,
        waits: WaitLimit,
        stop_reply: bytes = b"",
        symbol: Callable[[str], int | None] = lambda _: None,
        lazy_removal: bool = False,
        misses_atomics: bool = False,
    ) -> None:
        self.misses_atomics = misses_atomics
        self._symbol = symbol
        self.lazy_removal = lazy_removal
        self._stops: KernelStops | None = None
        self._connection = Connection(connect, waits=waits, target=self.target, port="its gdb stub")
        self._stop = QemuStop(self.request, self.target)
        self._loaded = stop_reply
        self._detached = False
        self._running = False
        self._interrupting = False  # asked for, and gdb has not been told of a stop since
        self._leaving = False  # a CPU steps off a hook, which an interrupt must not cut short
        self._cont = CONT  # what lets run what gdb has let run last
        self._single_steps: set[int] = set()  # CPUs that execute one instruction and then stop
        self._stepped = False  # the last stop was that
        self._breakpoints: set[int] = set()  # those that QEMU has, of both kinds
        self._hardware: set[bytes] = set()  # watchpoints and hardware breakpoints, as `Z` has them
        self._other_hits = OtherHits(self.request, self._step_cpu)
        self._hit_reports = HitReports()
        self._others_run = False  # CPUs other than the one that stopped last
        self._threads = b""  # the list of all
        self._numbers = CpuNumbers()
        self._refusal: Refusal | None = None

    def use_breakpoints(self, breakpoints: InsertedBreakpoints) -> None:
        """See :meth:`Backend.use_breakpoints`."""
        self._stops = KernelStops(breakpoints, self._symbol, show=self._stop.show)

    @property
    def hardware(self) -> set[bytes]:
        """See :attr:`Backend.hardware`."""
        return self._hardware

    def sockets(self) -> list[socket.socket]:
        """See :meth:`Backend.sockets`."""
        return [self._connection.socket]

    def receive(self, ready: Sequence[object]) -> bool:
        """See :meth:`Backend.receive`."""
        return self._connection.socket not in ready or self._connection.receive()

    def next_event(self) -> bytes | None:
        """Return the next packet, past reports that QMP or QEMU itself has stopped the machine.

        Who has paused it lets it run again, and to gdb it has run all the time. What an error of a
        disk's file has stopped stays so (:meth:`.Machine.check_storage` reports it): gdb lets run
        what has SIGIO, and QEMU would try again, some hundred times in a second.
        """
        packets = self._connection.packets
        if not self._detached and (report := self._hit_reports.next_event()):
            return report
        while packets and not self._detached:
            packet = packets.popleft()
            if packet[:3] != IO_ERROR and (self._interrupting or packet[:3] != PAUSED):
                return packet
            self._end_single_step(packet)
        return None

    @property
    def can_force_return(self) -> bool:
        """See :attr:`Backend.can_force_return`."""
        return True

    # The stop

    @property
    def stop_reply(self) -> bytes:
        """See :attr:`Backend.stop_reply`."""
        return self._stop.reply

    def query_stop(self) -> None:
        """See :meth:`Backend.query_stop`."""
        if not self._stop.faulted:
            reply = self.request(b"?")  # which also has QEMU forget breakpoints
            self._stop.reply = self._loaded or reply
            if self._loaded:
                # gdb takes the thread of the first stop reply for the one that is selected.
                self._stop.select(self.thread)

    def record_stop(self, stop_reply: bytes) -> None:
        """See :meth:`Backend.record_stop`."""
        others_ran = self._running and self._others_run
        self._running = False
        self._loaded = b""
        self._stop.reply = stop_reply
        self._stepped = self._end_single_step(stop_reply)
        if others_ran and self._watches and stop_reply[:3] in (b"T05", PAUSED):
            self._hit_reports.replies += self._other_hits.take(stop_reply)
            self._stop.resumes()  # another CPU may be selected

    def _step_cpu(self, packet: bytes) -> bytes:
        """Have one CPU execute an instruction; return the stop reply."""
        self._connection.send(packet)
        deadline = Deadline(STEP_SECONDS)
        while (reply := self._connection.next_packet(packet, deadline))[:1] != b"T":
            pass
        return reply

    @property
    def _watches(self) -> bool:
        return any(key[:1] != b"1" for key in self._hardware)

    def _end_single_step(self, stop_reply: bytes) -> bool:
        """Take note of what a stop ends; return whether its CPU was to execute one instruction.

        It ends the single step of the CPU that it reports only (gdbstub.c, gdb_vm_state_change).
        """
        cpu = cpu_of(stopped_thread(stop_reply))
        stepped = cpu in self._single_steps
        self._single_steps.discard(cpu)
        return stepped

    def _drop_packets(self) -> None:
        """Drop reports of the machine's having been stopped by QMP."""
        self._connection.receive()
        while self._connection.packets:
            self._end_single_step(self._connection.packets.popleft())

    @property
    def thread(self) -> bytes:
        """See :attr:`Backend.thread`."""
        return self._stop.thread

    @property
    def task(self) -> bytes:
        """See :attr:`Backend.task`."""
        return self._stop.task

    @property
    def thread_for_gdb(self) -> bytes:
        """See :attr:`Backend.thread_for_gdb`."""
        return self._numbers.thread_for_gdb(self.thread)

    def select_stopped_thread(self) -> None:
        """See :meth:`Backend.select_stopped_thread`."""
        self._stop.select_stopped_for_gdb()

    @property
    def stepping(self) -> bool:
        """See :attr:`Backend.stepping`."""
        return self._numbers.steps

    @stepping.setter
    def stepping(self, stepping: bool) -> None:
        if stepping:
            self._numbers.step_begins(self._stop.task, cpu_of(self.thread))
        else:
            self._numbers.step_ends()

    @property
    def may_be_hook(self) -> bool:
        """See :attr:`Backend.may_be_hook`."""
        return self._stop.reply[:3] == b"T05" and b"watch:" not in self._stop.reply

    @property
    def step_is_hit(self) -> bool:
        """See :attr:`Backend.step_is_hit`."""
        return self._stepped and b"watch:" in self._stop.reply

    def context(self, *, hooked: bool) -> StopContext | None:
        """See :meth:`Backend.context`."""
        stop = self._stop
        if not hooked or not stop.thread or stop.faulted:
            return None
        registers = stop.registers
        pc = registers[_PC]
        return StopContext(
            stop.thread,
            registers,
            stop.read,
            self._emulate,
            lambda: stop.task,
            breakpoint=None if self._stepped else pc,
            # A CPU that comes to a breakpoint while QEMU stops the others for one makes it stop
            # once more when it goes on (softmmu/runstate.c, qemu_system_debug_request), and report
            # the CPU of the stop before.
            spurious=not self._stepped and pc not in self._breakpoints,
        )

    @property
    def oopsed(self) -> bool:
        """See :attr:`Backend.oopsed`."""
        return self._stop.faulted

    def stack_pointer(self) -> int | None:
        """See :meth:`Backend.stack_pointer`."""
        pointer = self._stop.faulted_stack_pointer
        return super().stack_pointer() if pointer is None else pointer

    def _emulate(self) -> bool:
        return not self._watches and self._stop.emulate()

    def read(self, address: int, size: int) -> bytes:
        """See :meth:`Backend.read`."""
        self._stop.select(self.thread)
        return self._stop.read(address, size)

    def write_user(self, address: int, data: bytes) -> None:
        """See :meth:`Backend.write_user`."""
        self._stop.select(self.thread)
        self._stop.memory.write_user(address, data)

    # Guest memory

    @property
    def guest_memory_used(self) -> tuple[GuestMemory | None, StopLayout | None]:
        """See :attr:`Backend.guest_memory_used`."""
        memory = self._stop.memory
        return memory.memory, memory.layout

    def use_guest_memory(self, memory: GuestMemory | None, layout: StopLayout | None) -> None:
        """See :meth:`Backend.use_guest_memory`."""
        self._stop.memory.memory, self._stop.memory.layout = memory, layout
        self._other_hits.self_jump = layout.self_jump if layout is not None else 0

    def explain(self, address: int) -> KgdbError | None:
        """See :meth:`Backend.explain`."""
        return None if self._detached else self._stop.explain(address)

    def stop_packet(self, served: int | None, breakpoints: InsertedBreakpoints) -> bytes:  # noqa: ARG002 # its program counter is right
        """See :meth:`Backend.stop_packet`."""
        self._interrupting = False
        self._numbers.stopped(cpu_of(self.thread), lambda: self.task)
        return self._numbers.for_gdb(self._stop.reply_for_gdb)

    # Requests

    def request(self, payload: bytes) -> bytes:
        """Send a packet and return its reply, past stop replies.

        QEMU may report at any time that it has stopped the machine for us or for QMP.
        """
        connection = self._connection
        if payload[:3] == b"Z0,":
            address = int(payload.split(b",")[1], 16)
            if not self._stop.may_reach(address):
                why = f"{address:#x} is not mapped, and no CPU would come there"
                self._refusal = Refusal.of_memory(why)
                return _FAULT
        connection.send(payload)
        deadline = connection.deadline()
        output: list[bytes] = []
        while True:
            reply = connection.next_packet(payload, deadline)
            if reply[:1] == b"O" and reply != b"OK":  # what a command of QEMU's monitor prints
                output.append(reply[1:])
            elif reply[:1] != b"T" or payload == b"?":
                break
        if output and reply == b"OK":
            return b"".join(output)
        if reply == b"OK" and payload[:2] in (b"Z0", b"Z1", b"z0", b"z1"):
            address = int(payload.split(b",")[1], 16)
            (self._breakpoints.add if payload[:1] == b"Z" else self._breakpoints.discard)(address)
        return reply

    def take_refusal(self) -> Refusal | None:
        """See :meth:`Backend.take_refusal`."""
        refusal = self._refusal or self._stop.memory.refusal
        self._refusal = self._stop.memory.refusal = None
        return refusal

    def reply(self, payload: bytes) -> bytes:
        """See :meth:`Backend.reply`."""
        payload = self._numbers.for_qemu(payload)
        kind = payload[:1]
        if payload[:2] == b"Hg":
            return self._stop.select_for_gdb(payload[2:])
        if kind in (b"Z", b"z"):
            return self._insert_or_remove_hardware(payload)
        if payload == _FIRST_THREADS:
            return self._list_threads()
        if payload == _MORE_THREADS:
            return b"l"
        if kind in (b"g", b"G", b"p", b"P", b"m", b"M"):
            reply = self._stop.access(payload)
            if reply is not None:
                return reply
        elif kind in (b"X", b"x"):
            return b""  # gdb then uses `M` and `m`
        elif not payload.startswith(_READING) or payload.startswith(_MONITOR):
            self._stop.forget_registers()
            self._threads = b""
        return self._numbers.for_gdb(self.request(payload))

    def _list_threads(self) -> bytes:
        """Return all threads in one packet; QEMU sends one CPU in each."""
        if not self._threads:
            threads = []
            reply = self.request(_FIRST_THREADS)
            while reply[:1] == b"m":
                threads.append(reply[1:])
                reply = self.request(_MORE_THREADS)
            self._threads = b"m" + b",".join(threads) if threads else reply
        return self._threads

    def _insert_or_remove_hardware(self, payload: bytes) -> bytes:
        key = payload[1:]
        if payload[:1] == b"z" and key not in self._hardware:
            return b"OK"  # removed since, with the machine
        reply = self.request(payload)
        if reply == b"OK":
            (self._hardware.add if payload[:1] == b"Z" else self._hardware.discard)(key)
        return reply

    # Going on

    def resume_request(self, payload: bytes) -> ResumeRequest | None:
        """See :meth:`Backend.resume_request`."""
        kind = payload[:1].lower()
        if kind not in (CONT, STEP) and not payload.startswith(b"vCont;"):
            return None
        payload = self._numbers.for_qemu(payload)
        stepped = _steps(payload)
        if not self._numbers.steps and not stepped:
            self._numbers.reset()  # gdb reads anew what each CPU does when the kernel has run
        if kind == CONT:
            return ResumeRequest(b"vCont;c", step=False)
        if kind == STEP:
            return ResumeRequest(b"vCont;s:%b;c" % self.thread, step=True)
        if self._stop.faulted and not stepped:
            return ResumeRequest(b"vCont;c", step=False)  # the kernel has the signal already
        return ResumeRequest(payload, step=cpu_of(self.thread) in stepped)

    def resume(self, packet: bytes) -> None:
        """See :meth:`Backend.resume`."""
        self._drop_packets()  # they are none of what begins now
        if packet == CONT:
            packet = self._hit_reports.asked or packet  # gdb was not told of the stop
        self._others_run = _lets_others_run(packet)
        if self._others_run and self._hit_reports.put_off(packet, self._hardware):
            return
        self._leaving = packet == STEP
        if packet == CONT:
            packet = self._cont
        elif packet == STEP:
            packet = b"vCont;s:" + self.thread  # the others stay where they are
            self._single_steps.add(cpu_of(self.thread))
        else:
            steps = _steps(packet)
            self._single_steps |= steps
            self._cont = CONT if steps else packet
        self._running = True
        self._connection.send(packet)
        if self._interrupting:
            self.interrupt()  # QEMU heard the last one at a stop that gdb has not been told of

    @property
    def stepping_off(self) -> bool:
        """See :attr:`Backend.stepping_off`."""
        return self._running and (self._leaving or bool(self._single_steps))

    def interrupt(self) -> None:
        """See :meth:`Backend.interrupt`."""
        if not self._running:
            return
        self._interrupting = True
        if not self._leaving:
            self._connection.socket.sendall(INTERRUPT)

    @contextlib.contextmanager
    def machine_paused(self, monitor: Monitor) -> Iterator[None]:
        """See :meth:`Backend.machine_paused`; a machine that the stub has stopped stays so.

        The stub reports each stop, by whomever. Until it has the acknowledgement for that, it takes
        a request to stop the machine for none (gdbstub/gdbstub.c, gdb_read_byte).
        """
        if not self._running:
            yield
            return
        with super().machine_paused(monitor):
            self._acknowledge_pause()
            yield

    def has_stop_to_report(self) -> bool:
        """See :meth:`Backend.has_stop_to_report`: CPUs may have hit a watchpoint, too."""
        if not self._watches:
            return False
        self._hit_reports.replies += self._other_hits.take()
        self._stop.resumes()  # another CPU may be selected
        if not self._hit_reports.put_off(self._cont, self._hardware):
            return False
        self._running = False
        return True

    def _acknowledge_pause(self) -> None:
        """Take the report of a pause, which is none to gdb, and leave what else has come."""
        connection, deadline = self._connection, Deadline(_PAUSE_SECONDS)
        while not deadline.expired:
            if any(packet[:1] == b"T" for packet in connection.packets):
                break
            ready, _, _ = select.select([connection.socket], [], [], deadline.left)
            if ready and not connection.receive():
                return  # QEMU is gone, which the relay will see
        if self._interrupting:
            return
        packets = list(connection.packets)
        connection.packets.clear()
        for packet in packets:
            if packet[:3] == PAUSED:
                self._end_single_step(packet)
            else:
                connection.packets.append(packet)

    # Another machine

    @property
    def detached(self) -> bool:
        """See :attr:`Backend.detached`."""
        return self._detached

    def detach(self) -> None:
        """See :meth:`Backend.detach`."""
        self._detached = True

    def reattach(
        self,
        stop_reply: bytes,
        breakpoints: InsertedBreakpoints,
        *,
        paused: bool,  # noqa: ARG002 # it is
    ) -> None:
        """See :meth:`Backend.reattach`."""
        self._detached = False
        self._drop_packets()
        self._end_single_step(self._stop.reply)  # of the CPU that stopped last
        self._running = False
        if self._stops is not None:
            self._stops.reset()
        breakpoints.remove_all()
        breakpoints.forget()
        for key in sorted(self._hardware):  # of a gdb that has been replaced
            self.request(b"z" + key)
        self._hardware.clear()
        self._hit_reports = HitReports()
        self._numbers.step_ends()
        self._numbers.reset()
        self._loaded = b""
        # Of a watchpoint that gdb may not have any more it would take no notice.
        self._stop.reply = _WATCHED.sub(b"", stop_reply)

    def close(self) -> None:
        """See :meth:`Backend.close`."""
        self._connection.close()


def _steps(packet: bytes) -> set[int]:
    """Return the CPUs that a `vCont` packet single-steps."""
    actions = (action.partition(b":") for action in packet.split(b";")[1:])
    return {cpu_of(thread) for action, _, thread in actions if action[:1] in (b"s", b"S")}


def _lets_others_run(packet: bytes) -> bool:
    """Whether a packet resumes all CPUs, which gdb's do not where it steps over a breakpoint."""
    threads = [action.partition(b":")[2] for action in packet.split(b";")[1:]]
    return packet == CONT or any(not thread or cpu_of(thread) < 0 for thread in threads)
