"""The serial console: always drained, spoken to by pexpect; and what the kernel's log says."""

from ._console import Console, Result
from ._log import LogLine, console_lines, kernel_records, without_kernel_records
from ._splat import Splat, SplatFrame
from ._splats import KINDS, find_splats

__all__ = [
    "KINDS",
    "Console",
    "LogLine",
    "Result",
    "Splat",
    "SplatFrame",
    "console_lines",
    "find_splats",
    "kernel_records",
    "without_kernel_records",
]
