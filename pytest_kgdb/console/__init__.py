"""The serial console."""

from ._console import Console
from ._shell import ANY_ANSWER, PrintedLog, Result, new_tag

__all__ = ["ANY_ANSWER", "Console", "PrintedLog", "Result", "new_tag"]
