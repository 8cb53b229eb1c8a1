"""A kernel's machines, one at a time, each in the state that a test asks for."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Final

from ..change import stand_ins
from ..deadline import WaitLimit
from ..debugger import gdb_version
from ..errors import CacheError, KgdbError, MachineDied, TimeoutError
from ..kernel import Built, build_external
from ..process import program_key, which
from ._accel import Accelerator, qemu_version
from ._boot import Loader
from ._index import index_cache, symbol_index
from ._launch import Launch
from ._logs import make_log_directory
from ._machine_choice import MachineChoice
from ._snapshot import KIND, Snapshot

if TYPE_CHECKING:
    from ..cache import Cache, Entry
    from ..debugger import SymbolIndex
    from ..disk import Disk
    from ..handle import Kgdb, MachineSlot
    from ..initrd import Initrd
    from ..kernel import CodeAddress, Kernel
    from ..machine import MachineSpec
    from ..modules import ModuleRegistry
    from ..progress import Progress
    from ..recipes import Coverage, PatchCode
    from ..report import Section, Story
    from ..settings import Point, Settings, TestRequest
    from ._vm import Vm

__all__ = ["Session"]

# Of a machine from its snapshot: as it is, once more, and from a new snapshot.
_STARTS: Final = 3


class Session:
    """Boots machines for one kernel and lends out the handle on them.

    :param settings: as the user chose.
    :param disk: a disk image, or None.
    :param modules: the external modules that are in the guest.
    :param coverage: takes note of the code that runs, where that is asked for.
    :param accelerator: chooses between KVM and TCG; it may have begun to try.
    :param index: of the kernel's symbols; it may have been begun.
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
        coverage: Coverage | None = None,
        accelerator: Accelerator | None = None,
        index: SymbolIndex | None = None,
    ) -> None:
        self.settings = settings
        self.kernel = kernel
        self._initrd = initrd
        self._disk = disk
        self._cache = cache
        self._progress = progress
        self._waits = WaitLimit(settings.timeout)
        self._modules = tuple(modules)
        self.coverage = coverage
        """What ran of the lines that are named; None where none are."""
        self._ran: set[CodeAddress] = set()
        self._vm: Vm | None = None
        self._machines = itertools.count(1)
        self._mark = 0
        loader = None
        if settings.boot == "disk":
            assert disk is not None  # the settings have been looked at together
            loader = Loader(settings, kernel, initrd, disk, cache=cache, progress=progress)
        accelerator = accelerator or Accelerator(settings.accel, cache)
        self._choice = MachineChoice(
            settings, kernel, initrd, disk, loader, accelerator, cache=cache
        )
        self._index = index or symbol_index(kernel, cache)

    # The handle, whose parts are imported while the first machine starts

    @cached_property
    def _slot(self) -> MachineSlot:
        from ..handle import MachineSlot

        return MachineSlot(
            self.kernel, waits=self._waits, disk=self._disk, patch_code=self._patch_code
        )

    def _patch_code(self, patches: Sequence[Path] | None) -> PatchCode:
        from ..recipes import PatchCode

        given = self.settings.patch if patches is None else patches
        return PatchCode.of(self.kernel, given, self._modules, self._cache)

    @cached_property
    def _kgdb(self) -> Kgdb:
        from ..handle import Kgdb

        return Kgdb(self._slot)

    @cached_property
    def _registry(self) -> ModuleRegistry:
        from ..modules import ModuleRegistry

        return ModuleRegistry(
            self.kernel,
            self._modules,
            self._build_module,
            stand_ins(self.settings.module),
        )

    def _build_module(self, path: Path, variables: Sequence[str]) -> Built:
        given = (*self.settings.make, *self.settings.module_make, *variables)
        return build_external(self.kernel, path, self._cache, self._progress, given)

    # Lending

    def lacks(self, request: TestRequest) -> str | None:  # noqa: ARG002 # a board lacks something
        """Return why a test cannot have what it asks for; None: a machine is made as it asks."""
        return None

    def acquire(self, request: TestRequest) -> Kgdb:
        """Return the handle on a machine in the state that a test asks for.

        Every wait of the test takes at most its `timeout`; of what comes before it here, that of
        the settings, if that is more: a boot takes what it takes on this host.

        :raises KgdbError: the machine does not come up; the message says why.
        """
        self._waits.set(max(request.timeout, self.settings.timeout))
        if request.isolation == "snapshot":
            self._restore(request)
        elif request.isolation == "reboot":
            self._boot(request, snapshots=False)
        else:
            self._go_on(request)
        if self.coverage is not None and self._live.snapshots.current is not None:
            self._cover(request.at)
        self.begin_test()
        self._live.snapshots.current = None
        self._waits.set(request.timeout)
        return self._kgdb

    def _cover(self, at: Point) -> None:
        if at == "kgdbwait" and self.stub == "qemu":
            if not self._uncovered:
                self._uncovered = True
                self._progress.say(
                    "tests at kgdbwait are not covered through QEMU's stub: the kernel has not set "
                    "up its traps there"
                )
            return
        self._live.cover(at)

    _uncovered = False

    def release(self) -> None:
        """Take the handle back from a test, with the snapshots that it took.

        The next :meth:`acquire` restores everything, whatever the test did.
        """
        if self._vm is not None:
            with contextlib.suppress(KgdbError):  # a machine that cannot is not used again
                self._vm.snapshots.drop_named()

    def begin_test(self) -> None:
        """A test begins on a machine that is as the last one left it."""
        vm = self._live
        self._mark = vm.machine.console.mark()
        vm.gdb.clear_tail()
        vm.attachment.splats.begin()
        self._slot.actions.begin()

    def end_test(self, nodeid: str) -> None:
        """A test has ended: what has run since the last one did is its doing."""
        if self.coverage is not None and self._vm is not None and self._vm.coverage is not None:
            self._ran |= self._vm.coverage.take()
        if self.coverage is not None:
            self.coverage.record(nodeid, self._ran)
        self._ran.clear()

    def check_splats(self) -> None:
        """Judge what the kernel reported of itself since the test began, or since the last time.

        :raises SplatError: the test did not expect it; or what it did expect did not come.
        """
        attachment = self._slot.attachment
        if attachment is not None:
            attachment.splats.check()

    @property
    def handle(self) -> Kgdb:
        """The handle as it is; on a new machine of the session's settings if there is none."""
        if self._vm is None or not self._vm.alive:
            self.acquire(self.settings.for_marker({}, "kgdb_session"))
        return self._kgdb

    def _usable(self, request: TestRequest, *, gdb: bool = True) -> bool:
        vm = self._vm
        alive = vm is not None and vm.machine.alive and (vm.gdb.alive or not gdb)
        return vm is not None and alive and vm.spec in self._choice.specs(request)

    def _restore(self, request: TestRequest) -> None:
        # A gdb that died is replaced with the restore.
        usable = self._usable(request, gdb=False)
        if not usable or request.at not in self._live.snapshots.saved:
            self._boot(request, snapshots=True)
        if self._live.snapshots.current == request.at:
            return
        try:
            self._live.restore(request.at)
        except KgdbError as error:
            self._progress.say(
                f"the machine could not be restored ({error.message.splitlines()[0]}); "
                "booting a new one"
            )
            self._boot(request, snapshots=True)
            if self._live.snapshots.current != request.at:
                self._live.restore(request.at)

    def _go_on(self, request: TestRequest) -> None:
        """Give a test what the last one left, as long as it can be used."""
        if self._usable(request) and request.at == "ready":
            with contextlib.suppress(KgdbError):
                console, control = self._live.machine.console, self._live.attachment.run_control
                control.interrupt(timeout=5.0)
                self._kgdb.delete_breakpoints()
                if self._live.snapshots.current != "ready":
                    control.resume()
                    console.synchronise(timeout=10.0, interrupt=True)
                    control.interrupt()
                console.drop()
                return
        self._boot(request, snapshots=False)

    @property
    def _live(self) -> Vm:
        assert self._vm is not None
        return self._vm

    # Booting

    def _boot(self, request: TestRequest, *, snapshots: bool) -> None:
        """Get a machine: from its snapshot, which is made first if need be, or by a boot."""
        self._close_vm()
        if not snapshots:
            self._vm = vm = self._make_vm(self._choice.spec(request, self._initrd), request)
            self._closing_on_error(lambda: self._boot_to(vm, request.at))
            return
        initrd = self._choice.initrd_at(request.at)
        self._start(self._choice.spec(request, initrd), request)
        if initrd is self._initrd or self._initrd.external is None:
            return
        try:
            self._live.unpack(self._initrd.external.read_bytes())
        except KgdbError as error:
            self._progress.say(
                f"the modules could not be put into the guest ({error.message.splitlines()[0]}); "
                "booting one that has them"
            )
            self._choice.keep_modules_in_initrd()
            self._boot(request, snapshots=True)

    def _start(self, spec: MachineSpec, request: TestRequest) -> None:
        """Start a machine from its snapshot, which is made first if need be."""
        discarded = False
        for attempt in range(1, _STARTS + 1):
            entry = self._snapshot(spec, request)
            # A corrupted snapshot could boot unnoticed, so its hashes are verified while QEMU and
            # gdb start.
            with ThreadPoolExecutor(1, "kgdb-examine") as thread:
                examined = thread.submit(self._cache.examine, entry)
                try:
                    self._vm = self._make_vm(spec, request, Snapshot.from_entry(entry.path))
                    if damage := examined.result():
                        self._close_vm()
                        raise CacheError(damage)
                    return
                except FileNotFoundError as error:
                    # Another run has discarded it, and makes another one.
                    if attempt == _STARTS:
                        raise CacheError(f"the snapshot was removed: {error}") from error
                    continue
                except (MachineDied, TimeoutError, CacheError) as error:
                    if discarded or attempt == _STARTS:
                        raise
                    refused = error
            # If QEMU was killed, or the host is busy, that says nothing about the snapshot, which
            # other runs may be using. The second time it does.
            if isinstance(refused, CacheError) or examined.result() or attempt > 1:
                self._cache.discard(KIND, entry.key, refused.message.splitlines()[0])
                discarded = True

    def _snapshot(self, spec: MachineSpec, request: TestRequest) -> Entry:
        """Return the machine's snapshot from the cache; boot, and make it, if there is none.

        For a test of early boot the kernel boots only so far: it may die on its way.
        """
        key = self._choice.snapshot_key(spec)
        early = request.at == "kgdbwait"
        if early:
            entry = self._cache.get(KIND, key)
            if entry is not None:
                return entry
            key = hashlib.sha256(f"{key} kgdbwait".encode()).hexdigest()
        return self._cache.make(
            KIND,
            key,
            lambda directory: self._make_snapshot(spec, request, directory),
            label=f"a snapshot of Linux {self.kernel.release} at {request.at}, "
            f"{spec.smp} CPU{'s' * (spec.smp > 1)}, {spec.memory} MiB",
            about={
                "release": self.kernel.release,
                "kernel": self.kernel.name,
                "smp": spec.smp,
                "memory": spec.memory,
            },
        )

    def prepare(self, request: TestRequest) -> tuple[MachineSpec, Snapshot]:
        """Return the machine that a test asks for, and its snapshot, made first if need be.

        :raises KgdbError: the machine does not come up; the message says why.
        """
        self._waits.set(max(request.timeout, self.settings.timeout))
        spec = self._choice.spec(request, self._choice.initrd_at(request.at))
        return spec, Snapshot.from_entry(self._snapshot(spec, request).path)

    def _make_vm(
        self, spec: MachineSpec, request: TestRequest, snapshot: Snapshot | None = None
    ) -> Vm:
        _ = self._gdb  # before anything is started
        self._index.begin()
        self._index.wait(self._waits.seconds)
        logs = self.logs / f"machine-{next(self._machines)}"
        logs.mkdir(parents=True)
        launch = Launch(
            spec,
            self.kernel,
            logs=logs,
            index_cache=index_cache(self._cache),
            waits=self._waits,
            snapshot=snapshot,
            at=request.at,
        )
        try:
            # Imported while gdb and QEMU start.
            from ._vm import Vm

            return Vm(
                launch,
                self._slot,
                self._registry,
                waits=self._waits,
                remember=self._remember,
                coverage=self.coverage,
                notice=self._progress.say,
            )
        except BaseException:
            launch.close()
            raise

    def _remember(self, key: str, compute: Callable[[], str]) -> str:
        return self._cache.memo("gdb-numbers", f"{self.kernel.key}\n{key}", compute)

    def _boot_to(self, vm: Vm, at: str) -> None:
        vm.boot()
        if at == "ready":
            vm.advance_to_ready()

    def _make_snapshot(self, spec: MachineSpec, request: TestRequest, directory: Path) -> None:
        """Boot a machine, save both snapshots, and copy what is needed to start from them."""
        with self._make_vm(spec, request) as vm:
            vm.boot()
            vm.snapshots.save("kgdbwait")
            if request.at == "ready":
                vm.advance_to_ready()
                vm.snapshots.save("ready")
            vm.freeze().put_into(directory)

    def _closing_on_error(self, work: Callable[[], None]) -> None:
        try:
            work()
        except BaseException:
            self._close_vm()
            raise

    @cached_property
    def _gdb(self) -> str:
        """gdb's version, remembered by its file; one that is too old is refused here."""
        program = Path(which("gdb", package="gdb")).resolve()
        key = program_key(program)
        return self._cache.memo("gdb", key, gdb_version)

    # Reporting

    @cached_property
    def logs(self) -> Path:
        """The directory of this run's logs; the last runs' are kept beside it."""
        return make_log_directory(self._cache.root / "logs")

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
        accel, why = self._choice.accelerator or ("?", "")
        qemu = qemu_version(self.kernel.arch.qemu)
        lines = [
            f"Linux {self.kernel.release} ({self.kernel.name}), QEMU {qemu} with {accel}, "
            f"gdb {self._gdb} on {self.stub_name}"
        ]
        if why and why != "asked for":
            lines.append(f"{accel}: {why}")
        return lines

    def commands(self) -> list[str]:
        """Return the commands by which a user can run the machine and gdb, as lines for a shell."""
        if self._vm is None:
            return []
        from ._report import commands

        return commands(self._vm, self.kernel)

    @property
    def stub(self) -> str:
        """Whose stub gdb is attached to: `kgdb` or `qemu`."""
        return self._choice.stub

    @property
    def stub_name(self) -> str:
        """Whose stub gdb is attached to, and why if nobody asked for that one."""
        if self.stub == "kgdb":
            return "kgdb"
        if self.settings.stub == "qemu":
            return "QEMU's stub"
        return "QEMU's stub (the kernel has no CONFIG_KGDB_SERIAL_CONSOLE)"

    def report_sections(self) -> list[Section]:
        """Return what a failed test's report shows of the kernel, gdb and the console."""
        if self._vm is None:
            return []
        from ._report import sections

        return sections(self._vm, self._mark, self._slot.actions)

    def story(self) -> Story:
        """Return what has happened on the kernel since the test began."""
        from ._report import story

        return story(self._vm, self._mark, self._slot.actions)

    def save_artifacts(self, directory: Path, *, dump: bool, machine: bool) -> None:
        """Save what a failed test's artifacts have besides the report and the logs.

        :param dump: whether to save a vmcore, too.
        :param machine: whether to save the machine as a file, too.
        :raises OSError: a file cannot be written.
        """
        if self._vm is not None:
            from ._report import save_artifacts, save_state

            save_artifacts(self._vm, self._mark, self._slot.actions, directory)
            save_state(self._vm, directory, dump=dump, machine=machine)

    def attach(self, *, tests: bool = False, commands: Sequence[str] = ("frame",)) -> bool:
        """Give the user gdb on the machine as it is; boot one if there is none.

        :param tests: whether tests go on afterwards.
        :param commands: gdb's commands to begin with.
        :return: whether the user wants the run of the tests to end.
        :raises ConfigError: there is no terminal.
        """
        from ._attach import attach, load_scripts

        _ = self.handle
        vm = self._live
        load_scripts(vm.attachment, self.settings, self._cache, self._progress.say)
        try:
            return attach(vm.attachment, self._progress.say, tests=tests, commands=commands)
        finally:
            vm.snapshots.current = None

    # Ending

    def _close_vm(self) -> None:
        vm, self._vm = self._vm, None
        if vm is not None:
            if vm.coverage is not None:
                self._ran |= vm.coverage.take()
            vm.close()

    def close(self) -> None:
        """End the machine and its debugger."""
        self._close_vm()

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
