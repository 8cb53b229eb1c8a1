"""Sources: what they are known by, and how they get to where they are built, theirs untouched."""

from __future__ import annotations

import contextlib
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
from pytest_kgdb.kernel._fingerprint import tree_key
from pytest_kgdb.kernel._mirror import Mirror
from pytest_kgdb.kernel._overlay import Overlay
from pytest_kgdb.kernel._owned import CheckedOut, Unpacked
from pytest_kgdb.kernel._source import Source, UserTree
from pytest_kgdb.kernel._spec import SourceTree, parse
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


def user_tree(path: Path, cache: Cache, *texts: str) -> UserTree:
    spec = parse(str(path), X86_64)
    assert isinstance(spec, SourceTree)
    return UserTree(spec, patches(*texts), X86_64, cache, Silent())


def tarball(path: Path, cache: Cache, *texts: str) -> Unpacked:
    return Unpacked(path, patches(*texts), cache, Silent())


def revision(path: Path, name: str, cache: Cache, *texts: str) -> CheckedOut:
    return CheckedOut(path, name, patches(*texts), cache, Silent())


def patches(*texts: str) -> list[_patch.Patch]:
    return [_patch.Patch(f"p{number}", text.encode()) for number, text in enumerate(texts)]


def shown(source: Source) -> Path | None:
    place = source.find()
    return None if place is None else place.tree


def bring(source: Source) -> Path:
    """Unpack or copy a source, release it, and return its directory."""
    with source.open() as build_tree:
        return build_tree.tree


def everything(path: Path) -> dict[str, tuple[int, int, bytes]]:
    """All there is in a directory, with times."""
    states = {}
    for directory, names, files in os.walk(path):
        for name in (*names, *files):
            entry = Path(directory, name)
            status = entry.lstat()
            data = entry.read_bytes() if entry.is_file() else b""
            states[str(entry.relative_to(path))] = (status.st_mode, status.st_mtime_ns, data)
    return states


class TestFingerprint:
    @pytest.fixture
    def content(self, cache: Cache) -> Callable[[Path], str]:
        return lambda path: tree_key(path, X86_64, cache, Silent())

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


class TestUserTree:
    def test_is_built_from_where_it_is(self, tree: Path, cache: Cache) -> None:
        source = user_tree(tree, cache)
        assert bring(source) == tree
        assert shown(source) == tree

    def test_a_change_during_the_build_is_noticed(self, tree: Path, cache: Cache) -> None:
        source = user_tree(tree, cache)
        source.check()
        os.utime(tree / "fs/open.c")
        source.check()
        (tree / "fs/open.c").write_text("int changed;\n")
        with pytest.raises(BuildError, match="was changed while"):
            source.check()

    def test_the_commit_counts_only_where_it_is_asked(self, repository: Path, cache: Cache) -> None:
        source = user_tree(repository, cache)
        commit = source.scm()
        assert commit == git(repository, "rev-parse", "HEAD")
        git(repository, "commit", "-q", "--allow-empty", "-m", "two")
        assert user_tree(repository, cache).content == source.content
        assert user_tree(repository, cache).scm() != commit


class TestBuiltInPlace:
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
        copy = bring(user_tree(tree, cache))
        names = {str(path.relative_to(copy)) for path in copy.rglob("*") if path.is_file()}
        assert {"Makefile", "fs/open.c", "fs/uncommitted.c", "Kconfig"} <= names
        assert not names & {"fs/open.o", "generated.h", "vmlinux", ".config"}
        assert not (copy / "include/config").exists()
        assert everything(tree) == before

    def test_its_key_does_not_tell_what_was_built(self, tree: Path, cache: Cache) -> None:
        built_in_place(tree)
        first = user_tree(tree, cache).content
        (tree / "generated.h").write_text("#define NEW\n")
        built_in_place(tree, config="CONFIG_X=y\n")
        assert user_tree(tree, cache).content == first

    def test_its_copy_is_kept_in_step(self, tree: Path, cache: Cache) -> None:
        built_in_place(tree)
        copy = bring(user_tree(tree, cache))
        kept = (copy / "Makefile").stat().st_mtime_ns
        (tree / "fs/open.c").write_text("int changed;\n")
        assert bring(user_tree(tree, cache)) == copy
        assert (copy / "fs/open.c").read_text() == "int changed;\n"
        assert (copy / "Makefile").stat().st_mtime_ns == kept
        assert shown(user_tree(tree, cache)) == tree


def pack(tree: Path, name: str = "linux.tar.xz") -> Path:
    target = tree.parent / name
    subprocess.run(["tar", "-C", tree.parent, "-caf", target, tree.name], check=True)
    return target


class TestTarball:
    def test_is_unpacked_once(self, tree: Path, cache: Cache) -> None:
        source = tarball(pack(tree), cache)
        assert source.find() is None
        top = bring(source)
        assert (top / "fs/open.c").read_text() == (tree / "fs/open.c").read_text()
        (top / "mark").touch()
        assert bring(tarball(pack(tree), cache)) == top
        assert (top / "mark").exists()
        assert shown(source) == top
        assert source.version == "6.1.99"

    def test_another_content_under_the_same_name(self, tree: Path, cache: Cache) -> None:
        first = tarball(pack(tree), cache)
        one = bring(first)
        (tree / "fs/open.c").write_text("int changed;\n")
        second = tarball(pack(tree), cache)
        assert first.content != second.content
        assert bring(second) != one

    def test_broken(self, tree: Path, cache: Cache) -> None:
        packed = pack(tree)
        packed.write_bytes(packed.read_bytes()[:-100])
        source = tarball(packed, cache)
        with pytest.raises(ConfigError, match="cannot unpack"):
            bring(source)
        assert source.find() is None

    def test_of_something_else(self, tree: Path, cache: Cache) -> None:
        (tree / "Kconfig").unlink()
        with pytest.raises(ConfigError, match="is no kernel's source: it contains linux"):
            bring(tarball(pack(tree), cache))

    def test_what_was_unpacked_half_is_unpacked_anew(self, tree: Path, cache: Cache) -> None:
        source = tarball(pack(tree), cache)
        top = bring(source)
        (top.parent / "content").unlink()
        top.rename(top.parent / "unpacking")
        assert bring(source) == top
        assert (top / "Makefile").exists()
        assert not (top.parent / "unpacking").exists()


class TestCheckedOut:
    def test_a_commit_is_named_by_its_subject(self, repository: Path, cache: Cache) -> None:
        subject = git(repository, "log", "-1", "--format=%s")
        commit = git(repository, "rev-parse", "HEAD")
        name = f'{repository.name}@{commit[:12]} ("{subject}")'
        assert revision(repository, commit, cache).label == name
        # As the user has named it.
        assert revision(repository, "main", cache).label == f"{repository}@main"

    def test_the_users_repository_is_not_touched(self, repository: Path, cache: Cache) -> None:
        (repository / "fs/open.c").write_text("int uncommitted;\n")
        before = everything(repository)
        top = bring(revision(repository, "HEAD", cache))
        assert (top / "fs/open.c").read_text() != "int uncommitted;\n"
        assert everything(repository) == before

    def test_from_one_to_the_next_only_the_difference_is_written(
        self, repository: Path, cache: Cache
    ) -> None:
        (repository / "fs/open.c").write_text("int two;\n")
        (repository / "fs/new.c").write_text("int new;\n")
        git(repository, "add", "-A")
        git(repository, "commit", "-q", "-m", "two")
        top = bring(revision(repository, "HEAD", cache))
        kept = (top / "Makefile").stat().st_mtime_ns
        (top / "stray.o").touch()
        assert bring(revision(repository, "HEAD~1", cache)) == top
        assert not (top / "fs/new.c").exists()
        assert not (top / "stray.o").exists()
        assert (top / "Makefile").stat().st_mtime_ns == kept

    def test_one_that_is_in_use_stays(self, repository: Path, cache: Cache) -> None:
        git(repository, "tag", "one")
        (repository / "fs/open.c").write_text("int two;\n")
        git(repository, "commit", "-q", "-a", "-m", "two")
        with revision(repository, "one", cache).open() as one:
            pass
        assert revision(repository, "main", cache).find() is None
        with revision(repository, "main", cache).open() as two:
            pass
        assert two.tree != one.tree
        assert two.debug_tree == one.debug_tree == one.tree
        assert shown(revision(repository, "one", cache)) == one.tree

    def test_one_that_nobody_uses_any_more_makes_room(self, repository: Path, cache: Cache) -> None:
        git(repository, "tag", "one")
        (repository / "fs/open.c").write_text("int two;\n")
        git(repository, "commit", "-q", "-a", "-m", "two")
        first = bring(revision(repository, "one", cache))
        assert bring(revision(repository, "main", cache)) == first

    def test_commits_of_the_same_tree_are_the_same(self, repository: Path, cache: Cache) -> None:
        git(repository, "commit", "-q", "--allow-empty", "-m", "two")
        one = revision(repository, "HEAD~1", cache)
        two = revision(repository, "HEAD", cache)
        assert one.content == two.content
        assert one.scm() != two.scm()
        assert one.version == "6.1.99"

    def test_a_checkout_that_was_killed(self, repository: Path, cache: Cache) -> None:
        source = revision(repository, "HEAD", cache)
        top = bring(source)
        (top.parent / "content").unlink()
        (top.parent / "base").unlink()
        (top.parent / "git/index.lock").touch()
        (top / "fs/open.c").write_text("half")
        assert bring(source) == top
        assert (top / "fs/open.c").read_text() == (repository / "fs/open.c").read_text()

    @pytest.mark.parametrize("name", ["v99", "HEAD~7", "--all", "deadbeef"])
    def test_no_such_revision(self, repository: Path, cache: Cache, name: str) -> None:
        with pytest.raises(ConfigError, match=name):
            revision(repository, name, cache)

    def test_no_repository(self, tree: Path, cache: Cache) -> None:
        with pytest.raises(ConfigError, match="is not a git tree"):
            revision(tree, "v6.1", cache)

    def test_from_a_hook_of_another_repository(
        self, repository: Path, cache: Cache, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("GIT_DIR", "/nowhere")
        monkeypatch.setenv("GIT_INDEX_FILE", "/nowhere/index")
        assert (bring(revision(repository, "HEAD", cache)) / "Makefile").exists()


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
    @pytest.fixture(params=["tree", "tree built in place", "tarball", "revision"])
    def source(
        self, request: pytest.FixtureRequest, repository: Path, cache: Cache
    ) -> Callable[..., Source]:
        """Return the same source with other patches each time, for each kind of source."""
        if request.param == "tarball":
            packed = pack(repository)
            return lambda *texts: tarball(packed, cache, *texts)
        if request.param == "revision":
            return lambda *texts: revision(repository, "HEAD", cache, *texts)
        if request.param == "tree built in place":
            built_in_place(repository)
        return lambda *texts: user_tree(repository, cache, *texts)

    def test_applies_in_order_and_never_on_the_original(
        self, repository: Path, source: Callable[..., Source]
    ) -> None:
        before = everything(repository)
        patched_source = source(PATCH, SECOND, NEW)
        top = bring(patched_source)
        assert "COUNT + 2" in (top / "fs/open.c").read_text()
        assert (top / "fs/new.c").read_text() == "int added;\n"
        assert (top / "Makefile").exists()
        assert shown(patched_source) == top
        assert everything(repository) == before

    def test_key_is_of_both(self, source: Callable[..., Source]) -> None:
        keys = {source(*texts).content for texts in ((), (PATCH,), (PATCH, NEW), (NEW,))}
        assert len(keys) == 4

    def test_another_series_changes_only_what_differs(
        self, repository: Path, source: Callable[..., Source]
    ) -> None:
        top = bring(source(PATCH, NEW))
        kept = (top / "Makefile").stat().st_mtime_ns
        same = (top / "fs/open.c").stat().st_mtime_ns
        assert bring(source(PATCH)) == top
        assert not (top / "fs/new.c").exists()
        assert "COUNT + 1" in (top / "fs/open.c").read_text()
        assert bring(source(NEW)) == top
        assert (top / "fs/open.c").read_text() == (repository / "fs/open.c").read_text()
        assert (top / "fs/open.c").stat().st_mtime_ns > same
        assert (top / "Makefile").stat().st_mtime_ns == kept

    def test_one_that_does_not_apply(self, source: Callable[..., Source]) -> None:
        bring(source(PATCH))
        bad = source(SECOND)
        with pytest.raises(BuildError, match=r"p0 does not apply(?s:.*)Hunk #1 FAILED"):
            bring(bad)
        assert bad.find() is None
        assert "COUNT + 1" in (bring(source(PATCH)) / "fs/open.c").read_text()

    def test_one_that_is_already_in(self, source: Callable[..., Source]) -> None:
        with pytest.raises(BuildError, match=r"p1 is applied already: .*, or a patch before it,"):
            bring(source(PATCH, PATCH))

    def test_after_an_interruption(
        self,
        repository: Path,
        source: Callable[..., Source],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        top = bring(source(PATCH, NEW))

        def killed(*_: object) -> None:
            raise KeyboardInterrupt

        for place in (Overlay, Mirror):
            with monkeypatch.context() as patched:
                patched.setattr(place, "_write", killed)
                with contextlib.suppress(KeyboardInterrupt):
                    bring(source(PATCH, SECOND))
        bring(source(PATCH, SECOND))
        assert "COUNT + 2" in (top / "fs/open.c").read_text()
        assert not (top / "fs/new.c").exists()
        assert bring(source(NEW)) == top
        assert (top / "fs/open.c").read_text() == (repository / "fs/open.c").read_text()

    @pytest.mark.parametrize("name", ["../../etc/passwd", "/etc/passwd"])
    def test_one_that_leaves_the_tree(self, tree: Path, cache: Cache, name: str) -> None:
        source = user_tree(tree, cache, f"--- a/{name}\n+++ b/{name}\n@@ -0,0 +1 @@\n+x\n")
        with pytest.raises(ConfigError, match="outside of the kernel"):
            bring(source)

    def test_reversed(self, tree: Path, cache: Cache) -> None:
        text = PATCH.replace("COUNT + 1", "XX").replace("COUNT;", "COUNT + 1;")
        back = _patch.Patch("back", text.replace("XX", "COUNT").encode(), reverse=True)
        spec = SourceTree(tree, dirty=False, built=False)
        top = bring(UserTree(spec, [back], X86_64, cache, Silent()))
        assert "COUNT + 1" in (top / "fs/open.c").read_text()
