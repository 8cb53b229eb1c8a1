"""The command `pytest-kgdb`: what can be done without a test."""

from ._main import main

__all__ = ["main"]
