"""One machine with its debugger, from its start to the last test on it."""

from __future__ import annotations

import contextlib
import functools
import re
from collections.abc import Callable
from functools import cached_property
from typing import TYPE_CHECKING, Final

from ..console import ShellReadiness
from ..deadline import WaitLimit
from ..debugger import Gdb, Reason, Remember
from ..diagnosis import explained
from ..errors import BootError, ConfigError, KgdbError, MachineDied, TimeoutError
from ..guest import unpack
from ..handle import Attachment, MachineSlot
from ..initrd import READY
from ..kernel import Vmlinux
from ..machine import Machine, SysrqBreak, UntilIdle, boot_to_kgdbwait, last_lines
from ..memory import EarlyLog, Idleness, KernelMemory, ModuleLookup, RelayMemory, StopState
from ..modules import ModuleRegistry
from ..rsp import KgdbBackend, QemuStub, QemuStubBackend, Relay
from ._boot_diagnosis import diagnose_boot
from ._image_boot import check_image_kernel, run_to_start_kernel
from ._launch import Launch
from ._machine_coverage import MachineCoverage
from ._snapshot import Snapshot
from ._snapshot_store import SnapshotStore
from ._spare_gdb import SpareGdb

if TYPE_CHECKING:
    from pathlib import Path

    from ..debugger import Stop
    from ..kernel import StopLayout
    from ..recipes import Coverage
    from ..settings import Point

__all__ = ["Vm"]

# Why the kernel is stopped at each snapshot: kgdbwait is a breakpoint compiled into
# kgdb_initial_breakpoint (kernel/debug/debug_core.c); at ready it was interrupted.
_REASONS: Final[dict[str, Reason]] = {"kgdbwait": "int3", "ready": "interrupt"}

_READY: Final = re.compile(re.escape(READY.encode()) + rb"\r?\n")

_STACK_LINES: Final = 8  # besides

# In seconds of QEMU's: what init has begun goes on for a while, and tests begin there.
_IDLE_AFTER_BOOT: Final = 0.1

# include/linux/tty_port.h, TTY_PORT_INITIALIZED, a bit's number, since 4.7 (commit d41861ca19c9
# "tty: Replace ASYNC_INITIALIZED bit and update atomically").
_INITIALISED: Final = 1 << 0


class _PausableMachine:
    """Shows a machine whose kernel runs while QEMU has paused it (handle.RunningView)."""

    def __init__(self, machine: Machine, relay: Relay) -> None:
        self._relay = relay
        self._machine = machine

    def paused(self) -> contextlib.AbstractContextManager[None]:
        """Have the machine paused."""
        return self._relay.machine_paused(self._machine.monitor)

    def status(self) -> str:
        """Return the machine's run state."""
        return self._machine.status()

    def registers(self) -> str:
        """Return all CPUs' registers."""
        return self._machine.registers()


class Vm:
    """A machine, gdb on it, and its snapshots.

    :param launch: gdb and QEMU, which become this one's.
    :param slot: where the handle that tests hold finds this machine.
    :param waits: how long the running test waits.
    :param remember: keeps what gdb says of the kernel from session to session.
    :param coverage: the code of which it is to be recorded whether it runs.
    :param notice: is told what a person should know.
    """

    def __init__(
        self,
        launch: Launch,
        slot: MachineSlot,
        registry: ModuleRegistry,
        *,
        waits: WaitLimit,
        remember: Remember,
        coverage: Coverage | None = None,
        notice: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._remember = remember
        self._notice = notice
        self._index_cache = launch.index_cache
        self._covers = coverage
        self.coverage: MachineCoverage | None = None
        """What is recorded of the code that runs; None where that is not asked for."""
        self.spec = launch.spec
        self.kernel = launch.kernel
        self._slot = slot
        self._registry = registry
        self._waits = waits
        self._snapshot = snapshot = launch.snapshot
        self._attachment: Attachment | None = None
        self._until_idle: UntilIdle | None = None  # where that can be known
        self._store: SnapshotStore | None = None
        self._machine: Machine | None = None
        with contextlib.ExitStack() as stack:
            stack.enter_context(launch)
            self.gdb: Gdb = stack.enter_context(
                Gdb(
                    launch.gdb,
                    transcript=launch.logs / "gdb.log",
                    waits=waits,
                    on_event=self._on_gdb_event,
                )
            )
            self._machine = self.machine = stack.enter_context(
                Machine(
                    launch.spec,
                    waits=waits,
                    attend=self._attend,
                    history=snapshot.console.read_bytes() if snapshot is not None else b"",
                    process=launch.qemu,
                )
            )
            self._spare = SpareGdb(lambda: launch.gdb_template(self.machine.directory))
            stack.callback(self._spare.close)
            # What is made later is closed before these.
            self._parts = stack.enter_context(contextlib.ExitStack())
            if snapshot is not None:
                self._connect(launch.at, snapshot.stop_replies[launch.at], paused=True)
                self.snapshots.current = launch.at
            self._stack = stack.pop_all()

    # What is called in the midst of waits

    def _on_gdb_event(self) -> None:
        """Wake whoever waits on the console: gdb has something to say."""
        if self._machine is not None:
            self._machine.console.poke()

    def _attend(self) -> None:
        """While a test waits on the console, serve a stop that no test is to see."""
        if self._attachment is not None:
            _ = self._attachment.run_control.stopped

    # The parts

    @property
    def alive(self) -> bool:
        """Whether QEMU and gdb both run."""
        return self.machine.alive and self.gdb.alive

    @property
    def attachment(self) -> Attachment:
        """gdb on the machine's kernel; there is none before :meth:`boot`."""
        assert self._attachment is not None
        return self._attachment

    @property
    def snapshots(self) -> SnapshotStore:
        """The machine's snapshots; there are none before :meth:`boot`."""
        assert self._store is not None
        return self._store

    def _reason(self, at: str) -> Reason:
        if self._snapshot is not None and at in self._snapshot.reasons:
            return self._snapshot.reasons[at]
        if self.spec.stub == "qemu" and at == "kgdbwait":
            return "breakpoint"  # that was on start_kernel
        return _REASONS[at]

    def _connect(self, at: str, stop_reply: bytes = b"", *, paused: bool = False) -> None:
        """Connect gdb to the stopped kernel, and put the handle on it."""
        machine, kernel, layout = self.machine, self.kernel, self.kernel.stop_layout
        memory = RelayMemory(
            kernel.vmlinux, machine.ram, self.spec.memory << 20, self.spec.arch.machine, layout
        )
        opened = _opened(memory, layout)
        if layout is not None:
            self._until_idle = UntilIdle(Idleness(memory, layout, self.spec.smp), machine.pid)
        self._parts.callback(memory.close)
        interrupt: Callable[[], None]
        if self.spec.stub == "qemu":
            relay = Relay(
                machine.directory / "gdb",
                QemuStubBackend(
                    machine.connect_stub,
                    waits=self._waits,
                    stop_reply=stop_reply,
                    symbol=Vmlinux(kernel.vmlinux).symbol,
                    lazy_removal=self.spec.accel == "tcg",
                    misses_atomics=machine.misses_atomics,
                ),
            )
            self._parts.callback(relay.close)
            relay.use_guest_memory(memory, layout)
            interrupt = lambda: self._interrupt_qemu(relay)  # noqa: E731 # one of two ways
            is_heard: Callable[[], bool] = lambda: True  # noqa: E731 # likewise
            on_reconnect: Callable[[], None] = lambda: None  # noqa: E731 # likewise
        else:
            relay = Relay(
                machine.directory / "gdb",
                KgdbBackend(
                    machine.connect_kgdb,
                    waits=self._waits,
                    stub=QemuStub(
                        machine.connect_stub,
                        waits=self._waits,
                        misses_atomics=machine.misses_atomics,
                    ),
                    stop_reply=stop_reply,
                    vcpus=machine.vcpus,
                    paused=paused,
                    prints=self.spec.begins_early,
                ),
            )
            self._parts.callback(relay.close)
            relay.use_guest_memory(memory, layout)
            sysrq = SysrqBreak(
                machine.monitor,
                machine.console,
                alive=lambda: machine.alive,
                characters_read=_counter(memory, layout.console_rx if layout else None),
            )
            interrupt, is_heard, on_reconnect = sysrq.send, opened, sysrq.restart
        machine.console.input.hold_until(opened, lambda: relay.is_resumed)
        # Before the memory is closed, which says whether it is open.
        self._parts.callback(machine.console.input.hold_until, lambda: True, lambda: False)
        shell = ShellReadiness(machine.console, _READY)
        shell.set(at != "kgdbwait")
        if self._covers is not None:
            self.coverage = MachineCoverage(
                self._covers,
                memory,
                lambda: self.attachment.constants,
                kernel.config,
                machine.memory.patch,
                relay.add_hook,
            )
            relay.use_recorded_code(self.coverage)
        snapshot = self._snapshot
        self._store = SnapshotStore(
            machine,
            relay,
            self._slot,
            waits=self._waits,
            on_reconnect=on_reconnect,
            shell=shell,
            connect_gdb=lambda: self._replace_gdb(relay),
            saved=snapshot.stop_replies if snapshot is not None else {},
            pci=snapshot.pci if snapshot is not None else {},
            leaving=self.coverage.collect if self.coverage is not None else lambda: None,
            arrived=self.coverage.restored if self.coverage is not None else lambda _: None,
        )
        self._store.restore_pci(at)
        self.gdb.command(f"-target-select remote {relay.path}")
        self._attachment = attachment = Attachment(
            kernel,
            gdb=self.gdb,
            machine=machine,
            memory=functools.partial(self._memory, relay),
            running=_PausableMachine(machine, relay),
            relay=relay,
            interrupt=interrupt,
            interrupt_is_heard=is_heard,
            snapshots=self._store,
            registry=self._registry,
            generation=self._slot.generation,
            waits=self._waits,
            reason=self._reason(at),
            printed=memory.console_log,
            shell_ready=shell,
            idle=self._until_idle,
            spoiled=self._spare.prepare,
            remember=self._remember,
            actions=self._slot.actions,
            save_machine=self._save_machine,
        )
        machine.describe_ends(attachment.cpu_stacks.running_tasks)
        self._parts.callback(attachment.close)
        self._slot.fill(attachment)
        self._parts.callback(self._slot.empty, attachment)

    def _memory(self, relay: Relay, stop_state: StopState, modules: ModuleLookup) -> KernelMemory:
        return KernelMemory(
            vmlinux=self.kernel.vmlinux,
            ram=self.machine.ram,
            memory_bytes=self.spec.memory << 20,
            machine=self.spec.arch.machine,
            stop_state=stop_state,
            modules=modules,
            read_user=relay.read,
            original=self.coverage.original if self.coverage is not None else None,
            registers=self.machine.registers if self.spec.stub == "qemu" else None,
        )

    def _replace_gdb(self, relay: Relay) -> None:
        self.gdb.replace(self._spare.take())
        self.gdb.command(f"-target-select remote {relay.path}")

    def _interrupt_qemu(self, relay: Relay) -> None:
        """Interrupt by QEMU's stub, once the resume that gdb has announced has reached it."""
        deadline = self._waits.deadline()
        while self.gdb.target_running and relay.stop_reported and not deadline.expired:
            relay.wait_resumed(0.01)
        relay.interrupt()

    # Booting

    @cached_property
    def _boot_log(self) -> EarlyLog:
        machine, spec = self.machine, self.spec
        log = EarlyLog(self.kernel.vmlinux, machine.ram, spec.memory << 20, spec.arch.machine)
        self._parts.callback(log.close)
        return log

    def boot(self) -> None:
        """Boot to kgdbwait and connect gdb.

        :raises BootError: the kernel never came there.
        """
        log = self._boot_log
        if self.spec.stub == "qemu":
            run_to_start_kernel(self.machine, self.kernel, self._waits, log)
        else:
            try:
                boot_to_kgdbwait(self.machine, self._waits.seconds, log)
            except BootError as error:
                if not isinstance(error.__cause__, TimeoutError):
                    raise
                diagnosis = diagnose_boot(self.machine, self.kernel)
                raise explained(error, diagnosis, limit=_STACK_LINES) from error.__cause__
        with (
            check_image_kernel(lambda: self.attachment, self.kernel, self.machine)
            if self.spec.image is None and self.spec.boot_area is None
            else contextlib.nullcontext()
        ):
            self._connect("kgdbwait")
        self.snapshots.current = "kgdbwait"

    def advance_to_ready(self) -> None:
        """Let the kernel boot on until its shell is there, and stop it.

        :raises BootError: it did not come there.
        """
        console, control = self.machine.console, self.attachment.run_control
        limit = self._waits.seconds
        mark = console.mark()
        control.resume()
        try:
            console.wait_for(_READY, mark=mark, timeout=limit, meanwhile=self._check_boot)
        except TimeoutError as error:
            late = BootError(
                f"the guest's init did not say that it is ready within {limit:g} s\n"
                f"{last_lines(self.machine, self._boot_log)}",
                log=console.log,
                hint=self._why_not_ready(),
                late=True,
            )
            diagnosis = self.attachment.cpu_stacks.diagnose()
            raise explained(late, diagnosis, limit=_STACK_LINES) from error
        except MachineDied as error:
            raise self.machine.death(
                "QEMU ended on the kernel's way to the shell", started=True
            ) from error
        console.synchronise(timeout=limit)
        if self._until_idle is not None:
            self._until_idle.wait(lambda: control.stopped, idle=_IDLE_AFTER_BOOT)
        control.interrupt()
        self.snapshots.current = "ready"

    def _check_boot(self) -> None:
        control = self.attachment.run_control
        if not control.stopped:
            return
        control.check_refused()
        stop = control.stop
        assert stop is not None
        what = repr(stop)
        died = stop.reason in ("panic", "oops")
        if died:
            what = f"{'panicked' if stop.reason == 'panic' else 'oopsed'}: {stop.message or what}"
        else:
            what = f"stopped: {what}"
        what = what.replace(":", " on its way to the shell:", 1)
        raise BootError(
            f"the kernel {what}\n{last_lines(self.machine, self._boot_log)}",
            log=self.machine.console.log,
            hint=self._why_stopped(),
            by_kernel=died,
        )

    def _why_stopped(self) -> str:
        hint = (
            "to be there when it happens: a test with the marker kgdb(at='kgdbwait') that calls "
            "cont()"
        )
        text = self.machine.console.since()
        if self.spec.disk is not None and b"Unable to mount root fs" in text:
            hint = (
                "--kgdb-append=root=… names the root file system: /dev/vda is the disk, /dev/vda1 "
                f"its first partition; or {hint}"
            )
        return hint

    def _why_not_ready(self) -> str:
        if self.spec.disk is None:
            return (
                f"an initrd of your own must print '{READY}' on the console, and then "
                "give a root shell there"
            )
        text = self.machine.console.since()
        if b"Waiting for root device" in text or b"Gave up waiting for root" in text:
            return (
                "the root file system is not there: --kgdb-append=root=… names it (/dev/vda is "
                "the disk, /dev/vda1 its first partition), and its drivers must be in the kernel "
                "or in --kgdb-initrd=initramfs-tools"
            )
        return (
            "a system takes its time to come up: --kgdb-timeout. An image of your own needs a "
            f"root shell on its serial console that prints '{READY}' (docs/disk.md)"
        )

    # Snapshots

    def unpack(self, archive: bytes) -> None:
        """Unpack a cpio archive in a guest that is ready, as if it had booted with its files.

        :raises KgdbError: it could not be unpacked.
        """
        attachment = self.attachment
        (address,) = attachment.constants.numbers(["(unsigned long)&ksys_write"])
        unpack(attachment.shell, attachment.relay, address, archive)
        self.snapshots.supersede("ready")
        self.restore("ready")

    def restore(self, at: Point) -> None:
        """Restore the machine to one of the session's snapshots."""
        self.snapshots.restore(at, self._reason(at))

    def cover(self, at: Point) -> None:
        """Have a snapshot, at which the machine is, record which code runs from there on."""
        if self.coverage is None or self.coverage.has(self.snapshots.tag(at)):
            return
        if at not in self.snapshots.saved:
            self.snapshots.save(at)
        self.coverage.arm(self.snapshots.tag(at), booted=at == "ready")
        self.restore(at)

    def _save_machine(self, path: Path, stop: Stop) -> None:
        """Save the stopped machine as a file (handle.MachineSaver)."""
        if self.coverage is not None:
            raise ConfigError(
                f"{path}: the machine cannot be saved: int3s of --kgdb-cov are in its memory",
                hint="leave --kgdb-cov out",
            )
        from ._save_machine import save_machine

        save_machine(
            path,
            stop,
            spec=self.spec,
            kernel=self.kernel,
            attachment=self.attachment,
            export=self.snapshots,
            index_cache=self._index_cache,
            notice=self._notice,
        )

    def freeze(self) -> Snapshot:
        """Pause the machine, so that all that was saved is in the file, and return it."""
        self.machine.stop()
        self.machine.console.flush()
        return Snapshot(
            self.machine.storage,
            self.machine.memory.files,
            self.machine.console.log,
            self.snapshots.saved,
            self.snapshots.pci,
        )

    # The end

    def close(self) -> None:
        """End machine and debugger."""
        self._stack.close()

    def __enter__(self) -> Vm:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _counter(memory: RelayMemory, address: int | None) -> Callable[[], int] | None:
    """Return what reads the console driver's count of characters, where it has one."""
    if address is None:
        return None

    def read() -> int:
        return int.from_bytes(memory.read(address, 4), "little")

    return read


def _opened(memory: RelayMemory, layout: StopLayout | None) -> Callable[[], bool]:
    """Return what tells whether somebody has the console open, where that is known.

    What comes before is dropped (drivers/tty/serial/8250/8250_port.c, serial8250_do_startup).
    """
    pointer = layout.console_state if layout is not None else None
    if layout is None or pointer is None:
        return lambda: True
    offset = layout.state_iflags

    def opened() -> bool:
        try:
            state = int.from_bytes(memory.read(pointer, 8), "little")
            # Without one there is no driver yet.
            return bool(state and memory.read(state + offset, 1)[0] & _INITIALISED)
        except KgdbError:  # damaged memory
            return True

    return opened
