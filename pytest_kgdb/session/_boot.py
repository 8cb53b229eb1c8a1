"""Machines that start from their disk's own boot loader."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

from ..deadline import WaitLimit
from ..errors import BootError, ConfigError, DebuggerDied, KgdbError, MachineDied
from ..machine import check_boot, kernel_command_line
from ..rsp import QemuStub
from ..state import Vmlinux

if TYPE_CHECKING:
    from ..cache import Cache
    from ..disk import BootArea, Disk
    from ..initrd import Initrd
    from ..kernel import Kernel
    from ..machine import Machine, MachineSpec
    from ..progress import Progress
    from ..settings import Settings
    from ..target import Kgdb

__all__ = ["Loader", "start_kernel", "the_images_kernel"]

# Without these the debugger does not work (machine.kernel_command_line).
_NEEDED = ("nokaslr", "rodata=off")


class Loader:
    """Makes of a machine whose kernel QEMU loads one that starts from its disk.

    :param disk: a Debian that was built with room for a boot loader, or the user's own image.
    """

    def __init__(
        self,
        settings: Settings,
        kernel: Kernel,
        initrd: Initrd,
        disk: Disk,
        *,
        cache: Cache,
        progress: Progress,
    ) -> None:
        self._settings = settings
        self._kernel = kernel
        self._initrd = initrd
        self._disk = disk
        self._cache = cache
        self._progress = progress
        self._areas: dict[str, BootArea] = {}

    def from_disk(self, spec: MachineSpec) -> MachineSpec:
        """Return the machine that boots the same by itself.

        :raises ConfigError: it cannot have these parameters.
        :raises BuildError: the boot loader could not be made.
        """
        if self._disk.kind == "file":
            if spec.append:
                raise ConfigError(
                    f"append={spec.append!r}: with --kgdb-boot=disk the parameters are those in "
                    f"the image's own boot loader, {self._disk.base}",
                    hint="write them there; or leave --kgdb-boot out, and QEMU loads the kernel",
                )
            return replace(spec, image=None, initrd=None)
        from ..disk import ROOT, boot_area  # which most runs have no use for

        spec = replace(spec, root=ROOT)
        parameters = kernel_command_line(spec)
        area = self._areas.get(parameters)
        if area is None:
            area = self._areas[parameters] = boot_area(
                self._kernel,
                (self._initrd.path, self._initrd.key) if spec.initrd is not None else None,
                parameters,
                self._settings.disk_size,
                self._cache,
                self._progress,
            )
        return replace(spec, image=None, initrd=None, boot_area=area.path, boot_key=area.key)


def start_kernel(machine: Machine, kernel: Kernel, timeout: float) -> None:
    """Let a machine go until the kernel's first function in C, by QEMU's stub.

    :raises BootError: it never came there.
    """

    def patience(seconds: float) -> bool:
        check_boot(machine)
        if seconds < timeout:
            return True
        raise BootError(
            f"the kernel did not reach start_kernel in {timeout:g} s\n"
            f"the console's last lines are:\n{machine.console.tail(15)}",
            log=machine.console.log,
            hint="is it one for this machine? A slow host wants a larger --kgdb-timeout",
        )

    # A debug register's, for there is no kernel in memory yet.
    QemuStub(machine.connect_stub, waits=WaitLimit(timeout)).run_to(
        Vmlinux(kernel.vmlinux).need("start_kernel"), patience
    )


@contextlib.contextmanager
def the_images_kernel(handle: Kgdb, kernel: Kernel, machine: Machine) -> Iterator[None]:
    """Around connecting to a kernel that an image has booted: is it the one that gdb knows?

    :raises BootError: it is not, or cannot be debugged as it was booted.
    """
    hint = (
        f"install in the image what was built ({kernel.image}, {kernel.modules_dir}), and have "
        f"its boot loader give it {kernel_command_line(replace(machine.spec, disk=None))!r}"
    )
    try:
        yield
    except (MachineDied, DebuggerDied):
        raise
    except KgdbError as error:  # nothing of it is where it should be
        raise _another(kernel, machine, hint) from error
    if not _has_build_id(handle, kernel):
        raise _another(kernel, machine, hint)
    if machine.spec.stub == "qemu":
        return  # which needs no more than symbols that are where they say
    words = handle.evaluate("saved_command_line").string().split()
    if missing := [word for word in _NEEDED if word not in words]:
        raise BootError(
            f"the image's boot loader gives its kernel no {' and no '.join(missing)}: "
            f"{' '.join(words)}",
            log=machine.console.log,
            hint=hint,
        )


def _another(kernel: Kernel, machine: Machine, hint: str) -> BootError:
    return BootError(
        f"the kernel in the image is not {kernel.spec}: its build id is not {kernel.build_id}; or "
        f"it was loaded elsewhere than linked, without nokaslr\n"
        f"the console's last lines are:\n{machine.console.tail(15)}",
        log=machine.console.log,
        hint=hint,
    )


def _has_build_id(handle: Kgdb, kernel: Kernel) -> bool:
    if not kernel.build_id:
        return True  # nothing to go by
    try:
        # include/asm-generic/vmlinux.lds.h, NOTES
        start, stop = (
            int(handle.evaluate(f"(unsigned long)&{name}"))
            for name in ("__start_notes", "__stop_notes")
        )
        return bytes.fromhex(kernel.build_id) in handle.read(start, stop - start)
    except KgdbError:
        return False
