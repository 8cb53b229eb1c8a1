"""The serial console."""

from ._console import Console
from ._shell import PrintedLog, Result

__all__ = ["Console", "PrintedLog", "Result"]
