"""The command `pytest-kgdb`."""

from ._main import main

__all__ = ["main"]
