"""Build directories that begin as copies of others, and of which a bounded number is kept."""

from __future__ import annotations

import contextlib
import os
import shutil
from pathlib import Path

import pytest

from pytest_kgdb.cache import Cache
from pytest_kgdb.kernel import _object_pool, _seed
from pytest_kgdb.kernel._object_pool import ObjectsApart, ObjectsInTree, prune
from pytest_kgdb.kernel._seed import STARTED, Unusable, copy_objects, link_sources
from pytest_kgdb.progress import Silent

BASE = "x86-minimal"


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return Cache(tmp_path / "cache", progress=Silent())


def write(path: Path, text: str = "", at: float = 1000.0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    os.utime(path, (at, at))


def built(objects: Path, flags: str = "-g") -> Path:
    """Fill a build directory as kbuild does."""
    write(objects / ".config", "CONFIG_SMP=y\n")
    write(objects / "include/config/auto.conf", "CONFIG_SMP=y\n")
    write(objects / "include/config/SMP")
    write(objects / "include/generated/autoconf.h", "#define CONFIG_SMP 1\n")
    write(objects / "fs/open.o", "object", at=2000.5)
    write(
        objects / "fs/.open.o.cmd", f"savedcmd := gcc {flags} -o fs/open.o ../fs/open.c\n", at=2001
    )
    tool = objects / "tools/objtool"
    write(tool / ".check.o.cmd", f"cmd := gcc -o {tool}/check.o {objects.parent}/tools/check.c\n")
    write(tool / "objtool", "program")
    (tool / "objtool").chmod(0o755)
    (objects / "source").symlink_to("..")
    for name in ("vmlinux", "vmlinux.o", ".tmp_vmlinux.kallsyms1", "arch/x86/boot/bzImage"):
        write(objects / name, "large")
    return objects


@pytest.fixture
def objects(tmp_path: Path) -> Path:
    return built(tmp_path / "src/kgdb-x86-minimal")


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "src/kgdb-x86-minimal.12345678"


class TestCopy:
    def test_keeps_what_make_goes_by(self, objects: Path, target: Path) -> None:
        copy_objects(objects, objects.parent, target, [(str(objects), str(target))])
        for name in ("fs/open.o", "fs/.open.o.cmd", "include/config/SMP", "tools/objtool/objtool"):
            assert (target / name).stat().st_mtime_ns == (objects / name).stat().st_mtime_ns
        assert (target / "fs/open.o").read_text() == "object"
        assert os.access(target / "tools/objtool/objtool", os.X_OK)
        assert (target / "source").readlink() == Path("..")
        command = (target / "tools/objtool/.check.o.cmd").read_text()
        assert f"-o {target}/tools/objtool/check.o {objects.parent}/tools/check.c" in command
        assert not [path for path in target.parent.iterdir() if path.suffix == ".seed"]

    def test_leaves_out_what_is_linked_for_every_kernel(self, objects: Path, target: Path) -> None:
        copy_objects(objects, objects.parent, target, [])
        assert not list(target.rglob("*vmlinux*"))
        assert not list(target.rglob("bzImage"))

    def test_leaves_out_what_is_written_meanwhile(
        self, objects: Path, target: Path, tmp_path: Path
    ) -> None:
        write(tmp_path / STARTED, at=3000)
        write(objects / "fs/new.o", "half of it", at=3000.5)
        write(objects / "fs/.new.o.cmd", "half of it", at=2999)  # within the slack
        copy_objects(objects, tmp_path, target, [])
        assert sorted(path.name for path in (target / "fs").iterdir()) == [".open.o.cmd", "open.o"]

    def test_leaves_out_what_changes_while_it_is_read(
        self, objects: Path, target: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def copy(source: Path, place: Path) -> None:
            place.write_bytes(source.read_bytes())
            if source.name == "open.o":
                source.write_text("of another source")

        monkeypatch.setattr(shutil, "copyfile", copy)
        copy_objects(objects, objects.parent, target, [])
        assert not (target / "fs/open.o").exists()
        assert (target / "fs/.open.o.cmd").exists()

    @pytest.mark.parametrize(
        "name",
        [
            "include/config/SMP",
            "include/config/auto.conf",
            ".config",
            "include/generated/autoconf.h",
        ],
    )
    def test_of_one_that_is_being_configured(
        self, objects: Path, target: Path, tmp_path: Path, name: str
    ) -> None:
        write(tmp_path / STARTED, at=3000)
        write(objects / name, "CONFIG_SMP=y\nCONFIG_NEW=y\n", at=4000)
        with pytest.raises(Unusable, match="is being configured"):
            copy_objects(objects, tmp_path, target, [])
        assert [path.name for path in objects.parent.iterdir()] == [objects.name]

    def test_of_one_that_was_never_configured(self, objects: Path, target: Path) -> None:
        (objects / "include/config/auto.conf").unlink()
        with pytest.raises(Unusable, match="is not configured"):
            copy_objects(objects, objects.parent, target, [])

    @pytest.mark.parametrize("again", [False, True])
    def test_of_one_that_is_removed_meanwhile(
        self, objects: Path, target: Path, monkeypatch: pytest.MonkeyPatch, again: bool
    ) -> None:
        original = _seed._copy

        def copy(path: Path, *rest: object) -> bool:
            if path.name == "open.o":
                objects.rename(objects.with_name("gone"))
                if again:
                    built(objects)
            return original(path, *rest)  # type: ignore[arg-type]

        monkeypatch.setattr(_seed, "_copy", copy)
        with pytest.raises(Unusable):
            copy_objects(objects, objects.parent, target, [])
        assert not target.exists()

    def test_after_one_that_was_killed(self, objects: Path, target: Path) -> None:
        write(target.with_name(f"{target.name}.seed") / "fs/open.o", "half")
        copy_objects(objects, objects.parent, target, [])
        assert (target / "fs/open.o").read_text() == "object"

    def test_sources(self, objects: Path, tmp_path: Path) -> None:
        tree = objects.parent
        write(tree / "fs/open.c", "text")
        write(tree / ".gitignore", "*.o")
        link_sources(tree, tmp_path / "2/src")
        assert sorted(path.name for path in (tmp_path / "2/src").iterdir()) == [".gitignore", "fs"]
        assert (tmp_path / "2/src/fs/open.c").samefile(tree / "fs/open.c")


class TestPool:
    @pytest.fixture
    def pool(self, tmp_path: Path) -> ObjectsInTree:
        return ObjectsInTree(tmp_path, tmp_path / "src", Path("/first/src"))

    def test_each_configuration_has_its_own(self, pool: ObjectsInTree, cache: Cache) -> None:
        with (
            pool.open(cache, BASE, "", "one") as one,
            pool.open(cache, BASE, "12345678", "two") as two,
        ):
            assert one.objects != two.objects
            assert one.state_dir != two.state_dir
            # The objects themselves do not depend on it, or no compiler cache would have them.
            assert one.debug_objects == two.debug_objects == Path("/first/src/kgdb-x86-minimal")
            assert f"={one.debug_objects}" in two.flags

    def test_a_new_one_begins_with_the_last_used(self, pool: ObjectsInTree, cache: Cache) -> None:
        for number, variant in enumerate(("", "11111111", "22222222")):
            with pool.open(cache, BASE, variant, "kernel") as directory:
                shutil.rmtree(directory.objects, ignore_errors=True)
                built(directory.objects, directory.flags)
                write(directory.objects / "which", variant)
            os.utime(directory.state_dir / "building", (number, number))
        os.utime(pool.directory(BASE, "11111111").state_dir / "building", (9, 9))
        with pool.open(cache, BASE, "33333333", "kernel") as directory:
            assert (directory.objects / "which").read_text() == "11111111"
            command = (directory.objects / "fs/.open.o.cmd").read_text()
            assert f"gcc {directory.flags} -o" in command

    def test_other_tools_are_another_base(self, pool: ObjectsInTree, cache: Cache) -> None:
        with pool.open(cache, f"{BASE}-020ddf3c", "", "kernel") as directory:
            built(directory.objects)
        with pool.open(cache, BASE, "12345678", "kernel") as directory:
            assert not directory.objects.exists()

    def test_into_another_worktree(self, pool: ObjectsInTree, cache: Cache, tmp_path: Path) -> None:
        first = tmp_path / "src"
        pool = ObjectsInTree(tmp_path, first, first)
        with pool.open(cache, BASE, "", "kernel") as directory:
            built(directory.objects, directory.flags)
        second = ObjectsInTree(tmp_path / "2", tmp_path / "2/src", first)
        copied = second.directory(BASE, "")
        pool.seed(BASE, copied.objects)
        assert f"gcc {copied.flags} -o" in (copied.objects / "fs/.open.o.cmd").read_text()
        tools = (copied.objects / "tools/objtool/.check.o.cmd").read_text()
        assert f"-o {copied.objects}/tools/objtool/check.o {tmp_path}/2/src/tools/check.c" in tools
        assert str(directory.objects) not in tools

    def test_apart(self, cache: Cache) -> None:
        pool = ObjectsApart(cache, "build-linux-0123")
        with pool.open(cache, BASE, "", "kernel") as one:
            built(one.objects)
            assert one.debug_objects == one.objects == one.state_dir / "objects"
        with pool.open(cache, BASE, "12345678", "kernel") as two:
            assert (two.objects / "fs/open.o").exists()
            assert two.state_dir != one.state_dir
        assert one.flags == two.flags == ""

    def test_one_log_for_a_users_tree(self, cache: Cache) -> None:
        pool = ObjectsApart(cache, "build-linux-0123")
        with pool.open(cache, BASE, "", "kernel") as one:
            write(one.state_dir / "make.log")
            with pool.open(cache, BASE, "12345678", "kernel") as two:
                assert (one.state_dir / "make.log").exists(), "it is being written"
                write(two.state_dir / "make.log")
        with pool.open(cache, BASE, "", "kernel"):
            assert not (two.state_dir / "make.log").exists()

    def test_of_a_build_that_was_killed(self, pool: ObjectsInTree, cache: Cache) -> None:
        directory = pool.directory(BASE, "")
        with contextlib.suppress(KeyboardInterrupt), pool.open(cache, BASE, "", "kernel"):
            built(directory.objects)
            os.utime(directory.state_dir / STARTED, (1500, 1500))
            raise KeyboardInterrupt
        # Nobody knows yet which objects of the last build are whole.
        with (
            pool.open(cache, BASE, "", "kernel"),
            pool.open(cache, BASE, "12345678", "kernel") as copy,
        ):
            assert not (copy.objects / "fs/open.o").exists()
            assert (copy.objects / "tools/objtool/objtool").exists()
        assert not (directory.state_dir / STARTED).exists()

    def test_a_bounded_number_is_kept(
        self, pool: ObjectsInTree, cache: Cache, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(_object_pool, "MOST_OBJECTS", 2)
        directories = []
        for number in range(5):
            with pool.open(cache, BASE, f"{number:08}", "kernel") as directory:
                shutil.rmtree(directory.objects, ignore_errors=True)
                built(directory.objects)
            os.utime(directory.state_dir / "building", (number, number))
            directories.append(directory)
        with pool.open(cache, BASE, "00000001", "kernel"):
            os.utime(directories[1].state_dir / "building", (1, 1))
            prune([pool])
        kept = [directory for directory in directories if directory.objects.exists()]
        assert kept == [directories[1], *directories[3:]], "in use, and the last used"
        assert all(directory.state_dir.exists() == (directory in kept) for directory in directories)
        assert not list(directories[0].objects.parent.glob("*.removed"))

    def test_what_is_removed_is_removed_at_once(
        self, pool: ObjectsInTree, cache: Cache, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(_object_pool, "MOST_OBJECTS", 0)
        with pool.open(cache, BASE, "", "kernel") as directory:
            built(directory.objects)
        monkeypatch.setattr(shutil, "rmtree", lambda *_args, **_words: None)  # killed before
        prune([pool])
        assert not directory.objects.exists()
