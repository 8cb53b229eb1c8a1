"""The QEMU machine: its command line and its life."""

from __future__ import annotations

import builtins
import contextlib
import errno
import fcntl
import os
import re
import shutil
import signal
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Final

from .arch import Arch
from .console import Console
from .errors import BootError, ConfigError, KgdbError, MachineDied, TimeoutError
from .monitor import Monitor, Power
from .process import Child, run, which
from .settings import Forward

__all__ = ["Machine", "MachineSpec", "by_hand", "kernel_command_line", "reserve"]

# Of the directories with our sockets, and the file in each that tells them from anybody else's.
_PREFIX: Final = "pytest-kgdb-"
_MARK: Final = "machine"
_ABANDONED_SECONDS: Final = 60.0

_SCANT: Final = 1 << 20  # bytes; a disk with less is full for a machine's state

QEMU_PACKAGE: Final = "qemu-system-x86"

# kernel/debug/gdbstub.c and drivers/tty/serial/kgdboc.c print these; gdb may connect after the
# first, and the second shows that no debugger will ever be waited for.
KGDB_WAITS: Final = re.compile(rb"KGDB: Waiting for connection from remote gdb")

# net/slirp.c: what it cannot bind, and (libslirp, slirp_connection_info) what it has bound.
_NO_FORWARD: Final = re.compile(r"forwarding rule '(tcp|udp):[\d.]+:(\d+)-:(\d+)'")
_FORWARDED: Final = re.compile(
    r"^ *(TCP|UDP)\[HOST_FORWARD\] +\d+ +127\.0\.0\.1 +(\d+) +[\d.]+ +(\d+) ", re.MULTILINE
)

_STORAGE_SECONDS: Final = 1.0

# How long an interrupt waits for the kernel to read what was typed before, in seconds.
_TYPED: Final = 2.0

# kernel/panic.c
_PANIC: Final = re.compile(rb"Kernel panic - not syncing: ([^\r\n]*)[\r\n]")

_PANIC_END: Final = re.compile(rb"---\[ end Kernel panic")
_LAST_WORDS: Final = 2.0  # seconds

# init/main.c, run_init_process; kgdboc has waited, if it ever will, when the drivers came up.
_INIT: Final = re.compile(rb"\] Run \S+ as init process")


@dataclass(frozen=True)
class MachineSpec:
    """Everything that QEMU is told; equal specs make equal machines."""

    arch: Arch
    image: Path
    initrd: Path | None
    append: str = ""
    smp: int = 1
    memory: int = 256
    """MiB."""
    accel: str = "tcg"
    disk: Path | None = None
    """A qcow2 image; the machine writes to an overlay of its own."""
    forwards: tuple[str, ...] = ()
    """QEMU `hostfwd` values; a network device appears with the first."""
    qemu_args: tuple[str, ...] = ()


def kernel_command_line(spec: MachineSpec) -> str:
    """Return the kernel's parameters (Documentation/admin-guide/kernel-parameters.txt).

    - `nokaslr`: gdb's addresses are those of vmlinux.
    - `rodata=off`: kgdb writes its breakpoints with plain stores, and on x86 removes them with
      the same; read-only text would leave them in (arch/x86/kernel/kgdb.c,
      kgdb_arch_set_breakpoint).
    - no `panic=`: with a time-out set, kgdb lets panics pass (kernel/debug/debug_core.c,
      kgdb_panic).
    - `tsc=unstable clocksource=hpet` under TCG: QEMU does not let the time stamp counter go back
      at a restore (softmmu/cpu-timers.c, cpu_get_ticks_locked, cpu_ticks_prev), so a kernel that
      tells time by it would see the clock jump by all that went on since the snapshot. The HPET
      goes back. It also keeps its pace while a stopped kernel does not look at it.
    """
    words = [
        f"console={spec.arch.console},115200",
        f"kgdboc={spec.arch.kgdb}",
        "kgdbwait",
        "nokaslr",
        "rodata=off",
        "printk.time=1",
        "ignore_loglevel",
        "sysrq_always_enabled",
    ]
    if spec.accel == "tcg":
        words += ["tsc=unstable", "clocksource=hpet"]
    if spec.disk is not None and "root=" not in spec.append:
        words.append("root=/dev/vda rw")
    if spec.append:
        words.append(spec.append)
    return " ".join(words)


class Machine:
    """One QEMU, from start to stop.

    :param spec: what to run.
    :param timeout: seconds for each wait.
    :param storage: an image with saved states, which is copied.
    :param point: the state in it to start from, instead of from the power button.
    :param history: what the console had shown by then.
    :param log_dir: directory for the logs; the machine's own, which goes with it, otherwise.
    """

    def __init__(
        self,
        spec: MachineSpec,
        *,
        timeout: float,
        log_dir: Path | None = None,
        storage: Path | None = None,
        point: str | None = None,
        history: bytes = b"",
    ) -> None:
        self.spec = spec
        self.timeout = timeout
        self.breaks = 0
        """Breaks sent on the present connection of the console."""
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
            self.ram = stack.enter_context(_ram(spec.memory))
            self._listeners: dict[str, socket.socket] = {}
            for name in ("console", "kgdb", "qmp", "power", "stub"):
                listener = socket.socket(socket.AF_UNIX)
                stack.callback(listener.close)
                listener.bind(str(self.directory / name))
                listener.listen(1)
                self._listeners[name] = listener
            self.storage = self._make_storage(storage)
            self.argv = self._command_line(point)
            self.child = Child.spawn(
                self.argv,
                name="qemu",
                log=self.log_dir / "qemu.log",
                pass_fds=[self.ram.fileno(), *(s.fileno() for s in self._listeners.values())],
            )
            stack.callback(self.child.kill)
            self.console = Console(
                lambda: self._connect("console"),
                self.log_dir / "console.log",
                timeout=timeout,
                history=history,
            )
            stack.callback(self.console.close)
            self.monitor = self._greet()
            stack.callback(self.monitor.close)
            self.power = Power(self._connect("power"))
            """The virtual CPUs' switch, for whoever throws it often and does not wait."""
            stack.callback(self.power.close)
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
        run(command, timeout=self.timeout)
        return path

    def _command_line(self, point: str | None) -> list[str]:
        fds = {name: listener.fileno() for name, listener in self._listeners.items()}
        argv = _arguments(
            self.spec,
            ports={name: f"fd={fd}" for name, fd in fds.items()},
            ram=f"/proc/self/fd/{self.ram.fileno()}",
            storage=str(self.storage),
        )
        return [*argv, "-S", *(("-loadvm", point) if point is not None else ())]

    # Connections

    def _connect(self, name: str) -> socket.socket:
        connection = socket.socket(socket.AF_UNIX)
        connection.settimeout(self.timeout)
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
        deadline = time.monotonic() + self.timeout
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
            if time.monotonic() >= deadline:
                raise TimeoutError(
                    f"QEMU did not open its monitor in {self.timeout:g} s", log=self.child.log
                )
        connection.settimeout(None)
        try:
            return Monitor(connection, timeout=self.timeout)
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

    def boot_to_kgdbwait(self, timeout: float) -> None:
        """Let the machine go until the kernel waits for its debugger.

        :raises BootError: it never did; the message has the console's last lines.
        """
        self.resume()
        try:
            self.console.wait_for(
                KGDB_WAITS, mark=0, timeout=timeout, meanwhile=self._check_early_panic
            )
        except TimeoutError as error:
            raise BootError(
                f"the kernel did not reach kgdb in {timeout:g} s\n"
                f"the console's last lines are:\n{self.console.tail(15)}",
                log=self.console.log,
                hint="does it have CONFIG_KGDB_SERIAL_CONSOLE, and does it boot at all with "
                "these parameters? A slow host wants a larger --kgdb-timeout",
            ) from error
        except MachineDied as error:
            raise self.death("QEMU ended before the kernel reached kgdb") from error

    def _check_early_panic(self) -> None:
        if _INIT.search(self.console.since()):
            raise BootError(
                "the kernel started init without having waited for a debugger\n"
                f"the console's last lines are:\n{self.console.tail(15)}",
                log=self.console.log,
                hint="something in its parameters (--kgdb-append) or its configuration keeps "
                f"kgdboc={self.spec.arch.kgdb} or kgdbwait from working",
            )
        if found := _PANIC.search(self.console.since()):
            said = found.group(1).decode("utf-8", "replace")
            with contextlib.suppress(KgdbError):  # let it say the rest
                self.console.wait_for(_PANIC_END, mark=0, timeout=_LAST_WORDS)
            raise BootError(
                f"the kernel panicked before kgdb was up: {said}\n"
                f"the console's last lines are:\n{self.console.tail(15)}",
                log=self.console.log,
            )

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
        """Save the whole machine, memory and disk, under a name.

        :raises KgdbError: QEMU could not.
        """
        self._snapshot_command("savevm", name)

    def load(self, name: str) -> None:
        """Make the machine what it was at :meth:`save`; it is left paused or running as it is.

        The console must be disconnected: QEMU would give the restored guest what was typed
        before.
        """
        self._await_disconnected("console", "kgdb")
        self._snapshot_command("loadvm", name)

    def drop(self, name: str) -> None:
        """Forget what was saved under a name."""
        self._snapshot_command("delvm", name)

    def _await_disconnected(self, *names: str) -> None:
        """Wait until QEMU has seen that nobody is connected to these any more."""
        deadline = time.monotonic() + self.timeout
        while True:
            chardevs = self.monitor.execute("query-chardev")
            connected = [
                each["label"]
                for each in chardevs
                if each["label"] in names and not each["filename"].startswith("disconnected:")
            ]
            if not connected:
                return
            if time.monotonic() >= deadline:
                raise KgdbError(
                    f"QEMU did not notice within {self.timeout:g} s that {connected} were closed"
                )

    def _snapshot_command(self, command: str, name: str) -> None:
        try:
            patience = max(60.0, self.timeout)
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
            hint = "make room there, or set TMPDIR to where there is"
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
                hint="make room there, or set TMPDIR to where there is",
            )

    def registers(self) -> str:
        """Return all virtual CPUs' registers, as QEMU sees them."""
        return self.monitor.human("info registers -a")

    def close(self) -> None:
        """End QEMU and remove what it left; always, and within seconds."""
        self._stack.close()

    def __enter__(self) -> Machine:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


def by_hand(spec: MachineSpec) -> list[str]:
    """Return the command line that runs the same machine without us.

    Its ports are sockets in the present directory: `console`, `kgdb`, `qmp` and `stub`.
    """
    return _arguments(
        spec,
        ports={name: f"path={name}" for name in ("console", "kgdb", "qmp", "stub")},
        ram="/dev/shm/kgdb-ram",  # noqa: S108 # a suggestion to a person
        storage="storage.qcow2",
    )


def _arguments(spec: MachineSpec, *, ports: Mapping[str, str], ram: str, storage: str) -> list[str]:
    """Return QEMU's command line.

    :param ports: where each socket listens, as QEMU's `-chardev socket` takes it.
    """

    def chardev(name: str) -> str:
        return f"socket,id={name},{ports[name]},server=on,wait=off"

    argv = [
        which(spec.arch.qemu, package=QEMU_PACKAGE),
        "-name",
        "pytest-kgdb",
        "-nodefaults",
        "-no-user-config",
        "-display",
        "none",
        "-machine",
        f"{spec.arch.machine},accel={spec.accel},memory-backend=ram,vmport=off",
        "-cpu",
        "host" if spec.accel == "kvm" else "max",
        "-smp",
        str(spec.smp),
        "-m",
        f"{spec.memory}M",
        "-object",
        f"memory-backend-file,id=ram,size={spec.memory}M,share=on,mem-path={ram}",
        "-chardev",
        chardev("console"),
        "-serial",
        "chardev:console",
        "-chardev",
        chardev("kgdb"),
        "-serial",
        "chardev:kgdb",
        "-chardev",
        chardev("qmp"),
        "-mon",
        "chardev=qmp,mode=control",
        "-chardev",
        chardev("stub"),
        "-gdb",
        "chardev:stub",
        "-drive",
        f"if=none,id=storage,format=qcow2,discard=unmap,file={storage}",
        "-kernel",
        str(spec.image),
        "-append",
        kernel_command_line(spec),
        "-no-reboot",
    ]
    if spec.disk is not None:
        argv += ["-device", "virtio-blk-pci,drive=storage"]
    if spec.initrd is not None:
        argv += ["-initrd", str(spec.initrd)]
    if spec.forwards:
        forwards = "".join(f",hostfwd={forward}" for forward in spec.forwards)
        # Restricted: nothing that a guest sends leaves the host, or reaches anything on it.
        argv += ["-netdev", f"user,id=net,restrict=on{forwards}"]
        argv += ["-device", "virtio-net-pci,netdev=net"]
    if "power" in ports:
        argv += ["-chardev", chardev("power"), "-mon", "chardev=power,mode=control"]
    argv += spec.qemu_args
    return argv


def private_directory() -> tuple[Path, int]:
    """Make a directory of our own with a path short enough for Unix sockets (unix(7): 108).

    :returns: the directory, and a descriptor that has it locked for as long as it is in use.
    """
    base = os.environ.get("XDG_RUNTIME_DIR", "")
    if not base or len(base) > 60 or not os.access(base, os.W_OK):
        base = tempfile.gettempdir() if len(tempfile.gettempdir()) <= 60 else "/tmp"  # noqa: S108 # made private by mkdtemp
    _remove_abandoned(base)
    made = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=base))
    (made / _MARK).touch()
    return made, _lock(made)


def _remove_abandoned(base: str) -> None:
    """Remove what sessions left that were killed: a snapshot's disk can be large."""
    for entry in os.scandir(base):
        if not entry.name.startswith(_PREFIX):
            continue
        with contextlib.suppress(OSError):  # another user's, in use, or just removed by another
            status = entry.stat(follow_symlinks=False)
            # A young one may be about to be locked.
            if status.st_uid != os.getuid() or time.time() - status.st_mtime < _ABANDONED_SECONDS:
                continue
            if not Path(entry.path, _MARK).is_file():
                continue
            lock = _lock(Path(entry.path))
            try:
                shutil.rmtree(entry.path, ignore_errors=True)
            finally:
                os.close(lock)


def _lock(directory: Path) -> int:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _status(status: int) -> str:
    if status >= 0:
        return f"exit status {status}"
    try:
        return f"killed by {signal.Signals(-status).name}"
    except ValueError:
        return f"killed by signal {-status}"


_reserved: Final[dict[int, BinaryIO]] = {}


def reserve(mebibytes: int) -> None:
    """Begin to allocate the next machine's memory, in a thread.

    Otherwise QEMU does, a page fault at a time, when it loads a state; here the kernel does it at
    once, while a core has nothing else to do.
    """
    if mebibytes in _reserved:
        return
    file = _reserved[mebibytes] = _ram(mebibytes)
    own = os.dup(file.fileno())

    def allocate() -> None:
        with contextlib.suppress(OSError):  # too little memory is for QEMU's start to tell
            os.posix_fallocate(own, 0, mebibytes << 20)
        os.close(own)

    threading.Thread(target=allocate, name="kgdb-ram", daemon=True).start()


def _ram(mebibytes: int) -> BinaryIO:
    """Make the guest's memory: a file without a name, which dies with its last user."""
    reserved = _reserved.pop(mebibytes, None)
    while _reserved:  # of a size that nobody wanted
        _reserved.popitem()[1].close()
    if reserved is not None:
        return reserved
    file = os.fdopen(os.memfd_create("kgdb-ram", os.MFD_CLOEXEC), "r+b", buffering=0)
    os.ftruncate(file.fileno(), mebibytes << 20)
    return file


def check_memory(spec: MachineSpec) -> None:
    """:raises ConfigError: the host cannot give the guest that much memory."""
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            available = int(line.split()[1]) // 1024
            if spec.memory > available:
                raise ConfigError(
                    f"the guest wants {spec.memory} MiB of memory; the host has {available} MiB",
                    hint="lower --kgdb-memory",
                )
