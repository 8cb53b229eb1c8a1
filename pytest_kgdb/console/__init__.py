"""The serial console: always drained, spoken to by pexpect, synchronised by tags."""

from ._console import Console, Result

__all__ = ["Console", "Result"]
