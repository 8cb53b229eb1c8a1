"""One QEMU, from start to stop."""

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
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from typing import Final

from ..console import Console
from ..deadline import WaitLimit
from ..errors import CacheError, ConfigError, KgdbError, MachineDied, TimeoutError
from ..monitor import Monitor, VcpuMonitor
from ..process import Child, run, which
from ..settings import Forward
from ._command import MachineSpec, arguments, write_area
from ._directory import private_directory
from ._memory import Memory, check_memory
from ._saved import MAKE_ROOM, SavedMemory

__all__ = ["Machine"]

_SCANT: Final = 1 << 20  # bytes; a disk with less is full for a machine's state

# net/slirp.c: what it cannot bind, and (libslirp, slirp_connection_info) what it has bound.
_NO_FORWARD: Final = re.compile(r"forwarding rule '(tcp|udp):[\d.]+:(\d+)-:(\d+)'")
_FORWARDED: Final = re.compile(
    r"^ *(TCP|UDP)\[HOST_FORWARD\] +\d+ +127\.0\.0\.1 +(\d+) +[\d.]+ +(\d+) ", re.MULTILINE
)

_STORAGE_SECONDS: Final = 1.0

# How long an interrupt waits for the kernel to read what was typed before, in seconds.
_TYPED: Final = 2.0


class Machine:
    """One QEMU, from start to stop.

    :param spec: what to run.
    :param waits: the limit of each wait.
    :param attend: called while an expect on the console waits (:class:`Console`).
    :param storage: a disk image with saved states, which is copied.
    :param memory: what the guest's memory held at each of them, by their names.
    :param point: the one to start from, instead of from the power button.
    :param history: what the console had shown by then.
    :param log_dir: directory for the logs; the machine's own, which goes with it, otherwise.
    """

    def __init__(
        self,
        spec: MachineSpec,
        *,
        waits: WaitLimit,
        attend: Callable[[], object] = lambda: None,
        log_dir: Path | None = None,
        storage: Path | None = None,
        memory: Mapping[str, Path] | None = None,
        point: str | None = None,
        history: bytes = b"",
    ) -> None:
        self.spec = spec
        self._waits = waits
        self.breaks = 0
        """Breaks sent on the present connection of the console."""
        self.interrupt: Callable[[], None] = self.send_break
        """Asks a running kernel to stop; another way where it is not kgdb that gdb is on."""
        self.received: Callable[[], int] | None = None
        """Returns how many characters, breaks included, the kernel's console driver has read on
        the present connection; None where that cannot be known."""
        self._stack = contextlib.ExitStack()
        self._storage_seen = 0.0
        with contextlib.ExitStack() as stack:
            self.directory, lock = private_directory()
            stack.callback(os.close, lock)
            stack.callback(shutil.rmtree, self.directory, ignore_errors=True)
            self.log_dir = log_dir or self.directory
            check_memory(spec)
            ram = stack.enter_context(Memory(spec.memory))
            self.ram = ram.file
            self.memory = stack.enter_context(SavedMemory(ram, self.directory, memory or {}))
            """What the guest's memory held at each saved state."""
            self._listeners: dict[str, socket.socket] = {}
            for name in ("console", "kgdb", "qmp", "power", "stub"):
                listener = socket.socket(socket.AF_UNIX)
                stack.callback(listener.close)
                listener.bind(str(self.directory / name))
                listener.listen(1)
                self._listeners[name] = listener
            self.storage = self._make_storage(storage)
            self.argv = self._command_line()
            self.child = Child.spawn(
                self.argv,
                name="qemu",
                log=self.log_dir / "qemu.log",
                pass_fds=[self.ram.fileno(), *(s.fileno() for s in self._listeners.values())],
            )
            stack.callback(self.child.kill)
            self.monitor = self._start(point)
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
            for listener in self._listeners.values():
                listener.close()  # QEMU has its own; with ours closed, its death closes the port
            self._stack = stack.pop_all()

    # The command line

    def _make_storage(self, saved: Path | None) -> Path:
        """Make the qcow2 that snapshots live in: an overlay of the disk, or an empty one."""
        path = self.directory / "storage.qcow2"
        if saved is not None:
            shutil.copyfile(saved, path)
            return path
        qemu_img = which("qemu-img", package="qemu-utils")
        command = [qemu_img, "create", "-q", "-f", "qcow2"]
        if self.spec.disk is not None:
            command += ["-F", "qcow2", "-b", str(self.spec.disk), str(path)]
        else:
            command += [str(path), "1M"]
        run(command, timeout=self._waits.seconds)
        if (area := self.spec.boot_area) is not None:
            command = [which("qemu-io", package="qemu-utils"), *write_area(area, area.name)]
            run([*command, str(path)], timeout=self._waits.seconds, cwd=area.parent)
        return path

    def _command_line(self) -> list[str]:
        fds = {name: listener.fileno() for name, listener in self._listeners.items()}
        argv = arguments(
            self.spec,
            ports={name: f"fd={fd}" for name, fd in fds.items()},
            ram=f"/proc/self/fd/{self.ram.fileno()}",
            storage=str(self.storage),
        )
        return [*argv, "-S"]

    def _start(self, point: str | None) -> Monitor:
        """Wait for QEMU, and have it begin at a saved state."""
        if point is None:
            return self._greet()
        # Most of it while QEMU starts, which may still write to it itself.
        with ThreadPoolExecutor(1, "kgdb-ram") as thread:
            filled = thread.submit(self.memory.put_back, point)
            self.monitor = monitor = self._greet()
            try:
                filled.result()
                self._return(point)
            except BaseException as error:
                monitor.close()
                if isinstance(error, KgdbError) and not isinstance(error, MachineDied):
                    raise CacheError(error.message, log=error.log, hint=error.hint) from error
                raise
        return monitor

    # Connections

    def _connect(self, name: str) -> socket.socket:
        connection = socket.socket(socket.AF_UNIX)
        connection.settimeout(self._waits.seconds)
        try:
            connection.connect(str(self.directory / name))
        except OSError as error:
            connection.close()
            raise self.death(f"QEMU does not answer on its {name} socket ({error})") from error
        connection.settimeout(None)
        return connection

    def _greet(self) -> Monitor:
        """Wait for QEMU's monitor; a QEMU that ends instead says why."""
        connection = self._connect("qmp")
        deadline = self._waits.deadline()
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
            monitor = Monitor(connection, waits=self._waits)
            # The guest's memory is ours to save (Memory). Other memory that is shared would be
            # left out with it (migration/ram.c, ramblock_is_ignored): then QEMU saves everything.
            if not any("share=on" in each for each in self.spec.qemu_args):
                wanted = [{"capability": "x-ignore-shared", "state": True}]
                monitor.execute("migrate-set-capabilities", capabilities=wanted)
            return monitor
        except MachineDied as error:
            raise self._refusal() or self.death("QEMU ended as it started") from error

    def _refusal(self) -> ConfigError | None:
        """Return what QEMU had against what the user asked for, if that is why it ended."""
        with contextlib.suppress(KgdbError):
            self.child.wait(1.0)
        found = _NO_FORWARD.search(self.child.tail(10))
        if found is None:
            return None
        proto, port, guest = found.groups()
        return ConfigError(
            f"--kgdb-forward={proto}:{port}:{guest}: port {port} of this host cannot be had",
            log=self.child.log,
            hint=f"another program has it, or another worker: --kgdb-forward={proto}:0:{guest} "
            "takes a free one, and kgdb.forwards tells which",
        )

    @cached_property
    def forwards(self) -> tuple[Forward, ...]:
        """The ports of the host that lead to the guest, those that QEMU chose included."""
        told = self.monitor.human("info usernet") if self.spec.forwards else ""
        return tuple(
            Forward(match[1].lower(), int(match[2]), int(match[3]))
            for match in _FORWARDED.finditer(told)
        )

    @property
    def kgdb_socket(self) -> Path:
        """The Unix socket of the kernel's own debugger."""
        return self.directory / "kgdb"

    @property
    def stub_socket(self) -> Path:
        """The Unix socket of QEMU's gdb stub."""
        return self.directory / "stub"

    def connect_kgdb(self) -> socket.socket:
        """Connect to the serial port on which kgdb speaks."""
        return self._connect("kgdb")

    def connect_stub(self) -> socket.socket:
        """Connect to QEMU's own gdb stub; QEMU halts the machine for it."""
        return self._connect("stub")

    # Life

    @property
    def alive(self) -> bool:
        """Whether QEMU runs."""
        return self.child.poll() is None

    def death(self, what: str, *, started: bool = False) -> MachineDied:
        """Return the error that says that, and how, QEMU died.

        :param started: it ran well before, so that its command line is not to blame.
        """
        with contextlib.suppress(KgdbError):
            self.child.wait(1.0)
        status = self.child.poll()
        ended = "still running" if status is None else _status(status)
        said = self.child.tail(10).strip()
        message = f"{what}: {ended}"
        if said:
            message += f"\nit said:\n{said}"
        hint = "`pytest-kgdb doctor` checks this host"
        if started:
            hint = "the next test gets a new machine"
            if status == -signal.SIGKILL:
                hint += "; was it the kernel of this host, for want of memory (dmesg)?"
            elif status == 0:
                hint += "; the guest has switched this one off, or rebooted it"
        else:
            message += f"\ncommand: {' '.join(self.argv)}"
        return MachineDied(message, log=self.child.log, hint=hint)

    def send_break(self) -> None:
        """Ask the kernel to enter kgdb: break, then `g` (drivers/tty/sysrq.c).

        What was typed before must have been read by then: the break is not a byte in the
        stream, and QEMU marks with it whatever byte the kernel reads next (hw/char/serial.c,
        serial_receive_break).
        """
        deadline = time.monotonic() + _TYPED
        pause = 0.0005
        while self._typed_ahead() and time.monotonic() < deadline and self.alive:
            time.sleep(pause)
            pause = min(2 * pause, 0.02)
        self.monitor.execute("chardev-send-break", id="console")
        self.console.send(b"g")
        self.breaks += 1

    def _typed_ahead(self) -> bool:
        """Whether bytes are under way between us and the kernel."""
        if self.console.unread():
            return True
        if self.received is None:
            return False
        return self.received() < self.console.sent + self.breaks

    def disconnect_console(self) -> None:
        """Drop what is under way on the console, in both directions, and leave it so."""
        self.console.disconnect()
        self.breaks = 0

    def resume(self) -> None:
        """Let the virtual CPUs run."""
        self.monitor.execute("cont")

    def pause(self) -> None:
        """Stop the virtual CPUs: a paused machine costs the host nothing."""
        self.monitor.execute("stop")

    def save(self, name: str) -> None:
        """Save the whole machine, memory and disk, under a name; it must be paused.

        :raises KgdbError: QEMU could not.
        """
        self._snapshot_command("savevm", name)
        self.memory.save(name)

    def load(self, name: str) -> None:
        """Make the machine what it was at :meth:`save`; it must be paused, and is left so.

        The console must be disconnected: QEMU would give the restored guest what was typed
        before.
        """
        self._await_disconnected("console", "kgdb")
        self._return(name)

    def _return(self, name: str) -> None:
        # Memory first: devices look into it as they are loaded (hw/virtio/virtio.c, virtio_load).
        # What was translated from it is forgotten then (hw/core/cpu-sysemu.c and others,
        # cpu_common_post_load).
        self.memory.put_back(name)
        self._snapshot_command("loadvm", name)

    def drop(self, name: str) -> None:
        """Forget what was saved under a name."""
        self._snapshot_command("delvm", name)
        self.memory.drop(name)

    def _await_disconnected(self, *names: str) -> None:
        """Wait until QEMU has seen that nobody is connected to these any more."""
        deadline = self._waits.deadline()
        while True:
            chardevs = self.monitor.execute("query-chardev")
            connected = [
                each["label"]
                for each in chardevs
                if each["label"] in names and not each["filename"].startswith("disconnected:")
            ]
            if not connected:
                return
            if deadline.expired:
                raise KgdbError(
                    f"QEMU did not notice in {deadline.seconds:g} s that {connected} were closed"
                )

    def _snapshot_command(self, command: str, name: str) -> None:
        try:
            patience = max(60.0, self._waits.seconds)
            answer = self.monitor.human(f"{command} {name}", timeout=patience).strip()
        except MachineDied as error:
            raise self.death(f"QEMU ended at {command}", started=True) from error
        if not answer:
            return
        hint = (
            "devices that cannot be saved (9p, virtiofs) rule snapshots out; "
            "--kgdb-isolation=reboot does without them"
        )
        # QEMU says no more of it than "Input/output error".
        if command == "savevm" and shutil.disk_usage(self.directory).free < _SCANT:
            answer += f"\n{os.strerror(errno.ENOSPC)}: {self.directory}"
            hint = MAKE_ROOM
        raise KgdbError(
            f"QEMU could not {command} '{name}': {answer}", log=self.child.log, hint=hint
        )

    def check_storage(self) -> None:
        """:raises MachineDied: QEMU has halted the machine, as it could not write to its disk.

        A guest cannot be told of a full disk that is not its own; QEMU waits for room (its
        manual, `-drive`, `werror=enospc`). Asked at most once in a second.
        """
        now = time.monotonic()
        if now < self._storage_seen + _STORAGE_SECONDS:
            return
        self._storage_seen = now
        if self.monitor.execute("query-status")["status"] == "io-error":
            raise MachineDied(
                "QEMU has halted the machine: this host has no room for what the guest writes to "
                f"its disk, {self.storage}",
                log=self.child.log,
                hint=MAKE_ROOM,
            )

    def registers(self) -> str:
        """Return all virtual CPUs' registers, as QEMU sees them."""
        return self.monitor.human("info registers -a")

    def close(self) -> None:
        """End QEMU and remove what it left; always, and within seconds."""
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
