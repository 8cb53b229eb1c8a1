"""git, as far as a change or a search is concerned; the user's repository is only read."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from ..errors import ConfigError
from ..kernel import git_environment
from ..process import Completed, run, which

__all__ = [
    "changed_names",
    "diff",
    "git",
    "is_dirty",
    "resolved",
    "run_git",
    "show_commit",
    "subject_of",
    "tree_of",
]

# Plumbing: `git diff` and format-patch heed the user's diff.noprefix, diff.relative, format.attach
# and the like (git-config(1)).
_DIFF_TREE: Final = (
    *("diff-tree", "-r", "--no-commit-id", "--no-color", "--no-ext-diff", "--no-textconv"),
    *("--no-renames", "--no-relative"),
)
_PATCH: Final = ("--patch", "--src-prefix=a/", "--dst-prefix=b/", "--inter-hunk-context=0")

_SECONDS: Final = 300.0


def tree_of(spec: str) -> Path:
    """Return the git tree that a SPEC names.

    :raises ConfigError: it names none.
    """
    tree = Path(spec if Path(spec).exists() else spec.rpartition("@")[0] or spec)
    if not (tree / ".git").exists():
        raise ConfigError(
            f"{spec} is no git tree, so that it has no revisions",
            hint="name a clone of the kernel as --kgdb-kernel, or a patch instead of the revision",
        )
    return tree


def resolved(tree: Path, revision: str) -> str:
    """Return the commit that a revision stands for.

    :raises ConfigError: there is none.
    """
    result = run_git(tree, "rev-parse", "--verify", "--quiet", f"{revision}^{{commit}}")
    if result.status == 0:
        return result.output.strip()
    shallow = git(tree, "rev-parse", "--is-shallow-repository").strip() == "true"
    raise ConfigError(
        f"{tree} has no revision {revision}",
        hint=f"the clone is shallow: git -C {tree} fetch --unshallow" if shallow else None,
    )


def is_dirty(tree: Path) -> bool:
    """Whether files of a tree that git has differ from its HEAD."""
    # Without the option, git would write what it has learnt of the files into the user's index.
    return bool(git(tree, "--no-optional-locks", "status", "--porcelain", "--untracked-files=no"))


def show_commit(tree: Path, revision: str) -> str:
    """Return a commit with its diff, for people."""
    words = ("show", "--stat", "--patch", "--no-color", "--no-ext-diff", "--no-show-signature")
    return git(tree, *words, revision)


def subject_of(tree: Path, revision: str) -> str:
    """Return the first line of a commit's message."""
    return git(tree, "log", "-1", "--no-show-signature", "--format=%s", revision).strip()


def changed_names(tree: Path, before: str, after: str, *paths: str) -> list[str]:
    """Return the names of the files in which two revisions differ."""
    names = git(tree, *_DIFF_TREE, "-z", "--name-only", before, after, "--", *paths)
    return [name for name in names.split("\0") if name]


def diff(tree: Path, *revisions: str, context: int = 3, paths: Sequence[str] = ()) -> bytes:
    """Return a diff between two revisions, or a commit's own, that patch(1) takes.

    It is the same whatever the user's configuration says of diffs.
    """
    words = ("--root", "--binary", "--full-index", f"--unified={context}")
    with tempfile.NamedTemporaryFile(prefix="pytest-kgdb-diff-") as file:
        # Not as output, which is text: a file may be in any encoding.
        output = f"--output={file.name}"
        git(tree, *_DIFF_TREE, *_PATCH, *words, output, *revisions, "--", *paths)
        return Path(file.name).read_bytes()


def git(tree: Path, *words: str) -> str:
    """Run git in a repository and return its output.

    :raises CommandFailed: it failed.
    """
    return run_git(tree, *words, check=True).output


def run_git(tree: Path, *words: str, check: bool = False) -> Completed:
    """Run git in a repository, whatever the environment says of another one."""
    environment = git_environment() | {"LC_ALL": "C"}
    argv = [which("git", package="git"), *words]
    return run(argv, name="git", timeout=_SECONDS, cwd=tree, env=environment, check=check)
