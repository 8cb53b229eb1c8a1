"""Machines that start from their disk's own boot loader."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from ..errors import ConfigError
from ..machine import kernel_command_line

if TYPE_CHECKING:
    from ..cache import Cache
    from ..disk import BootArea, Disk
    from ..initrd import Initrd
    from ..kernel import Kernel
    from ..machine import MachineSpec
    from ..progress import Progress
    from ..settings import Settings

__all__ = ["Loader"]


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
