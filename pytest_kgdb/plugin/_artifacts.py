"""Kernel, modules, initrd, disk and session, made when a fixture first asks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol

import pytest

from ..arch import X86_64
from ..progress import Progress
from ..report import Section, Story
from ..settings import Settings

if TYPE_CHECKING:
    from ..board import BoardAccess
    from ..cache import Cache
    from ..debugger import SymbolIndex
    from ..disk import Disk
    from ..handle import Kgdb
    from ..initrd import Initrd
    from ..kernel import Kernel
    from ..recipes import Coverage
    from ..session import Accelerator, BoardSession, Session
    from ..settings import TestRequest


class KernelSession(Protocol):
    """What a run asks of a session; :class:`pytest_kgdb.session.Session` is the real one."""

    @property
    def stub(self) -> str:
        """Whose stub gdb is attached to: `kgdb` or `qemu`."""

    @property
    def console_log(self) -> Path:
        """Everything that the present machine's console showed."""

    @property
    def transcript(self) -> Path:
        """The present gdb's conversation."""

    @property
    def handle(self) -> Kgdb:
        """The handle as it is; on a new machine if there is none."""

    def lacks(self, request: TestRequest) -> str | None:
        """Return why a test cannot have what it asks for; None if it can."""

    def acquire(self, request: TestRequest) -> Kgdb:
        """Return the handle on a machine in the state that a test asks for."""

    @property
    def coverage(self) -> Coverage | None:
        """What ran of the lines that are named; None where none are."""

    def end_test(self, nodeid: str) -> None:
        """A test has ended: what has run since the last one did is its doing."""

    def release(self) -> None:
        """Take the handle back from a test."""

    def begin_test(self) -> None:
        """A test begins on a machine that is as the last one left it."""

    def check_splats(self) -> None:
        """Judge what the kernel reported of itself; raises SplatError."""

    def describe(self) -> list[str]:
        """Return what a user should know of the machine, in lines."""

    def commands(self) -> list[str]:
        """Return the commands by which a user can run the machine and gdb, as lines for a shell."""

    def report_sections(self) -> list[Section]:
        """Return what a failed test's report shows."""

    def story(self) -> Story:
        """Return what has happened on the kernel since the test began."""

    def save_artifacts(self, directory: Path, *, dump: bool, machine: bool) -> None:
        """Save what a failed test's artifacts have besides the report and the logs."""

    def attach(self, *, tests: bool) -> bool:
        """Give the user gdb on the machine as it is; return whether the run is to end.

        :param tests: whether tests go on afterwards.
        """

    def close(self) -> None:
        """End the machine and its debugger."""


class ArtifactSource(Protocol):
    """Makes what a run needs; :class:`Artifacts` is the real one."""

    def kernel(
        self, spec: str, config: str | None = None, settings: Settings | None = None
    ) -> Kernel:
        """Return the kernel that a SPEC stands for.

        :param config: the base of its configuration; None for that of the settings.
        :param settings: others than those of the run.
        """

    def initrd(self, kernel: Kernel) -> Initrd | None:
        """Return the initrd for a kernel; None for a board, which has its own."""

    def disk(self, kernel: Kernel) -> Disk | None:
        """Return the disk image for a kernel; None where none is asked for."""

    def session(self, kernel: Kernel, initrd: Initrd | None, disk: Disk | None) -> KernelSession:
        """Return a session of a kernel, with no machine booted yet."""


SOURCE: Final = pytest.StashKey[Callable[[Settings, Progress], ArtifactSource]]()
"""What makes the artifacts of a run, where it is not :class:`Artifacts`."""


KERNEL_OF: Final = pytest.StashKey["Kernel"]()
"""The kernel that a test has a machine of, on the test."""


class Artifacts:
    """Makes what a session is put together from.

    The modules that do the work are imported by the first use: a test that is skipped because no
    kernel is named pays for none of them.

    :param config: pytest's, if it is running.
    """

    def __init__(
        self, settings: Settings, progress: Progress, config: pytest.Config | None = None
    ) -> None:
        self._settings = settings
        self._progress = progress
        self._config = config
        self._indexes: dict[Path, SymbolIndex] = {}  # of each vmlinux

    @cached_property
    def cache(self) -> Cache:
        """The store of what was built."""
        from ..cache import Cache

        return Cache(
            self._settings.cache_dir, progress=self._progress, remote=self._settings.remote_cache
        )

    def kernel(
        self, spec: str, config: str | None = None, settings: Settings | None = None
    ) -> Kernel:
        """Return the kernel that a SPEC stands for, built if need be.

        :param config: the base of its configuration; None for that of the settings.
        :param settings: others than those of the run.
        """
        from ..kernel import prepare

        settings = (settings or self._settings).with_config(config)
        if settings.target is None:
            self._accelerator.begin(X86_64.qemu)
        kernel = prepare(settings, spec, self.cache, self._progress)
        self._index(kernel).begin()
        return kernel

    @cached_property
    def _accelerator(self) -> Accelerator:
        """Chooses between KVM and TCG; the try is made while the kernel is built or downloaded."""
        from ..session import Accelerator

        return Accelerator(self._settings.accel, self.cache)

    def _index(self, kernel: Kernel) -> SymbolIndex:
        """gdb's index of a kernel's symbols, which is made while the initrd is."""
        if kernel.vmlinux not in self._indexes:
            from ..session import symbol_index

            self._indexes[kernel.vmlinux] = symbol_index(kernel, self.cache)
        return self._indexes[kernel.vmlinux]

    def modules(self, kernel: Kernel) -> list[Path]:
        """Return the out-of-tree modules, built against a kernel."""
        if not self._settings.module:
            return []
        from ..kernel import build_external

        variables = (*self._settings.make, *self._settings.module_make)
        files: dict[Path, None] = {}
        for module in self._settings.module:
            built = build_external(kernel, module, self.cache, self._progress, variables)
            files.update(dict.fromkeys([*built.needed, *built.modules]))
        return list(files)

    def initrd(self, kernel: Kernel) -> Initrd | None:
        """Return the initrd for a kernel, with the modules in it; None for a board."""
        if self._settings.target is not None:
            return None
        from ..initrd import prepare

        return prepare(self._settings, kernel, self.modules(kernel), self.cache, self._progress)

    def disk(self, kernel: Kernel) -> Disk | None:
        """Return the disk image for a kernel; None where none is asked for."""
        if self._settings.disk == "none":
            return None
        from ..disk import prepare

        modules = self.modules(kernel)
        return prepare(self._settings, kernel, self.cache, self._progress, modules=modules)

    def session(
        self, kernel: Kernel, initrd: Initrd | None, disk: Disk | None
    ) -> Session | BoardSession:
        """Return a session of a kernel, with no machine booted yet."""
        if initrd is None:
            from ..session import BoardSession

            access = self._access()
            return BoardSession(
                self._settings, access, kernel, cache=self.cache, progress=self._progress
            )
        from ..session import Session

        modules = self.modules(kernel)
        return Session(
            self._settings,
            kernel,
            initrd,
            disk,
            cache=self.cache,
            progress=self._progress,
            modules=modules,
            coverage=self._coverage(kernel, modules),
            accelerator=self._accelerator,
            index=self._index(kernel),
        )

    def _access(self) -> BoardAccess:
        from ..board import BoardAccess, labgrid_access
        from ..settings import LabgridTarget

        if not isinstance(self._settings.target, LabgridTarget):
            return BoardAccess.of(self._settings)
        from ._labgrid import labgrid_environment

        environment = labgrid_environment(self._config, self._settings.origin("target"))
        return labgrid_access(self._settings, environment)

    def _coverage(self, kernel: Kernel, modules: Sequence[Path]) -> Coverage | None:
        if not self._settings.cov:
            return None
        from ..recipes import Coverage

        return Coverage.of(
            kernel,
            self._settings.cov,
            patches=self._settings.patch,
            modules=modules,
            cache=self.cache,
        )
