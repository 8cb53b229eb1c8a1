"""How much memory a gdb may have."""

from __future__ import annotations

import os
from functools import cache
from typing import Final

__all__ = ["memory_limit"]

_LEAST: Final = 4 << 30  # bytes


@cache
def memory_limit() -> int:
    """Return the bytes that a gdb may have: half of the host's memory, and at least 4 GiB.

    gdb on a kernel with all of its debug information needs one or two. A vmlinux can be made that
    has it ask for any amount, as by sections that are compressed a thousandfold.
    """
    return max(_LEAST, os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2)
