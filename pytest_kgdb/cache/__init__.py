"""The artifact cache: complete, verified entries by content key, each built once."""

from ._files import write_atomically
from ._garbage import EntryInfo, Problem, Removed, shown_size
from ._store import Cache, Entry

__all__ = [
    "Cache",
    "Entry",
    "EntryInfo",
    "Problem",
    "Removed",
    "shown_size",
    "write_atomically",
]
