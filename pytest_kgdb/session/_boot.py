"""Machines that start from their disk's own boot loader."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from ..errors import BootError, ConfigError, KgdbError
from ..machine import kernel_command_line

if TYPE_CHECKING:
    from ..cache import Cache
    from ..disk import BootArea, Disk
    from ..initrd import Initrd
    from ..kernel import Kernel
    from ..machine import Machine, MachineSpec
    from ..progress import Progress
    from ..settings import Settings
    from ..target import Kgdb

__all__ = ["Loader", "check_kernel"]

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


def check_kernel(handle: Kgdb, kernel: Kernel, machine: Machine) -> None:
    """Look whether an image has booted the kernel whose symbols gdb has.

    :raises BootError: it has not, or not in a way in which it can be debugged.
    """
    hint = (
        f"install in the image what was built ({kernel.image}, {kernel.modules_dir}), and have "
        f"its boot loader give it {kernel_command_line(replace(machine.spec, disk=None))!r}"
    )
    if not _has_build_id(handle, kernel):
        raise BootError(
            f"the kernel in the image is not {kernel.spec}: its build id is not "
            f"{kernel.build_id}; or it was loaded elsewhere than linked, without nokaslr\n"
            f"the console's last lines are:\n{machine.console.tail(15)}",
            log=machine.console.log,
            hint=hint,
        )
    words = handle.evaluate("saved_command_line").string().split()
    if missing := [word for word in _NEEDED if word not in words]:
        raise BootError(
            f"the image's boot loader gives its kernel no {' and no '.join(missing)}: "
            f"{' '.join(words)}",
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
