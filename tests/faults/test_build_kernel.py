"""Builds that go well, go wrong, are interrupted, and are wanted twice at once."""

from __future__ import annotations

import contextlib
import gzip
import io
import os
import re
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from fake_tree import OPEN, built_in_place, fake_tree

from pytest_kgdb.arch import X86_64
from pytest_kgdb.cache import Cache
from pytest_kgdb.cache._files import Manifest, make_manifest
from pytest_kgdb.errors import BuildError, ConfigError, KgdbError
from pytest_kgdb.kernel import Kernel, SourceArchive, _prebuilt, prepare
from pytest_kgdb.progress import Progress, Silent
from pytest_kgdb.settings import make_settings

SOON = 30.0  # seconds: far more than any of this takes

USABLE = "".join(
    f"CONFIG_{name}=y\n"
    for name in (
        *("SERIAL_8250_CONSOLE", "BLK_DEV_INITRD", "DEBUG_INFO", "KGDB", "KGDB_SERIAL_CONSOLE"),
        *("MAGIC_SYSRQ", "MAGIC_SYSRQ_SERIAL"),
    )
)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    return fake_tree(tmp_path / "linux")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "cache"


def kernel(
    tree: Path | str, root: Path, progress: Progress | None = None, **values: object
) -> Kernel:
    progress = progress or Silent()
    settings = make_settings(kernel=[str(tree)], jobs=2, cache_dir=str(root), **values)
    return prepare(settings, settings.kernel[0], Cache(root, progress=progress), progress)


def objects(root: Path) -> Path:
    (directory,) = [*root.glob("v1/work/build/*/objects"), *root.glob("v1/work/tree/*/src/kgdb-*")]
    return directory


def compiled(root: Path) -> list[str]:
    """What was compiled since this was last asked."""
    path = objects(root) / "compiled"
    names = path.read_text().split() if path.exists() else []
    path.unlink(missing_ok=True)
    return sorted(names)


def entries(root: Path) -> list[str]:
    return sorted(path.name for path in root.glob("v1/kernel/*"))


class Heard(Progress):
    """Progress that remembers what was said."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        super().__init__(io.StringIO(), live=False)

    def say(self, text: str) -> None:
        self.lines.append(text)


class TestBuild:
    def test_has_all_its_parts(self, tmp_path: Path, root: Path) -> None:
        tree = fake_tree(tmp_path / "linux", modules=True)
        built = kernel(tree, root)
        assert built.release == "6.1.99"
        assert built.version == (6, 1, 99)
        assert built.image.name == "bzImage"
        assert re.fullmatch(r"[0-9a-f]{40}", built.build_id)
        assert built.config["CONFIG_KGDB"] == "y"
        assert built.source == tree
        assert built.debug_source == tree
        assert built.modules_dir is not None
        assert (built.modules_dir / "kernel/drivers/dummy.ko").exists()
        assert (built.modules_dir / "modules.dep").exists()
        assert "gcc" in built.compiler
        assert built.vmlinux.is_file()
        assert built.headers is not None
        assert built.headers.is_file()

    def test_nothing_changed_is_nothing_done(self, tree: Path, root: Path) -> None:
        first = kernel(tree, root)
        ran = (objects(root) / "ran").read_text()
        assert kernel(tree, root) == first
        assert (objects(root) / "ran").read_text() == ran

    def test_one_file_changed_is_one_file_compiled(self, tree: Path, root: Path) -> None:
        first = kernel(tree, root)
        assert compiled(root) == ["fs/open.o", "init/main.o"]
        (tree / "fs/open.c").write_text(OPEN.replace("COUNT", "COUNT + 1"))
        (objects(root) / "ran").unlink()
        second = kernel(tree, root)
        assert compiled(root) == ["fs/open.o"]
        assert (objects(root) / "ran").read_text() == "make vmlinux bzImage\n"
        assert first.key != second.key
        assert first.build_id != second.build_id
        (tree / "fs/open.c").write_text(OPEN)
        assert kernel(tree, root) == first

    def test_the_users_tree_is_left_alone(self, tree: Path, root: Path) -> None:
        before = {path: path.lstat().st_mtime_ns for path in (tree, *tree.rglob("*"))}
        kernel(tree, root)
        assert {path: path.lstat().st_mtime_ns for path in (tree, *tree.rglob("*"))} == before

    def test_a_tree_elsewhere_with_the_same_content(
        self, tree: Path, root: Path, tmp_path: Path
    ) -> None:
        first = kernel(tree, root)
        other = fake_tree(tmp_path / "other")
        second = kernel(other, root)
        assert second.key == first.key
        assert (second.source, second.debug_source) == (other, tree)

    def test_the_environment_changes_nothing(
        self, tree: Path, root: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for name, value in {
            "MAKEFLAGS": "--dry-run",
            "O": "/nowhere",
            "KBUILD_OUTPUT": "/nowhere",
            "ARCH": "arm",
            "LOCALVERSION": "-mine",
        }.items():
            monkeypatch.setenv(name, value)
        assert kernel(tree, root).release == "6.1.99"

    def test_variables_for_make(self, tree: Path, root: Path) -> None:
        first = kernel(tree, root)
        second = kernel(tree, root, make=["TOLD=something", "KCFLAGS=-O1"])
        assert second.key != first.key
        assert kernel(tree, root) == first, "the key of a kernel without them has changed"
        # Two compilers do not take turns in one build directory.
        ran = [path.read_text() for path in sorted(root.glob("v1/work/build/*/objects/ran"))]
        assert ["something" in text for text in ran] in ([True, False], [False, True])
        assert kernel(tree, root, make=["TOLD=something", "KCFLAGS=-O2"]).key != second.key

    def test_a_compiler_that_is_not_installed(self, tree: Path, root: Path) -> None:
        with pytest.raises(ConfigError, match="gcc-99"):
            kernel(tree, root, make=["CC=gcc-99"])

    def test_a_path_with_spaces(self, tmp_path: Path, root: Path) -> None:
        tree = fake_tree(tmp_path / "my own kernel")
        built = kernel(tree, root)
        assert built.source == tree
        assert built.debug_source != tree

    def test_a_copy_has_what_the_configuration_reads_of_other_architectures(
        self, tmp_path: Path, root: Path
    ) -> None:
        tree = fake_tree(tmp_path / "my own kernel")
        (tree / "arch/arm/crypto").mkdir()
        (tree / "arch/arm/crypto/Kconfig").write_text("")
        built = kernel(tree, root)
        assert built.debug_source is not None
        assert (built.debug_source / "arch/arm/crypto/Kconfig").exists()
        assert not (built.debug_source / "arch/arm/Kconfig").exists()

    def test_patches(self, tree: Path, root: Path, tmp_path: Path) -> None:
        plain = kernel(tree, root)
        patch = tmp_path / "p.patch"
        patch.write_text(
            "--- a/fs/open.c\n+++ b/fs/open.c\n@@ -1,2 +1,2 @@\n #include <linux/kernel.h>\n"
            "-int open_count(void) { return COUNT; }\n+int open_count(void) { return 7; }\n"
        )
        patched = kernel(tree, root, patch=[str(patch)])
        assert patched.build_id != plain.build_id
        assert b"return 7" in patched.sources.read("fs/open.c")
        assert patched.source is not None
        assert "return 7" in (patched.source / "fs/open.c").read_text()
        assert "return 7" not in (tree / "fs/open.c").read_text()

    @pytest.mark.parametrize("kind", ["tree", "revision"])
    def test_how_patches_fit_is_said_from_the_cache_too(
        self, tree: Path, root: Path, tmp_path: Path, kind: str
    ) -> None:
        diff = ["--- a/fs/open.c", "+++ b/fs/open.c", "@@ -1,2 +1,3 @@"]
        lines = (tree / "fs/open.c").read_text().splitlines()
        diff += [f" {lines[0]}", "+/* more */", f" {lines[1]}", ""]
        (tree / "fs/open.c").write_text("\n".join(["/* first */", *lines, ""]))
        patch = tmp_path / "p.patch"
        patch.write_text("\n".join(diff))
        spec: Path | str = tree
        if kind == "revision":
            identity = ["-c", "user.name=A", "-c", "user.email=a@example.org"]
            for words in (["init", "-q"], ["add", "."], [*identity, "commit", "-q", "-m", "one"]):
                subprocess.run(["git", *words], cwd=tree, check=True)
            spec = f"{tree}@HEAD"
        for _ in range(2):  # built, and from the cache
            progress = Heard()
            built = kernel(spec, root, progress, patch=[str(patch)])
            (line,) = built.inexact
            assert line.startswith("the patch p.patch fits ")
            assert line.endswith("not exactly: Hunk #1 succeeded at 2 (offset 1 line)")
            assert progress.lines.count(line) == 1


def repository(tree: Path) -> Path:
    """Make a tree a repository with the tags one and two, that differ in one file."""
    words = ["git", "-C", str(tree), "-c", "user.name=A", "-c", "user.email=a@b"]
    for command in (["init", "-q"], ["add", "-A"], ["commit", "-qm", "one"], ["tag", "one"]):
        subprocess.run([*words, *command], check=True)
    (tree / "fs/open.c").write_text(OPEN.replace("COUNT", "COUNT + 2"))
    for command in (["commit", "-qam", "two"], ["tag", "two"]):
        subprocess.run([*words, *command], check=True)
    return tree


class TestRevisions:
    @pytest.fixture
    def repository(self, tree: Path) -> Path:
        return repository(tree)

    def test_uncommitted_changes_stay_out(self, repository: Path, root: Path) -> None:
        (repository / "fs/open.c").write_text("broken\n")
        built = kernel(f"{repository}@one", root)
        assert built.source is not None
        assert (built.source / "fs/open.c").read_text() == OPEN
        with pytest.raises(BuildError):
            kernel(repository, root)

    def test_from_one_to_the_next_only_the_difference_is_compiled(
        self, repository: Path, root: Path
    ) -> None:
        first = kernel(f"{repository}@one", root).build_id
        assert compiled(root) == ["fs/open.o", "init/main.o"]
        assert kernel(f"{repository}@two", root).build_id != first
        assert compiled(root) == ["fs/open.o"]

    def test_both_at_a_time_have_their_own_sources(self, repository: Path, root: Path) -> None:
        one = kernel(f"{repository}@one", root)
        two = kernel(f"{repository}@two", root)
        assert one.source is not None
        assert two.source is not None
        assert "COUNT + 2" not in (one.source / "fs/open.c").read_text()
        assert "COUNT + 2" in (two.source / "fs/open.c").read_text()
        assert one.debug_source == two.debug_source == one.source
        again = [kernel(f"{repository}@{name}", root) for name in ("one", "two")]
        assert again == [one, two]


class TestSources:
    """What a kernel was compiled from, whatever its source's directory has become since."""

    def test_of_a_tree_that_was_edited(self, tree: Path, root: Path) -> None:
        built = kernel(tree, root)
        (tree / "fs/open.c").write_text("something else\n")
        (tree / "include/linux/kernel.h").unlink()
        for built_then in (built, kernel_of_entry(built, tree, root)):
            assert built_then.sources.read(f"{tree}/fs/open.c").decode() == OPEN
            assert built_then.sources.read("include/linux/kernel.h") == b"#define COUNT 1\n"

    def test_of_a_revision_that_another_has_replaced(self, tree: Path, root: Path) -> None:
        repository(tree)
        one, two = (kernel(f"{tree}@{name}", root) for name in ("one", "two"))
        for _ in range(2):
            assert one.sources.read("fs/open.c").decode() == OPEN
            assert b"COUNT + 2" in two.sources.read("fs/open.c")
            one, two = (kernel(f"{tree}@{name}", root) for name in ("one", "two"))
        shown = one.sources.directory / "fs/open.c"
        one.sources.unpack()
        two.sources.unpack()
        assert shown.read_text() == OPEN
        assert "COUNT + 2" in (two.sources.directory / "fs/open.c").read_text()

    def test_what_it_was_not_compiled_from(self, tree: Path, root: Path) -> None:
        with pytest.raises(KgdbError, match=r"Kbuild is not available: .* not compiled from it"):
            kernel(tree, root).sources.read("Kbuild")

    def test_of_a_kernel_that_an_older_version_has_built(self, tree: Path, root: Path) -> None:
        repository(tree)
        for spec in (str(tree), f"{tree}@one"):
            built = kernel(spec, root)
            without_archive(built, root)
            again = kernel(spec, root)
            assert not SourceArchive.is_in(again.vmlinux.parent)
            compiled_from = again.sources.read(f"{again.debug_source}/fs/open.c")
            assert (b"COUNT + 2" in compiled_from) == (spec == str(tree))
        one = again
        assert b"COUNT + 2" in kernel(f"{tree}@two", root).sources.read("fs/open.c")
        assert one.sources.read("fs/open.c").decode() == OPEN, "its worktree was taken from it"

    def test_of_such_a_kernel_whose_tree_is_edited_then(self, tree: Path, root: Path) -> None:
        without_archive(kernel(tree, root), root)
        built = kernel(tree, root)
        path = tree / "fs/open.c"
        times = path.stat().st_atime_ns, path.stat().st_mtime_ns
        time.sleep(0.01)  # a file system's clock is a little behind
        path.write_text("something else\n")
        os.utime(path, ns=times)
        with pytest.raises(KgdbError, match=r"fs/open\.c is not available: .* was changed since"):
            built.sources.read("fs/open.c")


def kernel_of_entry(built: Kernel, tree: Path, root: Path) -> Kernel:
    """The same kernel, as the next session has it."""
    path = tree / "fs/open.c"
    edited = path.read_text()
    path.write_text(OPEN)
    (tree / "include/linux/kernel.h").write_text("#define COUNT 1\n")
    again = kernel(tree, root)
    path.write_text(edited)
    assert again.key == built.key
    return again


def without_archive(built: Kernel, root: Path) -> None:
    """Make a cache entry one as older versions have written it."""
    entry = built.vmlinux.parents[1]
    for name in ("sources.json", "sources.bin"):
        (entry / "files" / name).unlink()
    about = Manifest.load((entry / "manifest.json").read_bytes())
    remade = make_manifest(
        entry / "files", kind=about.kind, key=about.key, about=about.about, created=1.0, sync=False
    )
    (entry / "manifest.json").write_bytes(remade.dump())


class TestSymbols:
    def test_lost_ones_are_named_with_the_reason(self, tree: Path, root: Path) -> None:
        symbols = ["CONFIG_KNOWN=y", "CONFIG_NEEDS_NET=y", "CONFIG_NOWHERE=y"]
        with pytest.raises(ConfigError) as caught:
            kernel(tree, root, set=symbols)
        text = str(caught.value)
        assert "2 symbols did not survive" in text
        assert "CONFIG_NEEDS_NET=y (--kgdb-set) was dropped: depends on NET (Kconfig:4)" in text
        assert "CONFIG_NOWHERE=y (--kgdb-set) was dropped: this kernel knows no such" in text
        assert "CONFIG_KNOWN" not in text
        assert entries(root) == []

    def test_ours_cannot_be_taken_away(self, tree: Path, root: Path) -> None:
        with pytest.raises(ConfigError, match=r"CONFIG_KGDB=y \(needed for the debugger\)"):
            kernel(tree, root, set=["CONFIG_KGDB=n"])

    def test_base_and_requests_arrive(self, tree: Path, root: Path, tmp_path: Path) -> None:
        (tmp_path / "my.config").write_text("CONFIG_MINE=y\n# CONFIG_OTHER is not set\n")
        built = kernel(tree, root, config=str(tmp_path / "my.config"), set=["CONFIG_KNOWN=y"])
        assert (built.config["MINE"], built.config["KNOWN"]) == ("y", "y")
        assert "OTHER" not in built.config

    def test_what_minimal_lost_is_said_once(self, tree: Path, root: Path) -> None:
        script = tree / "scripts/oldconfig.sh"
        script.write_text(script.read_text() + 'sed -i /CONFIG_PSI=/d "$2"\n')
        heard = Heard()
        kernel(tree, root, heard)
        (errors,) = [line for line in heard.lines if "does not have" in line]
        assert errors.endswith("this kernel does not have CONFIG_MODULES=y, CONFIG_PSI=y")


class TestFailures:
    def test_compiler_error_is_shown_and_mended(self, tree: Path, root: Path) -> None:
        (tree / "fs/open.c").write_text(
            "#include <linux/kernel.h>\nint open_count(void) { oops }\n"
        )
        with pytest.raises(BuildError) as caught:
            kernel(tree, root)
        text = str(caught.value)
        assert re.search(r"open\.c:2:24: error: 'oops' undeclared", text)
        assert len(text.splitlines()) < 20
        assert caught.value.log is not None
        assert "oops" in caught.value.log.read_text()
        assert entries(root) == []
        (tree / "fs/open.c").write_text(OPEN)
        kernel(tree, root)
        assert len(entries(root)) == 1

    def test_a_header_that_is_missing_names_the_package(self, tree: Path, root: Path) -> None:
        (tree / "fs/open.c").write_text("#include <openssl/absent.h>\n")
        with pytest.raises(BuildError, match="apt install libssl-dev"):
            kernel(tree, root)

    def test_a_program_that_is_missing_names_the_package(
        self, tree: Path, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "bin").mkdir()
        for name in ("make", "gcc", "ld", "bison", "bc", "perl", "find", "sh", "setpriv"):
            (tmp_path / "bin" / name).symlink_to(f"/usr/bin/{name}")
        monkeypatch.setenv("PATH", str(tmp_path / "bin"))
        with pytest.raises(ConfigError, match=r"flex is needed(?s:.*)apt install flex"):
            kernel(tree, root)

    def test_a_change_during_the_build_keeps_nothing(self, tree: Path, root: Path) -> None:
        (tree / "scripts/slow.sh").write_text(f"echo >> {tree}/include/linux/kernel.h\n")
        with pytest.raises(BuildError, match="was changed while"):
            kernel(tree, root)
        assert entries(root) == []

    def test_a_full_disk(self, tree: Path, root: Path) -> None:
        kernel(tree, root)
        (tree / "fs/open.c").write_text(OPEN + "/* changed */\n")
        (tree / "scripts/slow.sh").write_text(
            "echo 'ld: cannot write: No space left on device'; exit 1"
        )
        with pytest.raises(BuildError, match=r"No space left(?s:.*)cache prune"):
            kernel(tree, root)

    @pytest.mark.parametrize("fails", [False, True])
    def test_no_temporary_file_of_a_compiler_is_left(
        self,
        tree: Path,
        root: Path,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        fails: bool,
    ) -> None:
        """gcc leaves its own when it is ended between making one and noting its name."""
        monkeypatch.setenv("TMPDIR", str(temporary := tmp_path / "temporary"))
        temporary.mkdir()
        (tree / "scripts/slow.sh").write_text(
            f"mktemp >>{tmp_path}/made\n{'exit 1' if fails else ''}\n"
        )
        with pytest.raises(BuildError) if fails else contextlib.nullcontext():
            kernel(tree, root)
        made = [Path(line) for line in (tmp_path / "made").read_text().split()]
        assert made
        assert not [path for path in made if path.exists()]
        assert list(temporary.iterdir()) == []


PREPARE = """
import sys
from pathlib import Path
from pytest_kgdb.cache import Cache
from pytest_kgdb.kernel import prepare
from pytest_kgdb.progress import Progress
from pytest_kgdb.settings import make_settings

progress = Progress(sys.stdout, live=False, interval=0.2)
words = {"kernel": [sys.argv[1]], "set": sys.argv[3:]}
settings = make_settings(**words, jobs=2, cache_dir=sys.argv[2])
try:
    cache = Cache(Path(sys.argv[2]), progress=progress)
    made = prepare(settings, settings.kernel[0], cache, progress)
except KeyboardInterrupt:
    print("interrupted", flush=True)
    sys.exit(130)
print("made", made.key, flush=True)
"""


class Builder:
    """Another process that wants a kernel."""

    def __init__(self, tree: Path | str, root: Path, *symbols: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(PREPARE), str(tree), str(root), *symbols],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def end(self) -> str:
        output, _ = self.process.communicate(timeout=SOON)
        return output


@pytest.fixture
def slow(tree: Path, tmp_path: Path) -> Iterator[Path]:
    """Have every file compile for as long as this file is not there."""
    go = tmp_path / "go"
    script = f'echo "compiling $1" >>{tmp_path}/began\nwhile [ ! -e {go} ]; do sleep 0.05; done\n'
    (tree / "scripts/slow.sh").write_text(script)
    yield go
    go.touch()


def begun(go: Path) -> None:
    """Wait until something is being compiled."""
    deadline = time.monotonic() + SOON
    while not (go.parent / "began").exists():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def alive(text: str) -> list[int]:
    """Processes with this in their command line."""
    pids = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            command = path.read_bytes().decode(errors="replace")
        except OSError:
            continue
        if text in command and int(path.parent.name) != os.getpid():
            pids.append(int(path.parent.name))
    return pids


def none_alive(text: str) -> None:
    deadline = time.monotonic() + SOON
    while left := alive(text):
        assert time.monotonic() < deadline, left
        time.sleep(0.05)


class TestConcurrent:
    def test_two_want_one_and_one_builds(self, tree: Path, root: Path, slow: Path) -> None:
        first = Builder(tree, root)
        begun(slow)
        second = Builder(tree, root)
        deadline = time.monotonic() + SOON
        while not list(root.glob("v1/locks/kernel-*.holder")):
            assert time.monotonic() < deadline
            time.sleep(0.02)
        time.sleep(1.0)
        slow.touch()
        outputs = [first.end(), second.end()]
        keys = {re.search(r"^made (\w+)$", output, re.M)[1] for output in outputs}  # type: ignore[index]
        assert len(keys) == 1
        assert len(compiled(root)) == 2
        assert f"waiting for process {first.process.pid}" in outputs[1]

    def at_once(self, builders: list[Builder], slow: Path) -> list[str]:
        """See that all of them compile before any has ended; return what they print."""
        deadline = time.monotonic() + SOON
        began = slow.parent / "began"
        while not began.exists() or len(began.read_text().split()) < 4 * len(builders):
            assert time.monotonic() < deadline, [builder.process.poll() for builder in builders]
            assert all(builder.process.poll() is None for builder in builders)
            time.sleep(0.02)
        slow.touch()
        outputs = [builder.end() for builder in builders]
        assert all("made" in output for output in outputs), outputs
        return outputs

    def test_two_configurations_do_not_wait(self, tree: Path, root: Path, slow: Path) -> None:
        first = Builder(tree, root)
        begun(slow)
        outputs = self.at_once([first, Builder(tree, root, "CONFIG_KNOWN=y")], slow)
        assert not any("waiting for" in output for output in outputs)
        assert "KNOWN" in kernel(tree, root, set=["CONFIG_KNOWN=y"]).config
        assert "KNOWN" not in kernel(tree, root).config

    @pytest.mark.parametrize("symbols", [(), ("CONFIG_KNOWN=y",)])
    def test_two_revisions_do_not_wait(
        self, tree: Path, root: Path, slow: Path, symbols: tuple[str, ...]
    ) -> None:
        repository(tree)
        first = Builder(f"{tree}@one", root, *symbols)
        begun(slow)
        outputs = self.at_once([first, Builder(f"{tree}@two", root, *symbols)], slow)
        assert not any("waiting for" in output for output in outputs[:1])
        kernels = [kernel(f"{tree}@{name}", root, set=list(symbols)) for name in ("one", "two")]
        for built, is_second in zip(kernels, (False, True), strict=True):
            assert (b"COUNT + 2" in built.sources.read("fs/open.c")) == is_second
            assert len({path.name for path in built.vmlinux.parent.iterdir()}) > 3
        # As it is when only one is built, each time from nothing.
        for number, built in enumerate(kernels):
            alone = kernel(f"{tree}@{('one', 'two')[number]}", root / "alone", set=list(symbols))
            assert alone.build_id == built.build_id

    def test_a_configuration_does_not_undo_anothers_objects(self, tree: Path, root: Path) -> None:
        repository(tree)
        kernel(f"{tree}@one", root)
        kernel(f"{tree}@one", root, set=["CONFIG_KNOWN=y"])
        (plain,) = root.glob("v1/work/tree/*/src/kgdb-x86-minimal")
        (plain / "compiled").unlink()
        kernel(f"{tree}@two", root)
        assert (plain / "compiled").read_text().split() == ["fs/open.o"]

    def test_a_new_worktree_begins_with_what_another_has(self, tree: Path, root: Path) -> None:
        repository(tree)
        (tree / "fs/open.c").write_text(OPEN.replace("COUNT", "COUNT + 3"))
        words = ["git", "-C", str(tree), "-c", "user.name=A", "-c", "user.email=a@b"]
        subprocess.run([*words, "commit", "-qam", "three"], check=True)
        one = kernel(f"{tree}@one", root)
        assert one.source is not None, "which is kept for it from now on"
        two = kernel(f"{tree}@two", root)
        assert two.source is not None
        assert two.source != one.source
        assert (one.source / "fs/open.c").read_text() == OPEN
        assert "COUNT + 2" in (two.source / "fs/open.c").read_text()
        assert (two.source / "Makefile").samefile(one.source / "Makefile")
        alone = kernel(f"{tree}@two", root / "alone")
        assert alone.build_id == two.build_id
        three = kernel(f"{tree}@HEAD", root)
        assert b"COUNT + 3" in three.sources.read("fs/open.c")
        assert (one.source / "fs/open.c").read_text() == OPEN

    def test_progress_tells_how_far_it_is(self, tree: Path, root: Path, slow: Path) -> None:
        builder = Builder(tree, root)
        begun(slow)
        time.sleep(1.0)
        slow.touch()
        assert re.search(r"building kernel .*linux \(minimal\), \d+ of 2000, .*CC ", builder.end())


class TestInterrupted:
    def test_ctrl_c_leaves_no_process_and_a_usable_directory(
        self, tree: Path, root: Path, slow: Path
    ) -> None:
        builder = Builder(tree, root)
        begun(slow)
        builder.process.send_signal(signal.SIGINT)
        assert "interrupted" in builder.end()
        none_alive(str(tree))
        assert entries(root) == []
        assert not (objects(root).parent / "running").exists()
        slow.touch()
        kernel(tree, root)

    def test_a_kill_leaves_no_process_and_no_half_of_a_file(
        self, tree: Path, root: Path, slow: Path
    ) -> None:
        builder = Builder(tree, root)
        begun(slow)
        builder.process.kill()
        builder.end()
        none_alive(str(tree))
        assert (objects(root).parent / "running").exists()
        # As if the assembler had been at it just then.
        (objects(root) / "fs").mkdir(exist_ok=True)
        (objects(root) / "fs/open.o").write_bytes(b"\x7fELF, half of it")
        slow.touch()
        kernel(tree, root)
        assert "fs/open.o" in compiled(root)


class TestBuiltInPlace:
    def test_is_used_as_it_is(self, tree: Path, root: Path) -> None:
        built_in_place(tree, config=USABLE)
        before = {path: path.lstat().st_mtime_ns for path in tree.rglob("*")}
        built = kernel(tree, root)
        assert (built.vmlinux, built.build_dir, built.source) == (tree / "vmlinux", tree, tree)
        assert built.release == "6.1.99"
        assert {path: path.lstat().st_mtime_ns for path in tree.rglob("*")} == before

    @pytest.mark.parametrize("wish", [{"config": "minimal"}, {"set": ["CONFIG_KNOWN=y"]}])
    def test_is_built_from_a_copy_where_something_else_is_asked_for(
        self, tree: Path, root: Path, wish: dict[str, object]
    ) -> None:
        built_in_place(tree, config=USABLE)
        built = kernel(tree, root, **wish)
        assert built.build_dir is None
        assert built.source == tree
        assert built.debug_source not in (None, tree)

    def test_only_configured_is_built_from_a_copy(self, tree: Path, root: Path) -> None:
        (tree / ".config").write_text("CONFIG_X=y\n")
        built = kernel(tree, root)
        assert built.build_dir is None
        assert "X" not in built.config


class TestPrebuilt:
    @pytest.fixture
    def build(self, tmp_path: Path) -> Path:
        (tmp_path / "build").mkdir()
        return built_in_place(tmp_path / "build", config=USABLE)

    def test_second_look_opens_nothing(
        self, build: Path, root: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        first = kernel(build, root)
        monkeypatch.setattr(_prebuilt, "_look", lambda *_: pytest.fail("looked again"))
        assert kernel(build, root) == first

    def test_missing_symbols_are_named(self, build: Path, root: Path) -> None:
        (build / ".config").write_text(USABLE.replace("CONFIG_KGDB=y\n", ""))
        with pytest.raises(ConfigError, match=r"was built without\n  CONFIG_KGDB=y \(the debugger"):
            kernel(build, root)
        assert kernel(build, root, stub="qemu").vmlinux == build / "vmlinux"

    def test_build_options_cannot_apply_to_it(self, build: Path, root: Path) -> None:
        with pytest.raises(ConfigError, match=r"used as it is: .*--kgdb-set cannot apply"):
            kernel(build, root, set=["CONFIG_A=y"])

    def test_vmlinux_and_image_of_different_builds(self, build: Path, root: Path) -> None:
        vmlinux = (build / "vmlinux").read_bytes()
        (build / X86_64.image).write_bytes(boot_image(vmlinux))
        assert kernel(build, root).build_id in vmlinux.hex()
        other = vmlinux.replace(bytes.fromhex(kernel(build, root).build_id), bytes(20))
        (build / X86_64.image).write_bytes(boot_image(other))
        with pytest.raises(ConfigError, match=r"of different builds: the build id of vmlinux is"):
            kernel(build, root)

    def test_a_vmlinux_that_is_none(self, build: Path, root: Path) -> None:
        (build / "vmlinux").write_text("no\n")
        with pytest.raises(ConfigError, match="is not an ELF file"):
            kernel(build, root)

    def test_modules_are_indexed_beside_it(self, build: Path, root: Path) -> None:
        (build / "modules.order").write_text("drivers/a.o\ndrivers/missing.o\n")
        (build / "modules.builtin").touch()
        (build / "drivers").mkdir()
        (build / "drivers/a.ko").write_bytes((build / "vmlinux").read_bytes())
        built = kernel(build, root)
        assert built.modules_dir is not None
        assert (built.modules_dir / "kernel/drivers/a.ko").exists()
        assert not (build / "modules.dep").exists()


def boot_image(vmlinux: bytes) -> bytes:
    """A bzImage around a kernel, as far as anybody looks at it here."""
    import struct

    payload = gzip.compress(vmlinux)
    head = bytearray(1024)
    head[0x1F1] = 1
    head[0x202:0x206] = b"HdrS"
    struct.pack_into("<H", head, 0x206, 0x20F)
    struct.pack_into("<II", head, 0x248, 0, len(payload))
    return bytes(head) + payload
