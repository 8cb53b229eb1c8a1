"""Where gdb's indexes of symbols are kept."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ..debugger import SymbolIndex

if TYPE_CHECKING:
    from ..cache import Cache
    from ..kernel import Kernel

__all__ = ["index_cache", "symbol_index"]


def index_cache(cache: Cache) -> Path:
    """Return the directory that gdb keeps its indexes in (gdb manual, "Index Files")."""
    return cache.root / "gdb-index"


def symbol_index(kernel: Kernel, cache: Cache) -> SymbolIndex:
    """Return the index of a kernel's symbols, which need not have been made."""
    return SymbolIndex(kernel, index_cache(cache))
