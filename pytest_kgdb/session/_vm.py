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
from ..machine import Machine, MachineSpec, SysrqBreak, boot_to_kgdbwait
from ..memory import KernelMemory, RelayMemory
from ..monitor import VcpuMonitor
from ..rsp import Layout, QemuRelay, Relay, Stub
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

# The fields of Layout, as gdb computes them (kernel/debug/debug_core.c and .h).
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
_NOT_KGDBS: Final[Known] = (Layout(0, 0, 0, 0, 0), None)

# Before the names that a test gives, which may be those of the points.
_NAMED: Final = "test-"

READY: Final = re.compile(rb"pytest-kgdb: ready\r?\n")


class _StopState:
    def __init__(self, handle: Kgdb) -> None:
        self._handle = handle

    @property
    def stopped(self) -> bool:
        return self._handle.stopped

    @property
    def generation(self) -> int:
        return self._handle.moment


class _Power:
    def __init__(self, vcpus: VcpuMonitor) -> None:
        self.pause, self.halt, self.resume = vcpus.stop_nowait, vcpus.stop, vcpus.cont


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
        waits: WaitLimit,
        snapshot: Snapshot | None = None,
        point: Point = "ready",
    ) -> None:
        self.spec = spec
        self._layout = layout
        self._snapshot = snapshot
        self.kernel = kernel
        self.handle = handle
        self._waits = waits
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
                    timeout=waits.seconds,
                    on_event=wake.set,
                )
            )
            self.machine = stack.enter_context(
                Machine(spec, waits=waits, attend=self._attend, log_dir=logs)
                if snapshot is None
                else Machine(
                    spec,
                    waits=waits,
                    attend=self._attend,
                    log_dir=logs,
                    storage=snapshot.storage,
                    memory=snapshot.memory,
                    snapshot=point,
                    history=snapshot.console.read_bytes(),
                )
            )
            self.gdb.on_event = self.machine.console.poke
            self._relay: Relay | None = None
            self._interrupt: Callable[[], None] = lambda: None
            self._peek: RelayMemory | None = None
            self._state: KernelMemory | None = None
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

    def _attend(self) -> object:
        # A stop that no test is to see may come while it waits for the console.
        return self.handle.stopped

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
            start_kernel(self.machine, self.kernel, self._waits.seconds)
        else:
            boot_to_kgdbwait(self.machine, self._waits.seconds)
        with (
            the_images_kernel(self.handle, self.kernel, self.machine)
            if self.spec.image is None and self.spec.boot_area is None
            else contextlib.nullcontext()
        ):
            self._connect()
        self.at = "kgdbwait"

    def _connect(self, stop_reply: bytes = b"", *, paused: bool = False) -> None:
        machine, kernel = self.machine, self.kernel
        relay: Relay
        if self.spec.stub == "qemu":
            relay = by_qemu = QemuRelay(machine.directory / "gdb", machine.connect_stub)
            self._interrupt = lambda: self._halt(by_qemu)
        else:
            relay = Relay(
                machine.directory / "gdb",
                machine.connect_kgdb,
                Stub(machine.connect_stub),
                stop_reply,
                power=_Power(machine.vcpus),
                paused=paused,
            )
        self._relay = relay
        self._state = KernelMemory(
            vmlinux=kernel.vmlinux,
            ram=machine.ram,
            memory_bytes=self.spec.memory << 20,
            machine=self.spec.arch.machine,
            stop_state=_StopState(self.handle),
            modules=self.handle.modules.files,
        )
        self._peek = RelayMemory(
            kernel.vmlinux, machine.ram, self.spec.memory << 20, self.spec.arch.machine
        )
        known = self._snapshot.known if self._snapshot is not None else None
        if known is not None:
            relay.use_memory(self._peek, known[0])
        self.gdb.command(f"-target-select remote {relay.path}")
        self.handle.bind(
            gdb=self.gdb,
            machine=machine,
            state=self._state,
            relay=relay,
            keeper=self,
            interrupt=lambda: self._interrupt(),
        )
        if known is None and self.spec.stub == "qemu":
            known = _NOT_KGDBS
        if known is None:
            known = self._layout(self._ask_layout)
            relay.use_memory(self._peek, known[0])
        self._known = known
        self._count_from_here()

    def _halt(self, relay: QemuRelay) -> None:
        """Have QEMU's stub stop the machine, once it has been let go of as gdb has said."""
        deadline = time.monotonic() + self._waits.seconds
        while self.gdb.running and relay.stopped and time.monotonic() < deadline:
            relay.wait_resumed(0.01)
        relay.interrupt()

    def _ask_layout(self) -> tuple[Layout, int | None]:
        layout = Layout(*self.handle.numbers(*_LAYOUT))
        try:
            return layout, self.handle.numbers(_CONSOLE_RX)[0]
        except KgdbError:
            return layout, None  # another console driver

    def _count_from_here(self) -> None:
        """Have the machine know which of the typed bytes the kernel has read."""
        peek, address = self._peek, self._known[1]
        if self.spec.stub == "qemu":
            return

        def count() -> int:
            assert peek is not None
            assert address is not None
            return int.from_bytes(peek.read(address, 4), "little")

        machine = self.machine
        self._interrupt = SysrqBreak(
            machine.monitor,
            machine.console,
            alive=lambda: machine.alive,
            characters_read=None if address is None else count,
        ).send

    def advance_to_ready(self) -> None:
        """Let the kernel boot on until its shell is there, and stop it.

        :raises BootError: it did not come there.
        """
        handle = self.handle
        mark = self.machine.console.mark()
        handle.resume()
        try:
            self.machine.console.wait_for(
                READY, mark=mark, timeout=self._waits.seconds, meanwhile=self._check_boot
            )
        except TimeoutError as error:
            raise BootError(
                f"the guest's init did not say that it is ready within {self._waits.seconds:g} s\n"
                f"the console's last lines are:\n{self.machine.console.tail(15)}",
                log=self.machine.console.log,
                hint=self._why_not_ready(),
            ) from error
        except MachineDied as error:
            raise self.machine.death(
                "QEMU ended on the kernel's way to the shell", started=True
            ) from error
        self.machine.console.synchronise(timeout=self._waits.seconds)
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
        with self._relay.still(self._waits.seconds):
            self._note_pci(point)
            self.machine.save(point)
        self.points[point] = self._relay.stop_reply

    def freeze(self) -> Snapshot:
        """Pause the machine, so that all that was saved is in the file, and return it."""
        self.machine.stop()
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
        relay.absorb()
        with handle.replaced(reason, keep_breakpoints=keep_breakpoints):
            self.machine.vcpus.stop(self._waits.seconds)
            self.machine.console.disconnect()
            self.machine.load(point)
            self._put_back_pci(point)
            self.machine.console.reconnect()
            self._count_from_here()
            relay.revive(stop_reply, paused=True)

    # What a test keeps for itself (target.Keeper)

    @property
    def kept(self) -> list[str]:
        """The names of the present test's own points."""
        return list(self._named)

    def keep(self, name: str, stop: Stop) -> None:
        """Save the stopped machine under a name, with nothing planted in it."""
        assert self._relay is not None
        with self._relay.still(self._waits.seconds):
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
