"""Archives of the source files that something was compiled from."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from pytest_kgdb.errors import CacheError, KgdbError
from pytest_kgdb.kernel import NoSources, SourceArchive, SourceDirectory
from pytest_kgdb.kernel._source_record import Recorder, record_kernel

TEXT = "int open_count(void) { return 1; }\n"


class Build:
    """A source tree and a build directory, with what fixdep writes there."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.tree, self.objects = directory / "src", directory / "src/kgdb-x86-minimal"
        self.shown = Path("/shown/src"), Path("/shown/src/kgdb-x86-minimal")
        self.state_dir = directory / "state"
        self.state_dir.mkdir(parents=True)
        self.entries = 0

    def write(self, name: str, text: str) -> None:
        path = self.tree / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    def compile(self, name: str, *headers: str) -> None:
        path = self.objects / f"{name.removesuffix('.c')}.o"
        path.parent.mkdir(parents=True, exist_ok=True)
        deps = "".join(f"  {header} \\\n" for header in headers)
        path.with_name(f".{path.name}.cmd").write_text(
            f"savedcmd_{path.name} := gcc -c -o {path.name} ../{name}\n\n"
            f"source_{path.name} := ../{name}\n\n"
            f"deps_{path.name} := \\\n  $(wildcard include/config/SMP) \\\n{deps}\n"
            f"{path.name}: $(deps_{path.name})\n"
        )

    def archive(self) -> SourceArchive:
        self.entries += 1
        entry = self.directory / f"entry-{self.entries}"
        entry.mkdir()
        record_kernel(self.objects, self.tree, self.shown, self.state_dir, entry)
        unpacked = self.directory / f"unpacked-{self.entries}/src"
        headers = Path("/kit/headers")
        return SourceArchive(entry, "linux", unpacked, tops=(self.shown[0], headers))


@pytest.fixture
def build(tmp_path: Path) -> Build:
    build = Build(tmp_path)
    build.write("fs/open.c", TEXT)
    build.write("fs/other.c", "int other;\n")
    build.write("include/linux/fs.h", "struct file;\n")
    build.write("kgdb-x86-minimal/include/generated/bounds.h", "#define A 1\n")
    headers = ("../include/linux/fs.h", "include/generated/bounds.h", "/usr/include/stdio.h")
    build.compile("fs/open.c", *headers)
    build.compile("fs/other.c", *headers, "../include/linux/removed.h")
    return build


def test_has_what_was_compiled_and_nothing_else(build: Build) -> None:
    build.write("README", "text\n")
    assert sorted(build.archive().files) == [
        "fs/open.c",
        "fs/other.c",
        "include/linux/fs.h",
        "kgdb-x86-minimal/include/generated/bounds.h",
    ]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("fs/open.c", TEXT),
        ("/shown/src/fs/open.c", TEXT),
        ("/shown/src/kgdb-x86-minimal/../fs/open.c", TEXT),
        ("/shown/src/kgdb-x86-minimal/include/generated/bounds.h", "#define A 1\n"),
        # As a module's debug information names them.
        ("/kit/headers/include/linux/fs.h", "struct file;\n"),
        ("/kit/headers/include/generated/bounds.h", "#define A 1\n"),
    ],
)
def test_names(build: Build, name: str, text: str) -> None:
    archive = build.archive()
    assert archive.has(name)
    assert archive.read(name).decode() == text


@pytest.mark.parametrize(
    "name", ["open.c", "/usr/include/stdio.h", "/elsewhere/fs/open.c", "README"]
)
def test_other_files_are_not_available(build: Build, name: str) -> None:
    archive = build.archive()
    assert not archive.has(name)
    with pytest.raises(KgdbError, match="available: linux was not compiled from it") as caught:
        archive.read(name)
    assert caught.value.by_test, "it says nothing of the kernel"


def test_as_gdb_reads_them(build: Build) -> None:
    archive = build.archive()
    archive.unpack()
    assert (archive.directory / "fs/open.c").read_text() == TEXT
    assert archive.read(f"{archive.directory}/fs/open.c").decode() == TEXT


def test_a_modules_as_gdb_reads_them(build: Build) -> None:
    entry = build.directory / "module"
    entry.mkdir()
    Recorder(build.state_dir).record({"/drivers/hello.c": build.tree / "fs/open.c"}, entry)
    archive = SourceArchive(entry, "hello", build.directory / "unpacked")
    archive.unpack()
    for name in ("/drivers/hello.c", f"{archive.directory}/drivers/hello.c"):
        assert archive.name(name) == "/drivers/hello.c"
        assert archive.read(name).decode() == TEXT
        assert Path(name).exists() == (name != "/drivers/hello.c")


def test_each_build_keeps_its_own(build: Build) -> None:
    archives = [(build.archive(), TEXT)]
    for number in range(2, 9):
        text = TEXT.replace("1", str(number) * 2000)
        build.write("fs/open.c", text)
        build.compile("fs/open.c")
        archives.append((build.archive(), text))
    for archive, text in archives:
        assert archive.read("fs/open.c").decode() == text
        assert archive.read("fs/other.c") == b"int other;\n"


def test_archives_do_not_grow_with_every_build(build: Build) -> None:
    sizes = []
    for number in range(40):
        build.write("fs/open.c", f"/* {os.urandom(4000).hex()} {number} */\n")
        build.compile("fs/open.c")
        archive = build.archive()
        sizes.append((build.directory / f"entry-{build.entries}/sources.bin").stat().st_size)
    assert f" {number} */".encode() in archive.read("fs/open.c")
    assert max(sizes) < 3 * sizes[0]


def test_file_of_the_same_size_and_time(build: Build) -> None:
    build.archive()
    path = build.tree / "fs/open.c"
    status = path.stat()
    path.write_text(TEXT.replace("1", "2"))
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert b"return 2" in build.archive().read("fs/open.c")


def test_files_that_another_build_dropped_and_brought_back(build: Build) -> None:
    (build.tree / "fs/other.c").rename(build.tree / "away")
    assert not build.archive().has("fs/other.c")
    (build.tree / "away").rename(build.tree / "fs/other.c")
    build.compile("fs/other.c")
    assert build.archive().has("fs/other.c")


def test_recording_that_was_killed(build: Build) -> None:
    build.archive()
    before = (build.state_dir / "sources.state.json").read_bytes()
    build.write("fs/open.c", TEXT.replace("1", "2"))
    build.archive()
    # The content was appended, and the index that knows it was not written.
    (build.state_dir / "sources.state.json").write_bytes(before)
    build.write("fs/other.c", "int another;\n")
    archive = build.archive()
    assert b"return 2" in archive.read("fs/open.c")
    assert archive.read("fs/other.c") == b"int another;\n"


@pytest.mark.parametrize("name", ["sources.names.json", "sources.bin", "sources.state.json"])
def test_state_that_is_lost(build: Build, name: str) -> None:
    build.archive()
    (build.state_dir / name).write_bytes(b"")
    build.write("fs/open.c", TEXT.replace("1", "2"))
    archive = build.archive()
    assert b"return 2" in archive.read("fs/open.c")
    if name != "sources.bin":
        assert archive.read("fs/other.c") == b"int other;\n"
    else:  # it cannot be told from the file alone, and is seen when it is read
        with pytest.raises(KgdbError, match="damaged"):
            archive.read("fs/other.c")


def test_damage_is_seen(build: Build) -> None:
    archive = build.archive()
    blobs = build.directory / "entry-1/sources.bin"
    data = bytearray(blobs.read_bytes())
    place = json.loads((build.directory / "entry-1/sources.json").read_text())["files"]["fs/open.c"]
    data[place[1] + place[2] // 2] ^= 1
    blobs.write_bytes(data)
    with pytest.raises(CacheError, match=r"fs/open\.c is not available: .* is damaged"):
        archive.read("fs/open.c")
    with pytest.raises(KgdbError, match="is damaged"):
        archive.unpack()


def test_only_what_was_compiled_since_is_read(
    build: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    build.archive()
    # Files of an earlier time than the last ones need not be read again.
    for path in (build.objects / "fs").glob(".*.cmd"):
        os.utime(path, ns=(0, 0))
    build.write("fs/open.c", TEXT)
    build.compile("fs/open.c")
    read: list[str] = []
    original = Path.read_bytes
    monkeypatch.setattr(Path, "read_bytes", lambda path: read.append(path.name) or original(path))
    names = Recorder(build.state_dir).compiled(build.objects)
    assert {"../fs/open.c", "../fs/other.c"} <= names
    assert [name for name in read if name.endswith(".cmd")] == [".open.o.cmd"]


class TestDirectories:
    """Sources of which there is no archive."""

    def test_that_cannot_change(self, build: Build) -> None:
        sources = SourceDirectory(build.tree, Path("/shown/src"))
        assert sources.read("/shown/src/fs/open.c").decode() == TEXT

    def test_file_that_is_gone(self, build: Build) -> None:
        with pytest.raises(
            KgdbError, match=r"fs/gone\.c is not available: .*No such file"
        ) as caught:
            SourceDirectory(build.tree).read("fs/gone.c")
        assert caught.value.by_test

    def test_file_that_make_would_compile_again(self, build: Build) -> None:
        path = build.tree / "fs/open.c"
        os.utime(path, (100.0, 100.0))
        assert SourceDirectory(build.tree, compiled=100.0).read("fs/open.c")
        with pytest.raises(KgdbError, match="was changed since it was compiled"):
            SourceDirectory(build.tree, compiled=99.0).read("fs/open.c")

    def test_file_whose_time_was_set_back(self, build: Build) -> None:
        path = build.tree / "fs/open.c"
        changed = path.stat().st_ctime
        assert SourceDirectory(build.tree, compared=changed).read("fs/open.c")
        os.utime(path, (100.0, 100.0))
        with pytest.raises(KgdbError, match="was changed since it was compiled"):
            SourceDirectory(build.tree, compared=changed - 1).read("fs/open.c")

    def test_none(self) -> None:
        with pytest.raises(
            KgdbError, match=r"fs/open\.c is not available: nothing tells"
        ) as caught:
            NoSources(Path("/shown/src")).read("/shown/src/fs/open.c")
        assert caught.value.by_test
