"""A QEMU machine, from start to end."""

from __future__ import annotations

import builtins
import contextlib
import errno
import os
import re
import shutil
import signal
import socket
import time
from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Final

from ..console import Console
from ..deadline import WaitLimit
from ..errors import CacheError, ConfigError, KgdbError, MachineDied, TimeoutError
from ..monitor import Monitor, VcpuMonitor
from ..settings import Forward
from ._command import MachineSpec
from ._process import QemuProcess
from ._saved_memory import MAKE_ROOM

__all__ = ["Machine"]

_SCANT: Final = 1 << 20  # bytes; a file system with less has no room for a machine's state

# net/slirp.c: a port that cannot be bound; libslirp, slirp_connection_info: those that are.
_NO_FORWARD: Final = re.compile(r"forwarding rule '(tcp|udp):[\d.]+:(\d+)-:(\d+)'")
# softmmu/vl.c: a QEMU that was configured without seccomp.
_NO_SANDBOX: Final = "-sandbox support is not enabled"
_FORWARDED: Final = re.compile(
    r"^ *(TCP|UDP)\[HOST_FORWARD\] +\d+ +127\.0\.0\.1 +(\d+) +[\d.]+ +(\d+) ", re.MULTILINE
)

_LOOK_SECONDS: Final = 2.0  # for what QEMU says at once
_STORAGE_SECONDS: Final = 1.0  # between two looks for errors of the disk
_SNAPSHOT_SECONDS: Final = 60.0  # at least, for saving and loading a snapshot
_EVENT_SECONDS: Final = 0.5  # that a QEMU's last words take
_EXIT_SECONDS: Final = 1.0  # that a QEMU which has closed a connection has to exit


# qapi/run-state.json, ShutdownCause; a triple fault is a reset to it (_had_triple_fault).
_RESET: Final = "guest-reset"
_TRIPLE_FAULT: Final = "guest-triple-fault"
_REASONS: Final = {
    _TRIPLE_FAULT: "after a triple fault",
    _RESET: "after the guest has reset the machine",
    "guest-shutdown": "after the guest has switched the machine off",
    "host-signal": "by a signal",
    "host-qmp-quit": "by a command to its monitor",
}


class Machine:
    """A QEMU machine, started with its virtual CPUs stopped.

    :param waits: the limit of each wait.
    :param attend: called while an expect on the console waits (:class:`Console`).
    :param log_dir: directory for the logs; the machine's own, which is removed at the end,
        otherwise.
    :param storage: a disk image with snapshots, which is copied.
    :param memory: the files with the guest's RAM at each of these snapshots, by name.
    :param snapshot: the one to load; the machine is powered on otherwise.
    :param history: what the console had shown by then.
    :param process: a QEMU that has been started with the same arguments; it becomes the machine's.
    :raises ConfigError: QEMU refused something that the user asked for.
    :raises CacheError: the snapshot could not be loaded.
    :raises MachineDied: QEMU ended as it started.
    """

    name: Final = "QEMU"
    """What it is called in messages."""

    def __init__(
        self,
        spec: MachineSpec,
        *,
        waits: WaitLimit,
        attend: Callable[[], object] = lambda: None,
        log_dir: Path | None = None,
        storage: Path | None = None,
        memory: Mapping[str, Path] | None = None,
        snapshot: str | None = None,
        history: bytes = b"",
        process: QemuProcess | None = None,
    ) -> None:
        self.spec = spec
        self.waits = waits
        self._storage_seen = 0.0
        self._loaded_at = -1  # how often it had been resumed before the last load
        self._describe_end: Callable[[], str] = str
        with contextlib.ExitStack() as stack:
            if process is None:
                process = QemuProcess(
                    spec,
                    waits=waits,
                    log_dir=log_dir,
                    storage=storage,
                    memory=memory,
                    snapshot=snapshot,
                )
            self._process = stack.enter_context(process)
            self.directory = process.directory
            self.log_dir = process.log_dir
            self.ram = process.ram
            self.memory = process.memory
            """The guest's RAM at each snapshot."""
            self.storage = process.storage
            self.argv = process.argv
            self.child = process.child
            self.monitor = self._start()
            stack.callback(self.monitor.close)
            self.console = Console(
                lambda: self._connect("console"),
                self.log_dir / "console.log",
                waits=waits,
                attend=attend,
                history=history,
            )
            stack.callback(self.console.close)
            self.vcpus = VcpuMonitor(self._connect("power"))
            """Stops the virtual CPUs and lets them run, for those who do it often."""
            stack.callback(self.vcpus.close)
            process.close_listeners()
            self._stack = stack.pop_all()

    def _start(self) -> Monitor:
        """Wait for QEMU, and load its snapshot, if it has one."""
        process = self._process
        if process.snapshot is None or process.restored is None:
            return self._greet()
        # Most of the RAM is restored while QEMU starts; what QEMU writes then is restored after.
        self.monitor = monitor = self._greet()
        try:
            process.restored.result()
            self._load(process.snapshot)
        except BaseException as error:
            monitor.close()
            if isinstance(error, KgdbError) and not isinstance(error, MachineDied):
                raise CacheError(error.message, log=error.log, hint=error.hint) from error
            raise
        return monitor

    # Connections

    def _connect(self, name: str) -> socket.socket:
        connection = socket.socket(socket.AF_UNIX)
        connection.settimeout(self.waits.seconds)
        try:
            connection.connect(str(self.directory / name))
        except OSError as error:
            connection.close()
            raise self.death(f"QEMU does not answer on its {name} socket ({error})") from error
        connection.settimeout(None)
        return connection

    def _greet(self) -> Monitor:
        """Wait for QEMU's monitor.

        :raises ConfigError: QEMU refused something that the user asked for.
        :raises MachineDied: QEMU ended instead.
        """
        connection = self._connect("qmp")
        deadline = self.waits.deadline()
        connection.settimeout(0.05)
        while True:
            try:
                if connection.recv(1, socket.MSG_PEEK):
                    break
            except builtins.TimeoutError:
                pass
            except OSError:
                raise self._refusal() or self.death("QEMU ended as it started") from None
            if self.child.poll() is not None:
                connection.close()
                raise self._refusal() or self.death("QEMU ended as it started")
            if deadline.expired:
                raise TimeoutError(
                    f"QEMU did not open its monitor in {deadline.seconds:g} s",
                    log=self.child.log,
                )
        connection.settimeout(None)
        try:
            monitor = Monitor(connection, waits=self.waits)
            # The RAM is saved here (RamFile). QEMU would not save other shared memory, either
            # (migration/ram.c, ramblock_is_ignored): where there is such, QEMU saves everything.
            if not any("share=on" in argument for argument in self.spec.qemu_arg):
                capabilities = [{"capability": "x-ignore-shared", "state": True}]
                monitor.execute("migrate-set-capabilities", capabilities=capabilities)
            return monitor
        except MachineDied as error:
            raise self._refusal() or self.death("QEMU ended as it started") from error

    def _refusal(self) -> ConfigError | None:
        """Return the error for what QEMU refused of the user's options, if that ended it."""
        with contextlib.suppress(KgdbError):
            self.child.wait(_EXIT_SECONDS)
        output = self.child.tail(10)
        if _NO_SANDBOX in output:
            return ConfigError(
                "this QEMU cannot confine itself: it was built without seccomp",
                log=self.child.log,
                hint="install another one; or, if the guest is trusted, run this one without: "
                '--kgdb-qemu-arg="-sandbox off"',
            )
        match = _NO_FORWARD.search(output)
        if match is None:
            return None
        proto, port, guest = match.groups()
        return ConfigError(
            f"--kgdb-forward={proto}:{port}:{guest}: port {port} of this host cannot be had",
            log=self.child.log,
            hint=f"another program has it, or another worker: --kgdb-forward={proto}:0:{guest} "
            "takes a free one, and kgdb.forwards tells which",
        )

    @cached_property
    def forwards(self) -> tuple[Forward, ...]:
        """The host's ports that are forwarded to the guest, with those that QEMU has chosen."""
        table = self.monitor.human("info usernet") if self.spec.forwards else ""
        return tuple(
            Forward(match[1].lower(), int(match[2]), int(match[3]))
            for match in _FORWARDED.finditer(table)
        )

    @property
    def kgdb_socket(self) -> Path:
        """The Unix socket of the serial port for kgdb."""
        return self.directory / "kgdb"

    @property
    def stub_socket(self) -> Path:
        """The Unix socket of QEMU's gdb stub."""
        return self.directory / "stub"

    @cached_property
    def misses_atomics(self) -> bool:
        """Whether this QEMU's watchpoints miss atomic instructions (:class:`.WatchedPages`)."""
        if self.spec.accel != "tcg" or self.spec.smp == 1:
            return False
        return bool(self.monitor.execute("query-version")["qemu"]["major"] < 8)

    def connect_kgdb(self) -> socket.socket:
        """Connect to the serial port for kgdb."""
        return self._connect("kgdb")

    def connect_stub(self) -> socket.socket:
        """Connect to QEMU's gdb stub, for which QEMU stops the machine."""
        return self._connect("stub")

    # Life

    @property
    def pid(self) -> int:
        """QEMU's process id."""
        return self.child.pid

    @property
    def alive(self) -> bool:
        """Whether QEMU runs."""
        return self.child.poll() is None

    def wait_ended(self, timeout: float) -> None:
        """Wait for QEMU's end.

        :param timeout: seconds.
        :raises TimeoutError: it runs on.
        """
        self.child.wait(timeout)

    def death(self, what: str, *, started: bool = False) -> MachineDied:
        """Return the error for the end of QEMU, with its exit status and last output.

        :param what: the beginning of the message: what happened.
        :param started: whether it ran before: then its command line is not the cause.
        """
        with contextlib.suppress(KgdbError):
            self.child.wait(_EXIT_SECONDS)
        status = self.child.poll()
        ended = "still running" if status is None else _status(status)
        output = self.child.tail(10).strip()
        reason = ""
        if status == 0 and "monitor" in vars(self):  # one that ended as it started has none
            reason = self.monitor.shutdown_reason(_EVENT_SECONDS)
        if reason == _RESET and self._had_triple_fault():
            reason = _TRIPLE_FAULT
        if words := _REASONS.get(reason, ""):
            ended += f", {words}{self._describe_end()}"
        message = f"{what}: {ended}"
        if output:
            message += f"\nit said:\n{output}"
        hint = "`pytest-kgdb doctor` checks this host"
        if started:
            hint = "the next test gets a new machine"
            if status == -signal.SIGKILL:
                hint += "; was it the kernel of this host, for want of memory (dmesg)?"
            elif status == 0 and not reason:
                hint += "; the guest has switched this one off, or rebooted it"
            elif reason == _RESET and self.spec.accel == "kvm":
                hint += "; KVM does not say whether it was a triple fault"
        else:
            message += f"\ncommand: {' '.join(self.argv)}"
        error = MachineDied(message, log=self.child.log, hint=hint)
        # -no-reboot (machine/_command.py)
        error.by_guest = started and status == 0 and not reason.startswith("host-")
        return error

    def _had_triple_fault(self) -> bool:
        """Whether it was a triple fault that has reset the machine, as far as QEMU says.

        See target/i386/tcg/sysemu/excp_helper.c; KVM does not say it.
        """
        try:
            return b"Triple fault" in self._process.reset_log.read_bytes()
        except OSError:
            return False

    def describe_ends(self, describe: Callable[[], str]) -> None:
        """Have the error for an end by the guest say more.

        :param describe: returns what follows the words; the guest's memory is there still.
        """
        self._describe_end = describe

    def stop(self) -> None:
        """Stop the virtual CPUs; the machine is paused, and takes no CPU time of the host."""
        self.monitor.execute("stop")

    def cont(self) -> None:
        """Let the virtual CPUs run."""
        self.monitor.execute("cont")

    def save(self, name: str) -> None:
        """Save the machine, memory and disk, as a snapshot; it must be paused.

        :raises KgdbError: QEMU could not.
        """
        self._snapshot_command("savevm", name)
        self.memory.save(name)

    def load(self, name: str) -> None:
        """Load a snapshot; the machine must be paused, and still is afterwards.

        The console must be disconnected, or QEMU would give the restored guest what was sent
        before.

        :raises KgdbError: QEMU could not.
        :raises CacheError: the saved memory is truncated, or of another machine.
        """
        self._await_disconnected("console", "kgdb")
        self._load(name)

    def _load(self, name: str) -> None:
        # The RAM first: devices read it as they are loaded (hw/virtio/virtio.c, virtio_load).
        # QEMU drops the code that it has translated from the RAM after that
        # (hw/core/cpu-sysemu.c and others, cpu_common_post_load).
        self.memory.restore(name)
        self._snapshot_command("loadvm", name)
        self._loaded_at = self.monitor.resumes

    def drop(self, name: str) -> None:
        """Remove a snapshot."""
        self._snapshot_command("delvm", name)
        self.memory.drop(name)

    def _await_disconnected(self, *names: str) -> None:
        """Wait until QEMU has noticed that these ports were disconnected."""
        deadline = self.waits.deadline()
        while True:
            chardevs = self.monitor.execute("query-chardev")
            connected = [
                chardev["label"]
                for chardev in chardevs
                if chardev["label"] in names and not chardev["filename"].startswith("disconnected:")
            ]
            if not connected:
                return
            if deadline.expired:
                raise KgdbError(
                    f"QEMU did not notice in {deadline.seconds:g} s that {connected} were closed"
                )

    def _snapshot_command(self, command: str, name: str) -> None:
        try:
            timeout = max(_SNAPSHOT_SECONDS, self.waits.seconds)
            output = self.monitor.human(f"{command} {name}", timeout=timeout).strip()
        except MachineDied as error:
            raise self.death(f"QEMU ended at {command}", started=True) from error
        if not output:
            return
        hint = (
            "devices that cannot be saved (9p, virtiofs) rule snapshots out; "
            "--kgdb-isolation=reboot does without them"
        )
        # QEMU reports a full file system as "Input/output error".
        if command == "savevm" and shutil.disk_usage(self.directory).free < _SCANT:
            output += f"\n{os.strerror(errno.ENOSPC)}: {self.directory}"
            hint = MAKE_ROOM
        raise KgdbError(
            f"QEMU could not {command} '{name}': {output}", log=self.child.log, hint=hint
        )

    def check_storage(self) -> None:
        """Check that QEMU has not stopped the machine because the host's file system is full.

        QEMU does so instead of reporting an error to the guest (its manual, `-drive`,
        `werror=enospc`). It is asked at most once in a second.

        :raises MachineDied: it has.
        """
        now = time.monotonic()
        if now < self._storage_seen + _STORAGE_SECONDS:
            return
        self._storage_seen = now
        # Loaded, and not resumed yet, QEMU still has the state of what ran before. Asked first: it
        # may be resumed between the status and this.
        resumed = self.monitor.resumes != self._loaded_at
        status = self.monitor.execute("query-status")["status"]
        if status == "io-error" and resumed:
            raise MachineDied(
                "QEMU has stopped the machine: this host has no room for what the guest writes to "
                f"its disk, {self.storage}",
                log=self.child.log,
                hint=MAKE_ROOM,
            )

    def status(self) -> str:
        """Return the machine's run state (qapi/run-state.json, RunState)."""
        return str(self.monitor.execute("query-status", timeout=_LOOK_SECONDS)["status"])

    def registers(self) -> str:
        """Return the registers of all virtual CPUs (`info registers -a`)."""
        return self.monitor.human("info registers -a", timeout=_LOOK_SECONDS)

    def close(self) -> None:
        """End QEMU and remove the machine's directory."""
        self._stack.close()

    def __enter__(self) -> Machine:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _status(status: int) -> str:
    if status >= 0:
        return f"exit status {status}"
    try:
        return f"killed by {signal.Signals(-status).name}"
    except ValueError:
        return f"killed by signal {-status}"
