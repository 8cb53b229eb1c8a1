"""What the relay needs of the door to the kernel that gdb is behind."""

from __future__ import annotations

import contextlib
import socket
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple, Protocol

from ..errors import KgdbError
from ._breakpoints import InsertedBreakpoints
from ._recorded_code import RecordedCode
from ._refusal import Refusal
from ._stack_watches import StackWatches
from ._stop_context import GuestMemory, StopContext

if TYPE_CHECKING:
    from ..kernel import StopLayout

__all__ = ["CONT", "STEP", "Backend", "Door", "Monitor", "ResumeRequest"]

Door = Literal["kgdb", "qemu"]

CONT: Final = b"c"
"""Lets all threads run."""
STEP: Final = b"s"
"""Has the thread that stopped execute one instruction."""


class ResumeRequest(NamedTuple):
    """What gdb wants the target to do."""

    packet: bytes
    """What the target is to be sent."""

    step: bool
    """Whether the thread that stopped is to execute one instruction."""


class Monitor(Protocol):
    """QEMU's monitor."""

    def execute(self, command: str) -> Any:
        """Execute a QMP command, and return what it returns."""


class Backend(ABC):
    """One way to the kernel. The relay calls everything with its lock held.

    What is not abstract suits a target that stands on somebody else's machine.
    """

    door: Door

    target: str
    """The name of what answers, for messages."""

    refusal_hint: str
    """Why it may refuse a breakpoint."""

    hardware_refusal: str | None = None
    """Why it has no watchpoints and no hardware breakpoints; None if it has."""

    misses_atomics = False
    """Whether its watchpoints miss atomic instructions on some pages: :class:`WatchedPages`."""

    lazy_removal = True
    """Whether breakpoints of gdb's may stay inserted until the target resumes."""

    threads_are_tasks = True
    """Whether a thread is a task, which gdb takes for gone when another one stops."""

    list_all_threads = False
    """Whether gdb is told of every thread; may be set."""

    stepping = False
    """Whether gdb steps the task that stopped, and inserts breakpoints for that; may be set."""

    def use_breakpoints(  # noqa: B027 # not every target needs hooks of its own
        self, breakpoints: InsertedBreakpoints
    ) -> None:
        """Insert the target's own hooks among the relay's breakpoints; is called once."""

    def use_stack_watches(  # noqa: B027 # not every target leads the kernel elsewhere at a hit
        self, watches: StackWatches
    ) -> None:
        """Ask these about the hits of watchpoints; is called once."""

    @property
    def hardware(self) -> Collection[bytes]:
        """The watchpoints and hardware breakpoints that are inserted, as `Z` has them."""
        return ()

    @abstractmethod
    def sockets(self) -> list[socket.socket]:
        """Return what may have something to be received; nothing while detached."""

    @abstractmethod
    def receive(self, ready: Sequence[object]) -> bool:
        """Take what has come on those of the sockets that are ready; False at a closed one."""

    @abstractmethod
    def next_event(self) -> bytes | None:
        """Return what the target has sent by itself, once; None if there is nothing."""

    @property
    @abstractmethod
    def stop_reply(self) -> bytes:
        """The last stop as the target reported it."""

    @abstractmethod
    def query_stop(self) -> None:
        """Ask the target for its stop reply, if it is not known."""

    @abstractmethod
    def record_stop(self, stop_reply: bytes) -> None:
        """Take note that the target has stopped."""

    @property
    @abstractmethod
    def thread(self) -> bytes:
        """The thread that stopped, as the target numbers it."""

    @property
    def task(self) -> bytes:
        """What tells the task that stopped from others; empty where that is not known."""
        return self.thread

    @property
    def thread_for_gdb(self) -> bytes:
        """The thread that stopped, as gdb is to have it."""
        return self.thread

    @abstractmethod
    def select_stopped_thread(self) -> None:
        """Take note that gdb is told of another stop of the same thread.

        What it asks then is about that thread, without its saying so (gdb, remote.c,
        process_stop_reply).
        """

    @property
    @abstractmethod
    def may_be_hook(self) -> bool:
        """Whether the stop may be one at a breakpoint, or at the end of a single step."""

    @property
    def step_is_hit(self) -> bool:
        """Whether the stop is the end of a single step and the hit of a watchpoint as well."""
        return False

    @property
    def is_spurious(self) -> bool:
        """Whether it is known that there is no reason for the stop."""
        return False

    def undo_hit(self) -> bool:
        """Put the CPU back to the hardware breakpoint that it has hit; False if it has hit none."""
        return False

    @abstractmethod
    def context(self, *, hooked: bool) -> StopContext | None:
        """Return the stopped CPU for hooks and steps; None where it is nothing for them.

        :param hooked: whether there are hooks.
        """

    def register(self, name: str) -> int:
        """Return a register of the thread that stopped.

        :raises KgdbError: the stop is none at which they can be read.
        """
        context = self.context(hooked=True)
        if context is None:
            raise KgdbError(f"the registers of the CPU that stopped are not known to {self.target}")
        return context.registers[name]

    @property
    @abstractmethod
    def oopsed(self) -> bool:
        """Whether the stop is an oops, of which the task does not come back."""

    def stack_pointer(self) -> int | None:
        """Return that of the task that stopped; None where it is not known."""
        try:
            return self.register("sp")
        except KgdbError:
            return None

    @abstractmethod
    def stop_packet(self, served: int | None, breakpoints: InsertedBreakpoints) -> bytes:
        """Return the stop reply as gdb is to have it.

        :param served: the breakpoint at which the CPU is, if its hooks have run.
        """

    def write_user(self, address: int, data: bytes) -> None:
        """Write the memory of the user program whose task stopped: data only.

        :raises KgdbError: not all of it can be written.
        """
        raise KgdbError(
            f"{len(data)} bytes at {address:#x} cannot be written: {self.target} has no access of "
            "its own to a user program's memory"
        )

    @abstractmethod
    def request(self, payload: bytes) -> bytes:
        """Send the target a packet and return its reply."""

    def take_refusal(self) -> Refusal | None:
        """Return, once, why a write or a breakpoint of gdb's was refused last, if that is known."""
        return None

    @abstractmethod
    def reply(self, payload: bytes) -> bytes:
        """Return the reply to a request of gdb's, which neither resumes nor is `Z0` or `z0`."""

    @abstractmethod
    def resume_request(self, payload: bytes) -> ResumeRequest | None:
        """Return what a packet of gdb's asks, if it is one to resume."""

    @abstractmethod
    def resume(self, packet: bytes) -> None:
        """Let the target go on: by :data:`CONT`, :data:`STEP`, or the packet of a request."""

    @property
    @abstractmethod
    def detached(self) -> bool:
        """Whether the machine is about to be replaced, and not to be asked."""

    @abstractmethod
    def detach(self) -> None:
        """Hear nothing from now on: the machine is about to be replaced."""

    @abstractmethod
    def reattach(
        self, stop_reply: bytes, breakpoints: InsertedBreakpoints, *, paused: bool
    ) -> None:
        """Take up a machine that was put back to a stop, and that has no breakpoints.

        :param breakpoints: those that the machine had before.
        :param paused: whether the machine is paused now.
        """

    def leave(self) -> None:
        """Let the stopped kernel of a machine that goes on run without a debugger.

        :raises KgdbError: the machine is not one that goes on.
        """
        raise KgdbError(f"{self.target} is of a machine that ends with its session")

    @abstractmethod
    def close(self) -> None:
        """End the connection."""

    @property
    def can_force_return(self) -> bool:
        """Whether a hook may have a function return: whether the stack pointer can be set."""
        return False

    @property
    def guest_memory_used(self) -> tuple[GuestMemory | None, StopLayout | None]:
        """What :meth:`use_guest_memory` was given last, if that was of use."""
        return None, None

    def use_guest_memory(  # noqa: B027 # not every target has a use for it
        self, memory: GuestMemory | None, layout: StopLayout | None
    ) -> None:
        """Answer from guest memory from now on, where that is of use; None for both to stop."""

    def use_recorded_code(  # noqa: B027 # not every target inserts int3s on its own
        self, code: RecordedCode
    ) -> None:
        """Have what is recorded in the guest give way to int3s that are not requested."""

    @abstractmethod
    def read(self, address: int, size: int) -> bytes:
        """Read virtual memory as the CPU that stopped has it, a user program's included.

        :raises KgdbError: not all of it is there.
        """

    def explain(self, address: int) -> KgdbError | None:  # noqa: ARG002 # for those that know
        """Return why gdb could not read an address, or write there; None if that is not known."""
        return None

    @property
    def may_idle(self) -> bool:
        """Whether the stopped kernel costs the host a CPU, and :meth:`idle` would help."""
        return False

    @contextlib.contextmanager
    def machine_paused(self, monitor: Monitor) -> Iterator[None]:
        """Have a machine whose kernel runs paused, so that its memory does not change.

        :param monitor: QEMU's monitor.
        """
        monitor.execute("stop")
        paused = monitor.execute("query-status")["status"] == "paused"
        try:
            yield
        finally:
            # Not where the stub has stopped it (`debug`).
            if paused and not self.has_stop_to_report():
                monitor.execute("cont")

    def has_stop_to_report(self) -> bool:
        """Whether a machine that has been paused stays stopped: there is a stop, the next event."""
        return False

    def idle(self) -> None:  # noqa: B027 # is called where it may
        """Have the stopped kernel cost nothing until the next request."""

    @property
    def stepping_off(self) -> bool:
        """Whether a single step is under way, which a pause of the machine would end unseen."""
        return False

    @contextlib.contextmanager
    def quiesced(self, timeout: float) -> Iterator[None]:  # noqa: ARG002 # for those that wait
        """Have the machine not change at all; for `timeout` seconds it may take to get there."""
        yield

    def interrupt(self) -> None:
        """Stop the running target.

        :raises KgdbError: it cannot be stopped through this connection.
        """
        raise KgdbError(
            f"{self.target} does not listen while the kernel runs",
            hint="a break and g on the console stop it (drivers/tty/sysrq.c)",
        )
