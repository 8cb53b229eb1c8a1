"""A machine that was saved as a file: opened, with gdb on it at the same stop."""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Final

from ..deadline import WaitLimit
from ..debugger import gdb_version
from ..disk import check_untrusted, set_backing
from ..elf import ElfFile
from ..errors import ConfigError
from ..escape import clean
from ..handle import Kgdb, MachineSlot
from ..kernel import (
    Built,
    Config,
    Kernel,
    NoSources,
    SourceArchive,
    SourceFiles,
    StopLayout,
    numbers,
)
from ..machine import private_directory
from ..modules import ModuleRegistry
from ._accel import cpu_model, qemu_version
from ._attach import attach
from ._index import index_cache
from ._launch import Launch
from ._logs import make_log_directory
from ._machine_file import MachineFile, sha256_of
from ._save_machine import SAVED
from ._saved_record import FORMAT, DiskRecord, SavedRecord
from ._snapshot import Snapshot
from ._vm import Vm

if TYPE_CHECKING:
    from ..cache import Cache
    from ..progress import Progress
    from ..settings import Settings

__all__ = ["SavedSession"]

_FACTS: Final = "kernel.json"
_FRAMES: Final = 64


class SavedSession:
    """A saved machine with gdb on it.

    Nothing of the file is run or loaded before all of it was checked. What it cannot be trusted
    with is asked for: QEMU's arguments, the disk.

    :param path: the file.
    :param settings: the options of the command line.
    :param kernel: returns the kernel that the options name; None if they name none.
    :raises ConfigError: it cannot be opened on this host; the message says what it takes.
    :raises CacheError: it is damaged.
    """

    def __init__(
        self,
        path: Path,
        settings: Settings,
        *,
        kernel: Callable[[], Kernel | None],
        cache: Cache,
        progress: Progress,
    ) -> None:
        self.path = path
        self._settings = settings
        self._find_kernel = kernel
        self._cache = cache
        self._progress = progress
        self._waits = WaitLimit(settings.timeout)
        self._vm: Vm | None = None
        with contextlib.ExitStack() as stack:
            with MachineFile(path) as file:
                self.record = self._read_record(file)
                self._check_host()
                directory, lock = private_directory()
                stack.callback(lock.release)
                stack.callback(shutil.rmtree, directory, ignore_errors=True)
                self._parts = directory / "parts"
                self._parts.mkdir(mode=0o700)
                file.unpack(self._parts, memory_bytes=self.record.memory << 20)
                self._check_parts(file)
            self._vm = stack.enter_context(self._start())
            self._stack = stack.pop_all()

    # What is checked

    def _read_record(self, file: MachineFile) -> SavedRecord:
        version = file.record.get("format")
        if type(version) is int and version > FORMAT:
            raise ConfigError(
                f"{self.path} is of format {version}; this pytest-kgdb reads up to {FORMAT}",
                hint="pip install --upgrade pytest-kgdb",
            )
        return SavedRecord.load(file.record, file.damaged)

    def _check_host(self) -> None:
        """Check that this host's QEMU can load it, and that the user agrees with its arguments."""
        record = self.record
        here = qemu_version(record.architecture.qemu)
        if here != record.qemu:
            raise ConfigError(
                f"{self.path} was saved by QEMU {record.qemu}, and this host has QEMU {here}: a "
                "machine's state is read by the version that has written it",
                hint=f"install QEMU {record.qemu}, or have it first in PATH",
            )
        if record.accel == "kvm" and record.cpu != cpu_model():
            raise ConfigError(
                f"{self.path} was saved under KVM on {record.cpu!r}, and this host's processor is "
                f"{cpu_model()!r}",
                hint="save it under TCG: --kgdb-accel=tcg",
            )
        if record.qemu_arg != self._settings.qemu_arg:
            shown = " ".join(f"--kgdb-qemu-arg='{word}'" for word in record.qemu_arg) or "none"
            raise ConfigError(
                f"{self.path} needs other QEMU arguments than were given: {clean(shown)}",
                hint="such arguments can name files and programs of this host: give them, if you "
                "trust them",
            )

    def _check_parts(self, file: MachineFile) -> None:
        record = self.record
        expected = ["memory", "storage.qcow2", "console.log", "config"]
        expected += ["image"] if record.has_image else []
        expected += [f"modules/{name}/{module}" for name, module in record.modules.items()]
        for name in expected:
            if not file.has(name):
                raise file.damaged(f"it has no {name}")
        try:
            check_untrusted(self._parts / "storage.qcow2")
            for directory in (self._parts, *(self._parts / "modules" / m for m in record.modules)):
                if SourceArchive.is_in(directory):
                    SourceArchive.check(directory)
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise file.damaged(str(error)) from error

    # The kernel

    @cached_property
    def kernel(self) -> Kernel:
        """The kernel, with the files that came with the machine.

        :raises ConfigError: its vmlinux did not, and is not here either.
        """
        record, parts = self.record.kernel, self._parts
        top = None if record.debug_source is None else Path(record.debug_source)
        sources: SourceFiles = NoSources(top)
        if SourceArchive.is_in(parts):
            tops = () if top is None else (top,)
            sources = SourceArchive(parts, record.name, parts / "src", tops=tops)
        kernel = Kernel(
            spec=record.spec,
            name=record.name,
            arch=self.record.architecture,
            release=record.release,
            version=numbers(record.release),
            vmlinux=parts / "vmlinux",
            image=parts / "image",
            config=Config(parts / "config"),
            build_id=record.build_id,
            source=None,
            debug_source=top,
            build_dir=None,
            modules_dir=None,
            headers=None,
            compiler=record.compiler,
            key=f"saved {record.build_id}",
            stop_layout=StopLayout.load(record.layout),
            sources=sources,
            source_prefixes=record.source_prefixes,
        )
        if not kernel.vmlinux.exists():
            return self._with_symbols(kernel)
        with ElfFile(kernel.vmlinux) as elf:
            if elf.build_id != record.build_id:
                raise ConfigError(
                    f"{self.path}: its vmlinux has build id {elf.build_id}, and its kernel "
                    f"{record.build_id}"
                )
        return kernel

    def _with_symbols(self, kernel: Kernel) -> Kernel:
        """Return the kernel with a vmlinux of this host's, which has the same build id."""
        other = self._find_kernel()
        if other is not None:
            if other.build_id != kernel.build_id:
                raise ConfigError(
                    f"{self.path} is of a kernel with build id {kernel.build_id}, and that of "
                    f"{other.spec} is {other.build_id}",
                    hint=f"it was saved with --kgdb-kernel={kernel.spec}",
                )
            return replace(kernel, vmlinux=other.vmlinux, sources=other.sources)
        for entry in self._entries("kernel", "package"):
            vmlinux = entry / "vmlinux"
            with contextlib.suppress(OSError, ValueError, AttributeError):
                facts = json.loads((entry / _FACTS).read_text())
                if facts.get("build_id") == kernel.build_id and vmlinux.exists():
                    return replace(kernel, vmlinux=vmlinux)
        raise ConfigError(
            f"{self.path} has no vmlinux, and no kernel with build id {kernel.build_id} is in "
            f"{self._cache.root}",
            hint=f"name it: --kgdb-kernel={kernel.spec}",
        )

    def _entries(self, *kinds: str) -> Iterator[Path]:
        """Yield the directories of the cache's entries of some kinds, which stay meanwhile."""
        for info in self._cache.entries():
            if info.state == "entry" and info.kind in kinds:
                entry = self._cache.get(info.kind, info.key)
                if entry is not None:
                    yield entry.path

    # The disk

    def _disk(self, disk: DiskRecord) -> Path:
        """Return the image under the machine's overlay.

        :raises ConfigError: it is not on this host.
        """
        named = self._settings.disk
        if named != "none" and not named.startswith("debian"):
            places = [Path(named)]
        else:
            places = [entry / disk.name for entry in self._entries("disk", "debian")]
        for place in places:
            with contextlib.suppress(OSError):
                if place.stat().st_size == disk.size and sha256_of(place) == disk.sha256:
                    return place
        raise ConfigError(
            f"{self.path} was saved on the disk {disk.name} of {disk.size >> 20} MiB, SHA-256 "
            f"{disk.sha256}, which is not in the file; it is "
            + (f"not {places[0]}" if len(places) == 1 else f"not in {self._cache.root}"),
            hint="copy it from there: --kgdb-disk=FILE",
        )

    # Its start

    def _start(self) -> Vm:
        record, parts, kernel = self.record, self._parts, self.kernel
        storage, disk = parts / "storage.qcow2", None
        if record.disk is not None:
            disk = self._disk(record.disk)
            set_backing(storage, disk)
        index = parts / "index"
        index.mkdir()
        if kernel.vmlinux.parent != parts:
            index = index_cache(self._cache)
        elif (parts / "gdb-index").exists():
            # Not among those of this host: it is no more to be trusted than the file.
            (parts / "gdb-index").rename(index / f"{kernel.build_id}.gdb-index")
        self.logs = make_log_directory(self._cache.root / "logs")
        gdb_version()  # one that is too old is refused before anything is started
        snapshot = Snapshot(
            storage=storage,
            memory={SAVED: parts / "memory"},
            console=parts / "console.log",
            stop_replies={SAVED: record.stop_reply.encode()},
            pci={} if record.pci is None else {SAVED: record.pci},
            reasons={SAVED: record.reason},
        )
        launch = Launch(
            record.machine(image=parts / "image" if record.has_image else None, disk=disk),
            kernel,
            logs=self.logs,
            index_cache=index,
            waits=self._waits,
            snapshot=snapshot,
            at=SAVED,
        )
        modules = [parts / "modules" / name / file for name, file in record.modules.items()]
        slot = MachineSlot(kernel, waits=self._waits)
        self._kgdb = Kgdb(slot)
        try:
            vm = Vm(
                launch,
                slot,
                ModuleRegistry(kernel, modules, self._refuse_to_build),
                waits=self._waits,
                remember=lambda _, compute: compute(),
                notice=self._progress.say,
            )
        except BaseException:
            launch.close()
            raise
        try:
            vm.attachment.take_up(record.message or None)
        except BaseException:
            vm.close()
            raise
        return vm

    def _refuse_to_build(self, path: Path, _variables: Sequence[str]) -> Built:
        raise ConfigError(
            f"{path}: a module cannot be built for a machine from a file",
            hint="boot its kernel: pytest-kgdb attach --kgdb-kernel=SPEC",
        )

    # What is done with it

    @property
    def handle(self) -> Kgdb:
        """The handle on its kernel."""
        return self._kgdb

    @property
    def vm(self) -> Vm:
        """The machine."""
        assert self._vm is not None
        return self._vm

    def describe(self) -> list[str]:
        """Return what a user should know of it, in lines."""
        record = self.record
        return [
            f"Linux {record.kernel.release} ({clean(record.kernel.name)}), saved {record.saved}",
            f"stopped: {clean(record.where)}",
        ]

    def attach(self, commands: Sequence[str] = ("frame",)) -> None:
        """Give the user gdb on it.

        :param commands: gdb's commands to begin with.
        :raises ConfigError: there is no terminal.
        """
        sources = self.kernel.sources
        attachment, say = self.vm.attachment, self._progress.say
        if not isinstance(sources, SourceArchive):
            attach(attachment, say, commands=commands)
            return

        def unpack_frames() -> None:
            frames = attachment.debugger.request("frames", limit=_FRAMES, behind=False)["frames"]
            sources.unpack_only(str(path) for frame in frames if (path := frame.get("fullname")))
            attachment.find_sources_again()
            thread.submit(sources.unpack)  # thousands of files take seconds

        with ThreadPoolExecutor(1, "kgdb-sources") as thread:
            attach(attachment, say, unpack=unpack_frames, commands=commands)

    def close(self) -> None:
        """End the machine and its debugger, and remove what was unpacked."""
        self._stack.close()

    def __enter__(self) -> SavedSession:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
