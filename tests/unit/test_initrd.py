"""The initrd's archive, byte for byte, and what is refused."""

from __future__ import annotations

import stat
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from pytest_kgdb.arch import X86_64
from pytest_kgdb.cache import Cache
from pytest_kgdb.errors import ConfigError
from pytest_kgdb.initrd import Member, archive, is_static, joined, prepare
from pytest_kgdb.kernel import Config, Kernel
from pytest_kgdb.process import run
from pytest_kgdb.progress import Silent
from pytest_kgdb.settings import make_settings


def unpack(data: bytes) -> dict[str, tuple[int, bytes, tuple[int, int]]]:
    """What a kernel would make of an archive (init/initramfs.c), in its order."""
    members: dict[str, tuple[int, bytes, tuple[int, int]]] = {}
    place = 0
    while True:
        assert data[place : place + 6] == b"070701"
        fields = [int(data[place + 6 + 8 * i : place + 14 + 8 * i], 16) for i in range(13)]
        _, mode, uid, gid, _, mtime, size, _, _, major, minor, length, _ = fields
        assert (uid, gid, mtime) == (0, 0, 0)
        name = data[place + 110 : place + 110 + length - 1].decode()
        assert data[place + 110 + length - 1] == 0
        begin = (place + 110 + length + 3) & ~3
        place = (begin + size + 3) & ~3
        if name == "TRAILER!!!":
            assert place == len(data)
            return members
        assert name not in members
        members[name] = mode, data[begin : begin + size], (major, minor)


MEMBERS = (
    Member("etc/a", stat.S_IFREG | 0o644, b"abc"),
    Member("etc", stat.S_IFDIR | 0o755),
    Member("dev/console", stat.S_IFCHR | 0o600, device=(5, 1)),
    Member("dev", stat.S_IFDIR | 0o755),
    Member("init", stat.S_IFLNK | 0o777, b"/bin/busybox"),
    Member("empty", stat.S_IFREG | 0o644),
)


def test_everything_is_in_it() -> None:
    members = unpack(archive(MEMBERS))
    assert members["etc/a"] == (stat.S_IFREG | 0o644, b"abc", (0, 0))
    assert members["dev/console"] == (stat.S_IFCHR | 0o600, b"", (5, 1))
    assert members["init"] == (stat.S_IFLNK | 0o777, b"/bin/busybox", (0, 0))
    assert members["empty"][1] == b""


def test_directories_come_before_what_is_in_them() -> None:
    names = list(unpack(archive(MEMBERS)))
    assert names.index("etc") < names.index("etc/a")
    assert names.index("dev") < names.index("dev/console")


def test_the_order_of_the_members_does_not_matter() -> None:
    assert archive(MEMBERS) == archive(reversed(MEMBERS))


@pytest.mark.parametrize("length", range(8))
def test_names_and_contents_of_every_length(length: int) -> None:
    data = b"x" * length
    members = unpack(archive([Member("n" * (length + 1), stat.S_IFREG | 0o600, data)]))
    assert members == {"n" * (length + 1): (stat.S_IFREG | 0o600, data, (0, 0))}


def elf(*kinds: int) -> bytes:
    header = b"\x7fELF\x02\x01".ljust(32, b"\0") + struct.pack("<Q", 64)
    header = header.ljust(54, b"\0") + struct.pack("<HH", 56, len(kinds))
    return header.ljust(64, b"\0") + b"".join(struct.pack("<I", k).ljust(56, b"\0") for k in kinds)


@pytest.mark.parametrize(
    ("data", "static"),
    [(elf(1, 4), True), (elf(6, 3, 1), False), (b"#!/bin/sh\n", False), (b"", False)],
)
def test_static_programs_have_no_interpreter(tmp_path: Path, data: bytes, static: bool) -> None:
    path = tmp_path / "program"
    path.write_bytes(data)
    assert is_static(path) is static


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return Cache(tmp_path / "cache", progress=Silent())


@pytest.fixture
def kernel(tmp_path: Path) -> Kernel:
    (tmp_path / ".config").write_text("CONFIG_MODULES=y\n")
    return Kernel(
        spec="x",
        arch=X86_64,
        release="6.1.0",
        version=(6, 1, 0),
        vmlinux=tmp_path / "vmlinux",
        image=tmp_path / "bzImage",
        config=Config(tmp_path / ".config"),
        build_id="",
        source=None,
        debug_source=None,
        build_dir=None,
        modules_dir=None,
        headers=None,
        compiler="",
        key="k",
    )


class TestFile:
    def test_is_used_as_it_is(self, kernel: Kernel, cache: Cache, tmp_path: Path) -> None:
        path = tmp_path / "mine.img"
        path.write_bytes(b"any")
        initrd = prepare(make_settings(initrd=str(path)), kernel, [], cache, Silent())
        assert (initrd.path, initrd.kind) == (path, "file")
        path.write_bytes(b"other")
        again = prepare(make_settings(initrd=str(path)), kernel, [], cache, Silent())
        assert again.key != initrd.key

    def test_that_is_gone(self, kernel: Kernel, cache: Cache, tmp_path: Path) -> None:
        path = tmp_path / "mine.img"
        path.touch()
        settings = make_settings(initrd=str(path))
        path.unlink()
        with pytest.raises(ConfigError, match="there is no file"):
            prepare(settings, kernel, [], cache, Silent())

    def test_has_no_room_for_modules(self, kernel: Kernel, cache: Cache, tmp_path: Path) -> None:
        path = tmp_path / "mine.img"
        path.touch()
        settings = make_settings(initrd=str(path), module=[str(path)])
        with pytest.raises(ConfigError, match="no room for modules"):
            prepare(settings, kernel, [path], cache, Silent())


def test_the_import_is_light() -> None:
    code = (
        "import sys, pytest_kgdb.initrd, pytest_kgdb.kernel as kernel\n"
        "heavy = ['drgn', 'unidiff', 'rich', 'fsspec', 'concurrent.futures', 'platformdirs',"
        " 'pytest_kgdb.disk', 'pytest_kgdb.kernel._make']\n"
        "print([name for name in heavy if name in sys.modules])\n"
        "assert all(getattr(kernel, name) for name in kernel.__all__)"
    )
    assert run([sys.executable, "-c", code], timeout=30).output == "[]\n"


def test_two_archives_are_joined_to_one(tmp_path: Path) -> None:
    first, second = (archive([Member(name, 0o100644, name.encode())]) for name in ("one", "two"))
    done = subprocess.run(
        ["cpio", "-t", "--quiet"], input=joined(first, second), capture_output=True
    )
    assert done.stdout.split() == [b"one", b"two"]
    # A compressed one stays as it is, and what follows begins at a multiple of four.
    assert joined(b"\x1f\x8b123", second) == b"\x1f\x8b123\0\0\0" + second
