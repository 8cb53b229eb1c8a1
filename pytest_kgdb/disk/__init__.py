"""The guest's disk: a Debian built here, or an image of the user's; never written to."""

from ._image import Disk
from ._initramfs import initramfs_tools
from ._prepare import prepare
from ._root import root

__all__ = ["Disk", "initramfs_tools", "prepare", "root"]
