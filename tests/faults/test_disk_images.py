"""Images of the user's: what cannot be used is refused, what can be is never written to."""

from __future__ import annotations

import contextlib
import hashlib
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from pytest_kgdb.cache import Cache
from pytest_kgdb.disk import Disk, prepare
from pytest_kgdb.errors import ConfigError
from pytest_kgdb.progress import Silent
from pytest_kgdb.settings import make_settings


def qemu_img(*words: str | Path) -> str:
    return subprocess.run(
        ["qemu-img", *map(str, words)], check=True, capture_output=True, text=True
    ).stdout


def qemu_io(path: Path, *commands: str) -> str:
    words = [word for command in commands for word in ("-c", command)]
    done = subprocess.run(
        ["qemu-io", "-f", "qcow2", *words, str(path)], check=True, capture_output=True, text=True
    )
    return done.stdout


def holds(path: Path, byte: int) -> bool:
    return "Pattern verification failed" not in qemu_io(path, f"read -P {byte} 0 64k")


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "image.qcow2"
    qemu_img("create", "-q", "-f", "qcow2", path, "16M")
    qemu_io(path, "write -P 1 0 64k")
    return path


@pytest.fixture
def busy(image: Path) -> Iterator[Path]:
    """The image, with somebody who writes to it."""
    with subprocess.Popen(
        ["qemu-io", "-f", "qcow2", str(image)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as user:
        assert user.stdin is not None
        assert user.stdout is not None
        user.stdin.write(b"write -P 2 0 64k\n")
        user.stdin.flush()
        while b"wrote" not in user.stdout.readline():
            pass
        yield image
        user.stdin.close()
        user.wait(10)


def disk_of(path: Path, tmp_path: Path) -> Disk:
    settings = make_settings(disk=str(path), cache_dir=tmp_path / "cache")
    cache = Cache(tmp_path / "cache", progress=Silent())
    disk = prepare(settings, None, cache, Silent())  # type: ignore[arg-type] # not looked at
    assert disk is not None
    return disk


def test_it_is_taken_as_it_is(image: Path, tmp_path: Path) -> None:
    disk = disk_of(image, tmp_path)
    assert (disk.path, disk.format, disk.kind) == (image, "qcow2", "file")
    assert disk.key == disk_of(image, tmp_path).key


def test_another_content_is_another_disk(image: Path, tmp_path: Path) -> None:
    before = disk_of(image, tmp_path).key
    qemu_io(image, "write -P 3 1M 64k")
    assert disk_of(image, tmp_path).key != before


def test_another_content_below_is_another_disk(image: Path, tmp_path: Path) -> None:
    top = tmp_path / "top.qcow2"
    qemu_img("create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", image, top)
    before = disk_of(top, tmp_path).key
    qemu_io(image, "write -P 3 1M 64k")
    assert disk_of(top, tmp_path).key != before


def test_not_qcow2(tmp_path: Path) -> None:
    path = tmp_path / "disk.img"
    path.write_bytes(bytes(1 << 20))
    with pytest.raises(ConfigError, match=r"disk: the disk image .* is not qcow2 .*raw") as caught:
        disk_of(path, tmp_path)
    assert "qemu-img convert" in str(caught.value)


def test_a_directory(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="not a file"):
        disk_of(tmp_path, tmp_path)


def test_cut_short(image: Path, tmp_path: Path) -> None:
    with image.open("r+b") as file:
        file.truncate(0x20000)
    with pytest.raises(ConfigError, match="is corrupt"):
        disk_of(image, tmp_path)


def test_a_header_of_nonsense(image: Path, tmp_path: Path) -> None:
    with image.open("r+b") as file:
        file.seek(8)
        file.write(b"\xff" * 64)
    with pytest.raises(ConfigError, match="cannot be read"):
        disk_of(image, tmp_path)


def test_tables_that_contradict_each_other(image: Path, tmp_path: Path) -> None:
    with image.open("r+b") as file:
        file.seek(0x20000)  # the first table of reference counts' block
        file.write(bytes(64))
    with pytest.raises(ConfigError, match="is corrupt") as caught:
        disk_of(image, tmp_path)
    assert "qemu-img check -r all" in str(caught.value)


def test_a_backing_file_that_is_gone(image: Path, tmp_path: Path) -> None:
    top = tmp_path / "top.qcow2"
    qemu_img("create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", image, top)
    image.unlink()
    with pytest.raises(ConfigError, match=r"image\.qcow2"):
        disk_of(top, tmp_path)


def test_in_use(busy: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="in use by another process"):
        disk_of(busy, tmp_path)


def test_snapshots_leave_the_image_alone(image: Path, tmp_path: Path) -> None:
    before = hashlib.sha256(image.read_bytes()).digest()
    disk = disk_of(image, tmp_path)
    key = disk.key
    assert disk.snapshots() == []
    disk.snapshot("one")
    assert disk.path != image
    assert disk.key != key
    qemu_io(disk.path, "write -P 7 0 64k")
    disk.snapshot("two")
    assert disk.snapshots() == ["one", "two"]
    disk.apply("one")
    assert holds(disk.path, 1)
    disk.apply("two")
    assert holds(disk.path, 7)
    disk.delete("one")
    assert disk.snapshots() == ["two"]
    assert hashlib.sha256(image.read_bytes()).digest() == before


def test_snapshots_that_the_image_has(image: Path, tmp_path: Path) -> None:
    qemu_img("snapshot", "-c", "theirs", image)
    qemu_io(image, "write -P 9 0 64k")
    before = hashlib.sha256(image.read_bytes()).digest()
    disk = disk_of(image, tmp_path)
    assert disk.snapshots() == ["theirs"]
    disk.apply("theirs")
    assert holds(disk.path, 1)
    assert hashlib.sha256(image.read_bytes()).digest() == before


def test_what_was_made_for_a_disk_goes_with_it(image: Path, tmp_path: Path) -> None:
    disk = disk_of(image, tmp_path)
    disk.snapshot("one")
    work = disk.path
    assert work.exists()
    del disk
    assert not work.exists()


def test_no_such_snapshot(image: Path, tmp_path: Path) -> None:
    disk = disk_of(image, tmp_path)
    disk.snapshot("one")
    for verb in (disk.apply, disk.delete):
        with pytest.raises(ConfigError, match="no snapshot 'two'") as caught:
            verb("two")
        assert "it has one" in str(caught.value)


@pytest.mark.parametrize("name", ["", "-c", "a b", "a\nb", "x" * 129])
def test_names_that_qemu_would_misread(name: str, image: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot name a snapshot"):
        disk_of(image, tmp_path).snapshot(name)


def test_a_name_that_is_taken(image: Path, tmp_path: Path) -> None:
    disk = disk_of(image, tmp_path)
    disk.snapshot("one")
    with pytest.raises(ConfigError, match="has a snapshot 'one' already"):
        disk.snapshot("one")


def test_create(image: Path, tmp_path: Path) -> None:
    disk = disk_of(image, tmp_path)
    mine = disk.create(tmp_path / "mine.qcow2")
    assert mine.path == tmp_path / "mine.qcow2"
    qemu_io(mine.path, "write -P 5 0 64k")
    mine.snapshot("five")
    assert mine.path == tmp_path / "mine.qcow2"
    assert holds(image, 1)
    with pytest.raises(ConfigError, match="exists already"):
        disk.create(tmp_path / "mine.qcow2")


def test_create_a_larger_one(image: Path, tmp_path: Path) -> None:
    mine = disk_of(image, tmp_path).create(tmp_path / "mine.qcow2", size=64 << 20)
    assert '"virtual-size": 67108864' in qemu_img("info", "--output=json", mine.path)


def test_a_created_image_in_use(image: Path, tmp_path: Path) -> None:
    mine = disk_of(image, tmp_path).create(tmp_path / "mine.qcow2")
    mine.snapshot("one")
    with user_of(mine.path):
        for verb in (mine.snapshot, mine.apply, mine.delete):
            with pytest.raises(ConfigError, match="in use"):
                verb("one")
    mine.apply("one")


def test_a_machine_of_ours_on_the_image(image: Path, tmp_path: Path) -> None:
    """A machine's overlay holds it open for reading, which no lock of qemu-img tells."""
    disk = disk_of(image, tmp_path)
    overlay = tmp_path / "overlay.qcow2"
    qemu_img("create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", image, overlay)
    with user_of(overlay), pytest.raises(ConfigError, match=r"in use by qemu-io \(pid \d+\)"):
        disk.snapshot("one")
    disk.snapshot("one")


@contextlib.contextmanager
def user_of(path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A qemu-io that has the image open: it prompts once it does."""
    with subprocess.Popen(
        ["qemu-io", "-f", "qcow2", str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as user:
        assert user.stdin is not None
        assert user.stdout is not None
        assert user.stdout.read(8) == b"qemu-io>"
        yield user
        user.stdin.close()
        user.wait(10)
