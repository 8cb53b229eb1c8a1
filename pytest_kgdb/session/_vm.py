"""One machine with its debugger, from the power button to the last test."""

from __future__ import annotations

import contextlib
import re
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Final

from ..deadline import WaitLimit
from ..errors import BootError, KgdbError, MachineDied, TimeoutError
from ..machine import Machine, MachineSpec, boot_to_kgdbwait
from ..rsp import KgdbBackend, KgdbLayout, QemuStub, QemuStubBackend, Relay
from ..state import Peek, State
from ..target import Kgdb, Reason, Stop
from ._boot import start_kernel, the_images_kernel
from ._debugger import start_gdb
from ._pci import PciSpaces, Spaces
from ._snapshot import Known, Snapshot

if TYPE_CHECKING:
    from ..kernel import Kernel
    from ..settings import Point

__all__ = ["Vm"]

# Why the kernel stands still at each point: kgdbwait is a breakpoint compiled into
# kgdb_initial_breakpoint (kernel/debug/debug_core.c); at ready we interrupted it.
_REASONS: Final[dict[str, Reason]] = {"kgdbwait": "int3", "ready": "interrupt"}

# The fields of KgdbLayout, as gdb computes them (kernel/debug/debug_core.c and .h).
_LAYOUT: Final = (
    "(unsigned long)&kgdb_active",
    "(unsigned long)&kgdb_info",
    "sizeof(kgdb_info[0])",
    "(unsigned long)&((struct debuggerinfo_struct *)0)->debuggerinfo",
    "(unsigned long)&((struct debuggerinfo_struct *)0)->task",
)

# Characters that the console's driver has read (include/linux/serial_core.h, uart_icount).
_CONSOLE_RX: Final = "(unsigned long)&serial8250_ports[0].port.icount.rx"

# Nothing that is kgdb's is looked at.
_NOT_KGDBS: Final[Known] = (KgdbLayout(0, 0, 0, 0, 0), None)

# Before the names that a test gives, which may be those of the points.
_NAMED: Final = "test-"

READY: Final = re.compile(rb"pytest-kgdb: ready\r?\n")


class Vm:
    """A machine, gdb on it, and the points to which it can be put back.

    :param handle: the handle that tests hold; it is bound to this machine.
    :param logs: directory for the console's and gdb's logs.
    :param snapshot: what to start from; the machine is booted otherwise.
    :param point: the point in it.
    :param layout: returns where the kernel keeps its debugger's variables, remembered or by
        asking the function that it is given.
    """

    def __init__(
        self,
        spec: MachineSpec,
        kernel: Kernel,
        handle: Kgdb,
        *,
        logs: Path,
        index_cache: Path,
        layout: Callable[[Callable[[], Known]], Known],
        timeout: float,
        snapshot: Snapshot | None = None,
        point: Point = "ready",
    ) -> None:
        self.spec = spec
        self._layout = layout
        self._snapshot = snapshot
        self.kernel = kernel
        self.handle = handle
        self.timeout = timeout
        self.points: dict[str, bytes] = {}
        """Saved points, and the stop that kgdb told at each."""
        self.at: str | None = None
        """The point at which the machine stands untouched; None once it moved on."""
        self._named: dict[str, tuple[bytes, Stop]] = {}
        with contextlib.ExitStack() as stack:
            wake = threading.Event()
            # gdb first: it reads the symbols while QEMU starts and the kernel boots.
            self.gdb = stack.enter_context(
                start_gdb(
                    kernel,
                    index_cache=index_cache,
                    transcript=logs / "gdb.log",
                    timeout=timeout,
                    on_event=wake.set,
                )
            )
            self.machine = stack.enter_context(
                Machine(spec, timeout=timeout, log_dir=logs)
                if snapshot is None
                else Machine(
                    spec,
                    timeout=timeout,
                    log_dir=logs,
                    storage=snapshot.storage,
                    memory=snapshot.memory,
                    point=point,
                    history=snapshot.console.read_bytes(),
                )
            )
            self.gdb.on_event = self.machine.console.poke
            self._relay: Relay | None = None
            self._peek: Peek | None = None
            self._state: State | None = None
            stack.callback(self._let_go)
            self._pci = (
                PciSpaces(self.machine.monitor.human) if PciSpaces.needed(spec.qemu_args) else None
            )
            self._spaces: dict[str, Spaces] = {}
            if snapshot is not None:
                self.points = dict(snapshot.points)
                self._spaces = dict(snapshot.pci)
                self._put_back_pci(point)
                self._connect(snapshot.points[point], paused=True)
                self.handle.settle(self._reason(point))
                self.at = point
            self._stack = stack.pop_all()

    def _let_go(self) -> None:
        self.handle.unbind(self.machine)
        for each in (self._relay, self._state, self._peek):
            if each is not None:
                each.close()

    @property
    def alive(self) -> bool:
        """Whether QEMU and gdb both run."""
        return self.machine.alive and self.gdb.alive

    def _reason(self, point: Point) -> Reason:
        if self.spec.stub == "qemu" and point == "kgdbwait":
            return "breakpoint"  # that was on start_kernel
        return _REASONS[point]

    def boot(self) -> None:
        """Boot to kgdbwait and connect gdb.

        :raises BootError: the kernel never came there.
        """
        if self.spec.stub == "qemu":
            start_kernel(self.machine, self.kernel, self.timeout)
        else:
            boot_to_kgdbwait(self.machine, self.timeout)
        with (
            the_images_kernel(self.handle, self.kernel, self.machine)
            if self.spec.image is None and self.spec.boot_area is None
            else contextlib.nullcontext()
        ):
            self._connect()
        self.at = "kgdbwait"

    def _connect(self, stop_reply: bytes = b"", *, paused: bool = False) -> None:
        machine, kernel = self.machine, self.kernel
        waits = WaitLimit(self.timeout)
        if self.spec.stub == "qemu":
            relay = Relay(
                machine.directory / "gdb", QemuStubBackend(machine.connect_stub, waits=waits)
            )
            machine.interrupt = lambda: self._halt(relay)
        else:
            relay = Relay(
                machine.directory / "gdb",
                KgdbBackend(
                    machine.connect_kgdb,
                    waits=waits,
                    stub=QemuStub(machine.connect_stub, waits=waits),
                    stop_reply=stop_reply,
                    vcpus=machine.power,
                    paused=paused,
                ),
            )
        self._relay = relay
        self._state = State(
            vmlinux=kernel.vmlinux,
            ram=machine.ram,
            memory_bytes=self.spec.memory << 20,
            machine=self.spec.arch.machine,
            is_stopped=lambda: self.handle.stopped,
            generation=lambda: self.handle.moment,
            modules=[kernel.modules_dir] if kernel.modules_dir is not None else [],
        )
        self._peek = Peek(
            kernel.vmlinux, machine.ram, self.spec.memory << 20, self.spec.arch.machine
        )
        known = self._snapshot.known if self._snapshot is not None else None
        if known is not None:
            relay.use_guest_memory(self._peek, known[0])
        self.gdb.command(f"-target-select remote {relay.path}")
        self.handle.bind(gdb=self.gdb, machine=machine, state=self._state, relay=relay, keeper=self)
        if known is None and self.spec.stub == "qemu":
            known = _NOT_KGDBS
        if known is None:
            known = self._layout(self._ask_layout)
            relay.use_guest_memory(self._peek, known[0])
        self._known = known
        self._count_from_here()

    def _halt(self, relay: Relay) -> None:
        """Have QEMU's stub stop the machine, once it has been let go of as gdb has said."""
        deadline = time.monotonic() + self.timeout
        while self.gdb.running and relay.stop_reported and time.monotonic() < deadline:
            relay.wait_resumed(0.01)
        relay.interrupt()

    def _ask_layout(self) -> tuple[KgdbLayout, int | None]:
        layout = KgdbLayout(*self.handle.numbers(*_LAYOUT))
        try:
            return layout, self.handle.numbers(_CONSOLE_RX)[0]
        except KgdbError:
            return layout, None  # another console driver

    def _count_from_here(self) -> None:
        """Have the machine know which of the typed bytes the kernel has read."""
        peek, address = self._peek, self._known[1]
        if peek is None or address is None:
            return

        def count() -> int:
            return int.from_bytes(peek.read(address, 4), "little")

        # Interrupted at a sysrq the kernel has read everything; before its console is up, nothing.
        start = count()
        self.machine.received = lambda: (count() - start) & 0xFFFFFFFF

    def advance_to_ready(self) -> None:
        """Let the kernel boot on until its shell is there, and stop it.

        :raises BootError: it did not come there.
        """
        handle = self.handle
        mark = self.machine.console.mark()
        handle.resume()
        try:
            self.machine.console.wait_for(
                READY, mark=mark, timeout=self.timeout, meanwhile=self._check_boot
            )
        except TimeoutError as error:
            raise BootError(
                f"the guest's init did not say that it is ready within {self.timeout:g} s\n"
                f"the console's last lines are:\n{self.machine.console.tail(15)}",
                log=self.machine.console.log,
                hint=self._why_not_ready(),
            ) from error
        except MachineDied as error:
            raise self.machine.death(
                "QEMU ended on the kernel's way to the shell", started=True
            ) from error
        self.machine.console.synchronise(timeout=self.timeout)
        handle.interrupt()
        self.at = "ready"

    def _why_stopped(self) -> str:
        hint = (
            "to be there when it happens: a test with the marker kgdb(at='kgdbwait') that calls "
            "cont()"
        )
        said = self.machine.console.since()
        if self.spec.disk is not None and b"Unable to mount root fs" in said:
            hint = (
                "--kgdb-append=root=… names the root file system: /dev/vda is the disk, /dev/vda1 "
                f"its first partition; or {hint}"
            )
        return hint

    def _why_not_ready(self) -> str:
        if self.spec.disk is None:
            return (
                "an initrd of your own must print 'pytest-kgdb: ready' on the console, and then "
                "give a root shell there"
            )
        said = self.machine.console.since()
        if b"Waiting for root device" in said or b"Gave up waiting for root" in said:
            return (
                "the root file system is not there: --kgdb-append=root=… names it (/dev/vda is "
                "the disk, /dev/vda1 its first partition), and its drivers must be in the kernel "
                "or in --kgdb-initrd=initramfs-tools"
            )
        return (
            "a system takes its time to come up: --kgdb-timeout. An image of your own needs a "
            "root shell on its serial console that prints 'pytest-kgdb: ready' (docs/disk.md)"
        )

    def _check_boot(self) -> None:
        if not self.handle.stopped:
            return
        stop = self.handle.stop
        assert stop is not None
        what = repr(stop)
        if stop.reason in ("panic", "oops"):
            what = f"{'panicked' if stop.reason == 'panic' else 'oopsed'}: {stop.message or what}"
        else:
            what = f"stopped: {what}"
        what = what.replace(":", " on its way to the shell:", 1)
        raise BootError(
            f"the kernel {what}\nthe console's last lines are:\n{self.machine.console.tail(15)}",
            log=self.machine.console.log,
            hint=self._why_stopped(),
        )

    def save(self, point: Point) -> None:
        """Make the present state one to come back to."""
        assert self._relay is not None
        with self._relay.quiesced(self.timeout):
            self._note_pci(point)
            self.machine.save(point)
        self.points[point] = self._relay.stop_reply

    def freeze(self) -> Snapshot:
        """Pause the machine, so that all that was saved is in the file, and return it."""
        self.machine.pause()
        self.machine.console.flush()
        return Snapshot(
            self.machine.storage,
            self.machine.memory.files,
            self.machine.console.log,
            self.points,
            self._known,
            self._spaces,
        )

    def _note_pci(self, point: str) -> None:
        if self._pci is not None:
            self._spaces[point] = self._pci.read()

    def _put_back_pci(self, point: str) -> None:
        if self._pci is not None and point in self._spaces:
            self._pci.put_back(self._spaces[point])

    def restore(self, point: Point) -> None:
        """Put the machine back to a saved point: memory, disk, debugger, console.

        It does not matter what the kernel does, or whether it still does anything.
        """
        self._load(point, self.points[point], self._reason(point))
        self.at = point

    def _load(
        self, point: str, stop_reply: bytes, reason: Reason, *, keep_breakpoints: bool = False
    ) -> None:
        assert self._relay is not None
        assert self._peek is not None
        relay, handle = self._relay, self.handle
        relay.detach()
        with handle.replaced(reason, keep_breakpoints=keep_breakpoints):
            self.machine.power.stop(self.timeout)
            self.machine.disconnect_console()
            self.machine.load(point)
            self._put_back_pci(point)
            self.machine.console.reconnect()
            self._count_from_here()
            relay.reattach(stop_reply, paused=True)

    # What a test keeps for itself (target.Keeper)

    @property
    def kept(self) -> list[str]:
        """The names of the present test's own points."""
        return list(self._named)

    def keep(self, name: str, stop: Stop) -> None:
        """Save the stopped machine under a name, with nothing planted in it."""
        assert self._relay is not None
        with self._relay.quiesced(self.timeout):
            self._note_pci(_NAMED + name)
            self.machine.save(_NAMED + name)
        self._named[name] = self._relay.stop_reply, stop

    def put_back(self, name: str) -> None:
        """Put the machine back to what was kept; breakpoints stay as they are."""
        stop_reply, stop = self._named[name]
        self._load(_NAMED + name, stop_reply, stop.reason, keep_breakpoints=True)
        self.handle.settle(stop.reason, breakpoint=stop.breakpoint, message=stop.message)

    def forget(self) -> None:
        """Drop what a test kept for itself: the next one shall not find it."""
        while self._named and self.machine.alive:
            self.machine.drop(_NAMED + self._named.popitem()[0])

    def moved(self) -> None:
        """A test has had the machine: it is at no point any more."""
        self.at = None

    def close(self) -> None:
        """End machine and debugger."""
        self._stack.close()

    def __enter__(self) -> Vm:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
