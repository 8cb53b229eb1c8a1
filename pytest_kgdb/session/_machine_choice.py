"""Which machine a test gets: its initrd, its accelerator, and the key of its snapshots."""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Final

from ..errors import ConfigError
from ..kernel import stub_for
from ..machine import MachineSpec
from ..process import program_key, which
from ._accel import Accelerator, qemu_version
from ._snapshot import key_of

if TYPE_CHECKING:
    from ..cache import Cache
    from ..disk import Disk
    from ..initrd import Initrd
    from ..kernel import Kernel
    from ..settings import Point, Settings, TestRequest
    from ._boot import Loader

__all__ = ["MachineChoice", "check_boot_console"]

# drivers/tty/serial/kgdboc.c, kgdboc_earlycon_init
_EARLYCON_SINCE: Final = (5, 8)


class MachineChoice:
    """Turns what a test asks for into machines.

    :param initrd: the one that has the external modules.
    :param loader: of a system that its own boot loader starts; None otherwise.
    """

    def __init__(
        self,
        settings: Settings,
        kernel: Kernel,
        initrd: Initrd,
        disk: Disk | None,
        loader: Loader | None,
        accelerator: Accelerator,
        *,
        cache: Cache,
    ) -> None:
        self._settings = settings
        self._kernel = kernel
        self._initrd = initrd
        self._disk = disk
        self._loader = loader
        self._cache = cache
        self._accelerator = accelerator
        self.accelerator: tuple[str, str] | None = None
        """KVM or TCG, and why; None until a machine has been asked for."""
        self.stub = stub_for(settings.stub, kernel.config)
        """Whose stub gdb is attached to: `kgdb` or `qemu`."""
        # Files are put into a guest through the memory of a program there.
        self._unpacks = initrd.base is not None and disk is None and kernel.stop_layout is not None

    def keep_modules_in_initrd(self) -> None:
        """Start no machine any more whose modules are put into the guest after the restore."""
        self._unpacks = False

    def initrd_at(self, at: Point) -> Initrd:
        """Return the initrd of the machine that is started from its snapshot.

        A module that is edited changes the initrd, and the kernel would boot anew for it. Where
        the guest has come up, the modules are put into it after the restore instead.
        """
        base = self._initrd.base
        return base if self._unpacks and at == "ready" and base is not None else self._initrd

    def specs(self, request: TestRequest) -> list[MachineSpec]:
        """Return the machines that do for a test, started from a snapshot or booted."""
        initrds = {initrd.path: initrd for initrd in (self.initrd_at(request.at), self._initrd)}
        return [self.spec(request, initrd) for initrd in initrds.values()]

    def spec(self, request: TestRequest, initrd: Initrd) -> MachineSpec:
        """Return the machine that a test asks for, with an initrd."""
        spec = MachineSpec(
            arch=self._kernel.arch,
            image=self._kernel.image,
            # A system on a disk is booted without the busybox that nobody asked for.
            initrd=initrd.path if self._has_initrd(initrd) else None,
            **vars(request.machine),
            disk=self._disk.path if self._disk is not None else None,
            forwards=tuple(
                f"{forward.proto}:127.0.0.1:{forward.host}-:{forward.guest}"
                for forward in self._settings.forward
            ),
            stub=self.stub,
        )
        check_boot_console(spec, self._kernel)
        spec = replace(spec, accel=self._choose(spec)[0])
        return spec if self._loader is None else self._loader.from_disk(spec)

    def _has_initrd(self, initrd: Initrd) -> bool:
        chosen = "initrd" in self._settings.origins or initrd.kind == "initramfs-tools"
        return self._disk is None or chosen

    def _choose(self, spec: MachineSpec) -> tuple[str, str]:
        if self.accelerator is None:
            self.accelerator = self._accelerator.choose(spec)
        return self.accelerator

    def snapshot_key(self, spec: MachineSpec) -> str:
        """Return the key of a machine's snapshots in the cache."""
        return key_of(
            spec,
            kernel=self._kernel.key,
            initrd=next(
                initrd.key
                for initrd in (self._initrd, self._initrd.base)
                if initrd is not None and spec.initrd in (None, initrd.path)
            ),
            disk=self._disk.key if self._disk is not None else "",
            qemu=self._qemu,
        )

    @cached_property
    def _qemu(self) -> str:
        """QEMU's version, remembered by its file: asking it costs a process."""
        program = Path(which(self._kernel.arch.qemu, package="qemu-system-x86")).resolve()
        key = program_key(program)
        return self._cache.memo("qemu", key, lambda: qemu_version(str(program)))


def check_boot_console(spec: MachineSpec, kernel: Kernel) -> None:
    """Check that kgdb can be on a boot console, if the kernel's parameters say so.

    :raises ConfigError: the kernel has no code for it, or it would be another port than gdb's.
    """
    if not spec.begins_early:
        return
    if kernel.version < _EARLYCON_SINCE:
        raise ConfigError(
            f"kgdboc_earlycon: Linux {kernel.release} has no such parameter, which came with 5.8",
            hint='leave it out: at="kgdbwait" is before the initrd is unpacked',
        )
    for symbol in ("SERIAL_EARLYCON", "CONSOLE_POLL"):
        if kernel.config.get(symbol) != "y":
            raise ConfigError(
                f"kgdboc_earlycon: this kernel has no CONFIG_{symbol}, and no boot console to read",
                hint="CONFIG_SERIAL_8250_CONSOLE and CONFIG_KGDB_SERIAL_CONSOLE, built in, select "
                "both",
            )
    port = spec.arch.early_kgdb.rpartition(",")[0]
    for word in spec.append.split():
        if word.startswith("earlycon") and not word.startswith(f"earlycon={port}"):
            raise ConfigError(
                f"kgdboc_earlycon: {word} is not kgdb's port, which is {port}",
                hint="leave earlycon out: it is added for that port",
            )
