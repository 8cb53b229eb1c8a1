"""What a test expects of the kernel's log, and the verdict on what it got."""

from __future__ import annotations

from ._expected import ExpectedSplat
from ._watch import SplatWatch

__all__ = ["ExpectedSplat", "SplatWatch"]
