"""The two sides of a change, from patches and from git's revisions."""

from __future__ import annotations

import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from pytest_kgdb.change import from_patches, from_revert, from_revisions
from pytest_kgdb.errors import ConfigError
from pytest_kgdb.settings import Settings, make_settings

FIX = """\
--- a/mm/one.c
+++ b/mm/one.c
@@ -1 +1 @@
-old
+new
"""


def git(tree: Path, *words: str) -> str:
    identity = ("-c", "user.name=A", "-c", "user.email=a@example.org")
    argv = ["git", *identity, *words]
    return subprocess.run(argv, cwd=tree, check=True, capture_output=True, text=True).stdout.strip()


def make_tree(tmp_path: Path) -> Path:
    """A tree with two commits, the second of which is the fix."""
    tree = tmp_path / "linux"
    (tree / "mm").mkdir(parents=True)
    for name in ("Makefile", "Kconfig"):
        (tree / name).write_text("VERSION = 6\n")
    (tree / "arch/x86").mkdir(parents=True)
    (tree / "arch/x86/Kconfig").touch()
    git(tmp_path, "init", "-q", str(tree))
    for text in ("old\n", "new\n"):
        (tree / "mm/one.c").write_text(text)
        git(tree, "add", ".")
        git(tree, "commit", "-q", "-m", text.strip())
    return tree


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    return make_tree(tmp_path)


@pytest.fixture
def settings(tree: Path) -> Settings:
    return make_settings(kernel=[str(tree)])


@pytest.fixture
def fix(tmp_path: Path) -> Path:
    path = tmp_path / "fix.patch"
    path.write_text(FIX)
    return path


def test_a_patch(settings: Settings, fix: Path) -> None:
    change = from_patches(settings, [fix])
    assert change.base.settings == settings
    assert change.patched.settings.patch == (fix,)
    assert change.patched.label == f"{settings.kernel[0]} + fix.patch"
    assert change.files == ("mm/one.c",)


def test_behind_the_users_own_patches(settings: Settings, fix: Path, tmp_path: Path) -> None:
    before = tmp_path / "before.patch"
    before.write_text(FIX)
    change = from_patches(replace(settings, patch=(before,)), [fix])
    assert change.base.settings.patch == (before,)
    assert change.patched.settings.patch == (before, fix)


def test_a_series_says_what_it_applies_to(
    settings: Settings, tree: Path, fix: Path, tmp_path: Path
) -> None:
    first = git(tree, "rev-parse", "HEAD~")
    fix.write_text(f"{FIX}\nbase-commit: {first}\n")
    change = from_patches(settings, [fix])
    assert [side.spec for side in change.sides] == [f"{tree}@{first}"] * 2
    fix.write_text(f"{FIX}\nbase-commit: {'0' * 40}\n")
    with pytest.raises(ConfigError, match="has no revision 0000"):
        from_patches(settings, [fix])


def test_a_patch_to_be_taken_out(settings: Settings, fix: Path, tmp_path: Path) -> None:
    change = from_revert(settings, str(fix), tmp_path)
    (series,) = change.base.settings.patch
    assert (series / "series").read_text() == f"{fix} -R\n"
    assert change.patched.settings == settings
    assert change.files == ("mm/one.c",)


def test_a_commit_to_be_taken_out(settings: Settings, tmp_path: Path) -> None:
    change = from_revert(settings, "HEAD", tmp_path)
    assert change.files == ("mm/one.c",)
    with pytest.raises(ConfigError, match="has no revision nonesuch"):
        from_revert(settings, "nonesuch", tmp_path)


def test_revisions(settings: Settings, tree: Path) -> None:
    change = from_revisions(settings, "HEAD~", "")
    first, second = git(tree, "rev-parse", "HEAD~"), git(tree, "rev-parse", "HEAD")
    assert [side.spec for side in change.sides] == [f"{tree}@{first}", f"{tree}@{second}"]
    assert change.files == ("mm/one.c",)


def test_a_shallow_clone(tree: Path, tmp_path: Path) -> None:
    clone = tmp_path / "clone"
    git(tmp_path, "clone", "-q", "--depth=1", f"file://{tree}", str(clone))
    with pytest.raises(ConfigError, match="has no revision HEAD~") as caught:
        from_revisions(make_settings(kernel=[str(clone)]), "HEAD~", "HEAD")
    assert caught.value.hint == f"the clone is shallow: git -C {clone} fetch --unshallow"


def test_a_kernel_without_git(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is no git tree"):
        from_revisions(replace(make_settings(), kernel=("distro:6.1",)), "a", "b")


def test_the_commit_that_is_tested(
    settings: Settings, tree: Path, fix: Path, tmp_path: Path
) -> None:
    head = git(tree, "rev-parse", "HEAD")
    change = from_patches(settings, [fix])
    assert (change.commit, change.notes) == (head, ())
    assert [(one.file, one.first, one.last) for one in change.lines] == [("mm/one.c", 1, 1)]
    assert from_revisions(settings, "HEAD~", "HEAD").commit == head
    assert from_revisions(settings, "HEAD~", "HEAD").lines == change.lines
    index = (tree / ".git/index").read_bytes()
    (tree / "mm/one.c").write_text("mine\n")
    change = from_patches(settings, [fix])
    assert change.commit is None
    assert change.notes == (f"{tree} has changes that are not committed: it is tested as it is",)
    assert (tree / ".git/index").read_bytes() == index
    assert from_patches(make_settings(kernel=["distro:6.1"]), [fix]).commit is None
