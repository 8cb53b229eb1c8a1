"""Base against patched: the same tests on both kernels, and what that says of the change."""

from ._change import Change, Side, from_patches, from_revert, from_revisions
from ._formats import as_json, as_markdown, as_table
from ._run import Gate, GateFailed, Outcome
from ._verdicts import POLICIES, Result, Verdict, repeats_for

__all__ = [
    "POLICIES",
    "Change",
    "Gate",
    "GateFailed",
    "Outcome",
    "Result",
    "Side",
    "Verdict",
    "as_json",
    "as_markdown",
    "as_table",
    "from_patches",
    "from_revert",
    "from_revisions",
    "repeats_for",
]
