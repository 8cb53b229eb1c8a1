"""The serial console."""

from ._console import Console, Result

__all__ = ["Console", "Result"]
