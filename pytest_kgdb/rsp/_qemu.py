"""QEMU's gdb stub as the target, instead of the kernel's debugger."""

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
from ._connection import Connection
from ._packets import INTERRUPT, PAUSED, stopped_thread
from ._qemu_memory import QemuMemory
from ._registers import PacketRegisters
from ._stop_context import GuestMemory, StopContext

if TYPE_CHECKING:
    from ..kernel import StopLayout

__all__ = ["QemuStubBackend"]

_PC: Final = X86_64.registers.pc


class QemuStubBackend(Backend):
    """QEMU's gdb stub, which stops the machine and not the kernel; its threads are the CPUs.

    All that it knows is QEMU's: nothing of it is in what is saved of a machine, and the connection
    outlasts the machine's being put back.

    :param connect: returns a socket connected to the stub, which stops the machine for it.
    :param stop_reply: that of the stop at which the machine is, where QEMU does not know of it: it
        has loaded a snapshot.
    """

    door = "qemu"
    target = "QEMU's gdb stub"
    refusal_hint = "is there memory at that address?"
    # With KVM it has breakpoints in the guest's memory, where gdb would see them.
    lazy_removal = False
    threads_are_tasks = False

    def __init__(
        self, connect: Callable[[], socket.socket], *, waits: WaitLimit, stop_reply: bytes = b""
    ) -> None:
        self._connection = Connection(connect, waits=waits, target=self.target, port="its gdb stub")
        self._memory = QemuMemory(self.request, self.target)
        self._reply = b""
        self._loaded = stop_reply
        self._detached = False
        self._running = False
        self._interrupting = False  # asked for, and gdb has not been told of a stop since
        self._leaving = False  # a CPU steps off a hook, which an interrupt must not cut short
        self._cont = CONT  # what lets run what gdb has let run last
        self._single_steps: set[int] = set()  # CPUs that execute one instruction and then stop
        self._stepped = False  # the last stop was that
        self._breakpoints: set[int] = set()  # those that QEMU has, of both kinds
        self._selected = b""  # gdb's last `Hg`, since the stop

    def sockets(self) -> list[socket.socket]:
        """See :meth:`Backend.sockets`."""
        return [self._connection.socket]

    def receive(self, ready: Sequence[object]) -> bool:
        """See :meth:`Backend.receive`."""
        return self._connection.socket not in ready or self._connection.receive()

    def next_event(self) -> bytes | None:
        """Return the next packet, past reports that QMP has paused the machine.

        Who has paused it lets it run again, and to gdb it has run all the time.
        """
        packets = self._connection.packets
        while packets and not self._detached:
            packet = packets.popleft()
            if self._interrupting or packet[:3] != PAUSED:
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
        return self._reply

    def query_stop(self) -> None:
        """See :meth:`Backend.query_stop`."""
        reply = self.request(b"?")  # which also has QEMU forget breakpoints
        self._reply = self._loaded or reply
        if self._loaded:
            # gdb takes the thread of the first stop reply for the one that the stub has selected.
            self.request(b"Hg" + self.thread)

    def record_stop(self, stop_reply: bytes) -> None:
        """See :meth:`Backend.record_stop`."""
        self._running = False
        self._loaded = b""
        self._selected = b""
        self._reply = stop_reply
        self._stepped = self._end_single_step(stop_reply)

    def _end_single_step(self, stop_reply: bytes) -> bool:
        """Take note of what a stop ends; return whether its CPU was to execute one instruction.

        It ends the single step of the CPU that it reports only (gdbstub.c, gdb_vm_state_change).
        """
        cpu = _cpu(stopped_thread(stop_reply))
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
        return stopped_thread(self._reply)

    @property
    def may_be_hook(self) -> bool:
        """See :attr:`Backend.may_be_hook`."""
        return self._reply[:3] == b"T05" and b"watch:" not in self._reply

    def context(self, *, hooked: bool) -> StopContext | None:
        """See :meth:`Backend.context`."""
        if not hooked or not self.thread:
            return None
        self.request(b"Hg" + self.thread)
        registers = PacketRegisters(self.request, self.target)
        pc = registers[_PC]
        return StopContext(
            self.thread,
            registers,
            lambda address, size: self._memory.read(address, size, registers),
            _not_emulated,
            breakpoint=None if self._stepped else pc,
            # A CPU that comes to a breakpoint while QEMU stops the others for one makes it stop
            # once more when it goes on (softmmu/runstate.c, qemu_system_debug_request), and report
            # the CPU of the stop before.
            spurious=not self._stepped and pc not in self._breakpoints,
        )

    def register(self, name: str) -> int:
        """See :meth:`Backend.register`."""
        with self._stopped_cpu():
            return super().register(name)

    def read(self, address: int, size: int) -> bytes:
        """See :meth:`Backend.read`."""
        with self._stopped_cpu():
            return self._memory.read(address, size)

    def write_user(self, address: int, data: bytes) -> None:
        """See :meth:`Backend.write_user`."""
        with self._stopped_cpu():
            self._memory.write_user(address, data)

    @contextlib.contextmanager
    def _stopped_cpu(self) -> Iterator[None]:
        """Have QEMU's packets be about the CPU that stopped, and then about gdb's again."""
        self.request(b"Hg" + self.thread)
        try:
            yield
        finally:
            if self._selected:
                self.request(self._selected)

    # Guest memory

    @property
    def guest_memory_used(self) -> tuple[GuestMemory | None, StopLayout | None]:
        """See :attr:`Backend.guest_memory_used`."""
        return self._memory.memory, self._memory.layout

    def use_guest_memory(self, memory: GuestMemory | None, layout: StopLayout | None) -> None:
        """See :meth:`Backend.use_guest_memory`."""
        self._memory.memory, self._memory.layout = memory, layout

    def explain(self, address: int) -> KgdbError | None:
        """See :meth:`Backend.explain`."""
        return None if self._detached else self._memory.explain(address)

    def take_refusal(self) -> str | None:
        """See :meth:`Backend.take_refusal`."""
        refusal, self._memory.refusal = self._memory.refusal, None
        return refusal

    def stop_packet(self, served: int | None, breakpoints: InsertedBreakpoints) -> bytes:  # noqa: ARG002 # its program counter is right
        """See :meth:`Backend.stop_packet`."""
        self._interrupting = False
        return self._reply

    # Requests

    def request(self, payload: bytes) -> bytes:
        """Send a packet and return its reply, past stop replies.

        QEMU may report at any time that it has stopped the machine for us or for QMP.
        """
        connection = self._connection
        connection.send(payload)
        deadline = connection.deadline()
        while True:
            reply = connection.next_packet(payload, deadline)
            if reply[:1] != b"T" or payload == b"?":
                break
        if reply == b"OK" and payload[:2] in (b"Z0", b"Z1", b"z0", b"z1"):
            address = int(payload.split(b",")[1], 16)
            (self._breakpoints.add if payload[:1] == b"Z" else self._breakpoints.discard)(address)
        return reply

    def reply(self, payload: bytes) -> bytes:
        """See :meth:`Backend.reply`."""
        if payload[:2] == b"Hg":
            self._selected = payload
        if payload[:1] in (b"m", b"M") and not self._detached:
            reply = self._memory.reply(payload)
            if reply is not None:
                return reply
        if payload[:1] in (b"X", b"x"):
            return b""  # gdb then uses the two above
        return self.request(payload)

    # Going on

    def resume_request(self, payload: bytes) -> ResumeRequest | None:
        """See :meth:`Backend.resume_request`."""
        kind = payload[:1].lower()
        if kind == CONT:
            return ResumeRequest(b"vCont;c", step=False)
        if kind == STEP:
            return ResumeRequest(b"vCont;s:%b;c" % self.thread, step=True)
        if not payload.startswith(b"vCont;"):
            return None
        return ResumeRequest(payload, step=_cpu(self.thread) in _steps(payload))

    def resume(self, packet: bytes) -> None:
        """See :meth:`Backend.resume`."""
        self._drop_packets()  # they are none of what begins now
        self._leaving = packet == STEP
        if packet == CONT:
            packet = self._cont
        elif packet == STEP:
            packet = b"vCont;s:" + self.thread  # the others stay where they are
            self._single_steps.add(_cpu(self.thread))
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
        return self._running and self._leaving

    def interrupt(self) -> None:
        """See :meth:`Backend.interrupt`."""
        if not self._running:
            return
        self._interrupting = True
        if not self._leaving:
            self._connection.socket.sendall(INTERRUPT)

    @contextlib.contextmanager
    def machine_paused(self, monitor: Monitor) -> Iterator[None]:
        """See :meth:`Backend.machine_paused`; QEMU's report of it is acknowledged at once.

        Until then QEMU takes an interrupt for a bad acknowledgement (gdbstub.c, gdb_read_byte).
        """
        with super().machine_paused(monitor):
            self._connection.receive()
            yield

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
        self._end_single_step(self._reply)  # of the CPU that stopped last
        self._running = False
        breakpoints.remove_all()
        breakpoints.forget()
        self._reply, self._loaded = stop_reply, b""

    def close(self) -> None:
        """See :meth:`Backend.close`."""
        self._connection.close()


def _not_emulated() -> bool:
    return False


def _cpu(thread: bytes) -> int:
    """Return the number in a thread id, of which QEMU writes `p01.02` and gdb `p1.2`."""
    try:
        return int(thread.rpartition(b".")[2], 16)
    except ValueError:
        return 0


def _steps(packet: bytes) -> set[int]:
    """Return the CPUs that a `vCont` packet single-steps."""
    actions = (action.partition(b":") for action in packet.split(b";")[1:])
    return {_cpu(thread) for action, _, thread in actions if action[:1] in (b"s", b"S")}
