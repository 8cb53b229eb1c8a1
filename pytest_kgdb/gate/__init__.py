"""Base against patched: the same tests on both kernels, and what that says of the change."""

from ._bisect import Bisection, Commit, Conclusion, State, judge_commit
from ._change import Change, Side, from_patches, from_revert, from_revisions
from ._formats import as_json, as_markdown, as_table
from ._git import show_commit, tree_of
from ._github import as_annotations, without_commands
from ._gitlab import as_gitlab
from ._junit import as_junit
from ._ktap import as_ktap
from ._lines import ChangedLines
from ._run import Gate, Outcome
from ._runner import GateFailed, Runner
from ._sarif import as_sarif
from ._verdicts import POLICIES, Result, Verdict, repeats_for

__all__ = [
    "POLICIES",
    "Bisection",
    "Change",
    "ChangedLines",
    "Commit",
    "Conclusion",
    "Gate",
    "GateFailed",
    "Outcome",
    "Result",
    "Runner",
    "Side",
    "State",
    "Verdict",
    "as_annotations",
    "as_gitlab",
    "as_json",
    "as_junit",
    "as_ktap",
    "as_markdown",
    "as_sarif",
    "as_table",
    "from_patches",
    "from_revert",
    "from_revisions",
    "judge_commit",
    "repeats_for",
    "show_commit",
    "tree_of",
    "without_commands",
]
