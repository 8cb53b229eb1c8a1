"""What the kernel says of itself, as text: log lines, splats, panics, KTAP."""

from ._cursor import ConsoleCursor, LogCursor, LogEntry, RingCursor
from ._headlines import KINDS, is_detail
from ._ktap import KtapCase, KtapStatus, KtapSuite, parse_ktap
from ._log import (
    LogLine,
    LogSource,
    console_lines,
    kernel_records,
    record_spans,
    without_kernel_records,
    without_printed,
    without_records,
)
from ._panic import (
    PANIC,
    PANIC_END,
    PANIC_END_WORDS,
    PANIC_WORDS,
    console_panic,
    console_panic_end,
    log_panic,
)
from ._splat import Splat, SplatFrame, SplatKey, in_source
from ._splats import find_splats

__all__ = [
    "KINDS",
    "PANIC",
    "PANIC_END",
    "PANIC_END_WORDS",
    "PANIC_WORDS",
    "ConsoleCursor",
    "KtapCase",
    "KtapStatus",
    "KtapSuite",
    "LogCursor",
    "LogEntry",
    "LogLine",
    "LogSource",
    "RingCursor",
    "Splat",
    "SplatFrame",
    "SplatKey",
    "console_lines",
    "console_panic",
    "console_panic_end",
    "find_splats",
    "in_source",
    "is_detail",
    "kernel_records",
    "log_panic",
    "parse_ktap",
    "record_spans",
    "without_kernel_records",
    "without_printed",
    "without_records",
]
