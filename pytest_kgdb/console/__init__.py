"""The serial console."""

from ._console import Console
from ._shell import ANY_ANSWER, PrintedLog, Result, as_typed, new_tag

__all__ = ["ANY_ANSWER", "Console", "PrintedLog", "Result", "as_typed", "new_tag"]
