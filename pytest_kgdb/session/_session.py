"""A kernel's machines, one at a time, in the state that each test asks for."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import os
import shutil
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Final

from ..errors import CacheError, KgdbError, MachineDied, TimeoutError
from ..kernel import build_module
from ..machine import MachineSpec
from ..process import which
from ..rsp import KgdbLayout
from ..target import Kgdb
from ._accel import choose, qemu_version
from ._attach import attach
from ._boot import Loader
from ._debugger import version
from ._report import commands, sections
from ._snapshot import KIND, Known, Snapshot, key_of
from ._vm import Vm

if TYPE_CHECKING:
    from ..cache import Cache, Entry
    from ..disk import Disk
    from ..initrd import Initrd
    from ..kernel import Kernel
    from ..progress import Progress
    from ..settings import Settings, Wanted

__all__ = ["Session"]

# Runs whose logs are kept, so that the path that an error names is there when it is read.
_KEEP_RUNS: Final = 20


class Session:
    """Boots machines for one kernel and lends out the handle on them.

    :param settings: as the user chose.
    :param disk: a disk image, or None.
    :param modules: the external modules that are in the guest.
    """

    def __init__(
        self,
        settings: Settings,
        kernel: Kernel,
        initrd: Initrd,
        disk: Disk | None,
        *,
        cache: Cache,
        progress: Progress,
        modules: Sequence[Path] = (),
    ) -> None:
        self.settings = settings
        self.kernel = kernel
        self._initrd = initrd
        self._disk = disk
        self._cache = cache
        self._progress = progress
        self._kgdb = Kgdb(kernel, timeout=settings.timeout, disk=disk)
        self._kgdb.modules.provide(
            modules, lambda path: build_module(kernel, path, cache, progress)
        )
        self._vm: Vm | None = None
        self._machines = itertools.count(1)
        self._mark = 0
        self._in_use = False
        self._loader: Loader | None = None
        if settings.boot == "disk":
            assert disk is not None  # the settings have been looked at together
            self._loader = Loader(settings, kernel, initrd, disk, cache=cache, progress=progress)

    # Lending

    def acquire(self, wanted: Wanted) -> Kgdb:
        """Return the handle on a machine in the state that a test asks for.

        :raises KgdbError: the machine does not come up; the message says why.
        """
        self._kgdb.timeout = wanted.timeout
        if wanted.isolation == "snapshot":
            self._put_back(wanted)
        elif wanted.isolation == "reboot":
            self._boot(wanted, snapshots=False)
        else:
            self._go_on(wanted)
        assert self._vm is not None
        self._vm.machine.console.timeout = wanted.timeout
        self._mark = self._vm.machine.console.mark()
        self._vm.moved()
        self._vm.gdb.forget_conversation()
        self._in_use = True
        self._kgdb.watch.begin()
        return self._kgdb

    def release(self, *, failed: bool) -> None:
        """Take the handle back from a test.

        :param failed: whether the test failed; its machine may be in any state.
        """
        del failed  # the next acquire puts everything back, whatever it was
        if self._vm is not None:
            with contextlib.suppress(KgdbError):  # a machine that cannot is not used again
                self._vm.forget()
        self._in_use = False

    def begin_test(self) -> None:
        """A test begins on a machine that is as the last one left it."""
        self._mark = self._live.machine.console.mark()
        self._live.gdb.forget_conversation()
        self._kgdb.watch.begin()

    def check_splats(self) -> None:
        """Judge what the kernel reported of itself since the test began, or since the last time.

        :raises SplatError: the test did not expect it; or what it did expect did not come.
        """
        if self._vm is not None:
            self._kgdb.watch.check()

    @property
    def handle(self) -> Kgdb:
        """The handle as it is, on a machine of the session's own settings if there is none yet."""
        if self._vm is None or not self._vm.alive:
            self.acquire(self.settings.for_marker({}, "kgdb_session"))
        return self._kgdb

    def _usable(self, wanted: Wanted) -> bool:
        return self._vm is not None and self._vm.alive and self._vm.spec == self._spec(wanted)

    def _put_back(self, wanted: Wanted) -> None:
        if not self._usable(wanted) or wanted.at not in self._live.points:
            self._boot(wanted, snapshots=True)
        vm = self._live
        if vm.at != wanted.at:
            try:
                vm.restore(wanted.at)
            except KgdbError as error:
                self._progress.say(
                    f"the machine could not be put back ({error.message.splitlines()[0]}); "
                    "booting a new one"
                )
                self._boot(wanted, snapshots=True)
                if self._live.at != wanted.at:
                    self._live.restore(wanted.at)

    def _go_on(self, wanted: Wanted) -> None:
        """Give a test what the last one left, as long as it can be used."""
        if self._usable(wanted) and wanted.at == "ready":
            with contextlib.suppress(KgdbError):
                self._kgdb.interrupt(timeout=5.0)
                self._kgdb.delete_breakpoints()
                if self._live.at != "ready":
                    self._kgdb.resume()
                    self._live.machine.console.sendcontrol("c")
                    self._live.machine.console.synchronise(timeout=10.0)
                    self._kgdb.interrupt()
                self._live.machine.console.drop()
                return
        self._boot(wanted, snapshots=False)

    @property
    def _live(self) -> Vm:
        assert self._vm is not None
        return self._vm

    # Booting

    def _boot(self, wanted: Wanted, *, snapshots: bool) -> None:
        """Get a machine: from its snapshot, which is made first if need be, or by a boot."""
        self._close_vm()
        spec = self._spec(wanted)
        if not snapshots:
            self._vm = vm = self._make_vm(spec, wanted)
            self._closing_on_error(lambda: self._boot_to(vm, wanted.at))
            return
        for attempt in (1, 2):
            entry = self._snapshot(spec, wanted)
            # Read in full while QEMU and gdb start: a bit that fell over would boot, too.
            with ThreadPoolExecutor(1, "kgdb-examine") as thread:
                examined = thread.submit(self._cache.examine, entry)
                try:
                    self._vm = self._make_vm(spec, wanted, Snapshot.from_entry(entry.path))
                    if wrong := examined.result():
                        self._close_vm()
                        raise CacheError(wrong)
                    return
                except (MachineDied, TimeoutError, CacheError) as error:
                    if attempt == 2:
                        raise
                    refused = error
            self._cache.discard(KIND, entry.key, refused.message.splitlines()[0])

    def _snapshot(self, spec: MachineSpec, wanted: Wanted) -> Entry:
        """Return the machine's snapshot from the cache; boot, and make it, if there is none.

        For a test of early boot the kernel boots only so far: it may die on its way.
        """
        key = self._snapshot_key(spec)
        early = wanted.at == "kgdbwait"
        if early:
            entry = self._cache.get(KIND, key)
            if entry is not None:
                return entry
            key = hashlib.sha256(f"{key} kgdbwait".encode()).hexdigest()
        return self._cache.make(
            KIND,
            key,
            lambda directory: self._make_snapshot(spec, wanted, directory),
            label=f"a snapshot of Linux {self.kernel.release} at {wanted.at}, "
            f"{spec.smp} CPU{'s' * (spec.smp > 1)}, {spec.memory} MiB",
            about={"release": self.kernel.release, "smp": spec.smp, "memory": spec.memory},
        )

    def _make_vm(self, spec: MachineSpec, wanted: Wanted, snapshot: Snapshot | None = None) -> Vm:
        _ = self._gdb  # before anything is started
        logs = self.logs / f"machine-{next(self._machines)}"
        logs.mkdir(parents=True)
        return Vm(
            spec,
            self.kernel,
            self._kgdb,
            logs=logs,
            index_cache=self._cache.root / "gdb-index",
            layout=self._layout,
            timeout=wanted.timeout,
            snapshot=snapshot,
            point=wanted.at,
        )

    def _boot_to(self, vm: Vm, at: str) -> None:
        vm.boot()
        if at == "ready":
            vm.advance_to_ready()

    def _make_snapshot(self, spec: MachineSpec, wanted: Wanted, directory: Path) -> None:
        """Boot a machine, save both points, and keep what is needed to start from them."""
        with self._make_vm(spec, wanted) as vm:
            vm.boot()
            vm.save("kgdbwait")
            if wanted.at == "ready":
                vm.advance_to_ready()
                vm.save("ready")
            vm.freeze().put_into(directory)

    def _closing_on_error(self, work: Callable[[], None]) -> None:
        try:
            work()
        except BaseException:
            self._close_vm()
            raise

    def _snapshot_key(self, spec: MachineSpec) -> str:
        return key_of(
            spec,
            kernel=self.kernel.key,
            initrd=self._initrd.key,
            disk=self._disk.key if self._disk is not None else "",
            qemu=self._qemu,
        )

    @cached_property
    def _qemu(self) -> str:
        """QEMU's version, remembered by its file: asking it costs a process."""
        program = Path(which(self.kernel.arch.qemu, package="qemu-system-x86")).resolve()
        stat = program.stat()
        key = f"{program} {stat.st_size} {stat.st_mtime_ns}"
        return self._cache.memo("qemu", key, lambda: qemu_version(str(program)))

    @cached_property
    def _gdb(self) -> str:
        """gdb's version, remembered likewise; one that is too old is refused here."""
        program = Path(which("gdb", package="gdb")).resolve()
        stat = program.stat()
        key = f"{program} {stat.st_size} {stat.st_mtime_ns}"
        return self._cache.memo("gdb", key, version)

    def _spec(self, wanted: Wanted) -> MachineSpec:
        from dataclasses import replace

        spec = MachineSpec(
            arch=self.kernel.arch,
            image=self.kernel.image,
            # A system on a disk is booted without the busybox that nobody asked for.
            initrd=self._initrd.path
            if self._disk is None or "initrd" in self.settings.origins
            else None,
            append=wanted.append,
            smp=wanted.smp,
            memory=wanted.memory,
            disk=self._disk.path if self._disk is not None else None,
            forwards=tuple(
                f"{each.proto}:127.0.0.1:{each.host}-:{each.guest}"
                for each in self.settings.forward
            ),
            qemu_args=wanted.qemu_arg,
            stub=self.settings.stub,
        )
        spec = replace(spec, accel=self._accelerator(spec)[0])
        return spec if self._loader is None else self._loader.from_disk(spec)

    def _accelerator(self, spec: MachineSpec) -> tuple[str, str]:
        if self._chosen is None:
            self._chosen = choose(self.settings.accel, spec, self._cache)
        return self._chosen

    _chosen: tuple[str, str] | None = None

    def _layout(self, ask: Callable[[], Known]) -> Known:
        """Remember where this kernel keeps what we look at: gdb takes long to find out."""

        def compute() -> str:
            layout, rx = ask()
            return json.dumps([asdict(layout), rx])

        layout, rx = json.loads(self._cache.memo("layout", self.kernel.key, compute))
        return KgdbLayout(**layout), rx

    # Telling

    @cached_property
    def logs(self) -> Path:
        """The directory of this run's logs; the last runs' are kept beside it."""
        base = self._cache.root / "logs"
        name = f"{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}"
        directory = base / name
        number = 1
        while directory.exists():
            number += 1
            directory = base / f"{name}-{number}"
        directory.mkdir(parents=True)
        for old in sorted(each for each in base.iterdir() if each.is_dir())[:-_KEEP_RUNS]:
            if not _in_use(old):
                shutil.rmtree(old, ignore_errors=True)
        return directory

    @property
    def console_log(self) -> Path:
        """Everything that the present machine's console showed."""
        return self._live.machine.console.log if self._vm is not None else self.logs / "none"

    @property
    def transcript(self) -> Path:
        """The present gdb's conversation."""
        return self._live.gdb.transcript if self._vm is not None else self.logs / "none"

    def describe(self) -> list[str]:
        """Return what a user should know of the machine, in lines."""
        accel, why = self._chosen or ("?", "")
        qemu = qemu_version(self.kernel.arch.qemu)
        lines = [
            f"Linux {self.kernel.release} ({self.kernel.spec}), QEMU {qemu} with {accel}, "
            f"gdb {self._gdb}"
        ]
        if why and why != "asked for":
            lines.append(f"{accel}: {why}")
        if self.settings.print_commands and self._vm is not None:
            lines += commands(self._vm, self.kernel)
        return lines

    def report_sections(self) -> list[tuple[str, str]]:
        """Return what a failed test's report shows of the kernel, gdb and the console."""
        return [] if self._vm is None else sections(self._vm, self._kgdb, self._mark)

    def attach(self) -> None:
        """Give the user gdb on the machine as it is; boot one if there is none.

        :raises ConfigError: there is no terminal.
        """
        self.handle.show_all_threads(True)
        try:
            attach(self._live.gdb)
        finally:
            self._kgdb.show_all_threads(False)
            self._live.moved()

    # Ending

    def _close_vm(self) -> None:
        vm, self._vm = self._vm, None
        if vm is not None:
            vm.close()

    def close(self) -> None:
        """End the machine and its debugger."""
        self._close_vm()

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _in_use(directory: Path) -> bool:
    """Whether the process that a log directory is named after still runs."""
    pid = directory.name.split("-")[2] if directory.name.count("-") >= 2 else ""
    return pid.isdigit() and Path(f"/proc/{pid}").exists()
