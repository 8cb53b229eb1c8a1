"""What is to be tested of a kernel: patches, a patch taken out, or git's revisions; two sides."""

from ._change import Change, Side, from_patches, from_revert, from_revisions
from ._git import git, resolved, run_git, show_commit, tree_of
from ._lines import ChangedLines, changed_lines

__all__ = [
    "Change",
    "ChangedLines",
    "Side",
    "changed_lines",
    "from_patches",
    "from_revert",
    "from_revisions",
    "git",
    "resolved",
    "run_git",
    "show_commit",
    "tree_of",
]
