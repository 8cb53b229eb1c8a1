"""Base against patched: the same tests on both kernels, and what that says of the change."""

from ._bisect import Bisection, Conclusion
from ._formats import as_json, as_markdown, as_table
from ._github import as_annotations, without_commands
from ._gitlab import as_gitlab
from ._junit import as_junit
from ._ktap import as_ktap
from ._module import from_module, same_code
from ._run import BuiltSide, Gate, Outcome
from ._runner import GateFailed, PytestDied, Runner, child_environment
from ._sarif import as_sarif
from ._search import ConfigSearch, Discovery, PatchSearch
from ._series import Series, Step, each_patch, each_revision, run_each
from ._tested import Commit, State, judge_commit
from ._verdicts import POLICIES, Result, Verdict, repeats_for

__all__ = [
    "POLICIES",
    "Bisection",
    "BuiltSide",
    "Commit",
    "Conclusion",
    "ConfigSearch",
    "Discovery",
    "Gate",
    "GateFailed",
    "Outcome",
    "PatchSearch",
    "PytestDied",
    "Result",
    "Runner",
    "Series",
    "State",
    "Step",
    "Verdict",
    "as_annotations",
    "as_gitlab",
    "as_json",
    "as_junit",
    "as_ktap",
    "as_markdown",
    "as_sarif",
    "as_table",
    "child_environment",
    "each_patch",
    "each_revision",
    "from_module",
    "judge_commit",
    "repeats_for",
    "run_each",
    "same_code",
    "without_commands",
]
