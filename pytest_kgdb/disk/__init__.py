"""The guest's disk: a Debian built here, or an image of the user's; never written to."""

from ._image import Disk
from ._prepare import prepare

__all__ = ["Disk", "prepare"]
