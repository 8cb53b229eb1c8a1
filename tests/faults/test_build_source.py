"""Sources: what they are known by, and how they get to where they are built, theirs untouched."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from fake_tree import built_in_place, fake_tree

from pytest_kgdb.arch import X86_64
from pytest_kgdb.cache import Cache
from pytest_kgdb.errors import BuildError, ConfigError
from pytest_kgdb.kernel import _fingerprint, _patch
from pytest_kgdb.kernel._fingerprint import fingerprint
from pytest_kgdb.kernel._source import CheckedOut, CopiedTree, Patched, PlainTree, UnpackedTarball
from pytest_kgdb.progress import Silent


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return Cache(tmp_path / "cache", progress=Silent())


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    return fake_tree(tmp_path / "linux")


def git(tree: Path, *words: str) -> str:
    identity = ["-c", "user.name=A", "-c", "user.email=a@example.org"]
    return subprocess.run(
        ["git", "-C", str(tree), *identity, *words], check=True, capture_output=True, text=True
    ).stdout.strip()


@pytest.fixture
def repository(tree: Path) -> Path:
    git(tree, "init", "-q", "-b", "main")
    git(tree, "add", "-A")
    git(tree, "commit", "-q", "-m", "one")
    return tree


def everything(path: Path) -> dict[str, tuple[int, int, bytes]]:
    """All there is in a directory, with times."""
    found = {}
    for directory, names, files in os.walk(path):
        for name in (*names, *files):
            each = Path(directory, name)
            status = each.lstat()
            data = each.read_bytes() if each.is_file() else b""
            found[str(each.relative_to(path))] = (status.st_mode, status.st_mtime_ns, data)
    return found


class TestFingerprint:
    @pytest.fixture
    def content(self, cache: Cache) -> Callable[[Path], str]:
        return lambda path: fingerprint(path, X86_64, cache, Silent()).content

    def test_a_copy_elsewhere_is_the_same(
        self, tree: Path, tmp_path: Path, content: Callable[[Path], str]
    ) -> None:
        shutil.copytree(tree, tmp_path / "copy")
        assert content(tmp_path / "copy") == content(tree)

    @pytest.mark.parametrize(
        "name", ["fs/open.c", "Makefile", "include/linux/kernel.h", "arch/x86/Kconfig"]
    )
    def test_any_change_of_a_source_tells(
        self, tree: Path, content: Callable[[Path], str], name: str
    ) -> None:
        before = content(tree)
        text = (tree / name).read_text()
        (tree / name).write_text(text + "#\n")
        assert content(tree) != before
        (tree / name).write_text(text)
        assert content(tree) == before

    def test_files_that_come_go_and_run(self, tree: Path, content: Callable[[Path], str]) -> None:
        keys = {content(tree)}
        (tree / "fs/new.c").write_text("int new;\n")
        keys.add(content(tree))
        (tree / "fs/new.c").chmod(0o755)
        keys.add(content(tree))
        (tree / "fs/open.c").unlink()
        keys.add(content(tree))
        assert len(keys) == 4

    @pytest.mark.parametrize(
        "name",
        [
            "fs/open.o",
            "fs/.open.o.cmd",
            "fs/open.c~",
            "fs/open.c.orig",
            "tags",
            "cscope.out",
            "Documentation/index.rst",
            "arch/arm/Kconfig",
            ".git/HEAD",
        ],
    )
    def test_what_no_build_reads_does_not_count(
        self, tree: Path, content: Callable[[Path], str], name: str
    ) -> None:
        before = content(tree)
        (tree / name).parent.mkdir(exist_ok=True)
        (tree / name).write_text("changed\n")
        assert content(tree) == before

    def test_a_build_directory_in_the_tree_does_not_count(
        self, tree: Path, content: Callable[[Path], str]
    ) -> None:
        before = content(tree)
        (tree / "build").mkdir()
        (tree / "build/.config").touch()
        (tree / "build/generated.c").touch()
        assert content(tree) == before

    def test_times_alone_do_not_count(self, tree: Path, content: Callable[[Path], str]) -> None:
        before = content(tree)
        for path in tree.rglob("*"):
            os.utime(path)
        assert content(tree) == before

    def test_nothing_is_read_again_that_did_not_change(
        self, tree: Path, content: Callable[[Path], str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        content(tree)
        read: list[str] = []
        real = _fingerprint.state_of
        monkeypatch.setattr(
            _fingerprint, "state_of", lambda path: (read.append(path.name), real(path))[1]
        )
        content(tree)
        assert read == []
        (tree / "fs/open.c").write_text("int changed;\n")
        content(tree)
        assert read == ["open.c"]

    def test_names_that_are_no_text(self, tree: Path, content: Callable[[Path], str]) -> None:
        before = content(tree)
        Path(os.fsdecode(os.fsencode(tree) + b"/fs/b\xffd\nname.c")).write_text("int x;\n")
        assert content(tree) != before
        assert content(tree) == content(tree)

    def test_a_tree_that_cannot_be_read(
        self, tmp_path: Path, content: Callable[[Path], str]
    ) -> None:
        with pytest.raises(ConfigError, match="cannot read the source tree"):
            content(tmp_path / "absent")


class TestPlainTree:
    def test_a_change_during_the_build_is_noticed(self, tree: Path, cache: Cache) -> None:
        source = PlainTree(tree, X86_64, cache, Silent())
        with source.tree() as path:
            assert path == tree
        source.check()
        os.utime(tree / "fs/open.c")
        source.check()
        (tree / "fs/open.c").write_text("int changed;\n")
        with pytest.raises(BuildError, match="was changed while"):
            source.check()

    def test_the_commit_counts_only_where_it_is_asked(self, repository: Path, cache: Cache) -> None:
        source = PlainTree(repository, X86_64, cache, Silent())
        assert source.scm() == git(repository, "rev-parse", "HEAD")
        content = source.content
        git(repository, "commit", "-q", "--allow-empty", "-m", "two")
        assert PlainTree(repository, X86_64, cache, Silent()).content == content


class TestCopiedTree:
    @pytest.mark.parametrize("in_git", [False, True])
    def test_build_products_stay_behind(self, tree: Path, cache: Cache, in_git: bool) -> None:
        if in_git:
            git(tree, "init", "-q")
            git(tree, "add", "-A")
            git(tree, "commit", "-q", "-m", "one")
        built_in_place(tree)
        (tree / "fs/open.o").touch()
        (tree / "generated.h").touch()
        (tree / "fs/uncommitted.c").touch()
        before = everything(tree)
        with CopiedTree(tree, X86_64, cache, Silent()).tree() as copy:
            names = {str(path.relative_to(copy)) for path in copy.rglob("*") if path.is_file()}
        assert {"Makefile", "fs/open.c", "fs/uncommitted.c", "Kconfig"} <= names
        assert not names & {"fs/open.o", "generated.h", "vmlinux", ".config"}
        assert not (copy / "include/config").exists()
        assert everything(tree) == before

    def test_its_key_does_not_tell_what_was_built(self, tree: Path, cache: Cache) -> None:
        built_in_place(tree)
        first = CopiedTree(tree, X86_64, cache, Silent()).content
        (tree / "generated.h").write_text("#define NEW\n")
        built_in_place(tree, config="CONFIG_X=y\n")
        assert CopiedTree(tree, X86_64, cache, Silent()).content == first

    def test_is_kept_in_step(self, tree: Path, cache: Cache) -> None:
        built_in_place(tree)
        with CopiedTree(tree, X86_64, cache, Silent()).tree() as copy:
            kept = (copy / "Makefile").stat().st_mtime_ns
        (tree / "fs/open.c").write_text("int changed;\n")
        with CopiedTree(tree, X86_64, cache, Silent()).tree() as copy:
            assert (copy / "fs/open.c").read_text() == "int changed;\n"
            assert (copy / "Makefile").stat().st_mtime_ns == kept


class TestTarball:
    def pack(self, tree: Path, name: str = "linux.tar.xz") -> Path:
        target = tree.parent / name
        subprocess.run(["tar", "-C", tree.parent, "-caf", target, tree.name], check=True)
        return target

    def test_is_unpacked_once(self, tree: Path, cache: Cache) -> None:
        source = UnpackedTarball(self.pack(tree), X86_64, cache, Silent())
        assert source.shown is None
        with source.tree() as top:
            assert (top / "fs/open.c").read_text() == (tree / "fs/open.c").read_text()
            (top / "mark").touch()
        with UnpackedTarball(self.pack(tree), X86_64, cache, Silent()).tree() as again:
            assert again == top
        assert source.shown == top
        assert source.version == "6.1.99"

    def test_another_content_under_the_same_name(self, tree: Path, cache: Cache) -> None:
        first = UnpackedTarball(self.pack(tree), X86_64, cache, Silent())
        (tree / "fs/open.c").write_text("int changed;\n")
        second = UnpackedTarball(self.pack(tree), X86_64, cache, Silent())
        assert first.content != second.content
        with first.tree() as one, second.tree() as two:
            assert one != two

    def test_broken(self, tree: Path, cache: Cache) -> None:
        packed = self.pack(tree)
        packed.write_bytes(packed.read_bytes()[:-100])
        source = UnpackedTarball(packed, X86_64, cache, Silent())
        with pytest.raises(ConfigError, match="cannot unpack"), source.tree():
            pass
        assert source.shown is None

    def test_of_something_else(self, tree: Path, cache: Cache) -> None:
        (tree / "Kconfig").unlink()
        source = UnpackedTarball(self.pack(tree), X86_64, cache, Silent())
        with pytest.raises(ConfigError, match="is no kernel's source: it contains linux"):
            source.tree().__enter__()

    def test_what_was_unpacked_half_is_unpacked_anew(self, tree: Path, cache: Cache) -> None:
        source = UnpackedTarball(self.pack(tree), X86_64, cache, Silent())
        (source._home / "unpacking/linux").mkdir(parents=True)
        with source.tree() as top:
            assert (top / "Makefile").exists()
        assert not (source._home / "unpacking").exists()


class TestCheckedOut:
    def test_the_users_repository_is_not_touched(self, repository: Path, cache: Cache) -> None:
        (repository / "fs/open.c").write_text("int uncommitted;\n")
        before = everything(repository)
        with CheckedOut(repository, "HEAD", cache, Silent()).tree() as top:
            assert (top / "fs/open.c").read_text() != "int uncommitted;\n"
        assert everything(repository) == before

    def test_from_one_to_the_next_only_the_difference_is_written(
        self, repository: Path, cache: Cache
    ) -> None:
        (repository / "fs/open.c").write_text("int two;\n")
        (repository / "fs/new.c").write_text("int new;\n")
        git(repository, "add", "-A")
        git(repository, "commit", "-q", "-m", "two")
        with CheckedOut(repository, "HEAD", cache, Silent()).tree() as top:
            kept = (top / "Makefile").stat().st_mtime_ns
            (top / "stray.o").touch()
        with CheckedOut(repository, "HEAD~1", cache, Silent()).tree() as again:
            assert again == top
            assert not (top / "fs/new.c").exists()
            assert not (top / "stray.o").exists()
            assert (top / "Makefile").stat().st_mtime_ns == kept

    def test_shows_itself_only_while_it_is_there(self, repository: Path, cache: Cache) -> None:
        git(repository, "tag", "one")
        (repository / "fs/open.c").write_text("int two;\n")
        git(repository, "commit", "-q", "-a", "-m", "two")
        one = CheckedOut(repository, "one", cache, Silent())
        two = CheckedOut(repository, "main", cache, Silent())
        assert one.content != two.content
        with one.tree() as top:
            assert (one.shown, two.shown) == (top, None)
        with two.tree() as top:
            assert (one.shown, two.shown) == (None, top)
        assert one.version == "6.1.99"

    def test_commits_of_the_same_tree_are_the_same(self, repository: Path, cache: Cache) -> None:
        git(repository, "commit", "-q", "--allow-empty", "-m", "two")
        one = CheckedOut(repository, "HEAD~1", cache, Silent())
        two = CheckedOut(repository, "HEAD", cache, Silent())
        assert one.content == two.content
        assert one.scm() != two.scm()

    def test_a_checkout_that_was_killed(self, repository: Path, cache: Cache) -> None:
        source = CheckedOut(repository, "HEAD", cache, Silent())
        with source.tree() as top:
            pass
        (source._home / "tree").unlink()
        (source._home / "git/index.lock").touch()
        (top / "fs/open.c").write_text("half")
        with source.tree():
            assert (top / "fs/open.c").read_text() == (repository / "fs/open.c").read_text()

    @pytest.mark.parametrize("revision", ["v99", "HEAD~7", "--all", "deadbeef"])
    def test_no_such_revision(self, repository: Path, cache: Cache, revision: str) -> None:
        with pytest.raises(ConfigError, match=revision):
            CheckedOut(repository, revision, cache, Silent())

    def test_no_repository(self, tree: Path, cache: Cache) -> None:
        with pytest.raises(ConfigError, match="is not a git tree"):
            CheckedOut(tree, "v6.1", cache, Silent())

    def test_from_a_hook_of_another_repository(
        self, repository: Path, cache: Cache, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("GIT_DIR", "/nowhere")
        monkeypatch.setenv("GIT_INDEX_FILE", "/nowhere/index")
        with CheckedOut(repository, "HEAD", cache, Silent()).tree() as top:
            assert (top / "Makefile").exists()


PATCH = """\
--- a/fs/open.c
+++ b/fs/open.c
@@ -1,2 +1,2 @@
 #include <linux/kernel.h>
-int open_count(void) { return COUNT; }
+int open_count(void) { return COUNT + 1; }
"""
SECOND = """\
--- a/fs/open.c
+++ b/fs/open.c
@@ -1,2 +1,2 @@
 #include <linux/kernel.h>
-int open_count(void) { return COUNT + 1; }
+int open_count(void) { return COUNT + 2; }
"""
NEW = "--- /dev/null\n+++ b/fs/new.c\n@@ -0,0 +1 @@\n+int added;\n"


class TestPatched:
    def patched(self, tree: Path, cache: Cache, *texts: str) -> Patched:
        patches = [_patch.Patch(f"p{number}", text.encode()) for number, text in enumerate(texts)]
        base = PlainTree(tree, X86_64, cache, Silent())
        return Patched(base, patches, X86_64, cache, Silent())

    def test_applies_in_order_on_a_copy(self, tree: Path, cache: Cache) -> None:
        before = everything(tree)
        source = self.patched(tree, cache, PATCH, SECOND, NEW)
        with source.tree() as top:
            assert "COUNT + 2" in (top / "fs/open.c").read_text()
            assert (top / "fs/new.c").read_text() == "int added;\n"
            assert (top / "Makefile").exists()
        assert source.shown == top
        assert everything(tree) == before

    def test_key_is_of_both(self, tree: Path, cache: Cache) -> None:
        keys = {
            self.patched(tree, cache, PATCH).content,
            self.patched(tree, cache, PATCH, NEW).content,
            self.patched(tree, cache, NEW).content,
            PlainTree(tree, X86_64, cache, Silent()).content,
        }
        assert len(keys) == 4

    def test_another_series_on_the_same_copy(self, tree: Path, cache: Cache) -> None:
        with self.patched(tree, cache, PATCH, NEW).tree() as top:
            kept = (top / "Makefile").stat().st_mtime_ns
            same = (top / "fs/open.c").stat().st_mtime_ns
        with self.patched(tree, cache, PATCH).tree():
            assert not (top / "fs/new.c").exists()
            assert (top / "fs/open.c").stat().st_mtime_ns == same
        with self.patched(tree, cache, NEW).tree():
            assert (top / "fs/open.c").read_text() == (tree / "fs/open.c").read_text()
            assert (top / "Makefile").stat().st_mtime_ns == kept

    def test_one_that_does_not_apply(self, tree: Path, cache: Cache) -> None:
        with self.patched(tree, cache, PATCH).tree() as top:
            pass
        source = self.patched(tree, cache, SECOND)
        with pytest.raises(BuildError, match=r"p0 does not apply(?s:.*)Hunk #1 FAILED"):
            source.tree().__enter__()
        assert source.shown is None
        assert "COUNT + 1" in (top / "fs/open.c").read_text()

    def test_one_that_is_already_in(self, tree: Path, cache: Cache) -> None:
        source = self.patched(tree, cache, PATCH, PATCH)
        with pytest.raises(BuildError, match=r"p1 does not apply(?s:.*)previously applied"):
            source.tree().__enter__()

    def test_reversed(self, tree: Path, cache: Cache) -> None:
        base = PlainTree(tree, X86_64, cache, Silent())
        text = (
            PATCH.replace("COUNT + 1", "XX").replace("COUNT;", "COUNT + 1;").replace("XX", "COUNT")
        )
        back = _patch.Patch("back", text.encode(), reverse=True)
        with Patched(base, [back], X86_64, cache, Silent()).tree() as top:
            assert "COUNT + 1" in (top / "fs/open.c").read_text()

    @pytest.mark.parametrize("name", ["../../etc/passwd", "/etc/passwd"])
    def test_one_that_leaves_the_tree(self, tree: Path, cache: Cache, name: str) -> None:
        source = self.patched(tree, cache, f"--- a/{name}\n+++ b/{name}\n@@ -0,0 +1 @@\n+x\n")
        with pytest.raises(ConfigError, match="outside of the kernel"):
            source.tree().__enter__()

    def test_on_a_tarball_a_revision_and_a_built_tree(self, repository: Path, cache: Cache) -> None:
        packed = TestTarball().pack(repository, "linux.tar.gz")
        patches = [_patch.Patch("p", PATCH.encode())]
        bases = [
            UnpackedTarball(packed, X86_64, cache, Silent()),
            CheckedOut(repository, "HEAD", cache, Silent()),
            CopiedTree(built_in_place(repository), X86_64, cache, Silent()),
        ]
        for base in bases:
            with Patched(base, patches, X86_64, cache, Silent()).tree() as top:
                assert "COUNT + 1" in (top / "fs/open.c").read_text()
