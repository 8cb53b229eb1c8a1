"""QEMU as a process: its directory, its RAM, its sockets."""

from __future__ import annotations

import contextlib
import shutil
import socket
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Final

from ..deadline import WaitLimit
from ..process import Child, run, which
from ._command import MachineSpec, arguments, write_area
from ._directory import private_directory
from ._ram import RamFile, check_memory
from ._saved_memory import SavedMemory

__all__ = ["QemuProcess"]

_PORTS: Final = ("console", "kgdb", "qmp", "power", "stub")


class QemuProcess:
    """A QEMU that has been started, with its virtual CPUs stopped; :class:`Machine` talks to it.

    While it starts, a thread restores its RAM, if it is to load a snapshot.

    :param waits: how long the making of the storage may take.
    :param log_dir: directory for the logs; the machine's own, which is removed at the end,
        otherwise.
    :param storage: a disk image with snapshots, which is copied.
    :param memory: the files with the guest's RAM at each of these snapshots, by name.
    :param snapshot: the one to load; the machine is powered on otherwise.
    """

    def __init__(
        self,
        spec: MachineSpec,
        *,
        waits: WaitLimit,
        log_dir: Path | None = None,
        storage: Path | None = None,
        memory: Mapping[str, Path] | None = None,
        snapshot: str | None = None,
    ) -> None:
        self.spec = spec
        self.snapshot = snapshot
        self._waits = waits
        with contextlib.ExitStack() as stack:
            self.directory, lock = private_directory()
            stack.callback(lock.release)
            stack.callback(shutil.rmtree, self.directory, ignore_errors=True)
            self.log_dir = log_dir or self.directory
            self.reset_log = self.log_dir / "reset.log"
            """What QEMU says of resets: a triple fault, under TCG."""
            check_memory(spec)
            ram = stack.enter_context(RamFile(spec.memory))
            self.ram = ram.file
            self.memory = stack.enter_context(SavedMemory(ram, self.directory, memory or {}))
            """The guest's RAM at each snapshot."""
            self._listeners: dict[str, socket.socket] = {}
            for name in _PORTS:
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
            self.restored: Future[None] | None = None
            """Of the RAM; None for a machine that is powered on."""
            if snapshot is not None:
                thread = ThreadPoolExecutor(1, "kgdb-ram")
                stack.callback(thread.shutdown)
                self.restored = thread.submit(self.memory.restore, snapshot)
            self._stack = stack.pop_all()

    def _make_storage(self, saved: Path | None) -> Path:
        """Make the qcow2 image for snapshots: an overlay of the disk, or an empty one."""
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
        qemu, *rest = argv
        # A percent sign would stand for QEMU's pid.
        log = [] if "%" in str(self.reset_log) else ["-d", "cpu_reset", "-D", str(self.reset_log)]
        return [qemu, *log, *rest, "-S"]

    def close_listeners(self) -> None:
        """Close our ends of the sockets, once connected: with these closed, they go with QEMU."""
        for listener in self._listeners.values():
            listener.close()

    def close(self) -> None:
        """End QEMU and remove what it left; always, and within seconds."""
        self._stack.close()

    def __enter__(self) -> QemuProcess:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
