"""The two sides of a change, from patches and from git's revisions."""

from __future__ import annotations

import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from pytest_kgdb.change import (
    ChangedLines,
    built_lines,
    changed_lines,
    from_patches,
    from_revert,
    from_revisions,
    subject_of,
)
from pytest_kgdb.errors import ConfigError, KgdbError
from pytest_kgdb.kernel import Patch, SourceFiles, read_patches
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
    (tmp_path / "series").write_text("fix.patch # first\n")
    assert from_patches(settings, [tmp_path]) == replace(
        change,
        patched=replace(change.patched, settings=replace(change.base.settings, patch=(tmp_path,))),
    )
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


@pytest.mark.parametrize("spec", ["tree", "distro:6.1"])
def test_a_file_to_be_taken_out_that_is_not_there(
    settings: Settings, tmp_path: Path, spec: str
) -> None:
    if spec != "tree":
        settings = replace(settings, kernel=(spec,))
    with pytest.raises(ConfigError, match=r"there is no file patches/none\.patch, and .* no "):
        from_revert(settings, "patches/none.patch", tmp_path)
    with pytest.raises(ConfigError, match=r"there is no file /tmp, and .* no "):
        from_revert(settings, "/tmp", tmp_path)


def test_revisions(settings: Settings, tree: Path) -> None:
    change = from_revisions(settings, "HEAD~", "")
    first, second = git(tree, "rev-parse", "HEAD~"), git(tree, "rev-parse", "HEAD")
    assert [side.spec for side in change.sides] == [f"{tree}@{first}", f"{tree}@{second}"]
    assert change.files == ("mm/one.c",)
    subject = git(tree, "log", "-1", "--format=%s", "HEAD")
    assert change.patched.label == f'{tree.name}@{second[:12]} ("{subject}")'


def test_a_patch_that_is_taken_out_has_its_own_name(
    settings: Settings, tree: Path, tmp_path: Path
) -> None:
    (tmp_path / "in.patch").write_bytes(git(tree, "diff", "HEAD~", "HEAD").encode() + b"\n")
    change = from_revert(settings, str(tmp_path / "in.patch"), tmp_path)
    assert change.base.label == f"{settings.kernel[0]} + in.patch (taken out)"
    assert change.patched.label == settings.kernel[0]


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


@pytest.mark.parametrize(
    "key",
    [
        "diff.noprefix",
        "diff.mnemonicPrefix",
        "format.attach",
        "log.showSignature",
        "format.noprefix",
    ],
)
def test_whatever_the_user_has_configured(
    settings: Settings, tree: Path, tmp_path: Path, key: str
) -> None:
    (tree / "mm/one.c").write_bytes(b"caf\xe9\n")  # of no encoding in particular
    git(tree, "commit", "-q", "-a", "-m", "latin")
    git(tree, "config", key, "true")
    git(tree, "config", "diff.context", "0")
    for change in (
        from_revisions(settings, "HEAD~", "HEAD"),
        from_revert(settings, "HEAD", tmp_path),
    ):
        assert change.files == ("mm/one.c",)
        assert change.lines == (ChangedLines("mm/one.c", 1, 1),)
    (series,) = change.base.settings.patch
    (patch,) = read_patches(series)
    assert b"--- a/mm/one.c\n+++ b/mm/one.c\n" in patch.data
    assert b"\n-new\n+caf\xe9\n" in patch.data
    assert subject_of(tree, "HEAD") == "latin"


def test_a_merge_to_be_taken_out(settings: Settings, tree: Path, tmp_path: Path) -> None:
    git(tree, "checkout", "-q", "-b", "topic", "HEAD~")
    (tree / "mm/two.c").write_text("two\n")
    git(tree, "add", ".")
    git(tree, "commit", "-q", "-m", "two")
    git(tree, "checkout", "-q", "-")
    git(tree, "merge", "-q", "--no-ff", "-m", "merge", "topic")
    (series,) = from_revert(settings, "HEAD", tmp_path).base.settings.patch
    (patch,) = read_patches(series)
    assert patch.touched() == {"mm/two.c"}
    git(tree, "checkout", "-q", "-b", "other", "HEAD^")
    git(tree, "merge", "-q", "--no-ff", "-s", "ours", "-m", "nothing", "topic")
    with pytest.raises(ConfigError, match="changes nothing"):
        from_revert(settings, "HEAD", tmp_path)


def test_a_root_commit_and_an_odd_name(settings: Settings, tree: Path, tmp_path: Path) -> None:
    first = git(tree, "rev-parse", "HEAD~")
    assert "mm/one.c" in from_revert(settings, first, tmp_path).files
    (tree / "mm/\u00e9 one.c").write_text("odd\n")
    git(tree, "add", ".")
    git(tree, "commit", "-q", "-m", "odd")
    assert from_revisions(settings, "HEAD~", "HEAD").files == ("mm/\u00e9 one.c",)


def test_lines_that_end_in_cr_and_lf() -> None:
    patch = Patch("fix.patch", FIX.replace("\n", "\r\n").encode())
    assert changed_lines([patch]) == (ChangedLines("mm/one.c", 1, 1),)
    assert patch.touched() == {"mm/one.c"}


class Sources(SourceFiles):
    """The files of a kernel that was built."""

    def __init__(self, **files: str) -> None:
        super().__init__()
        self.files = {name.replace("__", "/") + ".c": text for name, text in files.items()}

    def read(self, file: str) -> bytes:
        try:
            return self.files[file].encode()
        except KeyError:
            raise KgdbError("it was not compiled") from None

    @property
    def directory(self) -> Path:
        raise AssertionError


def test_where_a_patch_was_put() -> None:
    """It says other lines: the kernel has more in front of them."""
    text = "".join(f"line {number}\n" for number in range(300))
    changed = text.replace("line 200\n", "new\nnewer\n").replace("line 250\n", "")
    base = Sources(mm__one=text, mm__same=text)
    patched = Sources(mm__one=changed, mm__same=text, mm__new="all\nof it\n")
    said = [
        ChangedLines("mm/one.c", 63, 64),
        ChangedLines("mm/same.c", 7, 7),
        ChangedLines("mm/new.c", 1, 2),
        ChangedLines("mm/none.c", 5, 5),
    ]
    files = [one.file for one in said]
    lines = built_lines(files, said, base, patched, exact=False)
    assert lines == (
        ChangedLines("mm/one.c", 201, 202),
        ChangedLines("mm/one.c", 252, 252),
        ChangedLines("mm/new.c", 1, 2),
    )
    assert built_lines(files, said, base, patched, exact=True) == (*lines, said[-1])
