"""The serial console."""

from ._console import Console
from ._shell import Result

__all__ = ["Console", "Result"]
