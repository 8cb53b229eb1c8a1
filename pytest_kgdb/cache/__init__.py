"""The artifact cache: whole, verified entries by content key, each built once."""

from ._care import EntryInfo, Problem, Removed, shown_size
from ._store import Cache, Entry

__all__ = ["Cache", "Entry", "EntryInfo", "Problem", "Removed", "shown_size"]
