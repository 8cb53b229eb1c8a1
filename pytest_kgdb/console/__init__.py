"""The serial console."""

from ._console import Console
from ._input import ConsoleInput
from ._ready import ShellReadiness
from ._shell import ANY_ANSWER, PrintedLog, Result, as_typed, new_tag

__all__ = [
    "ANY_ANSWER",
    "Console",
    "ConsoleInput",
    "PrintedLog",
    "Result",
    "ShellReadiness",
    "as_typed",
    "new_tag",
]
