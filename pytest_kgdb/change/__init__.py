"""What is to be tested of a kernel: patches, a patch taken out, or git's revisions; two sides."""

from ._change import Change, Side, from_patches, from_revert, from_revisions
from ._git import changed_names, diff, git, resolved, run_git, show_commit, subject_of, tree_of
from ._lines import ChangedLines, built_lines, changed_lines
from ._stand_in import note_stand_in, stand_ins

__all__ = [
    "Change",
    "ChangedLines",
    "Side",
    "built_lines",
    "changed_lines",
    "changed_names",
    "diff",
    "from_patches",
    "from_revert",
    "from_revisions",
    "git",
    "note_stand_in",
    "resolved",
    "run_git",
    "show_commit",
    "stand_ins",
    "subject_of",
    "tree_of",
]
