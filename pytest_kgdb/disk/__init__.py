"""The guest's disk: a Debian image that is built, or the user's image; never written to."""

from ._bootable import ROOT, BootArea, boot_area
from ._debian import needs_initramfs
from ._image import Disk
from ._initramfs import initramfs_tools
from ._prepare import prepare
from ._qcow2 import backing_of, check_untrusted, keep_snapshot, set_backing
from ._root import root

__all__ = [
    "ROOT",
    "BootArea",
    "Disk",
    "backing_of",
    "boot_area",
    "check_untrusted",
    "initramfs_tools",
    "keep_snapshot",
    "needs_initramfs",
    "prepare",
    "root",
    "set_backing",
]
