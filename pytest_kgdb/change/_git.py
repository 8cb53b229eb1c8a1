"""git, as far as a change or a search is concerned; the user's repository is only read."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from ..errors import ConfigError
from ..kernel import git_environment
from ..process import Completed, run, which

__all__ = ["git", "is_dirty", "resolved", "run_git", "show_commit", "tree_of"]

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
    return git(tree, "show", "--stat", "--patch", "--no-color", revision)


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
